"""How alpha should move with depth, from the kernels alone.

Two ways to the same thing. `linear_filter_gain`: a convolution multiplies power by its transfer T(f), so the slope of
ln T on log-log axes is added to alpha, layer after layer. `depth_recursion`: with a ReLU in every layer the whole
spectrum is followed, mode by mode. Rotman & Wolf 2021 (arXiv 2106.00368) have an analysis of their own; only its
abstract could be read, and what is here is not it.

What both assume: wide layers, kernels that do not depend on what they are given, one resolution, circular padding; and
the recursion, that maps are Gaussian before each ReLU and the same everywhere on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from spectralkd_nb.networks.random_network import SIDE, tap_covariance
from spectralkd_nb.operations import autocovariance, predicted_exponent, rectified, size_of
from spectralkd_nb.spectra import default_band, fit_power_law, mode_frequencies, mode_weights, rings_of

ESTIMATORS = ("modes", "rings")
NOTHING = 1e-20  # of the largest transfer: what rounding leaves of a mode that is stopped


def kernel_transfer(weights: Tensor, size: int = 128) -> Tensor:
    """What a convolution multiplies power by, T(f): ``|h(f)|^2`` summed over inputs and averaged over outputs.

    Exact for the pooled average if the inputs have one spectrum and are incoherent: no two channels have anything in
    common. Otherwise their own and their cross spectra belong between the two h, and T depends on what the layer is
    given. Our own derivation.

    Args:
        weights: (outputs, inputs, h, w), or one kernel (h, w).
        size: of the maps in pixels, even.

    Returns:
        (size, size // 2 + 1) float64, the half plane of `spectra.power_spectrum`.

    Raises:
        ValueError: weights of another shape, empty or not finite; a size that is odd or smaller than the kernel.
    """
    weights = torch.as_tensor(weights).detach().cpu().double()
    if weights.ndim not in (2, 4):
        raise ValueError(f"weights have shape {tuple(weights.shape)}; (outputs, inputs, h, w) or (h, w) is wanted")
    if not weights.numel() or not weights.isfinite().all():
        raise ValueError(f"weights of shape {tuple(weights.shape)} are empty, or hold NaN or infinite values")
    if size % 2 or size < max(weights.shape[-2:]):
        raise ValueError(f"size={size} must be even and no smaller than the kernel")
    h = torch.fft.rfft2(_root(weights), s=(size, size))
    return (h.real.square() + h.imag.square()).sum(0)


def _root(weights: Tensor) -> Tensor:
    """As few kernels (n, h, w) as have the summed |h(f)|^2 of all, averaged over outputs: n is h w at the most.

    Power is quadratic in the taps, so only their products count, and R of taps = Q R has the same ones. Not a root of
    the products: their rounding would open the modes that a filter stops.
    """
    outputs = len(weights) if weights.ndim == 4 else 1
    taps = weights.flatten(-2).reshape(-1, math.prod(weights.shape[-2:])) / outputs**0.5
    return torch.linalg.qr(taps, mode="r").R.unflatten(1, weights.shape[-2:])


def random_kernel_transfer(size: int = 128, correlation: float = 0.0, shared: float = 0.0) -> Tensor:
    """The expected T(f) of `networks.draw_kernels`: sum over taps d, d' of Cov(w_d, w_d') exp(-2 pi i f (d - d')).

    Our own derivation. Taps that know nothing of each other make it flat. Its mean over all modes is 2, whatever the
    arguments.

    Args:
        size: of the maps in pixels, even.
        correlation, shared: see `draw_kernels`.

    Returns:
        (size, size // 2 + 1) float64.

    Raises:
        ValueError: a correlation that taps cannot have; a size that is odd or below 3.
    """
    # The rows of a root of the covariance, as kernels, have the expected power of a drawn one.
    along = torch.linalg.cholesky(tap_covariance(correlation)).T
    separable = torch.einsum("ai,bj->abij", along, along).flatten(0, 1)
    kernels = torch.cat([separable, shared * torch.ones(1, SIDE, SIDE, dtype=torch.float64)])
    return kernel_transfer(kernels[None], size) * 2 / (SIDE**2 * (1 + shared**2))


def linear_filter_gain(
    weights: Tensor, size: int = 128, band: tuple[float, float] | None = None, estimator: str = "modes"
) -> float:
    """kappa: how much a convolution adds to alpha, read from its weights.

    alpha, as the slope of a least-squares line, is a linear functional of ln P. A filter adds ln T to ln P, so it adds
    the same functional of ln T to alpha, whatever the spectrum: alpha_L = alpha_0 + kappa_1 + ... + kappa_L. Our own
    derivation.

    Args:
        weights: (outputs, inputs, h, w), or one kernel (h, w); stride, dilation and groups are not known from them.
        size: of the maps in pixels, even.
        band, estimator: see `transfer_gain`.

    Returns:
        kappa, without units; positive where long waves pass better.

    Raises:
        ValueError: as `kernel_transfer` and `transfer_gain`.
    """
    return transfer_gain(kernel_transfer(weights, size), band, estimator)


def filter_gains(
    network: nn.Module, size: int = 128, band: tuple[float, float] | None = None, estimator: str = "modes"
) -> dict[str, float]:
    """kappa of every convolution with kernels of more than one tap, by path, in the order of the network.

    Args:
        network: any.
        size, band, estimator: see `linear_filter_gain`, whose errors these are; one size and band for all, whatever
            size their maps have.
    """
    convolutions = {path: m for path, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    return {
        path: linear_filter_gain(module.weight, size, band, estimator)
        for path, module in convolutions.items()
        if max(module.kernel_size) > 1
    }


def transfer_gain(transfer: Tensor, band: tuple[float, float] | None = None, estimator: str = "modes") -> float:
    """kappa of a filter whose transfer T(f) is known: minus the slope of ln T against ln f.

    Two estimators of our own, which agree where T depends on ``|f|`` alone:

    - "modes": a line through ln T of all modes of the band, every mode alike. Exactly additive.
    - "rings": T is averaged over rings first, as `radial_spectrum` averages power, and the line is weighted by modes.
      The logarithm of an average is larger than the average of logarithms: this is what a fit to rings sees of the
      filter, and no longer additive if T differs along a ring.

    Args:
        transfer: (H, W // 2 + 1), from `kernel_transfer` or `random_kernel_transfer`; or power itself, for its alpha.
        band: (lowest, highest) in cycles a pixel; `default_band` if None.
        estimator: "modes" or "rings".

    Returns:
        kappa, without units; positive where long waves pass better.

    Raises:
        ValueError: an unknown estimator; a band with fewer than two frequencies; a filter that stops a mode of the band
            entirely, which no slope describes.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator={estimator!r} is not known; choose one of {', '.join(map(repr, ESTIMATORS))}")
    size = size_of(transfer)
    low, high = band or default_band(size)
    if estimator == "rings":
        return float(fit_power_law(rings_of(transfer, size), (low, high), "weighted").alpha)
    radius = torch.hypot(*mode_frequencies(*size))
    inside = (radius > 0) & (radius >= low) & (radius <= high)
    if len(radius[inside].unique()) < 2:
        raise ValueError(f"no 2 frequencies lie between {low:.3g} and {high:.3g} cycles a pixel; widen the band")
    passed = transfer[inside].double()
    stopped = passed <= NOTHING * passed.max()
    if stopped.any():
        at = float(radius[inside][stopped][0])
        raise ValueError(f'the filter lets nothing of {at:.3f} cycles a pixel through; take estimator="rings"')
    weight = mode_weights(size[1]).expand_as(transfer)[inside]
    x = radius[inside].log()
    x = x - (weight * x).sum() / weight.sum()
    return float(-(weight * x * passed.log()).sum() / (weight * x.square()).sum())


def depth_recursion(
    power: Tensor,
    transfers: Sequence[Tensor] | int,
    *,
    batch_norm: bool = True,
    skip: bool = False,
    post_activation: bool = False,
    relu: bool = True,
    band: tuple[float, float] | None = None,
) -> Tensor:
    """alpha after 0, 1, 2, ... layers of a wide network with independent kernels, with no parameter to fit.

    The expected autocovariance C is followed, averaged over channels. Convolution: its transform is multiplied by T.
    Batch norm: its mean is taken off and C(0) = 1. ReLU: with r = C / C(0), C becomes
    C(0) (sqrt(1 - r^2) + r (pi - arccos r)) / 2 pi (Cho & Saul 2009, eq. 6). Without a mean and up to a factor it is ::

        P' = F[g(F^-1[T P])],   g(r) = (sqrt(1 - r^2) + r (pi - arccos r) - 1) / (pi - 1).

    Slopes g'(0) = 0.73 and g'(1) = 1.47: what is far apart grows unlike, and so does what is near. Without batch norm
    the mean stays, grows, and makes the ReLU ever more linear. With a skip, C' = C + C of the branch: the branch's
    kernels are independent of x, so no cross term is expected. With post_activation x comes out of a ReLU and is not
    Gaussian, so that the ReLU after the sum is no longer the one of the formula: there the recursion goes astray. But
    for the ReLU's formula it is our own.

    Args:
        power: (H, W // 2 + 1) of an even W, expected power of the input's modes, e.g. `operations.power_law_power`; or
            measured.
        transfers: T of each layer, (H, W // 2 + 1) as the power; or a number of layers, whose kernels are white.
        batch_norm, skip, post_activation, relu: as in `networks.RandomNetwork`, with as many inputs as channels.
        band: of the fits, see `fit_power_law`. Compare only with what was measured on this grid and in this band.

    Returns:
        (layers + 1,) float64, alpha of the input first, fitted to rings as `fit_power_law` does.

    Raises:
        ValueError: power that is not finite, post_activation without a skip, a transfer of another shape, a band with
            fewer than 2 rings.
    """
    if not power.isfinite().all():
        raise ValueError("power holds NaN or infinite values")
    if post_activation and not skip:
        raise ValueError("post_activation says where a skip ends; set skip=True too")
    if isinstance(transfers, int):
        transfers = [torch.full_like(power, 2, dtype=torch.float64)] * transfers
    covariance = autocovariance(power)
    alphas = [predicted_exponent(power, band).alpha]
    for number, transfer in enumerate(transfers):
        if transfer.shape != power.shape:
            shapes = f"T has shape {tuple(transfer.shape)} and power {tuple(power.shape)}"
            raise ValueError(f"{shapes}; take one grid for both")
        if not skip:
            covariance = _activated(_filtered(covariance, transfer), batch_norm, relu)
        elif post_activation:
            covariance = _activated(covariance + _filtered(covariance, transfer), batch_norm, relu)
        elif number == 0:
            covariance = _filtered(covariance, transfer)
        else:
            covariance = covariance + _filtered(_activated(covariance, batch_norm, relu), transfer)
        alphas.append(predicted_exponent(torch.fft.rfft2(covariance).real.clamp(min=0), band).alpha)
    return torch.stack(alphas)


def _filtered(covariance: Tensor, transfer: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(covariance) * transfer, s=tuple(covariance.shape))


def _activated(covariance: Tensor, batch_norm: bool, relu: bool) -> Tensor:
    """Batch norm, then ReLU, as far as there are any."""
    if batch_norm:
        covariance = covariance - covariance.mean()
        covariance = covariance / covariance[0, 0]
    return rectified(covariance) if relu else covariance
