"""What is committed in data/results follows from its grids and sweeps: nothing is missing, the cheapest comes again."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from spectralkd_nb import data_path
from spectralkd_nb.experiments import planned_runs, profile_distances, read_records, results_of, summary
from spectralkd_nb.experiments.bench import do_run
from spectralkd_nb.experiments.kept import TEACHER
from spectralkd_nb.experiments.profiles import OF_A_LAYER
from spectralkd_nb.experiments.spectra import stored_spectrum
from spectralkd_nb.experiments.sweep import COLUMNS, Stage, _student_plans, _teacher_plans, neighbours, read_sweep
from spectralkd_nb.experiments.sweet_spot import Teacher, sweet_spot

FILES = sorted(path.stem for path in data_path("results").glob("*.toml"))
SWEEPS = [name for name in FILES if "teachers" in tomllib.loads(data_path(f"results/{name}.toml").read_text())]
SWEPT = [name for name in SWEEPS if data_path(f"results/{name}.csv").exists()]
PLANNED = [name for name in FILES if name not in SWEEPS]
GRIDS = [grid for grid in PLANNED if data_path(f"results/{grid}.jsonl").exists()]
PROFILED = [grid for grid in GRIDS if data_path(f"results/{grid}_profiles.csv").exists()]
LESSON = "distillation_photographs"


def records_of(grid: str) -> list:
    return read_records(data_path(f"results/{grid}.jsonl"))


def test_there_are_records():
    assert LESSON in GRIDS
    assert PROFILED
    assert {"teachers_photographs", "teachers_fields"} <= set(SWEPT)


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


@pytest.mark.parametrize("grid", PROFILED)
def test_the_profiles_are_those_of_the_grids_students_and_teachers(grid):
    table = pd.read_csv(data_path(f"results/{grid}_profiles.csv"))
    plans = planned_runs(data_path(f"results/{grid}.toml"))
    runs = profile_distances(table)
    assert sorted(zip(runs.method, runs.seed, strict=True)) == sorted((plan.method, plan.seed) for plan in plans)
    assert set(table[table.role == TEACHER].teacher) == {plan.teacher for plan in plans if plan.teacher}
    assert table.columns.tolist()[-len(OF_A_LAYER) :] == OF_A_LAYER
    assert table.alpha.between(table.lower, table.upper).all()
    assert (table.trusted == table.reasons.isna()).all()
    assert table[table.layer == "image"].alpha.nunique() == 1


# --- sweeps --------------------------------------------------------------------------------------


def table_of(sweep: str) -> pd.DataFrame:
    return pd.read_csv(data_path(f"results/{sweep}.csv"))


def teachers_in(table: pd.DataFrame, step: str) -> set[Teacher]:
    own = table[(table.step == step) & table.network.notna()]
    return {Teacher(*which) for which in own[["network", "batch_size", "epochs"]].itertuples(index=False)}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_can_be_read(name):
    assert read_sweep(data_path(f"results/{name}.toml")).coarse


@pytest.mark.parametrize("name", SWEPT)
def test_the_steps_of_a_sweep_follow_from_one_another(name):
    sweep, table = read_sweep(data_path(f"results/{name}.toml")), table_of(name)
    assert list(table.columns) == COLUMNS
    assert teachers_in(table, "coarse") == set(sweep.coarse)
    first = sweet_spot(table[table.step == "coarse"])
    assert teachers_in(table, "refined 1") == set(neighbours(first.best, sweep, 1)) - set(sweep.coarse)
    found = sweet_spot(table)
    assert teachers_in(table, "confirmation") == {found.best, found.most_accurate, *sweep.also}


@pytest.mark.parametrize("name", SWEPT)
def test_the_rows_of_a_sweep_are_the_runs_that_are_planned(name, tmp_path, monkeypatch):
    sweep, table = read_sweep(data_path(f"results/{name}.toml")), table_of(name)
    monkeypatch.setattr("spectralkd_nb.experiments.sweep.state_of", lambda *_: ("finished", ""))
    monkeypatch.setattr("spectralkd_nb.experiments.sweep.require_epochs", lambda *_: None)
    for step, rows in table.groupby("step"):
        teachers = tuple(teachers_in(table, step))
        stage = Stage(step, teachers, tuple(sweep.search["seeds"]), sweep.search["held_out"], alone=step == "coarse")
        if step == "confirmation":
            stage = Stage(step, teachers, tuple(sweep.confirmation["seeds"]), 0)
        assert set(rows.teacher_run.dropna()) == {plan.folder for plan, _, _ in _teacher_plans(sweep, stage)}
        assert sorted(rows.student_run) == sorted(plan.folder for plan in _student_plans(sweep, stage, tmp_path))
    assert not table.commit.str.contains(r"\+", na=True).any()


@pytest.mark.parametrize("name", SWEPT)
def test_the_responses_of_a_sweep_are_of_its_teachers(name):
    table, said = table_of(name), pd.read_csv(data_path(f"results/{name}_responses.csv"))
    keys = ["step", "network", "batch_size", "epochs", "seed"]
    taught = table.dropna(subset="network").set_index(keys)
    test = said[(said.images == "test") & (said.temperature == 1)].set_index(keys)
    assert sorted(test.index) == sorted(taught.index)
    # Half precision, in which the teachers are kept, moves an image or two across a border.
    assert (test.accuracy - taught.teacher_accuracy).abs().max() < 1
    assert (said.groupby([*keys, "images", "temperature"]).size() == 1).all()
    assert (said.effective_classes >= 1).all()
    assert said.non_target_mass.between(0, 1).all()
    assert said.agreement.between(0, 100).all()
