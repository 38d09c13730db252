"""How alpha moves with depth: measured, predicted, and the line through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from torch import Tensor

from spectralkd_nb.depth_law import DepthLaw, ExponentProfile
from spectralkd_nb.plots.style import DASHES, MARKERS, PALETTE, WIDTH, CaptionedFigure, new_figure

if TYPE_CHECKING:
    import pandas

ALPHA_AXIS = "exponent α"
DEPTH_AXIS = "depth, layers with weights before this output"
SPACED = 0.16  # layers between the marks of networks at one depth


def depth_profile(
    profiles: Mapping[str, ExponentProfile], laws: Mapping[str, DepthLaw] | None = None, title: str = ""
) -> CaptionedFigure:
    """alpha of each layer with its interval, stages shaded, and its law; hollow: not to be trusted.

    The line through all layers is dashed; solid is the best of the other rivals that stand.

    Args:
        profiles: label to profile, for instance of a network and of its untrained twin; the stages are the first one's.
        laws: of the same labels. Those without are only marks.
        title: of the figure.

    Raises:
        ValueError: a law fitted over blocks and not layers.
    """
    laws = laws or {}
    figure = Figure(figsize=(WIDTH, 3.9))
    axis = figure.add_axes((0.08, 0.14, 0.9, 0.76))
    _draw_profiles(axis, profiles)
    for i, label in enumerate(profiles):
        if label in laws:
            _draw_law(axis, laws[label], PALETTE[i])
    _shade_stages(axis, next(iter(profiles.values())))
    axis.set(xlabel=DEPTH_AXIS, ylabel=ALPHA_AXIS, title=title)
    axis.legend(loc="best", fontsize=9)
    said = [f"{label}: {_in_short(laws.get(label), profile)}" for label, profile in profiles.items()]
    return CaptionedFigure(figure, f"{'; '.join(said)}.")


def _draw_profiles(axis, profiles: Mapping[str, ExponentProfile]) -> None:
    for i, (label, profile) in enumerate(profiles.items()):
        shift = SPACED * (i - (len(profiles) - 1) / 2)  # intervals of one depth lie beside each other
        x, alpha = profile.depth + shift, profile.alpha
        lower, upper = profile.interval.T
        error = torch.stack([alpha - lower, upper - alpha]).clamp(min=0).nan_to_num()
        axis.errorbar(x, alpha, error, fmt="none", ecolor=PALETTE[i], alpha=0.5)
        trusted = torch.tensor([not reasons for reasons in profile.reasons])
        style = {"color": PALETTE[i], "ms": 5, "linestyle": "none"}
        axis.plot(x[trusted], alpha[trusted], MARKERS[i], label=label, **style)
        axis.plot(x[~trusted], alpha[~trusted], MARKERS[i], mfc="white", **style)


def _draw_law(axis, law: DepthLaw, colour: str) -> None:
    if law.unit != "layers":
        raise ValueError("the figure counts depth in layers; fit the laws with unit='layers'")
    (line,) = law.rival("linear").curves
    axis.plot(*line, color=colour, linestyle="--", lw=1)
    solid = _best_other(law)
    for curve in law.rival(solid).curves if solid else ():
        axis.plot(*curve, color=colour, lw=1.6)


def _best_other(law: DepthLaw) -> str | None:
    """The best law that stands beside the line."""
    return next((name for name in law.standing if name not in ("constant", "linear")), None)


def _shade_stages(axis, profile: ExponentProfile) -> None:
    """Every second stage on grey, each with its number and the size of its maps."""
    stages = sorted({stage for stage in profile.stage if stage is not None})
    starts = {s: float(min(d for d, own in zip(profile.depth, profile.stage, strict=True) if own == s)) for s in stages}
    low, high = axis.get_xlim()
    borders = [low, *(starts[stage] - 0.5 for stage in stages[1:]), high]
    for number, stage in enumerate(stages):
        left, right = borders[number : number + 2]
        if number % 2:
            axis.axvspan(left, right, color="0.94", zorder=0)
        side = next(grid[0] for grid, own in zip(profile.grid, profile.stage, strict=True) if own == stage)
        place = {"ha": "center", "va": "top", "fontsize": 8, "color": "0.35"}
        axis.text((left + right) / 2, 0.99, f"stage {stage}\n{side} px", transform=axis.get_xaxis_transform(), **place)
    axis.set_xlim(low, high)
    bottom, top = axis.get_ylim()
    axis.set_ylim(bottom, top + 0.18 * (top - bottom))  # room for the stages' names


def _ends(profile: ExponentProfile) -> str:
    known = profile.alpha[~profile.alpha.isnan()]
    return f"alpha goes from {known[0]:.2f} to {known[-1]:.2f}" if len(known) else "no layer has an alpha"


def profile_gallery(
    networks: Mapping[str, Mapping[str, ExponentProfile]], laws: Mapping[str, DepthLaw], columns: int = 2
) -> CaptionedFigure:
    """Small multiples of `depth_profile`, one a network.

    Args:
        networks: name to profiles by label, the same labels in each.
        laws: name to the law of its first profile.
        columns: panels in a row, at most.

    Raises:
        ValueError: a law fitted over blocks and not layers.
    """
    columns = min(columns, len(networks))
    rows = -(-len(networks) // columns)
    figure, axes = new_figure(rows, columns, height=2.7 * rows)
    for axis in axes.flat[len(networks) :]:
        axis.axis("off")
    for axis, (name, profiles) in zip(axes.flat, networks.items(), strict=False):
        _draw_profiles(axis, profiles)
        if name in laws:
            _draw_law(axis, laws[name], PALETTE[0])
        _shade_stages(axis, next(iter(profiles.values())))
        axis.set(title=name, xlabel="depth, layers", ylabel=ALPHA_AXIS)
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=9)
    said = [
        f"{name}: {_in_short(laws.get(name), next(iter(profiles.values())))}" for name, profiles in networks.items()
    ]
    return CaptionedFigure(figure, f"Dashed, one line; solid, the best other law that stands. {'; '.join(said)}.")


def _in_short(law: DepthLaw | None, profile: ExponentProfile) -> str:
    """Few enough words for a slider's caption; the verdict is the law's own."""
    if law is None:
        return _ends(profile)
    stands = law.decided or f"undecided ({', '.join(law.standing)})"
    return f"{stands}, {law.slope:+.3f} a layer, R2 {law.r_squared:.2f}"


def recursion(
    measured: Tensor,
    predicted: Tensor,
    title: str,
    band: tuple[float, float],
    limits: tuple[float, float] | None = None,
) -> CaptionedFigure:
    """alpha of random networks layer by layer, beside what the recursion says.

    Args:
        measured: (seeds, layers + 1), alpha of the input first.
        predicted: (layers + 1,).
        title: of the figure.
        band: of all exponents, cycles a pixel.
        limits: of alpha's axis, so that it stays while a slider moves.
    """
    figure = Figure(figsize=(WIDTH, 3.7))
    axis = figure.add_axes((0.08, 0.14, 0.9, 0.76))
    _draw_recursion(axis, measured, predicted)
    axis.set(title=title, xlabel="layer", ylabel=ALPHA_AXIS, ylim=limits, xlim=(-0.5, len(predicted) - 0.5))
    axis.legend(loc="upper left" if limits else "best")
    mean, gap = measured.mean(0), float((measured.mean(0) - predicted).abs().max())
    steps = len(predicted) - 1
    way = "rises" if mean[-1] > mean[0] else "falls"
    return CaptionedFigure(
        figure,
        f"{title}: alpha {way} from {mean[0]:.2f} to {mean[-1]:.2f} in {steps} layers, "
        f"{float(mean[-1] - mean[0]) / steps:+.3f} a layer; the recursion says {predicted[-1]:.2f} and is never "
        f"more than {gap:.2f} from their mean; band {band[0]:g} to {band[1]:g} cycles a pixel.",
    )


def _draw_recursion(axis, measured: Tensor, predicted: Tensor) -> None:
    x = torch.arange(len(predicted))
    mean, low, high = measured.mean(0), measured.amin(0), measured.amax(0)
    style = {"color": PALETTE[0], "ms": 5}
    if len(measured) > 1:
        axis.errorbar(x, mean, [mean - low, high - mean], fmt=MARKERS[0], label=f"{len(measured)} networks", **style)
    else:
        axis.plot(x, mean, MARKERS[0], label="measured", **style)
    axis.plot(x, predicted, color=PALETTE[1], linestyle=DASHES[0], label="recursion, no parameter")
    axis.axhline(float(predicted[0]), color="0.7", lw=1, linestyle=":", zorder=0)


def gains_by_depth(gains: Mapping[str, Sequence[float]], title: str = "") -> CaptionedFigure:
    """kappa of each convolution, and the sum so far: what its filters alone would do to alpha.

    Args:
        gains: label to kappa, one value a convolution in their order.
        title: of the figure.
    """
    figure, axes = new_figure(1, 2, height=3.2)
    left, right = axes[0]
    parts = []
    for i, (label, values) in enumerate(gains.items()):
        kappa = torch.tensor(list(values), dtype=torch.float64)
        x = torch.arange(1, len(kappa) + 1)
        style = {"marker": MARKERS[i], "ms": 4, "color": PALETTE[i], "linestyle": DASHES[i], "lw": 1}
        left.plot(x, kappa, label=label, **style)
        right.plot(x, kappa.cumsum(0), label=label, **style)
        parts.append(
            f"{label}: {int((kappa > 0).sum())} of {len(kappa)} convolutions have a positive kappa, from "
            f"{kappa.min():+.2f} to {kappa.max():+.2f}, and the sum is {kappa.sum():+.1f}"
        )
    for axis, name in ((left, "of each convolution"), (right, "sum so far")):
        axis.axhline(0, color="0.7", lw=1, zorder=0)
        axis.set(xlabel="convolution", ylabel="κ", title=name)
    right.legend(fontsize=8)
    figure.suptitle(title, fontsize=11)
    return CaptionedFigure(figure, f"What the kernels add to alpha. {'; '.join(parts)}.")


def slopes_by_epoch(table: pandas.DataFrame, title: str = "") -> CaptionedFigure:
    """The slope of the line over depth while a network learns.

    Args:
        table: network, seed, epoch and slope (alpha a layer), one row for each.
        title: of the figure.
    """
    figure, axes = new_figure(1, 1, height=3.6)
    axis, parts = axes[0, 0], []
    epochs = sorted(table.epoch.unique())  # at equal distances: most happens in the first
    for i, (network, rows) in enumerate(table.groupby("network", sort=False)):
        by_epoch = rows.groupby("epoch").slope
        mean, low, high = by_epoch.mean(), by_epoch.min(), by_epoch.max()
        style = {"fmt": MARKERS[i], "linestyle": DASHES[i], "color": PALETTE[i], "ms": 5, "capsize": 3}
        seeds = rows.seed.nunique()
        noun = "seed" if seeds == 1 else "seeds"
        x = [epochs.index(epoch) for epoch in mean.index]
        axis.errorbar(x, mean, [mean - low, high - mean], label=f"{network}, {seeds} {noun}", **style)
        parts.append(f"{network} from {mean.iloc[0]:+.3f} to {mean.iloc[-1]:+.3f} a layer ({seeds} {noun})")
    axis.set_xticks(range(len(epochs)), epochs)
    axis.axhline(0, color="0.7", lw=1, zorder=0)
    axis.set(xlabel="epochs of training", ylabel="slope, α a layer", title=title)
    axis.legend()
    return CaptionedFigure(figure, f"The slope of alpha over depth while networks learn: {'; '.join(parts)}.")


def depth_summary(
    random: Mapping[str, tuple[Tensor, Tensor]], trained: Mapping[str, ExponentProfile], law: DepthLaw
) -> CaptionedFigure:
    """The lesson in one row: random networks beside their theory, then a trained network beside its twin.

    Args:
        random: title to (measured, predicted) as in `recursion`.
        trained: label to profile, the trained one first.
        law: of the first.

    Raises:
        ValueError: a law fitted over blocks and not layers.
    """
    figure, axes = new_figure(1, len(random) + 1, height=3.8, width_ratios=(*[1] * len(random), 1.5))
    *left, right = axes[0]
    parts = []
    for axis, (title, (measured, predicted)) in zip(left, random.items(), strict=True):
        _draw_recursion(axis, measured, predicted)
        axis.set(title=title, xlabel="layer", ylabel=ALPHA_AXIS)
        mean = measured.mean(0)
        parts.append(f"{title}: from {mean[0]:.2f} to {mean[-1]:.2f}, predicted {predicted[-1]:.2f}")
    _draw_profiles(right, trained)
    _draw_law(right, law, PALETTE[0])
    _shade_stages(right, next(iter(trained.values())))
    right.set(title=law.name, xlabel="depth, layers", ylabel="")
    # Below the panels, where no legend covers a point.
    marks = zip(left[0].get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True)
    figure.legend(*(ours + theirs for ours, theirs in marks), loc="outside lower center", ncols=4, fontsize=9)
    solid = _best_other(law)
    lines = "dashed, one line" + (f"; solid, {solid}" if solid else "")
    return CaptionedFigure(figure, f"Depth moves alpha. {'; '.join(parts)}. {law.name} ({lines}): {law}")
