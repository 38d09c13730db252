"""What a student can be asked to match: one file a family of losses, each a pure function of student and teacher.

`frequency` and `discrepancy` take losses apart: which frequencies an error and a gradient have, and what the distance
of two sets of neurons is made of.
"""

from spectralkd_nb.losses.attention import attention_loss
from spectralkd_nb.losses.discrepancy import (
    gram_shares,
    kernel_matrices,
    pixel_gram,
    shift_average,
    two_pixel_maps,
    witness,
)
from spectralkd_nb.losses.features import fourier_loss, hint_loss
from spectralkd_nb.losses.frequency import (
    error_spectrum,
    gradient_agreement,
    gradient_spectrum,
    octave_shares,
    shape_distance,
)
from spectralkd_nb.losses.logits import kd_loss
from spectralkd_nb.losses.selectivity import nst_loss
from spectralkd_nb.losses.spectral import exponent_loss, spectral_shape_loss, whitened_spectral_loss

__all__ = [
    "attention_loss",
    "error_spectrum",
    "exponent_loss",
    "fourier_loss",
    "gradient_agreement",
    "gradient_spectrum",
    "gram_shares",
    "hint_loss",
    "kd_loss",
    "kernel_matrices",
    "nst_loss",
    "octave_shares",
    "pixel_gram",
    "shape_distance",
    "shift_average",
    "spectral_shape_loss",
    "two_pixel_maps",
    "whitened_spectral_loss",
    "witness",
]
