"""Which method is better: accuracy over seeds, and the differences from a baseline; the order that follows."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from spectralkd_nb.experiments.comparison import compare_methods, over_seeds, summary
from spectralkd_nb.plots.style import PALETTE, CaptionedFigure, cut, new_figure

if TYPE_CHECKING:
    import pandas

LABEL_WIDTH = 22  # characters in a line of a method's name
LINE_HEIGHT, ROW_HEIGHT = 0.16, 0.48  # inches
HIGHEST, LOWEST, MEAN = -0.3, 0.08, 0.27  # of a row, downwards from its middle: first and last seed, and the mean
BAND_HEIGHT = 0.6  # of a row
MOST_JOINED = 6  # seeds; the lines of more are a tangle
MOST_TOLD = 7  # methods, in a caption; of more only those with a verdict
BAND, LINE = "0.9", "0.75"
VERDICTS = {  # marker, colour and filling
    "better": (">", PALETTE[0], PALETTE[0]),
    "worse": ("<", PALETTE[1], PALETTE[1]),
    "inconclusive": ("o", "0.3", "white"),
}
RANK_HEIGHT = 0.3  # inches, of a row of one line
RANKED_LABEL = 34  # characters, one line for most names
SEED_SPREAD = 0.22  # of a row, from its middle to the first and the last seed
BEST = {"marker": "x", "color": "0.55", "ms": 5, "mew": 1.2, "linestyle": "none"}
ERROR_BAR = {"linestyle": "none", "capsize": 2.5, "lw": 1.2, "zorder": 3}


def method_comparison(runs: pandas.DataFrame, baseline: str) -> CaptionedFigure:
    """Accuracy of every method, seed by seed, and what it gains over a baseline; see `compare_methods`.

    Up to 6 seeds a line joins a seed's runs. With more than 7 methods compared, the caption has those that are better
    or worse, and counts the others.

    Args:
        runs: as for `compare_methods`, of one student, teacher and protocol; runs alone may be without the teacher.
        baseline: a method; it is the first row.

    Raises:
        ValueError: several students, teachers or protocols, and what `compare_methods` refuses.
    """
    group = only_group(runs)
    table = compare_methods(runs, baseline)
    methods = [baseline, *table.method]
    labels = [textwrap.fill(method, LABEL_WIDTH) for method in methods]
    row = max(ROW_HEIGHT, 0.1 + LINE_HEIGHT * max(1 + label.count("\n") for label in labels))
    figure, axes = new_figure(1, 2, height=1.4 + row * len(methods), sharey=True)
    left, right = axes[0]
    _draw_runs(left, runs, methods)
    _draw_differences(right, table)
    left.set_yticks(range(len(methods)), labels)
    left.set(ylim=(len(methods) - 0.5, -0.5), xlabel="accuracy after the last epoch, %")
    named = baseline if len(baseline) <= LABEL_WIDTH else "the first row"
    right.set(xlabel=f"difference from {named}, points")
    right.tick_params(axis="y", left=False)
    figure.legend(
        handles=_legend(joined=runs.seed.nunique() <= MOST_JOINED), loc="outside lower center", ncols=3, fontsize=8
    )
    return CaptionedFigure(figure, _caption(group, table, baseline))


def ranking(runs: pandas.DataFrame, baseline: str) -> CaptionedFigure:
    """Methods by their mean accuracy after the last epoch, the highest first, for many of them; see `summary`.

    A dot is a run, the larger mark the mean with its 95 % t interval; its marker and colour say whether the method is
    better or worse than the baseline, seed by seed and after Holm's correction (`compare_methods`), which is not
    whether the intervals overlap. The cross is the mean of the best epochs, which the test images chose.

    Args:
        runs: as for `summary`, of one student, teacher and protocol; runs alone may be without the teacher. Of several
            pairs draw one figure each.
        baseline: a method; its interval is the band.

    Raises:
        ValueError: several students, teachers or protocols, and what `compare_methods` refuses.
    """
    group = only_group(runs)
    table = compare_methods(runs, baseline)
    means = summary(runs).sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    labels = [textwrap.fill(method, RANKED_LABEL) for method in means.method]
    row = max(RANK_HEIGHT, 0.1 + LINE_HEIGHT * max(1 + label.count("\n") for label in labels))
    figure, axes = new_figure(height=1.35 + row * len(means))
    axis = axes[0, 0]
    _draw_ranks(axis, runs, means, table.set_index("method").verdict, baseline)
    axis.set_yticks(range(len(means)), labels)
    axis.set(ylim=(len(means) - 0.5, -0.5), xlabel="accuracy after the last epoch, %")
    axis.grid(True, axis="x", alpha=0.4)
    marks, told = zip(*_legend_of_ranks(baseline), strict=True)
    figure.legend(marks, told, loc="outside lower center", ncols=2, fontsize=8)
    order = dict(zip(means.method, range(len(means)), strict=True))
    ordered = table.sort_values("method", key=lambda methods: methods.map(order))
    return CaptionedFigure(figure, f"{_said_of_ranks(means, baseline)} {_caption(group, ordered, baseline)}")


def only_group(runs: pandas.DataFrame) -> dict[str, str]:
    """Student, teacher and protocol of the runs; without a teacher where there is none."""
    there = {"student": runs.student.unique(), "teacher": runs.teacher.dropna().unique()}
    there["protocol"] = runs.protocol.unique()
    if any(len(values) > 1 for values in there.values()):
        told = "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in there.items())
        raise ValueError(f"the figure takes one student, one teacher and one protocol, and these are {told}")
    return {name: str(values[0]) for name, values in there.items() if len(values)}


# --- the panels ----------------------------------------------------------------------------------


def _draw_runs(axis, runs: pandas.DataFrame, methods: Sequence[str]) -> None:
    """A dot a run, for few seeds lines between a seed's in neighbouring rows, and below the dots their mean."""
    seeds = sorted(runs.seed.unique())
    style = _style_of_runs(joined=len(seeds) <= MOST_JOINED)
    lift = dict(zip(seeds, np.linspace(HIGHEST, LOWEST, len(seeds)), strict=True))
    for seed, own in runs.groupby("seed"):
        accuracy = own.set_index("method").accuracy.reindex(methods)  # NaN, a gap, where a run is missing
        axis.plot(accuracy, np.arange(len(methods)) + lift[seed], **style)
    for method, own in runs.groupby("method", sort=False, observed=True):
        found = over_seeds(own.accuracy)
        half = None if found.seeds < 2 else found.upper - found.mean
        axis.errorbar(found.mean, methods.index(method) + MEAN, xerr=half, fmt="kD", ms=4, **ERROR_BAR)


