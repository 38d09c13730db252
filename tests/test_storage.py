"""Files that are whole whenever somebody looks, and locks that go with whoever holds them."""

from __future__ import annotations

import errno
import os
import stat
import threading

import pytest

from spectralkd_nb.storage import locked, whole_file, write_whole

fcntl = pytest.importorskip("fcntl")  # how Unix locks files; Windows' way cannot be tried here


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "table.csv"
    write_whole(file, b"old")
    with whole_file(file) as new:
        new.write(b"half of ")
        new.flush()
        assert file.read_bytes() == b"old"
        new.write(b"the new one")
    assert file.read_bytes() == b"half of the new one"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_what_ends_early_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    file = tmp_path / "table.csv"
    write_whole(file, b"old")

    def half() -> None:
        with whole_file(file) as new:
            new.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_others_may_read_a_file_as_they_may_read_any_other(tmp_path):
    (tmp_path / "any").touch()
    write_whole(tmp_path / "file", b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == stat.S_IMODE((tmp_path / "any").stat().st_mode)


def test_a_lock_that_another_one_has_is_waited_for_or_refused(tmp_path):
    held, released, had = threading.Event(), threading.Event(), []

    def hold() -> None:
        with locked(tmp_path / "lock"):
            held.set()
            assert released.wait(60)
            had.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    with pytest.raises(BlockingIOError), locked(tmp_path / "lock", patience=0):
        had.append("nobody")
    released.set()
    with locked(tmp_path / "lock"):
        had.append("second")
    thread.join()
    assert had == ["first", "second"]


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_where_there_are_no_locks_nothing_is_locked(tmp_path, monkeypatch):
    def none_here(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none_here)
    with locked(tmp_path / "lock", patience=0), locked(tmp_path / "lock", patience=0):
        pass


def test_a_lock_in_what_is_no_folder_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "lock"):
        pass
