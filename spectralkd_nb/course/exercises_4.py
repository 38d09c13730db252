"""The exercises of lesson 4, spectral distillation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spectralkd_nb import data_path, losses, pictures
from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, whole_number_of, wrong
from spectralkd_nb.experiments import compare_methods, read_records, results_of, seeds_needed


def check_equal_octaves(beta: float | None, student: Tensor, teacher: Tensor) -> Verdict:
    """Lesson 4, exercise 1: the beta at which an error's two finest octaves have the same share of the weighted loss.

    Args:
        beta: or None while unsolved.
        student, teacher: maps (B, C, H, W), a connector applied before.
    """
    if beta is None:
        return left_open("4.1", "replace None by a number")
    asked = number_of(beta)
    if asked is None or not -10 < asked < 10:
        return wrong("4.1", f"{beta!r} is no number between -10 and 10")
    *_, coarser, finest = (100 * losses.octave_shares(student, teacher, asked).share).tolist()
    found = f"at beta = {asked:g} they have {coarser:.1f} and {finest:.1f} % of the loss"
    return right("4.1", found) if abs(coarser - finest) <= 2 else wrong("4.1", found)


def check_shift_blind_loss(loss: Callable[[Tensor, Tensor], Tensor] | None) -> Verdict:
    """Lesson 4, exercise 2: a loss that sees a blur and no circular shift, and that can be learned from.

    Args:
        loss: takes maps (B, C, H, W) of student and teacher, returns a number; or None while unsolved.
    """
    if loss is None:
        return left_open("4.2", "replace None by a function of student and teacher")
    if not callable(loss):
        return wrong("4.2", f"{loss!r} is no function")
    generator = torch.Generator().manual_seed(0)
    teacher = pictures.power_law_field(16, 2.0, 12, generator).unflatten(0, (4, 3))
    blurred = nn.functional.avg_pool2d(nn.functional.pad(teacher, (1, 1, 1, 1), "circular"), 3, 1)
    blurred = blurred.requires_grad_()
    try:
        equal, shifted, seen = (loss(m, teacher) for m in (teacher, teacher.roll((3, 5), (-2, -1)), blurred))
        found = [float(value.detach()) for value in (equal, shifted, seen)]
        gradient = torch.autograd.grad(seen, blurred, allow_unused=True)[0] if seen.requires_grad else None
    except Exception as error:  # whatever a function of somebody else's may raise
        return wrong("4.2", f"it ends with {type(error).__name__}: {error}")
    if not found[2] > 0:
        return wrong("4.2", f"of blurred features it says {found[2]:.3g}, and more than 0 is wanted")
    for what, value in zip(("equal", "shifted"), found, strict=False):
        if not abs(value) <= 1e-4 * found[2]:
            return wrong("4.2", f"of {what} features it says {value:.3g}, and of blurred ones {found[2]:.3g}")
    if gradient is None or not gradient.isfinite().all() or not gradient.any():
        return wrong("4.2", "it gives the student no gradient to learn from")
    return right("4.2", f"0 for features that are equal or shifted, {found[2]:.3g} for blurred ones")


def check_planned_seeds(seeds: int | None) -> Verdict:
    """Lesson 4, exercise 3: how many seeds find a point between KD with both terms and the hint, with a power of 80 %.

    Args:
        seeds: their number, or None while unsolved.
    """
    if seeds is None:
        return left_open("4.3", "replace None by a whole number")
    asked = whole_number_of(seeds)
    if asked is None:
        return wrong("4.3", f"{seeds!r} is no whole number")
    runs = results_of(read_records(data_path("results/distillation_photographs.jsonl")))
    compared = compare_methods(runs, "hint").set_index("method")
    deviation = compared.loc["KD + both terms", "deviation"]
    wanted = seeds_needed(deviation, 1.0)
    if asked != wanted:
        return wrong("4.3", f"{asked} are too {'few' if asked < wanted else 'many'}; which deviation did you take?")
    return right("4.3", f"the paired differences deviate by {deviation:.2f} points, so {wanted} seeds are needed")
