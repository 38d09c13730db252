"""Who trains in a folder is alone there: a second one is told so, and a lock never outlives whoever holds it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import filelock
import pytest
import torch
from test_distillation import QUICK, Tiny, same, stripes, tensors

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Progress, train
from spectralkd_nb.distillation.store import LOCK, PATIENCE, RECORD, RunStore, is_busy

fcntl = pytest.importorskip("fcntl")  # how Unix locks files; Windows' way cannot be tried here


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return stripes()


class HeldUp:
    """A training in a thread, held up after its first epoch while the context lasts."""

    def __init__(self, data: LabelledImages, folder: Path) -> None:
        self.started, self.released = threading.Event(), threading.Event()
        self.students: list[torch.nn.Module] = []
        self.thread = threading.Thread(target=self.go, args=(data, folder))

    def go(self, data: LabelledImages, folder: Path) -> None:
        self.students.append(train(Tiny(), data, QUICK, folder=folder, callback=self.wait).network)

    def wait(self, _: Progress) -> None:
        self.started.set()
        assert self.released.wait(60)

    def __enter__(self) -> HeldUp:
        self.thread.start()
        assert self.started.wait(60)
        return self

    def __exit__(self, *exception: object) -> None:
        self.released.set()
        self.thread.join()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_training_in_one_folder_is_refused_in_a_sentence(data, tmp_path):
    assert not is_busy(tmp_path)
    with HeldUp(data, tmp_path) as first:
        assert is_busy(tmp_path)
        with pytest.raises(
            BlockingIOError, match="another process trains here; wait for it, or choose another"
        ) as told:
            train(Tiny(), data, QUICK, folder=tmp_path)
        assert told.value.errno == errno.EWOULDBLOCK
        assert told.value.filename == str(tmp_path)
        assert is_busy(tmp_path)  # neither the question nor the refusal took the lock away
        # Elsewhere, and in no folder, anybody may train.
        train(Tiny(), data, QUICK, folder=tmp_path / "elsewhere")
        train(Tiny(), data, QUICK)
    assert not is_busy(tmp_path)
    assert names_in(tmp_path) == ["elsewhere", "run.json", "trained.pt"]
    again = train(Tiny(), data, QUICK, folder=tmp_path)
    assert same(tensors(again.network), tensors(first.students[0]))


def gone(_: Progress) -> None:
    raise RuntimeError("the view is gone")


def test_a_run_that_ends_early_leaves_no_lock_behind(data, tmp_path):
    with pytest.raises(RuntimeError, match="the view is gone"):
        train(Tiny(), data, QUICK, folder=tmp_path, callback=gone)
    assert not is_busy(tmp_path)
    train(Tiny(), data, QUICK, folder=tmp_path)
    assert names_in(tmp_path) == ["run.json", "trained.pt"]


def test_a_run_that_another_process_has_finished_meanwhile_is_read(data, tmp_path, monkeypatch):
    first = train(Tiny(), data, QUICK, folder=tmp_path / "first")
    look = RunStore.finished
    looks = []

    def finished(self, device):
        looks.append(1)
        if len(looks) == 2:  # it was not finished at the first look, and is when the lock is had
            for name in ("run.json", "trained.pt"):
                (tmp_path / "first" / name).rename(self.folder / name)
        return look(self, device)

    monkeypatch.setattr(RunStore, "finished", finished)
    heard = []
    assert train(Tiny(), data, QUICK, folder=tmp_path / "second", callback=heard.append) == first
    assert heard == []
    assert names_in(tmp_path / "second") == ["run.json", "trained.pt"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_distillation import QUICK, Tiny, stripes
from spectralkd_nb.distillation import train
train(Tiny(), stripes(), QUICK, folder={folder!r}, callback=lambda _: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_process_that_is_killed_leaves_no_lock(data, tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode < 0, done.stderr
    assert (tmp_path / LOCK).exists()  # the file is nothing; what counts is who holds it
    assert not is_busy(tmp_path)
    run = train(Tiny(), data, QUICK, folder=tmp_path)
    assert same(tensors(run.network), tensors(train(Tiny(), data, QUICK).network))
    assert names_in(tmp_path) == ["run.json", "trained.pt"]


def test_a_look_at_the_wrong_moment_is_no_training(data, tmp_path, monkeypatch):
    # Another process that asks whether the folder is busy has its lock for a moment.
    assert PATIENCE > 0
    monkeypatch.setattr("spectralkd_nb.distillation.store.PATIENCE", 60)  # however slow the machine is
    look = filelock.FileLock(tmp_path / LOCK, thread_local=False)
    look.acquire()
    moment = threading.Timer(0.05, look.release)
    moment.start()
    train(Tiny(), data, QUICK, folder=tmp_path)
    moment.join()
    assert names_in(tmp_path) == ["run.json", "trained.pt"]


def test_a_look_leaves_no_lock_in_a_finished_run(data, tmp_path):
    train(Tiny(), data, QUICK, folder=tmp_path)
    (tmp_path / LOCK).touch()  # as when the run ended between two steps of the look
    assert not is_busy(tmp_path)
    assert names_in(tmp_path) == ["run.json", "trained.pt"]


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_keeps_runs_all_the_same(data, tmp_path, monkeypatch, reason):
    def none_here(*_):
        raise OSError(reason, os.strerror(reason))

    unbroken = train(Tiny(), data, QUICK)
    monkeypatch.setattr(fcntl, "flock", none_here)
    with pytest.raises(RuntimeError, match="the view is gone"):
        train(Tiny(), data, QUICK, folder=tmp_path, callback=gone)
    assert not is_busy(tmp_path)
    run = train(Tiny(), data, QUICK, folder=tmp_path)
    assert same(tensors(run.network), tensors(unbroken.network))
    assert train(Tiny(), data, QUICK, folder=tmp_path) == run
    assert names_in(tmp_path) == ["run.json", "trained.pt"]


def test_older_filelocks_have_another_word_for_no_locks(data, tmp_path, monkeypatch):
    class Older(filelock.FileLock):
        def acquire(self, *_, **__):
            raise NotImplementedError("FileSystem does not appear to support flock; use SoftFileLock instead")

    monkeypatch.setattr(filelock, "FileLock", Older)
    (tmp_path / LOCK).touch()
    assert not is_busy(tmp_path)
    run = train(Tiny(), data, QUICK, folder=tmp_path)
    assert json.loads((tmp_path / RECORD).read_text())["accuracy_last"] == run.accuracy_last
    assert names_in(tmp_path) == ["run.json", "trained.pt"]


def test_a_lock_that_may_not_be_opened_tells_nothing_and_stops_no_look(data, tmp_path, monkeypatch):
    class Others(filelock.FileLock):
        def acquire(self, *_, **__):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / LOCK))

    monkeypatch.setattr(filelock, "FileLock", Others)
    (tmp_path / LOCK).touch()
    assert not is_busy(tmp_path)
    with pytest.raises(PermissionError, match=r"a run cannot be kept \(Permission denied\); choose another folder"):
        train(Tiny(), data, QUICK, folder=tmp_path)
