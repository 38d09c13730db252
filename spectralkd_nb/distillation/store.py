"""What a run keeps on disk, so that whatever stops it, at whatever moment, it can go on."""

from __future__ import annotations

import contextlib
import errno
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectralkd_nb.distillation import distributed
from spectralkd_nb.distillation.records import Run, damaged, read_run
from spectralkd_nb.networks.weights import FINGERPRINT, fingerprint_of
from spectralkd_nb.storage import locked, require_checksums, write_whole

CHECKPOINT, TRAINED, RECORD = "checkpoint.pt", "trained.pt", "run.json"
LOCK = ".lock"
STEP = "_step"  # in the name of the file that keeps what a step has learned
PATIENCE = 0.2  # seconds; whoever looks whether a folder is busy has its lock for a moment


class RunStore:
    """A folder with the checkpoint of an unfinished run, or with the record and the network of a finished one."""

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        self.identity = identity

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other process or thread trains in this folder while the context lasts.

        See `storage.locked`.

        Raises:
            BlockingIOError: another one does.
            OSError: nothing can be written there.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.folder / LOCK, PATIENCE))
            except BlockingIOError:
                told = "another process trains here; wait for it, or choose another folder"
                raise BlockingIOError(errno.EWOULDBLOCK, told, str(self.folder)) from None
            except OSError as error:
                raise self._unkeepable(error, "a run") from None
            stack.callback(_sweep_lock, self.folder)
            yield

    def finished(self, device: torch.device) -> Run | None:
        """The record of the run, if it is finished.

        Raises:
            ValueError: it is another run, or damaged.
        """
        record = self.folder / RECORD
        if not record.exists():
            return None
        run = read_run(record)
        kept = {key: getattr(run, key) for key in self.identity}
        # The very student that the run has trained may come again, as when a cell is run twice.
        weights = self.load(TRAINED, device)
        if weights is None:
            raise ValueError(f"{record} has no {TRAINED} beside it; delete it")
        trained = {key[2:]: value for key, value in weights.items() if key.startswith("0.")}
        mine = self.identity["protocol"]["student fingerprint"]
        if fingerprint_of(trained) == mine:
            kept["protocol"] = {**kept["protocol"], "student fingerprint": mine}
        self._require_same(kept)
        return run

    def load(self, name: str, device: torch.device) -> Any:
        """What `name` holds, read without executing anything; None if it is not there.

        Raises:
            ValueError: it is damaged, or the checkpoint of another run.
        """
        path = self.folder / name
        if not path.exists():
            return None
        try:
            require_checksums(path)
            state = torch.load(path, map_location=device, weights_only=True)
        except (OSError, MemoryError, torch.cuda.OutOfMemoryError):  # nothing is wrong with the file
            raise
        except Exception:  # torch has no class of its own for what it cannot read
            raise damaged(path) from None
        if not isinstance(state, dict) or (name == CHECKPOINT and "identity" not in state):
            raise damaged(path)
        if name == CHECKPOINT:
            self._require_same(state["identity"])
        return state

    def _require_same(self, kept: dict[str, Any]) -> None:
        differ = [key for key in self.identity if kept[key] != self.identity[key]]
        if differ:
            raise ValueError(
                f"{self.folder} holds another run, which differs in {', '.join(differ)}; give each run a folder of its "
                "own, or delete this one"
            )

    def require_room(self, size: int) -> None:
        """Find out before training whether checkpoints of `size` bytes can be written.

        Two exist for a moment, while one is replaced.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(".*.part"):  # of a process that was killed as it wrote
                left.unlink()
            with contextlib.ExitStack() as stack:
                for _ in range(1 if (self.folder / CHECKPOINT).exists() else 2):
                    probe = stack.enter_context(
                        tempfile.NamedTemporaryFile(dir=self.folder, prefix=".room-", suffix=".part")
                    )
                    for start in range(0, size, 2**20):
                        probe.write(bytes(min(2**20, size - start)))
                    probe.flush()
        except OSError as error:
            raise self._unkeepable(error, f"checkpoints of {size / 2**20:.0f} MB") from None

    def _unkeepable(self, error: OSError, what: str) -> OSError:
        told = f"{what} cannot be kept ({error.strerror}); choose another folder, or folder=None to keep nothing"
        return type(error)(error.errno, told, str(self.folder))

    def checkpoint(self, state: dict[str, Any]) -> None:
        self._write(CHECKPOINT, _saved(state))

    def keep(self, epoch: int, student: nn.Module, step: nn.Module | None) -> None:
        """The student after an epoch, and what the step has learned. The student last: it is what others look for."""
        if step is not None and any(True for _ in step.parameters()):
            self._write(kept_name(epoch, STEP), in_half_precision(step))
        self._write(kept_name(epoch), in_half_precision(student))

    def _write(self, name: str, content: bytes | memoryview) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have deleted it since
            write_whole(self.folder / name, content)
        except OSError as error:
            told = f"{name} cannot be written ({error.strerror}); what was kept is whole, and the same call goes on"
            raise type(error)(error.errno, told, str(self.folder)) from None

    def require_kept(self, epochs: Sequence[int], state: str = "finished") -> None:
        """A run cannot go back for weights that nobody asked for while it ran."""
        if missing := epochs_not_kept(self.folder, epochs):
            raise ValueError(
                f"the run in {self.folder} is {state} and did not keep epoch {missing[0]}; train it again in another "
                "folder, or delete this one"
            )

    def finish(self, run: Run, trained: nn.Module) -> None:
        """The weights first: the record is what says that the run is finished."""
        self._write(TRAINED, _saved(trained.state_dict()))
        self._write(RECORD, run.as_json().encode())
        (self.folder / CHECKPOINT).unlink(missing_ok=True)


class SharedStore:
    """The store of a run that several processes train: the first one reads and writes, and the others are told.

    Methods are those of `RunStore`, with its errors in all processes. What is written while the run goes on,
    `checkpoint` and `keep`, the others do not wait for; they hear of an error when they next agree.
    """

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self._own = RunStore(folder, identity)
        self.folder = self._own.folder

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            distributed.by_first(lambda: stack.enter_context(self._own.alone()))
            yield

    def finished(self, device: torch.device) -> Run | None:
        return distributed.by_first(lambda: self._own.finished(device))

    def load(self, name: str, device: torch.device) -> Any:  # noqa: ARG002 - the first one's is not that of the others
        return distributed.by_first(lambda: self._own.load(name, torch.device("cpu")))

    def require_room(self, size: int) -> None:
        distributed.by_first(lambda: self._own.require_room(size))

    def require_kept(self, epochs: Sequence[int], state: str = "finished") -> None:
        distributed.by_first(lambda: self._own.require_kept(epochs, state))

    def checkpoint(self, state: dict[str, Any]) -> None:
        if distributed.is_first():
            self._own.checkpoint(state)

    def keep(self, epoch: int, student: nn.Module, step: nn.Module | None) -> None:
        if distributed.is_first():
            self._own.keep(epoch, student, step)

    def finish(self, run: Run, trained: nn.Module) -> None:
        distributed.by_first(lambda: self._own.finish(run, trained))


def is_busy(folder: Path) -> bool:
    """Whether another process, or another run of this one, trains in a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with locked(folder / LOCK, patience=0):
            _sweep_lock(folder)  # the run may have ended since, and the lock be a new one
            return False
    except BlockingIOError:
        return True
    except OSError:  # another user's: nobody can tell
        return False


