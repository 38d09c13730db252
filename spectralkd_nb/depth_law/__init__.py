"""alpha by depth: profiles of networks, the line and its rivals, what theory says, and random networks to try it on."""

from spectralkd_nb.depth_law.controls import control_profiles, twin_spectra
from spectralkd_nb.depth_law.fits import DepthLaw, DepthRival, StageLine, fit_depth_law, law_table, line_through
from spectralkd_nb.depth_law.other_exponents import Tail, eigenspectrum_exponent, weight_tail_exponent
from spectralkd_nb.depth_law.profiles import ExponentProfile, exponent_profile, profile_of
from spectralkd_nb.depth_law.simulations import BAND, Setting, predict, simulate, stored_simulations
from spectralkd_nb.depth_law.theory import (
    ESTIMATORS,
    depth_recursion,
    filter_gains,
    kernel_transfer,
    linear_filter_gain,
    random_kernel_transfer,
    transfer_gain,
)
from spectralkd_nb.depth_law.while_training import slopes_while_training

__all__ = [
    "BAND",
    "ESTIMATORS",
    "DepthLaw",
    "DepthRival",
    "ExponentProfile",
    "Setting",
    "StageLine",
    "Tail",
    "control_profiles",
    "depth_recursion",
    "eigenspectrum_exponent",
    "exponent_profile",
    "filter_gains",
    "fit_depth_law",
    "kernel_transfer",
    "law_table",
    "line_through",
    "linear_filter_gain",
    "predict",
    "profile_of",
    "random_kernel_transfer",
    "simulate",
    "slopes_while_training",
    "stored_simulations",
    "transfer_gain",
    "twin_spectra",
    "weight_tail_exponent",
]
