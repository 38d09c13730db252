"""The best of many teachers, and how sure that is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spectralkd_nb.experiments.comparison import CONFIDENCE, PairedDifference, check_share, paired_difference

if TYPE_CHECKING:
    import pandas

OF_A_TEACHER = ["network", "batch_size", "epochs"]
COARSE, CONFIRMED = "coarse", "confirmation"  # in the column of steps
ALONE = "alone"  # a student's method
FEWEST = 2  # teachers, and seeds, that a deviation can be had from


@dataclass(frozen=True)
class Teacher:
    """One teacher of a sweep. Numbers may come out of a table.

    Attributes:
        network: name for `build`.
        batch_size: images a step.
        epochs: of its training.
    """

    network: str
    batch_size: int
    epochs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", int(self.batch_size))
        object.__setattr__(self, "epochs", int(self.epochs))

    def __str__(self) -> str:
        return f"{self.network}, batches of {self.batch_size}, {self.epochs} epochs"


@dataclass(frozen=True)
class SweetSpot:
    """What a sweep found, and how sure it is.

    Attributes:
        best: the teacher whose students were best in the search, on held-out images.
        accuracy: of these students, mean over seeds, percent.
        candidates: the teachers among which the truly best of all is with the stated confidence (Gupta 1965,
            Technometrics 7:225), best first.
        margin: how far behind the best a candidate may be, points.
        deviation: of a student's accuracy around what its teacher and its seed account for, points; of those teachers
            among which the candidates were told.
        teachers, seeds: how many the search compared.
        most_accurate: the teacher, of all that were tried, that was best itself on the held-out images.
        gain: of the best teacher's students over the most accurate one's, on test images with fresh seeds; None where
            these are the same teacher or the confirmation is missing.
        over_alone: of the best teacher's students over students alone, likewise.
        confidence: of the candidates and of the verdict.
    """

    best: Teacher
    accuracy: float
    candidates: tuple[Teacher, ...]
    margin: float
    deviation: float
    teachers: int
    seeds: int
    most_accurate: Teacher
    gain: PairedDifference | None
    over_alone: PairedDifference | None
    confidence: float

    @property
    def verdict(self) -> str:
        """Whether the search was worth it, in the confirmation.

        "better" or "worse" than the most accurate teacher, "inconclusive", "the most accurate" where the search chose
        that one itself, or "unconfirmed".
        """
        if self.best == self.most_accurate:
            return "the most accurate"
        return "unconfirmed" if self.gain is None else self.gain.verdict

    def __str__(self) -> str:
        told = [
            f"best in the search: {self.best} ({self.accuracy:.1f} % on held-out images)",
            f"{len(self.candidates)} of {self.teachers} teachers may be the best, with {100 * self.confidence:g} %",
        ]
        if self.best == self.most_accurate:
            told.append("the best teacher is also the most accurate one")
        elif self.gain is None:
            told.append(f"not confirmed against the most accurate one, {self.most_accurate}")
        else:
            told.append(f"over the most accurate one, {self.most_accurate}: {_in_words(self.gain)}")
        if self.over_alone is not None:
            told.append(f"over students alone: {_in_words(self.over_alone)}")
        return "; ".join(told)


def _in_words(gain: PairedDifference) -> str:
    low, high = gain.t_interval
    return (
        f"{gain.mean:+z.2f} points on test images ({low:+z.2f} to {high:+z.2f}, {gain.count} seeds, "
        f"{gain.detectable:.2f} detectable), {gain.verdict}"
    )


def sweet_spot(table: pandas.DataFrame, confidence: float = CONFIDENCE) -> SweetSpot:
    """Which teacher of a sweep teaches best, as far as its seeds can tell.

    All teachers of the search were tried with the same seeds. Their students' accuracies are taken apart into a part
    of the teacher, a part of the seed and the rest, whose deviation s all are taken to share. A teacher may be the best
    as long as its students' mean is within d s sqrt(2 / seeds) of the highest: with Dunnett's one-sided d, the set of
    these holds the best of k with the stated confidence, whatever the means (Gupta 1965). Here d is Student's t at
    (1 - confidence) / (k - 1), which is never smaller. Students of bad teachers vary most, so those who are out are
    left out of s too, and the rest is judged again until nobody leaves.

    In 4 000 simulated sweeps of 36 teachers with 3 seeds the set held the best in 96.8 % (all equally good), 97.8 %
    (12 of them far worse, and five times as unsteady). But where 12 of 36 equally good ones are four times as unsteady,
    it held a given one of these in 77.6 %; `teachers_of` tells each teacher's deviation. The confidence is over seeds,
    on the held-out images that there are.

    Whether the search was worth it is said by other seeds on other images, see `SweetSpot.verdict`; the highest of
    many means alone flatters itself.

    Args:
        table: of `sweep_results`. Teachers without a student for every seed of the search are left out.
        confidence: of the candidates and of the verdict.

    Raises:
        ValueError: fewer than two teachers or seeds that have every student, a confidence out of range.
    """
    check_share("confidence", confidence)
    search = table[(table.step != CONFIRMED) & table.network.notna()]
    students = _by_teacher(search, "student_accuracy")
    count, seeds = students.shape
    if count < FEWEST or seeds < FEWEST:
        raise ValueError(f"{count} teachers with {seeds} common seeds; a sweep needs {FEWEST} of each")
    means = students.mean(axis=1).sort_values(ascending=False, kind="stable")
    candidates, deviation, margin = _candidates(students.loc[means.index].to_numpy(), confidence)
    best = Teacher(*means.index[0])
    accuracy = _by_teacher(search, "teacher_accuracy").mean(axis=1)
    most_accurate = Teacher(*accuracy.index[int(np.argmax(accuracy))])
    confirmed = table[table.step == CONFIRMED]
    return SweetSpot(
        best=best,
        accuracy=float(means.iloc[0]),
        candidates=tuple(Teacher(*which) for which in means.index[:candidates]),
        margin=margin,
        deviation=deviation,
        teachers=count,
        seeds=seeds,
        most_accurate=most_accurate,
        gain=None if best == most_accurate else _confirmed(confirmed, best, most_accurate, confidence),
        over_alone=_confirmed(confirmed, best, None, confidence),
        confidence=confidence,
    )


def _candidates(students: np.ndarray, confidence: float) -> tuple[int, float, float]:
    """How many of the first teachers may be the best; deviation; margin. students: (teachers, seeds), ranked."""
    from scipy import stats

    among, seeds = students.shape
    level = (1 - confidence) / (among - 1)
    means = students.mean(1)
    while True:
        own = students[:among]
        rest = own - own.mean(1, keepdims=True) - own.mean(0) + own.mean()
        freedom = (among - 1) * (seeds - 1)
        deviation = math.sqrt(float(np.square(rest).sum()) / freedom)
        margin = float(stats.t.isf(level, freedom)) * deviation * math.sqrt(2 / seeds)
        left = int((means[:among] >= means[0] - margin).sum())
        if left in (1, among):  # one alone has no deviation
            return left, deviation, margin
        among = left


def teachers_of(table: pandas.DataFrame) -> pandas.DataFrame:
    """Each teacher of a sweep, and students alone, with means over seeds; best students of a step first.

    Args:
        table: of `sweep_results`.

    Returns:
        step, network, batch_size, epochs (missing for students alone), learning_rate; seeds, how many;
        teacher_accuracy, student_accuracy, percent; deviation of the latter over seeds.
    """
    keys = ["step", *OF_A_TEACHER]
    own = table.groupby(keys, sort=False, dropna=False)
    found = own.agg(
        learning_rate=("learning_rate", "first"),
        seeds=("seed", "count"),
        teacher_accuracy=("teacher_accuracy", "mean"),
        deviation=("student_accuracy", "std"),
        student_accuracy=("student_accuracy", "mean"),
    )
    order = {step: number for number, step in enumerate(table.step.unique())}
    found = found.reset_index().astype({"batch_size": "Int64", "epochs": "Int64"})
    ranked = found.sort_values("student_accuracy", ascending=False, kind="stable")
    return ranked.sort_values("step", key=lambda steps: steps.map(order), kind="stable").reset_index(drop=True)


def students_of(table: pandas.DataFrame, step: str = CONFIRMED) -> pandas.DataFrame:
    """The students of one step as runs, each teacher a method, for `compare_methods` and the figure of methods.

    Args:
        table: of `sweep_results`.
        step: one of its steps.

    Returns:
        seed; student ("student": one for all), teacher (None), protocol (the step), method (the teacher in words, or
        "alone"); accuracy, percent; seconds, of both trainings. Tables of sweeps have no best epochs.

    Raises:
        ValueError: the table has no such step.
    """
    own = table[table.step == step]
    if own.empty:
        raise ValueError(f"the table has no step {step!r}; it has {', '.join(map(repr, table.step.unique()))}")
    named = [
        ALONE if alone else str(Teacher(*which))
        for alone, *which in zip(own.network.isna(), own.network, own.batch_size, own.epochs, strict=True)
    ]
    kept = {"student": "student", "teacher": None, "protocol": step, "method": named}
    runs = own[["seed", "seconds"]].assign(**kept, accuracy=own.student_accuracy)
    return runs.reset_index(drop=True)


def _by_teacher(rows: pandas.DataFrame, values: str) -> pandas.DataFrame:
    """A row for each teacher that has a value for every seed, a column for each seed."""
    whole = rows.astype({"batch_size": int, "epochs": int})
    return whole.set_index([*OF_A_TEACHER, "seed"])[values].unstack("seed").dropna()


def _confirmed(
    rows: pandas.DataFrame, first: Teacher, second: Teacher | None, confidence: float
) -> PairedDifference | None:
    """What one teacher's students gain over another's, or over students alone, with the seeds that both have."""
    ours, theirs = _students_of(rows, first), _students_of(rows, second)
    common = ours.index.intersection(theirs.index)
    if len(common) < FEWEST:
        return None
    return paired_difference(ours[common], theirs[common], confidence)


def _students_of(rows: pandas.DataFrame, teacher: Teacher | None) -> pandas.Series:
    """Accuracy by seed of a teacher's students, or of students alone."""
    if teacher is None:
        own = rows.network.isna()
    else:
        own = (rows.network == teacher.network) & (rows.batch_size == teacher.batch_size)
        own &= rows.epochs == teacher.epochs
    return rows[own].set_index("seed").student_accuracy
