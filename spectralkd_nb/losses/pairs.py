"""What a loss does with its two arguments first: whether they are numbers that fit together, and in full precision."""

from __future__ import annotations

import torch
from torch import Tensor


def in_full(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 (float64 stays), whatever autocast made of them.

    Raises:
        ValueError: one of them has no elements, and a mean over nothing is NaN.
        TypeError: not real floating.
    """
    for name, values in (("student", student), ("teacher", teacher)):
        if not values.is_floating_point():
            raise TypeError(f"what the {name} gives is {values.dtype}; real floating numbers are needed")
    if student.numel() == 0 or teacher.numel() == 0:
        raise ValueError(f"student {tuple(student.shape)} or teacher {tuple(teacher.shape)} is empty")
    student, teacher = (x if x.dtype == torch.float64 else x.float() for x in (student, teacher))
    return student, teacher


def require_maps(maps: Tensor, name: str, needed: str = "(B, C, H, W)") -> None:
    """Refuse what are no maps; name, needed: what is said of them."""
    if not maps.is_floating_point():
        raise TypeError(f"the {name} are {maps.dtype}; real floating maps are needed")
    if maps.ndim != 4 or maps.numel() == 0:
        raise ValueError(f"the {name} have shape {tuple(maps.shape)}; {needed} is needed, none of them 0")


def checked_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 at least, the teacher detached. A transform in half precision loses what is compared here."""
    require_maps(student, "student's maps")
    require_maps(teacher, "teacher's maps")
    if len(student) != len(teacher):
        raise ValueError(f"{len(student)} images of the student's and {len(teacher)} of the teacher's make no pairs")
    return in_full(student, teacher.detach())


def map_error(student: Tensor, teacher: Tensor) -> Tensor:
    """student - teacher, both (B, C, H, W), in float32 at least; the gradient goes to the student only."""
    student, teacher = checked_pair(student, teacher)
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's maps {tuple(student.shape)} and the teacher's {tuple(teacher.shape)} differ in shape; "
            "apply a connector to the student's first"
        )
    return student - teacher
