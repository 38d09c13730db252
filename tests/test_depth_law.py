"""alpha over depth: from each law a profile is drawn, and the fits have to find the law, or say that they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from spectralkd_nb.depth_law.fits import (
    DepthLaw,
    DepthRival,
    fit_depth_law,
    law_table,
    line_through,
    rivals_that_stand,
)
from spectralkd_nb.depth_law.profiles import ExponentProfile

LAYERS = 24
DEPTH = torch.arange(1, LAYERS + 1, dtype=torch.float64)
SHARE = (DEPTH - 1) / (LAYERS - 1)  # of the way, 0..1
STAGES = tuple(i // 8 + 1 for i in range(LAYERS))
IN_STAGE = torch.arange(8).repeat(3).double()
LAWS = {
    "constant": torch.full_like(DEPTH, 1.5),
    "linear": 2.0 - 1.5 * SHARE,
    "quadratic": 2.0 - 2.0 * (SHARE - 0.4).square(),
    "saturating": 2.0 - 1.5 * (1 - torch.exp(-SHARE / 0.15)),
    "line per stage": torch.cat([1.0 + 0.1 * IN_STAGE[:8], 2.5 - 0.05 * IN_STAGE[8:16], 1.0 + 0.02 * IN_STAGE[16:]]),
}


def profile(alpha: Tensor, depth: Tensor | None = None, stage: Sequence[int | None] | None = None) -> ExponentProfile:
    """A profile without noise, of images that are all alike: no draws and no folds."""
    n = len(alpha)
    depth = torch.arange(1, n + 1, dtype=torch.float64) if depth is None else depth
    return ExponentProfile(
        name="made up",
        paths=tuple(f"layer{i}" for i in range(n)),
        kinds=("conv",) * n,
        depth=depth,
        blocks=(depth / 2).ceil(),
        stage=tuple(stage or [1] * n),
        grid=((32, 32),) * n,
        bands=((0.06, 0.45),) * n,
        alpha=alpha,
        reasons=((),) * n,
        draws=torch.zeros(0, n, dtype=torch.float64),
        folds=torch.zeros(0, 2, n, dtype=torch.float64),
        images=1,
        groups=1,
    )


def over_images(alphas: Tensor, generator: torch.Generator, resamples: int = 200, **options) -> ExponentProfile:
    """The profile of images whose own alphas are given, (images, layers), resampled as `exponent_profile` does it."""
    images = len(alphas)
    drawn = torch.randint(images, (resamples, images), generator=generator)
    counts = torch.zeros(resamples, images, dtype=torch.float64)
    counts.scatter_add_(1, drawn, torch.ones_like(counts))
    fold = torch.arange(images) % 5
    folds = [torch.stack([alphas[fold != k].mean(0), alphas[fold == k].mean(0)]) for k in range(5)]
    drawn_profile = profile(alphas.mean(0), **options)
    return replace(drawn_profile, draws=counts @ alphas / images, folds=torch.stack(folds), images=images)


def drawn_from(
    law: Tensor, seed: int, noise: float = 0.1, scatter: float = 0.0, shared: float = 0.5, images: int = 60, **options
) -> ExponentProfile:
    """Images that leave the law by a level of their own and by noise on every layer; layers, by their own scatter."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    alphas = law + scatter * normal(len(law)) + shared * normal(images, 1) + noise * normal(images, len(law))
    return over_images(alphas, generator, **options)


