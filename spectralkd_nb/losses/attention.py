"""Attention transfer: a loss on where the features are strong, whatever the channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.losses.pairs import in_full

MODES = ("paper", "code")


def attention_loss(student: Tensor, teacher: Tensor, mode: str = "paper") -> Tensor:
    """Difference of attention maps (Zagoruyko & Komodakis 2017, arXiv 1612.03928, eq. 2 with p = 2).

    The attention map of an image is Q = sum over channels of (feature)^2, made a vector of H W numbers and divided by
    its length. ``d = Q_student / |Q_student| - Q_teacher / |Q_teacher|``, and the paper and its authors' code differ:

    - "paper": ``|d|``, not squared, averaged over images. The paper's weight for it is beta / 2.
    - "code": mean of d^2 over images and pixels. It is the square of the other, image by image, divided by H W, and
      has a weight of about 1000. The code averages over channels where the paper sums, which cancels in ``Q / |Q|``.

    For both: no connector, any number of channels on either side, in any order and of any sign, and of any
    scale while ``|Q|`` is above 1e-12, which it is divided by below. So a map of zeros counts as 0; it gets no
    gradient.

    Args:
        student, teacher: features (B, C, H, W); B, H and W equal. Maps of unequal size are refused, not resized:
            features pooled before they are squared are not those pooled after, and the choice is the caller's. The
            gradient goes to the student only.
        mode: "paper" or "code".

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: another mode, not four dimensions, unequal batches or sizes, no elements.
        TypeError: not real floating.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is none of {MODES}")
    _require_equal_maps(student, teacher)
    student, teacher = in_full(student, teacher.detach())
    difference = _attention(student) - _attention(teacher)
    if mode == "code":
        return difference.square().mean()
    return torch.linalg.vector_norm(difference, dim=1).mean()  # its gradient at 0 is 0


def _attention(features: Tensor) -> Tensor:
    """Unit vectors (B, H W)."""
    return F.normalize(features.square().sum(1).flatten(1), dim=1)


def _require_equal_maps(student: Tensor, teacher: Tensor) -> None:
    shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
    if student.ndim != 4 or teacher.ndim != 4:
        raise ValueError(f"{shapes}: attention maps are made of features (B, C, H, W)")
    if len(student) != len(teacher):
        raise ValueError(f"{shapes}: both must be shown the same images")
    if student.shape[2:] != teacher.shape[2:]:
        raise ValueError(f"{shapes}: attention maps of unequal size; pool the larger one first, or pair other layers")
