"""What a student can be asked to match: one file a family of losses, each a pure function of student and teacher.

`frequency` takes a loss apart: which frequencies its error and its gradient have.
"""

from spectralkd_nb.losses.attention import attention_loss
from spectralkd_nb.losses.features import fourier_loss, hint_loss
from spectralkd_nb.losses.frequency import (
    error_spectrum,
    gradient_agreement,
    gradient_spectrum,
    octave_shares,
    shape_distance,
)
from spectralkd_nb.losses.logits import kd_loss
from spectralkd_nb.losses.spectral import exponent_loss, spectral_shape_loss, whitened_spectral_loss

__all__ = [
    "attention_loss",
    "error_spectrum",
    "exponent_loss",
    "fourier_loss",
    "gradient_agreement",
    "gradient_spectrum",
    "hint_loss",
    "kd_loss",
    "octave_shares",
    "shape_distance",
    "spectral_shape_loss",
    "whitened_spectral_loss",
]
