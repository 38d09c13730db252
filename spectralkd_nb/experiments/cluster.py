"""The runs of a grid as tasks on Ray: on one machine with several cores or GPUs, or on a cluster. ::

    run_grid("grid.toml", "/shared/store", workers="ray")

Ray says which run is done where and when. What is done, what failed and what is left, the store says, as for any other
processes that work on it: its folder lies on a file system that all machines share. So do the files that the grid
names, by absolute paths. The package is installed on every machine.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from spectralkd_nb.distillation import distributed
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.plan import Plan, require_keys
from spectralkd_nb.experiments.records import CUT_OFF, TO_DO, state_of
from spectralkd_nb.experiments.work import WAITING, Work, write_failure

STOPPING = 30.0  # seconds that cancelled runs have to write their checkpoints
RESOURCES = {"num_cpus", "num_gpus"}


def require_workers(workers: str | None, resources: Mapping[str, float] | None) -> None:
    """Refuse what nobody can do the runs with, before anything is done.

    Raises:
        ValueError: unknown workers or resources, resources without workers, processes that torchrun has started, or Ray
            is not installed.
    """
    if workers not in (None, "ray"):
        raise ValueError(f'workers={workers!r} is unknown; give "ray", or None for this process')
    if resources is not None:
        require_keys(resources, RESOURCES, set(), "resources")
    if workers is not None:
        distributed.require_alone(f'workers="{workers}"')
        _imported()
    elif resources is not None:
        raise ValueError('resources are those of a task on Ray; give workers="ray" too')


def do_on_ray(work: Work, resources: Mapping[str, float] | None) -> None:
    """Do what is left of a grid's runs, each as a task; wait for those that other processes have.

    Args:
        work: whose callback is told whenever a run ends, and every second.
        resources: see `run_grid`.

    Raises:
        OSError: of a task, for which the others are cancelled.
        KeyboardInterrupt: likewise.
    """
    with connected() as ray, _mark(work.store.absolute()) as mark:
        asked = asked_of(ray, resources, work.device)
        task = ray.remote(**asked)(one_run)
        rest = mark, work.device, max(1, int(asked["num_cpus"]))
        while work.left():
            _finish(ray, work, {task.remote(plan, *rest): plan for plan in work.left(TO_DO, CUT_OFF)})
            work.look()
            if work.left():  # others have them, or this machine does not see yet what another has written
                time.sleep(WAITING)


@contextlib.contextmanager
def connected() -> Iterator[ModuleType]:
    """Ray, connected as it is, or for as long as the context lasts.

    Then to the cluster of RAY_ADDRESS, or to the one that runs on this machine, which are left running; or else to a
    local one, which is made and ended.
    """
    ray = _imported()
    if ray.is_initialized():
        yield ray
        return
    ray.init()
    try:
        yield ray
    finally:
        ray.shutdown()


def _imported() -> ModuleType:
    try:
        import ray
    except ImportError:
        told = 'workers="ray" needs Ray, which is not installed here: pip install "spectralkd_nb[ray]"'
        raise ValueError(told) from None
    return ray


def asked_of(
    ray: ModuleType, resources: Mapping[str, float] | None, device: str | torch.device | None
) -> dict[str, float]:
    """What a task asks: a CPU, and a GPU if the cluster has some and the runs are not for another device."""
    wanted = device is None or torch.device(device).type == "cuda"
    gpus = 1 if wanted and ray.cluster_resources().get("GPU") else 0
    return {"num_cpus": 1, "num_gpus": gpus, **(resources or {})}


@contextlib.contextmanager
def _mark(store: Path) -> Iterator[Path]:
    """A file in the store while the context lasts, by which a task sees that it is the same store."""
    with tempfile.NamedTemporaryFile(dir=store, prefix=".ray-") as file:
        yield Path(file.name)


# --- in a task -----------------------------------------------------------------------------------


def one_run(plan: Plan, mark: Path, device: str | torch.device | None, threads: int) -> None:
    """What a task does: one run, unless it is done by now or another process has it; the store tells what came of it.

    Args:
        plan: the run.
        mark: a file in the store.
        device: see `train`.
        threads: of torch.

    Raises:
        OSError: the store is not there, or cannot be written to.
    """
    if not mark.exists():
        told = 'this machine does not see the grid\'s store; workers="ray" needs a file system that all machines share'
        raise FileNotFoundError(errno.ENOENT, told, str(mark.parent))
    torch.set_num_threads(threads)
    work = Work("", [plan], mark.parent, None, device)
    work.bench = _bench(mark)
    work.do([plan])


@lru_cache(maxsize=1)
def _bench(mark: Path) -> Bench:
    """A process does several runs of a grid. The next grid has another mark, and reads data and teachers again."""
    return Bench(store=mark.parent)


# --- beside the tasks ----------------------------------------------------------------------------


def _finish(ray: ModuleType, work: Work, tasks: Mapping[Any, Plan]) -> None:
    """Wait for all tasks; whatever stops this stops them."""
    waiting = list(tasks)
    try:
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=WAITING)
            for task in ended:
                _take(ray, task, tasks[task], work.store)
            for plan in work.left():  # finished runs are not read again and again
                work.states[plan.folder] = state_of(plan, work.store)
            work.tell()
    except BaseException:
        _cancel(ray, waiting)
        raise


def _take(ray: ModuleType, task: Any, plan: Plan, store: Path) -> None:
    """Raise what a task has raised; record it if the run took its process with it, also when Ray tried it again."""
    lost = ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None  # Ray's own words are the whole traceback
    except lost as error:
        write_failure(plan, store, error)


def _cancel(ray: ModuleType, tasks: Sequence[Any]) -> None:
    """Drop the tasks that wait, interrupt those that run, and give them time to write their checkpoints."""
    for task in tasks:
        ray.cancel(task)
    if tasks:
        ray.wait(tasks, num_returns=len(tasks), timeout=STOPPING)
