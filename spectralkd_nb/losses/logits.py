"""Losses on logits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["soft_target_loss"]


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Divergence of the student's softened outputs from the teacher's (Hinton et al. 2015, arXiv 1503.02531, eq. 1).

    T^2 KL(softmax(teacher / T) || softmax(student / T)), averaged over images. The factor T^2 keeps the gradient's
    size when T changes (section 2.1 there). Zero where the logits are equal up to a constant for each image.

    Args:
        student, teacher: logits (B, classes). temperature: T > 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} softens nothing; give a positive number")
    # Under autocast these would be of half precision, in which two nearly equal outputs differ by rounding alone.
    student, teacher = (x if x.dtype == torch.float64 else x.float() for x in (student, teacher))
    log_student = F.log_softmax(student / temperature, 1)
    log_teacher = F.log_softmax(teacher / temperature, 1)
    return temperature**2 * F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
