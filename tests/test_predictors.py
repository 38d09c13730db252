"""What predicts how well a teacher teaches: rank correlations over a sweep's teachers, and a ladder of capacities."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spectralkd_nb import networks
from spectralkd_nb.experiments.comparison import paired_difference
from spectralkd_nb.experiments.predictors import (
    MEASURES,
    PREDICTORS,
    ladder,
    predictors,
    teachers_and_responses,
)
from spectralkd_nb.experiments.sweet_spot import Teacher

WIDTHS = (0.0625, 0.125, 0.25, 0.5)


def search(count: int, seeds: int = 3, rho: float = 0.7, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Teachers of whom all that predicts goes with their students' mean by one Gaussian correlation."""
    generator = np.random.default_rng(seed)
    rows, responses = [], []
    for i in range(count):
        true, *others = generator.normal(size=1 + len(PREDICTORS))
        values = dict(zip(PREDICTORS, rho * true + np.sqrt(1 - rho**2) * np.array(others), strict=True))
        for number in range(seeds):
            told = {
                "step": "coarse",
                "network": f"vgg8x{WIDTHS[i % 4]}",
                "batch_size": 8,
                "epochs": i + 1,
                "seed": number,
            }
            accuracy = {"teacher_accuracy": values["teacher_accuracy"], "student_accuracy": true + number / 10}
            rows.append({**told, "learning_rate": 0.1, **accuracy})
            measured = {name: values.get(name, 0.5) + number - 1 for name in MEASURES}
            responses += [
                told | measured | {"images": images, "temperature": temperature}
                for images, temperature in (("training", 4), ("training", 1), ("test", 4))
            ]
    rows += [{"step": "coarse", "seed": number, "student_accuracy": 0.0} for number in range(seeds)]
    return pd.DataFrame(rows), pd.DataFrame(responses)


def test_predictors_are_spearmans_correlations_of_means_over_seeds():
    table, responses = search(30)
    found = predictors(table, responses, 4)
    assert list(found.columns) == ["measure", "rho", "lower", "upper", "teachers"]
    assert tuple(found.measure) == PREDICTORS
    assert (found.teachers == 30).all()
    keys = ["network", "batch_size", "epochs"]
    students = table.dropna(subset="network").groupby(keys).student_accuracy.mean()
    for one in found.itertuples():
        whole = (
            table if one.measure == "teacher_accuracy" else responses.query("images == 'training' and temperature == 4")
        )
        expected = stats.spearmanr(whole.groupby(keys)[one.measure].mean(), students).statistic
        assert one.rho == pytest.approx(expected)
        assert -1 <= one.lower <= one.rho <= one.upper <= 1


def test_equal_values_share_their_rank():
    table, responses = search(12)
    responses["similarity"] = responses.epochs.floordiv(3)
    found = predictors(table, responses, 4).set_index("measure").rho.similarity
    means = teachers_and_responses(table, responses, 4)
    assert found == pytest.approx(stats.spearmanr(means.similarity, means.student_accuracy).statistic)


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Spearman's rho of two Gaussian numbers with correlation r is 6 / pi arcsin(r / 2)."""
    truth = 6 / np.pi * np.arcsin(0.35)
    found = pd.concat([predictors(*search(20, seeds=1, seed=seed), 4) for seed in range(25)])
    held = ((found.lower <= truth) & (truth <= found.upper)).mean()
    assert 0.9 <= held <= 1
    assert (found.upper - found.lower).median() < 0.8


def test_predictors_are_the_same_each_time_and_in_any_order():
    table, responses = search(15)
    first = predictors(table, responses, 4)
    pd.testing.assert_frame_equal(first, predictors(table, responses, 4))
    shuffled = [rows.sample(frac=1, random_state=1) for rows in (table, responses)]
    pd.testing.assert_series_equal(first.rho, predictors(*shuffled, 4).rho)


def test_more_that_is_known_narrows_the_interval():
    few, many = (predictors(*search(count), 4) for count in (10, 160))
    assert ((many.upper - many.lower) < 0.5 * (few.upper - few.lower)).all()


