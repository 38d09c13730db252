"""alpha of every layer of a network over the same pictures, with what other pictures would have given. ::

    profile = exponent_profile(network, network.info.normalise(photograph_crops(128)), groups=4)
    profile.table()

All layers see the same images, so their errors move together: an image that is steep is steep in every layer. A profile
therefore keeps whole profiles of resampled images, and not an error bar a layer, for whatever is fitted to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from spectralkd_nb.activations import IMAGE, ActivationSpectra, activation_spectra, block_paths
from spectralkd_nb.networks import Layer, list_layers
from spectralkd_nb.spectra import FEWEST_IMAGES, RadialSpectrum, bootstrap_counts, fit_power_law, reasons_to_distrust

if TYPE_CHECKING:
    import pandas

FOLDS = 5
FEWEST_GROUPS = 3  # of fewer, no resampling says anything
RESAMPLES = 1000
BLOCK = 250  # bootstrap draws at a time


@dataclass(frozen=True)
class ExponentProfile:
    """Exponents by depth; see `exponent_profile`.

    Attributes:
        name: of the network.
        paths, kinds: of the layers; the kind of the network's input is "image".
        depth: (layers,) float64, layers with weights on the way to this output.
        blocks: (layers,) float64, blocks; NaN where that is not known.
        stage: by layer, 1, 2, ... counts resolutions; None for the image.
        grid: (H, W) of its maps, pixels.
        bands: (lowest, highest) of each fit, cycles a pixel of that layer.
        alpha: (layers,) float64, NaN where a layer has none.
        reasons: by layer, why not to trust it; see `spectra.reasons_to_distrust`.
        draws: (resamples, layers), alpha of every layer over resampled images, the same ones for all layers; without
            rows where there are fewer than 3 groups of images. Of more than 2,048 images the first are drawn from.
        folds: (folds, 2, layers), alpha over the images outside each fifth of them, and over those inside.
        images, groups: how many.
    """

    name: str
    paths: tuple[str, ...]
    kinds: tuple[str, ...]
    depth: Tensor
    blocks: Tensor
    stage: tuple[int | None, ...]
    grid: tuple[tuple[int, int], ...]
    bands: tuple[tuple[float, float], ...]
    alpha: Tensor
    reasons: tuple[tuple[str, ...], ...]
    draws: Tensor
    folds: Tensor
    images: int
    groups: int

    @property
    def interval(self) -> Tensor:
        """(layers, 2), the 95 % interval of each layer, bootstrapped over images; NaN without draws."""
        if not len(self.draws):
            return torch.full((len(self.alpha), 2), math.nan, dtype=torch.float64)
        return torch.nanquantile(self.draws, torch.tensor([0.025, 0.975], dtype=torch.float64), 0).T

    def table(self) -> pandas.DataFrame:
        """One row a layer: where it is, alpha, lower, upper, low, high, trusted, reasons.

        depth counts layers with weights, block blocks; height and width in pixels; lower and upper are the 95 %
        interval; low and high the band, cycles a pixel.
        """
        import pandas as pd

        lower, upper = self.interval.T.tolist()
        table = pd.DataFrame(
            {
                "path": self.paths,
                "kind": self.kinds,
                "depth": self.depth.long().tolist(),
                "block": pd.array(self.blocks.numpy(), dtype="Float64").astype("Int64"),
                "stage": self.stage,
                "height": [height for height, _ in self.grid],
                "width": [width for _, width in self.grid],
                "alpha": self.alpha.tolist(),
                "lower": lower,
                "upper": upper,
                "low": [low for low, _ in self.bands],
                "high": [high for _, high in self.bands],
                "trusted": [not reasons for reasons in self.reasons],
                "reasons": ["; ".join(reasons) for reasons in self.reasons],
            }
        )
        return table.astype({"stage": "Int64"})

    def __str__(self) -> str:
        known = self.alpha[~self.alpha.isnan()]
        ends = f", alpha {known[0]:.2f} in the first and {known[-1]:.2f} in the last" if len(known) else ""
        of = "" if self.groups == self.images else f" in {self.groups} groups"
        few = f"; {FEWEST_IMAGES} groups would make the intervals wide enough" if self.groups < FEWEST_IMAGES else ""
        return f"{self.name}: {len(self.alpha)} layers, {self.images} images{of}{ends}{few}"


def exponent_profile(
    network: nn.Module,
    images: Tensor,
    layers: str | Sequence[str] | None = ("image", "blocks"),
    *,
    groups: int | Sequence[int] = 1,
    average: str = "pooled",
    edges: str = "periodic",
    band: tuple[float, float] | None = None,
    crop: int = 0,
    name: str | None = None,
    batch_size: int = 32,
    resamples: int = RESAMPLES,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> ExponentProfile:
    """alpha by layer, with whole profiles resampled over images. Our own construction.

    Pictures should have 128 pixels a side or more: after two strides 32 are left, which is 11 rings below 0.35 cycles
    a pixel, and of 32 pixels 8, which is 3.

    Args:
        network, images: (N, C, H, W), as in `activation_spectra`.
        layers: which, as there.
        groups: images that belong together, such as cut-outs of one photograph, are drawn together: how many there are
            in a row (4: the first four are one photograph), or each image's group by number.
        average, edges, crop: as in `activation_spectra`.
        band: of every fit, in cycles a pixel of each layer; `ActivationSpectra.band` if None.
        name: of the network, for figures; its own if None.
        resamples, seed: of the bootstrap and of the folds.
        device, batch_size, progress: as in `activation_spectra`.

    Raises:
        ValueError: as `activation_spectra`; groups that do not fit the number of images.
        TypeError: groups that are neither a number nor a sequence.
    """
    spectra = activation_spectra(network, images, layers, edges, batch_size, device, progress, crop=crop)
    blocks = _blocks_so_far(network, tuple(images.shape[1:]), spectra.layers)
    called = name or (network.info.name if hasattr(network, "info") else type(network).__name__)
    return profile_of(
        spectra, called, blocks, groups=groups, average=average, band=band, resamples=resamples, seed=seed
    )


def profile_of(
    spectra: ActivationSpectra,
    name: str,
    blocks: Sequence[int] | None = None,
    *,
    groups: int | Sequence[int] = 1,
    average: str = "pooled",
    band: tuple[float, float] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ExponentProfile:
    """The profile of spectra that are measured already, for instance in another band.

    Args:
        spectra: of a network's layers.
        name: of the network.
        blocks: up to each layer, if known.
        groups, average, band, resamples, seed: as in `exponent_profile`, whose errors these are.
    """
    chosen = spectra.layers
    paths = [layer.path for layer in chosen]
    depth = [layer.depth for layer in chosen]
    found = [spectra.fit(path, average, band) for path in paths]
    bands = [band or spectra.band(path) for path in paths]
    rows = [spectra.per_image(path, average) for path in paths]
    of_image = _groups(groups, spectra.images)
    count = int(of_image.max()) + 1
    draws, folds = _resampled(rows, bands, of_image[: len(rows[0].power)], resamples, seed)
    alpha = torch.tensor([math.nan if fit is None else float(fit.alpha) for fit, _ in found], dtype=torch.float64)
    known = ~alpha.isnan()
    return ExponentProfile(
        name=name,
        paths=tuple(paths),
        kinds=tuple(layer.kind for layer in chosen),
        depth=torch.tensor(depth, dtype=torch.float64),
        blocks=torch.full((len(paths),), math.nan).double() if blocks is None else torch.tensor(blocks).double(),
        stage=tuple(None if layer.kind == IMAGE else layer.stage for layer in chosen),
        grid=tuple(layer.grid for layer in chosen),
        bands=tuple(bands),
        alpha=alpha,
        # That images are few is a matter of the whole profile, which says so itself.
        reasons=tuple(
            (why,) if fit is None else reasons_to_distrust(FEWEST_IMAGES, spectra.spectrum(path, average), fit)
            for path, (fit, why) in zip(paths, found, strict=True)
        ),
        draws=torch.where(known, draws, math.nan),
        folds=torch.where(known, folds, math.nan),
        images=spectra.images,
        groups=count,
    )


def _blocks_so_far(network: nn.Module, shape: tuple[int, int, int], chosen: Sequence[Layer]) -> list[int]:
    """How many blocks have begun, up to each of the layers: the block that a layer lies in counts."""
    begun: dict[str, int] = {}
    so_far = {IMAGE: 0}
    blocks = block_paths(network)
    listed = list_layers(network, shape)
    for layer in listed:
        for block in blocks - begun.keys():
            if _inside(layer.path, block):
                begun[block] = len(begun) + 1
        so_far[layer.path] = len(begun)

    def of_node(node: Layer) -> int:
        own = (number for block, number in begun.items() if _inside(node.path, block))
        return next(own, max((so_far[layer.path] for layer in listed if layer.depth <= node.depth), default=0))

    return [so_far[layer.path] if layer.path in so_far else of_node(layer) for layer in chosen]


def _inside(path: str, block: str) -> bool:
    return f"{path}.".startswith(f"{block}.")


def _groups(groups: int | Sequence[int], images: int) -> Tensor:
    """The group of each image, 0, 1, ..."""
    if isinstance(groups, Integral) and not isinstance(groups, bool):
        if groups < 1 or images % groups:
            raise ValueError(f"{images} images cannot be parted into groups of {groups}")
        return torch.arange(images) // groups
    if not isinstance(groups, Sequence | Tensor) or isinstance(groups, str):
        raise TypeError(f"groups={groups!r} is neither a number of images in a row nor the group of each by number")
    if len(groups) != images:
        raise ValueError(f"groups names the group of {len(groups)} images, and there are {images}")
    return torch.unique(torch.as_tensor(groups), return_inverse=True)[1]


def _resampled(
    rows: Sequence[RadialSpectrum],
    bands: Sequence[tuple[float, float]],
    group: Tensor,
    resamples: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Whole profiles over drawn groups, (resamples, layers), and outside and inside of folds, (folds, 2, layers)."""
    group = torch.unique(group, return_inverse=True)[1]  # without gaps, also where not all images are kept
    count = int(group.max()) + 1
    if count < FEWEST_GROUPS:
        return torch.zeros(0, len(rows), dtype=torch.float64), torch.zeros(0, 2, len(rows), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    times = bootstrap_counts(count, resamples, generator)
    folds = min(FOLDS, count)
    inside = torch.randperm(count, generator=generator) % folds == torch.arange(folds)[:, None]
    parts = torch.stack([~inside, inside], 1).double().flatten(0, 1)

    def profiles(weights: Tensor) -> Tensor:
        fits = [_alphas(spectrum, weights[:, group], band) for spectrum, band in zip(rows, bands, strict=True)]
        return torch.stack(fits, -1)

    return torch.cat([profiles(block) for block in times.split(BLOCK)]), profiles(parts).unflatten(0, (folds, 2))


def _alphas(per_image: RadialSpectrum, weights: Tensor, band: tuple[float, float]) -> Tensor:
    """alpha of averages over images: (n,) for weights (n, images); NaN where no image with power takes part."""
    power = weights @ per_image.power.nan_to_num()  # a sum does: alpha does not depend on scale
    rings = (per_image.frequency >= band[0]) & (per_image.frequency <= band[1])
    if int(rings.sum()) < 2:
        return torch.full((len(weights),), math.nan, dtype=torch.float64)
    return fit_power_law(replace(per_image, power=power), band).alpha
