"""Every figure of the course, each with the sentence that reads it.

A function here takes what the package measured and returns a `CaptionedFigure`: a matplotlib figure and a caption
with the figure's numbers in words. As the last line of a cell it shows the picture and prints the caption under it, so
that a reader without the picture reads the same, and nbval compares the numbers.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from spectralkd_nb.distillation.records import losses_of
from spectralkd_nb.operations import Trial
from spectralkd_nb.spectra import (
    LawFit,
    PowerLawFit,
    RadialSpectrum,
    SpectralExponent,
    default_band,
    fit_power_law,
    mode_frequencies,
    mode_weights,
    power_spectrum,
    radial_spectrum,
)

if TYPE_CHECKING:
    import pandas

__all__ = [
    "PALETTE",
    "CaptionedFigure",
    "channel_exponents",
    "edge_treatments",
    "exponent_spread",
    "exponents_by_depth",
    "from_picture_to_law",
    "gallery",
    "law_by_band",
    "layer",
    "operation",
    "orientations",
    "picture_and_power",
    "rival_laws",
    "spectra_and_laws",
    "training_curves",
    "use_style",
]

# Okabe & Ito's colours, told apart by every kind of colour vision. Never colour alone: markers and dashes go along.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
DPI = 100
WIDTH = 8.0  # inches, of a figure that fills the page
DECADES = 8  # of power that a picture of the plane shows


@dataclass(frozen=True)
class CaptionedFigure:
    """A figure and the sentence that reads it, which is its alternative text too."""

    figure: Figure
    caption: str

    def png(self, colours: int | None = None) -> bytes:
        """The picture as the bytes of a PNG file.

        Args:
            colours: reduce the picture to this many colours, at most 256. It takes a second and makes the file a
                third as large, which is what a notebook under version control wants.
        """
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png", dpi=DPI)
        if colours is None:
            return drawn.getvalue()
        from PIL import Image

        packed = io.BytesIO()
        Image.open(drawn).convert("RGB").quantize(colours, kmeans=1).save(packed, format="png", optimize=True)
        return packed.getvalue()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        picture = {"image/png": base64.b64encode(self.png(colours=256)).decode(), "text/plain": "figure"}
        display(picture, raw=True, metadata={"image/png": {"alt": self.caption}})
        print(self.caption)


def use_style() -> None:
    """The course's figure style, for matplotlib and seaborn alike."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=PALETTE,
        rc={
            "figure.dpi": DPI,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.frameon": False,
            "font.size": 10,
            "lines.linewidth": 1.6,
            "grid.alpha": 0.4,
        },
    )


def _figure(rows: int = 1, columns: int = 1, height: float = 3.2, **options):
    """A figure that no global state knows of, so that nothing shows it twice and nothing has to close it."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


# --- pictures and planes -------------------------------------------------------------------------


def gallery(pictures: Mapping[str, Tensor], caption: str, columns: int = 4) -> CaptionedFigure:
    """Small multiples of pictures or maps.

    Args:
        pictures: title to (H, W), or (3, H, W) values in 0..1. Grey ones are stretched to their own 1st and 99th
            percentile. caption: what the pictures show, in a sentence.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    figure, axes = _figure(rows, columns, height=rows * WIDTH / columns * 0.95)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, picture) in zip(axes.flat, pictures.items(), strict=False):
        _show(axis, picture)
        axis.set_title(title)
    return CaptionedFigure(figure, caption)


