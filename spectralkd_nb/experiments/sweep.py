"""Which teacher teaches best? Teachers of many kinds, each trained and each distilled into the same student.

The question is that of Vats & Crandall (2021, arXiv 2112.10047), whose abstract has a sweet spot of the teacher's batch
size and epochs, and steps to find it. Those steps could not be read; these are ours. As TOML (or as a dict): ::

    name = "teachers"
    student = "vgg8x0.0625"
    teachers = ["vgg8x0.25", "vgg8x0.5"]    # their capacity
    batch_sizes = [8, 32, 128]
    epochs = [4, 12, 36]
    learning_rate = "linear"                # how a teacher's follows from its batch size, see `LEARNING_RATES`
    refinements = 1                         # steps of the search around the best, after the first, coarse one
    also = [["vgg8x0.25", 32, 12]]          # teachers to confirm beside the chosen ones; may be left out

    [search]
    seeds = [100, 101, 102]
    held_out = 4                            # one training image in so many stands in for the test images

    [confirmation]
    seeds = [0, 1, 2, 3, 4]

    [protocol]                              # the student's; a teacher's but for epochs, batch size and learning rate
    data = "photographs"
    epochs = 30
    batch_size = 32
    augment = false

    [method]
    "cross-entropy" = 0.1
    "soft targets" = { weight = 0.9, temperature = 4 }

A search on the images that then say how good it was would flatter its own choice. So it is made on images held out of
the training set, and what it chose is confirmed on the test images, with seeds of its own: the teacher whose students
were best, against the one that was most accurate itself of all that were tried. The confirmation trains on all training
images, so that an epoch has more steps there.

Each seed trains a teacher of its own and a student from it, so that an interval over seeds is one over teachers too.
Both draw from that seed, but for a teacher that is the student's own network: it would begin with the same weights, and
draws from the seed plus `TWIN`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectralkd_nb.distillation import distributed
from spectralkd_nb.distillation.store import kept_name
from spectralkd_nb.experiments.grid import run_plans
from spectralkd_nb.experiments.kept import require_epochs
from spectralkd_nb.experiments.methods import LABELS, checked_method, needs_teacher
from spectralkd_nb.experiments.plan import Plan, planned_runs, read_grid, require_keys
from spectralkd_nb.experiments.records import FAILURE, FINISHED, Record, finished_of, state_of
from spectralkd_nb.experiments.sweet_spot import ALONE, COARSE, CONFIRMED, FEWEST, Teacher, sweet_spot
from spectralkd_nb.experiments.work import GridCallback

if TYPE_CHECKING:
    import pandas

# By which power of the batch size, relative to the protocol's, a teacher's learning rate grows: not at all; as the
# root, so that the variance of an epoch's steps stays (Krizhevsky 2014, arXiv 1404.5997); or in proportion, so that
# their mean does (Goyal et al. 2017, arXiv 1706.02677).
LEARNING_RATES = {"constant": 0.0, "root": 0.5, "linear": 1.0}
KEYS = {"student", "teachers", "batch_sizes", "epochs", "search", "confirmation", "protocol", "method"}
OPTIONAL = {"name", "learning_rate", "refinements", "also"}
TWIN = 10_000  # added to the seed of a teacher that is the student's own network
COLUMNS = [
    *("step", "network", "batch_size", "epochs", "learning_rate", "seed", "teacher_accuracy", "student_accuracy"),
    *("teacher_run", "student_run", "seconds", "commit"),
]


@dataclass(frozen=True)
class Sweep:
    """A sweep as its file has it, checked; see the module."""

    name: str
    student: str
    teachers: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    epochs: tuple[int, ...]
    learning_rate: str
    refinements: int
    also: tuple[Teacher, ...]
    search: dict[str, Any]
    confirmation: dict[str, Any]
    protocol: dict[str, Any]
    method: dict[str, Any]

    @property
    def coarse(self) -> tuple[Teacher, ...]:
        """Every teacher of the first step."""
        return tuple(
            Teacher(network, batch_size, epochs)
            for network in self.teachers
            for batch_size in self.batch_sizes
            for epochs in self.epochs
        )


@dataclass(frozen=True)
class Stage:
    """One step of a sweep: which teachers, and how their runs are planned.

    Attributes:
        step: "coarse", "refined 1", ..., or "confirmation".
        teachers: of it.
        seeds: of each.
        held_out: see `held_out` of `LabelledImages`; 0 for the test images.
        alone: whether students without a teacher are trained too.
    """

    step: str
    teachers: tuple[Teacher, ...]
    seeds: tuple[int, ...]
    held_out: int
    alone: bool = True


def sweep_teachers(
    sweep: Mapping[str, Any] | str | Path,
    store: str | Path,
    *,
    retry: bool = False,
    callback: GridCallback | None = None,
    device: str | torch.device | None = None,
) -> pandas.DataFrame:
    """Train every teacher of a sweep and a student from each, step by step, and return the table of all.

    The first step takes all of capacity, batch size and epochs; each further one goes around the best teacher by then,
    at half the distance; the last confirms, on test images. Runs are kept as those of `run_grid`: what a store holds is
    not trained again, any number of processes may share it, and whatever stops a sweep loses next to nothing. A teacher
    that fails is left out of the search.

    Args:
        sweep: dict or TOML file, see the module.
        store, retry, callback, device: as for `run_grid`.

    Returns:
        as `sweep_results`; `sweet_spot` says what follows from it.

    Raises:
        ValueError: what `read_sweep` and `run_grid` refuse; a step in which no teacher is left, or whose failed runs
            another process tries again; a finished teacher whose weights were not kept; processes of torchrun.
    """
    distributed.require_alone("a sweep of teachers")
    sweep, last = read_sweep(sweep), COARSE
    for stage in _stages(sweep, store):
        _do(sweep, stage, store, retry=retry, callback=callback, device=device)
        last = stage.step
    table = sweep_results(sweep, store)
    if last != CONFIRMED:
        sweet_spot(table)  # says it, if too few teachers are left
        raise ValueError(f"while this went on another process began to try failed runs of {store} again; call it again")
    return table


def _do(sweep: Sweep, stage: Stage, store: str | Path, **options: Any) -> None:
    """Train the teachers of a stage, then their students."""
    teachers = [plan for plan, _, _ in _teacher_plans(sweep, stage)]
    run_plans(f"{sweep.name}, {stage.step}: teachers", teachers, store, **options)
    students = _student_plans(sweep, stage, store)
    if not any(plan.teacher for plan in students):
        raise ValueError(f"no teacher of the step {stage.step!r} is finished; the reasons lie in {store}")
    run_plans(f"{sweep.name}, {stage.step}: students", students, store, **options)


def sweep_results(sweep: Mapping[str, Any] | str | Path | Sweep, store: str | Path) -> pandas.DataFrame:
    """What a store holds of a sweep, one row a student.

    Returns:
        step; network, batch_size, epochs and learning_rate of the teacher, missing for a student alone; seed;
        teacher_accuracy and student_accuracy, percent, after the last epoch, on held-out images during the search and
        on test images in the confirmation; teacher_run, student_run, their folders; seconds of both; commit.

    Raises:
        ValueError: what `read_sweep` refuses; a finished teacher whose weights were not kept.
    """
    import pandas as pd

    sweep = read_sweep(sweep)
    rows = [_row(*found) for found in students_of_sweep(sweep, store)]
    return pd.DataFrame(rows, columns=COLUMNS)


def failed_runs(sweep: Mapping[str, Any] | str | Path, store: str | Path) -> int:
    """How many runs of a sweep have failed, of teachers and of students."""
    sweep = read_sweep(sweep)
    plans = [plan for stage in _stages(sweep, store) for plan in _plans(sweep, stage, store)]
    return sum(state_of(plan, store)[0] == FAILURE for plan in plans)


def sweep_row(
    sweep: Mapping[str, Any] | str | Path,
    teacher: Teacher,
    seed: int,
    store: str | Path,
    *,
    callback: GridCallback | None = None,
    device: str | torch.device | None = None,
) -> pandas.Series:
    """One row of a sweep's search alone: train one teacher, and a student from it.

    Args:
        sweep, store, callback, device: as for `sweep_teachers`.
        teacher: of any kind, also one that the sweep has not.
        seed: of both.

    Returns:
        the row, as in `sweep_results`.

    Raises:
        ValueError: what `sweep_teachers` refuses; a run that failed.
    """
    import pandas as pd

    sweep = read_sweep(sweep)
    stage = Stage(COARSE, (teacher,), (seed,), sweep.search["held_out"], alone=False)
    _do(sweep, stage, store, callback=callback, device=device)
    rows = [_row(*found) for found in _students_of_stage(sweep, stage, store)]
    if not rows:
        raise ValueError(f"the student of {teacher} failed; the reason lies in {store}")
    return pd.DataFrame(rows, columns=COLUMNS).iloc[0]


def students_of_sweep(sweep: Sweep, store: str | Path) -> Iterator[tuple[str, Record, Teacher | None, Record | None]]:
    """Step and record of each student that a store holds finished, with its teacher and that one's record, if any."""
    for stage in _stages(sweep, store):
        yield from _students_of_stage(sweep, stage, store)