def drawn_in_3_stages(law: Tensor, seed: int) -> ExponentProfile:
    stages = tuple(3 * i // len(law) + 1 for i in range(len(law)))
    return drawn_from(law.double(), seed, noise=0.3, stage=stages)


def leads(law: DepthLaw) -> dict[str, float]:
    return {rival.name: rival.bic - law.rivals[0].bic for rival in law.rivals}


# --- the law that a profile was drawn from -------------------------------------------------------


@pytest.mark.parametrize("name", LAWS)
def test_a_law_without_noise_is_found(name):
    assert fit_depth_law(profile(LAWS[name], stage=STAGES)).decided == name


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("scatter", [0.0, 0.02])
@pytest.mark.parametrize("name", LAWS)
def test_a_law_under_noise_is_found_or_left_open_and_never_taken_for_another(name, scatter, seed):
    law = fit_depth_law(drawn_from(LAWS[name], seed, scatter=scatter, stage=STAGES))
    assert name in law.standing
    assert law.decided == name or set(law.standing) <= {"constant", "linear", "quadratic", "saturating"}
    if name not in ("constant", "linear"):
        assert law.decided == name


def test_a_line_is_seldom_ruled_out():
    straight = LAWS["linear"][::2]
    found = [fit_depth_law(drawn_from(straight, seed, scatter=0.05)) for seed in range(60)]
    assert sum("linear" in law.standing for law in found) >= 57
    assert sum(law.decided == "linear" for law in found) >= 45


@pytest.mark.parametrize(("layers", "at_least"), [(6, 24), (12, 30), (30, 33)])
def test_of_40_lines_as_many_are_found_as_the_words_of_the_fit_promise(layers, at_least):
    """Noise of the images alone, 3 stages. The words say 74, 87 and 93 %, and 1, 0 and 0 % ruled out."""
    found = [fit_depth_law(drawn_in_3_stages(torch.linspace(2.0, 0.5, layers), seed)) for seed in range(40)]
    assert sum(law.decided == "linear" for law in found) >= at_least
    assert sum("linear" in law.standing for law in found) >= 39


@pytest.mark.parametrize(("layers", "at_least"), [(6, 20), (12, 30), (30, 30)])
def test_of_40_constants_most_are_found_and_hardly_one_is_taken_for_a_line(layers, at_least):
    found = [fit_depth_law(drawn_in_3_stages(torch.full((layers,), 1.5), seed)) for seed in range(40)]
    assert sum(law.decided == "constant" for law in found) >= at_least
    assert sum("constant" in law.standing for law in found) >= 39
    assert not any(law.verdict.startswith(("alpha falls", "alpha rises")) for law in found)


def test_a_bend_that_only_the_drawn_images_have_is_not_the_networks():
    # Each image bends the whole profile at random: that is no noise that layers have one by one.
    bend = (SHARE - 0.5).square() - (SHARE - 0.5).square().mean()
    ruled_out = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        own = torch.randn(60, 1, generator=generator, dtype=torch.float64) * bend
        ruled_out += "linear" not in fit_depth_law(over_images(LAWS["linear"] + own, generator)).standing
    assert ruled_out <= 3


def test_few_layers_leave_it_undecided():
    line, bend, rest = torch.arange(6.0), torch.tensor([5, -1, -4, -4, -1, 5]), torch.tensor([-5, 7, 4, -4, -7, 5])
    found = fit_depth_law(profile((2 - 0.3 * line + 0.02 * bend + 0.01 * rest).double()))
    assert found.decided is None
    assert {"linear", "quadratic"} <= set(found.standing)
    assert found.verdict.startswith("Undecided: 6 layers, over these images, cannot tell linear")


def test_a_bend_whose_form_stays_open_is_told_from_a_line():
    found = fit_depth_law(profile(2 - SHARE + 0.3 * SHARE.square() - 0.02 * (-1) ** DEPTH))
    assert set(found.standing) == {"quadratic", "saturating"}
    assert found.verdict == (
        "Undecided, but not one line: 24 layers, over these images, cannot tell quadratic from saturating."
    )


def test_four_layers_are_no_test_of_a_curve():
    found = fit_depth_law(profile(torch.tensor([2.0, 1.5, 1.01, 0.5], dtype=torch.float64)))
    assert {rival.name for rival in found.rivals} == {"constant", "linear"}
    assert found.verdict.endswith("No curve was tried, for that takes 5 layers and 3 depths.")


@pytest.mark.parametrize("with_folds", [True, False])
def test_a_line_whose_slope_images_do_not_agree_on_has_no_direction(with_folds):
    # The profile is straight to rounding, but every image has a slope of its own, as often up as down.
    slopes = 0.1 * torch.randn(60, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    drawn = over_images(1.5 + slopes * DEPTH, torch.Generator().manual_seed(2))
    found = fit_depth_law(drawn if with_folds else replace(drawn, folds=drawn.folds[:0]))
    assert found.interval[0] < 0 < found.interval[1]
    assert found.standing == ("linear", "constant")
    assert not {"falls", "rises"} & set(found.verdict.split())


def rival(name: str, parameters: int, bic: float, errors: Sequence[float] = (1.0, 1.0)) -> DepthRival:
    none = torch.zeros(0)
    return DepthRival(name, dict.fromkeys("abcdef"[:parameters], 0.0), 0.0, bic, 0.0, torch.tensor(errors), none, ())


@pytest.mark.parametrize(
    ("rivals", "standing"),
    [
        # fewer parameters: any lead
        ([rival("linear", 2, 0), rival("quadratic", 3, 0)], ["linear"]),
        ([rival("linear", 2, 0), rival("quadratic", 3, 0, (0.1, 0.1))], ["linear"]),
        # more: a lead of 6, and better by a standard error on held-out images
        ([rival("quadratic", 3, 0), rival("linear", 2, 5.9)], ["quadratic", "linear"]),
        ([rival("quadratic", 3, 0), rival("linear", 2, 6)], ["quadratic"]),
        ([rival("quadratic", 3, 0, (0.9, 0.8)), rival("linear", 2, 9)], ["quadratic"]),
        ([rival("quadratic", 3, 0, (1.1, 0.8)), rival("linear", 2, 9)], ["quadratic", "linear"]),
        ([rival("quadratic", 3, 0, ()), rival("linear", 2, 6, ())], ["quadratic"]),
        # as many: a lead of 2, and not worse on held-out images
        ([rival("saturating", 3, 0), rival("quadratic", 3, 1.9)], ["saturating", "quadratic"]),
        ([rival("saturating", 3, 0, (1.1, 0.8)), rival("quadratic", 3, 2)], ["saturating"]),
        ([rival("saturating", 3, 0, (1.1, 1.0)), rival("quadratic", 3, 2)], ["saturating", "quadratic"]),
        # by whichever rival stands, best or not
        ([rival("quadratic", 3, 0, (3.0, 3.0)), rival("linear", 2, 1), rival("constant", 1, 9, (2.0, 2.0))],
         ["quadratic", "linear"]),
    ],
)  # fmt: skip
def test_the_rule_of_what_stands(rivals, standing):
    assert rivals_that_stand(rivals, (0.1, 0.2)) == tuple(standing)


# --- the line ------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [2, 3, 12, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_line_through_points_is_numpys(points, dtype):
    generator = torch.Generator().manual_seed(points)
    for _ in range(10):
        x = (20 * torch.rand(points, generator=generator)).to(dtype)
        alpha = torch.randn(points, generator=generator, dtype=torch.float64).to(dtype)
        found = line_through(x, alpha)
        slope, intercept = np.polyfit(x.double().numpy(), alpha.double().numpy(), 1)
        assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=1e-7, abs=1e-9)
        r = np.corrcoef(x.double().numpy(), alpha.double().numpy())[0, 1]
        assert found.r_squared == pytest.approx(r**2, abs=1e-9)
        assert all(type(value) is float for value in found)


def test_a_line_through_points_of_a_line_is_that_line():
    for x in (torch.arange(13), DEPTH, torch.tensor([5, 1, 1, 9])):  # whole numbers, in any order, some twice
        assert tuple(line_through(x, 2.5 - 0.125 * x)) == pytest.approx((-0.125, 2.5, 1.0), abs=1e-12)


@pytest.mark.parametrize("level", [0.0, 1.5, -3.7, 1e9, 0.1])
def test_a_line_through_points_of_one_alpha_explains_nothing(level):
    found = line_through(DEPTH, torch.full_like(DEPTH, level))
    assert found.r_squared == 0
    assert (found.slope, found.intercept) == pytest.approx((0, level), abs=1e-9 * max(1, abs(level)))
    # Nor does it where alpha is one number but for its last digits.
    rounded = torch.full_like(DEPTH, level) + 1e-14 * level * DEPTH
    assert line_through(DEPTH, rounded).r_squared == 0


def test_r2_lies_between_0_and_1_and_does_not_ask_for_scale_or_direction():
    alpha = torch.randn(LAYERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = line_through(DEPTH, alpha).r_squared
    assert 0 < found < 1
    for other in (line_through(DEPTH, 5 - 7 * alpha), line_through(3 - 2 * DEPTH, alpha), line_through(alpha, DEPTH)):
        assert other.r_squared == pytest.approx(found, abs=1e-12)


def test_the_line_of_a_law_is_the_line_through_its_layers():
    found = fit_depth_law(drawn_from(LAWS["quadratic"], 3))
    assert (found.slope, found.intercept, found.r_squared) == line_through(found.x, found.alpha)


@pytest.mark.parametrize(
    ("x", "alpha"),
    [
        ([3.0, 3.0, 3.0], [1.0, 2.0, 3.0]),
        ([1.0], [2.0]),
        ([], []),
        ([1.0, 2.0, 3.0], [1.0, math.nan, 2.0]),
        ([1.0, 2.0, 3.0], [1.0, 2.0, -math.inf]),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, math.inf], [1.0, 2.0, 3.0]),
    ],
)
def test_points_that_no_line_goes_through_are_refused(x, alpha):
    with pytest.raises(ValueError, match="a line wants two different depths and finite alphas"):
        line_through(torch.tensor(x), torch.tensor(alpha))


