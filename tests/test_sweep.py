"""Sweeps of teachers: what the search may conclude, what is planned and refused, and what survives whatever happens."""

from __future__ import annotations

import copy
import functools
import io
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from threads import one_thread as one_thread  # a fixture
from torch import nn

from spectralkd_nb.__main__ import main
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.distillation import Recipe, Run, read_run, train
from spectralkd_nb.distillation.store import RECORD, kept_name
from spectralkd_nb.experiments import compare_methods, paired_difference, planned_runs, run_grid
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.experiments.records import failure_file
from spectralkd_nb.experiments.sweep import (
    COLUMNS,
    TWIN,
    Sweep,
    learning_rate,
    neighbours,
    read_sweep,
    sweep_results,
    sweep_row,
    sweep_teachers,
)
from spectralkd_nb.experiments.sweet_spot import SweetSpot, Teacher, students_of, sweet_spot, teachers_of
from spectralkd_nb.experiments.work import GridProgress
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.weights import fingerprint_of

Options = dict[str, Any]
Scores = Mapping[Teacher | None, Sequence[float]]

SMALL, MIDDLE, LARGE = (Teacher(network, 32, 4) for network in ("vgg8x0.125", "vgg8x0.25", "vgg8x0.5"))
OF_A_TEACHER = ["network", "batch_size", "epochs"]

# --- the sweet spot ------------------------------------------------------------------------------


def rows(step: str, scores: Scores, own: Mapping[Teacher, float] | None = None, first: int = 0) -> pd.DataFrame:
    """One row a student, the seeds of each counted from the first; own accuracy of the teachers, the same by seed."""
    found = []
    for teacher, accuracies in scores.items():
        for seed, accuracy in enumerate(accuracies, first):
            row = dict.fromkeys(COLUMNS) | {"step": step, "seed": seed, "student_accuracy": float(accuracy)}
            if teacher is not None:
                row |= {name: getattr(teacher, name) for name in OF_A_TEACHER}
                row |= {"learning_rate": 0.1, "teacher_accuracy": float((own or {}).get(teacher, 50))}
            found.append(row | {"seconds": 1.0})
    return pd.DataFrame(found, columns=COLUMNS)


# A part of the teacher (72, 74, 70), one of the seed (-2, 0, 2) and a rest of 1, -1, 0 and its negative.
SEARCH = {None: [90, 90, 90], SMALL: [71, 71, 74], MIDDLE: [71, 75, 76], LARGE: [68, 70, 72]}
OWN = {SMALL: 83.0, MIDDLE: 82.0, LARGE: 81.0}
CONFIRMATION = {
    None: [70, 71.5, 72, 70.5],
    MIDDLE: [73, 75, 74, 74.5],
    SMALL: [72.5, 73, 73.5, 73],
    LARGE: [99, 99, 99, 99],
}


def example(search: Scores = SEARCH, confirmation: Scores = CONFIRMATION) -> pd.DataFrame:
    return pd.concat([rows("coarse", search, OWN, 100), rows("confirmation", confirmation, OWN)], ignore_index=True)


def test_the_sweet_spot_of_three_teachers_by_hand():
    found = sweet_spot(example())
    # Of all three: four squares of 1 by (3 - 1) (3 - 1) degrees of freedom, and LARGE is out by t of 4 at 0.05 / 2.
    # Of the two that are left: the same squares by (2 - 1) (3 - 1).
    assert stats.t.isf(0.05 / 2, 4) * math.sqrt(2 / 3) < 4
    assert found.deviation == pytest.approx(math.sqrt(2), rel=1e-12)
    assert found.margin == pytest.approx(4.3026527297 * math.sqrt(2) * math.sqrt(2 / 3), rel=1e-10)
    assert found.margin == pytest.approx(stats.t.isf(0.05 / 2, 2) * math.sqrt(2) * math.sqrt(2 / 3), rel=1e-12)
    assert (found.best, found.accuracy, found.most_accurate) == (MIDDLE, 74, SMALL)
    assert found.candidates == (MIDDLE, SMALL)  # 2.0 behind, and LARGE is 4.0
    assert (found.teachers, found.seeds, found.confidence) == (3, 3, 0.95)
    assert found.gain == paired_difference(CONFIRMATION[MIDDLE], CONFIRMATION[SMALL])
    assert found.over_alone == paired_difference(CONFIRMATION[MIDDLE], CONFIRMATION[None])
    assert found.gain.mean == pytest.approx(1.125)
    assert found.over_alone.mean == pytest.approx(3.125)


def test_the_confidence_is_that_of_the_set_and_of_the_verdict():
    found = sweet_spot(example(), 0.5)
    assert found.margin == pytest.approx(stats.t.ppf(1 - 0.5 / 2, 4) * math.sqrt(2 / 3), rel=1e-12)
    assert found.candidates == (MIDDLE,)
    assert found.gain == paired_difference(CONFIRMATION[MIDDLE], CONFIRMATION[SMALL], 0.5)
    assert found.over_alone == paired_difference(CONFIRMATION[MIDDLE], CONFIRMATION[None], 0.5)
    assert found.confidence == 0.5
    # The margin of two points lies between, where 1 - confidence is four times the tail beyond 2 / sqrt(2 / 3).
    edge = 1 - 2 * stats.t.sf(2 / math.sqrt(2 / 3), 4)
    assert sweet_spot(example(), edge - 1e-3).candidates == (MIDDLE,)
    assert sweet_spot(example(), edge + 1e-3).candidates == (MIDDLE, SMALL)
    for confidence in (0, 1, 95):
        with pytest.raises(ValueError, match=f"confidence={confidence} has to lie between 0 and 1"):
            sweet_spot(example(), confidence)


def same_but_accuracy(first: SweetSpot, second: SweetSpot) -> bool:
    for field in fields(SweetSpot):
        ours, theirs = getattr(first, field.name), getattr(second, field.name)
        if field.name in ("gain", "over_alone"):
            assert (ours.verdict, ours.count) == (theirs.verdict, theirs.count)
            assert (ours.mean, *ours.t_interval, ours.p) == pytest.approx((theirs.mean, *theirs.t_interval, theirs.p))
        elif field.name in ("deviation", "margin"):
            assert ours == pytest.approx(theirs)
        elif field.name != "accuracy":
            assert ours == theirs, field.name
    return True


def test_what_a_seed_gives_to_all_students_changes_nothing_but_the_accuracy():
    table = example()
    found = sweet_spot(table)
    for shifts in ({100: 5.0}, {101: -7.25, 102: 3.0}, {0: 4.0, 3: -11.0}):
        moved = table.assign(student_accuracy=table.student_accuracy + table.seed.map(shifts).fillna(0))
        other = sweet_spot(moved)
        assert same_but_accuracy(other, found)
        search = sum(shift for seed, shift in shifts.items() if seed >= 100)
        assert other.accuracy == pytest.approx(found.accuracy + search / 3)


def test_the_order_of_rows_changes_nothing():
    table = example()
    for seed in range(5):
        assert sweet_spot(table.sample(frac=1, random_state=seed)) == sweet_spot(table)


def test_the_accuracy_of_a_teacher_is_its_mean_over_seeds():
    table = example()
    # For one seed another teacher is far ahead; on average SMALL still is the most accurate.
    seed = (table.step == "coarse") & (table.seed == 102)
    table.loc[seed & (table.network == LARGE.network), "teacher_accuracy"] = 86.0
    assert sweet_spot(table).most_accurate == SMALL
    table.loc[seed & (table.network == LARGE.network), "teacher_accuracy"] = 88.0
    assert sweet_spot(table).most_accurate == LARGE
    # Nor does it matter what teachers were on the test images.
    table.loc[table.step == "confirmation", "teacher_accuracy"] = 99.0
    table.loc[(table.step == "confirmation") & (table.network == LARGE.network), "teacher_accuracy"] = 0.0
    assert sweet_spot(table).most_accurate == LARGE


def test_every_step_of_the_search_counts_and_the_confirmation_does_not():
    later = Teacher("vgg8x0.25", 64, 6)
    table = pd.concat([example(), rows("refined 1", {later: [73, 77, 78]}, {later: 70.0}, 100)])
    found = sweet_spot(table)
    assert (found.best, found.accuracy, found.teachers) == (later, 76, 4)
    assert (found.gain, found.over_alone, found.verdict) == (None, None, "unconfirmed")
    # In `example` the students of LARGE are the best on the test images, and students alone on the held-out ones.
    assert sweet_spot(example()).best == MIDDLE
    fewer = table[table.network.notna() | (table.step == "confirmation")]
    assert sweet_spot(fewer) == found


def test_a_teacher_that_lacks_a_seed_is_left_out():
    table = example({**SEARCH, Teacher("vgg8x1", 32, 4): [99, 99]})
    table.loc[table.network == "vgg8x1", "teacher_accuracy"] = 99.0
    assert sweet_spot(table) == sweet_spot(example())
    # So is one that has others: the seeds count that anyone has.
    late = rows("coarse", {Teacher("vgg8x1", 32, 4): [99, 99]}, OWN, 101)
    assert sweet_spot(pd.concat([example(), late])) == sweet_spot(example())


