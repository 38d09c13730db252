"""Doing the runs of a grid, each once, in a store that any number of processes share."""

from __future__ import annotations

import copy
import functools
import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages, open_dataset
from spectralkd_nb.distillation import Progress, Run, distributed, train
from spectralkd_nb.distillation.progress import Callback
from spectralkd_nb.distillation.training import Training, train_together
from spectralkd_nb.experiments.methods import method_step
from spectralkd_nb.experiments.plan import Plan, planned_runs, planned_teachers, read_grid
from spectralkd_nb.experiments.records import (
    CUT_OFF,
    ELSEWHERE,
    FINISHED,
    RUNNING,
    TO_DO,
    Record,
    failure_file,
    finished_of,
    grid_results,
    state_of,
)
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.weights import fingerprint_of
from spectralkd_nb.storage import write_whole

if TYPE_CHECKING:
    import pandas

WAITING = 1.0  # seconds between two looks at the runs that other processes do


@dataclass(frozen=True)
class GridProgress:
    """What a callback is told while a grid goes on.

    Attributes:
        name: of the grid. plans: all runs. states: one for each, "to do", "running", "finished", "failed", "cut off" or
            "elsewhere" (another process has it). details: accuracy, reason of a failure, or how far a run is, in words.
        run: progress of the run that goes on, if there is one.
    """

    name: str
    plans: tuple[Plan, ...]
    states: tuple[str, ...]
    details: tuple[str, ...]
    run: Progress | None = None


GridCallback = Callable[[GridProgress], None]


