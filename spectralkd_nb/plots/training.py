"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from spectralkd_nb.distillation.records import losses_of
from spectralkd_nb.plots.style import DASHES, MARKERS, PALETTE, WIDTH, CaptionedFigure


def training_curves(curves: Mapping[str, Sequence[float]], title: str, epochs: int | None = None) -> CaptionedFigure:
    """How a run went, epoch by epoch: each loss term, and the accuracy on training and on test images.

    Args:
        curves: of a `Run` or a `Progress`; one value an epoch, none yet is allowed. title: student, and teacher.
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
