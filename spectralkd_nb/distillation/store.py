"""What a run keeps on disk, so that whatever stops it, at whatever moment, it can go on."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectralkd_nb.distillation.records import Run, read_run

CHECKPOINT, NETWORK, RECORD = "checkpoint.pt", "network.pt", "run.json"


class RunStore:
    """A folder with the checkpoint of an unfinished run, or with the record and the network of a finished one."""

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        self.identity = identity

    def finished(self) -> Run | None:
        record = self.folder / RECORD
        if not record.exists():
            return None
        run = read_run(record)
        self._require_same({key: getattr(run, key) for key in self.identity})
        return run

    def load(self, name: str, device: torch.device) -> Any:
        """What `name` holds, read without executing anything; None if it is not there."""
        path = self.folder / name
        if not path.exists():
            return None
        state = torch.load(path, map_location=device, weights_only=True)
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
            with contextlib.ExitStack() as stack:
                for _ in range(1 if (self.folder / CHECKPOINT).exists() else 2):
                    probe = stack.enter_context(tempfile.NamedTemporaryFile(dir=self.folder, prefix=".room-"))
                    for start in range(0, size, 2**20):
                        probe.write(bytes(min(2**20, size - start)))
                    probe.flush()
        except OSError as error:
            raise type(error)(
                error.errno,
                f"checkpoints of {size / 2**20:.0f} MB cannot be kept ({error.strerror}); choose another folder, or "
                "folder=None to keep nothing",
                str(self.folder),
            ) from None

    def checkpoint(self, state: dict[str, Any]) -> None:
        write_whole(self.folder / CHECKPOINT, lambda file: torch.save(state, file))

    def finish(self, run: Run, network: nn.Module) -> None:
        """The network first: the record is what says that the run is finished."""
        write_whole(self.folder / NETWORK, lambda file: torch.save(network.state_dict(), file))
        write_whole(self.folder / RECORD, lambda file: file.write(run.as_json().encode()))
        (self.folder / CHECKPOINT).unlink(missing_ok=True)


def write_whole(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a file so that whoever looks, whenever, finds the old one or the new one, and never half of one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            Path(name).chmod(0o644)  # mkstemp's own mode keeps other users from reading the result
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