@pytest.mark.parametrize("unit", ["layers", "blocks"])
def test_the_line_is_numpys(unit):
    drawn = drawn_from(LAWS["linear"], 3)
    found = fit_depth_law(drawn, unit=unit)
    x = (drawn.depth if unit == "layers" else drawn.blocks).numpy()
    slope, intercept = np.polyfit(x, drawn.alpha.numpy(), 1)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=1e-9)
    assert found.r_squared == pytest.approx(np.corrcoef(x, drawn.alpha.numpy())[0, 1] ** 2, rel=1e-9)
    slopes = [np.polyfit(x, draw, 1)[0] for draw in drawn.draws.numpy()]
    assert found.interval == pytest.approx(np.quantile(slopes, [0.025, 0.975]).tolist(), rel=1e-9)


def test_what_lifts_all_layers_of_an_image_changes_neither_the_interval_nor_the_rivals():
    still, moved = (fit_depth_law(drawn_from(LAWS["linear"], 4, shared=shared)) for shared in (0.0, 5.0))
    assert moved.interval == pytest.approx(still.interval, rel=1e-9)
    assert leads(moved) == pytest.approx(leads(still), abs=1e-6)
    differences = [law.rival("linear").fold_errors - law.rival("quadratic").fold_errors for law in (still, moved)]
    assert torch.allclose(*differences, rtol=1e-6, atol=1e-12)
    assert moved.standing == still.standing


