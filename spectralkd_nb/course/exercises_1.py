"""The exercises of lesson 1, natural image spectra."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spectralkd_nb import pictures
from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, tensor_of, wrong
from spectralkd_nb.spectra import fit_power_law, radial_spectrum

COFFEE_BANDS = ((0.005, 0.05), (0.05, 0.2), (0.2, 0.45))


def check_band_exponents(alphas: Sequence[float] | None) -> Verdict:
    """Lesson 1, exercise 1: alpha of the coffee picture in the bands 0.005-0.05, 0.05-0.2 and 0.2-0.45.

    Args:
        alphas: the three exponents in this order, or None while unsolved.
    """
    if alphas is None:
        return left_open("1.1", "replace None by a list of three exponents")
    try:
        asked = [number_of(alpha) for alpha in alphas]
    except TypeError:
        asked = [None]
    if None in asked:
        return wrong("1.1", f"{alphas!r} is no list of exponents")
    if len(asked) != len(COFFEE_BANDS):
        return wrong("1.1", f"{len(COFFEE_BANDS)} exponents are asked for, one a band, and here are {len(asked)}")
    spectrum = radial_spectrum(pictures.photographs()["coffee"].grey())
    for alpha, band in zip(asked, COFFEE_BANDS, strict=True):
        if not abs(alpha - float(fit_power_law(spectrum, band).alpha)) < 0.02:
            return wrong("1.1", f"{alpha:.2f} is not what the band from {band[0]} to {band[1]} gives")
    spread = max(asked) - min(asked)
    low, high = fit_power_law(spectrum).interval.tolist()
    return right("1.1", f"the bands differ by {spread:.2f}, and the interval of the whole fit is {high - low:.2f} wide")


def check_phase_noise(picture: Tensor | None) -> Verdict:
    """Lesson 1, exercise 2: the power of the cat chelsea with the phases of white noise.

    Args:
        picture: (300, 451), or None while unsolved.
    """
    if picture is None:
        return left_open("1.2", "replace None by a picture of 300 x 451 pixels")
    cat = pictures.photographs()["chelsea"].grey()
    asked = tensor_of(picture)
    if asked is None:
        return wrong("1.2", "a tensor of numbers is asked for")
    if asked.shape != cat.shape:
        return wrong("1.2", f"the cat has {tuple(cat.shape)} pixels, and this has {tuple(asked.shape)}")
    if not asked.isfinite().all():
        return wrong("1.2", "its numbers have to be finite")
    asked = asked.to(cat.dtype)
    mine, hers = (radial_spectrum(p, "none").power for p in (asked, cat))
    if not torch.allclose(mine, hers, rtol=1e-3):
        return wrong(
            "1.2", "its power is not the cat's; which of the two results keeps the power of the first picture?"
        )
    if abs(pictures.likeness(asked, cat)) > 0.1:
        return wrong("1.2", "it still looks like the cat; take the phases from white noise")
    alpha = float(fit_power_law(radial_spectrum(asked)).alpha)
    return right("1.2", f"no cat in sight, and alpha = {alpha:.2f} all the same")


def check_leaf_density(p: float | None) -> Verdict:
    """Lesson 1, exercise 3: the density r^-p of radii with which dead leaves have Tolhurst's alpha of 2.4.

    Args:
        p: the exponent of the density, or None while unsolved.
    """
    if p is None:
        return left_open("1.3", "replace None by the p of a density r^-p")
    asked = number_of(p)
    if asked is None or not -20 <= asked <= 20:
        return wrong("1.3", f"{p!r} is no exponent between -20 and 20")
    leaves = pictures.dead_leaves(256, n=4, exponent=asked, generator=torch.Generator().manual_seed(0))
    alpha = float(fit_power_law(radial_spectrum(leaves).average(), (4 / 256, 0.3)).alpha)
    if not abs(alpha - 2.4) <= 0.1:  # NaN for leaves so large that the picture has one grey
        return wrong("1.3", f"leaves of density r^-{asked:g} have alpha = {alpha:.2f}, and 2.4 is wanted")
    return right("1.3", f"leaves of density r^-{asked:g} have alpha = {alpha:.2f}")