def _students_of_stage(
    sweep: Sweep, stage: Stage, store: str | Path
) -> Iterator[tuple[str, Record, Teacher | None, Record | None]]:
    teachers = [plan for plan, _, _ in _teacher_plans(sweep, stage)]
    trained = {record.plan.folder: record for record in finished_of(teachers, store)}
    names = {str(teacher): teacher for teacher in stage.teachers}
    for record in finished_of(_student_plans(sweep, stage, store), store):
        taught = record.plan.teacher is not None
        its = trained[Path(record.plan.teacher_weights).parent.name] if taught else None
        yield stage.step, record, names[record.plan.method] if taught else None, its


def _row(step: str, student: Record, teacher: Teacher | None, its: Record | None) -> dict[str, Any]:
    run = student.run
    row = {"step": step, "seed": run.seed, "student_accuracy": run.accuracy_last, "student_run": student.plan.folder}
    row |= {"seconds": run.seconds, "commit": run.commit}
    if teacher is None:
        return row
    row |= asdict(teacher) | {"learning_rate": its.run.recipe["learning_rate"], "teacher_run": its.plan.folder}
    return row | {"teacher_accuracy": its.run.accuracy_last, "seconds": run.seconds + its.run.seconds}


# --- what is run ---------------------------------------------------------------------------------


