"""Which teacher teaches best: what teachers' responses say, and what their students made of it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from spectralkd_nb.experiments.predictors import (
    MEASURES,
    PREDICTORS,
    ladder,
    predictors,
    teachers_and_responses,
)
from spectralkd_nb.experiments.sweet_spot import COARSE, OF_A_TEACHER, Teacher, sweet_spot
from spectralkd_nb.plots.style import (
    DASHES,
    MARKERS,
    PALETTE,
    WIDTH,
    CaptionedFigure,
    cut,
    fixed_axis,
    new_figure,
    put_title,
    show_map,
)
from spectralkd_nb.teacher_quality import RankCorrelation, effective_classes, soft_targets

if TYPE_CHECKING:
    import pandas

SCALE, OTHER_SCALE = "viridis", "magma"  # perceptually uniform, and read in grey too; of accuracies, of measures
FAINTEST = 1e-6  # soft target that has a bar
BAR = 0.22  # inches, of a class
LETTER = 0.075  # inches, of a letter at 9 points, about
LONGEST_NAME = 18  # letters of a class
ROW = 0.3  # inches, of a heat map
DARK = 0.18  # linear luminance, below which white writing has more contrast than black
POSITIVE = ("entropy", "effective_classes", "non_target_mass", "calibration_error")
WIDE = 10.0  # highest by lowest, from which on an axis or the colours of these are logarithmic
DECIMALS = {"accuracy": 1, "teacher_accuracy": 1, "student_accuracy": 1, "effective_classes": 2, "similarity": 2}
LABELS = {
    "teacher_accuracy": "teacher's accuracy, %",
    "student_accuracy": "students' accuracy, %",
    "entropy": "entropy, nats",
    "effective_classes": "effective classes",
    "non_target_mass": "non-target mass",
    "similarity": "similarity, rank correlation",
    "calibration_error": "calibration error",
}
IN_TRAINING = {  # panels: title, and how the caption says it
    "accuracy": ("accuracy, %", "accuracy {} to {} %"),
    "effective_classes": ("effective classes", "effective classes {} to {}"),
    "non_target_mass": ("non-target mass", "non-target mass {} to {}"),
    "similarity": ("similarity, rank correlation", "similarity {} to {}"),
}
IMAGES = {"training": (PALETTE[0], MARKERS[0], DASHES[0]), "test": (PALETTE[1], MARKERS[1], DASHES[1])}


def _number(value: float) -> str:
    """With three digits behind the point, but for what these would make nothing of."""
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 1e-3 else f"{value:z.3f}"


def _plainly(value: float, name: str) -> str:
    """A value of an accuracy or a measure, as figures and captions write it."""
    if np.isnan(value):
        return "not defined"
    return f"{value:z.{DECIMALS[name]}f}" if name in DECIMALS else _number(value)


# --- one picture ---------------------------------------------------------------------------------


def soft_targets_of(
    image: Tensor, logits: Tensor, label: int, classes: Sequence[str], temperature: float, title: str
) -> CaptionedFigure:
    """A picture and the soft targets that a teacher gives for it, one bar a class; the label's is hatched.

    The axis is logarithmic from 1e-6 on; a light dot at its left end stands for what is less.

    Args:
        image: (3, H, W), 0..1.
        logits: (classes,), of the teacher for it.
        label: the right class, a position.
        classes: their names, 3 or more; long ones are cut.
        temperature: of the soft targets.
        title: of teacher and picture.

    Raises:
        ValueError: not as many names as logits, no such label, and what `soft_targets` refuses.
    """
    if logits.shape != (len(classes),) or len(classes) < 3:
        raise ValueError(
            f"logits {tuple(logits.shape)} and {len(classes)} names; give 3 classes or more, each its logit"
        )
    if not 0 <= label < len(classes):
        raise ValueError(f"there is no class {label}; there are {len(classes)}")
    shares = soft_targets(logits.detach().cpu()[None].double(), temperature)[0]
    counted = float(effective_classes(logits.detach().cpu()[None].double(), temperature))
    height = BAR * len(classes)
    figure = Figure(figsize=(WIDTH, 0.95 + height))
    side = min(2.1, height)
    picture = fixed_axis(figure, 0.1, 0.45 + (height - side) / 2, side, side)
    show_map(picture, image)
    picture.set(xticks=[], yticks=[])
    picture.spines[:].set_visible(False)
    picture.set_xlabel(f"label: {cut(classes[label], 24)}", fontsize=9)
    names = 0.15 + LETTER * LONGEST_NAME
    axis = fixed_axis(figure, 2.3 + names, 0.45, WIDTH - 2.3 - names - 0.65, height)
    _draw_soft_targets(axis, shares, label, classes)
    axis.set_title(f"soft targets at T = {temperature:g}: {counted:.2f} effective classes", fontsize=10, loc="left")
    put_title(figure, title)
    said = f"{classes[label]}, the label, {_number(float(shares[label]))}"
    others = [n for n in shares.argsort(descending=True, stable=True).tolist() if n != label][:2]
    told = " and ".join(f"{classes[n]} {_number(float(shares[n]))}" for n in others)
    return CaptionedFigure(
        figure,
        f"{title}, T = {temperature:g}: {said}; most likely of the others {told}; {counted:.2f} effective classes of "
        f"{len(classes)}.",
    )


def _draw_soft_targets(axis, shares: Tensor, label: int, classes: Sequence[str]) -> None:
    rows = np.arange(len(classes))
    seen = shares.clamp(min=FAINTEST).numpy()
    colours = [PALETTE[1] if row == label else PALETTE[0] for row in rows]
    bars = axis.barh(rows, seen - FAINTEST, left=FAINTEST, height=0.68, color=colours, lw=0)
    bars[label].set(hatch="////", edgecolor="white")
    faint = rows[shares.numpy() <= FAINTEST]
    axis.plot([FAINTEST] * len(faint), faint, "o", color="0.75", ms=4, clip_on=False, zorder=3)
    for row, share in enumerate(shares.tolist()):
        axis.text(1.02, row, _number(share), transform=axis.get_yaxis_transform(), fontsize=8, va="center_baseline")
    axis.set(xscale="log", xlim=(FAINTEST, 1), ylim=(len(classes) - 0.5, -0.5))
    axis.minorticks_off()
    axis.set_xticks([1e-6, 1e-4, 1e-2, 1], ["1e-6", "1e-4", "0.01", "1"])
    axis.set_yticks(rows, [cut(name, LONGEST_NAME) for name in classes])
    axis.tick_params(axis="y", length=0)
    axis.grid(True, axis="x", alpha=0.4)
    axis.set_axisbelow(True)


# --- along a training ----------------------------------------------------------------------------


def response_through_training(table: pandas.DataFrame, temperature: float) -> CaptionedFigure:
    """How a teacher's responses change while it learns: what it knows, and how much it still says of other classes.

    The axes are those of all temperatures of the table, so that they stay while a slider moves.

    Args:
        table: one row an epoch, images ("training" or "test") and temperature: epoch, images, temperature, accuracy,
            percent, effective_classes, non_target_mass, similarity, the rank correlation. It may be a network's part of
            what `shipped_responses` gives.
        temperature: of the soft targets.

    Raises:
        ValueError: several networks, nothing of this temperature, or not of training images.
    """
    if "network" in table and table.network.nunique() > 1:
        raise ValueError(f"the figure takes one network, and these are {', '.join(table.network.unique())}")
    own = _at(table, temperature)
    figure = Figure(figsize=(WIDTH, 4.5))
    for place, (measure, (title, _)) in enumerate(IN_TRAINING.items()):
        row, column = divmod(place, 2)
        axis = fixed_axis(figure, 0.6 + 4.0 * column, 2.52 - 2.02 * row, 3.3, 1.45)
        for images, (colour, marker, dash) in IMAGES.items():
            line = own[own.images == images].sort_values("epoch")
            axis.plot(line.epoch, line[measure], color=colour, marker=marker, linestyle=dash, ms=4.5)
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(True, alpha=0.4)
        _label_epochs(axis, sorted(table.epoch.unique()), with_name=row == 1)
        axis.set_ylim(_with_margin(table[measure]))
        axis.locator_params(axis="y", nbins=6)
    handles = [
        Line2D([], [], color=colour, marker=marker, linestyle=dash, ms=4.5, label=f"{images} images")
        for images, (colour, marker, dash) in IMAGES.items()
        if (own.images == images).any()
    ]
    figure.legend(handles=handles, loc="upper right", ncols=2, fontsize=9, borderaxespad=0.1)
    put_title(figure, f"soft targets at T = {temperature:g}")
    taught = own[own.images == "training"].sort_values("epoch")
    first, last = taught.iloc[0], taught.iloc[-1]
    said = (
        told.format(_plainly(first[measure], measure), _plainly(last[measure], measure))
        for measure, (_, told) in IN_TRAINING.items()
    )
    return CaptionedFigure(
        figure, f"Training images at T = {temperature:g}, epoch {first.epoch:g} to {last.epoch:g}: {', '.join(said)}."
    )


def _at(table: pandas.DataFrame, temperature: float) -> pandas.DataFrame:
    """The rows of a temperature."""
    own = table[np.isclose(table.temperature.astype(float), temperature)]
    if own.empty:
        known = ", ".join(f"{value:g}" for value in sorted(table.temperature.unique())) or "none"
        raise ValueError(f"the table has nothing of temperature {temperature:g}; there are {known}")
    if not (own.images == "training").any():
        raise ValueError("the table has nothing of training images")
    return own


def _label_epochs(axis, epochs: Sequence[float], with_name: bool) -> None:
    """Doublings at equal distances, and 0, before the training, beside 1. Numbers that would touch are left out."""
    if min(epochs) > 0:
        axis.set_xscale("log", base=2)
        margin = max(max(epochs) / min(epochs), 2) ** 0.04
        axis.set_xlim(min(epochs) / margin, max(epochs) * margin)
    else:
        axis.set_xscale("symlog", base=2, linthresh=1)
        axis.set_xlim(-0.3, max(*epochs, 1) * 1.3)
    axis.minorticks_off()
    places = {epoch: axis.transData.transform((epoch, 0))[0] * 72 / axis.figure.dpi for epoch in epochs}  # points
    labels, free = {}, float("inf")
    for epoch in sorted(epochs, reverse=True):  # the last is the network that teaches
        half = 2 + 2.7 * len(f"{epoch:g}")
        if places[epoch] + half < free:
            labels[epoch], free = f"{epoch:g}", places[epoch] - half
    axis.set_xticks(list(epochs), [labels.get(epoch, "") for epoch in epochs])
    axis.tick_params(labelsize=8.5)
    if with_name:
        axis.set_xlabel("epoch")


def _with_margin(values: pandas.Series, share: float = 0.06) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        return 0.0, 1.0
    margin = share * (high - low) or 0.5
    return low - margin, high + margin


# --- which classes are alike ---------------------------------------------------------------------


def similarity_matrices(
    similarity: Tensor, reference: Tensor, classes: Sequence[str], correlation: RankCorrelation, title: str = ""
) -> CaptionedFigure:
    """Which classes look alike to a network, beside a reference that no network made.

    Each map has its own colours, from the lowest to the highest off the diagonal.

    Args:
        similarity: (classes, classes), as of `class_similarity`; row: the images' class.
        reference: likewise.
        classes: names; long ones are cut.
        correlation: `rank_correlation` of the two.
        title: of the network, for the caption too.

    Raises:
        ValueError: matrices that are not square, or not of as many classes as there are names.
    """
    count = len(classes)
    for matrix in (similarity, reference):
        if matrix.shape != (count, count) or count < 2:
            raise ValueError(f"a matrix of shape {tuple(matrix.shape)} for {count} names; give (classes, classes)")
    names = [cut(name, LONGEST_NAME) for name in classes]
    margin = 0.2 + LETTER * max(map(len, names))
    side = (6.6 - margin) / 2  # colour bars and their numbers take the rest
    figure = Figure(figsize=(WIDTH, margin + side + 0.65))
    for place, (matrix, what) in enumerate(((similarity, "what the network says"), (reference, "the reference"))):
        left = margin + place * (side + 0.72)  # the names of rows stand once
        axis = fixed_axis(figure, left, margin, side, side)
        drawn = _draw_matrix(axis, matrix, what)
        size = min(9.0, 72 * side / count * 0.8)
        axis.set_xticks(range(count), names, rotation=90, fontsize=size)
        axis.set_yticks(range(count), [] if place else names, fontsize=size)
        colours = figure.colorbar(drawn, cax=fixed_axis(figure, left + side + 0.08, margin, 0.1, side))
        colours.outline.set_visible(False)
        colours.locator.set_params(nbins=4)
        colours.ax.tick_params(labelsize=8, length=2)
    found = f"ρ = {correlation.rho:.2f}, p = {_number(correlation.p)}; row: the images' class"
    put_title(figure, f"{title}: {found}" if title else found)
    return CaptionedFigure(
        figure,
        f"{title + ', s' if title else 'S'}imilarity of {count} classes: rho {correlation.rho:.2f} with the reference, "
        f"p = {_number(correlation.p)}; most alike: {_most_alike(similarity, classes)} to the network, "
        f"{_most_alike(reference, classes)} in the reference.",
    )


def _draw_matrix(axis, matrix: Tensor, title: str):
    values = matrix.detach().cpu().double().clone().fill_diagonal_(torch.nan)
    drawn = axis.imshow(values.numpy(), cmap=SCALE, aspect="auto", interpolation="none")
    axis.set_title(title, fontsize=10)
    axis.tick_params(length=0, pad=3)
    axis.spines[:].set_visible(False)
    return drawn


def _most_alike(similarity: Tensor, classes: Sequence[str]) -> str:
    """The pair of the highest mean of both directions, the first of those that have it."""
    values = similarity.detach().cpu().double()
    first, second = torch.triu_indices(len(values), len(values), 1)
    both = (values[first, second] + values[second, first]) / 2
    best, rounding = int(both.argmax()), 1e-9 * float(both.abs().max())
    equal = int((both >= both.max() - rounding).sum())
    pair = f"{classes[first[best]]} and {classes[second[best]]}"
    return pair if equal == 1 else f"{pair} (one of {equal} pairs)"


# --- a sweep -------------------------------------------------------------------------------------


class _Grid(NamedTuple):
    """Where a search's teachers stand in its heat maps."""

    rows: list[tuple[str, int]]  # network, batch size
    columns: list[int]  # epochs
    labels: list[str]  # of the rows
    header: str  # above these
    margin: float  # inches, that they take

    def place(self, teacher: Teacher) -> tuple[int, int]:
        return self.rows.index((teacher.network, teacher.batch_size)), self.columns.index(teacher.epochs)

    def values(self, found: pandas.DataFrame, name: str) -> np.ndarray:
        """(rows, columns), NaN where nothing was tried."""
        cells = found.set_index(OF_A_TEACHER)[name].unstack("epochs")
        return cells.reindex(index=self.rows, columns=self.columns).to_numpy(float)


