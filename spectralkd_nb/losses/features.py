"""Losses on features of equal shape."""

from __future__ import annotations

import torch
from torch import Tensor

from spectralkd_nb.losses.pairs import in_full
from spectralkd_nb.spectra import mode_weights


def _difference(student: Tensor, teacher: Tensor) -> Tensor:
    if student.shape != teacher.shape:
        raise ValueError(
            f"features of the student {tuple(student.shape)} and of the teacher {tuple(teacher.shape)} differ in "
            "shape; put a connector between them"
        )
    student, teacher = in_full(student, teacher.detach())
    return student - teacher


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features, the hint of FitNets (Romero et al. 2015, arXiv 1412.6550, section 2.2).

    mean (student - teacher)^2 over all elements: images, channels and pixels. The paper has half of the sum over an
    image's elements, which is C H W / 2 times as much; the mean is what later code takes, with a weight of about 100.

    Args:
        student, teacher: features of one shape, for instance (B, C, H, W). The gradient goes to the student only.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: unequal shapes, no elements.
        TypeError: not real floating.
    """
    return _difference(student, teacher).square().mean()


def fourier_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of complex Fourier coefficients: by Parseval's theorem the `hint_loss`, to rounding.

    mean ``|FFT(student) - FFT(teacher)|^2 / (H W)`` over images, channels and modes of the full plane; it is computed
    on the half plane of a real FFT, where a column counts for its mirror image too (`spectra.mode_weights`). As long as
    phases are kept and modes weigh alike, a loss in frequency sees nothing that pixels do not show. Our own, to show
    just that.

    Args:
        student, teacher: real maps (B, C, H, W) of one shape. The gradient goes to the student only.

    Returns:
        A scalar, float32 or float64.

    Raises:
        ValueError: unequal shapes, no elements, fewer than two dimensions.
        TypeError: not real floating.
    """
    if student.ndim < 2:
        raise ValueError(f"maps have shape {tuple(student.shape)}; two spatial dimensions (..., H, W) are needed")
    difference = _difference(student, teacher)
    modes = torch.fft.rfft2(difference, norm="ortho")  # of the difference: the FFT is linear, and one is cheaper
    weights = mode_weights(difference.shape[-1], difference.device).to(difference.dtype)
    return (torch.view_as_real(modes).square().sum(-1) * weights).sum() / difference.numel()