def _style_of_runs(joined: bool) -> dict[str, object]:
    line = "-" if joined else "none"
    return {"marker": "o", "ms": 4, "mew": 0, "mfc": PALETTE[5], "color": LINE, "lw": 0.7, "linestyle": line}


def _draw_differences(axis, table: pandas.DataFrame) -> None:
    axis.axvline(0, color="0.5", lw=1, zorder=1)
    axis.plot(0, 0, "kD", ms=4)  # the baseline against itself
    for row, method in enumerate(table.itertuples(), start=1):
        if method.seeds < 1:
            continue
        marker, colour, filling = VERDICTS[method.verdict]
        half = None
        if method.seeds > 1:
            half = method.upper - method.difference
            corner = (-method.detectable, row - BAND_HEIGHT / 2)
            axis.add_patch(Rectangle(corner, 2 * method.detectable, BAND_HEIGHT, color=BAND, lw=0, zorder=0))
        style = {"marker": marker, "color": colour, "mfc": filling, "ms": 6, **ERROR_BAR}
        axis.errorbar(method.difference, row, xerr=half, **style)
    axis.autoscale_view()
    tested = table.p.notna().sum()
    if tested > 1:
        axis.set_title(f"verdicts corrected for {tested} comparisons", fontsize=9)


def _draw_ranks(axis, runs: pandas.DataFrame, means: pandas.DataFrame, verdicts: pandas.Series, baseline: str) -> None:
    """A row a method: seeds as dots one below the other, the mean of the last epochs and that of the best."""
    lift = _spread(sorted(runs.seed.unique()))
    for row, method in enumerate(means.itertuples()):
        own = runs[runs.method == method.method]
        axis.plot(own.accuracy, row + own.seed.map(lift), **_dot_of_a_run())
        axis.plot(method.best, row, zorder=2, **BEST)
        half = None if method.seeds < 2 else method.upper - method.mean
        axis.errorbar(method.mean, row, xerr=half, **_mark_of_rank(verdicts.get(method.method)), **ERROR_BAR)
        if method.method == baseline:
            axis.axvline(method.mean, color="0.5", lw=1, linestyle="--", zorder=1)
            if half is not None:
                axis.axvspan(method.lower, method.upper, color=BAND, lw=0, zorder=0)


def _spread(seeds: Sequence[int]) -> dict[int, float]:
    """Where in its row each seed's dot is: the same in all rows, and one seed in the middle."""
    places = np.linspace(-SEED_SPREAD, SEED_SPREAD, len(seeds)) if len(seeds) > 1 else [0.0]
    return dict(zip(seeds, places, strict=True))


