"""A teacher that adapts: what was replaced, what both sides make of a picture, and what came of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch, Patch
from torch import Tensor

from spectralkd_nb.adaptation import AdaptedTeacher
from spectralkd_nb.distillation import Match
from spectralkd_nb.networks.layers import list_layers
from spectralkd_nb.plots.losses import alpha_or_nan, draw_course, label_rings, when
from spectralkd_nb.plots.spectra import on_cpu
from spectralkd_nb.plots.style import (
    DASHES,
    MARKERS,
    PALETTE,
    WIDTH,
    CaptionedFigure,
    fixed_axis,
    new_figure,
    put_title,
    show_map,
)
from spectralkd_nb.spectra import RadialSpectrum

if TYPE_CHECKING:
    import pandas
    from torch import nn

FROZEN, ADAPTED, LEARNS = "0.88", "#FBE3D2", "#D6E8F5"
VERDICTS = {  # no arrows: of a loss the lower is the better
    "better": {"marker": "o", "color": PALETTE[0], "ms": 6, "lw": 1.2},
    "worse": {"marker": "s", "color": PALETTE[1], "ms": 6, "lw": 1.2},
    "inconclusive": {"marker": "o", "color": "0.3", "mfc": "white", "ms": 6, "lw": 1.2},
}


# --- the network before and after ----------------------------------------------------------------


def adapted_network(
    teacher: nn.Module, adapted: AdaptedTeacher, student: nn.Module, matches: Sequence[Match]
) -> CaptionedFigure:
    """The teacher before and after, block by block, and the student below it: who is frozen, who learns from whom.

    Args:
        teacher: as it was.
        adapted: with its modules.
        student: the network that learns.
        matches: what it matches. All are networks whose outermost modules are called one after the other, as those of
            `networks` are.
    """
    rows = {
        "teacher": _boxes(teacher, dict.fromkeys(_names(teacher), FROZEN)),
        "adapted\nteacher": _boxes(adapted.network, {path: _colour(path, adapted) for path in _names(teacher)}),
        "student": _boxes(student, dict.fromkeys(_names(student), LEARNS)),
    }
    figure = Figure(figsize=(WIDTH, 4.3))
    axis = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    most = max(len(boxes) for boxes in rows.values())
    axis.set(xlim=(-1.15, most), ylim=(-0.62, 3.05))
    axis.axis("off")
    places: dict[tuple[str, str], float] = {}
    for height, (name, boxes) in zip((2.3, 1.3, 0.0), rows.items(), strict=True):
        axis.text(-1.1, height + 0.25, name, va="center", fontsize=9, fontweight="bold")
        for place, (path, text, colour) in enumerate(boxes):
            places[name, path] = place + 0.45
            box = FancyBboxPatch(
                (place, height), 0.84, 0.5, boxstyle="round,pad=0,rounding_size=0.06", fc=colour, ec="0.35", lw=0.8
            )
            axis.add_patch(box)
            axis.text(place + 0.42, height + 0.25, text, ha="center", va="center", fontsize=7)
            if place:
                start, end = (place - 0.16, height + 0.25), (place, height + 0.25)
                axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "0.35", "lw": 0.8})
    for match in matches:
        ends = places["adapted\nteacher", _outermost(match.teacher)], places["student", _outermost(match.student)]
        _arrow(axis, (ends[0], 1.3), (ends[1], 0.5), PALETTE[0], _taught(match), -0.06, "right")
        _arrow(axis, (ends[1], 0.5), (ends[0], 1.3), PALETTE[1], "approach:\nteaches the module", 0.06, "left")
    told = "anchor: its own answers\nagainst the labels"
    axis.text(most - 0.16, 1.22, told, ha="right", va="top", fontsize=8, color=PALETTE[1])
    for x, colour, what in (
        (-0.1, FROZEN, "frozen"),
        (1.4, ADAPTED, "module, learns"),
        (3.2, LEARNS, "student, learns"),
    ):
        axis.add_patch(FancyBboxPatch((x, -0.5), 0.22, 0.16, boxstyle="round,pad=0", fc=colour, ec="0.35", lw=0.8))
        axis.text(x + 0.3, -0.42, what, va="center", fontsize=8)
    weights = sum(p.numel() for p in adapted.parameters())
    replaced = sum(p.numel() for path in adapted.paths for p in teacher.get_submodule(path).parameters())
    return CaptionedFigure(
        figure,
        f"In place of {', '.join(adapted.paths)} with {replaced:,} weights a module with {weights:,}: it and the "
        "student learn, all the rest of the teacher is frozen.",
    )


def _taught(match: Match) -> str:
    through = "" if match.connector is None else ",\nthrough a connector"
    return f"{match.name}{through}:\nteaches the student"


def _names(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_children() if any(True for _ in module.parameters())]


def _colour(path: str, adapted: AdaptedTeacher) -> str:
    return ADAPTED if any(_outermost(replaced) == path for replaced in adapted.paths) else FROZEN


def _boxes(network: nn.Module, colours: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Path, text and colour of each outermost module that has weights, in the order of the calls."""
    shapes = {layer.path: layer.shape for layer in list_layers(network)}
    return [
        (path, f"{path}\n{' x '.join(map(str, shapes[path]))}", colours[path]) for path in shapes if path in colours
    ]