def _stages(sweep: Sweep, store: str | Path) -> Iterator[Stage]:
    """The steps of a sweep as far as they are known: each follows from the results of those before."""
    import pandas as pd

    seeds, held_out = tuple(sweep.search["seeds"]), sweep.search["held_out"]
    stage, seen, rows = Stage(COARSE, sweep.coarse, seeds, held_out), set(sweep.coarse), []
    for number in range(1, sweep.refinements + 2):
        yield stage
        if not _is_done(sweep, stage, store):
            return
        rows += [_row(*found) for found in _students_of_stage(sweep, stage, store)]
        try:
            found = sweet_spot(pd.DataFrame(rows, columns=COLUMNS))
        except ValueError:  # too few teachers are left to choose from, as `sweep_teachers` says
            return
        around = tuple(teacher for teacher in neighbours(found.best, sweep, number) if teacher not in seen)
        if not around or number > sweep.refinements:
            break
        seen |= set(around)
        stage = Stage(f"refined {number}", around, seeds, held_out, alone=False)
    chosen = tuple(dict.fromkeys([found.best, found.most_accurate, *sweep.also]))
    yield Stage(CONFIRMED, chosen, tuple(sweep.confirmation["seeds"]), 0)


def _is_done(sweep: Sweep, stage: Stage, store: str | Path) -> bool:
    return all(state_of(plan, store)[0] in (FINISHED, FAILURE) for plan in _plans(sweep, stage, store))


def _plans(sweep: Sweep, stage: Stage, store: str | Path) -> list[Plan]:
    """The runs of a stage, as far as they are known."""
    return [*(plan for plan, _, _ in _teacher_plans(sweep, stage)), *_student_plans(sweep, stage, store)]


def neighbours(best: Teacher, sweep: Sweep, refinement: int) -> list[Teacher]:
    """Teachers around the best one, of the same network, by batch size and epochs.

    Both go up and down by the distance of the coarse values on a logarithmic scale, halved once a refinement; also
    beyond the coarse values, since the best may lie there. A list of one value is left as it is.
    """
    batch_sizes = _around(best.batch_size, sweep.batch_sizes, refinement)
    epochs = _around(best.epochs, sweep.epochs, refinement)
    every = [Teacher(best.network, batch_size, number) for batch_size in batch_sizes for number in epochs]
    return [teacher for teacher in dict.fromkeys(every) if teacher != best]


