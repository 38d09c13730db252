"""The lessons' set-up, progress bars, and the checks of their exercises."""

from spectralkd_nb.course.exercises_1 import check_band_exponents, check_leaf_density, check_phase_noise
from spectralkd_nb.course.exercises_2 import check_average_gap, check_relu_loss, check_steep_kernel
from spectralkd_nb.course.exercises_3 import check_halved, check_still_point, check_straight_fall
from spectralkd_nb.course.exercises_4 import check_equal_octaves, check_planned_seeds, check_shift_blind_loss
from spectralkd_nb.course.exercises_5 import check_fooled_kernels, check_representatives, check_style_loss
from spectralkd_nb.course.exercises_6 import check_equal_doubt, check_even_spread, check_winners_luck
from spectralkd_nb.course.exercises_7 import check_best_students, check_quarter_way, check_smaller_module
from spectralkd_nb.course.exercises_8 import check_fair_grid, check_holm, check_seeds_an_hour
from spectralkd_nb.course.exercises_9 import check_confidence_step, check_steps
from spectralkd_nb.course.lesson import Lesson, progress, start
from spectralkd_nb.course.verdicts import Verdict

__all__ = [
    "Lesson",
    "Verdict",
    "check_average_gap",
    "check_band_exponents",
    "check_best_students",
    "check_confidence_step",
    "check_equal_doubt",
    "check_equal_octaves",
    "check_even_spread",
    "check_fair_grid",
    "check_fooled_kernels",
    "check_halved",
    "check_holm",
    "check_leaf_density",
    "check_phase_noise",
    "check_planned_seeds",
    "check_quarter_way",
    "check_relu_loss",
    "check_representatives",
    "check_seeds_an_hour",
    "check_shift_blind_loss",
    "check_smaller_module",
    "check_steep_kernel",
    "check_steps",
    "check_still_point",
    "check_straight_fall",
    "check_style_loss",
    "check_winners_luck",
    "progress",
    "start",
]
