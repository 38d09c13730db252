"""What a check says of an answer.

One function an exercise, in `exercises_1` and so on. It measures the answer with the package's own tools, so that no
solution is stored here: the answers are in tests/answers, where a test runs them, and `make answers` writes the
teacher's copy from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer.

    Attributes:
        solved: whether it is right; False too while it is open. text: the verdict and why, in a sentence.
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
    value = value.item() if isinstance(value, Tensor) and value.ndim == 0 else value
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
