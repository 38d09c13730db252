"""CIFAR from the cache, from files put there by hand, from a hub and an archive on this machine, and their failures."""

import errno
import hashlib
import io
import os
import pickle
import re
import tarfile
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import tqdm.auto
from PIL import Image
from pyarrow import parquet
from torchvision import datasets

from spectralkd_nb.datasets import cifar
from spectralkd_nb.datasets.cifar import read_cifar
from spectralkd_nb.datasets.labelled import as_images, order_free_hash
from spectralkd_nb.storage import locked

TRAIN, TEST = cifar._TASKS[10].parquet
COUNTS = {"train": 30, "test": 20}


def made_up(split: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([classes, COUNTS[split]])
    return rng.integers(0, 256, (COUNTS[split], 32, 32, 3), dtype=np.uint8), rng.integers(0, classes, COUNTS[split])


# --- the two sources, small ----------------------------------------------------------------------


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def as_parquet(images: np.ndarray, labels: np.ndarray, column: str = "label") -> bytes:
    """A file of the hub's form, in several row groups as the hub's are."""
    rows = [{"bytes": png(image), "path": None} for image in images]
    struct = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {"img": pyarrow.array(rows, struct), column: pyarrow.array(labels, pyarrow.int64())}
    if column == "fine_label":
        columns["coarse_label"] = pyarrow.array(np.zeros_like(labels), pyarrow.int64())
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file, row_group_size=8)
    return file.getvalue()


