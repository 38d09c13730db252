"""Grids that train their teachers themselves, in the store that the students learn in."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_targets import write_shades

from spectralkd_nb.experiments import planned_runs, read_records, run_grid
from spectralkd_nb.experiments.plan import TRAINED, planned_teachers
from spectralkd_nb.experiments.records import finished_runs, write_records
from spectralkd_nb.experiments.targets import grid_targets
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.weights import fingerprint_of


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> dict:
    place = tmp_path_factory.mktemp("place")
    write_shades(place / "shades.npz")
    short = {"data": f"{place}/shades.npz", "recipe": "quick", "epochs": 1}
    return {
        "seeds": [0],
        "keep_epochs": [1],
        "pairs": [{"student": "vgg8x0.0625", "teacher": "vgg8x0.125"}],
        "protocols": {"short": short, "long": {**short, "epochs": 2}},
        "train_teachers": {"protocol": "long", "seed": 1000},
        "methods": {
            "alone": {"cross-entropy": 1},
            "KD": {"cross-entropy": 0.1, "soft targets": 0.9},
        },
    }


@pytest.fixture(scope="module")
def store(grid, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("store")
    assert (run_grid(grid, store)["state"] == "finished").all()
    return store


def test_one_teacher_is_planned_for_all_its_students(grid):
    (plan,) = planned_teachers(grid)
    assert (plan.student, plan.teacher, plan.method, plan.seed) == ("vgg8x0.125", None, TRAINED, 1000)
    assert plan.recipe.epochs == 2
    assert plan.keep_epochs == [2]
    taught = [run for run in planned_runs(grid) if run.method == "KD"]
    assert {run.teacher_weights for run in taught} == {f"{plan.folder}/epoch_002.safetensors"}
    assert planned_teachers({key: value for key, value in grid.items() if key != "train_teachers"}) == []
    named = {**grid, "pairs": [{**grid["pairs"][0], "teacher_weights": "mine.pt"}]}
    assert planned_teachers(named) == []


def test_a_teacher_may_differ_from_its_students_protocol(grid):
    (plan,) = planned_teachers({**grid, "train_teachers": {"protocol": "short", "seed": 1, "epochs": 7}})
    assert (plan.recipe.epochs, plan.recipe.batch_size, plan.keep_epochs) == (7, 32, [7])
    assert {run.recipe.epochs for run in planned_runs(grid)} == {1, 2}


def test_the_teacher_is_trained_first_and_once(grid, store):
    (plan,) = planned_teachers(grid)
    trained = store / plan.folder / "run.json"
    before = trained.stat().st_mtime_ns
    run_grid(grid, store)
    assert trained.stat().st_mtime_ns == before
    weights = load_weights(build("vgg8x0.125", 2), store / plan.folder / "epoch_002.safetensors")
    (taught,) = [r for r in finished_runs(grid, store) if (r.plan.method, r.plan.protocol) == ("KD", "short")]
    assert taught.run.protocol["teacher fingerprint"] == fingerprint_of(weights.state_dict())


def test_what_is_measured_later_finds_the_teacher_in_the_store(grid, store):
    table = grid_targets({**grid, "protocols": grid["protocols"]}, store, ["layer1"], all_epochs_of=-1)
    assert set(table["method"]) == {"alone", "KD"}


def test_records_of_such_a_grid_are_read_again(grid, store, tmp_path):
    write_records(finished_runs(grid, store), tmp_path / "records.jsonl")
    assert [record.plan for record in read_records(tmp_path / "records.jsonl")] == planned_runs(grid)


@pytest.mark.parametrize(
    ("teachers", "told"),
    [
        ({"protocol": "longer", "seed": 0}, "the teachers' protocol 'longer' is none of 'short', 'long'"),
        ({"protocol": "long"}, "train_teachers needs 'seed'"),
        ({"protocol": "long", "seed": -1}, "seed -1 is no whole number"),
        ({"protocol": "long", "seed": 1, "epoch": 3}, "train_teachers has no 'epoch'"),
        ({"protocol": "long", "seed": 1, "epochs": 0}, "epochs=0"),
        ("long", "train_teachers is 'long'; give a table with protocol, seed"),
    ],
)
def test_a_wrong_table_of_teachers_is_told(grid, teachers, told):
    with pytest.raises(ValueError, match=told):
        planned_runs({**grid, "train_teachers": teachers})


def test_a_teacher_that_cannot_be_trained_stops_its_grid_with_a_reason(grid, tmp_path):
    bad = {**grid["protocols"]["long"], "learning_rate": 1e30}
    with pytest.raises(ValueError, match=r"the teacher 'vgg8x0.125' could not be trained.* is not finite"):
        run_grid({**grid, "protocols": {**grid["protocols"], "long": bad}}, tmp_path)