def _dot_of_a_run() -> dict[str, object]:
    return {**_style_of_runs(joined=False), "ms": 3.5, "zorder": 1}


def _mark_of_rank(verdict: str | None) -> dict[str, object]:
    """Of a verdict; None is the baseline."""
    marker, colour, filling = VERDICTS.get(verdict, ("D", "black", "black"))
    return {"marker": marker, "color": colour, "mfc": filling, "ms": 6.5 if verdict else 5}


def _legend_of_ranks(baseline: str) -> list[tuple[object, str]]:
    """Marks and what they are: one column of runs and means, one of verdicts."""
    named = cut(baseline, LABEL_WIDTH)
    own = Patch(color=BAND, lw=0), Line2D([], [], lw=1.2, **_mark_of_rank(None))
    return [
        (Line2D([], [], **_dot_of_a_run()), "run"),
        (Line2D([], [], **BEST), "mean of the best epochs (optimistic)"),
        (own, f"{named}: mean, 95 % t interval as a band"),
        *(
            (Line2D([], [], lw=1.2, **_mark_of_rank(verdict)), f"mean, 95 % t interval: {verdict}, paired with {named}")
            for verdict in VERDICTS
        ),
    ]


def _legend(joined: bool) -> list[Line2D | Patch]:
    """Column by column: what is drawn above, verdicts below. joined: with a line, a seed's runs."""
    drawn = [
        Line2D([], [], **_style_of_runs(joined), label="run; a line joins a seed's" if joined else "run"),
        Line2D([], [], marker="D", ms=4, color="black", lw=1.2, label="mean, 95 % t interval"),
        Patch(color=BAND, lw=0, label="differences found less than 4 times in 5"),
    ]
    verdicts = [
        Line2D([], [], marker=marker, color=colour, mfc=filling, ms=6, lw=1.2, label=verdict)
        for verdict, (marker, colour, filling) in VERDICTS.items()
    ]
    return [mark for column in zip(drawn, verdicts, strict=True) for mark in column]


# --- the caption ---------------------------------------------------------------------------------


def _said_of_ranks(means: pandas.DataFrame, baseline: str) -> str:
    """Who is first, where the baseline is, and what the best epochs would add."""
    place = list(means.method).index(baseline)
    first, own = means.iloc[0], means.iloc[place]
    interval = "" if own.seeds < 2 else f" ({own.lower:.2f} to {own.upper:.2f})"
    where = f"{baseline} is {place + 1} of {len(means)} with {own['mean']:.2f} %{interval}"
    gain = (means.best - means["mean"]).mean()
    best = f"best epochs are {gain:.2f} points higher on average"
    ahead = "" if place == 0 else f"{first.method} has the highest mean, {first['mean']:.2f} %; "
    return f"After the last epoch {ahead}{where}; {best}."


def _caption(group: Mapping[str, str], table: pandas.DataFrame, baseline: str) -> str:
    told = named_group(group)
    if table.empty:
        return f"{told}: only {baseline}, with nothing to compare."
    said = ", ".join(said_of_methods(table))
    return f"{told}, {in_seeds(table.seeds)}, against {baseline} (points, 95 % interval, Holm's verdict): {said}."


def named_group(group: Mapping[str, str]) -> str:
    pair = " from ".join(group[name] for name in ("student", "teacher") if name in group)
    return f"{pair}, {group['protocol']}"


def in_seeds(counts: pandas.Series) -> str:
    fewest, most = counts.min(), counts.max()
    return f"{most} seed{'' if most == 1 else 's'}" if fewest == most else f"{fewest} to {most} seeds"


def said_of_methods(table: pandas.DataFrame) -> list[str]:
    """Difference and verdict of each method of a table of `compare_methods`; of many, only where there is one."""
    told = table if len(table) <= MOST_TOLD else table[table.verdict != "inconclusive"]
    said, others = [_in_short(method) for method in told.itertuples()], len(table) - len(told)
    if not others:
        return said
    if not said:
        return [f"all {others} are inconclusive"]
    return [*said, "the other is inconclusive" if others == 1 else f"the other {others} are inconclusive"]


def _in_short(method) -> str:
    if method.seeds == 0:
        return f"{method.method} (no common seed, {method.verdict})"
    if method.seeds == 1:
        return f"{method.method} {method.difference:+z.2f} (1 seed, {method.verdict})"
    interval = f"{method.lower:+z.2f} to {method.upper:+z.2f}"
    return f"{method.method} {method.difference:+z.2f} ({interval}, {method.verdict})"
