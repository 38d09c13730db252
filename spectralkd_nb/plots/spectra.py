"""Pictures, their planes, their spectra and the laws fitted to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from spectralkd_nb.plots.style import (
    DASHES,
    MARKERS,
    PALETTE,
    WIDTH,
    CaptionedFigure,
    decades_around,
    new_figure,
    show_map,
)
from spectralkd_nb.spectra import (
    LawFit,
    PowerLawFit,
    RadialSpectrum,
    default_band,
    fit_power_law,
    mode_frequencies,
    mode_weights,
    power_spectrum,
    radial_spectrum,
)

if TYPE_CHECKING:
    import pandas

DECADES = 8  # of power that a picture of the plane shows


# --- pictures and planes -------------------------------------------------------------------------


def gallery(pictures: Mapping[str, Tensor], caption: str, columns: int = 4) -> CaptionedFigure:
    """Small multiples of pictures or maps.

    Args:
        pictures: title to (H, W), or (3, H, W) values in 0..1. Grey ones are stretched to their own 1st and 99th
            percentile.
        caption: what the pictures show, in a sentence.
        columns: at most so many beside one another.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = new_figure(rows, columns, height=rows * WIDTH / columns * 0.95)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        show_map(axis, picture)
        axis.set_title(title)
    return CaptionedFigure(figure, caption)


def picture_and_power(grey: Tensor, name: str, edges: str = "none") -> CaptionedFigure:
    """A picture beside the power of its Fourier modes, and the share of power in each octave of frequency.

    Args:
        grey: (H, W).
        name: of the picture.
        edges: see `power_spectrum`; the shares are of the variance only with "none".
    """
    grey = grey.detach().cpu()
    power = power_spectrum(grey, edges)
    shares = _octave_shares(power, grey.shape)
    figure, axes = new_figure(1, 3, height=2.9, width_ratios=(1, 1, 1.1))
    axes = axes[0]
    show_map(axes[0], grey)
    axes[0].set(title=name, xticks=[], yticks=[])
    figure.colorbar(_show_plane(axes[1], power, grey.shape), ax=axes[1], label="$\\log_{10}$ power", shrink=0.8)
    axes[1].set_title("power of each wave")
    sns.barplot(x=list(shares), y=[100 * s for s in shares.values()], ax=axes[2], color=PALETTE[0])
    axes[2].set(title="power in each octave", xlabel="up to f, cycles a pixel", ylabel="% of the variance")
    (low, first), *_, (high, last) = shares.items()
    caption = (
        f"The power of {name} sits in its long waves, at the centre of the plane: {100 * first:.0f} % of the variance "
        f"lies at f {low} cycles a pixel, {100 * last:.1f} % in the octave up to {high}."
    )
    return CaptionedFigure(figure, caption)


def from_picture_to_law(
    grey: Tensor, name: str, edges: str = "periodic", band: tuple[float, float] | None = None
) -> CaptionedFigure:
    """The whole path in one figure: a picture, the power of its waves, the ring average and the law fitted to it.

    Args:
        grey: (H, W).
        name: of the picture.
        edges: see `power_spectrum`.
        band: of the fit, `default_band` if None.
    """
    grey = grey.detach().cpu()
    spectrum = radial_spectrum(grey, edges)
    fit = fit_power_law(spectrum, band)
    # Axes at fixed places: working a layout out takes longer than the drawing, and would move it between states.
    figure = Figure(figsize=(WIDTH, 2.9))
    places = ((0.01, 0.25), (0.36, 0.23), (0.68, 0.31))  # left border and width of each
    left, middle, right = (figure.add_axes((x, 0.18, width, 0.68)) for x, width in places)
    show_map(left, grey)
    left.set(title=name, xticks=[], yticks=[])
    _show_plane(middle, power_spectrum(grey, edges), grey.shape)
    middle.set_title(f'power, edges="{edges}"')
    draw_law(right, spectrum, fit, 0, "fit")
    label_spectrum_axes(right, "")
    right.set(xlim=(2e-3, 0.6), ylim=decades_around(spectrum.power), xlabel="f, cycles a pixel", ylabel="")
    right.set_title(f"power P(f), α = {fit.alpha:.2f}")  # a letter, since formulas take a third of the drawing
    right.minorticks_off()
    low, high = fit.interval.tolist()
    caption = (
        f'{name} with edges="{edges}": alpha = {fit.alpha:.2f} [{low:.2f}, {high:.2f}], fitted to {fit.rings} rings '
        f"from {fit.band[0]:.3f} to {fit.band[1]:.2f} cycles a pixel, R2 = {fit.r_squared:.3f}."
    )
    return CaptionedFigure(figure, caption)


