"""CIFAR-10 and CIFAR-100: from the cache, from files that a person put there, or from the network.

One folder serves all lessons. What comes over the network lies there under the same names under which a person
may put it there by hand, so there is one way to read either. The decoded images are kept as one .npz file.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor

from spectralkd_nb.datasets.files import read_npz
from spectralkd_nb.datasets.labelled import LabelledImages, as_images, order_free_hash
from spectralkd_nb.storage import locked, whole_file

HUB = "https://huggingface.co/datasets/{repo}/resolve/main/{path}"
ORIGINAL = "https://www.cs.toronto.edu/~kriz/{archive}"
TIMEOUT = 20  # seconds without a byte
CHUNK = 2**18  # bytes
PATIENCE = 0.2  # seconds to wait for another lesson's download without a word

ARCHIVE = "the original archive with its published md5"
UNVERIFIED = "unverified: no hash of CIFAR-10's pixels was known when this was written"
# order_free_hash of the training and of the test images.
HASHES = {
    "cifar100": (
        "cf6dacb0bb34fd9e10971285ad0956e2f4b422538afcfc794dd54b33bb569c08",
        "d4c66ddcf31248be4a79decce44fbde41ecc0e674287c0497f659f3387c6dcc9",
    ),
}

CIFAR10_CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
CIFAR100_CLASSES = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail
snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
tulip turtle wardrobe whale willow_tree wolf woman worm
"""
# Krizhevsky's twenty superclasses of five classes (2009, Learning Multiple Layers of Features from Tiny Images).
SUPERCLASSES = {
    name: group
    for group, names in {
        "aquatic mammals": "beaver dolphin otter seal whale",
        "fish": "aquarium_fish flatfish ray shark trout",
        "flowers": "orchid poppy rose sunflower tulip",
        "food containers": "bottle bowl can cup plate",
        "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
        "household electrical devices": "clock keyboard lamp telephone television",
        "household furniture": "bed chair couch table wardrobe",
        "insects": "bee beetle butterfly caterpillar cockroach",
        "large carnivores": "bear leopard lion tiger wolf",
        "large man-made outdoor things": "bridge castle house road skyscraper",
        "large natural outdoor scenes": "cloud forest mountain plain sea",
        "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
        "medium-sized mammals": "fox porcupine possum raccoon skunk",
        "non-insect invertebrates": "crab lobster snail spider worm",
        "people": "baby boy girl man woman",
        "reptiles": "crocodile dinosaur lizard snake turtle",
        "small mammals": "hamster mouse rabbit shrew squirrel",
        "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
        "vehicles 1": "bicycle bus motorcycle pickup_truck train",
        "vehicles 2": "lawn_mower rocket streetcar tank tractor",
    }.items()
    for name in names.split()
}

_NETWORK = (OSError, HTTPException)  # URLError and time-outs are OSErrors
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR}


