"""What a check says of an answer.

One function an exercise, in `exercises_1` and so on. It measures the answer with the package's own tools, so that no
solution is stored here: the answers are in tests/answers, where a test runs them, and `make answers` writes the
teacher's copy from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer.

    Attributes:
        solved: whether it is right; False too while it is open.
        text: the verdict and why, in a sentence.
    """

    solved: bool
    text: str

    def __repr__(self) -> str:
        return self.text


def left_open(exercise: str, todo: str) -> Verdict:
    return Verdict(False, f"Exercise {exercise} is open: {todo}.")


def wrong(exercise: str, why: str) -> Verdict:
    return Verdict(False, f"Exercise {exercise}, not yet: {why}.")


def right(exercise: str, remark: str) -> Verdict:
    return Verdict(True, f"Exercise {exercise} is solved: {remark}.")


def number_of(value: object) -> float | None:
    """A real number, also one of numpy's or in a tensor of no dimensions; None for everything else."""
    value = _without_tensor(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def whole_number_of(value: object) -> int | None:
    """A whole number, however it is written (12, 12.0, one of numpy's or a tensor); None for everything else."""
    value = _without_tensor(value)
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() else None


def tensor_of(value: object) -> Tensor | None:
    """Real numbers in a tensor, lists or an array, as a tensor of float64 on the CPU; None for everything else."""
    try:
        tensor = torch.as_tensor(value)
        return None if tensor.is_complex() else tensor.detach().cpu().double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _without_tensor(value: object) -> object:
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
