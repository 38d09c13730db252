"""What a student can be asked to match: one file a family of losses, each a pure function of student and teacher."""

from spectralkd_nb.losses.attention import attention_loss as attention_loss
from spectralkd_nb.losses.features import fourier_loss as fourier_loss
from spectralkd_nb.losses.features import hint_loss as hint_loss
from spectralkd_nb.losses.logits import kd_loss as kd_loss
from spectralkd_nb.losses.spectral import exponent_loss as exponent_loss
from spectralkd_nb.losses.spectral import spectral_shape_loss as spectral_shape_loss
from spectralkd_nb.losses.spectral import whitened_spectral_loss as whitened_spectral_loss
