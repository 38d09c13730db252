"""What neuron selectivity transfer is made of: its kernels, its witness, and what of it lies in pairs of pixels.

All of it is for looking, and hands on no gradient. Definitions are those of `selectivity.nst_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spectralkd_nb.losses.pairs import checked_pair, in_full, require_maps
from spectralkd_nb.losses.selectivity import (
    AT_ONCE,
    channel_vectors,
    check_settings,
    gaussian_variance,
    gram_of_pixels,
    inverse_lengths,
    squared_discrepancy,
)


@dataclass(frozen=True)
class KernelMatrices:
    """Of each image's channels. own: (B, C, C), student with student. others: (B, C', C'), teacher with teacher.
    crossed: (B, C, C'), student with teacher.
    """

    own: Tensor
    others: Tensor
    crossed: Tensor

    @property
    def discrepancy(self) -> Tensor:
        """(B,) mean own + mean others - 2 mean crossed: exactly 0 for equal features; rounding may leave less."""
        return squared_discrepancy(self.own, self.others, self.crossed)


@torch.no_grad()
def kernel_matrices(
    student: Tensor,
    teacher: Tensor,
    kernel: str = "poly",
    *,
    degree: int = 2,
    offset: float = 0.0,
    sigma: float | None = None,
) -> KernelMatrices:
    """Kernels of unit channel maps (Huang & Wang 2017, arXiv 1707.01219): their mean `discrepancy` is `nst_loss`.

    Args:
        student, teacher: features (B, C, H, W); only C may differ. A dead channel counts as a vector of zeros.
        kernel, degree, offset, sigma: as in `nst_loss`.

    Raises:
        ValueError: as `nst_loss`, and unequal sizes.
        TypeError: not real floating.
    """
    check_settings(kernel, degree, offset, sigma, "refuse")
    s, t = (_unit_vectors(maps) for maps in _maps_of_one_size(student, teacher))
    k = _kernel(s, t, kernel, degree, offset, sigma)
    return KernelMatrices(own=k(s, s), others=k(t, t), crossed=k(s, t))


@torch.no_grad()
def witness(
    points: Tensor,
    student: Tensor,
    teacher: Tensor,
    kernel: str = "poly",
    *,
    degree: int = 2,
    offset: float = 0.0,
    sigma: float | None = None,
) -> Tensor:
    """Where two sets of channels differ: the empirical witness function (Gretton et al. 2012, JMLR 13:723, 2.3). ::

        mean_i k(x, s_i) - mean_j k(x, t_j)

    Above 0 where the student has more than the teacher, below 0 where less. The paper leaves the factor open; with
    this one the mean over the s_i less the mean over the t_j is the squared discrepancy.

    Args:
        points: the x, maps (B, N, H, W), made unit vectors as channels are.
        student, teacher, kernel, degree, offset, sigma: as in `kernel_matrices`; the points have no part in sigma.

    Returns:
        (B, N), float32 or float64.

    Raises:
        ValueError, TypeError: as `kernel_matrices`, and points that do not fit.
    """
    check_settings(kernel, degree, offset, sigma, "refuse")
    student, teacher = _maps_of_one_size(student, teacher)
    points = _full_maps(points, "points", "(B, N, H, W)").to(student.dtype)
    if len(points) != len(student) or points.shape[2:] != student.shape[2:]:
        raise ValueError(
            f"the points have shape {tuple(points.shape)}; (B, N, H, W) is needed, with the features' B = "
            f"{len(student)} and (H, W) = {tuple(student.shape[2:])}"
        )
    x, s, t = (_unit_vectors(maps) for maps in (points, student, teacher))
    k = _kernel(s, t, kernel, degree, offset, sigma)
    return k(x, s).mean(2) - k(x, t).mean(2)


def _kernel(
    student: Tensor, teacher: Tensor, kernel: str, degree: int, offset: float, sigma: float | None
) -> Callable[[Tensor, Tensor], Tensor]:
    """k of unit vectors (B, N, H W) and (B, M, H W), as (B, N, M); the variance, if not given, is that of these two."""
    if kernel == "linear":
        return _products
    if kernel == "poly":
        return lambda x, y: (_products(x, y) + offset) ** degree
    variance = gaussian_variance(_squared_distance(student, teacher), sigma)
    return lambda x, y: (_squared_distance(x, y) / (-2 * variance)).exp()


def _products(x: Tensor, y: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # it would take them in half precision
        return torch.bmm(x, y.mT)


def _squared_distance(x: Tensor, y: Tensor) -> Tensor:
    return x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None] - 2 * _products(x, y)


def two_pixel_maps(degrees: Sequence[float] | Tensor) -> Tensor:
    """A toy: a neuron whose maps have two pixels is a point in the plane, and as a unit vector an angle.

    Args:
        degrees: (C,), one a neuron; 0 responds to the first pixel alone, 90 to the second alone. A tensor may have a
            gradient.

    Returns:
        (1, C, 1, 2), float64: unit maps of one image.
    """
    angles = torch.as_tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], -1)[None, :, None]


@torch.no_grad()
def pixel_gram(maps: Tensor) -> Tensor:
    """How pixels go together: mean over channels of f f', with f the unit channel maps as columns.

    The squared distance of two networks' Grams is the `nst_loss` of kernel "poly", degree 2 and offset 0. The diagonal
    is a map of squared responses; its sum is the share of channels that are not dead.

    Args:
        maps: (B, C, H, W).

    Returns:
        (B, H W, H W), float32 or float64.

    Raises:
        ValueError: another shape, no elements.
        TypeError: not real floating.
    """
    maps = _full_maps(maps, "maps", "(B, C, H, W)")
    with torch.autocast(maps.device.type, enabled=False):
        return gram_of_pixels(_vectors(maps))


@torch.no_grad()
def shift_average(gram: Tensor, height: int, width: int) -> Tensor:
    """Mean of G[p, p + shift] over all pixels p, with circular borders: a Gram's block-circulant part.

    Of a `pixel_gram` it is the circular autocorrelation of the unit maps, averaged over channels and divided by H W.
    So (Wiener-Khinchin) its `fft2` is their mean power ``|FFT(f)|^2 / (H W)``, and circular shifts do not change it.

    Args:
        gram: (B, H W, H W), or a difference of such.
        height, width: H and W, pixels.

    Returns:
        (B, H, W), the shift (dy, dx) at [dy, dx]; float32 or float64.

    Raises:
        ValueError: a Gram that is not of H W pixels.
    """
    pixels = height * width
    if gram.shape[1:] != (pixels, pixels):
        raise ValueError(
            f"a Gram of shape {tuple(gram.shape)}; maps of {height} x {width} pixels have (B, {pixels}, {pixels})"
        )
    gram = gram if gram.dtype == torch.float64 else gram.float()
    rows, columns = (torch.arange(side, device=gram.device) for side in (height, width))
    row = (rows[:, None] + rows) % height  # (y, dy), where y + dy comes to lie
    column = (columns[:, None] + columns) % width
    there = (row[:, None, :, None] * width + column[None, :, None, :]).view(1, pixels, pixels)  # (y x, dy dx)
    return gram.gather(2, there.expand_as(gram)).mean(1).unflatten(1, (height, width))


@dataclass(frozen=True)
class GramShares:
    """Where |D|^2 lies, D = G_student - G_teacher of pixel Grams. Shares are of the sum over images, and 0 if that is.

    Attributes:
        total: |D|^2, mean over images: `nst_loss` of kernel "poly", degree 2, offset 0.
        diagonal: share, 0 to 1, of D's diagonal: how the squared unit maps, averaged over channels, differ.
        shifts: share, 0 to 1, of D's block-circulant part, which depends on the shift between two pixels alone: how
            the power spectra |FFT(f)|^2 / (H W) of the unit maps, averaged over channels, differ.
    """

    total: float
    diagonal: float
    shifts: float


def gram_shares(student: Tensor, teacher: Tensor) -> GramShares:
    """How much of `nst_loss` "poly" squared responses could see, and how much a power spectrum. Our own measure.

    Both are orthogonal projections of D. They have the mean of its diagonal in common, which is 0 where both networks
    have the same share of living channels; then the two shares sum to at most 1. An attention map differs from the
    diagonal in that channels count there by their power, and here alike.

    Args:
        student, teacher: features (B, C, H, W); only C may differ. A few images are worked on at a time.

    Raises:
        ValueError: no (B, C, H, W), unequal batches or sizes, no elements.
        TypeError: not real floating.
    """
    student, teacher = _maps_of_one_size(student, teacher)
    height, width = student.shape[2:]
    sums = torch.zeros(3, dtype=torch.float64)
    step = max(1, AT_ONCE // (student[0].numel() + teacher[0].numel() + (height * width) ** 2))
    for few in (slice(start, start + step) for start in range(0, len(student), step)):
        difference = pixel_gram(student[few]) - pixel_gram(teacher[few])
        by_shift = shift_average(difference, height, width)
        # A shift's mean stands H W times in the block-circulant part.
        parts = difference, difference.diagonal(dim1=1, dim2=2), by_shift * (height * width) ** 0.5
        sums += torch.stack([part.square().sum() for part in parts]).cpu()
    total, diagonal, shifts = sums.tolist()
    if total == 0:
        return GramShares(total=0.0, diagonal=0.0, shifts=0.0)
    return GramShares(total=total / len(student), diagonal=diagonal / total, shifts=shifts / total)


def _maps_of_one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    student, teacher = checked_pair(student, teacher)
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f"maps of {tuple(student.shape[2:])} and {tuple(teacher.shape[2:])} pixels; pair layers of one size, or "
            "average the larger to the size of the smaller first"
        )
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    return student.to(dtype), teacher.to(dtype)


def _full_maps(maps: Tensor, name: str, needed: str) -> Tensor:
    require_maps(maps, name, needed)
    return in_full(maps, maps)[0]


def _vectors(maps: Tensor) -> Tensor:
    """(B, C, H W) in memory of its own, which makes the products of equal features equal to the last bit."""
    return channel_vectors(maps, list(maps.shape[2:]), rectify=False)


def _unit_vectors(maps: Tensor) -> Tensor:
    vectors = _vectors(maps)
    return vectors * inverse_lengths(vectors)[:, :, None]
