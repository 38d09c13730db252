"""Losses on the spectra of activation maps.

Rotman & Wolf 2021 (arXiv 2106.00368) add two terms on spectral properties of activation maps to distillation. Only
their abstract could be read, and it holds no formula: the formulas in this file are ours, not theirs.

All three losses rest on one quantity, the power of each Fourier mode averaged over channels. Calls share no transform:
the whitened loss needs a single one, that of the difference of student and teacher, and no other loss uses it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spectralkd_nb.losses.pairs import checked_pair, map_error
from spectralkd_nb.spectra import (
    PowerLawFit,
    RadialSpectrum,
    by_size,
    fit_power_law,
    mode_frequencies,
    mode_weights,
    power_spectrum,
    require_rings,
    rings_of,
)

BALANCES = {"mode": 0.0, "octave": 2.0}  # taken off alpha: an octave higher up holds four times as many modes
FEWEST_RINGS_FOR_ALPHA = 6  # from fewer, the exponent of one image is mostly noise
WEAKEST_RING = 1e-6  # of the mean power a mode; keeps the logarithm of an empty ring, and its gradient, finite
DEAD_POWER = 1e-12  # maps squared; about what float32 leaves, by rounding, of constant maps of order 1


def spectral_shape_loss(student: Tensor, teacher: Tensor, edges: str = "none") -> Tensor:
    """How far the shapes of two spectra are apart, in ln power. Ours, for Rotman & Wolf 2021 (arXiv 2106.00368). ::

        mean over images of sum_k w_k (ln q_k(student) - ln q_k(teacher))^2
        q_k = (P_k + d) / (V + d),   V = sum_k w_k P_k,   d = 1e-6 V + 1e-12

    P_k is the power of ring k, squared first and then averaged over channels (never the maps averaged); w_k is the
    ring's number of modes, normalised to sum 1. V is the variance within the Nyquist circle, for each mode, so that
    neither loudness nor the number of channels counts. No connector is needed, the order of channels does not matter,
    and with edges="none" neither does a circular shift: the loss knows how much detail there is, not where.

    Maps of two sizes are taken for one picture sampled twice. Then the modes that both can hold are compared, each at
    the same number of cycles across the picture; rings, w_k and V are those of the smaller plane.

    The floor d keeps rings and images without power finite. A dead image counts as a flat spectrum; if it is the
    student's, its gradient is 0. Scale has no influence as long as V is far above 1e-12.

    Args:
        student, teacher: maps (B, C, H, W), at least 4 pixels a side; C, H and W may differ. The teacher gets no
            gradient.
        edges: see `spectra.power_spectrum`.

    Returns:
        A scalar: a squared natural logarithm, without unit; 0 where each image's spectra agree up to a factor.

    Raises:
        ValueError: shapes that do not fit, unknown edges.
        TypeError: maps that are not real floating.
    """
    student_rings, teacher_rings = _common_rings(student, teacher, edges)
    weight = ring_weight(student_rings)
    difference = log_shape(student_rings) - log_shape(teacher_rings)
    return (difference.square() * weight).sum(-1).mean()


def exponent_loss(
    student: Tensor, teacher: Tensor, band: tuple[float, float] | None = None, edges: str = "none"
) -> Tensor:
    """Squared difference of the exponents. Our formula, for Rotman & Wolf 2021 (arXiv 2106.00368). ::

        mean over images of (alpha(student) - alpha(teacher))^2

    alpha is minus the slope of the line through ln P_k against ln f_k, weighted by the number of modes: closed form,
    "weighted" in `spectra.fit_power_law`. P_k, its floor d, and what is done about two sizes are those of
    `spectral_shape_loss`, and so are the invariances. A dead image has alpha 0 and no gradient.

    One image's alpha is noisy: of a Gaussian field its standard error is about 0.4 at 14 pixels, 0.15 at 28. With
    edges="none" it reads at most about 2.7 where maps do not wrap around.

    Args:
        student, teacher: maps (B, C, H, W); C, H and W may differ. The teacher gets no gradient.
        band: (lowest, highest) frequency in cycles a pixel of the smaller map; `spectra.default_band` if None.
        edges: see `spectra.power_spectrum`.

    Returns:
        A scalar: a squared exponent, without unit.

    Raises:
        ValueError: fewer than 6 rings in the band (square maps under 14 pixels), shapes that do not fit, unknown edges.
        TypeError: maps that are not real floating.
    """
    student_fit, teacher_fit = (_fit_line(rings, band) for rings in _common_rings(student, teacher, edges))
    return (student_fit.alpha - teacher_fit.alpha).square().mean()


def whitened_spectral_loss(student: Tensor, teacher: Tensor, alpha: float, balance: str = "mode") -> Tensor:
    """Squared difference of Fourier coefficients, weighted against the law. Our formula, for Rotman & Wolf 2021. ::

        mean over images and channels of sum_modes w(f) |F(student - teacher)|^2 / (H W)^2
        w(f) = (f / f_1)^beta up to a factor,   f_1 = 1 / min(H, W),   mean over the full plane's modes = 1

    Under the law P = A f^-alpha a difference in proportion to the maps lies mostly where power does. beta = alpha
    weighs every mode alike (balance="mode"), beta = alpha - 2 every octave (balance="octave"), because an octave
    higher up holds four times as many modes. beta = 0 is the mean squared difference of the maps, the hint loss
    (Parseval). The mean of the maps, and modes below f_1 on maps that are not square, take the weight of f_1. Phase
    counts, so the loss is not invariant to shifts. (Rotman & Wolf 2021: arXiv 2106.00368, abstract only.)

    Args:
        student, teacher: maps of one shape (B, C, H, W), a connector applied before. The teacher gets no gradient.
        alpha: the teacher's measured exponent.
        balance: "mode" or "octave".

    Returns:
        A scalar, in units of maps squared, averaged over all elements.

    Raises:
        ValueError: shapes that differ, unknown balance, alpha beyond all measure.
        TypeError: not real floating.
    """
    if balance not in BALANCES:
        raise ValueError(f"balance={balance!r} is not known; choose one of {', '.join(map(repr, BALANCES))}")
    error = map_error(student, teacher)
    power = _ChannelPower.apply(error)
    share = _shares_on(*error.shape[-2:], float(alpha) - BALANCES[balance], power.dtype, power.device)
    return (power * share).sum((-2, -1)).mean()


# --- maps to power -------------------------------------------------------------------------------


class _ChannelPower(torch.autograd.Function):
    """Power |F|^2 / (H W) of each half-plane mode, mean included, averaged over channels: (B, C, H, W) to (B, H, W').

    The gradient is one real inverse transform; left to itself, autograd takes a complex one of the full plane.
    """

    @staticmethod
    def forward(ctx, maps: Tensor) -> Tensor:
        modes = torch.fft.rfft2(maps)
        ctx.save_for_backward(modes)
        ctx.width = maps.shape[-1]
        return torch.view_as_real(modes).square().mean(1).sum(-1) / math.prod(maps.shape[-2:])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        (modes,) = ctx.saved_tensors
        _, channels, height, _ = modes.shape
        # The inverse of the half plane counts every column as often as the full plane has it; forward did not.
        per_mode = (
            2 / (channels * height * ctx.width) * gradient / mode_weights(ctx.width, gradient.device).to(gradient)
        )
        columns = torch.fft.ifft(modes * per_mode[:, None], dim=-2, norm="forward")
        return torch.fft.irfft(columns, n=ctx.width, norm="forward")


@by_size
def law_shares(height: int, width: int, beta: float) -> Tensor:
    """What each half-plane mode counts in a mean over the full plane weighted by (f / f_1)^beta; float64, sum 1."""
    side = min(height, width)
    radius = torch.hypot(*mode_frequencies(height, width, "cpu")) * side
    weights = radius.clamp(min=1) ** beta * mode_weights(width)
    shares = weights / weights.sum()
    if not torch.isfinite(shares).all():
        raise ValueError(f"no weights follow (f / f_1)^{beta:g} on maps of {height} x {width} pixels; check alpha")
    return shares


@by_size
def _shares_on(height: int, width: int, beta: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return law_shares(height, width, beta).to(device=device, dtype=dtype)


# --- power to rings ------------------------------------------------------------------------------


def _common_rings(student: Tensor, teacher: Tensor, edges: str) -> tuple[RadialSpectrum, RadialSpectrum]:
    """Ring powers of both, (B, rings), over the modes that both sizes of map can hold."""
    student, teacher = checked_pair(student, teacher)
    height, width = (min(sides) for sides in zip(student.shape[-2:], teacher.shape[-2:], strict=True))
    require_rings(height, width)

    def rings(maps: Tensor) -> RadialSpectrum:
        # Without edge treatment power_spectrum differs only in the mean of the map, which is in no ring.
        power = _ChannelPower.apply(maps) if edges == "none" else power_spectrum(maps, edges).mean(1)
        return rings_of(_low_modes(power, height, width), (height, width), edges)

    return rings(student), rings(teacher)


def _low_modes(power: Tensor, height: int, width: int) -> Tensor:
    """The modes (B, height, width // 2 + 1) of a smaller plane, at the same cycles across the picture."""
    rows = power.shape[-2]
    if rows > height:
        power = torch.cat([power[:, : (height + 1) // 2], power[:, rows - height // 2 :]], 1)
    return power[..., : width // 2 + 1]


def ring_weight(rings: RadialSpectrum) -> Tensor:
    return (rings.modes / rings.modes.sum()).to(rings.power)


def _floor(rings: RadialSpectrum) -> Tensor:
    """(B, 1), what is added to every ring."""
    return WEAKEST_RING * _variance(rings) + DEAD_POWER


def _variance(rings: RadialSpectrum) -> Tensor:
    """(B, 1), mean power of the modes in all rings."""
    return (rings.power * ring_weight(rings)).sum(-1, keepdim=True)


def log_shape(rings: RadialSpectrum) -> Tensor:
    floor = _floor(rings)
    return (rings.power + floor).log() - (_variance(rings) + floor).log()


def _fit_line(rings: RadialSpectrum, band: tuple[float, float] | None) -> PowerLawFit:
    fit = fit_power_law(replace(rings, power=rings.power + _floor(rings)), band, "weighted")
    if fit.rings < FEWEST_RINGS_FOR_ALPHA:
        raise ValueError(
            f"maps of {rings.shape[0]} x {rings.shape[1]} pixels have {fit.rings} rings between {fit.band[0]:.3g} and "
            f"{fit.band[1]:.3g} cycles a pixel, and an exponent needs {FEWEST_RINGS_FOR_ALPHA}; take an earlier layer, "
            "or the shape loss"
        )
    return fit
