"""Power spectra of what the layers of a network return, measured in one pass over any number of images. ::

    result = activation_spectra(network, data.normalise(data.test_images))
    result.exponent("layer2.0")
    result.table()

Each map (one channel of one image) becomes ring averages at once, inside the hook that sees it, and only sums over
images stay. A ReLU that later writes over the map cannot change what was seen, and memory does not grow with the
number of images.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from spectralkd_nb.names import nearest
from spectralkd_nb.networks import Layer, list_layers
from spectralkd_nb.networks.features import device_of
from spectralkd_nb.networks.layers import UNKNOWN, left_alone, tensors_in
from spectralkd_nb.spectra import (
    EDGES,
    SMALLEST_SIDE,
    PowerLawFit,
    RadialSpectrum,
    SpectralExponent,
    bootstrap_interval,
    default_band,
    fit_power_law,
    radial_spectrum,
    reasons_to_distrust,
)

__all__ = ["AVERAGES", "GROUPS", "IMAGE", "ActivationSpectra", "activation_maps", "activation_spectra"]

AVERAGES = ("pooled", "normalised")
GROUPS = ("blocks", "convolutions", "relus")
IMAGE = "image"  # the name under which the network's input is measured
KEPT = 2048  # images whose own ring powers are kept for the bootstrap
PART = 2**20  # numbers reduced at a time on a CPU, 4 MB
PROBE = "spectrum_of_node_"  # modules that are put into a traced network, one at each node


# --- what is kept of a layer ---------------------------------------------------------------------


@dataclass(frozen=True)
class LayerSums:
    """Sums over images of one layer; two of them add up.

    Attributes:
        total: (2, rings) float64, over images of each image's mean ring powers, in the order of `AVERAGES`.
        images: how many images stand behind each of the two; images without a single live map have no second one.
        dead: number of maps that are constant.
        variance: sum over images of the mean variance of an image's maps.
        pieces: (2, images, rings) each, the first 2,048 images' own ring powers; NaN where an image has no live map.
            Batch by batch: tensors that grow would leave holes in memory.
        channels: (channels, rings) float64, sum over images for each channel, or None.
    """

    total: Tensor
    images: tuple[int, int]
    dead: int
    variance: float
    pieces: tuple[Tensor, ...]
    channels: Tensor | None

    @property
    def rows(self) -> Tensor:
        """(2, up to 2,048, rings), the pieces in one."""
        return torch.cat(self.pieces, 1)

    def __add__(self, other: LayerSums) -> LayerSums:
        both = self.channels is not None and other.channels is not None
        return LayerSums(
            total=self.total + other.total,
            images=(self.images[0] + other.images[0], self.images[1] + other.images[1]),
            dead=self.dead + other.dead,
            variance=self.variance + other.variance,
            pieces=_first(KEPT, (*self.pieces, *other.pieces)),
            channels=self.channels + other.channels if both else None,
        )


def _first(count: int, pieces: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The first rows of all pieces together."""
    found = []
    for piece in pieces:
        if count == 0:
            break
        found.append(piece if piece.shape[1] <= count else piece[:, :count].clone())
        count -= found[-1].shape[1]
    return tuple(found)


@torch.no_grad()
def _sums(maps: Tensor, edges: str, per_channel: bool) -> LayerSums:
    """What is kept of a batch of maps (B, C, H, W)."""
    maps = maps if maps.dtype in (torch.float32, torch.float64) else maps.float()
    power = radial_spectrum(maps, edges).power
    variance, live = _variance(maps)
    # An image without a live map has 0 / 0, which is NaN, and is left out of the second average.
    relative = torch.where(live, 1 / variance, 0) / live.sum(1, keepdim=True)
    normalised = (power * relative[..., None]).sum(1)
    rows = torch.stack([power.mean(1), normalised]).cpu()
    return LayerSums(
        total=rows.double().nansum(1),
        images=(len(maps), int(live.any(1).sum())),
        dead=int((~live).sum()),
        variance=float(variance.mean(1).cpu().double().sum()),
        pieces=_first(KEPT, (rows,)),
        channels=power.sum(0).cpu().double() if per_channel else None,
    )


