"""Grids of runs over seeds: planned as plain data, done once in a store, compared in pairs. ::

    runs = run_grid("grid.toml", "runs/store")
    compare_methods(runs, baseline="alone")

A grid is plain data (`plan`), and so is a method of distillation (`methods`). `run_grid` does what a store does not
have yet; `comparison` says what the seeds allow to say.
"""

from spectralkd_nb.experiments.comparison import compare_methods, paired_difference, seeds_needed, summary
from spectralkd_nb.experiments.estimate import describe_estimate, estimate_grid
from spectralkd_nb.experiments.grid import run_grid
from spectralkd_nb.experiments.methods import method_step
from spectralkd_nb.experiments.plan import Plan, planned_runs, read_grid
from spectralkd_nb.experiments.predictors import ladder, predictors
from spectralkd_nb.experiments.profiles import compare_profiles, profile_distances
from spectralkd_nb.experiments.records import Record, epochs_to, finished_runs, read_records, results_of
from spectralkd_nb.experiments.responses import sweep_responses as sweep_responses
from spectralkd_nb.experiments.spectra import stored_spectrum
from spectralkd_nb.experiments.sweep import read_sweep, sweep_row, sweep_teachers
from spectralkd_nb.experiments.sweet_spot import SweetSpot, Teacher, students_of, sweet_spot, teachers_of
from spectralkd_nb.experiments.tables import results_table, table_as
from spectralkd_nb.experiments.targets import kept_pairs, meeting_of

__all__ = [
    "Plan",
    "Record",
    "SweetSpot",
    "Teacher",
    "compare_methods",
    "compare_profiles",
    "describe_estimate",
    "epochs_to",
    "estimate_grid",
    "finished_runs",
    "kept_pairs",
    "ladder",
    "meeting_of",
    "method_step",
    "paired_difference",
    "planned_runs",
    "predictors",
    "profile_distances",
    "read_grid",
    "read_records",
    "read_sweep",
    "results_of",
    "results_table",
    "run_grid",
    "seeds_needed",
    "stored_spectrum",
    "students_of",
    "summary",
    "sweep_row",
    "sweep_teachers",
    "sweet_spot",
    "table_as",
    "teachers_of",
]