def test_too_little_to_compare_is_refused():
    both = {SMALL: [71, 72], MIDDLE: [74, 75]}
    assert sweet_spot(example(both)).teachers == 2
    with pytest.raises(ValueError, match=r"1 teachers with 3 common seeds; a sweep needs 2 of each"):
        sweet_spot(example({SMALL: SEARCH[SMALL], None: [1, 2, 3]}))
    with pytest.raises(ValueError, match=r"3 teachers with 1 common seeds; a sweep needs 2 of each"):
        sweet_spot(example({teacher: accuracies[:1] for teacher, accuracies in SEARCH.items()}))
    table = example()
    for seed, teacher in enumerate((SMALL, MIDDLE, LARGE), 100):  # each lacks another seed
        table = table[(table.network != teacher.network) | (table.seed != seed)]
    with pytest.raises(ValueError, match=r"0 teachers with 3 common seeds; a sweep needs 2 of each"):
        sweet_spot(table)
    for nothing in (example({}), pd.DataFrame(columns=COLUMNS), rows("coarse", {None: [1, 2]})):
        with pytest.raises(ValueError, match=r"0 teachers with 0 common seeds; a sweep needs 2 of each"):
            sweet_spot(nothing)


def candidates_of(accuracies: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """(sweeps, teachers, seeds) to (sweeps, teachers), whether each is in the set; the formula, written out again."""
    return np.stack([_held(sweep, confidence) for sweep in accuracies])


def _held(accuracies: np.ndarray, confidence: float) -> np.ndarray:
    count, seeds = accuracies.shape
    means = accuracies.mean(1)
    held = np.ones(count, dtype=bool)
    while True:
        own = accuracies[held]
        fitted = own.mean(1)[:, None] + own.mean(0)[None] - own.mean()
        freedom = (len(own) - 1) * (seeds - 1)
        variance = ((own - fitted) ** 2).sum() / freedom
        margin = stats.t.ppf(1 - (1 - confidence) / (count - 1), freedom) * np.sqrt(2 * variance / seeds)
        left = held & (means >= means.max() - margin)
        if left.sum() in (1, held.sum()):
            return left
        held = left


def sweeps_of(means: Sequence[float], sweeps: int, seeds: int = 3, seed: int = 0) -> np.ndarray:
    """Accuracies of many sweeps: of teachers with these means, with Gaussian parts of the seed and of the run."""
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((sweeps, 1, seeds))
    return 70 + np.asarray(means)[:, None] + shared + 0.5 * rng.standard_normal((sweeps, len(means), seeds))


EVERY = [Teacher("vgg8x0.25", batch_size, epochs) for batch_size in range(1, 7) for epochs in range(1, 7)]


def test_the_unsteadiness_of_those_who_are_out_widens_nothing():
    good = {SMALL: [71, 71, 74], MIDDLE: [80, 83, 85], LARGE: [80, 84, 85]}
    bad = {Teacher("vgg8x1", 32, epochs): scores for epochs, scores in enumerate(([5, 45, 10], [30, 9, 38]), 1)}
    found, alone = sweet_spot(rows("coarse", {**good, **bad})), sweet_spot(rows("coarse", good))
    assert set(found.candidates) == set(alone.candidates) == {MIDDLE, LARGE}
    assert (found.teachers, alone.teachers) == (5, 3)
    pair = np.array([good[MIDDLE], good[LARGE]])
    rest = pair - pair.mean(1, keepdims=True) - pair.mean(0) + pair.mean()
    assert found.deviation == alone.deviation == pytest.approx(math.sqrt((rest**2).sum() / 2))
    # But how many there were to choose from counts to the end.
    scale = found.deviation * math.sqrt(2 / 3)
    assert found.margin == pytest.approx(stats.t.isf(0.05 / 4, 2) * scale)
    assert alone.margin == pytest.approx(stats.t.isf(0.05 / 2, 2) * scale)


def test_of_36_equally_good_teachers_a_chosen_one_is_held_in_97_of_100_sweeps():
    drawn = sweeps_of([0.0] * 36, 4000)
    held = candidates_of(drawn)
    assert held[:, 0].mean() >= 0.95
    assert held[:, 0].mean() == pytest.approx(0.968, abs=3 * math.sqrt(0.968 * 0.032 / 4000))
    for accuracies, of_the_set in zip(drawn[:40], held, strict=False):
        found = sweet_spot(rows("coarse", dict(zip(EVERY, accuracies, strict=True))))
        assert set(found.candidates) == {teacher for teacher, one in zip(EVERY, of_the_set, strict=True) if one}
        means = accuracies.mean(1)
        assert found.best == found.candidates[0] == EVERY[means.argmax()]
        in_order = [means[EVERY.index(teacher)] for teacher in found.candidates]
        assert in_order == sorted(in_order, reverse=True)


@pytest.mark.parametrize(("count", "seeds"), [(2, 2), (5, 2), (8, 5)])
def test_whatever_the_means_the_best_is_held_19_times_in_20(count, seeds):
    for number, spread in enumerate((0.0, 0.3, 1.0)):
        means = spread * np.linspace(0, 1, count) ** 2
        held = candidates_of(sweeps_of(means, 4000, seeds, seed=number))
        assert held[:, -1].mean() >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 4000)


def test_a_teacher_that_is_much_better_is_the_only_candidate():
    drawn = sweeps_of([0.0] * 17 + [4.0] + [0.0] * 18, 200)
    assert candidates_of(drawn).sum(1).tolist() == [1] * 200
    for accuracies in drawn[:5]:
        found = sweet_spot(rows("coarse", dict(zip(EVERY, accuracies, strict=True))))
        assert found.candidates == (found.best,) == (EVERY[17],)


def test_the_verdicts_and_how_they_read():
    sure = "best in the search: vgg8x0.25, batches of 32, 4 epochs (74.0 % on held-out images); "
    sure += "2 of 3 teachers may be the best, with 95 %; "
    against = f"{sure}over the most accurate one, vgg8x0.125, batches of 32, 4 epochs: "

    better = sweet_spot(example(confirmation={MIDDLE: [75, 76, 77.5], SMALL: [70, 71, 72]}))
    assert better.verdict == "better"
    low, high = better.gain.t_interval
    told = f"+5.17 points on test images (+{low:.2f} to +{high:.2f}, 3 seeds, {better.gain.detectable:.2f} detectable)"
    assert str(better) == f"{against}{told}, better"

    worse = sweet_spot(example(confirmation={MIDDLE: [70, 71, 72.5], SMALL: [75, 76, 77]}))
    assert worse.verdict == "worse"
    low, high = worse.gain.t_interval
    assert low < high < 0
    told = f"-4.83 points on test images ({low:.2f} to {high:.2f}, 3 seeds, {worse.gain.detectable:.2f} detectable)"
    assert str(worse) == f"{against}{told}, worse"

    unsure = sweet_spot(example(confirmation={MIDDLE: [70, 76, 72.5], SMALL: [75, 71, 72.5]}))
    assert unsure.verdict == "inconclusive"
    assert str(unsure).startswith(f"{against}+0.00 points on test images (-")
    assert str(unsure).endswith(" detectable), inconclusive")

    unconfirmed = sweet_spot(example(confirmation={SMALL: [75, 71, 72.5]}))
    assert (unconfirmed.verdict, unconfirmed.gain, unconfirmed.over_alone) == ("unconfirmed", None, None)
    assert str(unconfirmed) == f"{sure}not confirmed against the most accurate one, vgg8x0.125, batches of 32, 4 epochs"


def test_where_the_best_teaches_best_there_is_nothing_to_gain():
    table = example()
    table.loc[table.network == MIDDLE.network, "teacher_accuracy"] = 90.0
    found = sweet_spot(table)
    assert (found.best, found.most_accurate) == (MIDDLE, MIDDLE)
    assert (found.verdict, found.gain) == ("the most accurate", None)
    assert found.over_alone == paired_difference(CONFIRMATION[MIDDLE], CONFIRMATION[None])
    assert "2 of 3 teachers may be the best, with 95 %; the best teacher is also the most accurate one;" in str(found)


def test_confirmed_are_the_seeds_that_both_have_whatever_their_order():
    whole = sweet_spot(example())
    table = example(confirmation={**CONFIRMATION, MIDDLE: [*CONFIRMATION[MIDDLE], 0.0, 0.0]})
    table = table.sample(frac=1, random_state=3)
    assert sweet_spot(table) == whole
    one = table[(table.step != "confirmation") | (table.network != SMALL.network) | (table.seed == 1)]
    assert (sweet_spot(one).gain, sweet_spot(one).verdict) == (None, "unconfirmed")
    assert sweet_spot(one).over_alone == whole.over_alone


def test_a_teacher_is_told_from_others_of_its_network():
    batch, epochs = replace(MIDDLE, batch_size=8), replace(MIDDLE, epochs=9)
    others = {batch: [0, 0, 0, 0], epochs: [0, 0, 0, 0]}
    table = example({**SEARCH, batch: [60, 61, 62], epochs: [60, 61, 62]}, {**CONFIRMATION, **others})
    found = sweet_spot(table)
    assert found.gain == paired_difference(CONFIRMATION[MIDDLE], CONFIRMATION[SMALL])
    assert found.teachers == 5


def test_a_table_that_is_read_back_says_the_same():
    table = example()
    again = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    assert again.batch_size.dtype == again.epochs.dtype == float  # missing values have made them so
    assert sweet_spot(again) == sweet_spot(table)
    assert str(sweet_spot(again)) == str(sweet_spot(table))
    pd.testing.assert_frame_equal(teachers_of(again), teachers_of(table), check_dtype=False)


