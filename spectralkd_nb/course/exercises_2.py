"""The exercises of lesson 2, activation spectra."""

from __future__ import annotations

import math

from torch import Tensor

from spectralkd_nb import operations
from spectralkd_nb.activations import ActivationSpectra
from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, tensor_of, wrong

BENCH = {"size": 128, "band": (0.02, 0.35)}  # of lesson 2's exercises


def check_relu_loss(alpha: float | None) -> Verdict:
    """Lesson 2, exercise 1: which exponent, of 0 to 3 in steps of 0.5, a ReLU flattens most.

    Args:
        alpha: the exponent, or None while unsolved.
    """
    if alpha is None:
        return left_open("2.1", "replace None by an exponent between 0 and 3")
    asked = number_of(alpha)
    if asked is None or not 0 <= asked <= 3:
        return wrong("2.1", f"{alpha!r} is no exponent between 0 and 3")

    def loss(before: float) -> float:
        power = operations.power_law_power(BENCH["size"], before)
        fits = (operations.predicted_exponent(p, BENCH["band"]) for p in (power, operations.after_relu(power)))
        into, out = (float(fit.alpha) for fit in fits)
        return into - out

    mine, best = loss(asked), max(loss(step / 2) for step in range(7))
    if mine < best - 1e-9:
        return wrong("2.1", f"a field of alpha = {asked:g} loses {mine:.3f}, and another loses more")
    return right("2.1", f"a field of alpha = {asked:g} loses {mine:.2f}; flatter and steeper ones lose less")


def check_average_gap(path: str | None, spectra: ActivationSpectra) -> Verdict:
    """Lesson 2, exercise 2: the convolution whose two averages lie farthest apart.

    Args:
        path: of the convolution, or None while unsolved.
        spectra: of the network in question.
    """
    if path is None:
        return left_open("2.2", "replace None by the path of a convolution")
    gaps = {
        layer.path: abs(spectra.exponent(layer.path, "pooled").alpha - spectra.exponent(layer.path, "normalised").alpha)
        for layer in spectra.layers
        if layer.kind == "Conv2d"
    }
    gaps = {layer: gap for layer, gap in gaps.items() if not math.isnan(gap)}
    if not isinstance(path, str) or path not in gaps:
        return wrong("2.2", f"{path!r} is no convolution of this network")
    if gaps[path] < max(gaps.values()):
        return wrong("2.2", f"the averages of {path} differ by {gaps[path]:.2f}, and those of another by more")
    return right("2.2", f"the averages of {path} differ by {gaps[path]:.2f}: a few loud channels are unlike the rest")


def check_steep_kernel(kernel: Tensor | None) -> Verdict:
    """Lesson 2, exercise 3: a 3 x 3 kernel that steepens alpha = 2 to 4.5 or more.

    Args:
        kernel: (3, 3), or None while unsolved.
    """
    if kernel is None:
        return left_open("2.3", "replace None by a tensor of 3 x 3 numbers")
    asked = tensor_of(kernel)
    if asked is None:
        return wrong("2.3", "a tensor of 3 x 3 numbers is asked for")
    if asked.shape != (3, 3):
        return wrong("2.3", f"the kernel has shape {tuple(asked.shape)}, and 3 x 3 is wanted")
    if not asked.isfinite().all():
        return wrong("2.3", "its numbers have to be finite")
    if not asked.any():
        return wrong("2.3", "a kernel of zeros lets nothing pass")
    power = operations.after_filter(operations.power_law_power(BENCH["size"], 2.0), asked)
    alpha = float(operations.predicted_exponent(power, BENCH["band"]).alpha)
    if not alpha >= 4.5:
        return wrong("2.3", f"it takes alpha from 2 to {alpha:.2f}")
    return right("2.3", f"it takes alpha from 2 to {alpha:.2f}")