def test_the_interval_holds_the_true_slope_about_19_times_in_20():
    def law(seed: int) -> DepthLaw:
        drawn = drawn_from(LAWS["linear"][::4], seed, noise=0.3, depth=DEPTH[::4])
        return fit_depth_law(replace(drawn, folds=drawn.folds[:0]))

    intervals = [law(seed).interval for seed in range(200)]
    covered = sum(low <= -1.5 / (LAYERS - 1) <= high for low, high in intervals) / 200
    assert 0.9 <= covered <= 0.98


def test_an_alpha_that_never_moves_has_an_r2_of_0():
    found = fit_depth_law(profile(LAWS["constant"]))
    assert found.r_squared == 0
    assert found.slope == pytest.approx(0, abs=1e-12)
    assert found.verdict == "alpha does not move with depth: a constant, 1.50, does as well as any rival."


# --- what does not change ------------------------------------------------------------------------


def transformed(old: ExponentProfile, shift: float = 0.0, stretch: float = 1.0) -> ExponentProfile:
    return replace(
        old,
        alpha=old.alpha + shift,
        draws=old.draws + shift,
        folds=old.folds + shift,
        depth=stretch * old.depth,
    )


@pytest.mark.parametrize("name", LAWS)
def test_a_level_added_to_alpha_moves_intercepts_only(name):
    drawn = drawn_from(LAWS[name], 5, stage=STAGES)
    before, after = fit_depth_law(drawn), fit_depth_law(transformed(drawn, shift=3.0))
    assert leads(after) == pytest.approx(leads(before), abs=1e-6)
    assert after.standing == before.standing
    assert (after.slope, after.intercept) == pytest.approx((before.slope, before.intercept + 3), abs=1e-9)