def _show(axis, picture: Tensor) -> None:
    if picture.ndim == 3 and len(picture) == 3:
        axis.imshow(picture.detach().cpu().permute(1, 2, 0).clamp(0, 1).numpy())
        return
    grey = picture.reshape(picture.shape[-2:]).detach().cpu().float()
    low, high = torch.quantile(grey.flatten()[:: max(1, grey.numel() // 10**6)], torch.tensor([0.01, 0.99])).tolist()
    axis.imshow(grey.numpy(), cmap="gray", vmin=low, vmax=high)


def picture_and_power(grey: Tensor, name: str, edges: str = "none") -> CaptionedFigure:
    """A picture beside the power of its Fourier modes, and the share of power in each octave of frequency.

    Args:
        grey: (H, W). name: of the picture.
        edges: see `power_spectrum`; the shares are of the variance only with "none".
    """
    grey = grey.detach().cpu()
    power = power_spectrum(grey, edges)
    shares = _octave_shares(power, grey.shape)
    figure, axes = _figure(1, 3, height=2.9, width_ratios=(1, 1, 1.1))
    axes = axes[0]
    _show(axes[0], grey)
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
        grey: (H, W). name: of the picture. edges: see `power_spectrum`. band: of the fit, `default_band` if None.
    """
    grey = grey.detach().cpu()
    spectrum = radial_spectrum(grey, edges)
    fit = fit_power_law(spectrum, band)
    # Axes at fixed places: working a layout out takes longer than the drawing, and would move it between states.
    figure = Figure(figsize=(WIDTH, 2.9))
    places = ((0.01, 0.25), (0.36, 0.23), (0.68, 0.31))  # left border and width of each
    left, middle, right = (figure.add_axes((x, 0.18, width, 0.68)) for x, width in places)
    _show(left, grey)
    left.set(title=name, xticks=[], yticks=[])
    _show_plane(middle, power_spectrum(grey, edges), grey.shape)
    middle.set_title(f'power, edges="{edges}"')
    _draw_law(right, spectrum, fit, 0, "fit")
    _label_spectrum_axes(right, "")
    right.set(xlim=(2e-3, 0.6), ylim=_around(spectrum.power), xlabel="f, cycles a pixel", ylabel="")
    right.set_title(f"power P(f), α = {fit.alpha:.2f}")  # a letter, since formulas take a third of the drawing
    right.minorticks_off()
    low, high = fit.interval.tolist()
    caption = (
        f'{name} with edges="{edges}": alpha = {fit.alpha:.2f} [{low:.2f}, {high:.2f}], fitted to {fit.rings} rings '
        f"from {fit.band[0]:.3f} to {fit.band[1]:.2f} cycles a pixel, R2 = {fit.r_squared:.3f}."
    )
    return CaptionedFigure(figure, caption)


def _around(power: Tensor) -> tuple[float, float]:
    """Whole decades around the powers, so that the axis of a slider's figure moves in steps and not at every state."""
    low, high = power[power > 0].log10().aminmax()
    return 10.0 ** math.floor(low - 0.2), 10.0 ** math.ceil(high + 0.2)


def edge_treatments(
    grey: Tensor, name: str, treatments: Sequence[str] = ("none", "hann", "periodic")
) -> CaptionedFigure:
    """The Fourier plane of one picture under several edge treatments, with how much the axes stand out.

    Args:
        grey: (H, W). name: of the picture. treatments: values of `edges`.
    """
    grey = grey.detach().cpu()
    figure, axes = _figure(1, len(treatments), height=3.0)
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
        shares[f"1/{round(1 / high)}" if low else f"< 1/{round(1 / high)}"] = float(
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
        spectra: name to a spectrum with power (rings,). band: of the fits, `default_band` of each if None.
    """
    figure, axes = _figure(1, 1, height=4.0)
    axis, parts = axes[0, 0], []
    for i, (name, spectrum) in enumerate(spectra.items()):
        spectrum = _on_cpu(spectrum)
        fit = fit_power_law(spectrum, band)
        _draw_law(axis, spectrum, fit, i, name)
        decades, factor = _range_and_miss(spectrum, fit)
        parts.append(
            f"{name} falls as f^-{fit.alpha:.2f} over {decades:.1f} decades, nine rings in ten within a factor of "
            f"{factor:.1f}"
        )
    _label_spectrum_axes(axis, title)
    axis.legend(loc="lower left")
    return CaptionedFigure(figure, f"Straight lines on log-log axes: {'; '.join(parts)}.")


def law_by_band(spectrum: RadialSpectrum, bands: Sequence[tuple[float, float]], name: str) -> CaptionedFigure:
    """One spectrum with the power laws that different bands give it.

    Args:
        spectrum: power (rings,). bands: (lowest, highest) of each fit, cycles a pixel. name: of the picture.
    """
    spectrum = _on_cpu(spectrum)
    figure, axes = _figure(1, 1, height=4.0)
    axis, parts = axes[0, 0], []
    axis.plot(spectrum.frequency.numpy(), spectrum.power.numpy(), "o", color="0.6", ms=3.5)
    for i, band in enumerate(bands):
        fit = fit_power_law(spectrum, band)
        _draw_line(axis, fit, i + 1, f"{band[0]:g} to {band[1]:g}")
        parts.append(f"{fit.alpha:.2f} from {band[0]:g} to {band[1]:g}")
    _label_spectrum_axes(axis, name)
    axis.legend(loc="lower left", title="band, cycles a pixel")
    return CaptionedFigure(figure, f"The exponent of {name} depends on the band: {', '.join(parts)} cycles a pixel.")


def _range_and_miss(spectrum: RadialSpectrum, fit: PowerLawFit) -> tuple[float, float]:
    """Decades of power that the law spans over the band, and the factor that nine in ten rings of the band keep to."""
    inside = _inside(spectrum, fit.band)
    frequency, power = spectrum.frequency[inside], spectrum.power[inside].double()
    law = fit.predict(frequency)
    return float((law.max() / law.min()).log10()), float((power / law).log().abs().quantile(0.9).exp())


def _draw_law(axis, spectrum: RadialSpectrum, fit: PowerLawFit, i: int, name: str) -> None:
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
        label=f"{name}: $\\alpha$ = {fit.alpha:.2f} [{low:.2f}, {high:.2f}]",
    )


def _inside(spectrum: RadialSpectrum, band: tuple[float, float]) -> Tensor:
    return (spectrum.frequency >= band[0]) & (spectrum.frequency <= band[1])


def _on_cpu(spectrum: RadialSpectrum) -> RadialSpectrum:
    return replace(
        spectrum,
        frequency=spectrum.frequency.cpu(),
        power=spectrum.power.detach().cpu(),
        modes=spectrum.modes.cpu(),
    )


def _label_spectrum_axes(axis, title: str) -> None:
    axis.set(xscale="log", yscale="log", xlabel="spatial frequency f, cycles a pixel", ylabel="power P(f)", title=title)
    axis.grid(True, which="major")


def rival_laws(spectrum: RadialSpectrum, laws: Sequence[LawFit], name: str) -> CaptionedFigure:
    """A spectrum with the laws that compete for it, and what is left of each ring when a law is divided out.

    Args:
        spectrum: power (rings,). laws: from `compare_laws`, best first, fitted in the default band.
    """
    spectrum = _on_cpu(spectrum)
    inside = _inside(spectrum, default_band(spectrum.shape))
    frequency, power = spectrum.frequency[inside].numpy(), spectrum.power[inside].numpy()
    figure, axes = _figure(1, 2, height=3.6)
    left, right = axes[0]
    left.plot(frequency, power, "o", color="0.6", ms=3.5)
    right.axhline(1, color="0.6", lw=1)
    for i, law in enumerate(laws):
        style = {"color": PALETTE[i], "linestyle": DASHES[i], "label": f"{law.name} (+{law.bic - laws[0].bic:,.0f})"}
        model = law.log_model.exp().numpy()
        left.plot(frequency, model, **style)
        right.plot(frequency, power / model, **style)
    _label_spectrum_axes(left, name)
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
        table: from `measured_photographs`. marked: name to alpha of single pictures. column: which exponent.
    """
    values = table[column]
    figure, axes = _figure(1, 1, height=3.8)
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
    figure, axes = _figure(1, 1, height=3.6)
    axis, parts = axes[0, 0], []
    for i, (name, spectrum) in enumerate(spectra.items()):
        relative = _power_by_direction(_on_cpu(spectrum))
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


# --- layers --------------------------------------------------------------------------------------


def layer(maps: Tensor, found: SpectralExponent, title: str, shown: int = 8) -> CaptionedFigure:
    """What one layer makes of one picture, and the spectrum of that layer over all pictures with the law fitted to it.

    Args:
        maps: (C, H, W), of one picture; the loudest channels are shown. found: of the layer, over many pictures.
        title: of the layer. shown: how many channels.
    """
    figure = Figure(figsize=(WIDTH, 3.3))
    loudest = maps.detach().cpu().flatten(1).float().var(1).argsort(descending=True)[:shown].tolist()
    columns, side = 4, 0.115
    for place, channel in enumerate(loudest):
        row, column = divmod(place, columns)
        corner = (0.01 + column * (side + 0.008), 0.5 - row * 0.4)
        axis = figure.add_axes((*corner, side, 0.33))
        _show(axis, maps[channel])
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"channel {channel}", fontsize=8)
    figure.text(0.01, 0.93, title, fontsize=8.5)
    axis = figure.add_axes((0.6, 0.17, 0.385, 0.7))
    spectrum = _on_cpu(found.spectrum)
    if found.fit is not None:
        _draw_law(axis, spectrum, found.fit, 0, "fit")
        axis.set_ylim(_around(spectrum.power))
    axis.set(xscale="log", yscale="log", xlim=(5e-3, 0.6), xlabel="f, cycles a pixel of this layer", ylabel="")
    axis.minorticks_off()
    axis.grid(True, which="major")
    axis.set_title(f"power P(f), α = {found.alpha:.2f}")
    return CaptionedFigure(figure, f"{title}: {found}.")


def exponents_by_depth(tables: Mapping[str, pandas.DataFrame], title: str = "") -> CaptionedFigure:
    """alpha of each layer against its depth, with its interval; hollow where it is not to be trusted.

    Args:
        tables: name to a table of `ActivationSpectra`. Stages are marked off where all have the same depths.
        title: of the figure.
    """
    figure, axes = _figure(1, 1, height=3.8)
    axis, parts = axes[0, 0], []
    for i, (name, table) in enumerate(tables.items()):
        colour, known = PALETTE[i % len(PALETTE)], table[table.alpha.notna()]
        shift = 0.12 * (i - (len(tables) - 1) / 2)  # intervals of the same depth lie beside each other
        error = [known.alpha - known.lower.fillna(known.alpha), known.upper.fillna(known.alpha) - known.alpha]
        axis.errorbar(known.depth + shift, known.alpha, [e.clip(lower=0) for e in error], fmt="none", ecolor=colour)
        for trusted, fill in ((True, colour), (False, "white")):
            part = known[known.trusted == trusted]
            axis.plot(part.depth + shift, part.alpha, MARKERS[i], color=colour, mfc=fill, ms=5, linestyle="none")
        last = known.groupby("depth").alpha.last()
        axis.plot(last.index + shift, last, linestyle=DASHES[i % len(DASHES)], color=colour, lw=1, label=name)
        parts.append(f"{name} goes from {last.iloc[0]:.2f} to {last.iloc[-1]:.2f} at depth {last.index[-1]}")
    first, *others = tables.values()
    if all(other.depth.tolist() == first.depth.tolist() for other in others):
        _mark_stages(axis, first)
    axis.set(xlabel="depth, layers with weights before this output", ylabel="exponent α", title=title)
    axis.legend()
    return CaptionedFigure(figure, f"Exponents by depth: {'; '.join(parts)}.")


def _mark_stages(axis, table: pandas.DataFrame) -> None:
    starts = table.dropna(subset="stage").groupby("stage").depth.min()
    for number, (stage, depth) in enumerate(starts.items()):
        if number:
            axis.axvline(depth - 0.5, color="0.8", lw=1, zorder=0)
        axis.annotate(
            f"stage {stage}", (depth - 0.4, 1), (0, -10), ("data", "axes fraction"), "offset points", fontsize=8
        )


def channel_exponents(alphas: Mapping[str, Tensor]) -> CaptionedFigure:
    """How the exponents of a layer's channels are spread, one layer beside the other.

    Args:
        alphas: name of a layer to (channels,); NaN, of dead channels, is left out.
    """
    figure, axes = _figure(1, 1, height=3.2)
    axis, parts = axes[0, 0], []
    known = {name: alpha[~alpha.isnan()].double().cpu() for name, alpha in alphas.items()}
    sns.stripplot(
        {name: alpha.numpy() for name, alpha in known.items()}, ax=axis, orient="h", palette=list(PALETTE[: len(known)])
    )
    for name, alpha in known.items():
        parts.append(
            f"{name}: {len(alpha)} channels, median {alpha.median():.2f}, {alpha.min():.2f} to {alpha.max():.2f}"
        )
    axis.set(xlabel="exponent α of a channel, over all pictures")
    return CaptionedFigure(figure, f"Channels of one layer differ. {'; '.join(parts)}.")


def operation(trial: Trial, band: tuple[float, float] = (0.02, 0.35)) -> CaptionedFigure:
    """What one operation does to a spectrum: before, after, and theory's line through what came out.

    Args:
        trial: from `operations.try_operation`. band: of the exponents, cycles a pixel.
    """
    figure = Figure(figsize=(WIDTH, 3.4))
    axis = figure.add_axes((0.09, 0.16, 0.87, 0.74))
    exponents = trial.exponents(band)
    for i, (name, spectrum) in enumerate((("before", trial.before), ("after", trial.after))):
        style = {"marker": MARKERS[i], "ms": 4, "linestyle": "none", "color": PALETTE[i]}
        axis.plot(spectrum.frequency, spectrum.power, label=f"{name}: α = {exponents[name]:.2f}", **style)
    if trial.predicted is not None:
        label = f"theory: α = {exponents['predicted']:.2f}"
        axis.plot(trial.predicted.frequency, trial.predicted.power, color=PALETTE[6], label=label)
    axis.axvspan(*band, color="0.95", zorder=0)
    _label_spectrum_axes(axis, f"{trial.name}, fields of α = {trial.alpha:g}")
    axis.set(xlim=(5e-3, 0.6), ylim=_around(torch.cat([trial.before.power, trial.after.power])))
    axis.legend(loc="lower left")
    theory = "no closed form" if trial.predicted is None else f"theory {exponents['predicted']:.2f}"
    return CaptionedFigure(
        figure,
        f"{trial.name} takes alpha from {exponents['before']:.2f} to {exponents['after']:.2f} ({theory}), over "
        f"{band[0]:g} to {band[1]:g} cycles a pixel.",
    )


# --- training ------------------------------------------------------------------------------------


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