def teacher_heat_maps(
    table: pandas.DataFrame, responses: pandas.DataFrame, temperature: float, measure: str = "effective_classes"
) -> CaptionedFigure:
    """Every teacher of a search: how accurate it is, what it says to training images, and how good its students are.

    A row is a network and a batch size, a column a number of epochs; what was not tried is empty. Numbers are means
    over seeds. A star marks the teacher whose students were best, dots those that may be the best as well, see
    `sweet_spot`, and a diamond the teacher that is most accurate itself.

    Args:
        table, responses, temperature: as for `teachers_and_responses`.
        measure: "entropy", "effective_classes", "non_target_mass", "similarity" or "calibration_error".

    Raises:
        ValueError: another measure, and what `teachers_and_responses` and `sweet_spot` refuse.
    """
    if measure not in MEASURES:
        raise ValueError(f"there is no measure {measure!r}; choose one of {', '.join(MEASURES)}")
    found, spot = teachers_and_responses(table, responses, temperature), sweet_spot(table)
    known = found[measure].dropna()
    if known.empty:
        raise ValueError(f"no teacher of the search has a value of {measure} at temperature {temperature:g}")
    grid = _grid(found, _networks(table, found))
    figure = Figure(figsize=(WIDTH, ROW * len(grid.rows) + 1.6))
    in_short = LABELS[measure].split(",")[0]
    _draw_heat_map(figure, 0, grid, found, "teacher_accuracy", {grid.place(spot.most_accurate): "D"})
    _draw_heat_map(figure, 1, grid, found, measure, {})
    might = {grid.place(teacher): "o" for teacher in spot.candidates}
    _draw_heat_map(figure, 2, grid, found, "student_accuracy", might | {grid.place(spot.best): "*"})
    for axis, title in zip(
        figure.axes[::2],  # behind each is its colour bar
        (LABELS["teacher_accuracy"], f"{in_short}, T = {temperature:g}", LABELS["student_accuracy"]),
        strict=True,
    ):
        axis.set_title(title, fontsize=9.5, pad=5)
    figure.axes[0].set_yticks(range(len(grid.labels)), grid.labels, fontsize=8.5)
    figure.axes[0].annotate(grid.header, (0, 1), (-5, 5), "axes fraction", "offset points", ha="right", fontsize=8)
    style = {"ncols": 3, "fontsize": 8.5, "borderaxespad": 0.1, "handletextpad": 0.1}
    figure.legend(handles=_legend_of_marks(), loc="lower center", **style)
    ends = f"{_plainly(known.min(), measure)} to {_plainly(known.max(), measure)}"
    return CaptionedFigure(
        figure,
        f"{spot.teachers} teachers: best is {spot.best} (students {spot.accuracy:.1f} %), most accurate "
        f"{spot.most_accurate} ({found.teacher_accuracy.max():.1f} %); {in_short} at T = {temperature:g} from {ends}.",
    )