@pytest.mark.parametrize("name", LAWS)
def test_depth_in_another_unit_scales_the_slopes_only(name):
    drawn = drawn_from(LAWS[name], 6, stage=STAGES)
    before, after = fit_depth_law(drawn), fit_depth_law(transformed(drawn, stretch=3.0))
    assert leads(after) == pytest.approx(leads(before), abs=1e-4)
    assert after.standing == before.standing
    assert 3 * after.slope == pytest.approx(before.slope, rel=1e-9)
    scales = [law.rival("saturating").parameters["scale"] for law in (before, after)]
    assert scales[1] == pytest.approx(3 * scales[0], rel=1e-3)


# --- the rivals ----------------------------------------------------------------------------------


def test_the_curves_are_numpys_and_give_back_what_they_were_drawn_with():
    drawn = drawn_from(LAWS["quadratic"], 7)
    found = fit_depth_law(drawn).rival("quadratic")
    expected = np.polyfit(DEPTH.numpy(), drawn.alpha.numpy(), 2)[::-1]
    assert list(found.parameters.values()) == pytest.approx(expected.tolist(), rel=1e-6)

    found = fit_depth_law(profile(LAWS["saturating"])).rival("saturating")
    assert found.parameters == pytest.approx({"start": 2.0, "change": -1.5, "scale": 0.15 * (LAYERS - 1)}, rel=1e-4)


def test_each_stage_has_numpys_line():
    drawn = drawn_from(LAWS["line per stage"], 8, stage=STAGES)
    found = fit_depth_law(drawn)
    assert list(found.stages) == [1, 2, 3]
    for stage, line in found.stages.items():
        inside = torch.tensor(STAGES) == stage
        slope, intercept = np.polyfit(DEPTH[inside].numpy(), drawn.alpha[inside].numpy(), 1)
        assert (line.slope, line.intercept, line.layers) == pytest.approx((slope, intercept, 8))
        assert found.rival("line per stage").parameters[f"slope in stage {stage}"] == pytest.approx(slope)
        assert line.interval[0] < slope < line.interval[1]


@pytest.mark.parametrize("name", LAWS)
def test_drawn_curves_pass_through_the_fitted_layers(name):
    rival = fit_depth_law(drawn_from(LAWS[name], 9, stage=STAGES)).rival(name)
    assert len(rival.curves) == (3 if name == "line per stage" else 1)
    parts = [np.interp(DEPTH, x, alpha, left=0, right=0) for x, alpha in rival.curves]
    assert sum(parts) == pytest.approx(rival.fitted.numpy(), abs=0.01)


@pytest.mark.parametrize(
    ("stage", "takes_part"),
    [((1,) * 12 + (2,) * 12, True), ((1,) * 19 + (2,) * 5, True), ((1,) * 20 + (2,) * 4, False), ((1,) * 24, False)],
)
def test_a_line_per_stage_takes_part_where_every_stage_has_5_layers(stage, takes_part):
    found = fit_depth_law(profile(LAWS["linear"], stage=stage))
    assert ("line per stage" in leads(found)) == takes_part
    assert set(found.stages) == {s for s in stage if stage.count(s) >= 5}


def test_stages_can_be_left_out():
    found = fit_depth_law(profile(LAWS["line per stage"], stage=STAGES), per_stage=False)
    assert found.stages == {}
    assert "line per stage" not in leads(found)


def test_bic_is_that_of_normal_scatter_no_smaller_than_the_images_noise():
    drawn = drawn_from(LAWS["linear"], 10, noise=0.5, scatter=0.0)
    x = DEPTH.numpy()
    left = [draw - np.polyval(np.polyfit(x, draw, 1), x) for draw in drawn.draws.numpy()]
    floor = np.var(left, 0, ddof=1).mean()
    for law, parameters in (("constant", 1), ("linear", 2), ("quadratic", 3)):
        rival = fit_depth_law(drawn).rival(law)
        squares = float((drawn.alpha - rival.fitted).square().sum())
        scatter = max(squares / LAYERS, floor)
        expected = LAYERS * math.log(2 * math.pi * scatter) + squares / scatter + (parameters + 1) * math.log(LAYERS)
        assert rival.bic == pytest.approx(expected, rel=1e-9)


