"""What is committed in data/results follows from its grids: no run is missing, and the cheapest comes out again."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spectralkd_nb import data_path
from spectralkd_nb.experiments import do_run, planned_runs, read_records, results_of, summary
from spectralkd_nb.experiments.spectra import TEACHER, stored_spectrum

PLANNED = sorted(path.stem for path in data_path("results").glob("*.toml"))
GRIDS = [grid for grid in PLANNED if data_path(f"results/{grid}.jsonl").exists()]
LESSON = "distillation_photographs"


def records_of(grid: str) -> list:
    return read_records(data_path(f"results/{grid}.jsonl"))


def test_there_are_records():
    assert LESSON in GRIDS


@pytest.mark.parametrize("grid", PLANNED)
def test_every_grid_can_be_planned(grid):
    assert planned_runs(data_path(f"results/{grid}.toml"))


@pytest.mark.parametrize("grid", GRIDS)
def test_every_run_of_a_grid_has_a_record_and_no_other_has(grid):
    plans = planned_runs(data_path(f"results/{grid}.toml"))
    assert [record.plan for record in records_of(grid)] == plans


@pytest.mark.parametrize("grid", GRIDS)
def test_a_record_is_of_the_run_that_was_planned(grid):
    for record in records_of(grid):
        run, plan = record.run, record.plan
        assert (run.pair["student"], run.pair["teacher"], run.seed) == (plan.student, plan.teacher, plan.seed)
        assert run.weights == {term: settings["weight"] for term, settings in plan.terms.items()}
        assert {key: plan.setting[key] for key in run.recipe} == run.recipe
        assert len(run.curves["epoch"]) == run.recipe["epochs"]
        assert run.accuracy_last == pytest.approx(run.curves["test accuracy"][-1], abs=1e-3)
        assert run.commit
        assert not re.search(r"/(root|home|work|tmp)/", str(record))


def test_the_cheapest_run_comes_out_again():
    """Elsewhere sums are rounded in another order, which training makes as large as another seed would."""
    records = records_of(LESSON)
    cheapest = min(records, key=lambda record: record.run.seconds)
    again = do_run(replace(cheapest.plan, keep_epochs=[]), None, device="cpu")
    first, kept = (run.curves["cross-entropy"][0] for run in (again, cheapest.run))
    assert first == pytest.approx(kept, rel=0.02)  # early on little has grown out of a rounding
    deviation = summary(results_of(records)).set_index("method")["deviation"][cheapest.plan.method]
    assert again.accuracy_last == pytest.approx(cheapest.run.accuracy_last, abs=4 * np.sqrt(2) * max(deviation, 1.0))


def test_the_spectra_are_those_of_the_grids_students():
    table = pd.read_csv(data_path(f"results/{LESSON}_spectra.csv"))
    plans = planned_runs(data_path(f"results/{LESSON}.toml"))
    epochs = [0, *plans[0].keep_epochs]
    layers = list(table["layer"].unique())
    for plan in plans:
        for layer in layers:
            at = epochs if plan.seed == plans[0].seed else epochs[-1:]
            spectra = [stored_spectrum(table, plan.method, layer, plan.seed, epoch) for epoch in at]
            goal = stored_spectrum(table, TEACHER, layer)
            assert all(len(spectrum.power) == len(goal.power) == min(goal.shape) // 2 for spectrum in spectra)
            assert all((spectrum.power > 0).all() for spectrum in spectra)
    with pytest.raises(ValueError, match="of alone, layer9, seed 0, epoch 0 the table has none"):
        stored_spectrum(table, "alone", "layer9", 0, 0)
    with pytest.raises(ValueError, match="the table has several"):
        stored_spectrum(table, "alone", layers[0])
