"""One training run by several processes, as torchrun starts them: who they are, and how they stay in step. ::

    torchrun --nproc-per-node 2 -m spectralkd_nb train resnet20 cifar10 --folder runs/first

Each process has a GPU of its own, or shares the CPU, and takes its share of every batch: process r the images r,
r + world, and so on. Gradients are those of the whole batch. The first process alone reads and writes the run's folder,
tests, and tells; what it finds the others are told.

All processes call the same functions in the same order. Before anything is exchanged they agree that all is well: an
error or an interrupt in one of them ends what they do in all, and nobody waits for one who is gone. With one process
nothing here does anything.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist

Result = TypeVar("Result")
STARTED_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class OutOfStep(ConnectionError):
    """Another process is gone, or this one has failed in the middle of an exchange: they cannot go on together."""


_ended: list[OutOfStep] = []  # what has put this process out of step; after it nothing is exchanged any more


# --- who they are --------------------------------------------------------------------------------


def processes() -> int:
    """How many processes torchrun has started for one run; 1 without it."""
    started = all(name in os.environ for name in STARTED_BY_TORCHRUN)
    return int(os.environ["WORLD_SIZE"]) if started else 1


def alone() -> bool:
    return processes() == 1


def rank() -> int:
    """The number of this process, from 0."""
    return 0 if alone() else int(os.environ["RANK"])


def is_first() -> bool:
    """Whether this is the process that writes and tells."""
    return rank() == 0


def own_device(asked: str | torch.device | None) -> torch.device:
    """This process's own device of the kind that is asked for: a GPU if None, and the CPU where there is none.

    Raises:
        ValueError: another kind, which no processes can share a run on; or fewer GPUs than processes.
    """
    kind = torch.device(asked).type if asked is not None else "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cpu":
        return torch.device("cpu")
    if kind != "cuda":
        raise ValueError(f"several processes can share a run on cuda or cpu, and not on {kind}")
    own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if own >= gpus:
        raise ValueError(f"there are {gpus} GPUs, and torchrun started more processes; give --nproc-per-node {gpus}")
    return torch.device("cuda", own)


def require_alone(what: str) -> None:
    """Refuse what only one process can do.

    Raises:
        ValueError: torchrun has started several.
    """
    if not alone():
        raise ValueError(
            f"{what} is for one process, and torchrun has started {processes()}; leave it out, or leave torchrun out"
        )


def start() -> None:
    """Join the other processes, once: gloo for what the CPU holds, and NCCL for what a GPU holds.

    Raises:
        ValueError: this build of torch cannot do it.
    """
    if not dist.is_available():
        raise ValueError("this build of torch has no torch.distributed; start without torchrun")
    if dist.is_initialized():
        return
    own, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if own < gpus:
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo")
    atexit.register(dist.destroy_process_group)


# --- staying in step -----------------------------------------------------------------------------


def agree(error: Exception | None = None, stop: bool = False) -> bool:
    """Whether any process wants to stop. A few numbers on the CPU are exchanged; a GPU is not waited for.

    Args:
        error: what has gone wrong in this process.

    Raises:
        Exception: the same in all processes, if anything has gone wrong in one; of several errors the first process's.
    """
    if error is not None and alone():
        raise error
    if alone():
        return stop
    if _ended:
        raise _ended[0]
    start()
    with exchange():
        word = torch.tensor([error is not None, stop], dtype=torch.int32)
        dist.all_reduce(word, dist.ReduceOp.MAX)
        failed, stopped = word.tolist()
        errors: list[Exception | None] = [None] * processes()
        if failed:
            dist.all_gather_object(errors, _portable(error))
    if failed:
        first = next(number for number, each in enumerate(errors) if each is not None)
        shared = error if first == rank() else errors[first]
        shared.is_told = True  # see `told`
        raise shared
    return bool(stopped)


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """What is done within ends alike for all processes: an error in one is raised in all."""
    if alone():
        yield
        return
    error = None
    try:
        yield
    except Exception as mine:
        error = mine
    agree(error)


def told(error: Exception) -> Exception:
    """The error that all processes have, once the others know of this one; they hear of it when they next agree."""
    if alone() or getattr(error, "is_told", False):
        return error
    try:
        agree(error)
    except Exception as shared:
        error = shared
    return error


def by_first(function: Callable[[], Result]) -> Result:
    """What a function returns in the first process, which alone calls it; what it raises is raised in all."""
    if alone():
        return function()
    results: list[Any] = [None]
    with agreed():
        if is_first():
            results[0] = function()
    with exchange():
        dist.broadcast_object_list(results, 0, device=torch.device("cpu"))
    return results[0]


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """What fails in the middle of an exchange leaves the others waiting for it, so there is no way to tell them."""
    try:
        yield
    except Exception as error:
        if alone():
            raise
        _ended.append(OutOfStep(f"the processes of this run are out of step, as one of them failed or ended: {error}"))
        raise _ended[0] from error


def _portable(error: Exception | None) -> Exception | None:
    """The error, or its words if other processes could not read it."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