def test_the_numbers_of_teachers_are_python_s():
    found = sweet_spot(example())
    assert {type(value) for teacher in (found.best, *found.candidates) for value in vars(teacher).values()} == {
        str,
        int,
    }
    assert "np.int64" not in repr(found)


def test_the_teachers_of_a_table_are_means_over_seeds_the_best_students_of_a_step_first():
    table = example()
    table.loc[(table.network == SMALL.network) & (table.seed == 100), "teacher_accuracy"] = 86.0
    found = teachers_of(table)
    columns = "step network batch_size epochs learning_rate seeds teacher_accuracy student_accuracy deviation"
    assert sorted(found.columns) == sorted(columns.split())
    assert found.step.tolist() == ["coarse"] * 4 + ["confirmation"] * 4
    names = [None if pd.isna(name) else name for name in found.network]
    middle, small, large = MIDDLE.network, SMALL.network, LARGE.network
    assert names == [None, middle, small, large, large, middle, small, None]
    assert found.student_accuracy.tolist() == pytest.approx([90, 74, 72, 70, 99, 74.125, 73, 71])
    wanted = [SEARCH[None], SEARCH[MIDDLE], SEARCH[SMALL], SEARCH[LARGE]]
    wanted += [CONFIRMATION[LARGE], CONFIRMATION[MIDDLE], CONFIRMATION[SMALL], CONFIRMATION[None]]
    assert found.deviation.tolist() == pytest.approx([np.std(values, ddof=1) for values in wanted])
    assert found.seeds.tolist() == [3] * 4 + [4] * 4
    assert found.teacher_accuracy[1:4].tolist() == pytest.approx([82, 84, 81])
    alone = found.network.isna()
    assert found[alone][["batch_size", "epochs", "learning_rate", "teacher_accuracy"]].isna().all(axis=None)
    assert set(found[~alone].batch_size) == {32}
    assert found.epochs.dtype == "Int64"  # whole numbers, though one is missing
    # Steps stay in the order in which they come, which is not that of the alphabet.
    steps = [rows(step, {SMALL: [1, 2]}) for step in ("refined 1", "coarse")]
    assert teachers_of(pd.concat(steps)).step.tolist() == ["refined 1", "coarse"]
    assert len(teachers_of(pd.DataFrame(columns=COLUMNS))) == 0


def test_the_students_of_a_step_are_runs_that_methods_are_compared_by():
    table = example()
    for given in (table, pd.read_csv(io.StringIO(table.to_csv(index=False)))):
        runs = students_of(given)
        columns = ["student", "teacher", "protocol", "method", "seed", "accuracy", "seconds"]
        assert sorted(runs.columns) == sorted(columns)
        assert runs.teacher.isna().all()
        assert set(runs.seconds) == {1.0}
        assert (set(runs.student), set(runs.protocol)) == ({"student"}, {"confirmation"})
        by_method = runs.groupby("method", sort=False).accuracy.apply(list)
        names = ["alone", *map(str, (MIDDLE, SMALL, LARGE))]
        assert by_method.to_dict() == dict(zip(names, CONFIRMATION.values(), strict=True))
        compared = compare_methods(runs, "alone").set_index("method")
        assert compared.difference[str(MIDDLE)] == pytest.approx(sweet_spot(given).over_alone.mean)
    coarse = students_of(table, "coarse")
    assert coarse[coarse.method == str(LARGE)].set_index("seed").accuracy.to_dict() == {100: 68, 101: 70, 102: 72}
    with pytest.raises(ValueError, match="the table has no step 'fine'; it has 'coarse', 'confirmation'"):
        students_of(table, "fine")


# --- what is planned -----------------------------------------------------------------------------

TOML = """
name = "shades"
student = "vgg8x0.0625"
teachers = ["vgg8x0.125", "vgg8x0.0625"]
batch_sizes = [4, 16]
epochs = [2]
also = [["resnet8", 8, 1]]

[search]
seeds = [100, 101]
held_out = 3

[confirmation]
seeds = [0, 1]

[protocol]
data = "{place}/shades.npz"
epochs = 3
batch_size = 8
augment = false

[method]
"soft targets" = {{ temperature = 4, weight = 0.9 }}
"cross-entropy" = 0.1
"""


