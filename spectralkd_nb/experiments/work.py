"""How far a grid is, what its callback is told, and how its runs are done in this process."""

from __future__ import annotations

import functools
import itertools
import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from spectralkd_nb.distillation import Progress, distributed
from spectralkd_nb.distillation.training import Training, train_together
from spectralkd_nb.experiments.bench import Bench, arguments_of, do_run
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.experiments.records import CUT_OFF, ELSEWHERE, RUNNING, TO_DO, failure_file, state_of
from spectralkd_nb.storage import write_whole

WAITING = 1.0  # seconds between two looks at the runs that other processes do


@dataclass(frozen=True)
class GridProgress:
    """What a callback is told while a grid goes on.

    Attributes:
        name: of the grid.
        plans: all runs.
        states: one for each, "to do", "running", "finished", "failed", "cut off" or "elsewhere" (another process has
            it).
        details: accuracy, reason of a failure, or how far a run is, in words.
        run: progress of the run that goes on, if there is one.
    """

    name: str
    plans: tuple[Plan, ...]
    states: tuple[str, ...]
    details: tuple[str, ...]
    run: Progress | None = None


GridCallback = Callable[[GridProgress], None]


class Work:
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
                write_failure(plan, self.store, error)
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


def companies(plans: Sequence[Plan], most: int) -> list[list[Plan]]:
    """Plans in the same order, those of one seed and setting together, at most so many."""
    alike = itertools.groupby(plans, lambda plan: (plan.seed, plan.setting))
    found = [list(group) for _, group in alike]
    return [some[i : i + most] for some in found for i in range(0, len(some), most)]


def write_failure(plan: Plan, store: Path, error: BaseException) -> None:
    """Record why a run failed, where `state_of` finds it."""
    told = {
        "plan": asdict(plan),
        "reason": f"{type(error).__name__}: {error}",
        "where": "".join(traceback.format_exception(error)).splitlines(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    write_whole(failure_file(plan, store), json.dumps(told, indent=1).encode())
