"""A classification task held in memory as bytes, and augmentation in batch on the device that trains."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LabelledImages:
    """A classification task, whole and in memory.

    Attributes:
        name: of the data set, one word.
        train_images, test_images: (N, 3, H, W) uint8, in channels-last memory.
        train_labels, test_labels: (N,) int64, positions in `classes`.
        classes: names of the classes.
        verified: what is known of the data's origin, in a sentence.
        pad: pixels of zeros around a training image before a random crop of its own size; 0 for no shift.
        flip: whether training images may be mirrored left to right.
        groups: (N,) int64, one number for all training images that share pixels; None if none do.
        similarity: (classes, classes), which classes are alike by the way they were made; None if nobody knows.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    verified: str = "unverified"
    pad: int = 4
    flip: bool = True
    groups: Tensor | None = None
    similarity: Tensor | None = None

    @cached_property
    def mean(self) -> Tensor:
        """(3,) mean of each colour over the training images, 0..1."""
        return torch.stack([self._channel(c).double().mean() for c in range(3)]).float() / 255

    @cached_property
    def std(self) -> Tensor:
        """(3,) standard deviation of each colour over the training images, 0..1."""
        return torch.stack([self._channel(c).double().std(correction=0) for c in range(3)]).float() / 255

    def _channel(self, c: int) -> Tensor:
        return self.train_images[:, c].cpu()  # not every accelerator has float64

    def normalise(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of 0..255 to float32 with mean 0 and variance 1 of each colour over the training set."""
        scale = 1 / (255 * self.std.to(images.device))
        shift = -self.mean.to(images.device) / self.std.to(images.device)
        return images.float() * scale[:, None, None] + shift[:, None, None]

    def to(self, device: torch.device | str) -> LabelledImages:
        """The same data on another device, all of it at once."""
        tensors = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def held_out(self, every: int) -> LabelledImages:
        """The training images alone, about one in `every` of each class held out as test images.

        For choices, such as weights of losses, that must not be made on the test images. Those are not in it. Images
        that share pixels, `groups`, are held out together: else the choice would fall on what memorises best.

        Raises:
            ValueError: `every` is below 2, or nothing would be held out.
        """
        held = self.which_held_out(every)
        train, test = (
            self.train_images[which].contiguous(memory_format=torch.channels_last) for which in (~held, held)
        )
        labels = {"train_labels": self.train_labels[~held], "test_labels": self.train_labels[held]}
        kept = None if self.groups is None else self.groups[~held]
        name = f"{self.name}, 1 in {every} held out"
        return replace(self, name=name, train_images=train, test_images=test, groups=kept, **labels)

    def which_held_out(self, every: int) -> Tensor:
        """(N,) bool on the CPU, the training images that `held_out` holds out.

        Args:
            every: as there.

        Raises:
            ValueError: as there.
        """
        if every < 2:
            raise ValueError(f"every={every} would leave nothing to train with; give 2 or more")
        groups = torch.arange(len(self.train_labels)) if self.groups is None else self.groups
        held = torch.zeros(len(groups), dtype=torch.bool)
        for label in self.train_labels.unique():
            own = groups[self.train_labels.cpu() == label.cpu()].unique()
            held |= torch.isin(groups, own[every - 1 :: every])
        if not held.any():
            raise ValueError(f"no class has {every} training images, so none would be held out")
        return held

    @cached_property
    def fingerprint(self) -> str:
        """Hash of pixels and labels that does not depend on the order of the images, 16 hexadecimal digits."""
        parts = (self.train_images, self.train_labels), (self.test_images, self.test_labels)
        return hashlib.sha256("".join(order_free_hash(*part) for part in parts).encode()).hexdigest()[:16]


def order_free_hash(images: Tensor, labels: Tensor) -> str:
    """SHA-256 of the sorted SHA-256 of each image's pixels (rows, columns, colours) and label."""
    rows = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    each = sorted(
        hashlib.sha256(image.tobytes() + int(label).to_bytes(4, "little")).digest()
        for image, label in zip(rows, labels.tolist(), strict=True)
    )
    return hashlib.sha256(b"".join(each)).hexdigest()


# --- augmentation --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """How each image of an epoch is shifted and mirrored: a table drawn once, so that a run can go on from any batch.

    Attributes:
        order: (N,) int64, which image comes when.
        top, left: (N,) int64, corner of the crop in the padded image, pixels.
        mirrored: (N,) bool, whether left and right are exchanged.
    """

    order: Tensor
    top: Tensor
    left: Tensor
    mirrored: Tensor

    def to(self, device: torch.device | str) -> Views:
        """The same table on another device."""
        return Views(*(t.to(device) for t in (self.order, self.top, self.left, self.mirrored)))

    def batch(self, start: int, size: int) -> Views:
        """The rows from `start` on, at most `size` of them."""
        return self.part(slice(start, start + size))

    def part(self, part: slice) -> Views:
        """The rows of a part, a slice."""
        return Views(self.order[part], self.top[part], self.left[part], self.mirrored[part])


def draw_views(count: int, pad: int, flip: bool, generator: torch.Generator) -> Views:
    """A random order of `count` images, with a shift of up to `pad` pixels and a coin for mirroring each.

    Args:
        count: of images.
        pad: as in `augment`.
        flip: whether the coin is thrown; else none is mirrored.
        generator: CPU generator.
    """
    return Views(
        order=torch.randperm(count, generator=generator),
        top=torch.randint(2 * pad + 1, (count,), generator=generator),
        left=torch.randint(2 * pad + 1, (count,), generator=generator),
        mirrored=torch.rand(count, generator=generator) < (0.5 if flip else 0.0),
    )


def augment(images: Tensor, views: Views, pad: int) -> Tensor:
    """Shifted and mirrored copies of a batch, made in one gather on the batch's device.

    Args:
        images: (B, 3, H, W), any dtype.
        views: one row an image; its `order` is not used.
        pad: pixels of zeros.

    Returns:
        (B, 3, H, W) in channels-last memory.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    columns = torch.where(views.mirrored[:, None], width - 1 - columns, columns) + views.left[:, None]
    rows = torch.arange(height, device=images.device) + views.top[:, None]
    batch = torch.arange(len(images), device=images.device)
    return padded[batch[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def as_images(pixels: np.ndarray | Sequence) -> Tensor:
    """(N, H, W, 3) bytes to (N, 3, H, W) uint8 in channels-last memory."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
