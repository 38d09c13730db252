"""A task whose classes are laws: by which alpha, and in which direction, does the power of this texture fall?"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from spectralkd_nb.datasets.labelled import LabelledImages
from spectralkd_nb.datasets.patches import CONTRAST
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import mode_frequencies, mode_weights

ALPHAS = (1.0, 1.3, 1.6, 1.9)
DIRECTIONS = (0, 45, 90, 135)  # degrees, of the waves that have most power; clockwise as seen, as in `RadialSpectrum`
ANISOTROPY = 0.4  # power goes by exp(0.4 cos 2 (angle - direction)): 2.2 times as much along as across
WHOLE = 2  # a patch is cut from a field that is so many times as wide, so that its borders do not meet


def field_patches(size: int = 32, train: int = 100, test: int = 150, seed: int = 0) -> LabelledImages:
    """Patches of Gaussian fields whose spectrum is the class: 4 exponents in 4 directions, 16 classes.

    P(f, angle) = f^-alpha exp(0.4 cos 2 (angle - direction)), random phases. Grey, with equal brightness and contrast,
    each patch cut from a field of its own. Nothing but the law tells the classes, and how alike two of them are is
    known: `similarity` is minus the divergence of their laws.

    Args:
        size: pixels a side, 8 or more.
        train, test: patches of each class.
        seed: of the fields.

    Raises:
        ValueError: patches too small, or none.
    """
    if size < 8 or train < 1 or test < 1:
        raise ValueError(f"size={size}, train={train}, test={test}; give 8 pixels or more, and a patch or more of each")
    laws = list(itertools.product(ALPHAS, DIRECTIONS))
    generator = torch.Generator().manual_seed(seed)
    patches = [_patches(size, alpha, direction, train + test, generator) for alpha, direction in laws]

    def together(part: slice, count: int) -> tuple[Tensor, Tensor]:
        images = torch.cat([of_class[part] for of_class in patches]).contiguous(memory_format=torch.channels_last)
        return images, torch.arange(len(laws)).repeat_interleave(count)

    return LabelledImages(
        "fields",
        *together(slice(train), train),
        *together(slice(train, None), test),
        tuple(f"alpha {alpha} at {direction}" for alpha, direction in laws),
        "made here from random numbers",
        flip=False,  # a mirror turns 45 degrees into 135
        similarity=-_divergences(size, laws),
    )


def _patches(size: int, alpha: float, direction: float, count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, size, size) uint8, of equal brightness and contrast."""
    side = WHOLE * size
    fields = power_law_field(side, alpha, count, generator, dtype=torch.float64)
    modes = torch.fft.rfft2(fields) * _directed(side, direction).sqrt()
    cut = torch.fft.irfft2(modes, s=(side, side))[:, :size, :size]
    mean, std = cut.mean((1, 2), keepdim=True), cut.std((1, 2), keepdim=True)
    equal = ((cut - mean) / std * CONTRAST + 0.5).clamp(0, 1)
    return (equal * 255).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)


def _directed(side: int, direction: float) -> Tensor:
    """(side, side // 2 + 1) what the direction makes of a mode's power."""
    fy, fx = mode_frequencies(side, side)
    angle = torch.atan2(fy, fx) - torch.deg2rad(torch.tensor(float(direction), dtype=torch.float64))
    return torch.exp(ANISOTROPY * torch.cos(2 * angle))


def _divergences(size: int, laws: list[tuple[float, int]]) -> Tensor:
    """(classes, classes) symmetric Kullback-Leibler divergence of Gaussian fields by these laws, nats a mode.

    Of a complex mode with powers P and Q it is P / Q + Q / P - 2; each law is scaled to one variance, as patches are.
    Modes inside the Nyquist circle: on it a wave has no direction of its own.
    """
    radius = torch.hypot(*mode_frequencies(size, size))
    shown = (radius > 0) & (radius < 0.5)
    weight = mode_weights(size).expand(size, -1)[shown]
    powers = torch.stack([radius[shown] ** -alpha * _directed(size, at)[shown] for alpha, at in laws])
    powers = powers / (powers * weight).sum(1, keepdim=True)
    ratio = powers[:, None] / powers
    return ((ratio + 1 / ratio - 2) * weight).sum(2) / weight.sum()