def _variance(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) variance of each map, and whether it is more than the rounding error of a constant."""
    flat = maps.flatten(2)
    mean = flat.mean(-1, keepdim=True)
    # A norm of differences is one quick pass; torch.var takes longer than the transform.
    variance = torch.linalg.vector_norm(flat - mean, dim=-1).square() / flat.shape[-1]
    numbers = torch.finfo(maps.dtype)
    rounding = (8 * numbers.eps * mean[..., 0]).square().clamp(min=numbers.tiny)
    return variance, variance > rounding


# --- the result ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationSpectra:
    """Spectra of the layers of a network over a set of images; see `activation_spectra`.

    Two averages, by name:

    - "pooled": the mean power of all maps, in units of maps squared. Loud channels weigh more.
    - "normalised": each map is divided by its own variance first, so that every channel weighs alike. Constant maps,
      such as those of dead ReLUs, have no variance: they are left out, and counted. The mean is taken within an image
      and then over the images that have a live map.

    Whatever takes a path raises ValueError where that layer was not measured; what takes an average, where it is
    neither of the two.

    Attributes:
        layers: what was measured, in the order of the network, or in which the layers were named.
        edges: the edge treatment, see `power_spectrum`.
        crops: pixels left out at each border, by path.
        images: number of images.
        sums: by path, what `merge` adds up.
    """

    layers: tuple[Layer, ...]
    edges: str
    crops: dict[str, int]
    images: int
    sums: dict[str, LayerSums] = field(repr=False)

    def layer(self, path: str) -> Layer:
        """What is known of a layer. Raises ValueError, with the nearest names, where it was not measured."""
        found = {layer.path: layer for layer in self.layers}
        if path not in found:
            raise ValueError(f"{path!r} was not measured; {_nearest(path, found)}")
        return found[path]

    def spectrum(self, path: str, average: str = "pooled") -> RadialSpectrum:
        """The spectrum of all images together, power (rings,) float64; `maps` counts the maps behind it."""
        which, sums = self._sums(path, average)
        maps = self.images * _channels(self.layer(path)) - (sums.dead if which else 0)
        return self._with(path, sums.total[which] / sums.images[which], maps)

    def per_image(self, path: str, average: str = "pooled") -> RadialSpectrum:
        """Spectra of the first 2,048 images, power (images, rings) float64, each the mean over the image's maps.

        Row i is image i in every layer. NaN where all maps of an image are constant and the average is "normalised".
        """
        which, sums = self._sums(path, average)
        return self._with(path, sums.rows[which].double(), _channels(self.layer(path)))

    def band(self, path: str) -> tuple[float, float]:
        """`default_band` of a layer: it ends lower from the second stage on, behind a stride. Cycles a pixel."""
        layer = self.layer(path)
        return default_band(self._shape(layer), strided=(layer.stage or 1) > 1)

    def dead_share(self, path: str) -> float:
        """The share of maps that are constant, 0..1."""
        return self.sums[self.layer(path).path].dead / (self.images * _channels(self.layer(path)))

    def variance(self, path: str) -> float:
        """Mean variance of the maps, over all images and channels, in units of maps squared."""
        return self.sums[self.layer(path).path].variance / self.images

    def fit(
        self, path: str, average: str = "pooled", band: tuple[float, float] | None = None, method: str = "whittle"
    ) -> tuple[PowerLawFit | None, str]:
        """The power law of a layer over all images; or None, and in words why it has none.

        Args:
            path, average, band, method: as in `exponent`, which adds an interval and the reasons to distrust it, and
                whose errors these are.
        """
        spectrum = self.spectrum(path, average)
        low, high = band = self.band(path) if band is None else band
        if self.dead_share(path) == 1:
            return None, "all maps are constant, and a constant has no exponent"
        rings = int(((spectrum.frequency >= low) & (spectrum.frequency <= high)).sum())
        if rings < 2:
            found = "no ring lies" if rings == 0 else "a single ring lies"
            return None, f"{found} between {low:.3f} and {high:.3f} cycles a pixel, and a line needs 2"
        fit = fit_power_law(spectrum, band, method)
        if math.isnan(fit.alpha):
            return None, "a ring of the band has no power, or nearly all of it, so no law fits"
        return fit, ""

    def exponent(
        self,
        path: str,
        average: str = "pooled",
        band: tuple[float, float] | None = None,
        method: str = "whittle",
        resamples: int = 1000,
        seed: int = 0,
    ) -> SpectralExponent:
        """alpha of a layer, its 95 % interval, and the reasons to distrust it.

        alpha is fitted to all images. The interval is bootstrapped over those whose own spectra are kept, the first
        2,048: of more images it is wider than it need be. Reasons are those of `spectral_exponent`, but for another
        edge treatment, which takes another pass.

        Args:
            average: "pooled" or "normalised".
            band: (lowest, highest) in cycles a pixel; `self.band(path)` if None.
            method: see `fit_power_law`.
            resamples, seed: see `spectral_exponent`.

        Raises:
            ValueError: a layer that was not measured, an unknown average or method, resamples below 1. A layer that has
                no exponent (its maps are constant, or fewer than two rings lie in the band) is no error: alpha is NaN,
                and a reason says why.
        """
        if resamples < 1:
            raise ValueError(f"resamples={resamples} draws nothing; give 1 or more")
        spectrum = self.spectrum(path, average)
        band = self.band(path) if band is None else band
        kept = self.per_image(path, average)
        rows = kept.power[~kept.power.isnan().any(-1)]
        images = self.sums[path].images[AVERAGES.index(average)]
        fit, why_not = self.fit(path, average, band, method)
        if fit is None:
            return SpectralExponent(math.nan, (math.nan, math.nan), images, (why_not,), None, spectrum)
        if len(rows) > 1:
            interval = bootstrap_interval(replace(spectrum, power=rows), band, method, resamples, seed)
        else:
            interval = tuple(fit.interval.tolist())
        reasons = reasons_to_distrust(images, spectrum, fit)
        if images > len(rows) and not interval[0] <= fit.alpha <= interval[1]:
            reasons += (f"the first {len(rows)} images, which give the interval, are unlike the rest; shuffle them",)
        return SpectralExponent(float(fit.alpha), interval, images, reasons, fit, spectrum)

    def channel_exponents(
        self, path: str, band: tuple[float, float] | None = None, method: str = "whittle"
    ) -> PowerLawFit:
        """One fit for each channel, over all images; `alpha` (channels,) is NaN for channels that are dead throughout.

        The standard errors take maps for independent Gaussian fields, which those of a network are not.

        Args:
            band: (lowest, highest) in cycles a pixel; `self.band(path)` if None.
            method: see `fit_power_law`.

        Raises:
            ValueError: spectra of channels were not asked for; as `fit_power_law`.
        """
        sums = self.sums[self.layer(path).path]
        if sums.channels is None:
            raise ValueError("the channels' own spectra were not kept; measure with per_channel=True")
        spectrum = self._with(path, sums.channels / self.images, self.images)
        return fit_power_law(spectrum, self.band(path) if band is None else band, method)

    def table(
        self,
        average: str = "pooled",
        band: tuple[float, float] | None = None,
        method: str = "whittle",
        resamples: int = 1000,
        seed: int = 0,
    ) -> Any:
        """A pandas.DataFrame with one row a layer.

        Columns: order, path, kind, stage, depth, channels, height, width (pixels of the map, before cropping), average,
        alpha, lower, upper (the 95 % interval), rings, r_squared, images, dead (share of constant maps, 0..1), variance
        (mean over maps), trusted, reasons.

        Args:
            average, band, method, resamples, seed: as in `exponent`.
        """
        import pandas as pd

        rows = []
        for order, layer in enumerate(self.layers):
            found = self.exponent(layer.path, average, band, method, resamples, seed)
            rows.append(
                {
                    "order": order,
                    "path": layer.path,
                    "kind": layer.kind,
                    "stage": layer.stage,
                    "depth": layer.depth,
                    "channels": _channels(layer),
                    "height": layer.grid[0],
                    "width": layer.grid[1],
                    "average": average,
                    "alpha": found.alpha,
                    "lower": found.interval[0],
                    "upper": found.interval[1],
                    "rings": found.fit.rings if found.fit else 0,
                    "r_squared": float(found.fit.r_squared) if found.fit else math.nan,
                    "images": found.images,
                    "dead": self.dead_share(layer.path),
                    "variance": self.variance(layer.path),
                    "trusted": found.trusted,
                    "reasons": "; ".join(found.reasons),
                }
            )
        return pd.DataFrame(rows).astype({"stage": "Int64"})  # the image, and layers before any weights, have none

    def to_csv(self, path: str | Path, **options: Any) -> None:
        """Write the table of both averages, one below the other.

        Args:
            path: of the file.
            options: of `exponent`, but for the average.

        Raises:
            OSError: the file cannot be written.
        """
        import pandas as pd

        pd.concat([self.table(average, **options) for average in AVERAGES]).to_csv(path, index=False)

    def merge(self, other: ActivationSpectra) -> ActivationSpectra:
        """The spectra of these images and of the other's together, for instance of another process.

        Raises:
            ValueError: other layers, edges or crops.
        """
        for name in ("layers", "edges", "crops"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"the two results differ in their {name} and cannot be merged; measure both alike")
        sums = {path: self.sums[path] + other.sums[path] for path in self.sums}
        return replace(self, images=self.images + other.images, sums=sums)

    def __str__(self) -> str:
        return f"spectra of {len(self.layers)} layers over {self.images} images, edges {self.edges!r}"

    def _sums(self, path: str, average: str) -> tuple[int, LayerSums]:
        if average not in AVERAGES:
            raise ValueError(f"average={average!r} is not known; choose one of {', '.join(map(repr, AVERAGES))}")
        return AVERAGES.index(average), self.sums[self.layer(path).path]

    def _shape(self, layer: Layer) -> tuple[int, int]:
        height, width = layer.grid
        crop = self.crops[layer.path]
        return height - 2 * crop, width - 2 * crop

    def _with(self, path: str, power: Tensor, maps: int) -> RadialSpectrum:
        like = radial_spectrum(torch.zeros(self._shape(self.layer(path)), device="cpu"), self.edges)
        return replace(like, power=power, maps=maps)


def _channels(layer: Layer) -> int:
    return layer.shape[0] if layer.layout == "BCHW" else layer.shape[-1]


# --- the pass ------------------------------------------------------------------------------------


def activation_spectra(
    network: nn.Module,
    images: Tensor | Iterable,
    layers: str | Sequence[str] | None = None,
    edges: str = "periodic",
    batch_size: int = 128,
    device: torch.device | str | None = None,
    progress: bool = True,
    *,
    crop: int | Mapping[str, int] = 0,
    per_channel: bool = False,
    merge: bool = True,
) -> ActivationSpectra:
    """Power spectra of the layers of a network, in one pass over the images and in constant memory.

    The network runs in evaluation mode and without gradients. Modes, buffers (the statistics of batch norm), gradients,
    device, torch's random state and hooks are afterwards as they were, whatever happens.

    What the dimensions of an output mean is what `list_layers` says: channels-last maps are turned, tokens are put back
    on their grid without class token, and of a tuple the first floating tensor counts. A module that is called several
    times in one pass is measured at its last call, which is also what its stage and depth describe.

    Args:
        network: any network that takes images.
        images: (N, C, H, W) as the network takes them, so normalised; or any iterable of batches, each a tensor
            (B, C, H, W) or a tuple that begins with one, as a DataLoader gives them. All of one size. It is gone
            through once. Shuffled, if there are more than 2,048: see `ActivationSpectra.exponent`.
        layers: which.

            - None: the image itself (under the name "image") and every layer that has maps of at least 4 pixels a side.
            - Paths of modules, e.g. ["image", "layer1.0", "layer3"].
            - Groups, alone or among the paths. "convolutions" (Conv2d, ConvTranspose2d). "relus". "blocks": modules
              with children, not Sequential themselves, that lie directly in a Sequential, such as residual blocks; the
              outermost ones; if there are none, the network's own children with children. Of a group only the layers
              with maps of at least 4 pixels a side are taken.
            - What is no module, such as residual additions and functional ReLUs: the names of torchvision's
              `get_graph_node_names`, e.g. "layer1.0.add", where torch.fx can trace the network. They take a second
              forward pass, of the traced network.
        edges: see `power_spectrum`.
        batch_size: of a tensor of images; an iterable's batches are taken as they come.
        device: where the network is to run, and is moved back from; None for where it is. Batches are brought there,
            in the precision of the network's weights.
        progress: show a bar.
        crop: pixels left out at each border of every map, for instance those that zero padding has touched; or by path.
        per_channel: keep the spectrum of each channel too, see `ActivationSpectra.channel_exponents`.
        merge: where torch.distributed runs, every process gets the result over the images of all of them. Each is to
            be given images of its own, for instance `images[rank::processes]`; one may be given none.

    Raises:
        ValueError: no such layer, and the sentence names the nearest; a layer that has no known layout or no grid of at
            least 4 pixels; NaN or infinite values in a layer; no images, or images of several sizes; unknown edges, a
            negative crop, a batch size below 1.
        TypeError: images that are not floating.
    """
    if edges not in EDGES:
        raise ValueError(f"edges={edges!r} is not known; choose one of {', '.join(map(repr, EDGES))}")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} is no size; give 1 or more")
    from tqdm.auto import tqdm

    bar = {"desc": "Spectra of activations", "unit": "batch", "leave": False, "disable": not progress}
    with (
        _on_device(network, device) as place,
        tqdm(_batches(images, batch_size), total=_count(images, batch_size), **bar) as batches,
    ):
        result = _measured(network, batches, layers, edges, place, crop, per_channel)
    results = _from_all_processes(result) if merge else [result]
    found = [result for result in results if result is not None]
    if not found:
        raise ValueError("there are no images; pass at least one")
    first, *others = found
    for other in others:
        first = first.merge(other)
    return first


def activation_maps(network: nn.Module, images: Tensor, path: str) -> Tensor:
    """The maps of one layer, whatever its layout, for a few images; to look at, since they are all kept.

    Args:
        network: as in `activation_spectra`.
        images: (B, C, H, W), normalised.
        path: of a module, "image", or the name of a node of the traced network.

    Returns:
        (B, C, H, W) of the layer, a copy on the network's device. Errors as `activation_spectra`.
    """
    images = _as_images(images)
    plan = _planned(network, tuple(images.shape[1:]), [path], 0)
    seen: list[Tensor] = []
    with _on_device(network, None) as device:
        plan.run(images.to(device) if device else images, lambda _, maps: seen.append(maps.detach().clone()))
    return seen[0]


def _measured(
    network: nn.Module,
    batches: Iterable[Tensor],
    layers: str | Sequence[str] | None,
    edges: str,
    device: torch.device | None,
    crop: int | Mapping[str, int],
    per_channel: bool,
) -> ActivationSpectra | None:
    """The result of this process; None without images."""
    plan: _Plan | None = None
    sums: dict[str, LayerSums] = {}
    count = 0

    def take(layer: Layer, maps: Tensor) -> None:
        border = plan.crops[layer.path]
        height, width = maps.shape[-2:]
        maps = maps[..., border : height - border, border : width - border]
        for part in _parts(maps):
            try:
                new = _sums(part, edges, per_channel)
            except ValueError as error:
                raise ValueError(f"{layer.label}: {error}") from error
            sums[layer.path] = sums[layer.path] + new if layer.path in sums else new

    for batch in batches:
        # Only now is it known of what size the images are.
        plan = plan or _planned(network, tuple(batch.shape[1:]), layers, crop)
        plan.run(batch.to(device) if device else batch, take)
        count += len(batch)
    if plan is None:
        return None
    in_order = {layer.path: sums[layer.path] for layer in plan.layers}
    return ActivationSpectra(plan.layers, edges, plan.crops, count, in_order)


def _parts(maps: Tensor) -> tuple[Tensor, ...]:
    """A batch in parts that fit a CPU's cache; an accelerator is best fed with everything at once."""
    return maps.split(max(1, PART // maps[0].numel())) if maps.device.type == "cpu" else (maps,)


@contextmanager
def _on_device(network: nn.Module, device: torch.device | str | None) -> Iterator[torch.device | None]:
    """Where the network is, or is moved to for a while; None if it has no tensors and nothing was asked."""
    homes = list(dict.fromkeys(tensor.device for tensor in (*network.parameters(), *network.buffers())))
    if device is None or not homes:
        yield homes[0] if homes else device and torch.device(device)
        return
    if len(homes) > 1:
        raise ValueError(f"the network lies on {len(homes)} devices; leave device out, and it stays there")
    try:
        network.to(device)
        yield torch.device(device)
    finally:
        network.to(homes[0])


def _batches(images: Tensor | Iterable, size: int) -> Iterator[Tensor]:
    """Batches of images alone, checked, from a tensor or any iterable."""
    shape = None
    for batch in images.split(size) if isinstance(images, Tensor) else images:
        batch = _as_images(batch[0] if isinstance(batch, tuple | list) and len(batch) else batch)
        shape = shape or batch.shape[1:]
        if batch.shape[1:] != shape:
            sizes = [" x ".join(map(str, size)) for size in (batch.shape[1:], shape)]
            raise ValueError(f"images of {sizes[0]} cannot join those of {sizes[1]}; bring all to one size first")
        if len(batch):
            yield batch


def _count(images: Tensor | Iterable, size: int) -> int | None:
    """Number of batches, as far as it is known."""
    if isinstance(images, Tensor):
        return math.ceil(len(images) / size)
    return len(images) if hasattr(images, "__len__") else None


def _as_images(images: Any) -> Tensor:
    if not isinstance(images, Tensor):
        raise TypeError(f"a batch is {type(images).__name__}; give tensors (B, C, H, W), or tuples that begin with one")
    if images.ndim != 4:
        raise ValueError(f"a batch has shape {tuple(images.shape)}, and (B, C, H, W) is wanted")
    if not images.is_floating_point():
        raise TypeError(f"images are {images.dtype}; normalise them first, as the network was trained")
    return images


def _from_all_processes(own: ActivationSpectra | None) -> list[ActivationSpectra | None]:
    """What each process has measured, in the order of their ranks."""
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    everyone: list[ActivationSpectra | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, own)
    return everyone


# --- forward passes ------------------------------------------------------------------------------

Take = Callable[[Layer, Tensor], None]


@dataclass(frozen=True)
class _Plan:
    """What is to be measured and how: the layers, their crops, and the networks to run with the modules to watch."""

    layers: tuple[Layer, ...]
    crops: dict[str, int]
    runs: tuple[tuple[nn.Module, dict[str, Layer]], ...]
    image: Layer | None

    def run(self, batch: Tensor, take: Take) -> None:
        """Measure one batch, on the device of the network."""
        if self.image:
            take(self.image, batch)
        for network, watched in self.runs:
            _forward(network, batch, watched, take)


def _forward(network: nn.Module, batch: Tensor, watched: Mapping[str, Layer], take: Take) -> None:
    """One forward pass in which the modules at some paths are watched, and reduced at once."""
    calls: Counter[str] = Counter()

    def hook(path: str, layer: Layer, output: Any) -> None:
        calls[path] += 1
        if calls[path] == layer.calls:
            take(layer, _as_maps(output, layer, len(batch)))

    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), batch.dtype)
    with ExitStack() as stack:
        stack.enter_context(left_alone(network, batch.device))
        stack.enter_context(_unfused())
        for path, layer in watched.items():
            module = network.get_submodule(path)
            handle = module.register_forward_hook(lambda _, __, output, p=path, known=layer: hook(p, known, output))
            stack.callback(handle.remove)
        network(batch.to(dtype))
    for path, layer in watched.items():
        if calls[path] != layer.calls:
            raise ValueError(
                f"{layer.path} was called {calls[path]} times for one batch and {layer.calls} times for another; leave "
                "it out, or make the network do the same for every image"
            )


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention by its modules: torch's fused way calls none of them, and no hook would see anything."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _as_maps(output: Any, layer: Layer, images: int) -> Tensor:
    """(B, C, H, W) of a module's output, by the layout that is known of it."""
    tensor = next((tensor for tensor in tensors_in(output) if tensor.is_floating_point()), None)
    shape = None if tensor is None else tuple(tensor.shape)
    if shape != (images, *layer.shape):
        raise ValueError(
            f"{layer.path} returned {shape or 'no tensor'} for {images} images where {(images, *layer.shape)} was "
            "expected; leave it out, for its layout is not known"
        )
    if layer.layout == "BLC":
        tensor = tensor[:, layer.prefix : layer.prefix + math.prod(layer.grid)].unflatten(1, layer.grid)
    return tensor if layer.layout == "BCHW" else tensor.permute(0, 3, 1, 2)


