"""What one operation of a network does to the power spectrum of a Gaussian field, by theory.

Every function takes the expected power of each Fourier mode and returns that of the result, on the same grid: nothing
is drawn, nothing is fitted. The path goes through the autocovariance, the inverse transform of power (Wiener &
Khinchin): a filter multiplies power, a ReLU bends each value of the autocovariance by a known curve, a stride keeps
every second value of it.

The assumptions: the field is periodic, the same everywhere on average (stationary), and Gaussian where a ReLU is met.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import (
    PowerLawFit,
    RadialSpectrum,
    fit_power_law,
    mode_frequencies,
    radial_spectrum,
    rings_of,
)

__all__ = [
    "OPERATIONS",
    "Trial",
    "after_filter",
    "after_relu",
    "after_stride",
    "power_law_power",
    "predicted_exponent",
    "rectified",
    "try_operation",
]

BINOMIAL = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
DIFFERENCE = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]]) / 4
BOX = torch.full((2, 2), 0.25)


def power_law_power(size: int, alpha: float) -> Tensor:
    """Expected power of `pictures.power_law_field(size, alpha)`: f^-alpha, without a mean, of variance 1.

    Args:
        size: pixels a side, even.
        alpha: exponent of power.

    Returns:
        (size, size // 2 + 1) float64, the half plane of `spectra.power_spectrum`.
    """
    radius = torch.hypot(*mode_frequencies(size, size))
    radius[0, 0] = math.inf
    power = radius**-alpha
    power[0, 0] = 0
    return power / autocovariance(power)[0, 0]


def after_filter(power: Tensor, kernel: Tensor) -> Tensor:
    """Power after a convolution with one kernel: P ``|h|^2``, h the kernel's transfer function. Exact.

    Args:
        power: (H, W // 2 + 1) of an even W.
        kernel: (h, w), no larger than the field.

    Returns:
        (H, W // 2 + 1) float64.
    """
    height, width = size_of(power)
    transfer = torch.fft.rfft2(kernel.double(), s=(height, width))
    return power * (transfer.real.square() + transfer.imag.square())


def after_relu(power: Tensor) -> Tensor:
    """Power after a ReLU of a Gaussian field of mean 0, less the mean that the ReLU gives it.

    With correlation r between two pixels of variance 1, E[relu relu'] = (sqrt(1 - r^2) + r (pi - arccos r)) / 2 pi, the
    arc-cosine kernel of degree 1 (Cho & Saul 2009, eq. 6); the squared mean, 1 / 2 pi, is taken off.

    Args:
        power: (H, W // 2 + 1) of an even W, without a mean.

    Returns:
        (H, W // 2 + 1) float64.
    """
    covariance = autocovariance(power)
    return _power(rectified(covariance) - covariance[0, 0] / (2 * math.pi))


def rectified(covariance: Tensor) -> Tensor:
    """E[relu relu'] of a Gaussian field of mean 0, from its covariance; the mean is not taken off.

    Args:
        covariance: (H, W), of the field with itself shifted, the variance first.

    Returns:
        (H, W), by the formula of `after_relu`.
    """
    variance = covariance[0, 0]
    r = (covariance / variance).clamp(-1, 1)
    return variance * ((1 - r.square()).sqrt() + r * (math.pi - torch.arccos(r))) / (2 * math.pi)


def after_stride(power: Tensor, stride: int = 2) -> Tensor:
    """Power after keeping every second row and column: what lies above the new Nyquist frequency is folded back. Exact.

    Args:
        power: (H, W // 2 + 1) of an even W, H and W divisible by the stride.
        stride: every so manyth pixel is kept.

    Returns:
        (H / stride, W / stride // 2 + 1) float64; frequencies now in cycles a pixel of the smaller map. Other functions
        here read it right if W / stride is even too.

    Raises:
        ValueError: H or W not divisible by the stride.
    """
    height, width = size_of(power)
    if height % stride or width % stride:
        raise ValueError(f"{height} x {width} pixels cannot be divided by a stride of {stride}")
    return _power(autocovariance(power)[::stride, ::stride])


def predicted_exponent(power: Tensor, band: tuple[float, float] | None = None) -> PowerLawFit:
    """The power law that `fit_power_law` finds in an expected spectrum, with the same rings, band and weights.

    Args:
        power: (H, W // 2 + 1) of an even W.
        band: see `fit_power_law`, whose errors these are.
    """
    return fit_power_law(rings_of(power, size_of(power)), band)


def size_of(power: Tensor) -> tuple[int, int]:
    """(H, W) of the maps behind a half plane of power; W is taken to be even."""
    return power.shape[0], 2 * (power.shape[1] - 1)


def autocovariance(power: Tensor) -> Tensor:
    """(H, W) float64, at every shift, from power (H, W // 2 + 1)."""
    return torch.fft.irfft2(power.double(), s=size_of(power))


def _power(autocovariance: Tensor) -> Tensor:
    power = torch.fft.rfft2(autocovariance).real.clamp(min=0)
    power[0, 0] = 0
    return power


# --- the bench of lesson 2: each operation, as torch does it and as theory says ----------------------


def _convolve(maps: Tensor, kernel: Tensor, stride: int = 1) -> Tensor:
    """Circular convolution, so that theory's assumption of a periodic field holds."""
    rows, columns = kernel.shape[-2:]
    padded = F.pad(maps[:, None], ((columns - 1) // 2, columns // 2, (rows - 1) // 2, rows // 2), mode="circular")
    return F.conv2d(padded, kernel[None, None].to(maps), stride=stride)[:, 0]


def _normalise(maps: Tensor) -> Tensor:
    return F.batch_norm(maps[:, None], None, None, training=True)[:, 0]


Operation = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]

# name: (what torch does to maps (N, H, W), what theory does to power, or None where there is no closed form)
OPERATIONS: dict[str, Operation] = {
    "smoothing": (lambda m: _convolve(m, BINOMIAL), lambda p: after_filter(p, BINOMIAL)),
    "Laplacian": (lambda m: _convolve(m, DIFFERENCE), lambda p: after_filter(p, DIFFERENCE)),
    "ReLU": (torch.relu, after_relu),
    "batch norm": (_normalise, lambda p: p),
    "2 x 2 average": (lambda m: _convolve(m, BOX, 2), lambda p: after_stride(after_filter(p, BOX))),
    "2 x 2 maximum": (lambda m: F.max_pool2d(m[:, None], 2)[:, 0], None),
    "stride 2": (lambda m: m[:, ::2, ::2], after_stride),
    "residual sum": (
        lambda m: m + 0.3 * _convolve(m, BINOMIAL),
        lambda p: after_filter(p, F.pad(torch.ones(1, 1), (1, 1, 1, 1)) + 0.3 * BINOMIAL),
    ),
}


@dataclass(frozen=True)
class Trial:
    """One operation on Gaussian fields of a known exponent: what went in, what came out, what theory says.

    Attributes:
        name: of the operation.
        alpha: exponent of the fields.
        before, after: measured ring averages.
        predicted: those of theory, or None where there is no closed form.
    """

    name: str
    alpha: float
    before: RadialSpectrum
    after: RadialSpectrum
    predicted: RadialSpectrum | None

    def exponents(self, band: tuple[float, float] = (0.02, 0.35)) -> dict[str, float]:
        """alpha before, after, and as predicted (NaN without a prediction), over a band in cycles a pixel."""
        spectra = {"before": self.before, "after": self.after, "predicted": self.predicted}
        return {name: float(fit_power_law(s, band).alpha) if s else math.nan for name, s in spectra.items()}


def try_operation(name: str, alpha: float, size: int = 128, fields: int = 24, seed: int = 0) -> Trial:
    """Put Gaussian power-law fields through one of `OPERATIONS`, and theory beside it.

    Args:
        name: of the operation.
        alpha: exponent of the fields.
        size: their side in pixels, even; a multiple of 4 where the operation halves it.
        fields: how many are drawn.
        seed: of the draw.

    Raises:
        ValueError: an unknown operation, no fields, an odd size where the operation has a stride.
    """
    if name not in OPERATIONS:
        raise ValueError(f"there is no operation {name!r}; there are {', '.join(OPERATIONS)}")
    operation, theory = OPERATIONS[name]
    maps = power_law_field(size, alpha, fields, torch.Generator().manual_seed(seed))
    expected = theory(power_law_power(size, alpha)) if theory else None
    return Trial(
        name,
        alpha,
        radial_spectrum(maps, "none").average(),
        radial_spectrum(operation(maps), "none").average(),
        None if expected is None else rings_of(expected, size_of(expected)),
    )
