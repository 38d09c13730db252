"""Connectors that bring features to one shape, and the step that matches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.adaptation import fit_into
from spectralkd_nb.distillation.steps import Step, Terms, described
from spectralkd_nb.networks.features import collected
from spectralkd_nb.networks.weights import randomness_kept

FeatureLoss = Callable[[Tensor, Tensor], Tensor]


class Connector(nn.Conv2d):
    """A 1 x 1 convolution from the student's channels to the teacher's, with a stride where its maps are larger.

    The regressor of FitNets (Romero et al. 2015, arXiv 1412.6550, section 2.2), which has larger kernels there. It is
    trained along with the student and thrown away afterwards.

    Args:
        channels, to_channels: the student's and the teacher's.
        stride: by how much, a side, the student's maps are larger.
    """

    def __init__(self, channels: int, to_channels: int, stride: int = 1) -> None:
        super().__init__(channels, to_channels, 1, stride)

    @classmethod
    def between(cls, student: Tensor, teacher: Tensor, seed: int = 0) -> Connector:
        """One that brings features of the student (B, C, H, W) to the shape of the teacher's; weights by the seed.

        Raises:
            ValueError: not four dimensions, or maps of which the student's are no whole number of times larger.
        """
        shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        if student.ndim != 4 or teacher.ndim != 4:
            raise ValueError(f"{shapes}: a connector joins features (B, C, H, W)")
        strides = {mine / its for mine, its in zip(student.shape[2:], teacher.shape[2:], strict=True)}
        stride = strides.pop()
        if strides or stride != int(stride):
            raise ValueError(
                f"{shapes}: the student's maps must be as large as the teacher's or a whole number of times larger; "
                "pair other layers"
            )
        with randomness_kept():
            torch.manual_seed(seed)
            return cls(student.shape[1], teacher.shape[1], int(stride))

    @classmethod
    def fitted(cls, student: Tensor, teacher: Tensor) -> Connector:
        """The one with the least mean squared difference behind it on these very features, by linear least squares.

        What is left behind it is what the student's features lack, whatever the connector: a look at a trained student
        without training a connector first.

        Args, errors: as for `between`; (B, C, H, W), both of the same images, or a ValueError.
        """
        if student.shape[:1] != teacher.shape[:1]:
            raise ValueError(
                f"the student's features are of {len(student)} images and the teacher's of {len(teacher)}; give both "
                "of the same images"
            )
        connector = cls.between(student.detach(), teacher.detach())
        stride = connector.stride[0]
        fit_into(connector, student[..., ::stride, ::stride], teacher)
        return connector.to(student.device)

    def forward(self, features: Tensor) -> Tensor:
        """From features (B, channels, H, W) to (B, to_channels, H / stride, W / stride), rounded up."""
        # Pixels are left out before the convolution: oneDNN's own stride, of 1 x 1 kernels on channels-last maps of 4
        # channels, has been seen to return wrong gradients and to write past the end of its memory (torch 2.14, AVX2).
        stride = self.stride[0]
        return F.conv2d(features[..., ::stride, ::stride], self.weight, self.bias)

    def extra_repr(self) -> str:
        """Channels and stride, as the run's record has them."""
        stride = f", stride={self.stride[0]}" if self.stride[0] > 1 else ""
        return f"{self.in_channels}, {self.out_channels}{stride}"


class Match(nn.Module):
    """One loss between a layer of the student and a layer of the teacher.

    Args:
        name: of the loss term. Matches of one name are added up.
        loss: takes features of the student and of the teacher, returns a scalar; see `losses`. Its settings go along in
            a functools.partial, or they are not part of the run's record.
        student, teacher: dotted paths of the layers.
        connector: what the student's features go through first, for instance a `Connector`; None for nothing.
    """

    def __init__(
        self, name: str, loss: FeatureLoss, student: str, teacher: str, connector: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.name, self.loss, self.student, self.teacher = name, loss, student, teacher
        self.connector = connector

    def connected(self, student: Tensor) -> Tensor:
        """The student's features as the loss takes them: through the connector, if there is one.

        (B, C, H, W) to the connector's (B, C', H', W').
        """
        return student if self.connector is None else self.connector(student)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss, a scalar, of features of both; for most losses (B, C, H, W), the student's before the connector."""
        return self.loss(self.connected(student), teacher)

    def __repr__(self) -> str:
        through = "" if self.connector is None else f" through {self.connector!r}"
        return f"{self.name}: {described(self.loss)} on {self.student}{through} and {self.teacher}"


class FeatureMatching(nn.Module):
    """A step that asks the student to match features of the teacher beside what another step asks. ::

        step = FeatureMatching(SoftTargets(), [Match("shape", spectral_shape_loss, "layer1", "layer1")])
        train(student, data, teacher=teacher, step=step, weights={"shape": 0.1})

    Networks stay as they are: features are taken by dotted path. Connectors are trained, clipped and checkpointed with
    the student. The teacher's features get no gradient, because the losses of this package give it none.

    Args:
        base: gives the logits and its own terms, such as `CrossEntropy()` or `SoftTargets()`.
        matches: at least one.

    Raises:
        ValueError: no matches; when called: no teacher, what `collected` refuses, a term that the base has too.
    """

    def __init__(self, base: Step, matches: Sequence[Match]) -> None:
        super().__init__()
        if not matches:
            raise ValueError("there is nothing to match; use the base step alone")
        self.base = base
        self.matches = nn.ModuleList(matches)

    def forward(
        self, student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Terms]:
        """The step of a batch: the student's logits (B, classes), and scalars by name, the base's and the matches'.

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B,) int64.

        Raises:
            ValueError: see the class.
        """
        if teacher is None:
            raise ValueError("features to match come from a teacher; pass teacher=... to train")
        mine, its = [match.student for match in self.matches], [match.teacher for match in self.matches]
        with collected(student, mine) as seen, collected(teacher, its) as shown:
            logits, terms = self.base(student, teacher, images, labels)
            if not shown:  # a base that learns from labels alone
                with torch.no_grad():
                    teacher(images)
        found = [(match.name, match(seen[match.student], shown[match.teacher])) for match in self.matches]
        return logits, joined(terms, added_up(found))

    def __repr__(self) -> str:
        return " + ".join([described(self.base), *(f"[{match!r}]" for match in self.matches)])


def added_up(losses: Iterable[tuple[str, Tensor]]) -> Terms:
    """Losses by name; those of one name are one term."""
    terms: Terms = {}
    for name, loss in losses:
        terms[name] = terms[name] + loss if name in terms else loss
    return terms


def joined(base: Terms, found: Terms) -> Terms:
    """Both, if no name is in both."""
    if twice := base.keys() & found.keys():
        raise ValueError(f"the base step has a term {min(twice)!r} of its own; name the matches otherwise")
    return {**base, **found}
