"""Neuron selectivity transfer: a loss on what the channels respond to, taken as a set without order or number."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from numbers import Real

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from spectralkd_nb.losses.pairs import checked_pair

KERNELS = ("linear", "poly", "gaussian")
SIZES = ("pool", "refuse")
DEAD_NORM = 1e-12  # what torch's `normalize` divides by at least
SMALLEST_VARIANCE = 1e-3  # of Gaussian kernels that follow the features; rounding of 1e-7 in distances stays small
NARROWEST = 1e-3  # sigma; unit vectors that rounding alone moves apart would be strangers
AT_ONCE = 2**20  # numbers in the maps and kernels of the images worked on together; about eight such sets are alive
AT_ONCE_ON_A_GPU = 2**26  # where each piece of work has to be worth a launch


def nst_loss(
    student: Tensor,
    teacher: Tensor,
    kernel: str = "poly",
    *,
    degree: int = 2,
    offset: float = 0.0,
    sigma: float | None = None,
    half: bool = False,
    rectify: bool = False,
    sizes: str = "pool",
) -> Tensor:
    """Squared maximum mean discrepancy of channel maps, NST (Huang & Wang 2017, arXiv 1707.01219). ::

        mean over images of  mean_ij k(s_i, s_j) + mean_ij k(t_i, t_j) - 2 mean_ij k(s_i, t_j)

    s_i is the student's channel i, a vector of H W numbers divided by its length, and t_j the teacher's. The kernels:

    - "linear": x.y. The loss is then the squared distance between the mean s and the mean t.
    - "poly": (x.y + offset)^degree. With degree 2 and offset 0, the values of the paper and of its authors' code,
      the loss is ``|S'S / C_s - T'T / C_t|^2``, a distance of how pixels go together. S holds the s_i as rows.
    - "gaussian": ``exp(-|x - y|^2 / (2 sigma^2))``.

    Any number of channels on either side, in any order, each of any positive scale; an even degree without offset does
    not see signs either. No connector is needed. A channel whose length is at most 1e-12 counts as a vector of zeros
    and gets no gradient. Where paper and implementations differ, there is an argument:

    - half: the paper has lambda / 2 before the loss. The authors' code and RepDistiller have no half and a weight of
      50 for "poly".
    - rectify: the authors' code takes features before the ReLU. RepDistiller takes them after it, but the signed
      sums of residual branches for wide ResNets. True applies a ReLU to both sides first. Which layers is the
      caller's choice: the authors take the last block, RepDistiller sums over three stages.
    - The teacher's own term is constant. The authors' code drops it, and its loss goes below 0. Here it is kept:
      equal features give 0, and no value is below.

    The cost is that of matrix products in C or in H W, whichever is smaller, for a few images at a time; no image's
    pairs of maps are ever multiplied out. The gradient is computed along with the value, and has no derivative itself.

    Args:
        student, teacher: features (B, C, H, W); C, H and W may differ. The gradient goes to the student only.
        kernel: "linear", "poly" or "gaussian".
        degree, offset: of "poly"; a whole number from 1, and a number from 0. Below 0 it would be no kernel.
        sigma: of "gaussian", from 0.001 on; unit vectors lie at most 2 apart. None: sigma^2 is, image by image, the
            mean of ``|s_i - t_j|^2`` over all pairs of a student's with a teacher's channel, a constant to the
            gradient, and at least 0.001. That the paper takes the mean squared distance of pairs is from memory only,
            and the choice of pairs is ours. Of a single channel on both sides it leaves no more than whether they are
            equal.
        half: half of the loss, as in the paper.
        rectify: a ReLU on both sides first.
        sizes: what to do about two sizes of maps. "pool" averages the larger, height and width each, down to the
            smaller (adaptive average pooling, as RepDistiller does); "refuse" raises.

    Returns:
        A scalar, float32 or float64, at least 0: what rounding leaves below is set to 0, its gradient is not. In
        float32 a value of 1e-7 may be rounding alone, and of "gaussian" 1e-7 / sigma^2. Not so of "linear", nor of
        "poly" with degree 2 on at least as many channels as pixels: these are sums of squares.

    Raises:
        ValueError: unknown kernel or sizes, no kernel with these settings, not (B, C, H, W), unequal batches, no
            elements, unequal sizes if they are refused.
        TypeError: maps that are not real floating.
    """
    check_settings(kernel, degree, offset, sigma, sizes)
    student, teacher = checked_pair(student, teacher)
    if sizes == "refuse" and student.shape[2:] != teacher.shape[2:]:
        raise ValueError(
            f"maps of {tuple(student.shape[2:])} and {tuple(teacher.shape[2:])} pixels; pair layers of one size, or "
            "let sizes='pool' average the larger"
        )
    size = [min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    fewer_channels = max(student.shape[1], teacher.shape[1]) < size[0] * size[1]
    distance = _image_distance(kernel, degree, offset, sigma, fewer_channels)
    prepare = partial(channel_vectors, size=size, rectify=rectify)
    dtype = torch.promote_types(student.dtype, teacher.dtype)  # a product takes two of one kind
    student, teacher = student.to(dtype), teacher.to(dtype)
    if not torch.is_grad_enabled():
        student = student.detach()  # a custom function would not know, and compute a gradient for nobody
    with torch.autocast(student.device.type, enabled=False):  # it would take the products in half precision
        total = _SumOverImages.apply(student, teacher, lambda s, t: distance(prepare(s), prepare(t)))
    return total / (2 * len(student) if half else len(student))


def check_settings(kernel: str, degree: int, offset: float, sigma: float | None, sizes: str) -> None:
    if kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} is none of {KERNELS}")
    if sizes not in SIZES:
        raise ValueError(f"sizes={sizes!r} is none of {SIZES}")
    if not isinstance(degree, Real) or not 1 <= degree < math.inf or degree != int(degree):
        raise ValueError(f"degree={degree!r} makes no kernel; a whole number from 1 on is needed")
    if not 0 <= offset < math.inf:
        raise ValueError(f"offset={offset!r} makes no kernel; a finite number from 0 on is needed")
    if sigma is not None and not NARROWEST <= sigma < math.inf:
        raise ValueError(f"sigma={sigma!r} has to be finite and from {NARROWEST:g} on, or None to follow the features")


# --- a few images at a time ----------------------------------------------------------------------


class _SumOverImages(torch.autograd.Function):
    """Sum of a distance (B,) between the maps of two networks, and its gradient, for a few images at a time.

    Nothing but the gradient outlives an image. Left to itself, autograd would keep every kernel of the whole batch.
    """

    @staticmethod
    def forward(ctx, student: Tensor, teacher: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(student) if wanted else None
        total = student.new_zeros(())
        step = _images_at_once(student, teacher)
        for few in (slice(start, start + step) for start in range(0, len(student), step)):
            maps = student[few].detach().requires_grad_(wanted)
            with torch.set_grad_enabled(wanted):
                values = distance(maps, teacher[few])
                if wanted:
                    (gradient[few],) = torch.autograd.grad(values.sum(), maps)
            total += values.detach().clamp(min=0).sum()  # after the gradient, which must not die where rounding wins
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, factor: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * factor, None, None


def _images_at_once(student: Tensor, teacher: Tensor) -> int:
    channels = student.shape[1] + teacher.shape[1]
    at_once = AT_ONCE if student.device.type == "cpu" else AT_ONCE_ON_A_GPU
    return max(1, at_once // (student[0].numel() + teacher[0].numel() + channels**2))


def channel_vectors(maps: Tensor, size: list[int], rectify: bool) -> Tensor:
    """(B, C, H W), at the smaller size, in memory of its own.

    A matrix product rounds by memory layout and by alignment to 64 bytes. A copy makes both the same on either side;
    the loss of equal features is then exactly 0.
    """
    if rectify:
        maps = maps.relu()
    if list(maps.shape[2:]) != size:
        maps = F.adaptive_avg_pool2d(maps, size)
    return maps.clone(memory_format=torch.contiguous_format).flatten(2)


# --- the distance of two sets of channels --------------------------------------------------------


def _image_distance(
    kernel: str, degree: int, offset: float, sigma: float | None, fewer_channels: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """The function of (B, C, H W) and (B, C', H W) that gives the squared distances (B,)."""
    if kernel == "linear" or (kernel == "poly" and degree == 1):
        return _between_means  # an offset is the same in all three terms, and cancels
    if kernel == "poly" and degree == 2 and not fewer_channels:
        return partial(_between_pixel_grams, offset=offset)
    if kernel == "poly":
        return partial(_between_polynomials, degree=degree, offset=offset)
    return partial(_between_gaussians, sigma=sigma)


def inverse_lengths(vectors: Tensor) -> Tensor:
    """(B, C), 0 for a dead channel."""
    squares = vectors.square().sum(-1)
    return squares.masked_fill(squares <= DEAD_NORM**2, torch.inf).rsqrt()


def _between_means(student: Tensor, teacher: Tensor) -> Tensor:
    """|mean s - mean t|^2, not below 0 by its form."""
    return (_mean_unit(student) - _mean_unit(teacher)).square().sum((1, 2))


def _mean_unit(vectors: Tensor) -> Tensor:
    """(B, 1, H W). The product divides by the lengths and adds up, without a copy of the vectors."""
    return torch.bmm(inverse_lengths(vectors)[:, None], vectors) / vectors.shape[1]


def _between_pixel_grams(student: Tensor, teacher: Tensor, offset: float) -> Tensor:
    """Degree 2 in pixels: (x.y + c)^2 = (x.y)^2 + 2 c x.y + c^2, where c^2 cancels. Not below 0 by its form."""
    squared = (gram_of_pixels(student) - gram_of_pixels(teacher)).square().sum((1, 2))
    return squared + 2 * offset * _between_means(student, teacher) if offset else squared


def gram_of_pixels(vectors: Tensor) -> Tensor:
    """S'S / C, (B, H W, H W). Lengths belong to channels, so one factor carries their squares."""
    weighted = vectors * inverse_lengths(vectors).square()[:, :, None]
    return torch.bmm(vectors.mT, weighted) / vectors.shape[1]


def _between_polynomials(student: Tensor, teacher: Tensor, degree: int, offset: float) -> Tensor:
    return squared_discrepancy(*((cosines + offset) ** degree for cosines in _cosines(student, teacher)))


def _between_gaussians(student: Tensor, teacher: Tensor, sigma: float | None) -> Tensor:
    own, others, crossed = _squared_distances(*_cosines(student, teacher))
    variance = gaussian_variance(crossed, sigma)
    return squared_discrepancy(*((squares / (-2 * variance)).exp() for squares in (own, others, crossed)))


def gaussian_variance(crossed: Tensor, sigma: float | None) -> Tensor | float:
    """Of a Gaussian kernel: what is given, or (B, 1, 1) from squared distances (B, C, C') of student and teacher."""
    return sigma**2 if sigma else crossed.detach().mean((1, 2), keepdim=True).clamp(min=SMALLEST_VARIANCE)


def _cosines(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Student with student, teacher with teacher, student with teacher: (B, C, C), (B, C', C'), (B, C, C').

    Lengths are divided out of the products, which are fewer than the pixels. A dead channel is at 0 to all, and itself.
    """
    own, others = inverse_lengths(student), inverse_lengths(teacher)

    def cosines(x: Tensor, y: Tensor, per_x: Tensor, per_y: Tensor) -> Tensor:
        return torch.bmm(x, y.mT) * per_x[:, :, None] * per_y[:, None]

    return (
        cosines(student, student, own, own),
        cosines(teacher, teacher, others, others),
        cosines(student, teacher, own, others),
    )


def _squared_distances(own: Tensor, others: Tensor, crossed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """From cosines. Squared lengths, 1 or 0, are read off the diagonals: a channel is then at exactly 0 from itself."""
    s, t = (square.diagonal(dim1=1, dim2=2) for square in (own, others))

    def distances(x: Tensor, y: Tensor, cosines: Tensor) -> Tensor:
        return x[:, :, None] + y[:, None] - 2 * cosines

    return distances(s, s, own), distances(t, t, others), distances(s, t, crossed)


def squared_discrepancy(own: Tensor, others: Tensor, crossed: Tensor) -> Tensor:
    """(B,) from three kernels. For equal features they are the same to the last bit, and this order gives exactly 0."""
    own, others, crossed = (kernel.mean((1, 2)) for kernel in (own, others, crossed))
    return (own - crossed) + (others - crossed)
