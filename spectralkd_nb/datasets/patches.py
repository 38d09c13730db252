"""A task that needs no download: from which photograph is this patch?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.datasets.labelled import LabelledImages
from spectralkd_nb.pictures import Picture, photographs

MARGIN = 4  # pixels by which a tile is larger than a patch
TEST_TILES = 4  # one tile in so many is for testing
LEAST_CONTRAST = 2 / 255  # standard deviation of a patch; flatter ones, such as a black sky, look alike everywhere
MOST_TILES = 10**6  # of one photograph, so that numbers of tiles do not meet
CONTRAST = 0.2  # standard deviation that every patch is brought to, of values 0..1


def photograph_patches(size: int = 32, train: int = 100, test: int = 150, seed: int = 0) -> LabelledImages:
    """Patches of the 14 photographs inside scikit-image's wheel; the class is the photograph that a patch was cut from.

    Each photograph is divided into square tiles, a few pixels larger than a patch. A quarter of the tiles, drawn by the
    seed, is for testing. Every patch lies inside one tile, so that no pixel is both trained on and tested with. Patches
    are brought to nearly the same brightness and contrast (values outside 0..1 are clipped): what is left to learn is
    texture, edges and colour casts.

    Args:
        size: pixels a side.
        train, test: patches of each photograph.
        seed: of the division and of the draw.

    Raises:
        ValueError: a photograph has too few places for so many patches.
    """
    pictures = {
        name: picture for kind in ("scene", "texture", "unusual") for name, picture in photographs(kind).items()
    }
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {"train": [], "test": []}
    tiles: list[Tensor] = []
    for number, picture in enumerate(pictures.values()):
        places = _places(picture, size, generator)
        for part, count in (("train", train), ("test", test)):
            corners = _drawn(picture, places[part], count, size, generator)
            parts[part].append(_patches(picture, corners, size))
            if part == "train":
                tiles.append(_tile_of(*corners.T, picture, size) + number * MOST_TILES)

    def together(part: str, count: int) -> tuple[Tensor, Tensor]:
        images = torch.cat(parts[part]).contiguous(memory_format=torch.channels_last)
        return images, torch.arange(len(pictures)).repeat_interleave(count)

    return LabelledImages(
        "photographs",
        *together("train", train),
        *together("test", test),
        tuple(pictures),
        "cut from the photographs that scikit-image ships",
        groups=torch.cat(tiles),
    )


def _places(picture: Picture, size: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Corners (n, 2) of all patches that lie inside one tile and have something on them, for training and testing."""
    rows, columns = _tiles(picture, size)
    order = torch.randperm(rows * columns, generator=generator)
    is_test = torch.zeros(rows * columns, dtype=torch.bool)
    is_test[order[: max(1, rows * columns // TEST_TILES)]] = True

    tile = size + MARGIN
    shown = _contrast(picture, size) >= LEAST_CONTRAST
    top, left = torch.meshgrid(*(torch.arange(n) for n in shown.shape), indexing="ij")
    inside = (top % tile <= MARGIN) & (left % tile <= MARGIN) & (top // tile < rows) & (left // tile < columns)
    tested = is_test[_tile_of(top, left, picture, size)]
    return {part: torch.nonzero(inside & shown & (tested == (part == "test"))) for part in ("train", "test")}


def _tiles(picture: Picture, size: int) -> tuple[int, int]:
    """Rows and columns of whole tiles in a picture."""
    return tuple(side // (size + MARGIN) for side in picture.size)


def _tile_of(top: Tensor, left: Tensor, picture: Picture, size: int) -> Tensor:
    """The number of the tile that each corner lies in; beyond the last whole one, of that."""
    rows, columns = _tiles(picture, size)
    tile = size + MARGIN
    return (top // tile).clamp(max=rows - 1) * columns + (left // tile).clamp(max=columns - 1)


def _contrast(picture: Picture, size: int) -> Tensor:
    """Standard deviation over pixels and colours of the patch at each corner, (H - size + 1, W - size + 1)."""
    values = picture.display.double()
    mean = F.avg_pool2d(values.mean(0)[None], size, stride=1)[0]
    square = F.avg_pool2d(values.square().mean(0)[None], size, stride=1)[0]
    return (square - mean.square()).clamp(min=0).sqrt()


def _drawn(picture: Picture, places: Tensor, count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, 2) corners, each place at most once."""
    if len(places) < count:
        raise ValueError(
            f"{picture.name} has {len(places)} places for patches of {size} pixels, and {count} are wanted"
        )
    return places[torch.randperm(len(places), generator=generator)[:count]]


def _patches(picture: Picture, corners: Tensor, size: int) -> Tensor:
    """(count, 3, size, size) uint8, of equal brightness and contrast."""
    cut = torch.stack([picture.display[:, top : top + size, left : left + size] for top, left in corners.tolist()])
    mean, std = cut.mean((1, 2, 3), keepdim=True), cut.std((1, 2, 3), keepdim=True)
    equal = ((cut - mean) / std * CONTRAST + 0.5).clamp(0, 1)
    return (equal * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
