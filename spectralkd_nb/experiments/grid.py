"""Doing the runs of a grid, each once, in a store that any number of processes share."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectralkd_nb.distillation import distributed
from spectralkd_nb.experiments.cluster import do_on_ray, require_workers
from spectralkd_nb.experiments.plan import Plan, planned_runs, planned_teachers, read_grid
from spectralkd_nb.experiments.records import CUT_OFF, FINISHED, TO_DO, finished_of, grid_results, state_of
from spectralkd_nb.experiments.work import WAITING, GridCallback, Work, companies

if TYPE_CHECKING:
    import pandas


def run_grid(
    grid: Mapping[str, Any] | str | Path,
    store: str | Path,
    *,
    retry: bool = False,
    callback: GridCallback | None = None,
    device: str | torch.device | None = None,
    together: int = 1,
    workers: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> pandas.DataFrame:
    """Do every run of a grid that the store does not have yet, and return the table of all.

    A run that is finished in the store is not done again, one that was cut off goes on from its checkpoint, and one
    that fails is recorded with its reason while the others go on. Any number of processes may work on one store, on one
    machine or on several that share its disk: each run is done by one of them. When nothing is left to do but what
    others are doing, this call waits for them, and takes over what they drop. Processes that torchrun has started count
    as one: they share each run, see `train`, and the first of them decides which is next.

    Interrupts, kills and full disks lose no more than the time since a run's last checkpoint; the same call goes on.

    Teachers that the grid trains itself come first; see `plan`.

    Before anything is trained, finished runs are compared with the data and the teachers that the others have loaded by
    then: what was trained on other data, or from another teacher of the same name, is not this grid's. When nothing is
    left to do, nothing is loaded and nothing compared.

    Args:
        grid: dict or TOML file, read once; see `plan`.
        store: folder, made if it is not there.
        retry: try again what has failed before.
        callback: called with a `GridProgress` as the runs go on.
        device: see `train`.
        together: so many runs of one seed are trained at once, see `train_together`: of their teacher they then need
            each answer only once. As far as the memory goes: each keeps what it needs for a step.
        workers: None does the runs in this process; "ray" gives each to Ray as a task: to the cluster of RAY_ADDRESS,
            to one that runs here, or to a local one of its own. All machines share the store's file system; see
            `cluster`.
        resources: of a task, "num_cpus" (1, which is also the number of torch's threads) and "num_gpus" (1 if the
            cluster has GPUs); {"num_gpus": 0.25} lets four runs share one.

    Returns:
        as `grid_results`.

    Raises:
        ValueError: what `planned_runs` refuses, a finished run of other data or of another teacher, a teacher whose
            training failed, unknown workers or resources, no Ray; workers and runs together, or one of both
            under torchrun.
        OSError: the store cannot be written to.
        KeyboardInterrupt: as `train`. What the callback raises goes through.
    """
    require_workers(workers, resources)
    grid = read_grid(grid)  # once: the file may be edited while this goes on
    name, how = grid.get("name", "grid"), {"retry": retry, "callback": callback, "device": device, "together": together}
    how |= {"workers": workers, "resources": resources}
    if teachers := planned_teachers(grid):
        run_plans(f"{name}, its teachers", teachers, store, **how)
        for plan in teachers:
            state, reason = distributed.by_first(functools.partial(state_of, plan, store))
            if state != FINISHED:
                raise ValueError(
                    f"the teacher {plan.student!r} could not be trained, so nobody can learn from it: {reason}"
                )
    run_plans(name, planned_runs(grid), store, **how)
    return distributed.by_first(lambda: grid_results(grid, store))


def run_plans(
    name: str,
    plans: Sequence[Plan],
    store: str | Path,
    *,
    retry: bool = False,
    callback: GridCallback | None = None,
    device: str | torch.device | None = None,
    together: int = 1,
    workers: str | None = None,
    resources: Mapping[str, float] | None = None,
) -> None:
    """What `run_grid` does with the runs of its grid, for any runs; a teacher may be a run of the same store."""
    if together < 1:
        raise ValueError(f"together={together}: how many runs are trained at once, 1 or more")
    if together > 1 and workers:
        raise ValueError(
            f'together={together} is for this process, and workers="{workers}" are others; leave out one of the two'
        )
    if together > 1:
        distributed.require_alone(f"together={together}")
    work = Work(name, plans, Path(store).expanduser(), callback, device)
    work.store.mkdir(parents=True, exist_ok=True)
    if retry:
        distributed.by_first(work.forget_failures)
    work.look()
    for plan in work.left():  # data or weights that are not there are told of before the first training
        work.bench.load(plan)
    work.bench.require_same(finished_of(plans, store))
    if workers is not None and work.left():
        do_on_ray(work, resources)
    while work.left():
        for company in companies(work.left(), together):
            work.do(company)
        work.look()
        if work.left() and not work.left(TO_DO, CUT_OFF):
            time.sleep(WAITING)
