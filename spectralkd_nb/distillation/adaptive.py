"""The step in which student and teacher meet: targets come from an adapted teacher, which learns along."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.adaptation import AdaptedTeacher
from spectralkd_nb.distillation.features import Match, added_up, joined
from spectralkd_nb.distillation.steps import Step, Terms, described
from spectralkd_nb.networks.features import collected, modules_at

ANCHOR, APPROACH = "anchor", "approach"


class AdaptiveMatching(nn.Module):
    """A step that matches features of an adapted teacher, whose modules learn too. ::

        adapted = AdaptedTeacher(teacher, ["layer3"], images)
        step = AdaptiveMatching(CrossEntropy(), [Match("hint", hint_loss, "layer3", "layer3", connector)], adapted)
        train(student, data, teacher=teacher, step=step, weights={"hint": 1.0, "approach": 1.0, "anchor": 1.0})

    Each term has one learner, and a weight of its own:

    - the matches, such as "hint": loss(student, target), teaches the student, and the connector;
    - "approach": the same losses with their sides changed, loss(target, student), teaches the modules to come toward
      what the student has; weight 0 leaves them where the anchor holds them;
    - "anchor": cross-entropy of the adapted teacher's own answers and the labels. It keeps the targets worth learning:
      without it nothing forbids that both sides meet at a constant.

    Our construction, see `adaptation`. The losses must take their sides in either order, as `hint_loss` and most others
    do; a loss that has a gradient for its first side only gives each term its one learner.

    Args:
        base: gives the logits and its own terms. `SoftTargets()` asks the teacher that `train` was given, which is not
            adapted.
        matches: at least one, on layers of the adapted teacher.
        adapted: of the teacher that `train` is given.

    Raises:
        ValueError: no matches, or one on a layer that the adapted teacher does not have; when called: no teacher, the
            adapted one in its place, matches that no module can learn from, a term that the base has too.
    """

    def __init__(self, base: Step, matches: Sequence[Match], adapted: AdaptedTeacher) -> None:
        super().__init__()
        if not matches:
            raise ValueError("there is nothing to match, so nothing would adapt; use the base step alone")
        modules_at(adapted.network, [match.teacher for match in matches])
        self.base = base
        self.matches = nn.ModuleList(matches)
        self.adapted = adapted

    def forward(
        self, student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Terms]:
        """The step of a batch, see the class: the student's logits (B, classes), and scalar terms by name.

        Args:
            images: (B, 3, H, W), normalised.
            labels: (B,) int64.

        Raises:
            ValueError: see the class.
        """
        if teacher is None:
            raise ValueError("pass the teacher, of which the step has an adapted copy, as teacher=... to train")
        if teacher in (self.adapted, self.adapted.network):  # train would freeze its modules
            raise ValueError("pass the teacher as it is to train; the step has the adapted one")
        mine, its = [match.student for match in self.matches], [match.teacher for match in self.matches]
        with collected(student, mine) as seen, collected(self.adapted.network, its) as shown:
            logits, terms = self.base(student, teacher, images, labels)
            answers = self.adapted(images)
        meetings = [(match, match.connected(seen[match.student]), shown[match.teacher]) for match in self.matches]
        if torch.is_grad_enabled() and not any(target.requires_grad for _, _, target in meetings):
            replaced = ", ".join(map(repr, self.adapted.paths))
            raise ValueError(f"no match lies behind a replaced block ({replaced}), so that no module could approach")
        taught = added_up((match.name, match.loss(features, target)) for match, features, target in meetings)
        yielded = added_up((APPROACH, match.loss(target, features)) for match, features, target in meetings)
        anchor = {ANCHOR: F.cross_entropy(answers, labels)}
        return logits, joined(terms, joined(taught, yielded | anchor))

    def __repr__(self) -> str:
        parts = [described(self.base), *(f"[{match!r}]" for match in self.matches)]
        return f"{' + '.join(parts)}, teacher adapted: {self.adapted!r}"