# --- which layers --------------------------------------------------------------------------------


def _planned(
    network: nn.Module, shape: tuple[int, int, int], wanted: str | Sequence[str] | None, crop: int | Mapping[str, int]
) -> _Plan:
    listed = {layer.path: layer for layer in list_layers(network, shape)}
    # A module of that name takes it.
    image = None if IMAGE in listed else Layer(IMAGE, IMAGE, shape, "BCHW", shape[1:], 0, None, 0, 1)
    known = {IMAGE: image, **listed} if image else listed
    crops = _crops(crop)
    names = _names(network, known, wanted, crops)
    strange = [name for name in names if name not in known]
    traced, nodes = _observed(network, shape, strange, known) if strange else (None, {})
    chosen = {name: known.get(name) or nodes[name] for name in names}
    for path in crop if isinstance(crop, Mapping) else ():
        if path not in chosen:
            raise ValueError(f"crop names {path!r}, which is not measured; {_nearest(path, chosen)}")
    for layer in chosen.values():
        if reason := _refusal(layer, crops(layer.path)):
            raise ValueError(f"{layer.label} cannot be measured: {reason}")
    watched = {name: layer for name, layer in chosen.items() if name in listed}
    # The probes lie in the order of the nodes.
    probes = {f"{PROBE}{place}": nodes[name] for place, name in enumerate(strange)}
    runs = [(module, found) for module, found in ((network, watched), (traced, probes)) if found]
    return _Plan(
        layers=tuple(chosen.values()),
        crops={name: crops(name) for name in chosen},
        runs=tuple(runs),
        image=chosen.get(IMAGE) if image else None,
    )