def _around(value: int, coarse: Sequence[int], refinement: int) -> list[int]:
    """A value, and those below and above it."""
    if len(coarse) < 2:
        return [value]
    low, high = min(coarse), max(coarse)
    ratio = (high / low) ** (1 / (len(coarse) - 1) / 2**refinement)
    return [max(1, round(value / ratio)), value, round(value * ratio)]


def _teacher_plans(sweep: Sweep, stage: Stage) -> list[tuple[Plan, Teacher, int]]:
    """The runs that train teachers, seed by seed, each with the teacher and the seed of its student."""
    plans = []
    for seed in stage.seeds:
        for teacher in stage.teachers:
            changed = {"epochs": teacher.epochs, "batch_size": teacher.batch_size}
            rate = learning_rate(sweep, teacher.batch_size)
            protocol = {**sweep.protocol, **changed, "learning_rate": rate, "held_out": stage.held_out}
            own = seed + TWIN if teacher.network == sweep.student else seed
            grid = _grid(teacher.network, None, None, {str(teacher): {LABELS: 1}}, protocol, own)
            (plan,) = planned_runs({**grid, "keep_epochs": [teacher.epochs]})
            plans.append((plan, teacher, seed))
    return plans


def _student_plans(sweep: Sweep, stage: Stage, store: str | Path) -> list[Plan]:
    """The runs of students: alone, and from each teacher that is finished.

    Raises:
        ValueError: a teacher is finished, and its weights are not there.
    """
    protocol = {**sweep.protocol, "held_out": stage.held_out}
    kept = {"keep_epochs": [sweep.protocol["epochs"]]}
    plans = []
    for seed in stage.seeds if stage.alone else ():
        plans += planned_runs(_grid(sweep.student, None, None, {ALONE: {LABELS: 1}}, protocol, seed) | kept)
    for plan, teacher, seed in _teacher_plans(sweep, stage):
        if state_of(plan, store)[0] == FINISHED:
            require_epochs(plan, Path(store).expanduser() / plan.folder)
            weights = f"{plan.folder}/{kept_name(teacher.epochs)}"
            own = _grid(sweep.student, teacher.network, weights, {plan.method: sweep.method}, protocol, seed)
            plans += planned_runs(own | kept)
    return sorted(plans, key=lambda plan: stage.seeds.index(plan.seed))


def _grid(
    student: str, teacher: str | None, weights: str | None, methods: dict, protocol: dict, seed: int
) -> dict[str, Any]:
    """A grid of one run."""
    pair = {"student": student} | ({"teacher": teacher, "teacher_weights": weights} if teacher else {})
    name = "held out" if protocol["held_out"] else "test images"
    return {"pairs": [pair], "methods": methods, "protocols": {name: protocol}, "seeds": [seed]}


def learning_rate(sweep: Sweep, batch_size: int) -> float:
    """That of a teacher, from its batch size; to six digits, which rounding then leaves alone."""
    ratio = batch_size / sweep.protocol["batch_size"]
    return float(f"{sweep.protocol['learning_rate'] * ratio ** LEARNING_RATES[sweep.learning_rate]:.6g}")


# --- reading -------------------------------------------------------------------------------------


def read_sweep(sweep: Mapping[str, Any] | str | Path | Sweep) -> Sweep:
    """A sweep from its TOML file or from a dict, checked before anything is trained.

    Raises:
        ValueError: unknown or missing keys, values out of range, networks or settings that nobody knows, a file that is
            no TOML.
        OSError: it cannot be read.
    """
    if isinstance(sweep, Sweep):
        return sweep
    given = read_grid(sweep)
    require_keys(given, KEYS | OPTIONAL, KEYS, "a sweep")
    rule, refinements = given.get("learning_rate", "linear"), given.get("refinements", 1)
    if not isinstance(rule, str) or rule not in LEARNING_RATES:
        raise ValueError(f"learning_rate={rule!r} is no rule; choose one of {', '.join(LEARNING_RATES)}")
    if isinstance(refinements, bool) or not isinstance(refinements, int) or refinements < 0:
        raise ValueError(f"refinements={refinements!r}; give 0, 1, 2, ...")
    search, confirmation = _checked_seeds(given)
    protocol = _checked_protocol(given)
    if not isinstance(given["method"], Mapping) or not needs_teacher(given["method"]):
        raise ValueError(f"the method is {given['method']!r}; give one that asks a teacher")
    checked = Sweep(
        name=str(given.get("name", "sweep")),
        student=given["student"],
        teachers=_checked_networks(given["teachers"]),
        batch_sizes=_whole_numbers("batch_sizes", given["batch_sizes"]),
        epochs=_whole_numbers("epochs", given["epochs"]),
        learning_rate=rule,
        refinements=refinements,
        also=_checked_also(given.get("also", ())),
        search=search,
        confirmation=confirmation,
        protocol=protocol,
        method=checked_method("taught", given["method"]),
    )
    if len(checked.coarse) < FEWEST:
        raise ValueError("the sweep has a single teacher, and nothing to compare it with; give two or more")
    _require_runs(checked)
    if shared := [seed for seed in search["seeds"] if seed in confirmation["seeds"]]:
        raise ValueError(f"seed {shared[0]!r} is one of the search and of the confirmation, which wants others")
    return checked


