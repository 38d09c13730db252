"""Files that are whole whenever somebody looks, and locks that go with whoever holds them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # some network file systems


class Damaged(ValueError):
    """A file is not as it was written."""


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write a file so that whoever looks, whenever, finds the old one or the new one, and never half of one."""
    with whole_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place as the context ends; the old one stays where that ends by an error."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # not every file system has modes
            Path(name).chmod(0o666 & ~_umask())  # mkstemp's own keeps other users from reading the result
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def require_checksums(path: Path) -> None:
    """Refuse a zip file, such as torch.save writes, that is not as it was written; torch reads it without a look.

    Raises:
        Damaged: a member differs from its checksum. zipfile.BadZipFile: no zip file.
    """
    with zipfile.ZipFile(path) as file:
        if (name := file.testzip()) is not None:
            raise Damaged(f"{path} is damaged: {name} in it is not as it was written")


@contextlib.contextmanager
def locked(file: Path, patience: float = -1) -> Iterator[None]:
    """No other process or thread has this lock while the context lasts.

    The lock is the operating system's: it goes with its process, however that ends. On a file system without locks
    nothing is locked.

    Args:
        file: the lock, in a folder that exists.
        patience: seconds to wait for it, for ever if negative.

    Raises:
        BlockingIOError: another one has it.
        OSError: nothing can be written there.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(file, timeout=patience)
    try:
        lock.acquire()
    except Timeout:
        raise BlockingIOError(errno.EWOULDBLOCK, "another one has the lock", str(file)) from None
    except NotImplementedError:  # how older filelocks say ENOSYS
        pass
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
