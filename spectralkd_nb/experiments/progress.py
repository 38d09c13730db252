"""How far a grid is: one table, for a terminal and, through `widgets`, for a notebook."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from spectralkd_nb.distillation import TerminalProgress
from spectralkd_nb.experiments.records import CUT_OFF, ELSEWHERE, FAILURE, FINISHED, RUNNING
from spectralkd_nb.experiments.work import GridProgress

if TYPE_CHECKING:
    import pandas


def progress_table(progress: GridProgress) -> pandas.DataFrame:
    """A row for each student, teacher, protocol and method, a column for each seed.

    A cell has the accuracy of a finished run in percent, or how far the run is; "" where the grid plans none.
    """
    import pandas as pd

    rows = []
    for plan, state, detail in zip(progress.plans, progress.states, progress.details, strict=True):
        cell = detail if state in (FINISHED, RUNNING) else state
        rows.append((plan.student, plan.teacher or "", plan.protocol, plan.method, plan.seed, cell))
    keys = ["student", "teacher", "protocol", "method"]
    table = pd.DataFrame(rows, columns=[*keys, "seed", "cell"])
    rows_in_order = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    return table.set_index([*keys, "seed"])["cell"].unstack("seed", fill_value="").reindex(rows_in_order)


def describe_grid(progress: GridProgress) -> str:
    """One sentence: how many runs are finished, failed, elsewhere and left."""
    count = Counter(progress.states)
    words = [f"{count[FINISHED]} of {len(progress.plans)} runs are finished"]
    words += [f"{count[state]} {state}" for state in (FAILURE, CUT_OFF, ELSEWHERE) if count[state]]
    return f"{progress.name}: {', '.join(words)}"


def reasons_of_failure(progress: GridProgress) -> list[str]:
    """A sentence for each run that failed."""
    return [
        f"{plan.method}, seed {plan.seed}: {detail}"
        for plan, state, detail in zip(progress.plans, progress.states, progress.details, strict=True)
        if state == FAILURE
    ]


class TerminalGrid:
    """A callback of `run_grid` for a terminal: the table whenever a run ends, and a bar for the one that goes on. ::

    with TerminalGrid() as progress:
        run_grid(..., callback=progress)
    """

    def __enter__(self) -> TerminalGrid:
        self._said: tuple[str, ...] = ()
        self._run: TerminalProgress | None = None
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_run(*exception)

    def __call__(self, progress: GridProgress) -> None:
        if progress.run is not None:
            if self._run is None:
                self._run = TerminalProgress(epochs=False).__enter__()
            self._run(progress.run)
            return
        self._end_run()
        if progress.states == self._said:
            return
        self._said = progress.states
        print(f"{describe_grid(progress)}\n{progress_table(progress).to_string()}", flush=True)
        for reason in reasons_of_failure(progress):
            print(reason)

    def _end_run(self, *exception: object) -> None:
        if self._run is not None:
            self._run.__exit__(*exception)
            self._run = None