def _networks(table: pandas.DataFrame, found: pandas.DataFrame) -> list[str]:
    """Those of the search, in the order in which it takes them."""
    there = set(found.network)
    return [network for network in table.network.dropna().unique() if network in there]


def _grid(found: pandas.DataFrame, networks: Sequence[str]) -> _Grid:
    """Each network with its batch sizes."""
    pairs = set(zip(found.network, found.batch_size, strict=True))
    rows = sorted(pairs, key=lambda pair: (networks.index(pair[0]), pair[1]))
    family, short = _short_names(networks)
    labels = [f"{short[network]} · {batch_size}" for network, batch_size in rows]
    margin = 0.2 + LETTER * max(map(len, labels))
    return _Grid(rows, sorted(found.epochs.unique()), labels, f"{family or 'network'} ·\nbatch size", margin)


def _short_names(networks: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The family, where several networks are one in different widths, and what is left: x0.25 of vgg8x0.25."""
    parts = [re.fullmatch(r"(.+)(x\d+(?:\.\d+)?)", network) for network in networks]
    families = {part and part[1] for part in parts}
    if len(families) > 1 or None in families:
        return "", {network: network for network in networks}
    return families.pop(), {part[0]: part[2] for part in parts}


def _is_wide(low: float, high: float, name: str) -> bool:
    return name in POSITIVE and 0 < WIDE * low < high


def _norm(values: np.ndarray, name: str) -> Normalize:
    low, high = np.nanmin(values), np.nanmax(values)
    if _is_wide(low, high, name):
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1)


def _draw_heat_map(
    figure: Figure, place: int, grid: _Grid, found: pandas.DataFrame, name: str, marks: Mapping[tuple[int, int], str]
) -> None:
    """One of three panels, with its colour bar; the same places in each state of a slider."""
    gap = 0.14
    width = (WIDTH - grid.margin - 0.1) / 3 - gap
    left = grid.margin + place * (width + gap)
    values = grid.values(found, name)
    coloured = ScalarMappable(_norm(values, name), OTHER_SCALE if name in MEASURES else SCALE)
    axis = fixed_axis(figure, left, 1.05, width, ROW * len(grid.rows))
    _draw_cells(axis, values, name, coloured, 72 * width / len(grid.columns))
    _mark(axis, marks, values, coloured)
    axis.set_xticks(range(len(grid.columns)), grid.columns, fontsize=8.5)
    axis.set_yticks([])
    axis.set_xlabel("epochs", fontsize=9, labelpad=1)
    axis.tick_params(length=0, pad=2)
    axis.spines[:].set_visible(False)
    for row in range(1, len(grid.rows)):
        if grid.rows[row][0] != grid.rows[row - 1][0]:
            axis.axhline(row - 0.5, color="black", lw=1)
    _colour_bar(figure, (left, 0.5, width, 0.08), coloured, name)


def _draw_cells(axis, values: np.ndarray, name: str, coloured: ScalarMappable, width: float) -> None:
    """Colours, and in each cell its number. width: of a cell, points."""
    axis.imshow(values, cmap=coloured.cmap, norm=coloured.norm, aspect="auto", interpolation="none")
    size = min(8.0, (width - 4) / 3.1)  # four digits and a point have room
    for (row, column), value in np.ndenumerate(values):
        if np.isnan(value):
            continue
        colour = _readable_on(coloured, value)
        axis.text(column, row + 0.12, _plainly(value, name), ha="center", va="center", fontsize=size, color=colour)


def _readable_on(coloured: ScalarMappable, value: float) -> str:
    light = np.array(coloured.to_rgba(value)[:3]) ** 2.2
    return "white" if light @ (0.2126, 0.7152, 0.0722) < DARK else "black"


MARKS = {  # size in points, and what it stands for
    "*": (7.0, "best students"),
    "o": (2.8, "may be the best as well, with 95 %"),
    "D": (3.8, "most accurate itself"),
}


def _mark(axis, marks: Mapping[tuple[int, int], str], values: np.ndarray, coloured: ScalarMappable) -> None:
    """Above the number, in its colour."""
    for (row, column), marker in marks.items():
        colour = _readable_on(coloured, values[row, column])
        axis.plot(column + 0.34, row - 0.27, marker, color=colour, ms=MARKS[marker][0], mew=0)


def _colour_bar(figure: Figure, place: tuple[float, float, float, float], coloured: ScalarMappable, name: str) -> None:
    """With its two ends: what is between stands in the cells."""
    bar = fixed_axis(figure, *place)
    figure.colorbar(coloured, cax=bar, orientation="horizontal", ticks=[]).outline.set_visible(False)
    bar.minorticks_off()
    for x, value, side in ((0, coloured.norm.vmin, "left"), (1, coloured.norm.vmax, "right")):
        bar.text(x, -0.5, _plainly(value, name), ha=side, va="top", fontsize=8, transform=bar.transAxes)


def _legend_of_marks() -> list[Line2D]:
    return [
        Line2D([], [], linestyle="none", marker=marker, color="black", ms=size + 1, mew=0, label=label)
        for marker, (size, label) in MARKS.items()
    ]


def what_predicts(table: pandas.DataFrame, responses: pandas.DataFrame, temperature: float) -> CaptionedFigure:
    """Students' accuracy against what may predict it: the teacher's own, and what it says to training images.

    A dot is a teacher of the coarse step, with means over seeds; above each panel Spearman's rank correlation.

    Args:
        table, responses, temperature: as for `predictors`.

    Raises:
        ValueError: what `predictors` refuses, and measures that are all the same for all teachers.
    """
    found = teachers_and_responses(table[table.step == COARSE], responses, temperature)
    ranked = predictors(table, responses, temperature).set_index("measure")
    figure = Figure(figsize=(WIDTH, 3.1))
    gap, left = 0.34, 0.65  # numbers at the ends of two axes have room between them
    width = (WIDTH - left - 0.2 - 3 * gap) / 4
    for place, name in enumerate(PREDICTORS):
        axis = fixed_axis(figure, left + place * (width + gap), 0.55, width, 2.0)
        _draw_teachers(axis, found, name, _networks(table, found))
        axis.set_title(_rho(ranked.rho[name]), fontsize=9.5, pad=4)
        axis.tick_params(labelsize=8.5, labelleft=not place)
    figure.axes[0].set_ylabel(LABELS["student_accuracy"], fontsize=9)
    drawn = figure.axes[0].get_legend_handles_labels()
    figure.legend(*drawn, loc="upper right", ncols=4, fontsize=9, borderaxespad=0.1, handletextpad=0.1)
    put_title(figure, f"soft targets at T = {temperature:g}")
    return CaptionedFigure(figure, _said_of_predictors(ranked, temperature))


def _draw_teachers(axis, found: pandas.DataFrame, name: str, networks: Sequence[str]) -> None:
    for i, network in enumerate(networks):
        own, n = found[found.network == network], i % len(PALETTE)
        style = {"marker": MARKERS[n], "mfc": PALETTE[n], "mec": "white", "mew": 0.5, "ms": 6, "linestyle": "none"}
        axis.plot(own[name], own.student_accuracy, **style, label=network)
    axis.set_ylim(_with_margin(found.student_accuracy))
    _label_predictor(axis, found[name], name)


def _rho(value: float) -> str:
    return "ρ is not defined" if np.isnan(value) else f"ρ = {value:+.2f}".replace("-", "−")


def _label_predictor(axis, values: pandas.Series, name: str) -> None:
    low, high = float(values.min()), float(values.max())
    if _is_wide(low, high, name):
        margin = (high / low) ** 0.06
        axis.set(xscale="log", xlim=(low / margin, high * margin))
        axis.minorticks_off()
        steps = (1, 2, 5) if high < 100 * low else (1,)
        ticks = [step * 10.0**k for k in range(-12, 3) for step in steps]
        ticks = [tick for tick in ticks if low / margin <= tick <= high * margin]
        labels = [_number(tick) if tick < 1e-3 else f"{tick:g}" for tick in ticks]
        each = 1 + sum(map(len, labels)) // 13  # so many letters have room
        axis.set_xticks(ticks[::each], labels[::each])
    else:
        axis.set_xlim(_with_margin(values))
        axis.locator_params(axis="x", nbins=4)
    axis.set_xlabel(LABELS[name] if "%" in LABELS[name] else LABELS[name].split(",")[0], fontsize=9)
    axis.xaxis.set_label_coords(0.5, -0.15)
    axis.grid(True, alpha=0.4)


def _said_of_predictors(ranked: pandas.DataFrame, temperature: float) -> str:
    known = ranked[ranked.rho.notna()]
    if known.empty:
        raise ValueError("every measure, or the students' accuracy, is the same for all teachers; nothing is ranked")
    order = known.rho.abs().sort_values(ascending=False, kind="stable").index

    def in_words(name: str) -> str:
        one = known.loc[name]
        return f"{LABELS[name].split(',')[0]} (rho {one.rho:+.2f}, {one.lower:+.2f} to {one.upper:+.2f})"

    fewest, most = known.teachers.min(), known.teachers.max()
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    said = f"{count} teachers, T = {temperature:g}: with the students' accuracy goes most closely {in_words(order[0])}"
    return f"{said}, least {in_words(order[-1])}; 95 % intervals over teachers."


# --- a ladder of capacities ----------------------------------------------------------------------


def capacity_gap(table: pandas.DataFrame, teachers: Sequence[Teacher], classes: int = 10) -> CaptionedFigure:
    """Whether a larger teacher, which is better itself, teaches better too: a ladder of networks trained alike.

    Both panels are of the confirmation, with 95 % t intervals over seeds; the band is that of students alone.

    Args:
        table, teachers, classes: as for `ladder`.

    Raises:
        ValueError: what `ladder` refuses.
    """
    steps = ladder(table, teachers, classes)
    taught, alone = steps[steps.network.notna()], steps[steps.network.isna()]
    family, short = _short_names(list(taught.network))
    figure, axes = new_figure(1, 2, height=3.4)
    left, right = axes[0]
    for i, (axis, who) in enumerate(((left, "teacher"), (right, "student"))):
        mean = taught[f"{who}_accuracy"]
        error = [mean - taught[f"{who}_lower"], taught[f"{who}_upper"] - mean]
        style = {"color": PALETTE[i], "marker": MARKERS[i], "linestyle": DASHES[0], "ms": 6, "capsize": 3}
        axis.errorbar(taught.parameters.astype(float) / 1000, mean, np.nan_to_num(error), **style)
        _label_capacities(axis, taught, short)
        axis.set_xlabel(f"teacher{' (' + family + ')' if family else ''}, thousands of parameters", fontsize=9.5)
        axis.grid(True, axis="y", alpha=0.4)
        axis.locator_params(axis="y", nbins=6)
    for one in alone.itertuples():
        right.axhspan(one.student_lower, one.student_upper, color="0.9", lw=0, zorder=0)
        right.axhline(one.student_accuracy, color="0.4", linestyle="--", lw=1.2, zorder=1, label="students alone")
        right.legend(loc="lower right", fontsize=9)
    left.set_title(LABELS["teacher_accuracy"], fontsize=10, loc="left")
    right.set_title(LABELS["student_accuracy"], fontsize=10, loc="left")
    recipe = f"batches of {teachers[0].batch_size}, {teachers[0].epochs} epochs"
    figure.suptitle(f"teachers trained alike: {recipe}", fontsize=10, x=0.012, ha="left")
    return CaptionedFigure(figure, _said_of_ladder(taught, alone, recipe, family, short))


def _label_capacities(axis, taught: pandas.DataFrame, short: Mapping[str, str]) -> None:
    """Names with thousands of parameters below; on a slant where they would touch."""
    thousands = taught.parameters.astype(float) / 1000
    axis.set_xscale("log")
    margin = max(thousands.max() / thousands.min(), 2) ** 0.12
    axis.set_xlim(thousands.min() / margin, thousands.max() * margin)
    axis.minorticks_off()
    names = [short[network] for network in taught.network]
    labels = [f"{name}\n{value:.{0 if value >= 10 else 1}f}" for name, value in zip(names, thousands, strict=True)]
    places = 3.3 * np.log(thousands) / np.ptp(np.log(axis.get_xlim()))  # inches, about
    close = len(places) > 1 and np.diff(places).min() < 0.1 + LETTER * max(map(len, names))
    axis.set_xticks(thousands, labels, **({"rotation": 30, "fontsize": 8} if close else {"fontsize": 9}))


def _said_of_ladder(
    taught: pandas.DataFrame, alone: pandas.DataFrame, recipe: str, family: str, short: Mapping[str, str]
) -> str:
    def students(one) -> str:
        half = (one.student_upper - one.student_lower) / 2
        return f"{one.student_accuracy:.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}")

    told = [f"{short[one.network]} {one.teacher_accuracy:.1f}, {students(one)}" for one in taught.itertuples()]
    told += [f"students alone {students(one)}" for one in alone.itertuples()]
    fewest, most = taught.seeds.min(), taught.seeds.max()
    seeds = f"{most} seed{'' if most == 1 else 's'}" if fewest == most else f"{fewest} to {most} seeds"
    who = f"{family} teachers" if family else "Teachers"
    return f"{who}, {recipe}, {seeds}, accuracy and that of their students (%, 95 % interval): {'; '.join(told)}."