def _outermost(path: str) -> str:
    return path.partition(".")[0]


def _arrow(axis, start, end, colour: str, text: str, shift: float, side: str) -> None:
    (x0, y0), (x1, y1) = start, end
    axis.annotate("", (x1 + shift, y1), (x0 + shift, y0), arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.8})
    away = 0.1 if side == "left" else -0.1
    axis.text((x0 + x1) / 2 + shift + away, (y0 + y1) / 2, text, ha=side, va="center", fontsize=8, color=colour)


# --- a meeting -----------------------------------------------------------------------------------


def meeting(
    picture: Tensor,
    maps: Mapping[str, Tensor],
    spectra: Mapping[str, RadialSpectrum],
    mismatches: Mapping[int, float],
    epoch: int,
    title: str,
    power: tuple[float, float] | None = None,
) -> CaptionedFigure:
    """One channel as the teacher has it, as its module has it, and as the student offers it; their spectra; a course.

    Args:
        picture: (3, H, W), values 0 to 1.
        maps: three of (H', W'), by name, in one scale: the teacher's own, the target, what the student offers.
        spectra: of the whole layer, over many pictures, by the same names.
        mismatches: share of the target that the student cannot match, by epoch.
        epoch: the one that is shown.
        title: of the layer.
        power: lowest and highest on the axis of the spectra, so that it stays while a slider moves; None for those of
            these spectra.

    Raises:
        ValueError: an epoch without a mismatch.
    """
    if epoch not in mismatches:
        raise ValueError(f"there is no epoch {epoch}; the epochs are {', '.join(map(str, mismatches))}")
    figure = Figure(figsize=(WIDTH, 4.3))
    put_title(figure, title)
    shown = fixed_axis(figure, 0.1, 2.2, 1.55, 1.55)
    show_map(shown, picture)
    shown.set(xticks=[], yticks=[])
    shown.set_title("picture", fontsize=9)
    low, high = torch.quantile(next(iter(maps.values())).flatten().float(), torch.tensor([0.01, 0.99])).tolist()
    corners = ((1.75, 2.2), (0.1, 0.2), (1.75, 0.2))
    for (left, bottom), (name, values) in zip(corners, maps.items(), strict=True):
        axis = fixed_axis(figure, left, bottom, 1.55, 1.55)
        axis.imshow(values.detach().cpu().float().numpy(), cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
        axis.set(xticks=[], yticks=[])
        axis.set_title(name, fontsize=9)
    right = fixed_axis(figure, 4.0, 1.95, 3.85, 1.95)
    alphas = {}
    for i, (name, spectrum) in enumerate(spectra.items()):
        curve = on_cpu(spectrum)
        alphas[name] = alpha_or_nan(curve)
        style = {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": DASHES[i], "ms": 4}
        right.plot(curve.frequency, curve.power, label=f"{name}, α = {alphas[name]:.2f}", **style)
    label_rings(right, [on_cpu(spectrum) for spectrum in spectra.values()])
    if power is not None:
        right.set_ylim(*power)
    right.set_title("power of the layer, all photographs", fontsize=9)
    right.legend(loc="lower left", fontsize=8)
    below = fixed_axis(figure, 4.0, 0.5, 3.85, 0.7)
    values = [100 * value for value in mismatches.values()]
    draw_course(below, values, values[0], list(mismatches).index(epoch), mismatches)
    below.set_title("% that the student cannot match (dashed: before training)", fontsize=9)
    below.set_xlabel("epoch", fontsize=9)
    told = ", ".join(f"{name} {alpha:.2f}" for name, alpha in alphas.items())
    return CaptionedFigure(
        figure,
        f"{title}, {when(epoch)}: alpha of the layer, {told}; the student cannot match {100 * mismatches[epoch]:.1f} % "
        "of the target.",
    )


# --- what came of it -----------------------------------------------------------------------------


def targets_through_training(table: pandas.DataFrame, seed: int) -> CaptionedFigure:
    """By epoch and method: what a student cannot match, how far its target has moved, and the gap of their alphas.

    Args:
        table: of `grid_targets`, rows of one layer; methods in the order of the figure.
        seed: whose every epoch was measured. Its course is the line; the marks at the right are the last epochs of all
            seeds.
    """
    columns = {
        "mismatch": "% the student cannot match",
        "moved": "target moved by",
        "gap": "|α of target − α of student|",
    }
    told = table.assign(mismatch=100 * table["mismatch"], gap=(table["target_alpha"] - table["student_alpha"]).abs())
    figure, axes = new_figure(1, 3, height=3.5)
    methods = list(told["method"].unique())
    epochs = sorted(told[told["seed"] == seed]["epoch"].unique())
    for axis, (column, label) in zip(axes[0], columns.items(), strict=True):
        for i, method in enumerate(methods):
            own = told[told["method"] == method]
            course = own[own["seed"] == seed].set_index("epoch")[column]
            places = [epochs.index(epoch) for epoch in course.index]
            style = {"color": PALETTE[i], "marker": MARKERS[i], "ms": 4}
            axis.plot(places, course, linestyle=DASHES[i], label=method, **style)
            last = own[own["epoch"] == epochs[-1]][column]
            axis.plot([len(epochs) - 0.3 + 0.25 * i] * len(last), last, linestyle="none", alpha=0.6, **style)
        axis.set_xticks(range(len(epochs)), epochs)
        axis.set(xlabel="epoch")
        axis.set_title(label, fontsize=10)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    last = told[told["epoch"] == epochs[-1]].groupby("method", sort=False)
    said = "; ".join(
        f"{method} ({len(own)} seeds) {own.mismatch.mean():.1f} % unmatched, moved by {own.moved.mean():.2f}, "
        f"gap of alphas {own.gap.mean():.2f}"
        for method, own in last
    )
    return CaptionedFigure(figure, f"After epoch {epochs[-1]}, means: {said}. Lines are seed {seed}.")


def claims(comparisons: Mapping[str, pandas.DataFrame], title: str = "") -> CaptionedFigure:
    """One method against others in several measures, each with its interval and what could have been found.

    Args:
        comparisons: name of a measure, with its unit, to one row a rival: method, baseline, difference, lower, upper,
            detectable and verdict, as of `compare_methods`.
        title: of the figure.
    """
    figure, axes = new_figure(1, len(comparisons), height=1.6 + 0.45 * max(map(len, comparisons.values())), sharey=True)
    said = []
    for axis, (measure, rows) in zip(axes[0], comparisons.items(), strict=True):
        axis.axvline(0, color="0.5", lw=1, zorder=1)
        for place, row in enumerate(rows.itertuples()):
            width = {"color": "0.9", "lw": 0, "height": 0.6, "zorder": 0}
            axis.barh(place, 2 * row.detectable, left=-row.detectable, **width)
            error = [[row.difference - row.lower], [row.upper - row.difference]]
            axis.errorbar(row.difference, place, xerr=error, capsize=2.5, **VERDICTS[row.verdict])
        axis.set_yticks(
            range(len(rows)), [textwrap.fill(f"{row.method} less {row.baseline}", 20) for row in rows.itertuples()]
        )
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlabel(measure, fontsize=9)
        ends = [*rows.lower, *rows.upper, *rows.detectable, *-rows.detectable]
        room = 0.08 * (max(ends) - min(ends))
        axis.set_xlim(min(ends) - room, max(ends) + room)
        axis.locator_params(axis="x", nbins=4)
        said.append(
            f"{measure}: "
            + ", ".join(
                f"{row.method} less {row.baseline} {row.difference:+.2f} ({row.lower:+.2f} to {row.upper:+.2f}, "
                f"{row.verdict})"
                for row in rows.itertuples()
            )
        )
    marks = [Line2D([], [], label=verdict, **style) for verdict, style in VERDICTS.items()]
    marks.append(Patch(color="0.9", lw=0, label="differences found less than 4 times in 5"))
    figure.legend(handles=marks, loc="outside lower center", ncols=4, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    return CaptionedFigure(figure, f"{'. '.join(said)}. Grey: what is found less than 4 times in 5.")
