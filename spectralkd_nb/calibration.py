"""What an estimator reads where the truth is known, and the correction that follows.

A cut-out of a large power-law field imitates a photograph or an activation map: its exponent is known and it is not
periodic. Whatever the estimator reads off many such cut-outs, less the truth, is its bias at that size, band
and edge treatment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import SpectrumAccumulator, fit_power_law

__all__ = ["correct_exponent", "cut_outs", "simulated_exponents"]

CUT_OUTS_A_FIELD = 16
SMALLEST_FIELD, LARGEST_FIELD = 512, 2048  # pixels a side
TRUE_ALPHAS = tuple(torch.arange(-1.0, 4.01, 0.5).tolist())


def cut_outs(shape: tuple[int, int], alpha: float, n: int = 400, seed: int = 0) -> Tensor:
    """n cut-outs (n, H, W) of larger Gaussian fields of exponent alpha: maps with a border, like a photograph.

    The fields are 8 times as long as the cut-outs where that is 512 to 2048 pixels, and always at least twice as long:
    a cut-out also shows waves longer than itself, and they are what makes its border jump.

    Args:
        shape: (H, W) in pixels.
        alpha: exponent of the field.
        n: how many.
        seed: of fields and places.

    Returns:
        (n, H, W) float64.
    """
    height, width = shape
    side = max(min(max(SMALLEST_FIELD, 8 * max(shape)), LARGEST_FIELD), 2 * max(shape))
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for _ in range(math.ceil(n / CUT_OUTS_A_FIELD)):
        field = power_law_field(side, alpha, generator=generator, dtype=torch.float64)[0]
        tops = torch.randint(side - height + 1, (CUT_OUTS_A_FIELD,), generator=generator).tolist()
        lefts = torch.randint(side - width + 1, (CUT_OUTS_A_FIELD,), generator=generator).tolist()
        pieces += [field[t : t + height, le : le + width] for t, le in zip(tops, lefts, strict=True)]
    return torch.stack(pieces[:n]) if n else torch.zeros(0, height, width, dtype=torch.float64)


def simulated_exponents(
    alphas: Sequence[float],
    shape: tuple[int, int],
    edges: str = "periodic",
    band: tuple[float, float] | None = None,
    method: str = "whittle",
    n: int = 400,
    seed: int = 0,
) -> list[float]:
    """What is read, for each true exponent, off the pooled spectrum of n cut-outs of this shape.

    Args:
        alphas: true exponents.
        shape: (H, W) in pixels.
        edges, band, method: as in `spectral_exponent`.
        n, seed: number of cut-outs and seed, the same for every exponent, so that the readings rise together.

    Returns:
        readings, in the order of the alphas.

    Raises:
        ValueError: no cut-outs, and as `power_spectrum` and `fit_power_law`.
    """

    def read(alpha: float) -> float:
        accumulator = SpectrumAccumulator(edges)
        accumulator.update(cut_outs(shape, alpha, n, seed))
        return float(fit_power_law(accumulator.result(), band, method).alpha)

    return [read(alpha) for alpha in alphas]


def correct_exponent(
    alpha: float,
    shape: tuple[int, int],
    edges: str = "periodic",
    band: tuple[float, float] | None = None,
    method: str = "whittle",
    n: int = 64,
    seed: int = 0,
) -> float:
    """The true exponent at which cut-outs of this shape read alpha on average.

    Our own correction: it simulates true exponents from -1 to 4 in steps of 0.5 and interpolates between their
    readings. It corrects for size, border and band, on the assumption that the maps are power-law fields; a bent
    spectrum stays bent.

    Args:
        alpha: the exponent that was read.
        shape, edges, band, method: with which it was read.
        n, seed: of the simulation.

    Returns:
        the corrected exponent, between -1 and 4; NaN where no true exponent up to 4 reads as much, or where several do
        (the plateau of edges="none" near 2.7). Truths steeper than 4 are left out: with periodic edges they read
        flatter again, and would make every reading above 3 ambiguous.

    Raises:
        ValueError: as `simulated_exponents`.
    """
    readings = simulated_exponents(TRUE_ALPHAS, shape, edges, band, method, n, seed)
    for i, (low, high) in enumerate(pairwise(readings)):
        # Steeper truths must read steeper, or the reading does not say which truth it was.
        if low <= alpha < high and min(readings[i + 1 :]) > alpha:
            return TRUE_ALPHAS[i] + (alpha - low) / (high - low) * (TRUE_ALPHAS[i + 1] - TRUE_ALPHAS[i])
    return math.nan
