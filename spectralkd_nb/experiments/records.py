"""What a store holds of a grid, as a table, and as one file that is committed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralkd_nb.distillation import Run, read_run
from spectralkd_nb.distillation.records import damaged
from spectralkd_nb.distillation.store import CHECKPOINT, RECORD, is_busy
from spectralkd_nb.experiments.plan import OF_A_RUN, Plan, planned_runs
from spectralkd_nb.storage import write_whole

if TYPE_CHECKING:
    import pandas

FAILED = ".failed.json"  # behind the name of the run's folder, beside it: the folder is the training's own
TO_DO, RUNNING, FINISHED = "to do", "running", "finished"
FAILURE, CUT_OFF, ELSEWHERE = "failed", "cut off", "elsewhere"
DIGITS = 6  # of a curve's values in a file of records


@dataclass(frozen=True)
class Record:
    """A finished run: what was planned, `plan`, and what came of it, `run`, without the network."""

    plan: Plan
    run: Run


def record_file(plan: Plan, store: str | Path) -> Path:
    return Path(store).expanduser() / plan.folder / RECORD


def failure_file(plan: Plan, store: str | Path) -> Path:
    return Path(store).expanduser() / f"{plan.folder}{FAILED}"


def state_of(plan: Plan, store: str | Path) -> tuple[str, str]:
    """What a store holds of a run, and in words: its accuracy, or why it failed; a damaged record is a failure too."""
    record = record_file(plan, store)
    if record.exists():
        try:
            return FINISHED, f"{read_run(record).accuracy_last:.1f} %"
        except ValueError as error:
            return FAILURE, str(error)
    reason = _reason(failure_file(plan, store))
    if reason is not None:
        return FAILURE, reason
    if is_busy(record.parent):
        return ELSEWHERE, "another process has it"
    return (CUT_OFF, "has a checkpoint") if record.with_name(CHECKPOINT).exists() else (TO_DO, "")


def _reason(failure: Path) -> str | None:
    """Why a run failed; None where no failure is recorded."""
    try:
        return str(json.loads(failure.read_text("utf-8"))["reason"])
    except FileNotFoundError:  # there is none, or another process tries the run again
        return None
    except (ValueError, KeyError, TypeError):
        return str(damaged(failure))


def finished_runs(grid: Mapping[str, Any] | str | Path, store: str | Path) -> list[Record]:
    """The runs of a grid that a store holds finished, in the grid's order; without those of damaged records.

    Raises:
        ValueError: what `planned_runs` refuses.
    """
    return finished_of(planned_runs(grid), store)


def finished_of(plans: Iterable[Plan], store: str | Path) -> list[Record]:
    """Those of the planned runs that a store holds finished; without those of damaged records."""
    found = []
    for plan in plans:
        file = record_file(plan, store)
        if file.exists():
            with contextlib.suppress(ValueError):  # `state_of` tells it
                found.append(Record(plan, read_run(file)))
    return found


def results_of(records: Iterable[Record]) -> pandas.DataFrame:
    """One row a finished run: student, teacher (None for a student alone), protocol, method, seed, accuracy and best.

    accuracy is that of the last epoch, best that of the best epoch on the test images (optimistic), both in percent;
    then seconds, of training and testing.

    Args:
        records: of finished runs, as `finished_runs` and `read_records` return them.
    """
    import pandas as pd

    rows = [
        (*record.plan.names.values(), record.run.accuracy_last, record.run.accuracy_best, record.run.seconds)
        for record in records
    ]
    return pd.DataFrame(rows, columns=[*OF_A_RUN, "accuracy", "best", "seconds"])


def epochs_to(run: Run, accuracy: float) -> int:
    """How many epochs a run took until its accuracy on the test images was this high for the first time.

    A run that never was counts as one epoch more than it had: less than it would have taken.

    Args:
        run: a finished one.
        accuracy: in percent.
    """
    curve = run.curves["test accuracy"]
    return next((epoch for epoch, reached in enumerate(curve, 1) if reached >= accuracy), len(curve) + 1)


def grid_results(grid: Mapping[str, Any] | str | Path, store: str | Path) -> pandas.DataFrame:
    """One row a run of a grid, done or not: the columns of `results_of`, then state and reason.

    state is "finished", "failed", "cut off", "elsewhere" (another process has it) or "to do". A run that is not
    finished has NaN for numbers; reason says why it failed.

    Raises:
        ValueError: what `planned_runs` refuses.
    """
    import pandas as pd

    states, records = [], []
    for plan in planned_runs(grid):
        state, detail = state_of(plan, store)
        states.append((*plan.names.values(), state, detail if state == FAILURE else ""))
        if state == FINISHED:
            records.append(Record(plan, read_run(record_file(plan, store))))
    planned = pd.DataFrame(states, columns=[*OF_A_RUN, "state", "reason"])
    done = results_of(records)
    return planned.merge(done, "left", list(OF_A_RUN))[[*done.columns, "state", "reason"]]


def write_records(records: Iterable[Record], file: str | Path) -> None:
    """Write finished runs into one file, a JSON object a line, curves to 6 digits; whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    lines = [json.dumps({"plan": asdict(r.plan), "run": json.loads(_rounded(r.run).as_json())}) for r in records]
    write_whole(Path(file).expanduser(), "".join(f"{line}\n" for line in lines).encode())


def read_records(file: str | Path) -> list[Record]:
    """What `write_records` wrote; blank lines are skipped.

    Raises:
        ValueError: a line is damaged.
        OSError: the file cannot be read.
    """
    file = Path(file).expanduser()
    try:
        lines = file.read_text("utf-8").split("\n")
    except UnicodeDecodeError:
        raise damaged(file) from None
    return [_record(line, file, number) for number, line in enumerate(lines, 1) if line.strip()]


def _record(line: str, file: Path, number: int) -> Record:
    try:
        given = json.loads(line)
        return Record(Plan(**given["plan"]), Run(**given["run"]))
    except (ValueError, KeyError, TypeError):
        raise damaged(f"line {number} of {file}") from None


def _rounded(run: Run) -> Run:
    curves = {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in run.curves.items()}
    return replace(run, curves={**curves, "epoch": run.curves["epoch"]})