# --- doing it ------------------------------------------------------------------------------------


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
        grid: dict or TOML file, read once; see the module. store: folder, made if it is not there.
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
            training failed, unknown workers or resources, no Ray; workers, or runs together, under torchrun.
        OSError: the store cannot be written to. KeyboardInterrupt: as `train`. What the callback raises goes through.
    """
    from spectralkd_nb.experiments.cluster import require_workers  # which imports this module

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
    if together < 1 or (together > 1 and workers):
        raise ValueError(f"together={together}: how many runs are trained at once in this process, 1 or more")
    if together > 1:
        distributed.require_alone(f"together={together}")
    work = _Work(name, plans, Path(store).expanduser(), callback, device)
    work.store.mkdir(parents=True, exist_ok=True)
    if retry:
        distributed.by_first(work.forget_failures)
    work.look()
    for plan in work.left():  # data or weights that are not there are told of before the first training
        work.bench.load(plan)
    work.bench.require_same(finished_of(plans, store), work.store)
    if workers is not None and work.left():
        from spectralkd_nb.experiments.cluster import do_on_ray

        do_on_ray(work, resources)
    while work.left():
        for company in _companies(work.left(), together):
            work.do(company)
        work.look()
        if work.left() and not work.left(TO_DO, CUT_OFF):
            time.sleep(WAITING)


class _Work:
    """How far a grid is, and how one of its runs is done."""

    def __init__(
        self,
        name: str,
        plans: Sequence[Plan],
        store: Path,
        callback: GridCallback | None,
        device: str | torch.device | None,
    ) -> None:
        self.name, self.plans, self.store = name, tuple(plans), store
        self.callback, self.device = callback, device
        self.states: dict[str, tuple[str, str]] = {}
        self.bench = Bench(store=store)

    def look(self) -> None:
        """See what the store holds of each run."""
        self._look_at(self.plans)

    def _look_at(self, plans: Sequence[Plan], tell: bool = True) -> None:
        """The first process looks and tells, so that all go on from the same states."""

        def look() -> dict[str, tuple[str, str]]:
            self.states |= {plan.folder: state_of(plan, self.store) for plan in plans}
            if tell:
                self.tell()
            return self.states

        self.states = distributed.by_first(look)

    def forget_failures(self) -> None:
        for plan in self.plans:
            failure_file(plan, self.store).unlink(missing_ok=True)

    def left(self, *states: str) -> list[Plan]:
        return [plan for plan in self.plans if self.states[plan.folder][0] in (states or (TO_DO, CUT_OFF, ELSEWHERE))]

    def tell(self, run: Progress | None = None) -> None:
        if self.callback is None:
            return
        states, details = zip(*(self.states[plan.folder] for plan in self.plans), strict=True)
        self.callback(GridProgress(self.name, self.plans, states, details, run))

    def do(self, company: Sequence[Plan]) -> None:
        """Do these runs, but for those that are done by now or that others have; the store tells what came of them."""
        self._look_at(company, tell=False)
        company = [plan for plan in company if self.states[plan.folder][0] in (TO_DO, CUT_OFF)]
        untold: list[Exception] = []

        def running(plan: Plan, progress: Progress) -> None:
            if untold:  # by a run beside this one: all of them end
                raise untold[0]
            self.states[plan.folder] = RUNNING, f"epoch {progress.epoch} of {progress.epochs}"
            try:
                self.tell(progress)
            except Exception as error:
                untold.append(error)
                raise

        errors = self._errors_of(company, running)
        with distributed.agreed():
            self._write_down(company, errors, untold)
        self._look_at(company)

    def _write_down(self, company: Sequence[Plan], errors: Mapping[str, Exception], untold: list[Exception]) -> None:
        """The failures; raise what is none. untold: what the callback has raised."""
        for plan in company:
            error = errors.get(plan.folder)
            if error is None or any(error is own for own in untold):  # the callback's is no failure of the run
                continue
            if isinstance(error, BlockingIOError):  # of a run that another process has
                continue
            if isinstance(error, OSError):
                untold.append(error)  # without room or permission the next run would fare no better
            elif distributed.is_first():
                write_whole(failure_file(plan, self.store), json.dumps(_failure(plan, error), indent=1).encode())
        if untold:
            raise untold[0]

    def _errors_of(self, company: Sequence[Plan], running: Callable[[Plan, Progress], None]) -> dict[str, Exception]:
        """Train; of each run that did not come to its end, by its folder, why."""
        trainings: dict[str, Training] = {}
        errors: dict[str, Exception] = {}
        for plan in company:
            try:
                folder, told = self.store / plan.folder, functools.partial(running, plan)
                if len(company) == 1:
                    do_run(plan, folder, callback=told, device=self.device, bench=self.bench)
                else:
                    trainings[plan.folder] = Training(**arguments_of(plan, folder, told, self.bench))
            except Exception as error:
                errors[plan.folder] = error
        outcomes = train_together(list(trainings.values()), device=self.device) if trainings else []
        failed = {name: out for name, out in zip(trainings, outcomes, strict=True) if isinstance(out, Exception)}
        return errors | failed


def _companies(plans: Sequence[Plan], most: int) -> list[list[Plan]]:
    """Plans in the same order, those of one seed and setting together, at most so many."""
    alike = itertools.groupby(plans, lambda plan: (plan.seed, plan.setting))
    found = [list(group) for _, group in alike]
    return [some[i : i + most] for some in found for i in range(0, len(some), most)]


@dataclass
class Bench:
    """What runs of one grid share: data sets and teachers, each read once.

    Attributes:
        data, teachers: what was read. store: folder of runs, some of which may have trained a teacher.
    """

    data: dict[tuple[str, int], LabelledImages] = field(default_factory=dict)
    teachers: dict[tuple[str | None, str | None, str], nn.Module] = field(default_factory=dict)
    store: Path | None = None

    def data_of(self, plan: Plan) -> LabelledImages:
        name, every = plan.setting["data"], plan.setting["held_out"]
        if (name, every) not in self.data:
            whole = open_dataset(name)
            self.data[name, every] = whole.held_out(every) if every else whole
        return self.data[name, every]

    def teacher_of(self, plan: Plan) -> nn.Module | None:
        """A copy for each run: `train` moves it to a device and into another memory layout, where rounding differs."""
        if plan.teacher is None:
            return None
        self.load(plan)
        return copy.deepcopy(self.teachers[_teacher_key(plan)])

    def load(self, plan: Plan) -> None:
        """Read what the run needs, if it is not here yet."""
        classes, key = len(self.data_of(plan).classes), _teacher_key(plan)
        if plan.teacher is None or key in self.teachers:
            return
        if plan.teacher_weights:
            teacher = load_weights(build(plan.teacher, classes), self._file(plan.teacher_weights))
        elif not plan.data_name:  # of a plan that no grid has checked
            raise ValueError(f"data={plan.setting['data']!r} has no name to find weights by; give teacher_weights")
        else:
            teacher = build(plan.teacher, classes, pretrained=plan.data_name)
        self.teachers[key] = teacher.eval()

    def _file(self, weights: str) -> Path:
        """A file of weights: kept by a run of the store, by its folder's name and its own, or anywhere else."""
        if self.store is not None and (self.store / weights).exists():
            return self.store / weights
        return Path(weights).expanduser()

    def require_same(self, records: Iterable[Record], store: Path) -> None:
        """Refuse finished runs of other data, or of another teacher, than those of the same names that are loaded."""
        teachers = {key: fingerprint_of(teacher.state_dict()) for key, teacher in self.teachers.items()}
        for record in records:
            plan, protocol = record.plan, record.run.protocol
            data = self.data.get((plan.setting["data"], plan.setting["held_out"]))
            teacher = teachers.get(_teacher_key(plan)) if plan.teacher else None
            if data is not None and protocol.get("fingerprint") != data.fingerprint:
                other = f"on other data than {plan.setting['data']} holds now"
            elif teacher is not None and protocol.get("teacher fingerprint") != teacher:
                other = f"from another {plan.teacher} than the one that is there now"
            else:
                continue
            raise ValueError(
                f"the run in {store / plan.folder} was trained {other}; delete it, or give this grid another store"
            )


