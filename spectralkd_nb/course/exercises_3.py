"""The exercises of lesson 3, the linear exponent law."""

from __future__ import annotations

import torch

from spectralkd_nb import depth_law
from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, whole_number_of, wrong


def check_still_point(correlation: float | None) -> Verdict:
    """Lesson 3, exercise 1: the tap correlation at which alpha is 1 before and after 12 layers with batch norm.

    Args:
        correlation: of neighbouring taps, or None while unsolved.
    """
    if correlation is None:
        return left_open("3.1", "replace None by a correlation between 0 and 0.5")
    asked = number_of(correlation)
    if asked is None or not -1 < asked < 1:
        return wrong("3.1", f"{correlation!r} is no correlation; it lies between 0 and 0.5")
    alphas = depth_law.predict(depth_law.Setting(alpha=1.0, correlation=asked, depth=12))
    start, end = float(alphas[0]), float(alphas[-1])
    if abs(end - start) > 0.03:
        way = "falls" if end < start else "rises"
        return wrong("3.1", f"with a correlation of {asked:g} alpha {way} from {start:.2f} to {end:.2f}")
    return right("3.1", f"alpha is {start:.2f} at first and {end:.2f} after 12 layers")


def check_halved(layers: int | None) -> Verdict:
    """Lesson 3, exercise 2: after how many layers with white kernels an alpha of 2.6 is first below half of it.

    Args:
        layers: their number, or None while unsolved.
    """
    if layers is None:
        return left_open("3.2", "replace None by a whole number")
    asked = whole_number_of(layers)
    if asked is None:
        return wrong("3.2", f"{layers!r} is no whole number")
    alphas = depth_law.predict(depth_law.Setting(alpha=2.6, depth=20))
    below = int((alphas < alphas[0] / 2).nonzero()[0])
    if asked != below:
        known = f"it is {alphas[asked]:.2f} there" if asked in range(len(alphas)) else "try 1 to 20"
        return wrong("3.2", f"{asked} is not the first layer with an alpha below {alphas[0] / 2:.2f}; {known}")
    return right("3.2", f"layer {below} is the first below half: {alphas[below]:.2f}")


def check_straight_fall(setting: depth_law.Setting | None) -> Verdict:
    """Lesson 3, exercise 3: a random network whose alpha falls by 0.05 a layer or more on a line of R2 0.998 or more.

    Args:
        setting: with 12 layers or more; or None while unsolved.
    """
    if setting is None:
        return left_open("3.3", "replace None by a Setting(...)")
    if not isinstance(setting, depth_law.Setting):
        return wrong("3.3", "a Setting(...) is asked for")
    try:
        alphas = depth_law.predict(setting)
    except (ValueError, TypeError, OverflowError) as error:
        return wrong("3.3", str(error))
    if len(alphas) < 13:
        return wrong("3.3", f"{setting.depth} layers are not 12")
    line = depth_law.line_through(torch.arange(len(alphas)), alphas)
    found = f"alpha moves by {line.slope:+.3f} a layer, R2 {line.r_squared:.4f}"
    return right("3.3", found) if line.slope <= -0.05 and line.r_squared >= 0.998 else wrong("3.3", found)