def test_later_steps_and_teachers_without_every_seed_are_left_out():
    table, responses = search(10)
    more = [table[table.epochs == 2].assign(step=step, student_accuracy=99.0) for step in ("refined 1", "confirmation")]
    more = pd.concat([table, *more], ignore_index=True)
    pd.testing.assert_frame_equal(predictors(table, responses, 4), predictors(more, responses, 4))
    fewer = table[~((table.epochs == 3) & (table.seed == 1))]
    assert 3 not in teachers_and_responses(fewer, responses, 4).epochs.tolist()
    assert (predictors(fewer, responses, 4).teachers == 9).all()


def test_what_a_teacher_did_not_say_is_missing():
    table, responses = search(10)
    found = teachers_and_responses(table, responses[responses.epochs != 5], 4)
    assert found.set_index("epochs").entropy.isna().sum() == 1
    ranked = predictors(table, responses[responses.epochs != 5], 4).set_index("measure")
    assert ranked.teachers.to_dict() == dict.fromkeys(PREDICTORS, 9) | {"teacher_accuracy": 10}
    constant = predictors(table, responses.assign(similarity=0.5), 4).set_index("measure").loc["similarity"]
    assert constant[["rho", "lower", "upper"]].isna().all()


def test_what_cannot_be_ranked_is_refused():
    table, responses = search(6)
    with pytest.raises(
        ValueError, match="no responses to training images at temperature 2; of the search there are 1, 4"
    ):
        predictors(table, responses, 2)
    with pytest.raises(
        ValueError, match="no responses to validation images at temperature 4; of the search there are none"
    ):
        teachers_and_responses(table, responses, 4, "validation")
    with pytest.raises(ValueError, match="2 teachers have the measure 'teacher_accuracy'; ranks take 3 or more"):
        predictors(table[table.epochs < 3], responses, 4)
    with pytest.raises(ValueError, match="no teacher of the search has a student for every seed"):
        predictors(table[table.network.isna()], responses, 4)


# --- a ladder ------------------------------------------------------------------------------------


def confirmation(seeds: int = 4) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    kept = {"step": "confirmation", "batch_size": 32, "epochs": 36}
    rows = [
        {**kept, "network": f"vgg8x{width}", "seed": seed, "teacher_accuracy": 80 + width + seed}
        for width in reversed(WIDTHS)
        for seed in range(seeds)
    ]
    rows += [{"step": "confirmation", "seed": seed} for seed in range(seeds)]
    return pd.DataFrame(rows).assign(student_accuracy=lambda table: 77 + generator.normal(size=len(table)))


LADDER = [Teacher(f"vgg8x{width}", 32, 36) for width in (0.5, 0.0625, 0.25)]


def test_a_ladder_rises_by_parameters_and_ends_with_students_alone():
    table = confirmation()
    found = ladder(table, LADDER)
    assert found.network.fillna("alone").tolist() == ["vgg8x0.0625", "vgg8x0.25", "vgg8x0.5", "alone"]
    for one in found.itertuples():
        alone = pd.isna(one.network)
        own = table[table.network.isna()] if alone else table[table.network == one.network]
        students = paired_difference(own.student_accuracy, [0] * len(own))
        assert one.seeds == 4
        assert one.student_accuracy == pytest.approx(students.mean)
        assert (one.student_lower, one.student_upper) == pytest.approx(students.t_interval)
        if not alone:
            assert one.parameters == sum(p.numel() for p in networks.build(one.network, 10).parameters())
            assert one.teacher_accuracy == pytest.approx(own.teacher_accuracy.mean())
    assert ladder(table, LADDER, classes=14).parameters[0] > found.parameters[0]
    assert len(ladder(table[table.network.notna()], LADDER)) == 3
    assert ladder(confirmation(1), LADDER).student_lower.isna().all()


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ([], "no teachers"),
        ([LADDER[0], LADDER[0]], "one network is there twice"),
        (
            [LADDER[0], Teacher("vgg8x0.25", 8, 36)],
            "trained alike, and these are vgg8x0.5, batches of 32, 36 epochs; vgg8",
        ),
        ([Teacher("vgg8", 32, 36)], "no row of vgg8, batches of 32, 36 epochs"),
    ],
)
def test_what_is_no_ladder_is_refused(teachers, message):
    with pytest.raises(ValueError, match=message):
        ladder(confirmation(), teachers)
