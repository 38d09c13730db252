"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from spectralkd_nb.distillation.records import losses_of
from spectralkd_nb.experiments.records import Record
from spectralkd_nb.plots.style import DASHES, MARKERS, PALETTE, WIDTH, CaptionedFigure, new_figure


def training_curves(curves: Mapping[str, Sequence[float]], title: str, epochs: int | None = None) -> CaptionedFigure:
    """How a run went, epoch by epoch: each loss term, and the accuracy on training and on test images.

    Args:
        curves: of a `Run` or a `Progress`; one value an epoch, none yet is allowed.
        title: student, and teacher.
        epochs: how many there will be, so that the axes stay while the curves grow; as many as there are if None.
    """
    figure = Figure(figsize=(WIDTH, 3.0))
    # Axes at fixed places, as for sliders: nothing moves while the curves grow.
    left, right = figure.add_axes((0.08, 0.18, 0.38, 0.68)), figure.add_axes((0.57, 0.18, 0.38, 0.68))
    done = list(curves.get("epoch", []))
    end = epochs or max([*done, 1])
    for i, (name, values) in enumerate(losses_of(curves).items()):
        left.plot(done, values, marker=MARKERS[i], ms=4, linestyle=DASHES[i], color=PALETTE[i], label=name)
    for i, name in enumerate(("train accuracy", "test accuracy")):
        colour, dash = PALETTE[5 - 5 * i], DASHES[1 - i]
        right.plot(done, curves.get(name, []), marker=MARKERS[i], ms=4, linestyle=dash, color=colour, label=name)
    for axis, what in ((left, "loss, mean of the epoch"), (right, "accuracy, %")):
        axis.set(xlim=(0.5, end + 0.5), xlabel="epoch", title=what)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if done:
            axis.legend(fontsize=8)
    right.set_ylim(0, 100)
    if not done:
        return CaptionedFigure(figure, f"{title}: the first epoch is not finished yet.")
    terms = ", ".join(f"{name} {values[-1]:.3f}" for name, values in losses_of(curves).items())
    return CaptionedFigure(
        figure,
        f"{title} after {done[-1]} epochs: {curves['test accuracy'][-1]:.1f} % of the test images are right and "
        f"{curves['train accuracy'][-1]:.1f} % of the training images as they were shown; losses: {terms}.",
    )


def accuracy_by_epoch(records: Sequence[Record], methods: Sequence[str], goal: float | None = None) -> CaptionedFigure:
    """Accuracy on the test images by epoch: the mean over seeds, and the band that half of the seeds lie in.

    Args:
        records: of finished runs, of one length.
        methods: which of them, in this order; six at the most.
        goal: percent, drawn as a line; the caption says after how many epochs a method's mean reaches it.

    Raises:
        ValueError: a method without records, or runs of several lengths.
    """
    figure, axes = new_figure(1, 1, height=3.6)
    axis, said = axes[0, 0], []
    for i, method in enumerate(methods):
        curves = [record.run.curves["test accuracy"] for record in records if record.plan.method == method]
        if not curves or len({len(curve) for curve in curves}) > 1:
            raise ValueError(f"{method!r} has {'runs of several lengths' if curves else 'no finished run'}")
        values = np.array(curves)
        epochs, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
        low, high = np.quantile(values, (0.25, 0.75), axis=0)
        axis.fill_between(epochs, low, high, color=PALETTE[i], alpha=0.15, lw=0)
        style = {"color": PALETTE[i], "linestyle": DASHES[i], "marker": MARKERS[i], "ms": 4, "markevery": 3}
        axis.plot(epochs, mean, label=f"{method}, {len(curves)} seeds", **style)
        told = f"{method} {mean[-1]:.1f} %"
        if goal is not None:
            reached = np.flatnonzero(mean >= goal)
            told += f", {goal:g} % after {epochs[reached[0]]}" if len(reached) else f", {goal:g} % never"
        said.append(told)
    if goal is not None:
        axis.axhline(goal, color="0.5", lw=1, zorder=0)
    axis.set(
        xlabel="epoch", ylabel="accuracy on test images, %", title="mean over seeds; band: the middle half of them"
    )
    axis.legend(fontsize=9, loc="lower right")
    return CaptionedFigure(figure, f"Accuracy after the last epoch: {'; '.join(said)}.")