@pytest.fixture(scope="module", autouse=True)
def checked_once() -> Iterator[None]:
    """Plans build every network that they name, to see whether there is one; here each name once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("spectralkd_nb.experiments.plan.build", functools.cache(build))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a data set of two shades in much noise, and a sweep of it."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(["dark", "light"])}
    for part, count in (("train", 48), ("test", 40)):
        labels = np.arange(count) % 2
        shade = 110 + 20 * labels[:, None, None, None] + 40 * rng.standard_normal((count, 4, 4, 3))
        noisy = shade.repeat(2, 1).repeat(2, 2) + 20 * rng.standard_normal((count, 8, 8, 3))
        arrays |= {f"{part}_images": noisy.clip(0, 255).astype(np.uint8), f"{part}_labels": labels}
    np.savez(place / "shades.npz", **arrays)
    (place / "sweep.toml").write_text(TOML.format(place=place))
    return place


@pytest.fixture
def sweep(place) -> Options:
    """Four teachers by two seeds in the first step; the same as the file."""
    return {
        "name": "shades",
        "student": "vgg8x0.0625",
        "teachers": ["vgg8x0.125", "vgg8x0.0625"],
        "batch_sizes": [4, 16],
        "epochs": [2],
        "learning_rate": "linear",
        "refinements": 1,
        "also": [["resnet8", 8, 1]],
        "search": {"seeds": [100, 101], "held_out": 3},
        "confirmation": {"seeds": [0, 1]},
        "protocol": {"data": f"{place}/shades.npz", "epochs": 3, "batch_size": 8, "augment": False},
        "method": {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "temperature": 4}},
    }


def changed(sweep: Options, where: str, value: Any) -> Options:
    """A sweep with another value at "key" or "table.key"; ... takes it away."""
    sweep = copy.deepcopy(sweep)
    *tables, key = where.split(".")
    table = sweep[tables[0]] if tables else sweep
    table[key] = value
    if value is ...:
        del table[key]
    return sweep


def test_a_file_and_a_dict_are_the_same_sweep(sweep, place):
    found = read_sweep(place / "sweep.toml")
    assert read_sweep(str(place / "sweep.toml")) == read_sweep(sweep) == read_sweep(found) == found
    for key in ("learning_rate", "refinements"):  # linear, and 1
        assert read_sweep(changed(sweep, key, ...)) == found
    assert read_sweep(changed(sweep, "name", ...)).name == "sweep"
    assert read_sweep(changed(sweep, "also", ...)).also == ()
    tuples = sweep | {key: tuple(sweep[key]) for key in ("teachers", "batch_sizes", "epochs", "also")}
    assert read_sweep(tuples) == found
    assert found.protocol == {
        **{key: list(value) if isinstance(value, tuple) else value for key, value in vars(Recipe()).items()},
        **sweep["protocol"],
    }


def test_the_first_step_has_every_capacity_batch_size_and_number_of_epochs(sweep):
    found = read_sweep(sweep | {"epochs": [1, 2, 5]}).coarse
    assert set(found) == {Teacher(*one) for one in itertools.product(sweep["teachers"], [4, 16], [1, 2, 5])}
    assert len(found) == 12
    assert str(Teacher("vgg8", 4, 2)) == "vgg8, batches of 4, 2 epochs"


@pytest.mark.parametrize(
    ("rule", "rates"),
    [
        ("constant", {8: 0.1, 32: 0.1, 128: 0.1}),
        ("root", {8: 0.05, 32: 0.1, 128: 0.2, 16: 0.0707107}),
        ("linear", {8: 0.025, 32: 0.1, 128: 0.4, 1: 0.003125, 3: 0.009375, 7: 0.021875}),
    ],
)
def test_learning_rates_follow_from_batch_sizes(sweep, rule, rates):
    read = read_sweep(changed(sweep, "protocol.batch_size", 32) | {"learning_rate": rule})
    assert {size: learning_rate(read, size) for size in rates} == rates
    tenfold = replace(read, protocol=read.protocol | {"learning_rate": 1.0})
    assert {size: learning_rate(tenfold, size) for size in rates} == pytest.approx(
        {size: 10 * rate for size, rate in rates.items()}, rel=1e-5
    )
    for size in range(1, 100):  # six digits, as a table is written with
        assert float(f"{learning_rate(read, size):.6g}") == learning_rate(read, size)


def around(best: tuple[int, int], batch_sizes: list[int], epochs: list[int], refinement: int = 1) -> set:
    """Batch size and epochs of the teachers around one."""
    protocol = {"data": "photographs", "epochs": 30, "batch_size": 32}
    sweep = Sweep(
        *("any", "vgg8", ("vgg8", "vgg13"), tuple(batch_sizes), tuple(epochs), "linear", 2, (), {}, {}, protocol, {})
    )
    found = neighbours(Teacher("vgg13", *best), sweep, refinement)
    assert {teacher.network for teacher in found} <= {"vgg13"}
    assert len(set(found)) == len(found)
    return {(teacher.batch_size, teacher.epochs) for teacher in found}


def test_the_second_step_goes_half_of_the_distance_and_the_third_a_quarter():
    assert around((32, 9), [8, 32, 128], [9]) == {(16, 9), (64, 9)}
    assert around((128, 9), [8, 32, 128], [9]) == {(64, 9), (256, 9)}  # beyond, for the best may lie there
    assert around((8, 9), [128, 8, 32], [9]) == {(4, 9), (16, 9)}
    assert around((32, 9), [8, 32, 128], [9], 2) == {(23, 9), (45, 9)}
    assert around((64, 9), [8, 32, 128], [9], 2) == {(45, 9), (91, 9)}
    assert around((8, 16), [8, 32], [4, 64]) == set(itertools.product([4, 8, 16], [4, 16, 64])) - {(8, 16)}
    assert around((8, 16), [8, 32], [4, 64], 2) == set(itertools.product([6, 8, 11], [8, 16, 32])) - {(8, 16)}


def test_nothing_goes_below_one_and_a_single_value_stays():
    assert around((1, 9), [1, 16], [9]) == {(4, 9)}
    assert around((2, 1), [2, 32], [1, 4, 16]) == {(1, 1), (8, 1), (1, 2), (2, 2), (8, 2)}
    assert around((1, 1), [1, 2], [1, 2]) == set()  # a distance below a half
    assert around((7, 9), [7], [9]) == set()
    assert around((7, 16), [7], [4, 64]) == {(7, 4), (7, 64)}


REFUSED = [
    (
        "sedes",
        [1],
        "a sweep has no 'sedes'; it has also, batch_sizes, confirmation, epochs, learning_rate, method, nam",
    ),
    *(
        (key, ..., f"a sweep needs '{key}'")
        for key in ("student", "teachers", "batch_sizes", "epochs", "search", "confirmation", "protocol", "method")
    ),
    ("learning_rate", "cubic", "learning_rate='cubic' is no rule; choose one of constant, root, linear"),
    *(("learning_rate", rule, "is no rule; choose one of constant") for rule in (None, 1, 0.1, "", True)),
    *(("refinements", number, "refinements=.*; give 0, 1, 2") for number in (True, False, -1, 1.0, "1", None, [1])),
    # --- seeds and held-out images
    *((f"{part}.seeds", ..., f"the {part} needs 'seeds'") for part in ("search", "confirmation")),
    *(
        (f"{part}.seeds", seeds, f"the {part}'s seeds are .*; list two different ones or more")
        for part in ("search", "confirmation")
        for seeds in (3, "012", None, [], [7], [1, 1], [1, 2, 1], [1, True], {"a": 1}, {1, 2})
    ),
    *(
        (f"{part}.seeds", seeds, "seed .* is no whole number from 0 on")
        for part in ("search", "confirmation")
        for seeds in ([-1, 0], [5, 1.5], ["1", "2"], [None, 5], [True, 5])
    ),
    ("search.held_out", ..., "the search needs 'held_out'"),
    ("search.epochs", 5, "the search has no 'epochs'; it has held_out, seeds"),
    ("confirmation.held_out", 4, "the confirmation has no 'held_out'; it has seeds"),
    *((part, [1, 2], f"the {part} is \\[1, 2\\]; give a table with") for part in ("search", "confirmation")),
    *((part, None, f"the {part} is None; give a table with") for part in ("search", "confirmation")),
    *(("search.held_out", held, "one training image in 2, 3, ... is held out") for held in (1, -2, 0.25, "4", None)),
    ("search.held_out", True, "one training image in 2, 3, ... is held out"),
    # --- networks
    ("student", "resent8", "there is no network 'resent8'; did you mean resnet8"),
    *(("student", name, "a pair's student is .*, which is no name") for name in (8, None, ["vgg8"], {"a": 1})),
    ("teachers", ["vgg8x0.125", "resent8"], "there is no network 'resent8'; did you mean resnet8"),
    *(
        ("teachers", names, "the teachers are .*; list names of networks")
        for names in ("vgg8", [], None, 8, {"vgg8": 1})
    ),
    *(("teachers", [name], "is .*, which is no name") for name in (8, None, True, 1.5)),
    ("also", [["resent8", 8, 1]], "there is no network 'resent8'; did you mean resnet8"),
    ("also", [[8, 8, 1]], "is 8, which is no name"),
    *(
        ("also", value, "also=.*; list teachers as .network, batch size, epochs.")
        for value in (8, "abc", ["abc"], [["vgg8", 8]], [["vgg8", 8, 1, 1]], None, {"vgg8": 1}, [None], ["vgg8", 8, 1])
    ),
    *(
        ("also", [["vgg8", *sizes]], "also are .*; list different whole numbers from 1 on")
        for sizes in ([8.0, 1], [0, 1], [8, -1], ["8", 1], [True, 1], [None, 1], [[8], 1])
    ),
    # --- numbers
    *(
        (key, numbers, f"{key} are .*; list different whole numbers from 1 on")
        for key in ("batch_sizes", "epochs")
        for numbers in (8, "8", [], None, [8.0], [0], [-8], [True], ["8"], [None], [[8]], [8, 8], {"a": 1}, [{}])
    ),
    # --- protocol and method
    ("protocol.held_out", 4, "held_out belongs to the search: the confirmation takes the test images"),
    ("protocol", "photographs", "protocol 'protocol' is 'photographs'; give a table with data"),
    ("protocol", None, "protocol 'protocol' is None; give a table with data"),
    ("protocol.epoch", 3, "protocol 'protocol' has no 'epoch'; it has augment"),
    ("protocol.data", ..., "protocol 'protocol' needs 'data'"),
    ("protocol.epochs", 0, "epochs=0 is not possible; give a whole number from 1 on"),
    ("protocol.batch_size", "8", "batch_size='8' is not a whole number"),
    ("protocol.learning_rate", [0.1], r"learning_rate=\[0.1\] is not a number"),
    ("method", {"cross-entropy": 1.0}, "the method is {'cross-entropy': 1.0}; give one that asks a teacher"),
    *(
        ("method", method, "the method is .*; give one that asks a teacher")
        for method in ({}, None, "soft targets", [1])
    ),
    ("method", {"soft targets": 1.0}, "method 'taught' has no 'cross-entropy'; give it a weight"),
    ("method.soft target", 1.0, "term 'soft target' is not known; did you mean 'soft targets'"),
    ("method.hint", 1.0, "term 'hint': name the layers to match"),
    ("method.hint", {"weight": 1, "layers": ["layer9"]}, "'taught', term 'hint', student vgg8x0.0625: the network has"),
    ("method.hint", {"weight": 1, "layers": [["layer1", "layer9"]]}, "teacher vgg8x0.125: the network has no layer"),
    ("method.soft targets", {"temperature": 4}, "term 'soft targets': weight=None is no number"),
]


@pytest.mark.parametrize(("where", "value", "sentence"), REFUSED, ids=[f"{w} {v}"[:50] for w, v, _ in REFUSED])
def test_what_is_wrong_with_a_sweep_is_said_before_anything_is_done(sweep, tmp_path, where, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        sweep_teachers(changed(sweep, where, value), tmp_path / "store")
    assert not (tmp_path / "store").exists()


REFUSED_TOO = [
    ("teachers", ["vgg8x0.125", "vgg8x0.125"], "a capacity twice: every row is there twice, and the search breaks"),
    ("teachers", [["vgg8x0.125"], "vgg8x0.25"], "TypeError"),
    ("teachers", [{"vgg8x0.125": 1}], "TypeError"),
    ("also", [[["vgg8x0.125"], 8, 1]], "TypeError"),
    ("learning_rate", ["linear"], "TypeError"),
    ("learning_rate", {"rule": "linear"}, "TypeError"),
    ("search.seeds", [[1], [2]], "TypeError"),
    ("confirmation.seeds", [{}, 1], "TypeError"),
    ("method.soft targets", nn.ReLU(), "TypeError"),
    ("method.soft targets", {1, 2}, "TypeError"),
    ("search.held_out", 0, "a search on the test images that confirm it"),
    ("confirmation.seeds", [101, 102], "a seed of the search, which is not fresh"),
]


@pytest.mark.parametrize(("where", "value", "why"), REFUSED_TOO, ids=[f"{w} {v}"[:50] for w, v, _ in REFUSED_TOO])
def test_what_else_is_wrong_with_a_sweep_is_a_sentence_too(sweep, where, value, why):  # noqa: ARG001
    with pytest.raises(ValueError, match=r"\w+ .*\w+"):
        read_sweep(changed(sweep, where, value))


def test_a_sweep_of_one_teacher_is_refused_before_anything_is_done(sweep):
    with pytest.raises(ValueError, match="teacher"):
        read_sweep(sweep | {"teachers": ["vgg8x0.125"], "batch_sizes": [4]})


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "sweep.toml").write_text("seeds = [0, 1\n[method]")
    with pytest.raises(ValueError, match=r"sweep\.toml is no TOML: .*line 2"):
        sweep_teachers(tmp_path / "sweep.toml", tmp_path / "store")
    (tmp_path / "sweep.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"sweep\.toml is no TOML"):
        sweep_results(tmp_path / "sweep.toml", tmp_path / "store")
    with pytest.raises(FileNotFoundError):
        sweep_teachers(tmp_path / "none.toml", tmp_path / "store")
    assert not (tmp_path / "store").exists()


# --- steps, without training ---------------------------------------------------------------------


class Faked:
    """In place of `run_plans`: every run gets a record, with an accuracy that is a function of its teacher.

    Attributes:
        taught, own: of a teacher and a seed, accuracy of its student and its own. fails: which plans do.
        steps: by name of what was to be run, the plans of it.
    """

    def __init__(self, taught: Callable[[Teacher, int], float], own: Callable[[Teacher, int], float]) -> None:
        self.taught, self.own = taught, own
        self.fails: Callable[[Plan], bool] = lambda plan: False
        self.steps: dict[str, list[Plan]] = {}
        self.retried: list[bool] = []

    def __call__(self, name: str, plans: Sequence[Plan], store: Path, *, retry: bool, **options: Any) -> None:
        assert options == {"callback": None, "device": None}
        self.retried.append(retry)
        self.steps[name] = list(plans)
        for plan in plans:
            (store / plan.folder).mkdir(exist_ok=True, parents=True)
            failure_file(plan, store).unlink(missing_ok=True)
            if self.fails(plan):
                failure_file(plan, store).write_text('{"reason": "ValueError: no"}')
            else:
                (store / plan.folder / RECORD).write_text(self.record(plan).as_json())
                for epoch in plan.keep_epochs:
                    (store / plan.folder / kept_name(epoch)).touch()

    def record(self, plan: Plan) -> Run:
        if plan.method == "alone":
            accuracy = 40.0
        else:
            network, size, epochs = plan.method.replace(" epochs", "").split(", ")
            teacher = Teacher(network, int(size.removeprefix("batches of ")), int(epochs))
            accuracy = (self.taught if plan.teacher else self.own)(teacher, plan.seed)
        curves = {"epoch": [1], "test accuracy": [accuracy]}
        about = {"seconds": 1.0, "device": "cpu", "threads": 1, "precision": "float32", "versions": {}, "commit": "c"}
        pair = {"student": plan.student, "teacher": plan.teacher}
        return Run(pair, "", {}, plan.seed, {}, plan.setting, accuracy, accuracy, curves, **about)

    def teachers(self, step: str) -> set[tuple[str, int, int]]:
        return {
            (plan.student, plan.recipe.batch_size, plan.recipe.epochs)
            for plan in self.steps[f"faked, {step}: teachers"]
        }


def peak(batch_size: float, epochs: float) -> Callable[[Teacher, int], float]:
    """Accuracies that are the highest at one batch size and number of epochs."""

    def accuracy(teacher: Teacher, seed: int) -> float:
        distance = math.hypot(math.log(teacher.batch_size / batch_size), math.log(teacher.epochs / epochs))
        return 80 - 5 * distance + 0.01 * seed

    return accuracy


@pytest.fixture
def faked(monkeypatch) -> Faked:
    """Students are best by 45 and 23, teachers by 500 and 100."""
    fake = Faked(peak(45, 23), peak(500, 100))
    monkeypatch.setattr("spectralkd_nb.experiments.sweep.run_plans", fake)
    return fake


@pytest.fixture
def wide(sweep) -> Options:
    """Three values of each, so that there is room to search."""
    sweep |= {"name": "faked", "batch_sizes": [8, 32, 128], "epochs": [4, 16, 64], "refinements": 2}
    return sweep | {"teachers": ["vgg8x0.125"]}


def test_each_step_goes_around_the_best_of_all_before_it(wide, faked, tmp_path):
    table = sweep_teachers(wide, tmp_path)
    steps = ["coarse", "refined 1", "refined 2", "confirmation"]
    assert list(faked.steps) == [f"faked, {step}: {what}" for step in steps for what in ("teachers", "students")]
    # By logarithms 32, 16 is the nearest to 45, 23 of the first step, then 32, 32, then 45, 23 itself.
    first = set(itertools.product([16, 32, 64], [8, 16, 32])) - {(32, 16)}
    second = set(itertools.product([23, 32, 45], [23, 32, 45])) - {(32, 32)}
    assert faked.teachers("coarse") == set(itertools.product(wide["teachers"], [8, 32, 128], [4, 16, 64]))
    assert faked.teachers("refined 1") == {("vgg8x0.125", *one) for one in first}
    assert faked.teachers("refined 2") == {("vgg8x0.125", *one) for one in second}
    assert faked.teachers("confirmation") == {("vgg8x0.125", 45, 23), ("vgg8x0.125", 128, 64), ("resnet8", 8, 1)}
    found = sweet_spot(table)
    assert (found.best, found.most_accurate) == (Teacher("vgg8x0.125", 45, 23), Teacher("vgg8x0.125", 128, 64))
    assert (found.teachers, found.seeds) == (9 + 8 + 8, 2)
    assert table.step.drop_duplicates().tolist() == steps
    assert table.step.value_counts().tolist() == [9 * 2 + 2, 8 * 2, 8 * 2, 3 * 2 + 2]
    assert table[table.network.isna()].step.tolist() == ["coarse"] * 2 + ["confirmation"] * 2
    assert not table.drop(columns="step").duplicated().any()
    pd.testing.assert_frame_equal(sweep_results(wide, tmp_path), table)
    for step, held_out, seeds in zip(steps, (3, 3, 3, 0), ([100, 101],) * 3 + ([0, 1],), strict=True):
        for what in ("teachers", "students"):
            plans = faked.steps[f"faked, {step}: {what}"]
            assert {plan.setting["held_out"] for plan in plans} == {held_out}
            in_order = [plan.seed for plan in plans]
            assert in_order == sorted(in_order)  # seed by seed
            assert set(in_order) == set(seeds)


def test_without_refinements_the_first_step_is_confirmed(wide, faked, tmp_path):
    sweep_teachers(wide | {"refinements": 0, "also": []}, tmp_path)
    assert list(faked.steps) == [
        f"faked, {step}: {w}" for step in ("coarse", "confirmation") for w in ("teachers", "students")
    ]
    assert faked.teachers("confirmation") == {("vgg8x0.125", 32, 16), ("vgg8x0.125", 128, 64)}


def test_what_was_tried_is_not_tried_again_and_one_teacher_may_be_all_that_is_confirmed(wide, faked, tmp_path):
    faked.own = faked.taught = peak(256, 64)
    wide["also"] = [["vgg8x0.125", 256, 64], ["vgg8x0.125", 256, 64], ["resnet8", 8, 1]]
    table = sweep_teachers(wide, tmp_path)
    # 128, 64, then 256, 64; a quarter of the distance around that meets nothing old.
    first = set(itertools.product([64, 128, 256], [32, 64, 128])) - {(128, 64)}
    assert faked.teachers("refined 1") == {("vgg8x0.125", *one) for one in first}
    assert faked.teachers("refined 2") == {
        ("vgg8x0.125", *one) for one in set(itertools.product([181, 256, 362], [45, 64, 91])) - {(256, 64)}
    }
    assert [plan.method for plan in faked.steps["faked, confirmation: teachers"]] == [
        *("vgg8x0.125, batches of 256, 64 epochs", "resnet8, batches of 8, 1 epochs") * 2
    ]
    assert sweet_spot(table).verdict == "the most accurate"
    # A step that has nothing new is none: half of the distance around 2 are 1, 2 and 4, and two of these are old.
    faked.own = faked.taught = peak(2, 1)
    near = wide | {"batch_sizes": [1, 2, 16], "epochs": [1], "also": []}
    sweep_teachers(near, tmp_path / "near")
    assert faked.teachers("refined 1") == {("vgg8x0.125", 4, 1)}


def test_a_teacher_that_fails_with_one_seed_is_left_out_of_the_search(wide, faked, tmp_path):
    failing = "vgg8x0.125, batches of 32, 16 epochs"
    faked.fails = lambda plan: plan.method == failing and plan.seed == 101 and plan.teacher is None
    table = sweep_teachers(wide | {"refinements": 0}, tmp_path)
    assert failing in {plan.method for plan in faked.steps["faked, coarse: students"]}  # with the other seed
    own = table[(table.network == "vgg8x0.125") & (table.batch_size == 32) & (table.epochs == 16)]
    assert own[["step", "seed"]].values.tolist() == [["coarse", 100]]
    assert (sweet_spot(table).teachers, sweet_spot(table).best) == (8, Teacher("vgg8x0.125", 32, 64))
    assert ("vgg8x0.125", 32, 16) not in faked.teachers("confirmation")
    # Nor has a student that fails a row.
    faked.fails = lambda plan: plan.method == failing and plan.seed == 100 and plan.teacher is not None
    table = sweep_teachers(wide | {"refinements": 0}, tmp_path / "other", retry=True)
    own = table[(table.network == "vgg8x0.125") & (table.batch_size == 32) & (table.epochs == 16)]
    assert own[["step", "seed"]].values.tolist() == [["coarse", 101]]
    assert (sweet_spot(table).teachers, sweet_spot(table).best) == (8, Teacher("vgg8x0.125", 32, 64))
    assert faked.retried == [False] * 4 + [True] * 4


@pytest.mark.parametrize("step", ["coarse", "confirmation"])
def test_a_step_without_any_teacher_is_told_of(wide, faked, tmp_path, step):
    faked.fails = lambda plan: plan.teacher is None and (plan.seed >= 100) == (step == "coarse")
    with pytest.raises(ValueError, match=f"no teacher of the step '{step}' is finished; the reasons lie in {tmp_path}"):
        sweep_teachers(wide, tmp_path)
    assert f"faked, {step}: students" not in faked.steps
    table = sweep_results(wide, tmp_path)
    assert set(table.step) == (set() if step == "coarse" else {"coarse", "refined 1", "refined 2"})
    faked.fails = lambda plan: False
    assert len(sweep_teachers(wide, tmp_path, retry=True)) == 2 * (9 + 1 + 8 + 8 + 3 + 1)


def test_a_step_that_another_process_opens_again_is_told_of(wide, faked, tmp_path, monkeypatch):
    failing = "vgg8x0.125, batches of 8, 4 epochs"
    faked.fails = lambda plan: plan.method == failing and plan.teacher is None

    def opened_again(name: str, plans: Sequence[Plan], store: Path, **options: Any) -> None:
        faked(name, plans, store, **options)
        if name == "faked, coarse: students":
            for file in store.glob("*.failed.json"):
                file.unlink()

    monkeypatch.setattr("spectralkd_nb.experiments.sweep.run_plans", opened_again)
    with pytest.raises(ValueError, match=r"another process began to try failed runs of .* again; call it again"):
        sweep_teachers(wide, tmp_path)
    assert list(faked.steps) == ["faked, coarse: teachers", "faked, coarse: students"]


def test_results_are_told_where_one_teacher_alone_did_not_fail(wide, faked, tmp_path):
    spared = ("alone", "vgg8x0.125, batches of 8, 4 epochs")
    faked.fails = lambda plan: plan.teacher is None and plan.method not in spared
    with pytest.raises(ValueError, match="1 teachers with 2 common seeds"):
        sweep_teachers(wide, tmp_path)
    assert len(sweep_results(wide, tmp_path)) == 4


# --- what is done --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(place, tmp_path_factory) -> Path:
    """A store in which the sweep is finished, at the first go. Not to be written to."""
    store = tmp_path_factory.mktemp("done")
    sweep_teachers(place / "sweep.toml", store).to_csv(place / "done.csv", index=False)
    return store


@pytest.fixture
def whole(place, done) -> pd.DataFrame:  # noqa: ARG001
    """The table of the finished sweep, as `sweep_teachers` returned it."""
    return pd.read_csv(place / "done.csv")


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The folders of the runs that were trained, or gone on with; in this order."""
    folders: list[str] = []

    def counted(student: nn.Module, *arguments: Any, **options: Any) -> Run:
        folders.append(Path(options["folder"]).name)
        return train(student, *arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.bench.train", counted)
    return folders


def files_in(store: Path) -> dict[str, tuple[int, bytes]]:
    """When each file was written, and what."""
    found = (path for path in sorted(store.rglob("*")) if path.is_file())
    return {str(path.relative_to(store)): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def outcomes(store: Path) -> dict[str, tuple[str, list[float]]]:
    """What the runs of a store have come to: a hash of the weights, and the accuracies after each epoch."""
    return {
        file.parent.name: (
            fingerprint_of(torch.load(file.with_name("trained.pt"), weights_only=True)),
            read_run(file).curves["test accuracy"],
        )
        for file in sorted(store.glob(f"*/{RECORD}"))
    }


def assert_same(first: pd.DataFrame, second: pd.DataFrame, but: Sequence[str] = ("seconds", "commit")) -> None:
    """Two tables are equal, whatever a seed or a file has made of None and of whole numbers."""
    first, second = (pd.read_csv(io.StringIO(table.to_csv(index=False))) for table in (first, second))
    pd.testing.assert_frame_equal(first.drop(columns=list(but)), second.drop(columns=list(but)))


def teachers_in(table: pd.DataFrame, step: str) -> set[Teacher]:
    own = table[(table.step == step) & table.network.notna()]
    return {Teacher(name, int(size), int(epochs)) for name, size, epochs in own[OF_A_TEACHER].itertuples(index=False)}


def test_a_sweep_is_trained_step_by_step(sweep, whole):
    assert list(whole.columns) == COLUMNS
    coarse = whole[whole.step == "coarse"]
    assert teachers_in(whole, "coarse") == {Teacher(n, size, 2) for n in sweep["teachers"] for size in (4, 16)}
    best = sweet_spot(coarse).best
    refined = {replace(best, batch_size=best.batch_size * 2), replace(best, batch_size=best.batch_size // 2)}
    assert teachers_in(whole, "refined 1") == refined
    found = sweet_spot(whole)
    assert teachers_in(whole, "confirmation") == {found.best, found.most_accurate, Teacher("resnet8", 8, 1)}
    assert (found.teachers, found.seeds) == (6, 2)
    for step, seeds, alone in (("coarse", [100, 101], 2), ("refined 1", [100, 101], 0), ("confirmation", [0, 1], 2)):
        own = whole[whole.step == step]
        taught = own[own.network.notna()]
        assert len(taught) == 2 * len(teachers_in(whole, step))
        assert set(map(tuple, taught.groupby(OF_A_TEACHER).seed.apply(list))) == {tuple(seeds)}
        assert own[own.network.isna()].seed.tolist() == seeds[:alone]
    assert len(whole.student_accuracy.unique()) > 3  # or the tests would hold anything equal
    assert len(whole.teacher_accuracy.unique()) > 3


def test_the_rows_are_those_of_the_runs(whole, done, place):
    data = open_dataset(place / "shades.npz")
    for row in whole.itertuples(index=False):
        images = data if row.step == "confirmation" else data.held_out(3)
        student = read_run(done / row.student_run / RECORD)
        assert (student.accuracy_last, student.seed) == (pytest.approx(row.student_accuracy), row.seed)
        assert student.pair["student"] == "vgg8x0.0625"
        assert student.protocol["fingerprint"] == images.fingerprint
        assert {key: student.recipe[key] for key in ("epochs", "batch_size", "learning_rate", "augment")} == {
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 0.1,
            "augment": False,
        }
        if isinstance(row.network, float):  # alone
            assert student.pair["teacher"] is None
            assert (student.method, student.weights) == ("CrossEntropy(smoothing=0)", {"cross-entropy": 1.0})
            assert [row.batch_size, row.epochs, row.learning_rate, row.teacher_accuracy] == pytest.approx(
                [math.nan] * 4, nan_ok=True
            )
            assert isinstance(row.teacher_run, float)
            assert row.seconds == pytest.approx(student.seconds)
            continue
        assert student.pair["teacher"] == row.network
        assert student.method == "SoftTargets(temperature=4)"
        assert student.weights == {"cross-entropy": 0.1, "soft targets": 0.9}
        teacher = read_run(done / row.teacher_run / RECORD)
        assert teacher.pair == {"student": row.network, "teacher": None}
        its_own = row.seed + (TWIN if row.network == "vgg8x0.0625" else 0)  # or it would begin as its student does
        assert (teacher.seed, teacher.method) == (its_own, "CrossEntropy(smoothing=0)")
        assert teacher.protocol["fingerprint"] == images.fingerprint
        assert teacher.accuracy_last == pytest.approx(row.teacher_accuracy)
        assert (teacher.recipe["batch_size"], teacher.recipe["epochs"]) == (row.batch_size, row.epochs)
        assert teacher.recipe["learning_rate"] == row.learning_rate == pytest.approx(0.1 * row.batch_size / 8)
        rest = {"batch_size", "epochs", "learning_rate"}
        assert all(teacher.recipe[key] == value for key, value in student.recipe.items() if key not in rest)
        assert row.seconds == pytest.approx(student.seconds + teacher.seconds)
        assert student.commit in (None, row.commit)  # None where there is no git checkout
    assert whole.student_run.is_unique
    assert whole.teacher_run.dropna().is_unique


def test_each_student_has_the_teacher_of_its_own_seed_as_it_is_kept(whole, done):
    prints = set()
    for row in whole.dropna(subset="network").itertuples(index=False):
        kept = done / row.teacher_run / f"epoch_{int(row.epochs):03d}.safetensors"
        teacher = load_weights(build(row.network, 2), kept)
        protocol = read_run(done / row.student_run / RECORD).protocol
        assert protocol["teacher fingerprint"] == fingerprint_of(teacher.state_dict())
        full = torch.load(done / row.teacher_run / "trained.pt", weights_only=True)
        assert torch.equal(teacher.state_dict()["fc.weight"], full["0.fc.weight"].half().float())
        prints.add(protocol["teacher fingerprint"])
    assert len(prints) == whole.network.notna().sum()


def test_what_is_finished_is_not_trained_again_and_no_file_changes(sweep, done, whole, trained):
    before = files_in(done)
    heard: list[GridProgress] = []
    table = sweep_teachers(sweep, done, callback=heard.append)
    assert_same(table, whole, ())
    assert_same(sweep_results(sweep, done), whole, ())
    assert trained == []
    assert files_in(done) == before
    steps = ("coarse", "refined 1", "confirmation")
    assert [progress.name for progress in heard] == [
        f"shades, {s}: {w}" for s in steps for w in ("teachers", "students")
    ]
    assert all(set(progress.states) == {"finished"} for progress in heard)


def test_runs_are_known_by_what_they_are_wherever_store_and_data_lie(sweep, done, place, tmp_path, whole, trained):
    store = shutil.copytree(done, tmp_path / "store").rename(tmp_path / "moved")
    shutil.copy(place / "shades.npz", tmp_path)
    there = changed(sweep, "protocol.data", str(tmp_path / "shades.npz")) | {"name": "other"}
    assert_same(sweep_teachers(there, store), whole, ())
    assert trained == []
    assert not (tmp_path / "store").exists()


def test_a_sweep_that_grows_trains_what_is_new(sweep, done, tmp_path, whole, trained):
    store = shutil.copytree(done, tmp_path / "store")
    table = sweep_teachers(changed(sweep, "confirmation.seeds", [0, 1, 2]), store)
    new = table[~table.student_run.isin(whole.student_run)]
    assert_same(table[table.student_run.isin(whole.student_run)], whole, ())
    assert set(new.step) == {"confirmation"}
    assert set(new.seed) == {2}
    assert sorted(trained) == sorted([*new.student_run, *new.teacher_run.dropna()])


def test_one_row_of_the_search_can_be_had_alone(sweep, place, done, whole, tmp_path, trained):
    table = sweep_results(sweep, done)
    own = table[(table.step == "coarse") & table.network.notna()].iloc[-1]
    teacher = Teacher(own.network, int(own.batch_size), int(own.epochs))
    pd.testing.assert_series_equal(sweep_row(sweep, teacher, own.seed, done), own, check_names=False)
    assert trained == []

    store, other = shutil.copytree(done, tmp_path / "store"), Teacher("resnet8", 8, 1)
    row = sweep_row(place / "sweep.toml", other, 7, store)
    assert trained == [row.teacher_run, row.student_run]
    assert (row.step, row.seed, row.learning_rate) == ("coarse", 7, 0.1)
    assert (row.network, row.batch_size, row.epochs) == ("resnet8", 8, 1)
    held_out = open_dataset(place / "shades.npz").held_out(3).fingerprint
    for folder in (row.teacher_run, row.student_run):
        assert read_run(store / folder / RECORD).protocol["fingerprint"] == held_out
    assert_same(sweep_results(sweep, store), whole, ())  # it is none of the sweep's


@pytest.fixture
def every_step(monkeypatch) -> None:
    """Callbacks hear of every step."""
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)


class ViewIsGone(Exception):
    pass


@pytest.mark.usefixtures("every_step")
def test_a_sweep_that_is_stopped_in_every_step_comes_to_the_same(sweep, done, whole, tmp_path, trained):
    steps = [f"{step}: {what}" for step in ("coarse", "refined 1", "confirmation") for what in ("teachers", "students")]
    for number, step in enumerate(steps):
        pressed = []

        def stop(progress: GridProgress, step: str = step, number: int = number, pressed: list = pressed) -> None:
            if pressed or progress.run is None or not progress.name.endswith(step):
                return
            if progress.states.index("running") < 1 or progress.run.done:  # with one run of the step behind it
                return
            pressed.append(1)
            if number % 3 == 0:
                os.kill(os.getpid(), signal.SIGINT)  # which leaves a checkpoint
            else:
                raise KeyboardInterrupt if number % 3 == 1 else ViewIsGone

        with pytest.raises(ViewIsGone if number % 3 == 2 else KeyboardInterrupt):
            sweep_teachers(sweep, tmp_path, callback=stop)
        # A table of what is there: whole steps, and the students that are finished of the one that was stopped.
        table = sweep_results(sweep, tmp_path)
        assert list(table.columns) == COLUMNS
        assert set(table.step) <= set(whole.step[: len(table)])
        assert set(table.student_run) < set(whole.student_run)
        assert_same(table, whole[whole.student_run.isin(table.student_run)])
        assert (step.split(":")[0] in set(table.step)) == step.endswith("students")
    assert_same(sweep_teachers(sweep, tmp_path), whole)
    assert outcomes(tmp_path) == outcomes(done)
    assert len(trained) == len(outcomes(done)) + len(steps)
    assert not list(tmp_path.glob("*.json"))


def test_results_of_a_store_that_lacks_runs_are_the_rows_that_are_there(sweep, done, whole, tmp_path):
    assert sweep_results(sweep, tmp_path / "none").empty
    assert list(sweep_results(sweep, tmp_path / "none").columns) == COLUMNS
    assert not (tmp_path / "none").exists()
    store = shutil.copytree(done, tmp_path / "store")
    for row in (whole[whole.step == "confirmation"].iloc[1], whole[whole.step == "refined 1"].iloc[0], whole.iloc[2]):
        shutil.rmtree(store / row.student_run)
        last = row.step == "confirmation"  # steps behind one that lacks runs are not known
        until = whole.index if last else whole.index[whole.step.isin(whole.step[: row.name + 1])]
        there = whole.loc[until]
        assert_same(sweep_results(sweep, store), there[there.student_run != row.student_run], ())
    # A teacher's record takes the row of its student with it, and a damaged one is as none.
    (store / whole.teacher_run[1] / RECORD).write_text("{")
    left = sweep_results(sweep, store)
    assert set(left.student_run) == set(whole[whole.step == "coarse"].student_run) - set(whole.student_run[1:3])
    assert set(left.step) == {"coarse"}


@pytest.fixture
def fails(monkeypatch, trained) -> list[Callable[[str], bool]]:
    """Trainings fail in whose folder's name any of these functions sees a reason to."""
    reasons: list[Callable[[str], bool]] = []
    counted = sys.modules["spectralkd_nb.experiments.bench"].train

    def failing(*arguments: Any, **options: Any) -> Run:
        if any(reason(Path(options["folder"]).name) for reason in reasons):
            trained.append("failed")
            raise RuntimeError("the <cat> sat on the keyboard")
        return counted(*arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.bench.train", failing)
    return reasons


def test_a_teacher_that_fails_is_left_out_and_tried_again_where_asked(sweep, done, whole, tmp_path, trained, fails):
    store = shutil.copytree(done, tmp_path / "store")
    best = sweet_spot(whole[whole.step == "coarse"]).best
    own = whole.network.eq(best.network) & whole.batch_size.eq(best.batch_size) & whole.seed.eq(101)
    (lost,) = whole[own & (whole.step == "coarse")].itertuples(index=False)
    shutil.rmtree(store / lost.teacher_run)
    shutil.rmtree(store / lost.student_run)
    fails.append(lambda folder: folder == lost.teacher_run)
    table = sweep_teachers(sweep, store)
    assert trained[0] == "failed"
    (record,) = store.glob("*.failed.json")
    assert record.name == f"{lost.teacher_run}.failed.json"
    assert json.loads(record.read_text())["reason"] == "RuntimeError: the <cat> sat on the keyboard"
    coarse = whole[whole.step == "coarse"]
    assert_same(table[table.step == "coarse"], coarse[coarse.student_run != lost.student_run], ())
    other = sweet_spot(table[table.step == "coarse"])
    assert (other.teachers, other.best == best) == (3, False)
    assert teachers_in(table, "refined 1") == {
        replace(other.best, batch_size=other.best.batch_size * 2),
        replace(other.best, batch_size=other.best.batch_size // 2),
    }
    found = sweet_spot(table)
    assert teachers_in(table, "confirmation") == {found.best, found.most_accurate, Teacher("resnet8", 8, 1)}

    fails.clear()
    trained.clear()
    assert_same(sweep_teachers(sweep, store), table, ())  # not without being asked
    assert trained == []
    assert_same(sweep_teachers(sweep, store, retry=True), whole)
    assert trained == [lost.teacher_run, lost.student_run]
    assert not list(store.glob("*.failed.json"))


def test_where_all_teachers_fail_there_is_a_sentence(sweep, tmp_path, trained, fails):
    fails.append(lambda folder: True)
    sentence = f"no teacher of the step 'coarse' is finished; the reasons lie in {tmp_path}"
    with pytest.raises(ValueError, match=sentence):
        sweep_teachers(sweep, tmp_path)
    assert trained == ["failed"] * 8
    assert len(list(tmp_path.glob("*.failed.json"))) == 8
    assert sweep_results(sweep, tmp_path).empty
    with pytest.raises(ValueError, match=sentence):
        sweep_teachers(sweep, tmp_path)
    assert trained == ["failed"] * 8


def test_one_row_whose_runs_fail_is_a_sentence(sweep, tmp_path, fails):
    teacher = Teacher("vgg8x0.0625", 4, 2)
    fails.append(lambda folder: "from" in folder)
    with pytest.raises(ValueError, match=f"the student of {teacher} failed; the reason lies in {tmp_path}"):
        sweep_row(sweep, teacher, 100, tmp_path)
    fails.append(lambda folder: True)
    with pytest.raises(ValueError, match=f"no teacher of the step 'coarse' is finished; the reasons lie in {tmp_path}"):
        sweep_row(sweep, teacher, 101, tmp_path)
    with pytest.raises(ValueError, match="there is no network 'resent8'"):
        sweep_row(sweep, Teacher("resent8", 4, 2), 100, tmp_path)


def test_a_teacher_whose_loss_is_not_finite_is_a_failure_in_a_sentence(sweep, tmp_path):
    sweep |= {"teachers": ["vgg8x0.0625"], "batch_sizes": [4, 8, 10**30], "refinements": 0, "also": []}
    table = sweep_teachers(changed(sweep, "protocol.warm_up", 0.0), tmp_path)
    reasons = [json.loads(file.read_text())["reason"] for file in tmp_path.glob("*.failed.json")]
    assert len(reasons) == 2
    assert all("is not finite; lower the learning rate or set clip_norm" in reason for reason in reasons)
    assert teachers_in(table, "coarse") == {Teacher("vgg8x0.0625", 4, 2), Teacher("vgg8x0.0625", 8, 2)}
    assert "confirmation" in set(table.step)


def test_data_that_are_not_there_are_told_of_before_the_first_training(sweep, tmp_path, trained):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.npz"):
        sweep_teachers(changed(sweep, "protocol.data", f"{tmp_path}/none.npz"), tmp_path / "store")
    assert trained == []


def test_a_teacher_of_the_students_own_network_is_no_twin_of_it(sweep, tmp_path):
    sweep |= {"teachers": ["vgg8x0.0625"], "batch_sizes": [8, 32], "epochs": [3], "also": []}
    sweep = changed(sweep, "protocol.batch_size", 16)  # where the next step goes, around 8 and around 32
    table = sweep_teachers(sweep, tmp_path)
    assert Teacher("vgg8x0.0625", 16, 3) in teachers_in(table, "refined 1")
    for row in table.dropna(subset="network").itertuples(index=False):  # nor does it begin as its student does
        begun = [read_run(tmp_path / folder / RECORD).protocol for folder in (row.teacher_run, row.student_run)]
        assert begun[0]["student fingerprint"] != begun[1]["student fingerprint"]


def test_a_teachers_run_from_a_grid_that_kept_no_weights_is_told_of(sweep, tmp_path):
    sweep |= {"teachers": ["vgg8x0.125"], "refinements": 0, "also": []}
    protocol = {**sweep["protocol"], "epochs": 2, "batch_size": 4, "learning_rate": 0.05, "held_out": 3}
    grid = {"pairs": [{"student": "vgg8x0.125"}], "methods": {"alone": {"cross-entropy": 1}}}
    run_grid(grid | {"protocols": {"any": protocol}, "seeds": [100]}, tmp_path)
    with pytest.raises(ValueError, match="did not keep epoch 2; delete it and run the grid again"):
        sweep_teachers(sweep, tmp_path)


# --- several processes ---------------------------------------------------------------------------

WORKER = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from spectralkd_nb.experiments.sweep import sweep_teachers

sweep, store, notes, mine = *map(Path, sys.argv[1:4]), sys.argv[4]
met = False

def note(progress):
    global met
    if progress.run is None:
        return
    folder = progress.plans[progress.states.index("running")].folder
    with (notes / "trained").open("a") as file:
        file.write(f"{mine} {folder} {progress.run.done}\\n")
    (notes / mine).touch()
    waited = time.monotonic()
    while not met and not all((notes / name).exists() for name in ("first", "second")):
        time.sleep(0.01)
        assert time.monotonic() - waited < 120, "the other one has not begun"
    met = True

print(sweep_teachers(sweep, store, callback=note).to_csv(index=False))
"""


def test_two_processes_on_one_store_finish_it_together(place, done, whole, tmp_path):
    store, notes = tmp_path / "store", tmp_path / "notes"
    notes.mkdir()
    # Both have begun a run before either goes on, so that they are at work at the same time.
    command = [sys.executable, "-c", WORKER, *map(str, (place / "sweep.toml", store, notes))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen([*command, name], **pipes) for name in ("first", "second")]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    tables = [pd.read_csv(io.StringIO(out)) for out, _ in said]
    pd.testing.assert_frame_equal(*tables)
    assert_same(tables[0], whole)
    lines = [line.split() for line in (notes / "trained").read_text().splitlines()]
    ended = [folder for _, folder, is_done in lines if is_done == "True"]
    assert sorted(ended) == sorted(outcomes(done))  # each once
    assert {name for name, *_ in lines} == {"first", "second"}
    assert outcomes(store) == outcomes(done)
    assert not list(store.rglob(".lock"))


# --- teachers' weights in grids ------------------------------------------------------------------


@pytest.fixture
def grid(place) -> Options:
    return {
        "seeds": [0],
        "pairs": [{"student": "vgg8x0.0625", "teacher": "vgg8x0.125"}],
        "protocols": {"quick": {"data": f"{place}/shades.npz", "epochs": 1, "batch_size": 16, "augment": False}},
        "methods": {"KD": {"cross-entropy": 0.1, "soft targets": 0.9}},
    }


def test_a_grid_takes_weights_from_any_file(grid, tmp_path, monkeypatch):
    teacher = build("vgg8x0.125", 2, seed=5)
    (tmp_path / "weights").mkdir()
    torch.save(teacher.state_dict(), tmp_path / "weights" / "teacher.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, file in enumerate((f"{tmp_path}/weights/teacher.pt", "weights/teacher.pt", "~/weights/teacher.pt")):
        grid["pairs"][0]["teacher_weights"] = file
        assert run_grid(grid, tmp_path / f"store{number}").state.tolist() == ["finished"]
        (plan,) = planned_runs(grid)
        run = read_run(tmp_path / f"store{number}" / plan.folder / RECORD)
        assert run.protocol["teacher fingerprint"] == fingerprint_of(teacher.state_dict())


def test_a_grid_takes_weights_that_a_run_of_its_store_has_kept(grid, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teachers = {**grid, "pairs": [{"student": "vgg8x0.125"}], "methods": {"alone": {"cross-entropy": 1}}}
    run_grid(teachers | {"keep_epochs": [1]}, "store")
    (plan,) = planned_runs(teachers)
    kept = f"{plan.folder}/epoch_001.safetensors"
    wanted = fingerprint_of(load_weights(build("vgg8x0.125", 2), Path("store") / kept).state_dict())
    # Before a file of the same name anywhere else.
    Path(plan.folder).mkdir()
    torch.save(build("vgg8x0.125", 2, seed=5).state_dict(), kept)
    grid["pairs"][0]["teacher_weights"] = kept
    run_grid(grid, "store")
    (taught,) = planned_runs(grid)
    assert read_run(Path("store") / taught.folder / RECORD).protocol["teacher fingerprint"] == wanted
    assert fingerprint_of(Bench(store=Path("store")).teacher_of(taught).state_dict()) == wanted
    with pytest.raises(FileNotFoundError, match=r"there is no file other/epoch_001\.safetensors"):
        Bench(store=Path("store")).teacher_of(replace(taught, teacher_weights="other/epoch_001.safetensors"))


# --- the command ---------------------------------------------------------------------------------


def test_the_command_prints_teachers_and_the_sweet_spot_and_writes_a_table(
    place, done, whole, tmp_path, capsys, trained
):
    out = tmp_path / "results" / "table.csv"
    main(["sweep", str(place / "sweep.toml"), str(done), "--table", str(out)])
    said = capsys.readouterr().out
    assert f"{len(whole)} students -> {out}\n" in said
    assert said.endswith(f"{teachers_of(whole).to_string(index=False, float_format='%.2f')}\n{sweet_spot(whole)}\n")
    assert "shades, coarse: teachers: 8 of 8 runs are finished" in said
    table = pd.read_csv(out)
    assert list(table.columns) == COLUMNS
    numbers = whole.select_dtypes("number").columns
    pd.testing.assert_frame_equal(table.drop(columns=numbers), whole.drop(columns=numbers))
    assert np.allclose(table[numbers], whole[numbers], rtol=1e-5, equal_nan=True)
    assert str(sweet_spot(table)) == str(sweet_spot(whole))
    main(["sweep", str(place / "sweep.toml"), str(done)])
    assert " students -> " not in capsys.readouterr().out
    assert trained == []


def test_the_command_tries_failures_again_where_asked(place, done, whole, tmp_path, capsys, trained):
    store = shutil.copytree(done, tmp_path / "store")
    lost = whole[(whole.network == "resnet8") & (whole.seed == 1)].iloc[0]
    for folder in (lost.teacher_run, lost.student_run):
        shutil.rmtree(store / folder)
    (store / f"{lost.teacher_run}.failed.json").write_text('{"reason": "ValueError: no"}')
    command = ["sweep", str(place / "sweep.toml"), str(store)]
    with pytest.raises(SystemExit, match="1"):
        main(command)
    said = capsys.readouterr()
    assert "resnet8, batches of 8, 1 epochs, seed 1: ValueError: no" in said.out
    assert "1 runs failed and were left out; the reasons are above, and --retry tries them again" in said.err
    assert trained == []
    main([*command, "--retry"])
    assert trained == [lost.teacher_run, lost.student_run]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["none.toml", "store"], "No such file or directory: 'none.toml'"),
        (["wrong.toml", "store"], "a sweep has no 'wrong'"),
        (["broken.toml", "store"], "broken.toml is no TOML"),
        (["sweep.toml", "store", "--table", "folder"], "folder is a folder; name a file to write"),
        (["sweep.toml", "store", "--table", "sweep.toml/table.csv"], "sweep.toml"),
        (["sweep.toml", "store", "--table", "closed/table.csv"], "nothing can be written into closed; name a file"),
    ],
)
def test_a_wrong_command_is_one_sentence_before_anything_is_done(
    place, tmp_path, monkeypatch, capsys, trained, command, sentence
):
    monkeypatch.chdir(tmp_path)
    text = (place / "sweep.toml").read_text()
    for file, content in (("sweep.toml", text), ("wrong.toml", f"wrong = 1\n{text}"), ("broken.toml", "a = [")):
        Path(file).write_text(content)
    Path("folder").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "closed" and access(path, mode))
    with pytest.raises(SystemExit) as exit_code:
        main(["sweep", *command])
    assert exit_code.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith("python -m spectralkd_nb: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert trained == []
    assert not Path("store").exists()
