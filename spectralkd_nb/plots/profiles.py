"""Has a student its teacher's alpha by depth? One panel a method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from spectralkd_nb.experiments.comparison import compare_methods, over_seeds
from spectralkd_nb.experiments.kept import TEACHER
from spectralkd_nb.experiments.profiles import STUDENT, compare_profiles, profile_distances
from spectralkd_nb.plots.depth import ALPHA_AXIS
from spectralkd_nb.plots.experiments import in_seeds, named_group, only_group, said_of_methods
from spectralkd_nb.plots.style import DASHES, PALETTE, CaptionedFigure, cut, new_figure

if TYPE_CHECKING:
    import pandas

DEPTH_AXIS = "relative depth (0: the image, 1: the last block)"
MEASURES = {"stage_ends": "the ends of the stages", "all_depths": "all depths"}
ROW_HEIGHT, MOST_ROOMY = 1.75, 9  # inches of a row of panels; panels in rows of three
LETTERS = {3: 34, 4: 25}  # of a method's name above a panel, by how many stand beside each other
VERDICTS = {"better": "nearer", "worse": "farther"}
TAUGHT = {"color": PALETTE[0], "marker": "o", "linestyle": DASHES[0], "ms": 4, "lw": 1.4, "zorder": 3}
OF_TEACHER = {"color": "black", "marker": "X", "linestyle": DASHES[0], "ms": 5, "lw": 1.0, "zorder": 2}
PLAIN = {"color": PALETTE[1], "marker": "s", "linestyle": DASHES[1], "ms": 3.5, "lw": 1.2, "zorder": 2}


def student_profiles(profiles: pandas.DataFrame, baseline: str, distance: str = "all_depths") -> CaptionedFigure:
    """alpha by relative depth of each distilled student, beside its teacher and the plain student; the nearest first.

    Lines are means over seeds, the band is the student's 95 % t interval at each layer; hollow marks are layers whose
    spectra bend, or are not to be trusted for another reason, in half of the networks or more.

    Args:
        profiles: of `grid_profiles`, of one student, teacher and protocol.
        baseline: the method of the plain student, which is in every panel.
        distance: of `profile_distances`, told above each panel.

    Raises:
        ValueError: several students, teachers or protocols, no method beside the baseline, and what `compare_profiles`
            refuses.
    """
    students, teacher = profiles[profiles.role == STUDENT], profiles[profiles.role == TEACHER]
    group = only_group(students)
    table = compare_profiles(profiles, baseline, distance)
    taught = table[table.method != baseline]
    if taught.empty:
        raise ValueError(f"the profiles are of {baseline!r} only; a panel takes another method beside it")
    columns = 3 if len(taught) <= MOST_ROOMY else 4
    rows = -(-len(taught) // columns)
    figure, axes = new_figure(rows, columns, height=1.05 + ROW_HEIGHT * rows, sharex=True, sharey=True)
    fixed = [(_over_seeds(teacher), OF_TEACHER), (_over_seeds(students[students.method == baseline]), PLAIN)]
    for axis in axes.flat[len(taught) :]:
        axis.axis("off")
    for axis, method in zip(axes.flat, taught.itertuples(), strict=False):
        own = _over_seeds(students[students.method == method.method])
        axis.fill_between(own.relative_depth, own.lower, own.upper, color=TAUGHT["color"], alpha=0.25, lw=0)
        for layers, style in (*fixed, (own, TAUGHT)):
            _draw_layers(axis, layers, style)
        told = f"{cut(method.method, LETTERS[columns])}\n{_apart(method)}"
        axis.set_title(told, fontsize=8.5, loc="left", linespacing=1.15)
        axis.grid(True, axis="y", alpha=0.4)
    for axis in axes[:-1, :].flat[max(0, len(taught) - columns) :]:
        axis.tick_params(labelbottom=True)  # the lowest of its column, above an empty place
    axes[0, 0].set(xlim=(-0.04, 1.04))
    axes[0, 0].set_xticks((0, 0.5, 1), ("0", "0.5", "1"))
    figure.supxlabel(DEPTH_AXIS, fontsize=10)
    figure.supylabel(ALPHA_AXIS, fontsize=10)
    figure.legend(handles=_legend(group, baseline), loc="outside upper center", ncols=3, fontsize=8)
    return CaptionedFigure(figure, _caption(group, profiles, table, baseline, distance))


def _over_seeds(layers: pandas.DataFrame) -> pandas.DataFrame:
    """By layer: mean alpha over seeds with its 95 % t interval, relative depth, and the share that can be trusted."""
    import pandas as pd

    known = layers[layers.alpha.notna()].groupby("layer")
    means = pd.DataFrame({layer: over_seeds(own.alpha)._asdict() for layer, own in known}).T
    return means.join(known[["relative_depth", "trusted"]].mean()).sort_values("relative_depth")


def _draw_layers(axis, layers: pandas.DataFrame, style: dict[str, object]) -> None:
    axis.plot(layers.relative_depth, layers["mean"], **style)
    doubtful = layers[layers.trusted <= 0.5]
    axis.plot(doubtful.relative_depth, doubtful["mean"], **{**style, "mfc": "white", "linestyle": "none"})


def _apart(method) -> str:
    """Distance from the teacher with its interval, and whether it is less than the plain student's."""
    half = "" if method.seeds < 2 else f" ± {method.upper - method.mean:.2f}"
    return f"{method.mean:.2f}{half}, {VERDICTS.get(method.verdict, method.verdict)}"


def _legend(group: dict[str, str], baseline: str) -> list[Line2D | Patch]:
    """Column by column, two each."""
    return [
        Line2D([], [], **TAUGHT, label="distilled student, mean over seeds"),
        Patch(color=TAUGHT["color"], alpha=0.25, lw=0, label="its 95 % t interval"),
        Line2D([], [], **OF_TEACHER, label=f"teacher, {group['teacher']}"),
        Line2D([], [], **PLAIN, label=f"plain student, {cut(baseline, LETTERS[4])}"),
        Line2D([], [], marker="o", color="0.3", mfc="white", ms=4, linestyle="none", label="bent or not to be trusted"),
        Line2D([], [], linestyle="none", label="above: rms distance from the teacher"),
    ]


def _caption(
    group: dict[str, str], profiles: pandas.DataFrame, table: pandas.DataFrame, baseline: str, distance: str
) -> str:
    runs = profile_distances(profiles)
    compared = compare_methods(runs, baseline, value=distance, lower_is_better=True)
    own = table[table.method == baseline].iloc[0]
    plain = f"{baseline} is {own['mean']:.2f} from its teacher's alpha (rms over {MEASURES[distance]})"
    said = ", ".join(said_of_methods(compared))
    return (
        f"{named_group(group)}, {in_seeds(compared.seeds)}: {plain}; more or less than that (95 % interval, Holm's "
        f"verdict, nearer is better): {said}."
    )
