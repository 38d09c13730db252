"""Labelled pictures from a person's own disk: an .npz file, or a folder with a folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.datasets.labelled import LabelledImages, as_images
from spectralkd_nb.pictures import SUFFIXES, open_picture

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels", "classes")
TEST_SHARE = 0.2  # of a folder that is not divided into train and test


def read_npz(path: str | Path) -> LabelledImages:
    """A data set from one .npz file of train_images, train_labels, test_images, test_labels and classes.

    Args:
        path: of a file whose images are (N, H, W, 3) uint8, its labels (N,) integers, its classes (C,) strings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing, is not of its form, or would have to be unpickled, which could execute what is
            in the file.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; give the path of an .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in ARRAYS if name not in file]
            arrays = {name: file[name] for name in ARRAYS if name in file}
    except MemoryError:
        raise
    except Exception as error:  # zipfile and numpy have no class of their own for what they cannot read
        raise ValueError(f"{path} cannot be read as an .npz file of plain arrays ({error})") from None
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it must hold {', '.join(ARRAYS)}")
    classes = tuple(map(str, arrays["classes"].tolist()))
    for part in ("train", "test"):
        _require_form(path, part, arrays[f"{part}_images"], arrays[f"{part}_labels"], len(classes))
    return LabelledImages(
        path.stem,
        as_images(arrays["train_images"]),
        torch.from_numpy(arrays["train_labels"].astype(np.int64)),
        as_images(arrays["test_images"]),
        torch.from_numpy(arrays["test_labels"].astype(np.int64)),
        classes,
        "unverified: a file of your own",
    )


def _require_form(path: Path, part: str, images: np.ndarray, labels: np.ndarray, classes: int) -> None:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(f"{path}: {part}_images are {images.dtype} {images.shape}, and uint8 (N, H, W, 3) is wanted")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: {part}_labels are {labels.dtype} {labels.shape} for {len(images)} images")
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(
            f"{path}: {part}_labels run from {labels.min()} to {labels.max()}, and there are {classes} classes"
        )


def read_folder(folder: str | Path, size: int = 32, seed: int = 0) -> LabelledImages:
    """A data set from a folder: FOLDER/train/CLASS/... and FOLDER/test/CLASS/..., or FOLDER/CLASS/... alone.

    Pictures are made `size` pixels on their shorter side and cut to a square in the middle. Without train and
    test folders, every fifth picture of a class (drawn by the seed) is for testing.

    Args:
        folder: of the data set.
        size: pixels a side.
        seed: of the division.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: fewer than two classes, or a class without pictures.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give the path of a folder with a folder for each class")
    divided = (folder / "train").is_dir() and (folder / "test").is_dir()
    if not divided and (folder / "train").is_dir():
        raise ValueError(f"{folder} holds train but no test; rename the folder to test with (val?) to test")
    classes = _classes(folder / "train" if divided else folder)
    if divided and (strange := set(_classes(folder / "test")) - set(classes)):
        raise ValueError(f"{folder}/test has classes that train has not: {', '.join(sorted(strange))}")
    train: list[tuple[Tensor, int]] = []
    test: list[tuple[Tensor, int]] = []
    generator = torch.Generator().manual_seed(seed)
    for label, name in enumerate(classes):
        if divided:
            train += [(image, label) for image in _pictures(folder / "train" / name, size)]
            test += [(image, label) for image in _pictures(folder / "test" / name, size)]
            continue
        images = _pictures(folder / name, size)
        if len(images) < 2:
            raise ValueError(f"{folder / name} holds a single picture; one to train and one to test with are needed")
        order = torch.randperm(len(images), generator=generator).tolist()
        held_out = max(1, round(TEST_SHARE * len(images)))
        test += [(images[i], label) for i in order[:held_out]]
        train += [(images[i], label) for i in order[held_out:]]
    if not (train and test):
        raise ValueError(f"{folder} holds too few pictures: {len(train)} to train and {len(test)} to test with")
    return LabelledImages(folder.name, *_stacked(train), *_stacked(test), classes, "unverified: a folder of your own")


def _classes(folder: Path) -> tuple[str, ...]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{folder} holds {len(names)} folders; one for each of two or more classes is wanted")
    return tuple(names)


def _pictures(folder: Path, size: int) -> list[Tensor]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise ValueError(f"{folder} holds no pictures; files ending in {', '.join(SUFFIXES)} are looked for")
    return [_square(open_picture(path).display, size) for path in paths]


def _square(image: Tensor, size: int) -> Tensor:
    """(1 or 3, H, W) of 0..1 to (3, size, size) uint8: the middle of the picture."""
    height, width = image.shape[-2:]
    scale = size / min(height, width)
    wanted = max(size, round(height * scale)), max(size, round(width * scale))
    scaled = F.interpolate(image[None], wanted, mode="bilinear", antialias=True)[0]
    top, left = (wanted[0] - size) // 2, (wanted[1] - size) // 2
    square = scaled[:, top : top + size, left : left + size].expand(3, -1, -1)
    return (square * 255).round().clamp(0, 255).to(torch.uint8)


def _stacked(examples: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([image for image, _ in examples]).contiguous(memory_format=torch.channels_last)
    return images, torch.tensor([label for _, label in examples])
