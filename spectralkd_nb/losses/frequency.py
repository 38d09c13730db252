"""Which spatial frequencies a loss on features listens to: its error and its gradient, taken apart by frequency.

No edge treatment anywhere in this file: the loss sees the maps as they are, and only then is Parseval's theorem exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from spectralkd_nb.losses.pairs import checked_pair, map_error
from spectralkd_nb.losses.spectral import law_shares, log_shape, ring_weight
from spectralkd_nb.spectra import RadialSpectrum, mode_frequencies, mode_weights, radial_spectrum

Loss = Callable[[Tensor, Tensor], Tensor]


# --- the error -----------------------------------------------------------------------------------


@torch.no_grad()
def error_spectrum(student: Tensor, teacher: Tensor) -> RadialSpectrum:
    """Power spectrum of student - teacher, averaged over images and channels.

    A ring's power is its mean over modes: what the squared error has by mode. `octave_shares` has it by octave.

    Args:
        student, teacher: maps (B, C, H, W) of one shape, at least 4 pixels a side.

    Returns:
        A spectrum with power (rings,), float64, in units of maps squared.

    Raises:
        ValueError: unequal shapes, no elements, NaN, maps too small.
        TypeError: not real floating.
    """
    return radial_spectrum(map_error(student, teacher), "none").average()


@dataclass(frozen=True)
class OctaveShares:
    """How a weighted squared error is divided among octaves of frequency. All shares together are 1.

    Attributes:
        lower, upper: (octaves,) edges in cycles a pixel, lowest octave first; a mode on an edge belongs below it.
        share: (octaves,) of the loss, float64.
        modes: (octaves,) full-plane modes in each.
        mean: share of the maps' means, one mode.
        corners: share of the modes beyond 0.5 cycles a pixel, in the corners of the plane.
        corner_modes: how many these are.
        beta: exponent of the weights (f / f_1)^beta.
        shape: (H, W) of the maps, pixels.
    """

    lower: Tensor
    upper: Tensor
    share: Tensor
    modes: Tensor
    mean: float
    corners: float
    corner_modes: int
    beta: float
    shape: tuple[int, int]


@torch.no_grad()
def octave_shares(student: Tensor, teacher: Tensor, beta: float = 0.0) -> OctaveShares:
    """How much of the squared error lies in each octave, weighted as `whitened_spectral_loss` weighs it.

    beta = 0 is the mean squared difference of maps, the hint loss. Octaves count down from Nyquist, 1/4 to 1/2, 1/8 to
    1/4 and so on, to the one that holds the lowest mode. An error with power f^-alpha has as much in each octave at
    beta = alpha - 2, and in each mode at beta = alpha; in the two lowest octaves so few modes lie, 4 and 8 on a large
    square map, that the first is a tenth below its due and the second a third. Our own measure.

    Args:
        student, teacher: maps (B, C, H, W) of one shape.
        beta: of the weights (f / f_1)^beta.

    Returns:
        `OctaveShares`, its tensors (octaves,) with the lowest octave first.

    Raises:
        ValueError: unequal shapes, no elements, no error at all or not a finite one, beta beyond all measure.
        TypeError: not real floating.
    """
    error = map_error(student, teacher)
    height, width = error.shape[-2:]
    modes = torch.fft.rfft2(error, norm="ortho")
    power = torch.view_as_real(modes).square().sum(-1).mean((0, 1)).cpu().double()
    octaves = max(height, width).bit_length() - 1
    edges = 0.5 ** torch.arange(octaves + 1, 0, -1, dtype=torch.float64)
    # The mean comes before the first edge, the corners after the last. hypot may put a mode a rounding above an edge.
    part = torch.bucketize(torch.hypot(*mode_frequencies(height, width)) * (1 - 1e-12), edges)

    def by_part(values: Tensor) -> Tensor:
        return values.new_zeros(octaves + 2).index_add_(0, part.flatten(), values.flatten())

    weighted = by_part(power * law_shares(height, width, beta))
    counted = by_part(mode_weights(width).expand(height, -1))
    total = weighted.sum()
    if not 0 < total < math.inf:
        raise ValueError(f"the weighted squared error is {float(total):g}; there is nothing to divide among octaves")
    share = weighted / total
    return OctaveShares(
        lower=edges[:-1],
        upper=edges[1:],
        share=share[1:-1],
        modes=counted[1:-1].long(),
        mean=float(share[0]),
        corners=float(share[-1]),
        corner_modes=int(counted[-1]),
        beta=float(beta),
        shape=(height, width),
    )


def law_weights(height: int, width: int, beta: float) -> Tensor:
    """w(f) of `whitened_spectral_loss`, (H, W // 2 + 1) float64; its mean over the full plane's modes is 1."""
    return law_shares(height, width, beta) / mode_weights(width) * (height * width)


def weighted_maps(maps: Tensor, beta: float) -> Tensor:
    """Maps (..., H, W) with each mode times sqrt(w(f)): their mean square is what the weighted loss makes of them."""
    height, width = maps.shape[-2:]
    gain = law_weights(height, width, beta).sqrt().to(maps)
    return torch.fft.irfft2(torch.fft.rfft2(maps) * gain, s=(height, width))


@torch.no_grad()
def shape_distance(student: RadialSpectrum, teacher: RadialSpectrum) -> float:
    """How far the shapes of two spectra are apart: root mean square difference of ln power over modes.

    The root of `spectral_shape_loss` between two spectra that are averaged over images already. That loss averages
    after it compares, image by image, so it is larger: it also sees how single images scatter.

    Args:
        student, teacher: power (rings,) of maps of one size.

    Returns:
        In natural logarithms: a typical mode's power differs by the factor exp of it.

    Raises:
        ValueError: maps of two sizes, or several spectra at once.
    """
    if student.shape != teacher.shape or student.power.ndim != 1 or teacher.power.ndim != 1:
        raise ValueError(
            f"spectra of maps of {student.shape} and {teacher.shape} pixels, with power {tuple(student.power.shape)} "
            f"and {tuple(teacher.power.shape)}; compare two averages over maps of one size"
        )
    difference = log_shape(student) - log_shape(teacher)
    return float((difference.square() * ring_weight(student)).sum().sqrt())


# --- the gradient --------------------------------------------------------------------------------


def gradient_spectrum(loss: Loss, student: Tensor, teacher: Tensor) -> RadialSpectrum:
    """Power spectrum of a loss's gradient with respect to the student's maps, averaged over images and channels.

    Where it has power the loss moves the student. The hint loss of N elements has the error's times (2 / N)^2, the
    whitened loss that times w(f)^2. Our own measure.

    Args:
        loss: of two tensors of maps, as every loss of this package.
        student, teacher: maps (B, C, H, W) that it takes, at least 4 pixels a side for the student's; both are copied,
            so neither gets a gradient.

    Returns:
        A spectrum with power (rings,), float64, in units of (loss / maps)^2.

    Raises:
        ValueError: a loss that gives the student no gradient, a gradient that is not finite, what the loss refuses.
    """
    return radial_spectrum(_gradient(loss, student, teacher), "none").average()


def gradient_agreement(losses: Mapping[str, Loss], student: Tensor, teacher: Tensor) -> Tensor:
    """Cosines between the gradients that losses give the student's maps: 1 where they pull the same way.

    Our own measure.

    Args:
        losses, student, teacher: as in `gradient_spectrum`.

    Returns:
        (losses, losses), float64, in the order of `losses`; NaN where a gradient is 0 everywhere.

    Raises:
        ValueError: as `gradient_spectrum`.
    """
    gradients = torch.stack([_gradient(loss, student, teacher).flatten().cpu().double() for loss in losses.values()])
    products = gradients @ gradients.T
    lengths = products.diagonal().sqrt()
    return (products / torch.outer(lengths, lengths)).clamp(-1, 1)


def _gradient(loss: Loss, student: Tensor, teacher: Tensor) -> Tensor:
    # The caller may well be inside no_grad or inference mode, where nothing is recorded.
    with torch.inference_mode(False), torch.enable_grad():
        student, teacher = (maps.detach().clone() for maps in checked_pair(student, teacher))
        student.requires_grad_()
        value = loss(student, teacher)
        if isinstance(value, Tensor) and value.numel() == 1 and value.requires_grad:
            (gradient,) = torch.autograd.grad(value, student, allow_unused=True)
            if gradient is not None:
                return gradient
    raise ValueError(
        "the loss gives the student no gradient; it must return one number, computed from the student's maps by "
        "operations that can be differentiated"
    )
