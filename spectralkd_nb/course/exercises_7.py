"""The exercises of lesson 7, activation map adaptation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spectralkd_nb.adaptation import AdaptedTeacher, AdaptiveModule
from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, wrong
from spectralkd_nb.networks.features import features_of

WAY = 0.25  # of the way between them that the teacher is to go in exercise 2
TOLERANCE = 0.02


def check_best_students(share: float | None, target: Tensor, channels: int) -> Verdict:
    """Lesson 7, exercise 1: what is left of a target for the best student that so many channels allow.

    Args:
        share: 0 to 1, or None while unsolved.
        target: (B, D, H, W).
        channels: of the student.
    """
    if share is None:
        return left_open("7.1", "replace None by a share between 0 and 1")
    asked = number_of(share)
    if asked is None or not 0 <= asked <= 1:
        return wrong("7.1", f"{share!r} is no share between 0 and 1")
    samples = target.detach().cpu().movedim(1, -1).flatten(0, -2).double()
    spread = torch.linalg.eigvalsh(torch.cov(samples.T, correction=0)).flip(0).clamp(min=0)
    wanted = float(spread[channels:].sum() / spread.sum())
    if abs(asked - wanted) > TOLERANCE * wanted:
        return wrong("7.1", f"{asked:.4f} is too {'little' if asked < wanted else 'much'}")
    return right("7.1", f"the best {channels} channels leave {100 * wanted:.1f} % of the target")


def check_quarter_way(approach: float | None, hint: float = 1.0) -> Verdict:
    """Lesson 7, exercise 2: the weight of the approach with which a target goes a quarter of the way to its student.

    Args:
        approach: or None while unsolved.
        hint: the weight of the hint.
    """
    if approach is None:
        return left_open("7.2", "replace None by a weight")
    asked = number_of(approach)
    if asked is None or not 0 <= asked < 100:
        return wrong("7.2", f"{approach!r} is no weight between 0 and 100")
    student, target = 0.0, 1.0
    for _ in range(20_000):  # plain gradient descent on hint (s - t)^2 and approach (t - s)^2, each side its own
        gap = student - target
        student, target = student - 2e-3 * hint * gap, target + 2e-3 * asked * gap
        if abs(gap) < 1e-9:
            break
    went = 1 - target
    said = f"with {asked:g} the target goes {100 * went:.1f} % of the way"
    return right("7.2", said) if abs(went - WAY) < 0.005 else wrong("7.2", said)


def check_smaller_module(
    module: Callable[[Tensor, Tensor, int], nn.Module] | None, teacher: nn.Module, path: str, images: Tensor
) -> Verdict:
    """Lesson 7, exercise 3: a module of one's own, with fewer weights than ours and no larger an error to begin with.

    Args:
        module: of a block's inputs, outputs and a seed, as `AdaptedTeacher` takes it; or None while unsolved.
        teacher: a network.
        path: of the block that is replaced.
        images: (B, 3, H, W), normalised; half of them fit.
    """
    if module is None:
        return left_open("7.3", "replace None by a function of inputs, outputs and a seed that returns a module")
    if not callable(module):
        return wrong("7.3", f"{module!r} is no function")
    fit, fresh = images[::2], images[1::2]
    truth = features_of(teacher, fresh, [path])[path]
    try:
        adapted = AdaptedTeacher(teacher, [path], fit, module=module).eval()
        found = features_of(adapted.network, fresh, [path])[path]
    except Exception as error:  # whatever a function of somebody else's may raise
        return wrong("7.3", f"it ends with {type(error).__name__}: {error}")
    ours = AdaptedTeacher(teacher, [path], fit, module=AdaptiveModule.fitted).eval()
    weights = [sum(p.numel() for p in network.parameters()) for network in (adapted, ours)]
    errors = [
        float((values - truth).square().mean() / truth.var())
        for values in (found, features_of(ours.network, fresh, [path])[path])
    ]
    if not weights[0]:
        return wrong("7.3", "it has no weights, so that nothing adapts")
    if weights[0] >= weights[1]:
        return wrong("7.3", f"it has {weights[0]:,} weights, and ours {weights[1]:,}")
    if not errors[0] <= 1.01 * errors[1]:
        return wrong(
            "7.3", f"it begins with an error of {errors[0]:.3f} of the block's variance, ours with {errors[1]:.3f}"
        )
    return right(
        "7.3", f"{weights[0]:,} weights instead of {weights[1]:,}, error {errors[0]:.3f} instead of {errors[1]:.3f}"
    )
