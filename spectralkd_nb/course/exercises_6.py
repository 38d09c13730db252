"""The exercises of lesson 6, teacher quality."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from spectralkd_nb import teacher_quality
from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, wrong
from spectralkd_nb.experiments.sweet_spot import SweetSpot

SPREAD_AT = 4.0  # the temperature of exercise 2


def check_equal_doubt(temperature: float | None, late: Tensor, early: Tensor) -> Verdict:
    """Lesson 6, exercise 1: the temperature at which a late teacher names as many classes as an early one does at 1.

    Args:
        temperature: or None while unsolved.
        late, early: logits (N, classes) for the same images.
    """
    if temperature is None:
        return left_open("6.1", "replace None by a temperature")
    asked = number_of(temperature)
    if asked is None or not 0 < asked < 1000:
        return wrong("6.1", f"{temperature!r} is no temperature between 0 and 1000")
    found = float(teacher_quality.effective_classes(late, asked).mean())
    goal = float(teacher_quality.effective_classes(early).mean())
    said = f"at T = {asked:g} it names {found:.2f} classes an image, and the early one {goal:.2f} at T = 1"
    return right("6.1", said) if abs(found - goal) <= 0.02 * goal else wrong("6.1", said)


def check_even_spread(control: Callable[[Tensor, Tensor], Tensor] | None) -> Verdict:
    """Lesson 6, exercise 2: a control that at T = 4 keeps each image's doubt, and says nothing of other classes.

    Args:
        control: takes logits (N, classes) and labels (N,), returns logits; or None while unsolved.
    """
    if control is None:
        return left_open("6.2", "replace None by a function of logits and labels")
    if not callable(control):
        return wrong("6.2", f"{control!r} is no function")
    generator = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(40, 7, dtype=torch.float64, generator=generator)
    labels = torch.arange(40) % 7
    try:
        taught = control(logits.clone(), labels.clone())
    except Exception as error:  # whatever a function of somebody else's may raise
        return wrong("6.2", f"it ends with {type(error).__name__}: {error}")
    if not isinstance(taught, Tensor) or taught.shape != logits.shape:
        return wrong("6.2", f"it has to return logits of shape {tuple(logits.shape)}")
    try:
        soft = teacher_quality.soft_targets(taught.detach(), SPREAD_AT)
    except (ValueError, RuntimeError) as error:
        return wrong("6.2", f"it returns no logits: {error}")
    mass = teacher_quality.non_target_mass(logits, labels, SPREAD_AT)
    kept = soft.gather(1, labels[:, None])[:, 0]
    others = soft[torch.nn.functional.one_hot(labels, 7) == 0].view(40, 6)
    uneven = float((others.amax(1) - others.amin(1)).max())
    if uneven > 1e-6:
        return wrong("6.2", f"two other classes of one image differ by {uneven:.3g} at T = 4")
    lost = float((kept - (1 - mass)).abs().max())
    if lost > 1e-6:
        return wrong("6.2", f"evenly spread, but an image's label has lost or won {lost:.3g} at T = 4")
    return right("6.2", "each label keeps its probability, and its other classes share the rest evenly")


def check_winners_luck(points: float | None, spot: SweetSpot) -> Verdict:
    """Lesson 6, exercise 3: by how much the best of a sweep's teachers flatters itself if all were equally good.

    Args:
        points: of accuracy, or None while unsolved.
        spot: has the deviation, the seeds, and the number of teachers.
    """
    if points is None:
        return left_open("6.3", "replace None by points of accuracy")
    asked = number_of(points)
    if asked is None:
        return wrong("6.3", f"{points!r} is no number of points")
    wanted = spot.deviation / math.sqrt(spot.seeds) * _highest_of(spot.teachers)
    said = f"the highest of {spot.teachers} means of {spot.seeds} seeds lies {wanted:.2f} points above the truth"
    if abs(asked - wanted) > 0.05 * wanted:
        return wrong("6.3", f"{asked:.2f} points are too {'few' if asked < wanted else 'many'}")
    return right("6.3", said)


def _highest_of(count: int) -> float:
    """Expectation of the highest of so many standard normal numbers."""
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    normal = torch.distributions.Normal(x.new_zeros(()), x.new_ones(()))
    density = count * normal.log_prob(x).exp() * normal.cdf(x) ** (count - 1)
    return float(torch.trapezoid(x * density, x))