# --- what they share -----------------------------------------------------------------------------


def share_of_batch(size: int) -> slice:
    """The images of a batch that are this process's. One that is left without takes the first, which does not count."""
    return slice(rank(), size, processes()) if rank() < size else slice(0, 1)


def weight_of_share(size: int) -> float:
    """What its mean over its share counts, so that the mean over processes is that over the images of the batch."""
    return len(range(rank(), size, processes())) * processes() / size


def reseed(*numbers: int) -> None:
    """Random numbers that follow from these and from the process: each draws its own, wherever a run goes on."""
    if not alone():
        torch.manual_seed(int(np.random.SeedSequence((*numbers, rank())).generate_state(1)[0]))


def means_over_batch(values: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Means over the whole batch from each process's means over its share. weight: of `weight_of_share`."""
    if alone():
        return dict(values)
    with exchange():
        stacked = torch.stack([value.reshape(()) for value in values.values()]) * (weight / processes())
        dist.all_reduce(stacked)
    return dict(zip(values, stacked.unbind(), strict=True))


def share_buffers(module: nn.Module) -> None:
    """Give all processes the first one's buffers; parameters are the same without."""
    if alone():
        return
    with exchange(), torch.no_grad():
        for buffer in module.buffers():
            whole = buffer.contiguous()
            dist.broadcast(whole, 0)
            buffer.copy_(whole)


class _Whole(nn.Module):
    """All that is trained, as the one module whose call DistributedDataParallel wants to see."""

    def __init__(self, trained: nn.Module, look: Callable[..., Any]) -> None:
        super().__init__()
        self.trained = trained
        self._look = look

    def forward(self, *given: Tensor) -> Any:
        with agreed():  # before anybody waits for the gradients of one who has none
            return self._look(*given)


def parallel(trained: nn.Module, look: Callable[..., Any]) -> Callable[..., Any]:
    """A function that leads to a loss of what is trained, so that backward leaves the mean over processes as gradients.

    Batch norms use the statistics of the process's own share, as is usual; the running ones that count are the first
    process's. Converting them (SyncBatchNorm) would change the networks that are kept, and there is none for the CPU.

    Args:
        trained: all that is trained, on its device.
        look: takes tensors; of what it returns only the loss has a gradient. Which parameters that reaches may not
            change while the run goes on.
    """
    if alone():
        return look
    agree()
    share_buffers(trained)
    with exchange(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.14 has another name for `broadcast_buffers`
        # Without buffers a forward pass exchanges nothing, so that it may fail in one process. A static graph may have
        # parameters that no loss reaches: they are left without a gradient, as with one process.
        return nn.parallel.DistributedDataParallel(_Whole(trained, look), broadcast_buffers=False, static_graph=True)
