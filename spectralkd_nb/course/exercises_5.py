"""The exercises of lesson 5, neuron selectivity transfer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from spectralkd_nb import losses
from spectralkd_nb.course.verdicts import Verdict, left_open, right, tensor_of, whole_number_of, wrong


def check_fooled_kernels(degrees: Sequence[float] | None) -> Verdict:
    """Lesson 5, exercise 1: a set of two-pixel neurons that linear and poly take for 0, 120, 240.

    The Gaussian kernel, of sigma 0.5, tells them apart.

    Args:
        degrees: the student's neurons as angles, or None while unsolved.
    """
    if degrees is None:
        return left_open("5.1", "replace None by a list of angles in degrees")
    angles = tensor_of(degrees)
    if angles is None:
        return wrong("5.1", f"{degrees!r} is no list of angles")
    if angles.ndim != 1 or not 1 <= len(angles) <= 100 or not angles.isfinite().all():
        return wrong("5.1", "one to a hundred finite angles are asked for")
    goal = torch.tensor([0.0, 120.0, 240.0], dtype=torch.float64)
    apart = (angles[:, None] - goal + 180).remainder(360).sub(180).abs().amin(1)
    if apart.min() < 1:
        return wrong("5.1", f"the neuron at {angles[apart.argmin()]:g} degrees is one of the teacher's")
    pair = losses.two_pixel_maps(angles), losses.two_pixel_maps(goal)
    kernels = ("linear", "poly", "gaussian")
    seen = {kernel: float(losses.nst_loss(*pair, kernel, sigma=0.5)) for kernel in kernels}
    found = ", ".join(f"{kernel} says {value:.3f}" for kernel, value in seen.items())
    if seen["linear"] > 1e-6:
        return wrong("5.1", f"{found}; linear is off, so the mean is")
    if seen["poly"] > 1e-6:
        return wrong("5.1", f"{found}; the means agree, and poly's Grams do not")
    if seen["gaussian"] <= 0.01:
        return wrong("5.1", f"{found}; the neurons are too near to the teacher's for that kernel")
    return right("5.1", f"{found}: only the last one sees more than mean and Gram")


def check_style_loss(loss: Callable[[Tensor, Tensor], Tensor] | None) -> Verdict:
    """Lesson 5, exercise 2: the distance of style Grams, channels by channels, with positions as unit vectors.

    Args:
        loss: takes features (B, C, H, W) of student and teacher, returns a number; or None while unsolved.
    """
    if loss is None:
        return left_open("5.2", "replace None by a function of student and teacher")
    if not callable(loss):
        return wrong("5.2", "a function is asked for, and not its value")
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 6, 4, generator=generator, dtype=torch.float64)
    shuffled = student.flatten(2)[..., torch.randperm(24, generator=generator)].view_as(student)
    student.requires_grad_()
    wanted = _style_distance(student, teacher)
    try:
        values = [loss(maps, teacher) for maps in (student, shuffled, teacher)]
        if not all(isinstance(value, Tensor) for value in values):
            return wrong("5.2", "it has to return the loss as a tensor")
        found, moved, zero = (float(value.detach()) for value in values)
        gradient = torch.autograd.grad(values[0], student)[0] if values[0].requires_grad else None
    except Exception as error:  # whatever a function of somebody else's may raise
        return wrong("5.2", f"it ends with {type(error).__name__}: {error}")
    if not abs(zero) <= 1e-9:
        return wrong("5.2", f"of equal features it says {zero:.3g}, and 0 is wanted")
    if not abs(moved - found) <= 1e-6 * abs(found):
        return wrong("5.2", f"with the positions shuffled it goes from {found:.4g} to {moved:.4g}; style has no place")
    if not math.isclose(found, wanted.item(), rel_tol=1e-4):
        return wrong("5.2", f"it says {found:.4g} where the Grams' distance is {wanted.item():.4g}; mind the kernel")
    if gradient is None:
        return wrong("5.2", "it gives the student no gradient to learn from")
    if not torch.allclose(gradient, torch.autograd.grad(wanted, student)[0], rtol=1e-3, atol=1e-6):
        return wrong("5.2", "its value is right, and its gradient is that of something else")
    return right("5.2", f"{found:.4g}, wherever the positions are: the same discrepancy with the roles exchanged")


def _style_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Of Grams (C, C), positions as unit vectors; mean over images (B, C, H, W)."""
    units = [nn.functional.normalize(maps.flatten(2), dim=1) for maps in (student, teacher)]
    mine, its = (unit @ unit.mT / unit.shape[2] for unit in units)
    return (mine - its).square().sum((1, 2)).mean()


def check_representatives(channels: Sequence[int] | None, maps: Tensor, most: float = 0.09) -> Verdict:
    """Lesson 5, exercise 3: four of a layer's channels whose discrepancy (poly) from all of them is small.

    Args:
        channels: their numbers, or None while unsolved.
        maps: (B, C, H, W).
        most: what the discrepancy may be.
    """
    if channels is None:
        return left_open("5.3", "replace None by a list of four channels")
    try:
        numbers = [whole_number_of(channel) for channel in channels]
    except TypeError:
        return wrong("5.3", f"{channels!r} is no list of channels")
    chosen = sorted(set(numbers) & set(range(maps.shape[1])))
    if len(numbers) != 4 or len(chosen) != 4:
        return wrong("5.3", f"four different channels of 0 to {maps.shape[1] - 1} are asked for")
    found = float(losses.nst_loss(maps[:, chosen], maps))
    said = f"their discrepancy from all {maps.shape[1]} is {found:.4f}"
    if not found <= most:
        return wrong("5.3", f"{said}, and {most} is asked for")
    nearest, count = _nearest_fours(maps)
    return right("5.3", f"{said}; the nearest of all {count} sets of four has {nearest:.4f}")


def _nearest_fours(maps: Tensor) -> tuple[float, int]:
    """The least discrepancy (poly) of four channels from all of them, and how many sets of four there are."""
    kernel = losses.kernel_matrices(maps, maps).own.mean(0)
    fours = torch.combinations(torch.arange(len(kernel)), 4)
    among = kernel[fours[:, :, None], fours[:, None]].mean((1, 2))
    return float((among + kernel.mean() - 2 * kernel.mean(1)[fours].mean(1)).min()), len(fours)