def hub_files(classes: int = 10) -> dict[str, bytes]:
    """The hub's two files by their names."""
    task = cifar._TASKS[classes]
    return {
        path: as_parquet(*made_up(split, classes), task.column)
        for path, split in zip(task.parquet, ("train", "test"), strict=True)
    }


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def archive(monkeypatch) -> bytes:
    """An archive in the layout of CIFAR-10's original, whose sums torchvision takes for the published ones."""
    batches = {"batches.meta": {"label_names": cifar.CIFAR10_CLASSES.split()}}
    for split, name in (("train", "data_batch_1"), ("test", "test_batch")):
        images, labels = made_up(split, 10)
        batches[name] = {"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1), "labels": labels.tolist()}
    files = {name: pickle.dumps(content) for name, content in batches.items()}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    sums = {name: md5(content) for name, content in files.items()}
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(packed.getvalue()))
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [["data_batch_1", sums["data_batch_1"]]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return packed.getvalue()


# --- a hub on this machine -----------------------------------------------------------------------


@dataclass
class Hub:
    """What the server has and how it behaves.

    Attributes:
        files: by path. ranges: whether it knows Range. too_long: bytes that it announces and does not have.
        breaks: after how many bytes the next answers end; `stalls` makes them fall silent instead.
        asked: (path, the Range asked for, bytes sent) of each answer.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True
    too_long: int = 0
    breaks: list[int] = field(default_factory=list)
    stalls: bool = False
    asked: list[tuple[str, str | None, int]] = field(default_factory=list)

    def sent(self, path: str) -> int:
        return sum(count for its_path, _, count in self.asked if its_path == path)


@pytest.fixture
def hub(monkeypatch):
    """A server in place of the hub and of the original's host. Like the hub, it answers from another address."""
    state = Hub()
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            if self.path.startswith("/hub/"):
                self.send_response(302)
                self.send_header("Location", self.path.replace("/hub/", "/store/"))
                self.end_headers()
                return
            path, asked = self.path.split("/", 2)[2], self.headers["Range"]
            content = state.files.get(path)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if content is None or (start and start >= len(content)):
                state.asked.append((path, asked, 0))
                self.send_error(404 if content is None else 416)
                return
            size = len(content) + state.too_long
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(size - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.end_headers()
            body = content[start:]
            broken = bool(state.breaks)
            if broken:
                body = body[: state.breaks.pop(0)]
            state.asked.append((path, asked, len(body)))
            self.wfile.write(body)
            if broken and state.stalls:
                over.wait(10)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(cifar, "HUB", address + "/hub/{path}")
    monkeypatch.setattr(cifar, "ORIGINAL", address + "/original/{archive}")
    monkeypatch.setattr(cifar, "CHUNK", 1000)
    monkeypatch.setenv("no_proxy", "*")
    yield state
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def read(folder: Path, classes: int = 10, **options):
    return read_cifar(classes, folder, progress=False, **options)


def put(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def assert_is_made_up(data, classes: int = 10) -> None:
    for split, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("test", data.test_images, data.test_labels),
    ):
        expected, its_labels = made_up(split, classes)
        np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
        np.testing.assert_array_equal(labels.numpy(), its_labels)
    assert len(data.classes) == classes


@pytest.fixture
def hashes_of_the_made_up(monkeypatch):
    """CIFAR-100's hashes are those of the made-up images."""
    hashes = []
    for split in COUNTS:
        images, labels = made_up(split, 100)
        hashes.append(order_free_hash(as_images(images), labels))
    monkeypatch.setitem(cifar.HASHES, "cifar100", tuple(hashes))


# --- from the hub --------------------------------------------------------------------------------


def test_the_hubs_files_are_decoded_and_the_next_lesson_has_them(tmp_path, hub):
    hub.files = hub_files()
    first = read(tmp_path / "made" / "on the way")
    asked = len(hub.asked)
    for data in (first, read(tmp_path / "made" / "on the way")):
        assert_is_made_up(data)
        assert data.name == "cifar10"
        assert data.classes[0] == "airplane"
        assert data.verified == "unverified: no hash of CIFAR-10's pixels was known when this was written"
    assert len(hub.asked) == asked == 2


@pytest.mark.usefixtures("hashes_of_the_made_up")
def test_cifar100_has_fine_labels_and_is_verified_by_its_hash(tmp_path, hub):
    hub.files = hub_files(100)
    for _ in range(2):
        data = read(tmp_path, 100)
        assert_is_made_up(data, 100)
        assert data.name == "cifar100"
        assert data.verified == "the pixels and labels are those of CIFAR-100 (order-free SHA-256)"


def test_cifar100s_classes_are_in_the_order_of_the_alphabet():
    classes = cifar._TASKS[100].classes
    assert len(set(classes)) == 100
    assert list(classes) == sorted(classes)


@pytest.mark.parametrize("classes", [0, 20, "10", [10]])
def test_other_classes_are_refused(classes):
    with pytest.raises(ValueError, match=re.escape(f"classes={classes!r} is not known; choose 10 for CIFAR-10 or 100")):
        read_cifar(classes)


def test_another_label_than_the_tasks_is_refused(tmp_path):
    images, labels = made_up("test", 100)
    put(tmp_path, {TRAIN: as_parquet(images, labels), TEST: as_parquet(images, labels)})
    with pytest.raises(ValueError, match="other things than images of 32 x 32 pixels with CIFAR-10's labels"):
        read(tmp_path)
    assert not (tmp_path / "cifar10.npz").exists()


# --- a download that does not go smoothly --------------------------------------------------------


def test_a_broken_download_goes_on_where_it_broke(tmp_path, hub):
    hub.files = hub_files()
    hub.breaks = [5050, 7000]
    assert_is_made_up(read(tmp_path))
    assert [asked for path, asked, _ in hub.asked if path == TRAIN] == [None, "bytes=5050-", "bytes=12050-"]
    assert hub.sent(TRAIN) == len(hub.files[TRAIN])


def test_a_stalled_download_goes_on(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(cifar, "TIMEOUT", 0.2)
    hub.files, hub.breaks, hub.stalls = hub_files(), [5050], True
    assert_is_made_up(read(tmp_path))
    assert hub.sent(TRAIN) == len(hub.files[TRAIN])


def test_the_next_call_goes_on_too(tmp_path, hub):
    hub.files = hub_files()
    put(tmp_path, {f"{TRAIN}.part": hub.files[TRAIN][:9000]})
    assert_is_made_up(read(tmp_path))
    assert hub.sent(TRAIN) == len(hub.files[TRAIN]) - 9000
    assert not (tmp_path / f"{TRAIN}.part").exists()


def both_at_once(folder: Path, monkeypatch) -> tuple[list, list[threading.Thread]]:
    """What two lessons read that are started together, and who of them fetched."""
    download, fetched, read_by = cifar._download_any, [], []

    def slowly(*arguments) -> None:
        fetched.append(threading.current_thread())
        time.sleep(0.5)  # the other one has looked into the folder by then, and seen nothing
        download(*arguments)

    monkeypatch.setattr(cifar, "_download_any", slowly)
    lessons = [threading.Thread(target=lambda: read_by.append(read(folder))) for _ in range(2)]
    for lesson in lessons:
        lesson.start()
    for lesson in lessons:
        lesson.join()
    return read_by, fetched


def test_of_two_lessons_that_are_started_together_one_fetches(tmp_path, hub, monkeypatch):
    hub.files = hub_files()
    read_by, fetched = both_at_once(tmp_path, monkeypatch)
    assert len(fetched) == 1
    assert len(read_by) == 2
    for data in read_by:
        assert_is_made_up(data)
    assert [path for path, *_ in hub.asked] == [TRAIN, TEST]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10.npz", "plain_text"]


def test_who_waits_for_another_lesson_is_told_so(tmp_path, hub, capsys):
    hub.files = hub_files()
    with locked(tmp_path / ".cifar10.lock"):
        lesson = threading.Thread(target=lambda: read_cifar(10, tmp_path))
        lesson.start()
        said = ""
        while lesson.is_alive() and not said:
            said = capsys.readouterr().out
        assert said == f"another lesson is fetching CIFAR-10 into {tmp_path}; this one waits for it\n"
        assert hub.asked == []
    lesson.join()
    assert (tmp_path / "cifar10.npz").exists()


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_file_system_without_locks_has_the_data_all_the_same(tmp_path, hub, monkeypatch):
    def none_here(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", none_here)
    hub.files = hub_files()
    assert_is_made_up(read(tmp_path))


def test_a_server_that_knows_no_ranges_is_asked_for_all_of_it(tmp_path, hub):
    hub.files, hub.ranges = hub_files(), False
    put(tmp_path, {f"{TRAIN}.part": b"x" * 9000})
    assert_is_made_up(read(tmp_path))
    assert [asked for path, asked, _ in hub.asked if path == TRAIN] == ["bytes=9000-"]


def test_a_part_longer_than_the_file_is_thrown_away(tmp_path, hub):
    hub.files = hub_files()
    put(tmp_path, {f"{TRAIN}.part": b"x" * (len(hub.files[TRAIN]) + 5)})
    assert_is_made_up(read(tmp_path))
    assert hub.sent(TRAIN) == len(hub.files[TRAIN])


def test_a_file_shorter_than_announced_is_not_taken(tmp_path, hub):
    hub.files, hub.too_long = hub_files(), 10
    size = len(hub.files[TRAIN])
    with pytest.raises(ConnectionError, match=re.escape(f"{TRAIN} failed (it ended with {size} of {size + 10} bytes)")):
        read(tmp_path)
    assert not (tmp_path / TRAIN).exists()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_always_breaks_is_given_up(tmp_path, hub, ranges):
    hub.files, hub.ranges, hub.breaks = hub_files(), ranges, [5000, *[0] * 5]
    with pytest.raises(ConnectionError, match="it ended with"):
        read(tmp_path)
    assert len([path for path, *_ in hub.asked if path == TRAIN]) == 2


def test_an_interrupt_keeps_what_has_arrived(tmp_path, hub, monkeypatch):
    hub.files = hub_files()

    class Interrupted(tqdm.auto.tqdm):
        updates = 0

        def update(self, *_):
            self.updates += 1
            if self.updates == 4:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tqdm.auto, "tqdm", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            read(tmp_path)
    kept = (tmp_path / f"{TRAIN}.part").read_bytes()
    assert 0 < len(kept) <= 4000
    assert hub.files[TRAIN].startswith(kept)
    hub.asked.clear()
    assert_is_made_up(read(tmp_path))
    assert hub.sent(TRAIN) == len(hub.files[TRAIN]) - len(kept)


def test_progress_shows_a_bar_for_each_download(tmp_path, hub, capsys):
    hub.files = hub_files()
    read_cifar(10, tmp_path)
    shown = capsys.readouterr().err
    assert "train-00000-of-00001.parquet: 100%" in shown
    assert "test-00000-of-00001.parquet: 100%" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_said_in_a_sentence_and_ends_it(tmp_path, hub):
    hub.files = hub_files()
    put(tmp_path, {TRAIN: hub.files[TRAIN]})
    (tmp_path / f"{TEST}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\), and what was there is kept"):
        read(tmp_path)
    assert (tmp_path / TRAIN).read_bytes() == hub.files[TRAIN]
    assert {path for path, *_ in hub.asked} == {TEST}  # the original, which is no smaller, was not tried


def test_a_disk_that_fills_up_at_the_end_leaves_no_half_of_a_cache(tmp_path, hub, monkeypatch):
    put(tmp_path, hub_files() | {"cifar10.npz": b"damaged"})

    def fill_up(file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", fill_up)
    with pytest.raises(OSError, match=re.escape(f"{tmp_path} cannot be written (No space left on device)")):
        read(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar10.npz", "plain_text"]
    assert (tmp_path / "cifar10.npz").read_bytes() == b"damaged"
    assert hub.asked == []


def test_a_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path, hub):
    hub.files = hub_files()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/folder cannot be written .* name another folder with folder= or in the"):
        read(tmp_path / "file" / "folder")


# --- the original archive ------------------------------------------------------------------------


def test_the_archive_is_read_where_the_hub_does_not_answer(tmp_path, hub, archive):
    hub.files = {"cifar-10-python.tar.gz": archive}
    hub.breaks = [3000]
    for _ in range(2):  # the second time from the cache
        data = read(tmp_path)
        assert_is_made_up(data)
        assert data.verified == f"it came from the original archive with its published md5 {md5(archive)}"
    assert [path for path, *_ in hub.asked] == [TRAIN, *["cifar-10-python.tar.gz"] * 2]
    assert hub.sent("cifar-10-python.tar.gz") == len(archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cifar-10-python.tar.gz", "cifar10.npz", "plain_text"]


def test_an_archive_with_another_md5_is_not_opened(tmp_path, hub, archive, monkeypatch):
    put(tmp_path, {"cifar-10-python.tar.gz": archive[:-1]})
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    with pytest.raises(ValueError, match=r"cifar-10-python.tar.gz is not the original archive or only a part of it"):
        read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]
    assert hub.asked == []


def test_torchvision_knows_the_published_md5():
    assert datasets.CIFAR10.tgz_md5 == "c58f30108f718f92721af3b95e74349a"


@pytest.mark.parametrize("classes", [10, 100])
def test_torchvision_and_this_module_name_the_same_archive(classes):
    task = cifar._TASKS[classes]
    original = getattr(datasets, task.original)
    assert original.filename == task.archive
    assert original.url == cifar.ORIGINAL.format(archive=task.archive)


# --- without the network -------------------------------------------------------------------------


@pytest.mark.parametrize("offline", [True, False])
def test_files_put_into_the_folder_are_found_without_the_network(tmp_path, hub, archive, offline):
    put(tmp_path / "parquet", hub_files())
    put(tmp_path / "archive", {"cifar-10-python.tar.gz": archive})
    for folder in ("parquet", "archive"):
        assert_is_made_up(read(tmp_path / folder, offline=offline))
    assert hub.asked == []


@pytest.mark.parametrize("classes", [10, 100])
def test_offline_names_the_folder_and_the_ways_out(tmp_path, hub, classes):
    task = cifar._TASKS[classes]
    with pytest.raises(ConnectionError) as caught:
        read(tmp_path, classes, offline=True)
    assert str(caught.value) == (
        f"there is no {task.title} in {tmp_path}, nor could it be fetched: offline=True, so the network was not "
        f"tried. Put {task.parquet[0]} and {task.parquet[1]} (from huggingface.co/datasets/{task.repo}) or "
        f"{task.archive} into {tmp_path}, use a data set that needs no download, open_dataset("
        '"photographs"), or make an .npz file of images of your own'
    )
    assert hub.asked == []
    assert list(tmp_path.iterdir()) == []


def test_every_source_that_failed_is_named_with_its_reason(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(cifar, "ORIGINAL", "http://127.0.0.1:9/{archive}")  # nothing listens there
    with pytest.raises(ConnectionError) as caught:
        read(tmp_path)
    assert re.search(r"hub/plain_text/train\S+ failed \(HTTP Error 404: Not Found\); http://127", str(caught.value))
    assert re.search(r"cifar-10-python.tar.gz failed \(<urlopen error .*refused>\)\. Put ", str(caught.value))
    assert hub.sent(TRAIN) == 0


def test_a_damaged_parquet_file_is_named(tmp_path, hub):
    files = hub_files()
    put(tmp_path, files | {TEST: files[TEST][:-100]})
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / TEST} cannot be read as a Parquet file of CIFAR-10")):
        read(tmp_path)
    put(tmp_path, {TEST: as_parquet(*made_up("test", 10), column="fine_label")})
    with pytest.raises(ValueError, match=r"of CIFAR-10 \(.*label.*\); delete it and call read_cifar again"):
        read(tmp_path)
    assert hub.asked == []


# --- the cache -----------------------------------------------------------------------------------


def flipped(content: bytes) -> bytes:
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("harm", [lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"PK" * 50, flipped])
def test_a_damaged_cache_is_made_again_or_named(tmp_path, hub, harm):
    hub.files = hub_files()
    read(tmp_path)
    cached = tmp_path / "cifar10.npz"
    whole = cached.read_bytes()
    for path in (TRAIN, TEST):
        (tmp_path / path).unlink()
    cached.write_bytes(harm(whole))
    with pytest.raises(ConnectionError, match=re.escape(f"{cached} is damaged (")):
        read(tmp_path, offline=True)
    assert_is_made_up(read(tmp_path))
    assert_is_made_up(read(tmp_path, offline=True))


@pytest.mark.parametrize(
    "change",
    [
        {"train_images": np.zeros((30, 16, 16, 3), np.uint8)},
        {"train_labels": np.full(30, 10)},
        {"test_labels": np.array(["cat"] * 20)},
        {"test_images": np.zeros((20, 32, 32, 3))},
        {"classes": np.array(["yes", "no"])},
    ],
)
def test_a_cache_of_another_form_is_no_cifar(tmp_path, change):
    (train_images, train_labels), (test_images, test_labels) = (made_up(split, 10) for split in COUNTS)
    arrays = {"train_images": train_images, "train_labels": train_labels}
    arrays |= {"test_images": test_images, "test_labels": test_labels}
    arrays |= {"classes": np.array(cifar.CIFAR10_CLASSES.split())}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    assert read(tmp_path, offline=True).verified == cifar.UNVERIFIED
    np.savez(tmp_path / "cifar10.npz", **arrays | change)
    with pytest.raises(ConnectionError, match=r"cifar10.npz is damaged \("):
        read(tmp_path, offline=True)


def test_what_is_not_cifar100_is_refused_and_not_kept(tmp_path):
    put(tmp_path, hub_files(100))
    with pytest.raises(ValueError, match=r"test-00000-of-00001.parquet holds is not CIFAR-100: .*; delete .* and call"):
        read(tmp_path, 100)
    assert not (tmp_path / "cifar100.npz").exists()


def test_a_cache_that_is_not_cifar100_is_refused(tmp_path, monkeypatch):
    put(tmp_path, hub_files(100))
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "_verify", lambda *_: "not looked at")
        read(tmp_path, 100)
    cached = tmp_path / "cifar100.npz"
    with pytest.raises(ValueError, match=re.escape(f"what {cached} holds is not CIFAR-100")):
        read(tmp_path, 100)


def test_the_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SPECTRALKD_DATA", "")
    put(tmp_path / "spectralkd_nb", hub_files())
    assert_is_made_up(read_cifar(offline=True, progress=False))

    monkeypatch.setenv("SPECTRALKD_DATA", str(tmp_path / "of my own"))
    with pytest.raises(ConnectionError, match=r"no CIFAR-10 in \S+/of my own,"):
        read_cifar(offline=True)

    monkeypatch.delenv("SPECTRALKD_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ConnectionError, match=re.escape(f"{tmp_path}/home/.cache/spectralkd_nb, nor")):
        read_cifar(offline=True)