def _crops(crop: int | Mapping[str, int]) -> Callable[[str], int]:
    """Of a path, how many pixels to leave out at each border."""
    for border in crop.values() if isinstance(crop, Mapping) else (crop,):
        if not isinstance(border, int) or border < 0:
            raise ValueError(f"crop={border!r} is no number of pixels; give 0 or more")
    return (lambda path: crop.get(path, 0)) if isinstance(crop, Mapping) else (lambda path: crop)


def _names(
    network: nn.Module, known: Mapping[str, Layer], wanted: str | Sequence[str] | None, crops: Callable[[str], int]
) -> list[str]:
    """The names that are meant, groups resolved, each once."""
    measurable = [path for path, layer in known.items() if not _refusal(layer, crops(path))]
    if wanted is None:
        found = measurable
        if found == [IMAGE] and len(known) > 1:
            warnings.warn(
                f"this network has no layer with maps of {SMALLEST_SIDE} pixels a side; only the image is measured",
                stacklevel=2,
            )
    else:
        found = []
        for name in [wanted] if isinstance(wanted, str) else wanted:
            if name not in GROUPS or name in known:
                found.append(name)
                continue
            members = _GROUP_RULES[name](network)
            group = [path for path in measurable if path in members]
            if not group:
                raise ValueError(f"the network has no {name} with maps of {SMALLEST_SIDE} pixels; name its layers")
            found += group
    if not found:
        raise ValueError("there is no layer to measure; name some, or pass larger images")
    return list(dict.fromkeys(found))


