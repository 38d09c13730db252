"""Layers of a network, and what an operation does to a spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import seaborn as sns
import torch
from matplotlib.figure import Figure
from torch import Tensor

from spectralkd_nb.operations import Trial
from spectralkd_nb.plots.spectra import draw_law, label_spectrum_axes, on_cpu
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
from spectralkd_nb.spectra import SpectralExponent

if TYPE_CHECKING:
    import pandas


def layer(maps: Tensor, found: SpectralExponent, title: str, shown: int = 8) -> CaptionedFigure:
    """What one layer makes of one picture, and the spectrum of that layer over all pictures with the law fitted to it.

    Args:
        maps: (C, H, W), of one picture; the loudest channels are shown.
        found: of the layer, over many pictures.
        title: of the layer.
        shown: how many channels.
    """
    figure = Figure(figsize=(WIDTH, 3.3))
    loudest = maps.detach().cpu().flatten(1).float().var(1).argsort(descending=True)[:shown].tolist()
    columns, side = 4, 0.115
    for place, channel in enumerate(loudest):
        row, column = divmod(place, columns)
        corner = (0.01 + column * (side + 0.008), 0.5 - row * 0.4)
        axis = figure.add_axes((*corner, side, 0.33))
        show_map(axis, maps[channel])
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"channel {channel}", fontsize=8)
    figure.text(0.01, 0.93, title, fontsize=8.5)
    axis = figure.add_axes((0.6, 0.17, 0.385, 0.7))
    spectrum = on_cpu(found.spectrum)
    if found.fit is not None:
        draw_law(axis, spectrum, found.fit, 0, "fit")
        axis.set_ylim(decades_around(spectrum.power))
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
    figure, axes = new_figure(1, 1, height=3.8)
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
    figure, axes = new_figure(1, 1, height=3.2)
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
        trial: from `operations.try_operation`.
        band: of the exponents, cycles a pixel.
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
    label_spectrum_axes(axis, f"{trial.name}, fields of α = {trial.alpha:g}")
    axis.set(xlim=(5e-3, 0.6), ylim=decades_around(torch.cat([trial.before.power, trial.after.power])))
    axis.legend(loc="lower left")
    theory = "no closed form" if trial.predicted is None else f"theory {exponents['predicted']:.2f}"
    return CaptionedFigure(
        figure,
        f"{trial.name} takes alpha from {exponents['before']:.2f} to {exponents['after']:.2f} ({theory}), over "
        f"{band[0]:g} to {band[1]:g} cycles a pixel.",
    )
