"""Every figure of the course, each with the sentence that reads it.

A function here takes what the package measured and returns a `CaptionedFigure`: a matplotlib figure and a caption
with the figure's numbers in words. As the last line of a cell it shows the picture and prints the caption under it, so
that a reader without the picture reads the same, and nbval compares the numbers.
"""

from spectralkd_nb.plots.adaptation import adapted_network, claims, meeting, targets_through_training
from spectralkd_nb.plots.depth import (
    depth_profile,
    depth_summary,
    gains_by_depth,
    profile_gallery,
    recursion,
    slopes_by_epoch,
)
from spectralkd_nb.plots.experiments import method_comparison, ranking
from spectralkd_nb.plots.layers import channel_exponents, exponents_by_depth, layer, operation
from spectralkd_nb.plots.losses import gradient_spectra, heard_by_frequency, spectra_while_learning, weighted_error
from spectralkd_nb.plots.profiles import student_profiles
from spectralkd_nb.plots.selectivity import (
    cosines_between_channels,
    gains,
    kernels_by_sigma,
    most_excited,
    two_pixel_sets,
    what_a_gram_keeps,
)
from spectralkd_nb.plots.spectra import (
    edge_treatments,
    exponent_spread,
    from_picture_to_law,
    gallery,
    law_by_band,
    orientations,
    picture_and_power,
    rival_laws,
    spectra_and_laws,
)
from spectralkd_nb.plots.style import PALETTE, CaptionedFigure, use_style
from spectralkd_nb.plots.teachers import (
    capacity_gap,
    response_through_training,
    similarity_matrices,
    soft_targets_of,
    teacher_heat_maps,
    what_predicts,
)
from spectralkd_nb.plots.training import accuracy_by_epoch, training_curves

__all__ = [
    "PALETTE",
    "CaptionedFigure",
    "accuracy_by_epoch",
    "adapted_network",
    "capacity_gap",
    "channel_exponents",
    "claims",
    "cosines_between_channels",
    "depth_profile",
    "depth_summary",
    "edge_treatments",
    "exponent_spread",
    "exponents_by_depth",
    "from_picture_to_law",
    "gains",
    "gains_by_depth",
    "gallery",
    "gradient_spectra",
    "heard_by_frequency",
    "kernels_by_sigma",
    "law_by_band",
    "layer",
    "meeting",
    "method_comparison",
    "most_excited",
    "operation",
    "orientations",
    "picture_and_power",
    "profile_gallery",
    "ranking",
    "recursion",
    "response_through_training",
    "rival_laws",
    "similarity_matrices",
    "slopes_by_epoch",
    "soft_targets_of",
    "spectra_and_laws",
    "spectra_while_learning",
    "student_profiles",
    "targets_through_training",
    "teacher_heat_maps",
    "training_curves",
    "two_pixel_sets",
    "use_style",
    "weighted_error",
    "what_a_gram_keeps",
    "what_predicts",
]
