"""Which frequencies a loss on features listens to, and what its student learns of a teacher's spectrum."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from matplotlib.figure import Figure
from torch import Tensor

from spectralkd_nb.losses.frequency import (
    OctaveShares,
    error_spectrum,
    law_weights,
    octave_shares,
    shape_distance,
    weighted_maps,
)
from spectralkd_nb.plots.spectra import on_cpu
from spectralkd_nb.plots.style import DASHES, MARKERS, PALETTE, WIDTH, CaptionedFigure, decades_around, new_figure
from spectralkd_nb.spectra import RadialSpectrum, default_band, fit_power_law, mode_frequencies

HIGH = 0.25  # cycles a pixel; rings above it are the highest octave
FAINTEST = 1e-4  # of the mean power; what lies deeper is left out of a figure of gradients
MAP_RANGE = 3.0  # rms of a map of errors, to either side, that its colours span
EPOCH_NAMES = 8  # that an axis has room for
NO_ALPHA = "no alpha can be fitted"


# --- what a loss hears ---------------------------------------------------------------------------


def heard_by_frequency(errors: Mapping[str, tuple[Tensor, Tensor]], title: str = "") -> CaptionedFigure:
    """The squared error of features by mode, and by octave: where the pixel loss of each layer lies.

    Dotted lines on the right are where a layer's octaves would be if all had as much of the loss.

    Args:
        errors: name of a layer to (student's maps, teacher's maps), both (B, C, H, W), a connector applied before.
        title: of the figure.
    """
    spectra = {name: on_cpu(error_spectrum(*maps)) for name, maps in errors.items()}
    shares = {name: octave_shares(*maps) for name, maps in errors.items()}
    most = max(len(octaves.share) for octaves in shares.values())
    figure, axes = new_figure(1, 2, height=3.7, width_ratios=(1, 1.15))
    left, right = axes[0]
    for i, (name, octaves) in enumerate(shares.items()):
        style = {"color": PALETTE[i], "marker": MARKERS[i], "ms": 4, "linestyle": DASHES[i]}
        left.plot(spectra[name].frequency, spectra[name].power, label=name, **style)
        # Layers meet at Nyquist, so octaves are counted from the right; the mean stands before the lowest of all.
        x = torch.arange(most - len(octaves.share) + 1, most + 1)
        right.plot(x, 100 * octaves.share, **style)
        right.plot([0, most + 1], [100 * octaves.mean, 100 * octaves.corners], **(style | {"linestyle": "none"}))
        right.plot(x[[0, -1]], [100 * octaves.share.mean()] * 2, color=PALETTE[i], lw=1, linestyle=":")
    label_rings(left, list(spectra.values()))
    left.set(title="error by mode", ylabel="power of the error")
    left.legend(loc="lower left", fontsize=9)
    right.set_xticks(range(most + 2), _names(most))
    right.set(xlabel="octave up to f, cycles a pixel", ylabel="% of the pixel loss", title="pixel loss by octave")
    right.set_ylim(bottom=0)
    figure.suptitle(title, fontsize=11)
    said = []
    for name, octaves in shares.items():
        alpha = alpha_or_nan(spectra[name])
        said.append(f"{name}, {f'alpha {alpha:.2f}' if math.isfinite(alpha) else NO_ALPHA}, {_said(octaves)}")
    return CaptionedFigure(figure, f"Where the pixel loss lies: {'; '.join(said)}.")


def weighted_error(
    student: Tensor, teacher: Tensor, beta: float, title: str, betas: tuple[float, float] = (-1.0, 3.0)
) -> CaptionedFigure:
    """An error as a weighted loss sees it: one channel's map, the weights (f / f_1)^beta, and the loss by octave.

    The map is that of the first image's channel with the largest error, each mode times sqrt(w): its mean square is
    what the loss counts of it. Its colours are in units of its own root mean square. On the right the dashed line is
    where the octaves would be if all had as much, the marks where all would be if each mode had as much.

    Args:
        student, teacher: maps (B, C, H, W), a connector applied before; shares are over all of them. A million
            elements are drawn in a tenth of a second.
        beta: 0 for the pixel loss, the teacher's exponent for the whitened loss.
        title: of the layer.
        betas: lowest and highest beta that the axis of weights has room for, so that it stays while beta moves.
    """
    student, teacher = student.detach().cpu(), teacher.detach().cpu()
    octaves = octave_shares(student, teacher, beta)
    first = student[0].float() - teacher[0].float()
    channel = int(first.square().mean((-2, -1)).argmax())
    seen = weighted_maps(first[channel], beta)
    size = float(seen.square().mean().sqrt())
    # Axes at fixed places: working a layout out takes longer than the drawing, and would move it between states.
    figure = Figure(figsize=(WIDTH, 3.2))
    places = ((0.01, 0.26), (0.285, 0.012), (0.425, 0.195), (0.695, 0.295))  # left border and width of each
    left, bar, middle, right = (figure.add_axes((x, 0.175, width, 0.65)) for x, width in places)
    picture = left.imshow((seen / (size or 1.0)).numpy(), cmap="RdBu_r", vmin=-MAP_RANGE, vmax=MAP_RANGE)
    left.set(xticks=[], yticks=[])
    left.set_title(f"error of channel {channel}, image 0", fontsize=9)
    colours = figure.colorbar(picture, cax=bar, ticks=[-MAP_RANGE, 0, MAP_RANGE])
    colours.set_label("in units of its rms", fontsize=8, labelpad=0)
    _draw_weights(middle, octaves.shape, beta, betas)
    _draw_octaves(right, octaves)
    figure.text(0.01, 0.935, title, fontsize=10)
    return CaptionedFigure(
        figure,
        f"{title}, weights f^{beta:.3g}: {_said(octaves)}; the largest error of image 0, in channel {channel}, has "
        f"rms {size:.3g} as weighted.",
    )


def _draw_weights(axis, shape: tuple[int, int], beta: float, betas: tuple[float, float]) -> None:
    """w(f) of each mode but the mean, which has no place on a logarithmic axis and the weight of the lowest."""
    radius, order = torch.hypot(*mode_frequencies(*shape)).flatten().sort()
    weight = law_weights(*shape, beta).flatten()[order]
    axis.axhline(1, color="0.7", lw=1, zorder=0)
    axis.plot(radius[1:], weight[1:], color=PALETTE[0], marker=MARKERS[0], ms=2.5)
    _label_frequencies(axis, max(shape), 1.0)
    _label_decades(axis, torch.cat([law_weights(*shape, limit).flatten() for limit in betas]))
    axis.set_title(f"weight w(f), β = {beta:.3g}", fontsize=9)
    axis.grid(True, which="major")


def _draw_octaves(axis, octaves: OctaveShares) -> None:
    count = len(octaves.share)
    x, alike = range(count + 2), float(octaves.share.mean())
    shares = 100 * torch.tensor([octaves.mean, *octaves.share, octaves.corners])
    by_mode = 100 * torch.tensor([1, *octaves.modes, octaves.corner_modes]) / math.prod(octaves.shape)
    axis.bar(x, shares.tolist(), color=["0.75", *[PALETTE[0]] * count, "0.75"], width=0.75)
    for place, share in zip(x, shares.tolist(), strict=True):
        axis.text(place, 101, f"{share:.0f}", ha="center", fontsize=9)  # in a row, where no mark crosses a number
    axis.plot([0.5, count + 0.5], [100 * alike] * 2, color=PALETTE[1], linestyle="--", lw=1.2, label="octaves alike")
    axis.plot(x, by_mode, "D", color=PALETTE[6], mfc="none", ms=5, label="modes alike")
    axis.set_xticks(x, _names(count))
    axis.tick_params(axis="x", labelsize=8)
    axis.set(ylim=(0, 108), yticks=range(0, 101, 20), xlabel="octave up to f, cycles a pixel")
    axis.set_title("% of the loss", fontsize=9)
    axis.legend(loc="lower right", bbox_to_anchor=(1.04, 1.09), ncols=2, fontsize=9, columnspacing=1, borderpad=0)


def _names(octaves: int) -> list[str]:
    """Of the mean, of each octave, and of the corners beyond Nyquist."""
    return ["mean", *(_fraction(0.5**k) for k in range(octaves, 0, -1)), "> 1/2"]


def _fraction(frequency: float) -> str:
    return f"1/{round(1 / frequency)}"


def _said(octaves: OctaveShares) -> str:
    shares = ", ".join(f"{100 * share:.1f}" for share in octaves.share)
    return (
        f"{100 * octaves.mean:.1f} % of the loss in the mean, {shares} % in the octaves up to "
        f"{_fraction(float(octaves.upper[0]))} ... 1/2, {100 * octaves.corners:.1f} % beyond"
    )


# --- spectra side by side ------------------------------------------------------------------------


def gradient_spectra(spectra: Mapping[str, RadialSpectrum], error: RadialSpectrum, title: str) -> CaptionedFigure:
    """The spectra of losses' gradients, each divided by its mean over modes so that shapes compare and sizes do not.

    The caption has the share of power in rings above a quarter of a cycle a pixel, within the Nyquist circle. Rings
    with less than 0.0001 of the mean power are left out.

    Args:
        spectra: name of a loss to its `gradient_spectrum`.
        error: `error_spectrum` of the same maps, for reference.
        title: of the figure.

    Raises:
        ValueError: a gradient that is 0 everywhere.
    """
    reference = _normalised(error, "the error")
    curves = {name: _normalised(spectrum, f"the gradient of {name}") for name, spectrum in spectra.items()}
    figure, axes = new_figure(1, 1, height=4.0)
    axis = axes[0, 0]
    axis.plot(reference.frequency, reference.power, color="0.6", lw=6, alpha=0.5, label="the error itself")
    for i, (name, curve) in enumerate(curves.items()):
        # Hollow and smaller one after the other, so that equal spectra are seen inside each other.
        style = {"color": PALETTE[i], "marker": MARKERS[i], "ms": max(10 - 1.5 * i, 3), "mfc": "none"}
        seen = torch.where(curve.power < FAINTEST, torch.nan, curve.power)
        axis.plot(curve.frequency, seen, linestyle=DASHES[i], label=name, **style)
    label_rings(axis, [reference, *curves.values()], FAINTEST)
    axis.set(title=title, ylabel="power of the gradient / its mean")
    figure.legend(loc="outside right upper", fontsize=9)
    parts = [f"{100 * _share_above(curve, HIGH):.0f} % of {name}" for name, curve in curves.items()]
    return CaptionedFigure(
        figure,
        f"{title}: in rings above f = {HIGH:g} lie {100 * _share_above(reference, HIGH):.0f} % of the error's power "
        f"and, of the power of gradients, {', '.join(parts)}.",
    )


def spectra_while_learning(
    spectra: Mapping[int, RadialSpectrum], teacher: RadialSpectrum, epoch: int, title: str
) -> CaptionedFigure:
    """A student's spectrum after one epoch, among those after others and beside its teacher's; alpha and distance.

    Each spectrum is divided by its mean over modes. Exponents are fitted over the layer's default band; the distance
    is `shape_distance`, and the caption says it as the factor by which a typical mode's power differs.

    Args:
        spectra: the student's by epoch, 0 before training.
        teacher: of the same layer, maps of the same size.
        epoch: the one in bold.
        title: of the layer.

    Raises:
        ValueError: an epoch without a spectrum, a spectrum without power, maps of two sizes.
    """
    if epoch not in spectra:
        raise ValueError(f"there is no spectrum of epoch {epoch}; the epochs are {', '.join(map(str, spectra))}")
    curves = {at: _normalised(spectrum, f"the student of epoch {at}") for at, spectrum in spectra.items()}
    target = _normalised(teacher, "the teacher")
    alphas, goal = [alpha_or_nan(curve) for curve in curves.values()], alpha_or_nan(target)
    distances = [shape_distance(curve, target) for curve in curves.values()]
    now = list(curves).index(epoch)
    # Axes at fixed places, as for every slider.
    figure = Figure(figsize=(WIDTH, 3.6))
    left = figure.add_axes((0.085, 0.15, 0.5, 0.75))
    above, below = (figure.add_axes((0.69, bottom, 0.295, 0.3)) for bottom in (0.6, 0.15))
    _draw_epochs(left, curves, target, epoch)
    left.set(title=title, ylabel="power / its mean")
    draw_course(above, alphas, goal, now, curves)
    above.set_title("exponent α", fontsize=9)
    draw_course(below, distances, 0.0, now, curves)
    below.set(xlabel="epoch")
    below.set_title("distance of the shapes, ln power", fontsize=9)
    low, high = default_band(teacher.shape)
    exponents = f"alpha {alphas[now]:.2f}, the teacher's {goal:.2f} ({low:.3f} to {high:g} cycles a pixel)"
    if not math.isfinite(alphas[now] + goal):
        exponents = NO_ALPHA
    return CaptionedFigure(
        figure,
        f"{title}, {when(epoch)}: {exponents}; relative to the mean, a typical mode's power is off by a factor of "
        f"{math.exp(distances[now]):.2f}.",
    )


def _draw_epochs(axis, curves: Mapping[int, RadialSpectrum], target: RadialSpectrum, epoch: int) -> None:
    others = [curve for at, curve in curves.items() if at != epoch]
    for i, curve in enumerate(others):
        label = None if i else "other epochs"
        axis.plot(curve.frequency, curve.power, color=PALETTE[5], lw=1, alpha=0.5, label=label)
    teacher = {"color": PALETTE[1], "linestyle": "--", "marker": MARKERS[1], "ms": 4, "label": "teacher"}
    axis.plot(target.frequency, target.power, **teacher)
    student = {"color": PALETTE[0], "lw": 2.5, "marker": MARKERS[0], "ms": 5, "label": f"student {when(epoch)}"}
    axis.plot(curves[epoch].frequency, curves[epoch].power, **student)
    label_rings(axis, [target, *curves.values()])
    axis.legend(loc="lower left", fontsize=9)


def draw_course(axis, values: Sequence[float], goal: float, now: int, epochs: Iterable[int]) -> None:
    """One number by epoch, and where the teacher is; epochs at equal distances, because most happens in the first."""
    if not any(map(math.isfinite, values)):
        axis.axis("off")
        axis.text(0.5, 0.5, NO_ALPHA, ha="center", transform=axis.transAxes, fontsize=9)
        return
    axis.axhline(goal, color=PALETTE[1], linestyle="--", zorder=0)
    axis.plot(range(len(values)), values, color=PALETTE[5], marker=MARKERS[0], ms=3, lw=1)
    axis.plot(now, values[now], MARKERS[0], color=PALETTE[0], ms=7)
    every = math.ceil(len(values) / EPOCH_NAMES)
    axis.set_xticks(range(0, len(values), every), list(epochs)[::every])
    axis.margins(y=0.15)


def when(epoch: int) -> str:
    return f"after epoch {epoch}" if epoch else "before training"


def _normalised(spectrum: RadialSpectrum, name: str) -> RadialSpectrum:
    """Power divided by its mean over modes, on the CPU in float64."""
    spectrum = on_cpu(spectrum)
    power = spectrum.power.double()
    mean = (power * spectrum.modes).sum() / spectrum.modes.sum()
    if not mean > 0:
        raise ValueError(f"{name} has no power at any frequency; there is no spectrum to draw")
    return replace(spectrum, power=power / mean)


def _share_above(spectrum: RadialSpectrum, frequency: float) -> float:
    """Of the power within the Nyquist circle, what lies in rings whose nominal frequency is above this one."""
    power = spectrum.power * spectrum.modes
    nominal = torch.arange(1, len(power) + 1) / min(spectrum.shape)
    return float(power[nominal > frequency].sum() / power.sum())


def alpha_or_nan(spectrum: RadialSpectrum) -> float:
    """Over the default band; NaN on maps that are too small for a line."""
    try:
        return float(fit_power_law(spectrum).alpha)
    except ValueError:
        return math.nan


def label_rings(axis, spectra: Sequence[RadialSpectrum], faintest: float = 0.0) -> None:
    """Frequency across and power upwards, with room for all of these spectra down to the faintest power."""
    power = torch.cat([spectrum.power for spectrum in spectra])
    _label_frequencies(axis, max(min(spectrum.shape) for spectrum in spectra), 0.6)
    _label_decades(axis, power[power >= faintest])
    axis.grid(True, which="major")


def _label_frequencies(axis, side: int, end: float) -> None:
    """A logarithmic axis of f with its ticks at octaves, each or every second."""
    octaves = range(side.bit_length() - 1, 0, -1)
    ticks = [0.5**k for k in octaves if k % 2 or len(octaves) < 4]
    axis.set(xscale="log", xlim=(0.75 / side, end), xlabel="f, cycles a pixel")
    axis.minorticks_off()
    axis.set_xticks(ticks, [_fraction(tick) for tick in ticks])


def _label_decades(axis, power: Tensor) -> None:
    """A logarithmic axis in whole decades, labelled in plain numbers: formulas take a third of the drawing."""
    low, high = decades_around(power)
    decades = range(round(math.log10(low)), round(math.log10(high)) + 1)
    axis.set(yscale="log", ylim=(low, high))
    axis.minorticks_off()
    shown = [10.0**k for k in decades if k % math.ceil(len(decades) / 6) == 0]
    axis.set_yticks(shown, [f"{value:g}" for value in shown])
