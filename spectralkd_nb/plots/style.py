"""How figures look here, and what one is: a picture with the sentence that reads it."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

# Okabe & Ito's colours, told apart by every kind of colour vision. Never colour alone: markers and dashes go along.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
DPI = 100
WIDTH = 8.0  # inches, of a figure that fills the page


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure and its caption: the sentence that reads it, which is its alternative text too."""

    figure: Figure
    caption: str

    def png(self, colours: int | None = None) -> bytes:
        """The picture as the bytes of a PNG file.

        Args:
            colours: reduce the picture to this many colours, at most 256. It takes a second and makes the file a
                third as large, which is what a notebook under version control wants.
        """
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI)
        if colours is None:
            return drawn.getvalue()
        from PIL import Image

        packed = io.BytesIO()
        Image.open(drawn).convert("RGB").quantize(colours, kmeans=1).save(packed, format="png", optimize=True)
        return packed.getvalue()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        picture = {"image/png": base64.b64encode(self.png(colours=256)).decode(), "text/plain": "figure"}
        display(picture, raw=True, metadata={"image/png": {"alt": self.caption}})
        print(self.caption)


def use_style() -> None:
    """The course's figure style, for matplotlib and seaborn alike."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        rc={
            "figure.dpi": DPI,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
            "font.size": 10,
            "lines.linewidth": 1.6,
            "grid.alpha": 0.4,
        },
    )


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.2, **options):
    """A figure that no global state knows of, so that nothing shows it twice and nothing has to close it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def fixed_axis(figure: Figure, left: float, bottom: float, width: float, height: float):
    """At a fixed place, in inches: working a layout out takes longer than the drawing, and would move with a slider."""
    across, upwards = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / upwards, width / across, height / upwards))


def put_title(figure: Figure, text: str) -> None:
    """At the upper left corner of the whole figure."""
    figure.text(0.1 / WIDTH, 1 - 0.1 / figure.get_size_inches()[1], text, fontsize=10, va="top")


def cut(name: str, letters: int) -> str:
    """A name, or its beginning if it has more letters."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def show_map(axis, picture: Tensor) -> None:
    if picture.ndim == 3 and len(picture) == 3:
        axis.imshow(picture.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy())
        return
    grey = picture.reshape(picture.shape[-2:]).detach().cpu().float()
    low, high = torch.quantile(grey.flatten()[:: max(1, grey.numel() // 10**6)], torch.tensor([0.01, 0.99])).tolist()
    axis.imshow(grey.numpy(), cmap="gray", vmin=low, vmax=high)


def decades_around(power: Tensor) -> tuple[float, float]:
    """Whole decades around the powers, so that the axis of a slider's figure moves in steps and not at every state."""
    low, high = power[power > 0].log10().aminmax()
    return 10.0 ** math.floor(low - 0.2), 10.0 ** math.ceil(high + 0.2)
