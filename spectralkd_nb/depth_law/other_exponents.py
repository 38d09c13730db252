"""Two more power-law exponents of a layer, which are not ours and are easily taken for it.

All three are called alpha by their authors:

- `spectra.spectral_exponent`: how power falls with spatial frequency f. Of all channels together, so it is the same
  after any rotation of channels into one another.
- `eigenspectrum_exponent`: how the eigenvalues of the covariance of channels fall with their rank n. The same after any
  shuffle of pixels.
- `weight_tail_exponent`: how the density of the weights' eigenvalues falls with the eigenvalue itself. It never sees a
  picture.

Either of the first two can be moved without the other: shuffle the pixels, or mix channels of one spectrum. Nothing
says that the three should go together over layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spectralkd_nb.depth_law.fits import line_through

FEWEST = 8  # channels, or eigenvalues of the weights
ROUNDING = 8  # units in the last place: what varies no more than this does not vary


# --- the covariance of channels ------------------------------------------------------------------


def eigenspectrum_exponent(maps: Tensor, ranks: tuple[int, int] | None = None) -> float:
    """a of lambda_n = A n^-a, where lambda_n is the n-th largest eigenvalue of the covariance of channels.

    The exponent of Stringer et al. 2019, Nature 571:361: neurons there are channels here, and their stimuli are every
    pixel of every image. The line through ln lambda against ln n is unweighted, as in the code of Nassar et al.
    2020, NeurIPS (github.com/josuenassar/power_law); that of Stringer et al. weighs rank n by 1 / n. Their neurons are
    noisy, so they cross-validate the eigenvalues (cvPCA); a network answers twice alike, and needs none of it.

    Where a pixel is, is of no account: shuffled pixels have the same exponent, to rounding.

    Args:
        maps: (B, C, H, W), C >= 8, or (samples, neurons); real, on any device. Many more samples than channels are
            wanted, and neighbouring pixels, being much alike, are few.
        ranks: (first, last) of the line, counted from 1, both included; max(2, C // 20) to C // 2 if None. The first
            eigenvalues stand for what all channels share. The late ones are the ones that too few samples make too
            small: of 64 channels whose law is n^-1, 100 samples read 1.1 at ranks 3 to 32, and 1.5 at 3 to 60. With
            C = 16 the default leaves 7 points, too few to say that it is a law. The code of Stringer et al. takes 10 to
            500 of 2,800, and of fewer eigenvalues no more than the first 55 %.

    Returns:
        a, without units.

    Raises:
        ValueError: another number of dimensions; fewer than 8 channels; constant maps, or values that are not finite;
            ranks that are not there, or that are beyond the directions in which the channels vary at all.
        TypeError: maps that are not real floating.
    """
    maps = _checked(maps, "maps", "(B, C, H, W) or (samples, neurons)")
    channels = maps.shape[1]
    if channels < FEWEST:
        raise ValueError(f"{channels} channels are too few for an eigenspectrum; take a layer with {FEWEST} or more")
    first, last = _checked_ranks(ranks, channels)
    values, floor = _eigenvalues_of_channels(maps)
    varying = int((values > floor).sum())
    if varying == 0:
        raise ValueError("the maps are constant, and have no eigenspectrum; take a layer that is alive")
    if last > varying:
        raise ValueError(
            f"the {channels} channels vary in {varying} directions only, so there is no eigenvalue of rank {last}; "
            f"give ranks up to {varying}, or more samples"
        )
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    return -line_through(rank.log(), values[first - 1 : last].log()).slope


def _checked(values: Tensor, name: str, wanted: str) -> Tensor:
    values = torch.as_tensor(values).detach()
    if not values.is_floating_point():
        raise TypeError(f"{name} are {values.dtype}; real floating ones are wanted, for instance {name}.float()")
    if values.ndim not in (2, 4):
        raise ValueError(f"{name} have shape {tuple(values.shape)}; {wanted} is wanted")
    if values.numel() == 0:
        raise ValueError(f"{name} have shape {tuple(values.shape)}, so there are none; pass at least one")
    if not values.isfinite().all():
        raise ValueError(f"{name} hold NaN or infinite values; look for the layer where they begin")
    return values


def _checked_ranks(ranks: tuple[int, int] | None, channels: int) -> tuple[int, int]:
    first, last = ranks or (max(2, channels // 20), channels // 2)
    if not 1 <= first < last <= channels:
        raise ValueError(f"ranks={ranks} are not (first, last) with 1 <= first < last <= {channels}, the channels")
    return first, last


def _eigenvalues_of_channels(maps: Tensor) -> tuple[Tensor, float]:
    """(C,) float64, the largest first; and what rounding may leave of an eigenvalue that is zero."""
    # One image at a time: float64 copies of a whole batch may not fit.
    images = maps.T[None] if maps.ndim == 2 else maps.flatten(2)
    samples = len(images) * images.shape[2]
    mean = sum(image.cpu().double().sum(1, keepdim=True) for image in images) / samples
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for image in images:
        centred = image.cpu().double() - mean
        covariance += centred @ centred.T / samples
    values = torch.linalg.eigvalsh(covariance).flip(0)
    # Rounding is relative to the values themselves, mean and all.
    square = float((covariance.diagonal() + mean.squeeze(1).square()).sum())
    of_maps = (ROUNDING * torch.finfo(maps.dtype).eps) ** 2 * square
    of_solver = len(values) * torch.finfo(torch.float64).eps * float(values[0])
    return values, max(of_maps, of_solver)


# --- the eigenvalues of weights ------------------------------------------------------------------


@dataclass(frozen=True)
class Tail:
    """A power law fitted to the largest eigenvalues of a layer's weights; see `weight_tail_exponent`.

    Attributes:
        exponent: a of the density p(lambda) = A lambda^-a.
        smallest: lambda_min, where the tail begins, in units of weights squared.
        count: eigenvalues in the tail, the one at lambda_min included. A handful of them fits many laws: see `error`.
        distance: the Kolmogorov-Smirnov distance between tail and law, 0..1. Never below 1 / count,
            since the law begins at 0 and the tail with one eigenvalue.
    """

    exponent: float
    smallest: float
    count: int
    distance: float

    @property
    def error(self) -> float:
        """Standard error of the exponent if lambda_min were known, (a - 1) / sqrt(count); Clauset et al., eq. 3.2."""
        return (self.exponent - 1) / math.sqrt(self.count)

    def __str__(self) -> str:
        return f"exponent {self.exponent:.2f} ± {self.error:.2f} from {self.count} eigenvalues"


def weight_tail_exponent(weights: Tensor) -> Tail:
    """The power law in the tail of the eigenvalues of W^T W / N, density p(lambda) ~ lambda^-a from lambda_min on.

    The exponent of Martin & Mahoney 2021, JMLR 22:165, and Martin, Peng & Mahoney 2021, Nat. Commun. 12:4122, and of
    their tool weightwatcher. a is the most likely one, 1 + n / sum ln(lambda_i / lambda_min); lambda_min is the
    eigenvalue that brings the law nearest to the tail, by Kolmogorov-Smirnov distance (Clauset, Shalizi & Newman 2009,
    SIAM Review 51:661). The distance is taken at both sides of each step, as its definition has it; weightwatcher takes
    one side, and may choose another lambda_min, mostly where the tail is short.

    Known traps. There is always an answer, also of weights without any heavy tail: Gaussian ones of 400 x 200 read 4 to
    13, as chance has it. It is spuriously large too where a few eigenvalues stand apart (weightwatcher issue 102); and
    eigenvalues have a largest one, which the law knows nothing of, so it is biased (issue 103). All is worst where few
    eigenvalues are in the tail, so look at `count` and `error` first.

    Args:
        weights: (out, in); or (out, in, h, w) of a convolution, taken as h w matrices (out, in), a tap each, whose
            eigenvalues are pooled, as weightwatcher does. N is the longer side of a matrix. Each gives
            min(out, in) eigenvalues, without those that are zero to rounding.

    Raises:
        ValueError: another number of dimensions; values that are not finite; fewer than 8 eigenvalues that are not
            zero; eigenvalues that are all alike, as those of a rotation.
        TypeError: weights that are not real floating.
    """
    weights = _checked(weights, "weights", "(out, in) or (out, in, h, w)")
    values = _eigenvalues_of_weights(weights)
    if len(values) < FEWEST:
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} have {len(values)} eigenvalues that are not zero, too few for "
            f"a tail; take a layer with {FEWEST} or more"
        )
    if values[-1] / values[0] < 1 + 1e-9:
        raise ValueError("the eigenvalues are all alike, so they have no tail; these weights are a rotation")
    return min((_tail(values[start:]) for start in range(len(values) - 1)), key=lambda tail: tail.distance)


def _eigenvalues_of_weights(weights: Tensor) -> Tensor:
    """The eigenvalues of W^T W / N that are not zero, float64, the smallest first."""
    outputs, inputs = weights.shape[:2]
    matrices = weights.cpu().double().reshape(outputs, inputs, -1).permute(2, 0, 1)
    singular = torch.linalg.svdvals(matrices).flatten().sort().values
    longer = max(outputs, inputs)
    zero = longer * torch.finfo(torch.float64).eps * singular[-1]
    return singular[singular > zero].square() / longer


def _tail(values: Tensor) -> Tail:
    """The most likely law from the first of these sorted eigenvalues on, and how far from it they are."""
    ratio = (values / values[0]).log()
    total = float(ratio.sum())
    if total == 0:  # the largest eigenvalues are equal: no law, so never the nearest
        return Tail(math.inf, float(values[0]), len(values), 1.0)
    slope = len(values) / total
    law = -torch.expm1(-slope * ratio)  # share of the law below each eigenvalue
    step = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    distance = max(float((law - step[:-1]).abs().max()), float((law - step[1:]).abs().max()))
    return Tail(1 + slope, float(values[0]), len(values), distance)
