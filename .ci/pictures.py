"""Draws the README's picture and animation into notebooks/pictures: python .ci/pictures.py [FOLDER]

They are the figures of lessons 1 and 2, by the calls that the lessons make.
"""

import io
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

from spectralkd_nb import pictures, plots
from spectralkd_nb.activations import activation_maps, activation_spectra
from spectralkd_nb.networks import build

ROOT = Path(__file__).resolve().parent.parent
NETWORK, PHOTOGRAPH = "wrn-16-2", "astronaut"
LAYERS = ("conv1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1")
MILLISECONDS, TIMES = 1400, 3  # a frame; and how often all are shown: what moves without end is hard to read beside


def law() -> bytes:
    """A photograph, its power, and the line that the power follows, as PNG."""
    figure = plots.from_picture_to_law(pictures.photographs()["coins"].grey(), "coins", "periodic")
    return figure.png(colours=256)


def layers() -> bytes:
    """What layer after layer of a trained network makes of one photograph, and its spectrum, as an animated GIF."""
    crops = pictures.photograph_crops(128, each=4)
    network = build(NETWORK, pretrained="cifar100")
    images = network.info.normalise(crops)
    spectra = activation_spectra(network, images, list(LAYERS), progress=False)
    place = 4 * list(pictures.photographs()).index(PHOTOGRAPH)
    frames = []
    for path in LAYERS:
        maps = activation_maps(network, images[place : place + 1], path)[0]
        drawn = plots.layer(maps, spectra.exponent(path), f"{NETWORK}, {spectra.layer(path).label}, {PHOTOGRAPH}")
        frames.append(
            Image.open(io.BytesIO(drawn.png())).convert("RGB").quantize(64, kmeans=1, dither=Image.Dither.NONE)
        )
        plt.close(drawn.figure)
    file = io.BytesIO()
    first, *rest = frames
    first.save(
        file, "GIF", save_all=True, append_images=rest, duration=MILLISECONDS, loop=TIMES - 1, optimize=True
    )  # fmt: skip
    return file.getvalue()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "notebooks" / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    plots.use_style()
    for name, draw in {"law.png": law, "layers.gif": layers}.items():
        (folder / name).write_bytes(draw())
        print(f"{folder / name}: {(folder / name).stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