def edge_treatments(
    grey: Tensor, name: str, treatments: Sequence[str] = ("none", "hann", "periodic")
) -> CaptionedFigure:
    """The Fourier plane of one picture under several edge treatments, with how much the axes stand out.

    Args:
        grey: (H, W).
        name: of the picture.
        treatments: values of `edges`.
    """
    grey = grey.detach().cpu()
    figure, axes = new_figure(1, len(treatments), height=3.0)
    excess = {}
    for axis, edges in zip(axes[0], treatments, strict=True):
        power = power_spectrum(grey, edges)
        _show_plane(axis, power, grey.shape)
        excess[edges] = _axis_excess(power)
        axis.set_title(f'edges="{edges}"')
    words = ", ".join(f'{value:.1f} times with "{edges}"' for edges, value in excess.items())
    return CaptionedFigure(
        figure,
        f"The cross of {name} is its border. Beside their neighbours, high frequencies on the axes have power {words}.",
    )


def _show_plane(axis, power: Tensor, shape: tuple[int, int]):
    plane = _full_plane(power, shape[1]).clamp(min=1e-30).log10()
    top = float(plane.quantile(0.9999)) if plane.numel() < 10**7 else float(plane.max())
    image = axis.imshow(
        plane.numpy(),
        cmap="viridis",
        vmin=top - DECADES,
        vmax=top,
        extent=(-0.5, 0.5, 0.5, -0.5),
        origin="upper",
        aspect="equal",
    )
    # Rows count downward, in a picture and in its plane alike.
    axis.set(xlabel="fx, cycles a pixel", ylabel="fy (down)", xticks=[-0.5, 0, 0.5], yticks=[-0.5, 0, 0.5])
    return image


