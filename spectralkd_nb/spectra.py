"""From maps to power spectra, ring averages and power-law exponents.

One convention, everywhere in this package::

    P(f) = A f^-alpha

P is power (not amplitude), averaged over a ring of constant spatial frequency f, and f is in cycles
a pixel (0.5 is Nyquist). alpha > 0 means that power falls with frequency. An amplitude spectrum
falls with half of alpha.

The path is always the same: `power_spectrum` (maps to the half plane of a real FFT),
`radial_spectrum` (the average over rings), `fit_power_law` (alpha and its sampling error);
`spectral_exponent` walks it in one call, and `SpectrumAccumulator` walks it over more maps than
memory holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, wraps

import torch
from torch import Tensor

__all__ = [
    "EDGES",
    "LawFit",
    "PowerLawFit",
    "RadialSpectrum",
    "SpectralExponent",
    "SpectrumAccumulator",
    "compare_laws",
    "default_band",
    "exchange_phase",
    "fit_power_law",
    "mode_weights",
    "periodic_part",
    "power_spectrum",
    "radial_spectrum",
    "spectral_exponent",
]

EDGES = ("periodic", "hann", "tukey", "none")
METHODS = ("whittle", "weighted", "least_squares")

SMALLEST_SIDE = 4  # pixels; below it a map has a single ring
FEWEST_IMAGES = 10  # below it a 95 % bootstrap interval covers less than 91 %
FEWEST_RINGS = 4  # fewer rings than this and alpha is not to be trusted
EDGES_AGREE = 0.2  # two edge treatments may differ by this much in alpha
STRAIGHT = 0.5  # the lower and upper half of the band may differ by this much in alpha
BAND_TOP = 0.45  # cycles a pixel: the ring at Nyquist is half a ring, and aliased
BAND_TOP_STRIDED = 0.35  # a stride folds power back from above; it lifts the top third of the band
Z_95 = 1.959964  # two-sided 95 % point of the normal distribution
DENSE_MATRIX = 2**19  # entries; up to here (124 x 124 pixels) a dense matrix averages rings quicker than indices do
NEWTON_STEPS = 60
BLOCK = 100  # bootstrap draws at a time
STACK_PIXELS = 2**20  # maps computed at a time on a CPU: 4 MB, and memory stays low for any batch


# --- maps to power -------------------------------------------------------------------------------


def power_spectrum(maps: Tensor, edges: str = "periodic") -> Tensor:
    """Power of each Fourier mode, P = ``|F|^2 / (H W)``, with the mean of each map removed.

    Args:
        maps: real floating maps (..., H, W), any device, H and W at least 4. Half and bfloat16 are
            computed in float32.
        edges: what is done about the border. A map is a cut-out, but the FFT wraps it around, and the
            jump from one border to the other leaks power of slope f^-2 along both axes.

            - "periodic": the map less its smooth part (Moisan 2011, J. Math. Imaging Vis. 39:161,
              "Periodic plus smooth image decomposition"). The best on small maps while alpha < 4.
              It takes power away with the border jump, so the variance is not kept: at 32 pixels a map keeps 97 %
              of it at alpha 0, 78 % at 2, 46 % at 3, 19 % at 4. Flat spectra read too steep: a true
              alpha of 0 reads about 0.12 at 16 pixels, 0.10 at 32, 0.06 at 112.
            - "hann", "tukey" (half of each side tapered): a window, with the power divided by its mean
              square. Power is kept on average, not exactly; neighbouring modes mix, so the lowest ring
              is of little use. Hann is the one to use near alpha = 5.
            - "none": exact. With the weights of `mode_weights` the mean over modes is the variance
              (Parseval), a circular shift changes nothing, a cosine of whole periods is one mode.
              Reads at most about 2.7 on cut-outs, however steep the truth.

    Returns:
        (..., H, W // 2 + 1), the half plane of `torch.fft.rfft2`, in units of maps squared.
        Differentiable. NaN in, NaN out: `radial_spectrum` is where finite values are checked.

    Raises:
        TypeError: complex or integer maps.
        ValueError: fewer than 4 pixels a side, unknown edges.
    """
    maps = _checked(maps)
    modes = _fourier_modes(maps, edges)
    return (modes.real.square() + modes.imag.square()) / math.prod(maps.shape[-2:])


def mode_weights(width: int, device: torch.device | str | None = None) -> Tensor:
    """How many modes of the full plane each column of the half plane stands for.

    A real map's spectrum is symmetric, so `rfft2` stores a column and leaves its mirror out: columns
    count twice, except the first and, at even width, the last, which are their own mirrors.

    Args:
        width: W, pixels.
        device: where the weights are wanted.

    Returns:
        (W // 2 + 1,), summing to W; float64, or float32 on a device without float64.
    """
    return _mode_weights(width, torch.device(device or "cpu")).clone()  # the caller may write into it


def mode_frequencies(height: int, width: int, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """fy (H, 1) and fx (1, W // 2 + 1) of the half plane's modes, cycles a pixel, float64; hypot is the radius."""
    like = {"dtype": torch.float64, "device": device}
    return torch.fft.fftfreq(height, **like)[:, None], torch.fft.rfftfreq(width, **like)[None, :]


def periodic_part(maps: Tensor) -> Tensor:
    """The part of each map that wraps around without a jump (Moisan 2011); the map less this is the smooth part.

    Args:
        maps: real maps (..., H, W). Returns: (..., H, W), with the mean of the map. Errors as `power_spectrum`.
    """
    maps = _checked(maps)
    modes = _fourier_modes(maps, "periodic")
    return torch.fft.irfft2(modes, s=maps.shape[-2:]) + maps.mean((-2, -1), keepdim=True)


def exchange_phase(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two pictures with their phases exchanged and their power spectra kept.

    After Oppenheim & Lim 1981, Proc. IEEE 69:529: what a picture shows sits in its phase.

    Args:
        first, second: real maps of equal shape (..., H, W).

    Returns:
        (power of the first with the phase of the second, power of the second with the phase of the
        first), both (..., H, W). Each keeps the mean of the map that gave the power.

    Raises:
        ValueError: unequal shapes, fewer than 4 pixels a side.
        TypeError: complex or integer maps.
    """
    first, second = _checked(first), _checked(second)
    if first.shape != second.shape:
        raise ValueError(
            f"the maps have shapes {tuple(first.shape)} and {tuple(second.shape)}; crop both to one shape first"
        )
    size = first.shape[-2:]
    modes = torch.fft.rfft2(first), torch.fft.rfft2(second)
    amplitudes = [mode.abs() for mode in modes]
    # angle() of a mode without power is 0, so an empty mode stays a real one
    phases = [torch.polar(torch.ones_like(a), mode.angle()) for a, mode in zip(amplitudes, modes, strict=True)]
    mixed = amplitudes[0] * phases[1], amplitudes[1] * phases[0]
    for mix, source in zip(mixed, modes, strict=True):
        mix[..., 0, 0] = source[..., 0, 0]  # the mean is a sign, not a phase: keep a dark picture from turning negative
    return torch.fft.irfft2(mixed[0], s=size), torch.fft.irfft2(mixed[1], s=size)


def by_size(function: Callable) -> Callable:
    """lru_cache for what depends on sizes alone: ordinary tensors, whatever mode the first caller happens to be in.

    A tensor made in inference mode could never again be used where gradients are wanted.
    """

    @lru_cache(maxsize=256)
    @wraps(function)
    def remembered(*arguments):
        with torch.inference_mode(False), torch.device("cpu"):
            return function(*arguments)

    return remembered


@by_size
def _mode_weights(width: int, device: torch.device) -> Tensor:
    weights = torch.full((width // 2 + 1,), 2.0, dtype=torch.float64)
    weights[0] = 1
    if width % 2 == 0:
        weights[-1] = 1
    return _moved(weights, device)


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A float64 tensor on the device, as float32 where the device has no float64."""
    return tensor.float().to(device) if device.type == "mps" else tensor.to(device)


def _float64(tensor: Tensor) -> Tensor:
    """The tensor in float64, on the CPU where its device has no float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def require_rings(height: int, width: int) -> None:
    """Refuse sizes of maps that have a single ring, or none."""
    if min(height, width) < SMALLEST_SIDE:
        raise ValueError(
            f"maps of {height} x {width} pixels have no spectrum to speak of; at least {SMALLEST_SIDE} pixels a side "
            "are needed, so take an earlier layer or a larger picture"
        )


def _checked(maps: Tensor) -> Tensor:
    maps = torch.as_tensor(maps)
    if maps.is_complex():
        raise TypeError(f"maps are complex ({maps.dtype}); pass real maps, for instance maps.real or maps.abs()")
    if not maps.is_floating_point():
        raise TypeError(f"maps are {maps.dtype}; turn them into floating point first, for instance maps.float() / 255")
    if maps.ndim < 2:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; two spatial dimensions (..., H, W) are needed")
    require_rings(*maps.shape[-2:])
    return maps if maps.dtype in (torch.float32, torch.float64) else maps.float()


def _fourier_modes(maps: Tensor, edges: str) -> Tensor:
    """Half-plane Fourier coefficients F of the maps, treated at the edges and without their mean."""
    if edges not in EDGES:
        raise ValueError(f"edges={edges!r} is not known; choose one of {', '.join(map(repr, EDGES))}")
    if maps.numel() == 0:  # Fourier transforms of nothing are an error in some versions of torch
        return maps.new_zeros((*maps.shape[:-1], maps.shape[-1] // 2 + 1), dtype=maps.dtype.to_complex())
    if edges in ("hann", "tukey"):
        window = _window(maps, edges)
        # The tapered map must have no mean, so the mean to take off is the tapered one.
        mean = (maps * window).sum((-2, -1), keepdim=True) / window.sum()
        return torch.fft.rfft2((maps - mean) * (window / window.square().mean().sqrt()))
    # Removing the mean afterwards is one number, not one more pass over the maps. What rounding then leaves in
    # other modes, about eps times the mean, is no more than the rounding of the maps' own values.
    modes = torch.fft.rfft2(maps)
    modes[..., 0, 0] = 0
    return modes if edges == "none" else _without_smooth_part(modes, maps)


def _window(maps: Tensor, edges: str) -> Tensor:
    share = 1.0 if edges == "hann" else 0.5  # of each side that is tapered, both ends together

    def taper(n: int) -> Tensor:
        position = (torch.arange(n, dtype=maps.dtype, device=maps.device) + 0.5) / n
        from_border = torch.minimum(position, 1 - position)
        return torch.sin(0.5 * math.pi * (from_border * 2 / share).clamp(max=1)).square()

    height, width = maps.shape[-2:]
    return taper(height)[:, None] * taper(width)


def _without_smooth_part(modes: Tensor, maps: Tensor) -> Tensor:
    """Moisan's split, in Fourier space: modes of the periodic part = modes - modes of the smooth part.

    The smooth part s solves the periodic Poisson equation whose right-hand side is the jump across the
    border. A jump lives on one row and its opposite, so its 2-D transform is the 1-D transform of the
    row, times a factor that depends on the mode alone: no second 2-D FFT is needed.
    """
    height, width = maps.shape[-2:]
    rows, columns = _smooth_factors(height, width, modes.dtype, modes.device)
    # The sign matters: last minus first. The opposite sign doubles the jump and looks plausible.
    across_rows = torch.fft.rfft(maps[..., -1, :] - maps[..., 0, :])[..., None, :]
    across_columns = torch.fft.fft(maps[..., :, -1] - maps[..., :, 0])[..., None]
    return modes.addcmul_(across_rows, rows, value=-1).addcmul_(across_columns, columns, value=-1)


@by_size
def _smooth_factors(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    row, column = (2 * torch.pi * frequency for frequency in mode_frequencies(height, width))
    laplacian = 2 * torch.cos(row) + 2 * torch.cos(column) - 4
    laplacian[0, 0] = math.inf  # the smooth part has no mean
    factors = (1 - torch.exp(1j * row)) / laplacian, (1 - torch.exp(1j * column)) / laplacian
    return factors[0].to(device=device, dtype=dtype), factors[1].to(device=device, dtype=dtype)


# --- power to rings ------------------------------------------------------------------------------


@dataclass(frozen=True)
class RadialSpectrum:
    """Power averaged over rings of constant spatial frequency.

    Attributes:
        frequency: mean radius of the modes of each ring, cycles a pixel, (rings,), or (sectors, rings).
        power: mean power of each ring, (..., rings), or (..., sectors, rings); units of maps squared.
        modes: number of full-plane modes in each ring, shaped like `frequency`.
        maps: how many maps stand behind each row of `power` (1 before averaging).
        shape: (H, W) of the maps in pixels, after cropping.
        edges: the edge treatment, see `power_spectrum`.
        orientation: (sectors,) direction in which the waves of each sector run, in degrees, or None. 0 runs from left
            to right, across vertical edges; 90 runs down, across horizontal ones. Clockwise as seen, because rows
            count downward.
    """

    frequency: Tensor
    power: Tensor
    modes: Tensor
    maps: int
    shape: tuple[int, int]
    edges: str
    orientation: Tensor | None = None

    def average(self) -> RadialSpectrum:
        """The spectrum of all maps together: power averaged over every leading dimension.

        Returns:
            `RadialSpectrum` with power (rings,), or (sectors, rings), float64.

        Raises:
            ValueError: there is no map.
        """
        leading = self.power.shape[: self.power.ndim - self.frequency.ndim]
        count = math.prod(leading)
        if count == 0:
            raise ValueError("there is no map to average over; pass at least one")
        power = _float64(self.power)
        power = power.flatten(0, len(leading) - 1).mean(0) if leading else power
        return replace(self, power=power, maps=self.maps * count)


def radial_spectrum(maps: Tensor, edges: str = "periodic", crop: int = 0, sectors: int | None = None) -> RadialSpectrum:
    """Power of each map averaged over rings of constant spatial frequency.

    Rings are one cycle a picture side wide: ring k holds the modes whose frequency, from the true
    hypot(fy, fx) in cycles a pixel, is nearest to k / min(H, W). So a map need not be square. Rings end
    at the Nyquist circle; the corners of the plane beyond it are dropped.

    Args:
        maps: real floating maps (..., H, W), at least 4 pixels a side after cropping.
        edges: see `power_spectrum`.
        crop: pixels to leave out at each border, for instance those that zero padding has touched.
        sectors: also split each ring into this many orientations (half turns divided evenly). A mode on the border of
            two belongs to the one at the larger angle.

    Returns:
        `RadialSpectrum` with power (..., min(H, W) // 2), or (..., sectors, rings). A sector of a small
        ring may hold no mode; its power is 0 and its mode count 0, and fits leave it out. On a GPU on which TF32 matrix
        products are allowed the averages are rounded to three digits.

    Raises:
        ValueError: NaN or infinite maps, maps too small, unknown edges, a negative crop, fewer than 2 sectors.
        TypeError: not real floating.
    """
    maps = _cropped(_checked(maps), crop)
    shape = tuple(maps.shape[-2:])
    powers = [
        _ring_average(torch.view_as_real(_fourier_modes(m, edges)).square_(), shape, sectors) for m in _stacks(maps)
    ]
    power = torch.cat(powers).reshape(*maps.shape[:-2], powers[0].shape[-1])
    power = power / math.prod(shape)
    if not torch.isfinite(power).all():
        raise ValueError(_not_finite(power))
    return _as_spectrum(power, shape, sectors, 1, edges)


def rings_of(power: Tensor, shape: tuple[int, int], edges: str = "none") -> RadialSpectrum:
    """Ring averages of a power spectrum that is there already, measured or computed from theory.

    Args:
        power: (..., H, W // 2 + 1), as `power_spectrum` returns it.
        shape: (H, W) in pixels.
        edges: the treatment that it was measured with.
    """
    return _as_spectrum(_ring_average(power[..., None], shape, None), shape, None, 1, edges)


def _stacks(maps: Tensor) -> tuple[Tensor, ...]:
    """Maps (n, H, W) in stacks that fit a CPU's cache; an accelerator is best fed with everything at once."""
    height, width = maps.shape[-2:]
    flat = maps.reshape(-1, height, width)
    return flat.split(max(1, STACK_PIXELS // (height * width))) if maps.device.type == "cpu" else (flat,)


def _as_spectrum(power: Tensor, shape: tuple[int, int], sectors: int | None, maps: int, edges: str) -> RadialSpectrum:
    rings = _rings(*shape, sectors)
    layout = (-1,) if sectors is None else (sectors, min(shape) // 2)
    frequency, modes = _rings_on(*shape, sectors, power.device)
    return RadialSpectrum(
        frequency=frequency.reshape(layout).clone(),
        power=power if sectors is None else power.unflatten(-1, layout),
        modes=modes.reshape(layout).clone(),
        maps=maps,
        shape=shape,
        edges=edges,
        orientation=rings.orientation,
    )


def _cropped(maps: Tensor, crop: int) -> Tensor:
    if crop < 0:
        raise ValueError(f"crop={crop} is negative; give the number of border pixels to leave out")
    if crop == 0:
        return maps
    height, width = maps.shape[-2:]
    if min(height, width) - 2 * crop < SMALLEST_SIDE:
        raise ValueError(
            f"crop={crop} leaves less than {SMALLEST_SIDE} pixels of maps of {height} x {width}; crop less"
        )
    return maps[..., crop : height - crop, crop : width - crop]


def _not_finite(power: Tensor) -> str:
    bad = (~torch.isfinite(power)).any(-1).reshape(-1)
    return (
        f"{int(bad.sum())} of {bad.numel()} maps hold NaN, infinite or overflowing values (the first is map "
        f"{int(bad.nonzero()[0])}); look for a diverged network or a picture that failed to load"
    )


@dataclass(frozen=True)
class _Rings:
    """Which ring (and sector) each half-plane mode belongs to; cells are sector-major, one past the end is dropped."""

    cell: Tensor  # (H * Wh,) int64
    share: Tensor  # (H * Wh,) float64, what the mode counts in the average of its cell, 0 if dropped
    modes: Tensor  # (cells,) float64
    frequency: Tensor  # (cells,) float64, cycles a pixel
    orientation: Tensor | None


@by_size
def _rings(height: int, width: int, sectors: int | None) -> _Rings:
    if sectors is not None and sectors < 2:
        raise ValueError(f"sectors={sectors} splits nothing; give 2 or more, or None for whole rings")
    side = min(height, width)
    count = side // 2
    fy, fx = mode_frequencies(height, width)
    radius = torch.hypot(fy, fx)
    ring = torch.floor(radius * side + 0.5).long()  # not round(): it sends halves to the even ring
    inside = (ring >= 1) & (ring <= count) & (radius <= 0.5 + 1e-12)
    weight = mode_weights(width).expand(height, -1) * inside
    cell, orientation = ring - 1, None
    if sectors is not None:
        step = torch.pi / sectors
        sector = torch.floor(torch.atan2(fy, fx) / step + 0.5).long() % sectors
        cell = sector * count + cell
        orientation = torch.arange(sectors, dtype=torch.float64) * 180 / sectors
    cells = count * (sectors or 1)
    cell = torch.where(inside, cell, cells).flatten()
    modes = torch.zeros(cells + 1, dtype=torch.float64).index_add_(0, cell, weight.flatten())[:-1]
    summed = torch.zeros(cells + 1, dtype=torch.float64).index_add_(0, cell, (weight * radius).flatten())[:-1]
    # A sector without a mode keeps its ring's nominal radius, so that nothing divides by zero.
    nominal = (torch.arange(1, count + 1, dtype=torch.float64) / side).repeat(sectors or 1)
    frequency = torch.where(modes > 0, summed / modes.clamp(min=1), nominal)
    share = weight.flatten() / torch.cat([modes.clamp(min=1), torch.ones(1, dtype=torch.float64)])[cell]
    return _Rings(cell, share, modes, frequency, orientation)


@by_size
def _rings_on(height: int, width: int, sectors: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Frequency and modes of the cells, on a device: a training step should not wait for them to be sent."""
    rings = _rings(height, width, sectors)
    return _moved(rings.frequency, device), _moved(rings.modes, device)


def _ring_average(squares: Tensor, shape: tuple[int, int], sectors: int | None) -> Tensor:
    """Average over rings of (..., H, Wh, parts): the last dimension holds what adds up to a mode's power."""
    parts = squares.shape[-1]
    rings = _rings(*shape, sectors)
    if len(rings.cell) * len(rings.modes) <= DENSE_MATRIX:
        matrix = _ring_matrix(*shape, sectors, parts, squares.dtype, squares.device)
        # Half-precision autocast would round the average to three digits.
        with torch.autocast(device_type=squares.device.type, enabled=False):
            return squares.flatten(-3) @ matrix
    weighted = squares.sum(-1).flatten(-2) * rings.share.to(squares)
    sums = weighted.new_zeros(*weighted.shape[:-1], len(rings.modes) + 1)
    return sums.index_add(-1, rings.cell.to(squares.device), weighted)[..., :-1]


@by_size
def _ring_matrix(
    height: int, width: int, sectors: int | None, parts: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    rings = _rings(height, width, sectors)
    matrix = torch.zeros(len(rings.cell), len(rings.modes) + 1, dtype=torch.float64)
    matrix[torch.arange(len(rings.cell)), rings.cell] = rings.share
    return matrix[:, :-1].repeat_interleave(parts, 0).to(device=device, dtype=dtype)


# --- rings to a law ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerLawFit:
    """P(f) = amplitude f^-alpha, fitted to a `RadialSpectrum`.

    Tensors are float64, (...) for power (..., rings): one value a row, so without dimensions for a single spectrum.

    Attributes:
        alpha: the exponent; NaN where a ring in the band has no power.
        standard_error: sampling error of alpha in theory, see `fit_power_law`.
        interval: (..., 2), the 95 % interval, alpha -+ 1.96 standard errors.
        amplitude: A, power at 1 cycle a pixel, units of maps squared.
        r_squared: share of the variance of ln P over the rings (weighted as in the fit) that the law explains. A
            weak test: spectra with a visible break reach 0.99, and a flat spectrum has nothing to explain.
        deviance: Gamma deviance. For independent Gaussian fields that obey the law, and the Whittle fit, it is
            distributed as chi-squared with rings - 2 degrees of freedom; larger means that the law does not hold.
        band: (lowest, highest) frequency asked for, cycles a pixel.
        rings: number of rings in the band.
        method: "whittle", "weighted" or "least_squares".
    """

    alpha: Tensor
    standard_error: Tensor
    interval: Tensor
    amplitude: Tensor
    r_squared: Tensor
    deviance: Tensor
    band: tuple[float, float]
    rings: int
    method: str

    def predict(self, frequency: Tensor) -> Tensor:
        """Power of the law at frequency (rings,), cycles a pixel: (..., rings)."""
        return self.amplitude[..., None] * frequency ** -self.alpha[..., None]

    def __str__(self) -> str:
        if self.alpha.ndim:
            return f"{self.alpha.numel()} fits, median alpha = {self.alpha.nanmedian():.2f}"
        low, high = self.interval.tolist()
        return f"alpha = {self.alpha:.2f} [{low:.2f}, {high:.2f}] over {self.rings} rings"


def default_band(shape: tuple[int, int], strided: bool = False) -> tuple[float, float]:
    """The band that fits use unless told otherwise, (lowest, highest) in cycles a pixel.

    From the second ring, because the first has few modes (8 on a square map) and collects what leaks from the mean and
    from the border; on maps under 16 pixels from the first, because too few rings are left. To 0.45, because
    the ring at Nyquist is half a ring and holds power folded back from above it; to 0.35 after a
    stride, which folds more.

    Args:
        shape: (H, W) of the maps, pixels.
        strided: the maps were subsampled by a stride or pooling.
    """
    side = min(shape)
    lowest = 1.5 if side >= 16 else 0.5
    return lowest / side, BAND_TOP_STRIDED if strided else BAND_TOP


def fit_power_law(
    spectrum: RadialSpectrum, band: tuple[float, float] | None = None, method: str = "whittle"
) -> PowerLawFit:
    """Fit P(f) = A f^-alpha to ring powers, one fit for each row of `spectrum.power`.

    For a Gaussian field the power of a ring with nu full-plane modes is Gamma distributed around the law M with
    shape nu / 2 (times the number of maps averaged). The methods differ in what they do with that:

    - "whittle": the most likely law, the minimum of sum nu/2 (P/M + ln M) (Whittle 1953). A profiles out, alpha
      takes a few Newton steps. No bias from taking logarithms, smallest error.
    - "weighted": a straight line through ln P against ln f, weighted by nu. Closed form.
    - "least_squares": the same line unweighted, as most papers do; hardly noisier at 14 pixels, 50 % at 112.

    The standard error is the sampling theory's: [1/2 sum nu (ln f - mean)^2]^(-1/2) for "whittle", and for the lines
    what follows from var ln P = trigamma(nu / 2). Theory takes maps to be independent Gaussian fields. Pictures are
    not, and channels of one image are not independent: there, `spectral_exponent` bootstraps over images.

    Args:
        spectrum: from `radial_spectrum` or `SpectrumAccumulator`.
        band: (lowest, highest) frequency in cycles a pixel; `default_band` if None.
        method: see above.

    Returns:
        `PowerLawFit`; alpha is NaN where a ring of the band is without power, where a sector has fewer than 2 rings,
        and where the search for it does not end (one ring outshines the others beyond all measure). alpha and
        amplitude are differentiable in `spectrum.power`.

    Raises:
        ValueError: unknown method, a band that is no pair of rising frequencies, or one with fewer than 2 rings.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not known; choose one of {', '.join(map(repr, METHODS))}")
    rings = _rings_in_band(spectrum, band)
    line_weight = (rings.weight > 0).double() if method == "least_squares" else rings.weight
    if method == "whittle":
        alpha, log_amplitude = _fit_whittle(rings)
    else:
        alpha, log_amplitude = _fit_line(replace(rings, weight=line_weight))
    log_model = log_amplitude[..., None] - alpha[..., None] * rings.log_frequency
    error = _standard_error(rings, line_weight, method)
    return PowerLawFit(
        alpha=alpha,
        standard_error=error,
        interval=torch.stack([alpha - Z_95 * error, alpha + Z_95 * error], -1).detach(),
        amplitude=log_amplitude.exp(),
        r_squared=_r_squared(rings.log_power, log_model, line_weight).detach(),
        deviance=_deviance(rings, log_model).detach(),
        band=rings.band,
        rings=rings.count,
        method=method,
    )


@dataclass(frozen=True)
class _BandRings:
    """The rings of one band, ready to be fitted; rings outside it have weight 0."""

    log_frequency: Tensor  # (rings,) or (sectors, rings)
    log_power: Tensor  # (..., rings), NaN throughout a row that has an empty ring in the band
    weight: Tensor  # like log_frequency: full-plane modes times maps
    band: tuple[float, float]
    count: int


def _rings_in_band(spectrum: RadialSpectrum, band: tuple[float, float] | None) -> _BandRings:
    # Float64 does not exist on every accelerator, and a handful of rings is quick anywhere.
    power, frequency, modes = _float64(spectrum.power), _float64(spectrum.frequency), _float64(spectrum.modes)
    low, high = default_band(spectrum.shape) if band is None else _checked_band(band)
    inside = (frequency >= low) & (frequency <= high) & (modes > 0)
    count = int(inside.any(0).sum() if inside.ndim > 1 else inside.sum())
    if count < 2:
        raise ValueError(
            f"{count} {'ring lies' if count == 1 else 'rings lie'} between {low:.3g} and {high:.3g} cycles a pixel on "
            f"maps of {spectrum.shape[0]} x {spectrum.shape[1]} pixels, and a line needs 2; widen the band or take "
            "larger maps"
        )
    powered = ((power > 0) | ~inside).all(-1, keepdim=True) & (inside.sum(-1, keepdim=True) >= 2)
    usable = torch.where(inside & powered, power, torch.ones_like(power))
    log_power = torch.where(powered, usable.log(), torch.nan)
    return _BandRings(frequency.log(), log_power, modes * spectrum.maps * inside, (low, high), count)


def _checked_band(band: tuple[float, float]) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in band)
    except (TypeError, ValueError):
        raise ValueError(f"band={band!r} is no pair of frequencies; give (lowest, highest) in cycles a pixel") from None
    if not 0 <= low < high < math.inf:
        raise ValueError(f"band=({low:g}, {high:g}) is no band; give 0 <= lowest < highest, in cycles a pixel")
    return low, high


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum(-1) / weight.sum(-1)


def _fit_line(rings: _BandRings) -> tuple[Tensor, Tensor]:
    """Slope and intercept of the weighted line through ln P against ln f, in closed form."""
    x_mean = _mean(rings.log_frequency, rings.weight)
    x = rings.log_frequency - x_mean[..., None]
    alpha = -_mean(x * rings.log_power, rings.weight) / _mean(x.square(), rings.weight)
    return alpha, _mean(rings.log_power, rings.weight) + alpha * x_mean


def _fit_whittle(rings: _BandRings) -> tuple[Tensor, Tensor]:
    """The minimum of the Whittle likelihood. With A profiled out it is convex in alpha."""
    x = rings.log_frequency - _mean(rings.log_frequency, rings.weight)[..., None]

    def newton_step(alpha: Tensor) -> Tensor:
        share = torch.softmax(rings.weight.log() + rings.log_power + alpha[..., None] * x, -1)
        gradient = (share * x).sum(-1)
        curvature = (share * (x - gradient[..., None]).square()).sum(-1)
        return (gradient / curvature).clamp(-1, 1)

    with torch.no_grad():
        alpha = _fit_line(rings)[0]
        for _ in range(NEWTON_STEPS):
            step = newton_step(alpha)
            alpha = alpha - step
            if not (step.abs() > 1e-12).any():
                break
        alpha = torch.where(step.abs() < 1e-6, alpha, torch.nan)
    # Two more steps, recorded: at the minimum their first and second derivatives are those of the minimum itself.
    alpha = alpha - newton_step(alpha)
    alpha = alpha - newton_step(alpha)
    whitened = rings.weight.log() + rings.log_power + alpha[..., None] * rings.log_frequency
    return alpha, torch.logsumexp(whitened, -1) - rings.weight.sum(-1).log()


def _standard_error(rings: _BandRings, line_weight: Tensor, method: str) -> Tensor:
    """What sampling theory says of alpha, before any power is seen."""
    x = rings.log_frequency - _mean(rings.log_frequency, line_weight)[..., None]
    spread = (line_weight * x.square()).sum(-1)
    if method == "whittle":
        error = (0.5 * spread).rsqrt()
    else:
        # ln of a Gamma variable of shape nu/2 has variance trigamma(nu/2)
        variance = torch.where(rings.weight > 0, torch.polygamma(1, rings.weight.clamp(min=1e-9) / 2), 0.0)
        error = ((line_weight * x).square() * variance).sum(-1).sqrt() / spread
    return error + 0 * rings.log_power.detach().sum(-1)  # NaN where there is no fit


def _r_squared(log_power: Tensor, log_model: Tensor, weight: Tensor) -> Tensor:
    around_mean = _mean((log_power - _mean(log_power, weight)[..., None]).square(), weight)
    return 1 - _mean((log_power - log_model).square(), weight) / around_mean


def _deviance(rings: _BandRings, log_model: Tensor) -> Tensor:
    log_ratio = rings.log_power - log_model
    return (rings.weight * (log_ratio.exp() - 1 - log_ratio)).sum(-1)


# --- the law against its rivals ------------------------------------------------------------------


@dataclass(frozen=True)
class LawFit:
    """One law fitted to one spectrum, as `compare_laws` returns it.

    Attributes:
        name: "power law", "bent", "broken", "knee" or "exponential".
        parameters: the law's own, by name; frequencies in cycles a pixel.
        deviance: Gamma deviance, see `PowerLawFit`.
        bic: Bayesian information criterion; smaller is better, a lead over 10 is strong.
        log_model: ln P of the law at each ring of the band, (rings,).
    """

    name: str
    parameters: dict[str, float]
    deviance: float
    bic: float
    log_model: Tensor


@dataclass(frozen=True)
class _Law:
    """ln P as a function of x = ln f and parameters; `starts` are where the search begins, given (alpha, ln A, x)."""

    log_power: Callable
    starts: Callable
    report: Callable


def _broken(p, x):
    log_amplitude, alpha, steepening, at = p
    return log_amplitude - alpha * x - steepening * (x - at).clip(0)


def _knee(p, x):
    log_amplitude, alpha, at = p
    # ln of 1 / (f_k^alpha + f^alpha), written so that neither term overflows
    return log_amplitude - torch.logaddexp(alpha * at * torch.ones_like(x), alpha * x)


_LAWS = {
    "power law": _Law(
        lambda p, x: p[0] - p[1] * x,
        lambda a, c, x: [(c, a)],
        lambda p: {"alpha": p[1]},
    ),
    "bent": _Law(
        lambda p, x: p[0] - p[1] * x + p[2] * x.square(),
        lambda a, c, x: [(c, a, 0.0)],
        lambda p: {"alpha at 1 cycle a pixel": p[1], "curvature": p[2]},
    ),
    "broken": _Law(
        _broken,
        lambda a, c, x: [
            (c, a, steepening, float(x[0] + share * (x[-1] - x[0])))
            for share in (0.25, 0.5, 0.75, 0.9)
            for steepening in (-1.0, 1.0)
        ],
        lambda p: {"alpha below": p[1], "alpha above": p[1] + p[2], "break frequency": math.exp(p[3])},
    ),
    "knee": _Law(
        _knee,
        lambda a, c, x: [(c, a, float(x[0]) - 1.0), (c, 1.5 * a, float(x.median()))],
        lambda p: {"alpha": p[1], "knee frequency": math.exp(p[2])},
    ),
    "exponential": _Law(
        lambda p, x: p[0] - x.exp() * p[1],
        lambda a, c, x: [(c + a, 5.0)],
        lambda p: {"decay frequency": 1 / p[1] if p[1] else math.inf},
    ),
}


def compare_laws(spectrum: RadialSpectrum, band: tuple[float, float] | None = None) -> list[LawFit]:
    """Fit a power law and four rivals to one spectrum by the same likelihood, best BIC first.

    The rivals: bent, ln P quadratic in ln f; broken, two exponents with a break between them; knee,
    A / (f_k^alpha + f^alpha), flat below the frequency f_k; exponential, A exp(-f / f_0). All by the Whittle
    likelihood L = sum nu/2 (P/M + ln M), BIC = 2 L + (parameters) ln(number of modes / 2). The set is our own.

    BIC takes the map for a Gaussian field with independent modes. Averaged over many maps, any smooth
    curve in a real spectrum becomes significant: read the deviances too, and look at the curve.

    Args:
        spectrum: one spectrum, power (rings,); take `.average()` or index first.
        band: as in `fit_power_law`.

    Raises:
        ValueError: several spectra at once, fewer than 5 rings in the band, a ring without power.
    """
    from scipy.optimize import minimize

    if spectrum.power.ndim != 1:
        raise ValueError(f"power has shape {tuple(spectrum.power.shape)}; compare one spectrum at a time")
    rings = _rings_in_band(spectrum, band)
    if rings.count < 5:
        raise ValueError(f"{rings.count} rings cannot tell laws of up to 4 parameters apart; 5 are needed")
    if rings.log_power.isnan().any():
        raise ValueError("a ring of the band has no power (a constant map?); there is no law to compare")
    inside = rings.weight > 0
    x, log_power, weight = (t[inside].cpu() for t in (rings.log_frequency, rings.log_power, rings.weight))
    alpha, log_amplitude = _fit_whittle(_BandRings(x, log_power, weight, rings.band, rings.count))

    def objective(parameters, law):
        log_ratio = log_power - law.log_power(parameters, x)
        return float((weight * (log_ratio.clamp(max=50).exp() - 1 - log_ratio)).sum()) / 2

    def search(start, law):
        options = {"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-9}
        once = minimize(objective, start, (law,), method="Nelder-Mead", options=options)
        return minimize(objective, once.x, (law,), method="Nelder-Mead", options=options)  # a simplex can stop short

    def fit(name: str, law: _Law) -> LawFit:
        searches = [search(start, law) for start in law.starts(float(alpha), float(log_amplitude), x)]
        best = min(searches, key=lambda search: search.fun)
        saturated = float((weight * (1 + log_power)).sum())  # 2 L of a law that meets every ring
        return LawFit(
            name=name,
            parameters={key: float(value) for key, value in law.report(best.x.tolist()).items()},
            deviance=2 * best.fun,
            bic=2 * best.fun + saturated + len(best.x) * math.log(float(weight.sum()) / 2),
            log_model=law.log_power(best.x.tolist(), x),
        )

    return sorted((fit(name, law) for name, law in _LAWS.items()), key=lambda law_fit: law_fit.bic)


# --- one call ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SpectralExponent:
    """alpha of a set of maps, its interval, and whether to trust it.

    Attributes:
        alpha: the exponent of the pooled spectrum (NaN if the maps are constant).
        interval: 95 % interval; bootstrapped over images, or the fit's own for a single image.
        images: number of images.
        reasons: why alpha should not be trusted, one sentence each; empty if nothing speaks against it.
        fit: the fit to the pooled spectrum, or None for constant maps.
        spectrum: the pooled spectrum.
    """

    alpha: float
    interval: tuple[float, float]
    images: int
    reasons: tuple[str, ...]
    fit: PowerLawFit | None
    spectrum: RadialSpectrum

    @property
    def trusted(self) -> bool:
        """Whether there is no reason to distrust alpha."""
        return not self.reasons

    def __str__(self) -> str:
        low, high = self.interval
        noun = "image" if self.images == 1 else "images"
        text = f"alpha = {self.alpha:.2f} [{low:.2f}, {high:.2f}], {self.images} {noun}"
        return text if self.trusted else f"{text}; not to be trusted: {'; '.join(self.reasons)}"


def spectral_exponent(
    maps: Tensor,
    edges: str = "periodic",
    crop: int = 0,
    band: tuple[float, float] | None = None,
    method: str = "whittle",
    resamples: int = 1000,
    seed: int = 0,
) -> SpectralExponent:
    """From maps to alpha, with an interval bootstrapped over images and the reasons to distrust it.

    Power is pooled: averaged over all maps (of an image: over its channels), then fitted. The interval is the 2.5 to
    97.5 % range of alpha over `resamples` draws of as many images with replacement. Images, because neither the
    channels of one image nor the rings of one map are independent draws of anything.

    alpha is flagged where 2 to 9 images are too few to resample, where fewer than 4 rings lie in the band, where
    another edge treatment gives an alpha more than 0.2 away, or where the spectrum bends: the exponents of the band's
    halves, from a log-quadratic fit, differ by more than 0.5 and by more than 2.5 standard errors. The flags and these
    thresholds are our own.

    Args:
        maps: (H, W), one image; or (images, ..., H, W).
        edges, crop: see `radial_spectrum`.
        band, method: see `fit_power_law`.
        resamples: bootstrap draws.
        seed: of the bootstrap's generator; the same seed gives the same interval.

    Raises:
        ValueError: no images, resamples below 1, and as `radial_spectrum` and `fit_power_law`.
        TypeError: not real floating. Maps that have no exponent (constant, or of 4 pixels, or without power in a ring)
            are no error: alpha is NaN and the reason says why.
    """
    if method not in METHODS or resamples < 1:
        raise ValueError(
            f"method={method!r} and resamples={resamples}: the method is one of {METHODS}, resamples 1 or more"
        )
    maps = _cropped(_checked(maps).detach(), crop)
    images = maps[None] if maps.ndim == 2 else maps
    if len(images) == 0 or images.numel() == 0:
        raise ValueError("there are no maps; pass at least one image")
    spectrum = radial_spectrum(images, edges)
    per_image = _float64(spectrum.power).reshape(len(images), -1, spectrum.power.shape[-1]).mean(1)
    pooled = spectrum.average()

    def no_exponent(reason: str) -> SpectralExponent:
        return SpectralExponent(math.nan, (math.nan, math.nan), len(images), (reason,), None, pooled)

    if _is_constant(images):
        return no_exponent("the maps are constant, and a constant has no exponent")
    if band is None and min(pooled.shape) * BAND_TOP < 2:
        return no_exponent(f"maps of {pooled.shape[0]} x {pooled.shape[1]} pixels have a single ring to fit")
    fit = fit_power_law(pooled, band, method)
    if math.isnan(fit.alpha):
        return no_exponent("a ring of the band has no power, or nearly all of it (a periodic pattern?), so no law fits")
    if len(images) > 1:
        interval = bootstrap_interval(replace(pooled, power=per_image), band, method, resamples, seed)
    else:
        interval = tuple(fit.interval.tolist())
    other = radial_spectrum(images, "hann" if edges != "hann" else "periodic").average()
    reasons = reasons_to_distrust(len(images), pooled, fit, other)
    return SpectralExponent(float(fit.alpha), interval, len(images), reasons, fit, pooled)


def _is_constant(maps: Tensor) -> bool:
    """Whether all variance of every map is the rounding error of its own values."""
    rounding = 8 * torch.finfo(maps.dtype).eps * maps.abs().amax((-2, -1))
    return bool((maps.var((-2, -1)) <= rounding.square()).all())


def bootstrap_counts(items: int, resamples: int, generator: torch.Generator) -> Tensor:
    """How often each item comes in each draw of as many items with replacement: (resamples, items) float64."""
    drawn = torch.randint(items, (resamples, items), generator=generator)
    counts = torch.zeros(resamples, items, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def bootstrap_interval(
    per_image: RadialSpectrum, band: tuple[float, float] | None, method: str, resamples: int, seed: int
) -> tuple[float, float]:
    """The 2.5 to 97.5 % range of alpha over draws of as many images with replacement.

    Args:
        per_image: power (images, rings), float64. The rest as in `spectral_exponent`.
    """
    power = per_image.power.cpu()
    on_cpu = replace(per_image, frequency=per_image.frequency.cpu(), modes=per_image.modes.cpu())
    generator = torch.Generator().manual_seed(seed)

    def resampled_alphas(n: int) -> Tensor:
        counts = bootstrap_counts(len(power), n, generator)
        return fit_power_law(replace(on_cpu, power=counts @ power / len(power)), band, method).alpha

    # In blocks, so that many images do not need a table of images x resamples.
    blocks = [min(BLOCK, resamples - start) for start in range(0, resamples, BLOCK)]
    alphas = torch.cat([resampled_alphas(n) for n in blocks])
    low, high = torch.nanquantile(alphas, torch.tensor([0.025, 0.975], dtype=alphas.dtype)).tolist()
    return low, high


def reasons_to_distrust(
    images: int, pooled: RadialSpectrum, fit: PowerLawFit, other: RadialSpectrum | None = None
) -> tuple[str, ...]:
    """Why the alpha of a pooled spectrum should not be trusted, one sentence each.

    Args:
        images: how many there are.
        other: the pooled spectrum of the same maps with another edge treatment, if there is one to compare with.
    """
    reasons = []
    if 1 < images < FEWEST_IMAGES:
        reasons.append(f"a bootstrap of {images} images is too narrow, {FEWEST_IMAGES} are needed")
    if fit.rings < FEWEST_RINGS:
        reasons.append(
            f"only {fit.rings} rings lie between {fit.band[0]:.3f} and {fit.band[1]:.3f} cycles a pixel, "
            f"and {FEWEST_RINGS} are needed"
        )
    if other is not None and (disagreement := _at_other_edges(pooled, other, fit)):
        reasons.append(disagreement)
    difference, error = _bend(_rings_in_band(pooled, fit.band))
    if abs(difference) > max(STRAIGHT, 2.5 * error):
        reasons.append(
            f"the spectrum bends, alpha is about {fit.alpha - difference / 2:.1f} in the lower half of the "
            f"band and {fit.alpha + difference / 2:.1f} in the upper"
        )
    return tuple(reasons)


def _at_other_edges(pooled: RadialSpectrum, other: RadialSpectrum, fit: PowerLawFit) -> str | None:
    """The sentence that edge treatments disagree, if they do."""
    # A taper makes the first ring worthless, so the treatments are compared without it.
    shared = (max(fit.band[0], 1.5 / min(pooled.shape)), fit.band[1])
    try:
        here, there = (float(fit_power_law(s, shared, fit.method).alpha) for s in (pooled, other))
    except ValueError:  # the band ends below ring 2
        return None
    if abs(here - there) > EDGES_AGREE:
        return f'edge treatments disagree, {here:.2f} with "{pooled.edges}" and {there:.2f} with "{other.edges}"'
    return None


def _bend(rings: _BandRings) -> tuple[float, float]:
    """How much steeper the upper half of the band is than the lower, from a weighted log-quadratic; and its error."""
    if rings.count < 3:
        return 0.0, math.inf
    x = rings.log_frequency - _mean(rings.log_frequency, rings.weight)[..., None]
    square = x.square() - _mean(x.square(), rings.weight)[..., None]
    # What x itself says about x^2 is slope, not bend.
    square = square - x * (_mean(square * x, rings.weight) / _mean(x.square(), rings.weight))[..., None]
    spread = (rings.weight * square.square()).sum(-1)
    curvature = (rings.weight * square * rings.log_power).sum(-1) / spread
    inside = rings.log_frequency[rings.weight > 0]
    # d ln P / d ln f = -alpha + 2 c x, and the halves' midpoints lie half of the band apart.
    log_range = float(inside.max() - inside.min())
    return float(-curvature) * log_range, float((0.5 * spread).rsqrt()) * log_range


# --- more maps than memory holds -----------------------------------------------------------------


class SpectrumAccumulator:
    """The pooled spectrum of any number of maps, in constant memory.

    Power is summed over maps before it is averaged over rings, in float64 (on the CPU where the
    device has no float64), so that streamed equals batched to rounding. ::

        accumulator = SpectrumAccumulator()
        for batch in batches:
            accumulator.update(batch)
        spectrum = accumulator.result()

    Args:
        edges, crop, sectors: as in `radial_spectrum`.

    Attributes:
        maps: how many have been added.

    Raises:
        ValueError: unknown edges, a negative crop, fewer than 2 sectors.
    """

    def __init__(self, edges: str = "periodic", crop: int = 0, sectors: int | None = None) -> None:
        # What is wrong is said now, not after the data has gone by.
        radial_spectrum(
            torch.zeros(SMALLEST_SIDE + 2 * max(crop, 0), SMALLEST_SIDE + 2 * max(crop, 0)), edges, crop, sectors
        )
        self.edges, self.crop, self.sectors = edges, crop, sectors
        self.maps = 0
        self._shape: tuple[int, int] | None = None
        self._power: Tensor | None = None

    @torch.no_grad()
    def update(self, maps: Tensor) -> SpectrumAccumulator:
        """Add maps (..., H, W), and return the accumulator. A batch that is refused leaves the sum as it was.

        Raises:
            ValueError: NaN or infinite maps, another size than before, too few pixels.
            TypeError: not real floating.
        """
        maps = _cropped(_checked(maps), self.crop)
        if maps.numel() == 0:
            return self
        shape = tuple(maps.shape[-2:])
        self._require_shape(shape)
        power = sum(_summed(power_spectrum(stack, self.edges)) for stack in _stacks(maps))
        if not torch.isfinite(power).all():
            raise ValueError("a batch holds NaN, infinite or overflowing maps; it was left out")
        self._add(power, math.prod(maps.shape[:-2]), shape)
        return self

    def merge(self, other: SpectrumAccumulator) -> SpectrumAccumulator:
        """Add what another accumulator has seen, for instance in another process, and return this one.

        Args:
            other: which stays as it is.

        Raises:
            ValueError: the two differ in edges, crop, sectors or the size of their maps.
        """
        mine, theirs = ((a.edges, a.crop, a.sectors) for a in (self, other))
        if mine != theirs:
            raise ValueError(f"accumulators with (edges, crop, sectors) = {mine} and {theirs} cannot be merged")
        if other._power is None:
            return self
        self._require_shape(other._shape)
        self._add(other._power, other.maps, other._shape)
        return self

    def result(self) -> RadialSpectrum:
        """The pooled spectrum so far; `maps` says of how many. Raises ValueError before the first map."""
        if self.maps == 0:
            raise ValueError("no maps have been added yet; call update(maps) first")
        power = _ring_average(self._power[..., None] / self.maps, self._shape, self.sectors)
        return _as_spectrum(power, self._shape, self.sectors, self.maps, self.edges)

    def _require_shape(self, shape: tuple[int, int]) -> None:
        if self._shape not in (None, shape):
            raise ValueError(
                f"maps of {shape[0]} x {shape[1]} pixels cannot join a spectrum of "
                f"{self._shape[0]} x {self._shape[1]}; use one accumulator for each size"
            )

    def _add(self, power: Tensor, maps: int, shape: tuple[int, int]) -> None:
        self._power = power if self._power is None else self._power + power.to(self._power.device)
        self.maps += maps
        self._shape = shape


def _summed(power: Tensor) -> Tensor:
    """Sum over maps in float64, on the CPU where the device has no float64."""
    return _float64(power.sum(0)) if power.device.type == "mps" else power.sum(0, dtype=torch.float64)