@dataclass(frozen=True)
class _Task:
    """Where one of the two data sets is found.

    Attributes:
        name, title: of the cached file, and for people.
        repo, parquet, column: on the Hugging Face hub; its files of training and test images, its column of labels.
        archive, original: file name of the original, and the class of torchvision that reads it.
    """

    name: str
    title: str
    repo: str
    parquet: tuple[str, str]
    column: str
    archive: str
    original: str
    classes: tuple[str, ...]

    def sources(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """The files that hold all of the data: those of the original, and those of the hub."""
        return [folder / self.archive], [folder / path for path in self.parquet]


_TASKS = {
    10: _Task(
        name="cifar10",
        title="CIFAR-10",
        repo="uoft-cs/cifar10",
        parquet=("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
        column="label",
        archive="cifar-10-python.tar.gz",
        original="CIFAR10",
        classes=tuple(CIFAR10_CLASSES.split()),
    ),
    100: _Task(
        name="cifar100",
        title="CIFAR-100",
        repo="uoft-cs/cifar100",
        parquet=("cifar100/train-00000-of-00001.parquet", "cifar100/test-00000-of-00001.parquet"),
        column="fine_label",
        archive="cifar-100-python.tar.gz",
        original="CIFAR100",
        classes=tuple(CIFAR100_CLASSES.split()),
    ),
}


def read_cifar(
    classes: int = 10, folder: str | Path | None = None, offline: bool = False, progress: bool = True
) -> LabelledImages:
    """CIFAR-10 or CIFAR-100, from the cache or, the first time, from the network (about 150 MB).

    Looked for in this order: the decoded images in the folder; the original archive or the hub's two Parquet files,
    put into the folder by hand; those Parquet files on the Hugging Face hub; the original archive at its own
    address. The original comes second because its host has served about 55 kB/s since June 2026, which makes an
    hour a download. A download that breaks off goes on from there, in this call or in the next.

    Args:
        classes: 10 or 100.
        folder: the cache; otherwise the environment variable SPECTRALKD_DATA, otherwise ~/.cache/spectralkd_nb.
        offline: use only what is in the folder.
        progress: show a bar for each download.

    Returns:
        The data. CIFAR-100 is held to the hash of its pixels and labels; `verified` says what is known of CIFAR-10.

    Raises:
        ConnectionError: nothing in the folder and no source answers; the sentence names the ways out.
        ValueError: a file in the folder is not what its name says.
        OSError: the folder cannot be written.
    """
    if classes not in (10, 100):
        raise ValueError(f"classes={classes!r} is not known; choose 10 for CIFAR-10 or 100 for CIFAR-100")
    task = _TASKS[classes]
    folder = _cache_folder(folder)
    cached = folder / f"{task.name}.npz"
    failures = []
    if cached.exists():
        try:
            data, origin = _load(task, cached)
        except Exception as error:  # where the damage is decides between a dozen, tokenize's among them
            failures.append(f"{cached} is damaged ({error})")
        else:
            return replace(data, verified=_verify(task, data, origin, [cached]))
    with _disk_errors_in_words(folder):
        files = _find(task, folder)
        if not files and not offline:
            files = _fetched(task, folder, progress, failures)
        if not files:
            raise ConnectionError(_ways_out(task, folder, offline, failures))
        return _decode(task, files, cached)


def _cache_folder(folder: str | Path | None) -> Path:
    if folder or os.environ.get("SPECTRALKD_DATA"):
        return Path(folder or os.environ["SPECTRALKD_DATA"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spectralkd_nb"


def _find(task: _Task, folder: Path) -> list[Path]:
    """The files of the first source that is complete in the folder, or none."""
    return next((files for files in task.sources(folder) if all(file.exists() for file in files)), [])


def _ways_out(task: _Task, folder: Path, offline: bool, failures: list[str]) -> str:
    tried = "; ".join([*failures, "offline=True, so the network was not tried"] if offline else failures)
    return (
        f"there is no {task.title} in {folder}, nor could it be fetched: {tried}. Put {' and '.join(task.parquet)} "
        f"(from huggingface.co/datasets/{task.repo}) or {task.archive} into {folder}, use a data set that needs no "
        f'download, open_dataset("photographs"), or make an .npz file of images of your own'
    )


@contextmanager
def _disk_errors_in_words(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise OSError(
            f"{folder} cannot be written ({error.strerror}), and what was there is kept; make room, or name another "
            "folder with folder= or in the environment variable SPECTRALKD_DATA"
        ) from error


# --- the network ---------------------------------------------------------------------------------


def _fetched(task: _Task, folder: Path, progress: bool, failures: list[str]) -> list[Path]:
    """The files of a source, by one lesson's download however many ask; or none, as `failures` then says."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{task.name}.lock"
    with _alone(lock, f"another lesson is fetching {task.title} into {folder}; this one waits for it", progress):
        if not _find(task, folder):
            _download_any(task, folder, progress, failures)
        files = _find(task, folder)
        if files:  # who waits for this lock finds them too, so that it may go
            with suppress(OSError):
                lock.unlink(missing_ok=True)
        return files


@contextmanager
def _alone(lock: Path, told: str, progress: bool) -> Iterator[None]:
    """Two downloads at once would write into one .part file."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, PATIENCE))
        except BlockingIOError:
            if progress:
                print(told, flush=True)
            stack.enter_context(locked(lock))
        yield


def _download_any(task: _Task, folder: Path, progress: bool, failures: list[str]) -> None:
    """The files of the first source that answers; why the others did not is added to `failures`."""
    (archive,), parquet = task.sources(folder)
    on_hub = [HUB.format(repo=task.repo, path=path) for path in task.parquet]
    for addresses, paths in ((on_hub, parquet), ([ORIGINAL.format(archive=task.archive)], [archive])):
        try:
            for address, path in zip(addresses, paths, strict=True):
                if not path.exists():
                    _download(address, path, progress)
        except _NETWORK as error:
            if getattr(error, "errno", None) in _DISK:
                raise
            failures.append(f"{address} failed ({error})")
        else:
            return


def _download(address: str, path: Path, progress: bool) -> None:
    """Fetch a file into `path`; until it is whole, it lies beside it as .part."""
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = False
    while not whole:
        before = _size(part)
        try:
            _fetch_the_rest(address, part, progress)
            whole = True
        except _NETWORK as error:
            # A connection that breaks now and then still arrives: give up only when a try has added nothing.
            if getattr(error, "errno", None) in _DISK or _size(part) <= before:
                raise
    part.replace(path)


def _fetch_the_rest(address: str, part: Path, progress: bool) -> None:
    from tqdm.auto import tqdm

    have = _size(part)
    try:
        response = _ask(address, have)
    except HTTPError as error:
        if error.code != 416:  # there is nothing from there on: what we have is not of this file
            raise
        have = 0
        response = _ask(address, have)
    with response:
        resumed = response.status == 206  # otherwise the server sends all of it, whatever we asked for
        have = have if resumed else 0
        total = _announced(response, resumed)
        bar = tqdm(
            total=total,
            initial=have,
            unit="B",
            unit_scale=True,
            desc=part.name.removesuffix(".part"),
            disable=not progress,
        )
        with part.open("ab" if resumed else "wb") as file, bar:
            while chunk := response.read1(CHUNK):  # what is there; read() would lose it if the rest does not come
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(part) != total:
        raise ConnectionError(f"it ended with {_size(part)} of {total} bytes")


def _ask(address: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": "spectralkd_nb"}
    if start:
        headers["Range"] = f"bytes={start}-"
    return urlopen(Request(address, headers=headers), timeout=TIMEOUT)


def _announced(response: HTTPResponse, resumed: bool) -> int | None:
    """Length of the whole file in bytes, if the server says it."""
    length = response.headers.get("Content-Range", "").rpartition("/")[2] if resumed else None
    length = length or response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


# --- files ---------------------------------------------------------------------------------------


def _load(task: _Task, cached: Path) -> tuple[LabelledImages, str]:
    """The decoded data and where it is from."""
    data = read_npz(cached)
    if not _has_the_form(task, data):
        raise ValueError(f"it holds other things than images of 32 x 32 pixels with {task.title}'s labels")
    with np.load(cached, allow_pickle=False) as arrays:
        return data, str(arrays["origin"]) if "origin" in arrays else "an .npz file"


def _decode(task: _Task, files: list[Path], cached: Path) -> LabelledImages:
    """Read the files of one source, check what is in them, and keep it for the next lesson."""
    if files[0].name == task.archive:
        parts, origin = _read_archive(task, files[0])
    else:
        parts, origin = [_read_parquet(task, file) for file in files], f"the Parquet files of {task.repo}"
    (train_images, train_labels), (test_images, test_labels) = parts
    data = LabelledImages(
        name=task.name,
        train_images=as_images(train_images),
        train_labels=torch.from_numpy(train_labels),
        test_images=as_images(test_images),
        test_labels=torch.from_numpy(test_labels),
        classes=task.classes,
    )
    if not _has_the_form(task, data):
        raise ValueError(
            f"{_together(files)} hold other things than images of 32 x 32 pixels with {task.title}'s labels; "
            "delete what is wrong and call read_cifar again"
        )
    data = replace(data, verified=_verify(task, data, origin, files))
    with whole_file(cached) as file:
        np.savez(
            file,
            train_images=train_images,
            train_labels=train_labels,
            test_images=test_images,
            test_labels=test_labels,
            classes=np.array(task.classes),
            origin=np.array(origin),
        )
    return data


def _read_parquet(task: _Task, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) uint8 and labels (N,) int64 of one file of the hub."""
    from PIL import Image
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(columns=["img", task.column])
        labels = np.array(table[task.column].to_pylist(), dtype=np.int64)
        rows = table["img"].to_pylist()
        images = np.stack([np.asarray(Image.open(BytesIO(row["bytes"])).convert("RGB")) for row in rows])
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, RuntimeError) as error:  # pyarrow's and Pillow's
        raise ValueError(
            f"{path} cannot be read as a Parquet file of {task.title} ({error}); delete it and call read_cifar again"
        ) from None
    return images, labels


def _read_archive(task: _Task, path: Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Training and test images and labels as `_read_parquet` gives them, and the origin."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, extract_archive

    original = getattr(datasets, task.original)
    if not check_integrity(path, original.tgz_md5):
        raise ValueError(
            f"{path} is not the original archive or only a part of it: its md5 is not {original.tgz_md5}; "
            "delete it and call read_cifar again"
        )
    with TemporaryDirectory(dir=path.parent, prefix="unpacked-") as unpacked:
        extract_archive(path, unpacked)
        # torchvision unpickles the batches, which can execute what is in them: hence the md5 before, of the archive,
        # and torchvision's own of each batch.
        parts = [original(root=unpacked, train=train) for train in (True, False)]
    arrays = [(np.ascontiguousarray(part.data), np.array(part.targets, dtype=np.int64)) for part in parts]
    return arrays, f"{ARCHIVE} {original.tgz_md5}"


def _has_the_form(task: _Task, data: LabelledImages) -> bool:
    """Whether these are images of 32 x 32 pixels in colour, each with a label of the task's; of any number."""

    def fit(images: Tensor, labels: Tensor) -> bool:
        in_range = bool(((labels >= 0) & (labels < len(task.classes))).all())
        return images.dtype == torch.uint8 and images.shape == (len(labels), 3, 32, 32) and in_range

    parts = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    return data.classes == task.classes and all(fit(*part) for part in parts)


def _verify(task: _Task, data: LabelledImages, origin: str, files: list[Path]) -> str:
    """What is known of the data's origin, in a sentence."""
    if task.name not in HASHES:
        return f"it came from {origin}" if origin.startswith(ARCHIVE) else UNVERIFIED
    parts = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    if tuple(order_free_hash(*part) for part in parts) != HASHES[task.name]:
        names = _together(files)
        raise ValueError(
            f"what {names} holds is not {task.title}: the hash of its pixels and labels is another; "
            f"delete {names} and call read_cifar again"
        )
    return f"the pixels and labels are those of {task.title} (order-free SHA-256)"


def _together(files: list[Path]) -> str:
    return " and ".join(map(str, files))