def test_held_out_error_is_that_of_images_the_law_has_not_seen():
    drawn = drawn_from(LAWS["linear"], 11)
    rival = fit_depth_law(drawn).rival("linear")
    errors = [
        np.mean((inside - np.polyval(np.polyfit(DEPTH, outside, 1), DEPTH)) ** 2)
        for outside, inside in drawn.folds.numpy()
    ]
    assert rival.fold_errors.tolist() == pytest.approx(errors)
    assert rival.held_out == pytest.approx(math.sqrt(np.mean(errors)))


def test_the_table_lists_rivals_best_first():
    found = fit_depth_law(drawn_from(LAWS["saturating"], 12, stage=STAGES))
    table = found.table()
    assert list(table.columns) == ["name", "parameters", "r_squared", "bic_above_best", "held_out", "stands"]
    assert dict(zip(table.name, table.parameters, strict=True)) == {
        "constant": 1, "linear": 2, "quadratic": 3, "saturating": 3, "line per stage": 6
    }  # fmt: skip
    assert table.bic_above_best.is_monotonic_increasing
    assert table.bic_above_best[0] == 0
    assert tuple(table.name[table.stands]) == found.standing


# --- layers, draws and folds that are missing ----------------------------------------------------


def test_layers_without_an_alpha_are_left_out_and_counted():
    drawn = drawn_from(LAWS["linear"], 13, stage=STAGES)
    gone = torch.zeros(LAYERS, dtype=torch.bool)
    gone[[3, 20]] = True
    holes = replace(
        drawn,
        alpha=drawn.alpha.masked_fill(gone, math.nan),
        draws=drawn.draws.masked_fill(gone, math.nan),
        folds=drawn.folds.masked_fill(gone, math.nan),
    )
    found = fit_depth_law(holes)
    slope, _ = np.polyfit(DEPTH[~gone].numpy(), drawn.alpha[~gone].numpy(), 1)
    assert (found.layers, found.left_out) == (22, 2)
    assert found.slope == pytest.approx(slope)
    assert not math.isnan(found.interval[0])
    assert "layer3" not in found.paths
    assert found.verdict.endswith(" 2 layers were left out.")


def doubted(old: ExponentProfile, *layers: int) -> ExponentProfile:
    """The same with reasons not to trust some of its layers."""
    reasons = [("it bends", "2 rings") if i in layers else () for i in range(len(old.alpha))]
    return replace(old, reasons=tuple(reasons))


def without_layers(old: ExponentProfile, *gone: int) -> ExponentProfile:
    kept = [i for i in range(len(old.alpha)) if i not in gone]
    tuples = {name: tuple(getattr(old, name)[i] for i in kept) for name in ("paths", "kinds", "stage", "grid", "bands")}
    rest = {name: getattr(old, name)[..., kept] for name in ("depth", "blocks", "alpha", "draws", "folds")}
    return replace(old, **tuples, **rest, reasons=tuple(old.reasons[i] for i in kept))


def test_layers_that_are_not_to_be_trusted_are_fitted_and_counted():
    drawn = drawn_from(LAWS["linear"], 13, stage=STAGES)
    found, trusting = fit_depth_law(doubted(drawn, 0, 7, 20)), fit_depth_law(drawn)
    assert (found.layers, found.left_out, found.distrusted) == (24, 0, 3)
    assert found.verdict == f"{trusting.verdict} 3 of these 24 exponents are not to be trusted."
    assert trusting.distrusted == 0
    assert leads(found) == leads(trusting)
    assert (found.slope, found.interval, found.standing) == (trusting.slope, trusting.interval, trusting.standing)
    assert fit_depth_law(doubted(drawn, 5)).verdict.endswith(" 1 of these 24 exponents is not to be trusted.")


def test_layers_that_are_not_to_be_trusted_can_be_left_out_and_are_counted():
    drawn = drawn_from(LAWS["quadratic"], 13, stage=STAGES)
    found = fit_depth_law(doubted(drawn, 0, 7, 20), trusted_only=True)
    rest = fit_depth_law(without_layers(drawn, 0, 7, 20))
    assert (found.layers, found.left_out, found.distrusted) == (21, 3, 0)
    assert found.paths == rest.paths
    assert torch.equal(found.alpha, rest.alpha)
    assert (found.slope, found.interval, found.stages) == (rest.slope, rest.interval, rest.stages)
    assert leads(found) == leads(rest)
    assert found.verdict == f"{rest.verdict} 3 layers were left out."
    assert fit_depth_law(doubted(drawn, 5), trusted_only=True).verdict.endswith(" 1 layer was left out.")
    everything = fit_depth_law(drawn, trusted_only=True)
    assert (everything.layers, everything.left_out, everything.verdict) == (24, 0, fit_depth_law(drawn).verdict)