def _full_plane(power: Tensor, width: int) -> Tensor:
    """The plane (H, W) with the mean at its centre: the half that is stored, and its mirror image."""
    mirrored = power.flip(-2).roll(1, -2)[:, 1 : (width + 1) // 2].flip(-1)  # mode (-k, -l) for each (k, l)
    return torch.fft.fftshift(torch.cat([power, mirrored], -1))


def _octave_shares(power: Tensor, shape: tuple[int, int]) -> dict[str, float]:
    height, width = shape
    radius = torch.hypot(*mode_frequencies(height, width))
    weighted = power * mode_weights(width)
    shares = {}
    for low, high in pairwise((0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)):
        inside = (radius > low) & (radius <= high)
        shares[f"1/{round(1 / high)}" if low else f"<1/{round(1 / high)}"] = float(
            weighted[inside].sum() / weighted.sum()
        )
    return shares


def _axis_excess(power: Tensor) -> float:
    """Median power of the high modes on the two axes over that of their neighbours four lines away."""
    height, width = power.shape[0], power.shape[1]
    rows, columns = slice(height // 8, height // 2), slice(width // 4, width - 1)
    on = torch.cat([power[0, columns], power[rows, 0]]).median()
    off = torch.cat([power[4, columns], power[rows, 4]]).median()
    return float(on / off)


# --- spectra and laws ----------------------------------------------------------------------------


def spectra_and_laws(
    spectra: Mapping[str, RadialSpectrum], band: tuple[float, float] | None = None, title: str = ""
) -> CaptionedFigure:
    """Ring averages on log-log axes, each with the power law fitted to it and its alpha beside the line.

    Args:
        spectra: name to a spectrum with power (rings,).
        band: of the fits, cycles a pixel; `default_band` of each if None.
        title: of the figure.
    """
    figure, axes = new_figure(1, 1, height=4.0)
    axis, parts = axes[0, 0], []
    for i, (name, spectrum) in enumerate(spectra.items()):
        spectrum = on_cpu(spectrum)
        fit = fit_power_law(spectrum, band)
        draw_law(axis, spectrum, fit, i, name)
        of_frequency, of_power, factor = _ranges_and_miss(spectrum, fit)
        parts.append(
            f"{name} falls as f^-{fit.alpha:.2f} over {of_frequency:.1f} decades of frequency, {of_power:.1f} of "
            f"power, nine rings in ten within a factor of {factor:.1f}"
        )
    label_spectrum_axes(axis, title)
    axis.legend(loc="lower left")
    return CaptionedFigure(figure, f"Straight lines on log-log axes: {'; '.join(parts)}.")


def law_by_band(spectrum: RadialSpectrum, bands: Sequence[tuple[float, float]], name: str) -> CaptionedFigure:
    """One spectrum with the power laws that different bands give it.

    Args:
        spectrum: power (rings,).
        bands: (lowest, highest) of each fit, cycles a pixel.
        name: of the picture.
    """
    spectrum = on_cpu(spectrum)
    figure, axes = new_figure(1, 1, height=4.0)
    axis, parts = axes[0, 0], []
    axis.plot(spectrum.frequency.numpy(), spectrum.power.numpy(), "o", color="0.6", ms=3.5)
    for i, band in enumerate(bands):
        fit = fit_power_law(spectrum, band)
        _draw_line(axis, fit, i + 1, f"{band[0]:g} to {band[1]:g}")
        parts.append(f"{fit.alpha:.2f} from {band[0]:g} to {band[1]:g}")
    label_spectrum_axes(axis, name)
    axis.legend(loc="lower left", title="band, cycles a pixel")
    return CaptionedFigure(figure, f"The exponent of {name} depends on the band: {', '.join(parts)} cycles a pixel.")


def _ranges_and_miss(spectrum: RadialSpectrum, fit: PowerLawFit) -> tuple[float, float, float]:
    """Decades of frequency and of the law's power in the band, and the factor that nine in ten of its rings keep to."""
    inside = _inside(spectrum, fit.band)
    frequency, power = spectrum.frequency[inside], spectrum.power[inside].double()
    law = fit.predict(frequency)
    decades = (float((values.max() / values.min()).log10()) for values in (frequency, law))
    return *decades, float((power / law).log().abs().quantile(0.9).exp())


def draw_law(axis, spectrum: RadialSpectrum, fit: PowerLawFit, i: int, name: str) -> None:
    colour = PALETTE[i % len(PALETTE)]
    frequency, power = spectrum.frequency.numpy(), spectrum.power.numpy()
    inside = _inside(spectrum, fit.band).numpy()
    axis.plot(
        frequency[~inside], power[~inside], MARKERS[i % len(MARKERS)], color=colour, ms=3.5, mfc="none", alpha=0.6
    )
    axis.plot(frequency[inside], power[inside], MARKERS[i % len(MARKERS)], color=colour, ms=3.5)
    _draw_line(axis, fit, i, name)


def _draw_line(axis, fit: PowerLawFit, i: int, name: str) -> None:
    low, high = fit.interval.tolist()
    axis.plot(
        fit.band,
        fit.predict(torch.tensor(fit.band)).tolist(),
        linestyle=DASHES[i % len(DASHES)],
        color=PALETTE[i % len(PALETTE)],
        lw=1.5 + 0.7 * i,  # a later line may lie on an earlier one
        label=f"{name}: $\\alpha$ = {fit.alpha:.2f} [{low:.2f}, {high:.2f}]",
    )


def _inside(spectrum: RadialSpectrum, band: tuple[float, float]) -> Tensor:
    return (spectrum.frequency >= band[0]) & (spectrum.frequency <= band[1])


def on_cpu(spectrum: RadialSpectrum) -> RadialSpectrum:
    return replace(
        spectrum,
        frequency=spectrum.frequency.cpu(),
        power=spectrum.power.detach().cpu(),
        modes=spectrum.modes.cpu(),
    )


def label_spectrum_axes(axis, title: str) -> None:
    axis.set(xscale="log", yscale="log", xlabel="spatial frequency f, cycles a pixel", ylabel="power P(f)", title=title)
    axis.grid(True, which="major")


def rival_laws(spectrum: RadialSpectrum, laws: Sequence[LawFit], name: str) -> CaptionedFigure:
    """A spectrum with the laws that compete for it, and what is left of each ring when a law is divided out.

    Args:
        spectrum: power (rings,).
        laws: from `compare_laws`, best first, fitted in the default band.
        name: of what has the spectrum.
    """
    spectrum = on_cpu(spectrum)
    inside = _inside(spectrum, default_band(spectrum.shape))
    frequency, power = spectrum.frequency[inside].numpy(), spectrum.power[inside].numpy()
    figure, axes = new_figure(1, 2, height=3.6)
    left, right = axes[0]
    left.plot(frequency, power, "o", color="0.6", ms=3.5)
    right.axhline(1, color="0.6", lw=1)
    for i, law in enumerate(laws):
        style = {"color": PALETTE[i], "linestyle": DASHES[i], "label": f"{law.name} (+{law.bic - laws[0].bic:,.0f})"}
        model = law.log_model.exp().numpy()
        left.plot(frequency, model, **style)
        right.plot(frequency, power / model, **style)
    label_spectrum_axes(left, name)
    left.set_ylim(power.min() / 3, power.max() * 30)  # a law that leaves the picture has failed visibly enough
    right.set(
        xscale="log", yscale="log", xlabel="f, cycles a pixel", ylabel="power / law", title="what a law leaves over"
    )
    right.legend(title="law (BIC above the best)", fontsize=8, title_fontsize=8)
    worst = laws[-1]
    caption = (
        f"For {name} the best law by BIC is: {laws[0].name}; next comes {laws[1].name}, "
        f"{laws[1].bic - laws[0].bic:,.0f} worse, and last {worst.name}, {worst.bic - laws[0].bic:,.0f} worse."
    )
    return CaptionedFigure(figure, caption)


def exponent_spread(table: pandas.DataFrame, marked: Mapping[str, float], column: str = "alpha") -> CaptionedFigure:
    """A histogram of exponents beside the published means, with some pictures marked by name.

    Args:
        table: from `measured_photographs`.
        marked: name to alpha of single pictures.
        column: which exponent.
    """
    values = table[column]
    figure, axes = new_figure(1, 1, height=3.8)
    axis = axes[0, 0]
    sns.histplot(values, bins=24, ax=axis, color=PALETTE[5], edgecolor="white")
    top = axis.get_ylim()[1]
    axis.set_ylim(-0.37 * top, 1.12 * top)
    published = {"Field 1987": 2.0, "Tolhurst 1992": 2.4}
    for (text, alpha), dash, side in zip(published.items(), DASHES[1:3], ("right", "left"), strict=True):
        axis.plot([alpha, alpha], [0, 1.1 * top], color=PALETTE[1], linestyle=dash)
        gap = -0.02 if side == "right" else 0.02
        axis.text(alpha + gap, 1.03 * top, f"{text}: {alpha}", ha=side, fontsize=9, color=PALETTE[1])
    for i, (name, alpha) in enumerate(sorted(marked.items(), key=lambda item: item[1])):
        height = (-0.13, -0.23, -0.33)[i % 3] * top  # neighbours take turns, so that their names do not collide
        axis.plot(alpha, -0.03 * top, "^", color=PALETTE[6], ms=6)
        axis.text(alpha, height, name, ha="center", fontsize=9)
    axis.set_yticks([tick for tick in axis.get_yticks() if 0 <= tick <= top])
    axis.set(xlabel="exponent $\\alpha$ of power", ylabel="photographs")
    low, high = values.quantile(0.025), values.quantile(0.975)
    caption = (
        f"{len(values)} photographs have a mean alpha of {values.mean():.2f} with a standard deviation of "
        f"{values.std():.2f}; 95 % of them lie between {low:.2f} and {high:.2f}."
    )
    return CaptionedFigure(figure, caption)


def orientations(spectra: Mapping[str, RadialSpectrum]) -> CaptionedFigure:
    """Power by the direction of the wave, in all rings of the default band, relative to the picture's mean direction.

    Args:
        spectra: name to a spectrum with sectors, power (sectors, rings).
    """
    figure, axes = new_figure(1, 1, height=3.6)
    axis, parts = axes[0, 0], []
    for i, (name, spectrum) in enumerate(spectra.items()):
        relative = _power_by_direction(on_cpu(spectrum))
        # 0 and 180 degrees are the same wave; closing the curve shows it.
        angles = [*spectrum.orientation.tolist(), 180.0]
        values = [*relative.tolist(), float(relative[0])]
        axis.plot(angles, values, marker=MARKERS[i], linestyle=DASHES[i], color=PALETTE[i], label=name)
        strongest = int(relative.argmax())
        parts.append(f"{name} has {relative[strongest]:.1f} times its mean power at {angles[strongest]:.0f} degrees")
    axis.axhline(1, color="0.6", lw=1)
    axis.set(
        xlabel="direction of the wave, degrees clockwise (0: vertical edges, 90: horizontal edges)",
        ylabel="power / mean over directions",
        xticks=range(0, 181, 45),
        yscale="log",
    )
    axis.set_yticks([0.5, 1, 2, 4], labels=["0.5", "1", "2", "4"])
    axis.minorticks_off()
    axis.legend()
    return CaptionedFigure(figure, f"Power depends on direction: {'; '.join(parts)}.")


def _power_by_direction(spectrum: RadialSpectrum) -> Tensor:
    """Each sector's power over the mean of its ring, averaged over the rings of the default band by ln."""
    lowest, highest = default_band(spectrum.shape)
    inside = _inside(spectrum, (max(lowest, 0.03), highest)) & (spectrum.modes > 0)
    ring = (spectrum.power * spectrum.modes).sum(0) / spectrum.modes.sum(0)
    ratio = (spectrum.power.clamp(min=1e-30) / ring).log()
    mean = (ratio * inside * spectrum.modes).sum(1) / (inside * spectrum.modes).sum(1)
    return (mean - mean.mean()).exp()