def _checked_seeds(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The search and the confirmation."""
    search, confirmation = given["search"], given["confirmation"]
    require_keys(search, {"seeds", "held_out"}, {"seeds", "held_out"}, "the search")
    require_keys(confirmation, {"seeds"}, {"seeds"}, "the confirmation")
    for what, seeds in (("search", search["seeds"]), ("confirmation", confirmation["seeds"])):
        if not isinstance(seeds, list | tuple) or len(seeds) < FEWEST or _is_repeated(seeds):
            raise ValueError(f"the {what}'s seeds are {seeds!r}; list two different ones or more")
    if search["held_out"] == 0:
        raise ValueError("held_out=0: a search on the test images could not be confirmed on them; give 2, 3, ...")
    return dict(search), dict(confirmation)


def _checked_networks(networks: Any) -> tuple[str, ...]:
    if not isinstance(networks, list | tuple) or not networks or _is_repeated(networks):
        raise ValueError(f"the teachers are {networks!r}; list names of networks, each once")
    return tuple(_checked_network(network) for network in networks)


def _checked_also(also: Any) -> tuple[Teacher, ...]:
    """Teachers to confirm beside the chosen ones."""
    if not isinstance(also, list | tuple) or not all(isinstance(one, list | tuple) and len(one) == 3 for one in also):
        raise ValueError(f"also={also!r}; list teachers as [network, batch size, epochs]")
    return tuple(Teacher(_checked_network(network), *_whole_numbers("also", sizes)) for network, *sizes in also)


def _checked_network(network: Any) -> str:
    if not isinstance(network, str):
        raise ValueError(f"a teacher is {network!r}, which is no name")
    return network


def _require_runs(sweep: Sweep) -> None:
    """Refuse what no run has, of every teacher and of a student from each network."""
    teachers = tuple(dict.fromkeys((*sweep.coarse, *sweep.also)))
    for held_out, seeds in ((sweep.search["held_out"], sweep.search["seeds"]), (0, sweep.confirmation["seeds"])):
        _teacher_plans(sweep, Stage(COARSE, teachers, tuple(seeds), held_out))
    for network in dict.fromkeys(teacher.network for teacher in teachers):
        protocol = {**sweep.protocol, "held_out": 0}
        planned_runs(_grid(sweep.student, network, "its own", {"taught": sweep.method}, protocol, 0))


def _is_repeated(values: Sequence[Any]) -> bool:
    """Whether one of the values is there twice; they may be of any type."""
    return any(value in values[:place] for place, value in enumerate(values))


def _checked_protocol(given: Mapping[str, Any]) -> dict[str, Any]:
    """The student's, every setting named."""
    protocol = given["protocol"]
    if isinstance(protocol, Mapping) and "held_out" in protocol:
        raise ValueError("held_out belongs to the search: the confirmation takes the test images")
    grid = {"pairs": [{"student": given["student"]}], "methods": {ALONE: {LABELS: 1}}, "seeds": [0]}
    (plan,) = planned_runs({**grid, "protocols": {"protocol": protocol}})
    return {key: value for key, value in plan.setting.items() if key != "held_out"}


def _whole_numbers(name: str, values: Any) -> tuple[int, ...]:
    """A list of different numbers from 1 on."""
    right = isinstance(values, list | tuple) and values and all(type(value) is int and value > 0 for value in values)
    if not right or (name != "also" and _is_repeated(values)):
        raise ValueError(f"{name} are {values!r}; list different whole numbers from 1 on")
    return tuple(values)