def test_a_layer_without_an_alpha_is_left_out_and_not_distrusted_too():
    drawn = doubted(drawn_from(LAWS["linear"], 13), 3, 9)  # a dead layer has its reason as well
    gone = torch.arange(LAYERS) == 3
    holes = replace(drawn, alpha=drawn.alpha.masked_fill(gone, math.nan), draws=drawn.draws.masked_fill(gone, math.nan))
    found = fit_depth_law(holes)
    assert (found.layers, found.left_out, found.distrusted) == (23, 1, 1)
    assert found.verdict.endswith(" 1 layer was left out. 1 of these 23 exponents is not to be trusted.")
    strict = fit_depth_law(holes, trusted_only=True)
    assert (strict.layers, strict.left_out, strict.distrusted) == (22, 2, 0)


def test_an_image_that_is_no_layer_is_neither_left_out_nor_distrusted():
    drawn = profile(LAWS["linear"], depth=DEPTH - 1)
    drawn = doubted(replace(drawn, kinds=("image", *drawn.kinds[1:])), 0)
    for trusted_only in (True, False):
        found = fit_depth_law(drawn, trusted_only=trusted_only)
        assert (found.layers, found.left_out, found.distrusted) == (23, 0, 0)
    asked_for = fit_depth_law(drawn, with_image=True)
    assert (asked_for.layers, asked_for.distrusted) == (24, 1)


def test_of_layers_of_which_fewer_than_4_are_trusted_there_is_no_trusted_law():
    drawn = doubted(profile(LAWS["linear"]), *range(3, LAYERS))
    with pytest.raises(ValueError, match=r"'made up' has 3 layers with an alpha to be trusted; .* rivals need 4"):
        fit_depth_law(drawn, trusted_only=True)
    assert fit_depth_law(drawn).distrusted == 21


def test_draws_and_folds_with_a_missing_alpha_are_left_out():
    drawn = drawn_from(LAWS["linear"], 14)
    draws, folds = drawn.draws.clone(), drawn.folds.clone()
    draws[0, 5] = folds[1, 1, 2] = math.nan
    found = fit_depth_law(replace(drawn, draws=draws, folds=folds))
    assert found.interval == fit_depth_law(replace(drawn, draws=draws[1:])).interval
    assert len(found.rival("linear").fold_errors) == 4


def test_without_draws_there_is_no_interval_and_without_folds_no_held_out_error():
    found = fit_depth_law(profile(LAWS["linear"]))
    assert all(math.isnan(end) for end in found.interval)
    assert all(math.isnan(rival.held_out) for rival in found.rivals)
    assert found.decided == "linear"
    assert found.verdict == "alpha falls by 0.0652 a layer; R2 = 1.00; no rival does better than the line."
    assert found.deviations().lower.isna().all()


def test_the_image_is_a_layer_only_if_asked_for_and_counts_to_the_first_stage():
    drawn = profile(LAWS["linear"], depth=DEPTH - 1, stage=(None, *STAGES[1:]))
    drawn = replace(drawn, kinds=("image", *drawn.kinds[1:]))
    without, with_image = fit_depth_law(drawn), fit_depth_law(drawn, with_image=True)
    assert (without.layers, without.left_out, with_image.layers) == (23, 0, 24)
    assert [law.stages[1].layers for law in (without, with_image)] == [7, 8]
    assert with_image.deviations().stage.isna().sum() == 1


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"unit": "metres"}, "unit='metres' is not known; choose one of 'layers', 'blocks'"),
        ({"kinds": ("image",) * 21 + ("conv",) * 3}, {}, "'made up' has 3 layers with an alpha; .* rivals need 4"),
        (
            {"blocks": torch.ones(LAYERS)},
            {"unit": "blocks"},
            "'made up' lie at the same depth, 1 in blocks; a law needs 2",
        ),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(changes, options, message):
    with pytest.raises(ValueError, match=message):
        fit_depth_law(replace(profile(LAWS["linear"]), **changes), **options)


