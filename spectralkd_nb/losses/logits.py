"""Losses on logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.losses.pairs import in_full

__all__ = ["kd_loss"]

# What is taken off the number of classes in the variance, and what is added to the standard deviation.
STANDARDISATIONS = {"paper": (0, 0.0), "code": (1, 1e-7)}


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0, standardise: bool | str = False
) -> Tensor:
    """Divergence of the student's softened outputs from the teacher's (Hinton et al. 2015, arXiv 1503.02531, eq. 1).

    T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over images. The factor T^2 keeps the gradient's
    size when T changes (section 2.1 there). Zero where the logits are equal up to a constant for each image.

    With `standardise` the logits of each image are first turned into z-scores, (logits - mean) / deviation over the
    classes (Sun et al. 2024, arXiv 2403.01427, algorithm 1), and these are divided by T: the loss then does not see
    the logits' scale either. The paper's deviation divides by the number of classes; its authors' code by one less,
    and adds 1e-7 to the deviation. Equal logits have no z-score; they count as 0 and get no gradient.

    Args:
        student_logits, teacher_logits: (B, classes). The gradient goes to the student only.
        temperature: T > 0.
        standardise: False, "paper" or "code"; True is "paper".

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: unequal shapes, not two dimensions, no elements, T not positive, an unknown standardisation.
        TypeError: not real floating.
    """
    return softened_divergence(student_logits, teacher_logits.detach(), temperature, standardise)


def softened_divergence(
    student: Tensor, teacher: Tensor, temperature: float, standardise: bool | str = False
) -> Tensor:
    """`kd_loss` with its gradient to both, for a teacher that is trained along with its student."""
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} softens nothing; give a positive number")
    if not (isinstance(standardise, bool) or standardise in STANDARDISATIONS):
        raise ValueError(f"standardise={standardise!r} is neither a bool nor one of {tuple(STANDARDISATIONS)}")
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ValueError(
            f"logits of the student {tuple(student.shape)} and of the teacher {tuple(teacher.shape)}; both must be "
            "(B, classes), with the same images and classes"
        )
    # Under autocast these would be of half precision, in which two nearly equal outputs differ by rounding alone.
    student, teacher = in_full(student, teacher)
    if standardise:
        mode = "paper" if standardise is True else standardise
        student, teacher = _z_scores(student, mode), _z_scores(teacher, mode)
    log_student = F.log_softmax(student / temperature, 1)
    log_teacher = F.log_softmax(teacher / temperature, 1)
    divergence = F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
    return temperature**2 * divergence.clamp(min=0)  # next to equality, rounding could make it negative


def _z_scores(logits: Tensor, mode: str) -> Tensor:
    lost, added = STANDARDISATIONS[mode]
    centred = logits - logits.mean(1, keepdim=True)
    variance = centred.square().sum(1, keepdim=True) / max(logits.shape[1] - lost, 1)
    rounding = 8 * torch.finfo(logits.dtype).eps * logits.abs().amax(1, keepdim=True)
    # Where all logits are equal the deviation is rounding, or 0 with an infinite slope; divided by infinity it is gone.
    deviation = variance.masked_fill(variance <= rounding.square(), torch.inf).sqrt()
    return centred / (deviation + added)