def _refusal(layer: Layer, crop: int) -> str | None:
    """Why a layer has no spectrum, in half a sentence."""
    if layer.layout == UNKNOWN:
        return "what its dimensions mean is not known; take the module around it, or one before it"
    if layer.grid is None:
        return "its output does not lie on a grid of pixels; take an earlier layer"
    if min(layer.grid) < SMALLEST_SIDE:
        return f"at least {SMALLEST_SIDE} pixels a side are needed; take an earlier layer, or larger images"
    if min(layer.grid) - 2 * crop < SMALLEST_SIDE:
        return f"crop={crop} leaves less than {SMALLEST_SIDE} pixels a side; crop less"
    return None


def block_paths(network: nn.Module) -> set[str]:
    """The paths of the group "blocks", see `activation_spectra`."""
    modules = dict(network.named_modules())
    with_children = [
        path
        for path, module in modules.items()
        if path and not isinstance(module, nn.Sequential) and any(True for _ in module.children())
    ]
    found: list[str] = []
    for path in with_children:  # parents come before what is in them
        inside = any(path.startswith(f"{block}.") for block in found)
        if not inside and isinstance(modules[path.rpartition(".")[0]], nn.Sequential):
            found.append(path)
    return set(found) or {path for path, module in network.named_children() if any(True for _ in module.children())}