def _teacher_key(plan: Plan) -> tuple[str | None, str | None, str]:
    return plan.teacher, plan.teacher_weights, plan.setting["data"]


def do_run(
    plan: Plan,
    folder: str | Path | None,
    *,
    callback: Callback | None = None,
    device: str | torch.device | None = None,
    bench: Bench | None = None,
) -> Run:
    """One run from its plan, which is all that it depends on; finished, cut off or new, as `train` finds it.

    Args:
        plan: see `Plan`. folder: where it is kept; None keeps nothing. callback, device: as for `train`.
        bench: data sets and teachers that were read before; None reads them.

    Returns:
        as `train`.

    Raises:
        ValueError, OSError: what `train`, `method_step` and the readers of data and weights raise.
    """
    with distributed.agreed():
        return train(**arguments_of(plan, folder, callback, bench or Bench()), device=device)


def arguments_of(plan: Plan, folder: str | Path | None, callback: Callback | None, bench: Bench) -> dict[str, Any]:
    """What `train` is asked for, by the names of its arguments."""
    data, teacher = bench.data_of(plan), bench.teacher_of(plan)
    student = build(plan.student, len(data.classes), seed=plan.seed)
    step, weights = method_step(plan.terms, student, teacher, data, plan.seed)
    return {
        "student": student,
        "data": data,
        "recipe": plan.recipe,
        "teacher": teacher,
        "step": step,
        "weights": weights,
        "seed": plan.seed,
        "folder": folder,
        "callback": callback,
        "keep_epochs": plan.keep_epochs if folder is not None else (),
    }


def _failure(plan: Plan, error: Exception) -> dict[str, Any]:
    return {
        "plan": asdict(plan),
        "reason": f"{type(error).__name__}: {error}",
        "where": "".join(traceback.format_exception(error)).splitlines(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
