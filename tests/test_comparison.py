"""Comparisons over seeds keep what they promise: coverage, power, error rates, pairing, and what cannot matter."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import integrate, stats

from spectralkd_nb.experiments import comparison
from spectralkd_nb.experiments.comparison import (
    PairedDifference,
    compare_methods,
    paired_difference,
    seeds_needed,
    summary,
)
from spectralkd_nb.plots import style
from spectralkd_nb.plots.experiments import VERDICTS, method_comparison, ranking

pytestmark = pytest.mark.filterwarnings("error")

OPPOSITE = {"better": "worse", "worse": "better", "inconclusive": "inconclusive"}
FEW = 200  # resamples, where the bootstrap is not looked at


def draws(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def runs_of(scores: dict[str, list[float]], teacher: str | None = "large", **columns: object) -> pd.DataFrame:
    """One row a run; the seeds of a method are 0, 1, 2 ..."""
    rows = [
        {"method": method, "seed": seed, "accuracy": accuracy, "best": accuracy + 1, "seconds": 10.0 + seed}
        for method, accuracies in scores.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    return pd.DataFrame(rows).assign(**{"student": "small", "teacher": teacher, "protocol": "quick"} | columns)


def sevenfold(shift: float = 0.0) -> pd.DataFrame:
    """Seven methods, five seeds."""
    names = ("alone", "KD", "hint", "KD + hint", "KD + both terms", "attention transfer", "Fourier")
    shared = draws(5, seed=1)
    own = draws(len(names), 5, seed=2)
    return runs_of({name: list(75 + i * shift + shared + 0.3 * own[i]) for i, name in enumerate(names)})


def by_method(table: pd.DataFrame) -> pd.DataFrame:
    return table.set_index("method")


# --- what the numbers promise --------------------------------------------------------------------


def test_the_t_interval_of_five_seeds_covers_the_truth_19_times_in_20():
    truth, simulations = 0.7, 3000
    held = 0
    for differences in truth + draws(simulations, 5):
        low, high = paired_difference(differences, np.zeros(5), resamples=1).t_interval
        held += low <= truth <= high
    assert held / simulations == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / simulations))


def test_the_bootstrap_interval_of_five_seeds_covers_it_clearly_less_often():
    truth, simulations = 0.7, 3000
    held = 0
    for differences in truth + draws(simulations, 5):
        low, high = paired_difference(differences, np.zeros(5), resamples=FEW).bootstrap_interval
        held += low <= truth <= high
    assert held / simulations == pytest.approx(0.83, abs=0.025)


def test_the_bootstrap_interval_of_many_seeds_is_the_t_interval():
    found = paired_difference(draws(400), np.zeros(400), resamples=4000)
    assert found.bootstrap_interval == pytest.approx(found.t_interval, abs=0.01)


def detectable(count: int, deviation: float, confidence: float = 0.95) -> float:
    """What a paired difference says when it has seen this deviation."""
    seen = np.arange(count) / np.arange(count).std(ddof=1)
    return paired_difference(deviation * seen, np.zeros(count), confidence, FEW).detectable


@pytest.mark.parametrize("count", [2, 3, 5, 12, 50])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_power_at_a_detectable_difference_is_080_by_its_definition(count, confidence):
    """The mean is Gaussian and the estimated deviation chi: P(mean > t of its estimated error), integrated over chi."""
    freedom = count - 1
    critical = stats.t.ppf(0.5 + confidence / 2, freedom)
    shift = math.sqrt(count) * detectable(count, 1.0, confidence)

    def found(chi: float) -> float:
        return stats.norm.cdf(shift - critical * chi / math.sqrt(freedom)) * stats.chi.pdf(chi, freedom)

    power, _ = integrate.quad(found, 0, math.sqrt(freedom) + 9, epsabs=1e-12, limit=400)
    assert power == pytest.approx(0.8, abs=1e-7)


@pytest.mark.parametrize("count", [2, 5, 12])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_a_difference_of_detectable_size_is_found_4_times_in_5(count, confidence):
    deviation, simulations = 0.4, 20_000
    truth = detectable(count, deviation, confidence)
    p = stats.ttest_1samp(truth + deviation * draws(simulations, count), 0, axis=1).pvalue
    assert (p < 1 - confidence).mean() == pytest.approx(0.8, abs=0.01)


def test_the_verdicts_of_five_seeds_at_the_detectable_size_are_right_4_times_in_5():
    simulations, truth = 1000, detectable(5, 1.0)
    found = [paired_difference(truth + one, np.zeros(5), resamples=1).verdict for one in draws(simulations, 5)]
    assert found.count("better") / simulations == pytest.approx(0.8, abs=0.04)
    assert found.count("worse") == 0


def test_holm_keeps_the_chance_of_any_false_verdict_below_5_percent():
    groups, seeds, names = 800, 5, ("alone", "A", "B", "C", "D")
    null = draws(groups, len(names), seeds, seed=3)
    index = pd.MultiIndex.from_product([range(groups), names, range(seeds)], names=["protocol", "method", "seed"])
    runs = pd.Series(70 + null.ravel(), index, name="accuracy").reset_index()
    table = compare_methods(runs.assign(student="small", teacher="large"), "alone", resamples=1)
    assert len(table) == 4 * groups
    wrong = table.verdict.ne("inconclusive").groupby(table.protocol).any().mean()
    uncorrected = table.p.lt(0.05).groupby(table.protocol).any().mean()
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / groups)
    assert wrong > 0.03  # not because nothing is ever found
    assert uncorrected > 0.14


def test_pairing_gains_where_noise_is_shared():
    shared, own = 2 * draws(6, seed=5), 0.1 * draws(2, 6, seed=6)
    alone, taught = 70 + shared + own[0], 70.5 + shared + own[1]
    paired = paired_difference(taught, alone)
    assert paired.verdict == "better"
    assert stats.ttest_ind(taught, alone).pvalue > 0.3
    broken = paired_difference(taught, np.roll(alone, 1))
    assert broken.verdict == "inconclusive"
    assert broken.mean == pytest.approx(paired.mean)
    assert broken.deviation > 5 * paired.deviation


# --- agreement with others -----------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 20])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_it_agrees_with_scipy(count, confidence):
    first, second = 70 + draws(2, count, seed=count)
    found = paired_difference(first, second, confidence, FEW)
    test = stats.ttest_rel(first, second)
    assert found.p == pytest.approx(test.pvalue, abs=1e-10)
    interval = stats.t.interval(confidence, count - 1, found.mean, found.deviation / math.sqrt(count))
    assert found.t_interval == pytest.approx(interval, abs=1e-10)
    assert found.t_interval == pytest.approx(tuple(test.confidence_interval(confidence)), abs=1e-10)
    assert found.mean == pytest.approx((first - second).mean(), abs=1e-10)
    assert found.deviation == pytest.approx((first - second).std(ddof=1), abs=1e-10)
    assert found.count == count


def test_the_bootstrap_is_the_percentile_one_of_scipy():
    differences = draws(8)
    found = paired_difference(differences, np.zeros(8), resamples=20_000).bootstrap_interval
    options = {"method": "percentile", "n_resamples": 20_000, "rng": 1}
    other = stats.bootstrap((differences,), np.mean, **options).confidence_interval
    assert found == pytest.approx(tuple(other), abs=0.03)


def test_the_bootstrap_is_the_same_each_time_and_its_seed_decides():
    first, second = draws(2, 6)
    assert paired_difference(first, second) == paired_difference(first, second)
    assert paired_difference(first, second, seed=1) != paired_difference(first, second)
    narrow = paired_difference(first, second, confidence=0.5).bootstrap_interval
    wide = paired_difference(first, second).bootstrap_interval
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(("ratio", "known"), [(0.2, 199), (0.5, 34), (0.8, 15), (1.0, 10), (1.5, 6)])
def test_seeds_needed_are_those_of_the_tables(ratio, known):
    """Of a paired t test at 5 %, two-sided, power 0.8; G*Power 3.1 says the same."""
    assert seeds_needed(1.0, ratio) == known


# --- planning ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 5, 10, 40])
def test_seeds_needed_are_the_inverse_of_detectable(count):
    found = paired_difference(draws(count), np.zeros(count), resamples=FEW)
    assert seeds_needed(found.deviation, found.detectable * (1 + 1e-9)) == count
    assert seeds_needed(found.deviation, found.detectable * (1 - 1e-6)) == count + 1


def test_seeds_needed_depends_on_the_ratio_and_the_rest_as_it_should():
    assert seeds_needed(1.2, 0.6) == seeds_needed(2.4, 1.2) == seeds_needed(1.2, -0.6)
    assert seeds_needed(0.0, 0.1) == 2
    assert seeds_needed(1.0, 100.0) == 2
    assert seeds_needed(1.0, 0.5, power=0.9) > seeds_needed(1.0, 0.5)
    assert seeds_needed(1.0, 0.5, confidence=0.99) > seeds_needed(1.0, 0.5)
    normal = ((stats.norm.isf(0.025) + stats.norm.isf(0.2)) * 1000) ** 2
    assert seeds_needed(1.0, 0.001) == pytest.approx(normal, rel=1e-4)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"difference": 0.0}, "no number of seeds"),
        ({"difference": 1e-9}, "takes over 10"),
        ({"difference": math.nan}, "finite"),
        ({"difference": math.inf}, "finite"),
        ({"deviation": -1.0}, "deviation"),
        ({"deviation": math.nan}, "finite"),
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 95}, "confidence"),
        ({"power": 1.0}, "power"),
        ({"power": 0.0}, "power"),
    ],
)
def test_seeds_needed_refuses_nonsense(changed, said):
    with pytest.raises(ValueError, match=said):
        seeds_needed(**{"deviation": 1.0, "difference": 0.5} | changed)


# --- what cannot matter --------------------------------------------------------------------------

percent = st.floats(0, 100).map(lambda value: round(value, 2))
pairs = st.lists(st.tuples(percent, percent), min_size=2, max_size=8)


@given(pairs)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_swapping_turns_signs_and_verdicts(values):
    first, second = zip(*values, strict=True)
    found, swapped = (paired_difference(*pair, resamples=FEW) for pair in ((first, second), (second, first)))
    assert swapped.mean == pytest.approx(-found.mean)
    assert swapped.verdict == OPPOSITE[found.verdict]
    for name in ("t_interval", "bootstrap_interval"):
        assert getattr(swapped, name)[::-1] == pytest.approx([-end for end in getattr(found, name)])
    for name in ("deviation", "p", "detectable", "count"):
        assert getattr(swapped, name) == pytest.approx(getattr(found, name))


@given(pairs, st.floats(-50, 50))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_adding_to_both_changes_nothing(values, constant):
    first, second = np.array(values).T
    found, moved = (paired_difference(first + c, second + c, resamples=FEW) for c in (0, constant))
    assert moved.verdict == found.verdict
    for name in ("mean", "deviation", "t_interval", "bootstrap_interval", "p", "detectable"):
        assert getattr(moved, name) == pytest.approx(getattr(found, name), rel=1e-5, abs=1e-9), name


@given(pairs, st.floats(0.1, 50))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_what_is_better_by_more_is_surer(values, gain):
    first, second = np.array(sorted(values, key=lambda pair: pair[0] - pair[1])).T
    if (first - second).mean() < 0:
        first, second = second, first
    less, more = (paired_difference(first + more, second, resamples=1) for more in (0, gain))
    assert more.p <= less.p


@given(pairs)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_a_verdict_is_what_the_interval_says(values):
    found = paired_difference(*zip(*values, strict=True), resamples=1)
    low, high = found.t_interval
    if abs(found.p - 0.05) > 1e-9:
        assert found.verdict == ("better" if low > 0 else "worse" if high < 0 else "inconclusive")


# --- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gain", "p", "verdict"), [(0.0, 1.0, "inconclusive"), (0.1, 0.0, "better"), (-0.1, 0.0, "worse")]
)
def test_equal_differences_have_a_point_for_an_interval(gain, p, verdict):
    second = np.array([70.3, 71.9, 64.77, 12.1])  # 70.4 - 70.3 and 12.2 - 12.1 differ in their last bits
    found = paired_difference(second + gain, second)
    assert found.deviation == 0
    assert found.mean == pytest.approx(gain)
    assert found.t_interval == found.bootstrap_interval == (found.mean, found.mean)
    assert (found.p, found.detectable, found.verdict) == (p, 0.0, verdict)


def test_sums_in_another_order_are_no_difference():
    assert 0.1 + 0.2 != 0.3
    found = paired_difference([0.1 + 0.2] * 3, [0.3] * 3)
    assert (found.mean, found.p, found.verdict) == (0.0, 1.0, "inconclusive")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ([], [], "2 seeds"),
        ([1.0], [2.0], "2 seeds"),
        ([1.0, 2.0], [1.0], "2 and 1"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one number a seed"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
        ([1.0, 2.0], [1.0, math.inf], "finite"),
    ],
)
def test_what_is_no_pair_of_lists_is_refused(first, second, said):
    with pytest.raises(ValueError, match=said):
        paired_difference(first, second)


@pytest.mark.parametrize(
    ("options", "said"), [({"confidence": 0}, "confidence"), ({"confidence": 95}, "conf"), ({"resamples": 0}, "resamp")]
)
def test_options_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        paired_difference([1.0, 2.0], [1.0, 3.0], **options)


# --- tables --------------------------------------------------------------------------------------


def test_the_summary_has_a_row_a_method_in_their_order():
    runs = pd.concat(
        [runs_of({"zoo": [70.0, 72.0, 74.0]}), runs_of({"alone": [60.0]}, teacher=None), runs_of({"KD": [71.0, 71.0]})]
    )
    table = summary(runs)
    assert table.method.tolist() == ["zoo", "alone", "KD"]
    assert table.teacher.isna().tolist() == [False, True, False]
    assert table.seeds.tolist() == [3, 1, 2]
    assert table["mean"].tolist() == [72.0, 60.0, 71.0]
    assert table.best.tolist() == [73.0, 61.0, 72.0]
    assert table.seconds.tolist() == [11.0, 10.0, 10.5]
    first, single, equal = table.itertuples()
    assert first.deviation == 2.0
    assert (first.lower, first.upper) == pytest.approx(stats.t.interval(0.95, 2, 72.0, 2 / math.sqrt(3)))
    assert np.isnan([single.deviation, single.lower, single.upper]).all()
    assert (equal.deviation, equal.lower, equal.upper) == (0.0, 71.0, 71.0)


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf]])
def test_a_mean_over_seeds_is_of_finite_values(values):
    with pytest.raises(ValueError, match="takes finite values, one or more"):
        comparison.over_seeds(values)


def test_the_summary_keeps_groups_apart():
    runs = pd.concat([runs_of({"KD": [70.0, 71.0]}, **{c: "other"}) for c in ("student", "teacher", "protocol")])
    assert summary(runs).seeds.tolist() == [2, 2, 2]


def test_a_row_of_the_table_is_the_paired_difference():
    table = by_method(compare_methods(sevenfold(0.3), "alone"))
    assert table.index.tolist() == ["KD", "hint", "KD + hint", "KD + both terms", "attention transfer", "Fourier"]
    assert set(table.baseline) == {"alone"}
    wide = sevenfold(0.3).pivot(index="seed", columns="method", values="accuracy")
    for method, row in table.iterrows():
        found = paired_difference(wide[method], wide["alone"])
        assert isinstance(found, PairedDifference)
        assert (row.difference, row.deviation, row.p, row.detectable) == (
            found.mean,
            found.deviation,
            found.p,
            found.detectable,
        )
        assert (row.lower, row.upper) == found.t_interval
        assert (row.bootstrap_lower, row.bootstrap_upper) == found.bootstrap_interval
        assert row.seeds == found.count == 5


def test_runs_are_paired_by_seed_and_not_by_row():
    runs = sevenfold(0.3)
    expected = by_method(compare_methods(runs, "alone", resamples=FEW))
    shuffled = by_method(compare_methods(runs.sample(frac=1, random_state=0), "alone", resamples=FEW))
    pd.testing.assert_frame_equal(shuffled.loc[expected.index], expected)


def test_only_common_seeds_count():
    runs = sevenfold(0.3)
    gone = (runs.method.eq("KD") & runs.seed.isin([0, 3])) | (runs.method.eq("alone") & runs.seed.eq(4))
    table = by_method(compare_methods(runs[~gone], "alone"))
    wide = runs.pivot(index="seed", columns="method", values="accuracy")
    assert table.seeds["KD"] == 2
    assert table.p["KD"] == paired_difference(wide.KD[[1, 2]], wide.alone[[1, 2]]).p
    assert table.seeds["hint"] == 4
    assert table.p["hint"] == paired_difference(wide.hint[:4], wide.alone[:4]).p


def test_fewer_than_two_common_seeds_decide_nothing_and_are_no_test():
    runs = runs_of({"alone": [70.0, 71.0, 72.5], "KD": [72.0, 73.1, 74.4], "one": [90.0]})
    apart = runs_of({"none": [90.0, 90.0]}).assign(seed=[8, 9])
    table = by_method(compare_methods(pd.concat([runs, apart]), "alone"))
    assert table.seeds.tolist() == [3, 1, 0]
    assert table.verdict.tolist() == ["better", "inconclusive", "inconclusive"]
    unknown = ["deviation", "lower", "upper", "bootstrap_lower", "bootstrap_upper", "p", "p_holm", "detectable"]
    assert table.loc[["one", "none"], unknown].isna().all(axis=None)
    assert table.difference["one"] == 20.0
    assert math.isnan(table.difference["none"])
    assert table.p_holm["KD"] == table.p["KD"]


def test_holms_values_are_those_worked_out_by_hand():
    """Each p times the number of those that are no smaller, never below the one before it, and 1 at most."""
    assert comparison.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    some = [0.6, math.nan, 0.55, 0.001, math.nan]
    assert comparison.holm(some) == pytest.approx([1.0, math.nan, 1.0, 0.003, math.nan], nan_ok=True)
    table = compare_methods(sevenfold(0.2), "alone", resamples=FEW)
    assert table.p_holm.tolist() == pytest.approx(comparison.holm(table.p))


def test_the_verdict_is_holms():
    shared, noise = draws(5, seed=1), [0.5, -0.5, 0.1, 0.2, -0.3]
    gains = {"none": 0.0, "some": 0.6, "lots": 9.0}
    scores = {name: list(70 + gain + shared + noise) for name, gain in gains.items()}
    table = by_method(compare_methods(runs_of({"alone": list(70 + shared)} | scores), "alone"))
    assert table.p["some"] < 0.05 < table.p_holm["some"]
    assert table.verdict.to_dict() == {"none": "inconclusive", "some": "inconclusive", "lots": "better"}
    alone = by_method(compare_methods(runs_of({"alone": list(70 + shared), "some": scores["some"]}), "alone"))
    assert alone.verdict["some"] == "better"


def test_the_direction_is_that_of_the_method_against_its_baseline():
    scores = {"alone": [70.0, 71.0, 72.5], "KD": [75.0, 76.1, 77.4]}
    (up,) = compare_methods(runs_of(scores), "alone").itertuples()
    (down,) = compare_methods(runs_of(scores), "KD").itertuples()
    assert (up.verdict, down.verdict) == ("better", "worse")
    assert 0 < up.lower < up.difference < up.upper
    assert down.difference == -up.difference


def test_another_value_is_compared_in_the_same_way():
    rng = np.random.default_rng(3)
    first, second = rng.normal(1.0, 0.05, 5), rng.normal(0.8, 0.05, 5)
    runs = pd.DataFrame(
        {
            "student": "s", "teacher": "t", "protocol": "p", "method": ["KD"] * 5 + ["AMA"] * 5,
            "seed": [*range(5)] * 2, "accuracy": 70.0, "loss": [*first, *second],
        }
    )  # fmt: skip
    (lower,) = compare_methods(runs, "KD", value="loss", lower_is_better=True).itertuples()
    (higher,) = compare_methods(runs, "KD", value="loss").itertuples()
    found = paired_difference(second, first)
    assert (lower.difference, lower.lower, lower.upper) == pytest.approx((found.mean, *found.t_interval))
    assert lower.difference == higher.difference
    assert (lower.verdict, higher.verdict) == ("better", "worse")
    assert compare_methods(runs, "KD").verdict.tolist() == ["inconclusive"]  # the accuracies are equal
    with pytest.raises(ValueError, match="the runs have no 'los'; they have student, teacher"):
        compare_methods(runs, "KD", value="los")


def test_groups_are_apart_and_each_has_a_holm_of_its_own():
    one, two = sevenfold(0.3), sevenfold(0.3).query("method in ['alone', 'KD']")
    both = compare_methods(pd.concat([one, two.assign(protocol="long")]), "alone", resamples=FEW)
    assert both.protocol.tolist() == ["quick"] * 6 + ["long"]
    assert both.p_holm.iloc[-1] == both.p.iloc[-1]


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_runs_alone_take_part_with_every_teacher(missing):
    alone = runs_of({"alone": [70.0, 71.0, 72.5], "smoothed": [70.2, 70.9, 72.8]}, teacher=missing)
    taught = [runs_of({"KD": [71.0, 72.1, 73.4 + i]}, teacher=name) for i, name in enumerate(("large", "wide"))]
    other = runs_of({"alone": [50.0, 51.0], "KD": [60.0, 61.5]}, student="tiny", teacher=["huge"] * 4)
    other.loc[other.method.eq("alone"), "teacher"] = missing
    table = compare_methods(pd.concat([alone, *taught, other]), "alone", resamples=FEW)
    assert list(zip(table.student, table.teacher, table.method, strict=True)) == [
        ("small", "large", "smoothed"),
        ("small", "large", "KD"),
        ("small", "wide", "smoothed"),
        ("small", "wide", "KD"),
        ("tiny", "huge", "KD"),
    ]
    assert table.seeds.tolist() == [3, 3, 3, 3, 2]
    assert summary(pd.concat([alone, *taught, other])).seeds.tolist() == [3, 3, 3, 3, 2, 2]


@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_runs_alone_are_a_group_where_there_is_no_teacher(missing):
    alone = runs_of({"alone": [70.0, 71.0, 72.5], "smoothed": [70.2, 70.9, 72.8]}, teacher=missing)
    long = runs_of({"alone": [70.0, 71.0], "KD": [75.0, 76.5]}, protocol="long")
    table = compare_methods(pd.concat([alone, long]), "alone", resamples=FEW)
    assert table.method.tolist() == ["smoothed", "KD"]
    assert table.teacher.isna().tolist() == [True, False]


def test_an_unknown_baseline_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"'aloen'.*did you mean 'alone'.*'KD \+ both terms'"):
        compare_methods(sevenfold(), "aloen")
    with pytest.raises(ValueError, match=r"'xyz'.*there are 'alone', 'KD'"):
        compare_methods(sevenfold(), "xyz")
    with pytest.raises(ValueError, match="there are no runs"):
        compare_methods(sevenfold().iloc[:0], "alone")
    assert len(summary(sevenfold().iloc[:0])) == 0


def test_a_group_without_the_baseline_is_told_and_decides_nothing():
    runs = pd.concat([sevenfold(), runs_of({"KD": [70.0, 71.0]}, protocol="long")])
    last = compare_methods(runs, "alone", resamples=FEW).iloc[-1]
    assert (last.protocol, last.method, last.seeds, last.verdict) == ("long", "KD", 0, "inconclusive")


def test_the_baseline_alone_makes_an_empty_table_with_its_columns():
    table = compare_methods(runs_of({"alone": [70.0, 71.0]}), "alone")
    assert len(table) == 0
    assert table.columns.tolist() == compare_methods(sevenfold(), "alone", resamples=1).columns.tolist()


@pytest.mark.parametrize("missing", [None, "large"])
@pytest.mark.parametrize("table", [summary, lambda runs: compare_methods(runs, "alone")])
def test_a_seed_twice_in_a_method_is_refused(table, missing):
    runs = runs_of({"alone": [70.0, 71.0], "KD": [75.0, 76.5]}, teacher=missing)
    with pytest.raises(ValueError, match=r"'KD'.*seed 1.*twice"):
        table(pd.concat([runs, runs.iloc[-1:]]))


def test_a_method_with_a_teacher_and_without_is_refused():
    runs = runs_of({"alone": [70.0, 71.0], "KD": [75.0, 76.5]}).assign(teacher=["large", None, "large", "large"])
    with pytest.raises(ValueError, match="'alone' has runs with the teacher 'large' and runs with none"):
        compare_methods(runs, "alone")


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("table", [summary, lambda runs: compare_methods(runs, "alone")])
def test_an_accuracy_that_is_no_number_is_refused(table, value):
    with pytest.raises(ValueError, match=r"'KD' with seed 1.*finite"):
        table(runs_of({"alone": [70.0, 71.0], "KD": [75.0, value]}))


# --- the figure ----------------------------------------------------------------------------------


def test_the_figure_tells_every_method_in_one_sentence():
    drawn = method_comparison(sevenfold(0.3), "alone")
    assert re.fullmatch(r"[^\n]+\.", drawn.caption)
    assert drawn.caption.startswith(
        "small from large, quick, 5 seeds, against alone (points, 95 % interval, Holm's verdict): KD "
    )
    for row in compare_methods(sevenfold(0.3), "alone").itertuples():
        assert (
            f"{row.method} {row.difference:+.2f} ({row.lower:+.2f} to {row.upper:+.2f}, {row.verdict})" in drawn.caption
        )
    assert Image.open(io.BytesIO(drawn.png())).width == style.WIDTH * style.DPI


def test_both_panels_have_the_same_rows_with_every_run_and_band():
    runs = sevenfold(0.3)
    left, right = method_comparison(runs, "alone").figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == list(runs.method.unique())
    assert left.get_ylim() == right.get_ylim()
    dots = [line.get_xdata() for line in left.lines if line.get_marker() == "o"]
    wide = runs.pivot(index="seed", columns="method", values="accuracy")[runs.method.unique()]
    np.testing.assert_array_equal(dots, wide)
    table = compare_methods(runs, "alone")
    assert [patch.get_width() for patch in right.patches] == pytest.approx((2 * table.detectable).tolist())
    for axis, rows, first in ((left, summary(runs), 0), (right, table, 1)):
        bars = [bar.get_segments()[0] for bar in axis.collections]
        assert [tuple(bar[:, 0]) for bar in bars] == [
            pytest.approx(ends) for ends in zip(rows.lower, rows.upper, strict=True)
        ]
        assert [round(bar[0, 1]) for bar in bars] == list(range(first, 7))
    marks = [container.lines[0].get_marker() for container in right.containers]
    shape = {"better": ">", "worse": "<", "inconclusive": "o"}
    assert marks == [shape[verdict] for verdict in table.verdict]
    assert len(set(marks)) > 1


def test_few_seeds_are_drawn_and_told_too():
    runs = runs_of({"alone": [70.0, 71.0, 72.5], "KD": [72.0, 73.1], "one": [90.0]})
    apart = runs_of({"none": [90.0, 90.0]}).assign(seed=[8, 9])
    caption = method_comparison(pd.concat([runs, apart]), "alone").caption
    assert "0 to 2 seeds" in caption
    assert "one +20.00 (1 seed, inconclusive)" in caption
    assert caption.endswith("none (no common seed, inconclusive).")
    assert method_comparison(runs.query("method == 'alone'"), "alone").caption.endswith("nothing to compare.")


@pytest.mark.parametrize("seeds", [2, 6, 7, 10])
def test_lines_join_the_runs_of_few_seeds_only(seeds):
    accuracies = draws(3, seeds, seed=4) + 75
    drawn = method_comparison(runs_of(dict(zip(("alone", "KD", "hint"), map(list, accuracies), strict=True))), "alone")
    joined = seeds <= 6
    dots = [line for line in drawn.figure.axes[0].lines if line.get_marker() == "o"]
    assert {line.get_linestyle() for line in dots} == {"-" if joined else "None"}
    np.testing.assert_array_equal([line.get_xdata() for line in dots], accuracies.T)
    (legend,) = drawn.figure.legends
    assert legend.texts[0].get_text() == ("run; a line joins a seed's" if joined else "run")
    assert legend.legend_handles[0].get_linestyle() == ("-" if joined else "None")


def many(better: int, worse: int, open_: int) -> pd.DataFrame:
    """Methods with a verdict each, ten seeds."""
    shared, noise = draws(10, seed=1), 0.3 * draws(10, seed=2)
    noise -= noise.mean()
    counts = {"good": (better, 9), "bad": (worse, -9), "so": (open_, 0)}
    gains = {f"{name} {i}": gain for name, (count, gain) in counts.items() for i in range(count)}
    scores = {name: list(70 + gain + shared + noise) for name, gain in gains.items()}
    return runs_of({"alone": list(70 + shared)} | scores)


@pytest.mark.parametrize(
    ("counts", "ending"),
    [
        ((1, 1, 9), "the other 9 are inconclusive"),
        ((6, 1, 1), "the other is inconclusive"),
        ((0, 0, 8), "all 8 are inconclusive"),
        ((5, 3, 0), ""),
    ],
)
def test_of_many_methods_the_caption_names_those_with_a_verdict(counts, ending):
    runs = many(*counts)
    table = compare_methods(runs, "alone")
    assert [table.verdict.eq(verdict).sum() for verdict in ("better", "worse", "inconclusive")] == list(counts)
    said = [
        f"{row.method} {row.difference:+.2f} ({row.lower:+.2f} to {row.upper:+.2f}, {row.verdict})"
        for row in table[table.verdict.ne("inconclusive")].itertuples()
    ]
    caption = method_comparison(runs, "alone").caption
    assert caption.partition("verdict): ")[2] == ", ".join([*said, *([ending] if ending else [])]) + "."


def test_of_seven_methods_the_caption_names_all():
    caption = method_comparison(many(1, 1, 5), "alone").caption
    assert caption.count(" to ") == 7
    assert caption.count(", inconclusive)") == 5


@pytest.mark.parametrize("column", ["student", "teacher", "protocol"])
def test_the_figure_is_of_one_group(column):
    with pytest.raises(ValueError, match="one student, one teacher and one protocol"):
        method_comparison(pd.concat([sevenfold(), sevenfold().assign(**{column: "other"})]), "alone")


def test_the_figure_takes_runs_alone_into_the_group_of_their_teacher():
    runs = sevenfold(0.3)
    runs.loc[runs.method.eq("alone"), "teacher"] = None
    assert method_comparison(runs, "alone").caption == method_comparison(sevenfold(0.3), "alone").caption
    assert method_comparison(runs.assign(teacher=None), "alone").caption.startswith("small, quick, 5 seeds")


# --- the ranking ---------------------------------------------------------------------------------


def test_methods_are_ranked_by_their_means_with_every_run_and_interval():
    runs = many(2, 1, 3).assign(best=lambda table: table.accuracy + 1.5)
    (axis,) = ranking(runs, "alone").figure.axes
    means = summary(runs).sort_values("mean", ascending=False)
    order = means.method.tolist()
    assert [label.get_text() for label in axis.get_yticklabels()] == order
    assert axis.get_ylim() == (6.5, -0.5)  # the highest above
    dots = [line for line in axis.lines if line.get_marker() == "o" and len(line.get_xdata()) == 10]
    for row, (method, line) in enumerate(zip(order, dots, strict=True)):
        np.testing.assert_array_equal(line.get_xdata(), runs[runs.method == method].accuracy)
        assert np.abs(line.get_ydata() - row).max() < 0.5
    bars = [bar.get_segments()[0] for bar in axis.collections]
    assert [tuple(bar[:, 0]) for bar in bars] == [
        pytest.approx(ends) for ends in zip(means.lower, means.upper, strict=True)
    ]
    crosses = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "x"]
    assert crosses == pytest.approx((means["mean"] + 1.5).tolist())
    (band,) = axis.patches
    own = means.set_index("method").loc["alone"]
    assert (band.get_x(), band.get_x() + band.get_width()) == pytest.approx((own.lower, own.upper))


def test_a_rank_has_the_mark_and_the_colour_of_its_verdict():
    runs = many(2, 1, 3)
    (axis,) = ranking(runs, "alone").figure.axes
    verdicts = compare_methods(runs, "alone").set_index("method").verdict
    for label, container in zip(axis.get_yticklabels(), axis.containers, strict=True):
        mark = container.lines[0]
        expected = VERDICTS[verdicts[label.get_text()]] if label.get_text() != "alone" else ("D", "black", "black")
        assert (mark.get_marker(), mark.get_color(), mark.get_markerfacecolor()) == expected
    assert len({marker for marker, *_ in VERDICTS.values()}) == len(VERDICTS)


def test_the_ranking_tells_the_first_the_baseline_and_the_verdicts_in_order():
    runs = many(2, 1, 3).assign(best=lambda table: table.accuracy + 1.5)
    caption = ranking(runs, "alone").caption
    means = summary(runs).sort_values("mean", ascending=False, ignore_index=True)
    place = means.method.tolist().index("alone")
    own = means.iloc[place]
    assert caption.startswith(
        f"After the last epoch {means.method[0]} has the highest mean, {means['mean'][0]:.2f} %; alone is {place + 1} "
        f"of 7 with {own['mean']:.2f} % ({own.lower:.2f} to {own.upper:.2f}); best epochs are 1.50 points higher on "
        "average. small from large, quick, 10 seeds, against alone (points, 95 % interval, Holm's verdict): "
    )
    told = [method for method in means.method if method != "alone"]
    assert [caption.index(f"{method} ") for method in told[1:]] == sorted(caption.index(f"{m} ") for m in told[1:])
    assert ranking(runs, means.method[0]).caption.startswith(f"After the last epoch {means.method[0]} is 1 of 7 with ")


def test_few_seeds_and_runs_alone_can_be_ranked_too_and_several_groups_not():
    runs = runs_of({"alone": [70.0, 71.0, 72.5], "KD": [72.0, 73.1], "one": [90.0]})
    runs.loc[runs.method.eq("alone"), "teacher"] = None
    drawn = ranking(runs, "alone")
    assert [label.get_text() for label in drawn.figure.axes[0].get_yticklabels()] == ["one", "KD", "alone"]
    assert "one +20.00 (1 seed, inconclusive)" in drawn.caption
    one = ranking(runs_of({"alone": [70.0]}), "alone")
    assert not list(one.figure.axes[0].patches)  # no band
    assert "alone is 1 of 1 with 70.00 %; best" in one.caption
    assert one.caption.endswith("only alone, with nothing to compare.")
    with pytest.raises(ValueError, match="one student, one teacher and one protocol"):
        ranking(pd.concat([runs, runs.assign(protocol="long")]), "alone")
    with pytest.raises(ValueError, match="no method is called 'aloen'; did you mean 'alone'"):
        ranking(runs, "aloen")