def _of_class(*classes: type) -> Callable[[nn.Module], set[str]]:
    return lambda network: {path for path, module in network.named_modules() if isinstance(module, classes)}


_GROUP_RULES: dict[str, Callable[[nn.Module], set[str]]] = {
    "blocks": block_paths,
    "convolutions": _of_class(nn.Conv2d, nn.ConvTranspose2d),
    "relus": _of_class(nn.ReLU, nn.ReLU6),
}


def _nearest(name: str, names: Iterable[str]) -> str:
    near = nearest(name, names)
    return f"did you mean {', '.join(near)}?" if near else "list_layers(network, shape) shows the names"


# --- what is no module ---------------------------------------------------------------------------


def _observed(
    network: nn.Module, shape: tuple[int, int, int], names: Sequence[str], known: Mapping[str, Layer]
) -> tuple[fx.GraphModule, dict[str, Layer]]:
    """The network as a graph with an identity behind each node that is named, and the nodes as layers.

    An identity of its own, because what the graph returns at its end may have been written over by then.
    """
    idle = [name for name in names if name in dict(network.named_modules())]
    if idle:
        raise ValueError(f"the network does not call {idle[0]!r} for such images, or it returns no floating tensor")
    try:
        with left_alone(network, device_of(network)):
            traced, nodes = _traced(network)
    except Exception as error:  # torch.fx and a network's own code each have theirs
        raise ValueError(
            f"there is no layer {names[0]!r}, and torch.fx cannot trace this network to look for other names; "
            f"{_nearest(names[0], [*known, *GROUPS])}"
        ) from error
    for place, name in enumerate(names):
        if name not in nodes:
            raise ValueError(f"there is no layer {name!r}; {_nearest(name, [*known, *nodes, *GROUPS])}")
        traced.add_submodule(f"{PROBE}{place}", nn.Identity())
        with traced.graph.inserting_after(nodes[name]):
            traced.graph.call_module(f"{PROBE}{place}", (nodes[name],))
    kinds = {name: _kind(traced, nodes[name]) for name in names}
    traced.recompile()
    listed = {layer.path: layer for layer in list_layers(traced, shape)}
    stages = {layer.grid: layer.stage for layer in known.values() if layer.stage}
    layers = {}
    for place, name in enumerate(names):
        layer = listed.get(f"{PROBE}{place}")
        if layer is None:
            raise ValueError(f"{name} is no floating tensor; name another node")
        layers[name] = replace(
            layer, path=name, kind=kinds[name], stage=stages.get(layer.grid) if layer.stage else None
        )
    return traced, layers


def _traced(network: nn.Module) -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    """The network as a graph, and its nodes by the names that torchvision gives them.

    torchvision's own create_feature_extractor drops what its outputs do not need, and functions that work in place are
    among that; so it is only its tracer that is used, as torchvision sets it up.
    """
    from torchvision import ops
    from torchvision.models.feature_extraction import NodePathTracer

    leaves = [kind for _, kind in inspect.getmembers(ops, inspect.isclass) if issubclass(kind, nn.Module)]
    tracer = NodePathTracer(leaf_modules=leaves, autowrap_modules=(math, ops))
    graph = tracer.trace(network)
    return fx.GraphModule(network, graph), {name: node for node, name in tracer.node_to_qualname.items()}


def _kind(traced: fx.GraphModule, node: fx.Node) -> str:
    if node.op == "call_module":
        return type(traced.get_submodule(node.target)).__name__
    return getattr(node.target, "__name__", str(node.target))