def test_a_rival_that_did_not_take_part_is_answered_with_those_that_did():
    with pytest.raises(KeyError, match="'line per stage' did not take part; there are linear"):
        fit_depth_law(profile(LAWS["linear"])).rival("line per stage")


# --- what is said --------------------------------------------------------------------------------


def test_a_line_is_said_with_its_direction_interval_and_unit():
    found = fit_depth_law(drawn_from(-LAWS["linear"], 0), unit="layers")
    low, high = found.interval
    assert str(found) == found.verdict
    assert found.verdict == (
        f"alpha rises by {found.slope:#.3g} a layer [{low:#.3g}, {high:#.3g}]; R2 = 1.00; "
        "no rival does better than the line."
    )
    falling = fit_depth_law(drawn_from(LAWS["linear"], 3))
    low, high = falling.interval
    assert f"alpha falls by {-falling.slope:#.3g} a layer [{-high:#.3g}, {-low:#.3g}]" in falling.verdict


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (LAWS["saturating"], "goes from 2.00 to 0.50, fastest at first; saturating"),
        (2 - SHARE.square(), "goes from 2.00 to 1.00, fastest at last; quadratic"),
        (LAWS["quadratic"], "goes from 1.68 to 2.00 at layer 10 and back to 1.28; quadratic"),
    ],
)
def test_a_bend_is_said_with_where_it_goes(alpha, said):
    assert fit_depth_law(profile(alpha)).verdict.startswith(f"The line bends: alpha {said} beats the line by ")


def test_stages_are_said_one_by_one_and_a_slope_that_may_be_0_is_not():
    flat = LAWS["line per stage"].clone()
    flat[16:] = 1.0
    found = fit_depth_law(drawn_from(flat, 1, stage=STAGES))
    first, second = (found.stages[stage].slope for stage in (1, 2))
    assert found.verdict.startswith(
        f"Each stage has a line of its own, in alpha a layer: {first:+#.3g} in stage 1, {second:+#.3g} in stage 2, "
        "no slope that images agree on in stage 3; line per stage beats the line by "
    )


def test_the_layer_farthest_from_the_line_comes_first():
    bumped = LAWS["linear"].clone()
    bumped[10] += 0.5
    found = fit_depth_law(drawn_from(bumped, 15, stage=STAGES)).deviations()
    first = found.iloc[0]
    assert (first.path, first.depth, first.stage) == ("layer10", 11, 2)
    assert first.alpha - first.line == pytest.approx(first.deviation)
    assert 0 < first.lower < first.deviation < first.upper
    assert found.deviation.abs().is_monotonic_decreasing
    assert len(found) == LAYERS


def test_laws_lie_side_by_side_in_a_table():
    stages, line = fit_depth_law(profile(LAWS["line per stage"], stage=STAGES)), fit_depth_law(profile(LAWS["linear"]))
    table = law_table({"stairs": stages, "line": line})
    assert list(table.index) == ["stairs", "line"]
    assert table.loc["stairs", "slope"] == stages.slope
    assert table.loc["stairs", "stage 2"] == pytest.approx(-0.05)
    assert table.loc["line", ["stage 2", "stage 3"]].isna().all()
    assert table.loc["line", "stands"] == "linear"


def test_the_table_says_where_alpha_ends():
    alpha = LAWS["linear"].clone()
    alpha[-1] = math.nan
    laws = {
        "all": fit_depth_law(profile(LAWS["linear"])),
        "without the last": fit_depth_law(profile(alpha)),
        "trusted": fit_depth_law(doubted(profile(LAWS["linear"]), 23, 22), trusted_only=True),
    }
    table = law_table(laws)
    assert table["last"].tolist() == [0.5, *(float(LAWS["linear"][i]) for i in (22, 21))]
    columns = ["slope", "lower", "upper", "r_squared", "last", "stage 1", "stands"]
    assert list(table.columns) == columns
    assert table["r_squared"].tolist() == pytest.approx([1, 1, 1])
