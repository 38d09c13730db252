"""What is learned: steps, which return the student's logits and named loss terms."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.losses.logits import softened_divergence

Terms = dict[str, Tensor]
Step = Callable[[nn.Module, nn.Module | None, Tensor, Tensor], tuple[Tensor, Terms]]
Control = Callable[[Tensor, Tensor], Tensor]  # logits and labels to the logits that are taught in their place


class CrossEntropy(nn.Module):
    """Learning from labels alone: cross-entropy.

    Args:
        smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(
        self,
        student: nn.Module,
        teacher: nn.Module | None,  # noqa: ARG002 - every step is called alike
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Terms]:
        """The step of a batch: the student's logits (B, classes), and "cross-entropy", in nats.

        Args:
            teacher: is not asked.
            images: (B, 3, H, W), normalised.
            labels: (B,) int64.
        """
        logits = student(images)
        return logits, {"cross-entropy": F.cross_entropy(logits, labels, label_smoothing=self.smoothing)}

    def extra_repr(self) -> str:
        """The settings, as the run's record has them."""
        return f"smoothing={self.smoothing:g}"


class SoftTargets(nn.Module):
    """Learning from labels and from a teacher's softened outputs (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        temperature: T of `kd_loss`.
        control: a function of the teacher's logits (B, classes) and the labels (B,) to those to be learned instead; for
            example `teacher_quality.permuted_by_image`. None: the teacher's own.
        standardise: of `kd_loss`: False, or "paper" or "code" for z-scores of the logits (Sun et al. 2024, arXiv
            2403.01427).

    Raises:
        ValueError: when called: no teacher, and what `kd_loss` refuses.
    """

    def __init__(
        self, temperature: float = 4.0, control: Control | None = None, standardise: bool | str = False
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.control = control
        self.standardise = standardise

    def forward(
        self, student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Terms]:
        """The step of a batch: the student's logits (B, classes), and "cross-entropy" and "soft targets", in nats.

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B,) int64.

        Raises:
            ValueError: see the class.
        """
        if teacher is None:
            raise ValueError("soft targets come from a teacher; pass teacher=... to train")
        logits, taught = student(images), teacher(images)
        if self.control is not None:
            taught = self.control(taught, labels)
        return logits, {
            "cross-entropy": F.cross_entropy(logits, labels),
            "soft targets": softened_divergence(logits, taught, self.temperature, self.standardise),
        }

    def extra_repr(self) -> str:
        """The settings, as the run's record has them."""
        settings = [f"temperature={self.temperature:g}"]
        settings += [f"control={described(self.control)}"] if self.control is not None else []
        return ", ".join(settings + ([f"standardise={self.standardise!r}"] if self.standardise else []))


def described(what: Callable[..., Any]) -> str:
    """What tells a step or a loss from another: a module's settings, or the name and the source of a function.

    The package's own functions go by their names; the commit in a run's record says which they were.
    """
    if isinstance(what, nn.Module):
        return repr(what)
    if isinstance(what, functools.partial):
        settings = [*map(repr, what.args), *(f"{name}={value!r}" for name, value in what.keywords.items())]
        return f"{described(what.func)} with {', '.join(settings)}"
    name = getattr(what, "__name__", type(what).__name__)
    if (getattr(what, "__module__", None) or "").startswith("spectralkd_nb."):
        return name
    try:
        source = inspect.getsource(what)
    except (OSError, TypeError):  # typed into an interpreter
        return name
    return f"{name}, source {hashlib.sha256(source.encode()).hexdigest()[:8]}"
