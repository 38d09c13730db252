"""Labelled pictures to train with: two tasks that need no download, CIFAR-10 and -100, folders, .npz files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from spectralkd_nb.datasets.cifar import read_cifar
from spectralkd_nb.datasets.fields import field_patches
from spectralkd_nb.datasets.files import read_folder, read_npz
from spectralkd_nb.datasets.labelled import LabelledImages, Views, augment, draw_views
from spectralkd_nb.datasets.patches import photograph_patches
from spectralkd_nb.datasets.rotation import rotated

__all__ = ["LabelledImages", "Views", "augment", "draw_views", "open_dataset", "rotated"]


def open_dataset(name: str | Path, **options: Any) -> LabelledImages:
    """A data set by its name, or from a path. ::

        open_dataset("photographs")             patches of photographs that are installed already
        open_dataset("fields")                  patches of random fields, whose class is their law
        open_dataset("cifar100")                downloaded once; or "cifar10"
        open_dataset("pictures/", size=64)      a folder with a folder of pictures for each class
        open_dataset("mine.npz")                train_images, train_labels, test_images, test_labels, classes

    Args:
        name: one of these.
        options: of the reader, which says more: `patches.photograph_patches`, `fields.field_patches`,
            `cifar.read_cifar`, `files.read_folder`.

    Raises:
        ValueError, OSError: as the reader says, in a sentence.
        ConnectionError: CIFAR could not be fetched.
    """
    known = {
        "photographs": photograph_patches,
        "fields": field_patches,
        "cifar10": partial(read_cifar, 10),
        "cifar100": partial(read_cifar, 100),
    }
    if str(name) in known:
        return known[str(name)](**options)
    path = Path(name).expanduser()
    if path.suffix == ".npz":
        return read_npz(path, **options)
    if path.is_dir():
        return read_folder(path, **options)
    raise ValueError(f"there is no data set {str(name)!r}; name {', '.join(known)}, an .npz file or a folder")