def _sweep_lock(folder: Path) -> None:
    """A lock file may go only when nothing is left to do: those who wait for the old one find the record."""
    if (folder / RECORD).exists():
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)


def kept_name(epoch: int, what: str = "") -> str:
    """The file in a run's folder that holds the student as it was after an epoch; what: or the step."""
    return f"epoch_{epoch:03d}{what}.safetensors"


def epochs_not_kept(folder: Path, epochs: Iterable[int]) -> list[int]:
    """Those of the epochs that a run's folder has no weights of."""
    return [epoch for epoch in epochs if not (folder / kept_name(epoch)).exists()]


def kept_files(run: Run, folder: str | Path) -> dict[int, Path]:
    """By epoch, the weights that a run kept in its folder.

    Raises:
        ValueError: it kept none.
    """
    folder = Path(folder).expanduser()
    files = {epoch: folder / kept_name(epoch) for epoch in range(1, run.recipe["epochs"] + 1)}
    kept = {epoch: file for epoch, file in files.items() if file.exists()}
    if not kept:
        raise ValueError(f"the run in {folder} kept no epochs; train it again in another folder, with keep_epochs")
    return kept


def in_half_precision(network: nn.Module) -> bytes:
    """A network's weights and buffers as a .safetensors file, floating ones in 16 bits."""
    from safetensors.torch import save

    state = sorted(network.state_dict().items())
    halved = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in state}
    return save(halved, {FINGERPRINT: fingerprint_of(halved)})


def _saved(state: Any) -> memoryview:
    """As torch.save would write it. In memory first: what it raises on a full disk is no OSError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer()
