"""A second task from any square pictures, without a label of theirs: which way is up?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from spectralkd_nb.datasets.labelled import LabelledImages

TURNS = 4
UP = tuple(str(90 * turn) for turn in range(TURNS))  # degrees counter-clockwise


def rotated(data: LabelledImages) -> LabelledImages:
    """Every image as it is and turned by 90, 180 and 270 degrees; what is asked is by how much it was turned.

    The task of Gidaris et al. (2018, arXiv 1803.07728): who tells the turn must see what stands or lies in a picture.

    Args:
        data: of square images, whose own labels play no part.

    Returns:
        four times as many images, first all as they are and last all turned by 270 degrees, in channels-last memory.
        Labels are numbers of quarter turns, classes degrees counter-clockwise. The turned copies of an image, and of
        those that share pixels with it, are one group. None may be mirrored: that makes 90 degrees out of 270.

    Raises:
        ValueError: the images are not square.
    """
    for images in (data.train_images, data.test_images):
        height, width = images.shape[-2:]
        if height != width:
            raise ValueError(
                f"the images of {data.name} have {height} x {width} pixels, and a quarter turn makes them "
                f"{width} x {height}; give square ones"
            )
    groups = torch.arange(len(data.train_labels)) if data.groups is None else data.groups
    return replace(
        data,
        name=f"{data.name}, rotated",
        train_images=_turned(data.train_images),
        train_labels=_turns(data.train_labels),
        test_images=_turned(data.test_images),
        test_labels=_turns(data.test_labels),
        classes=UP,
        verified=f"{data.verified}; turned by quarter turns",
        flip=False,
        groups=groups.repeat(TURNS),
        similarity=None,
    )


def _turned(images: Tensor) -> Tensor:
    """(4 N, 3, H, H). Rows count downwards, so that torch turns counter-clockwise as a picture is looked at."""
    copies = torch.cat([images.rot90(turn, (2, 3)) for turn in range(TURNS)])
    return copies.contiguous(memory_format=torch.channels_last)


def _turns(labels: Tensor) -> Tensor:
    """(4 N,) int64."""
    return torch.arange(TURNS, device=labels.device).repeat_interleave(len(labels))
