"""What a grid will take, before it starts; and the grid as a form."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from test_targets import write_shades

from spectralkd_nb import widgets
from spectralkd_nb.experiments import describe_estimate, estimate_grid, planned_runs, run_grid


@pytest.fixture
def grid(tmp_path) -> dict:
    write_shades(tmp_path / "shades.npz")
    return {
        "seeds": [0, 1],
        "pairs": [{"student": "vgg8x0.0625", "teacher": "vgg8x0.125"}],
        "protocols": {"short": {"data": f"{tmp_path}/shades.npz", "recipe": "quick", "epochs": 1}},
        "train_teachers": {"protocol": "short", "seed": 1000},
        "methods": {
            "alone": {"cross-entropy": 1},
            "KD": {"cross-entropy": 0.1, "soft targets": 0.9},
            "whitened": {"cross-entropy": 1, "whitened": {"weight": 1, "layers": ["layer1"]}},
        },
    }


def test_each_method_and_the_teacher_have_a_row(grid):
    table = estimate_grid(grid, device="cpu", batches=1)
    assert table["method"].tolist() == ["trained alone", "alone", "KD", "whitened"]
    assert table["runs"].tolist() == [1, 2, 2, 2]
    assert (table["seconds"] > 0).all()
    assert table["minutes"].to_numpy() == pytest.approx(table["runs"] * table["seconds"] / 60)
    assert table["gigabytes"].isna().all()
    assert describe_estimate(table).startswith("7 runs are left: about ")


def test_an_estimate_is_of_what_is_left(grid, tmp_path):
    few = {**grid, "methods": {name: grid["methods"][name] for name in ("alone", "KD")}}
    run_grid(few, tmp_path / "store", device="cpu")
    table = estimate_grid(grid, tmp_path / "store", device="cpu", batches=1).set_index("method")
    assert table["runs"].to_dict() == {"trained alone": 0, "alone": 0, "KD": 0, "whitened": 2}
    assert math.isnan(table.loc["KD", "seconds"])
    assert table.loc["KD", "minutes"] == 0
    done = estimate_grid(few, tmp_path / "store", device="cpu")
    assert describe_estimate(done) == "Nothing is left to do."


def test_twice_as_many_epochs_take_about_twice_as_long(grid):
    """Of one measurement, so that a busy machine does not matter: the seconds of a run are those of its epochs."""
    long = {**grid, "protocols": {"short": {**grid["protocols"]["short"], "epochs": 200}}}
    short, long = (estimate_grid(g, device="cpu", batches=2).set_index("method")["seconds"]["KD"] for g in (grid, long))
    assert long > 10 * short


def test_an_estimate_keeps_nothing(grid, tmp_path):
    estimate_grid(grid, tmp_path / "store", device="cpu", batches=1)
    assert not (tmp_path / "store").exists()


def test_a_sentence_with_memory():
    import pandas as pd

    table = pd.DataFrame({"runs": [2, 1], "minutes": [5.0, 2.0], "gigabytes": [3.25, 7.0]})
    assert describe_estimate(table) == "3 runs are left: about 7 min, with up to 7.0 GiB of GPU memory."


# --- the form ------------------------------------------------------------------------------------


@pytest.fixture
def form(grid, tmp_path) -> widgets.GridForm:
    larger = {**grid, "seeds": [3, 4, 5], "pairs": [*grid["pairs"], {"student": "vgg8x0.0625", "teacher": "vgg8x0.25"}]}
    return widgets.GridForm({"small": grid, "larger": larger}, tmp_path / "store")


def test_a_form_gives_the_grid_that_it_was_given(form, grid, tmp_path):
    assert form.grid == grid
    assert form.store == tmp_path / "store"
    assert "6 runs (short: " in form.status.value
    assert "and 1 to train teachers first. 7 of them are not in " in form.status.value


def test_a_form_gives_what_is_chosen(form):
    form.choose(methods=["alone", "KD"], seeds=1)
    assert list(form.grid["methods"]) == ["alone", "KD"]
    assert form.grid["seeds"] == [0]
    assert "2 runs" in form.status.value


def test_another_scale_brings_all_that_it_has(form):
    form.choose(methods=["alone"]).choose(scale="larger")
    assert len(planned_runs(form.grid)) == 3 + 2 * 2 * 3
    form.choose(pairs=["vgg8x0.0625 from vgg8x0.25"])
    assert [pair["teacher"] for pair in form.grid["pairs"]] == ["vgg8x0.25"]
    assert [label for label, _ in form.seeds.options] == ["1 (3)", "2 (3, 4)", "3 (3, 4, 5)"]


def test_a_form_without_a_method_says_so_and_recovers(form):
    form.choose(methods=[])
    assert 'role="alert"' in form.status.value
    with pytest.raises(ValueError, match="no methods are chosen; choose one or more in the form"):
        _ = form.grid
    form.choose(methods=["KD"])
    assert 'role="status"' in form.status.value


def test_the_forms_folder_may_be_any(form, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert form.choose(folder=" ~/mine ").store == tmp_path / "mine"
    assert form.choose(folder="").store == Path()


def test_what_is_wrong_with_a_form_is_said(grid):
    with pytest.raises(ValueError, match="there is no grid to choose from"):
        widgets.GridForm({}, "store")
    with pytest.raises(ValueError, match="there is no scale 'full'; there are 'small'"):
        widgets.GridForm({"small": grid}, "store", scale="full")
    with pytest.raises(ValueError, match="the grid's seeds are empty"):
        widgets.GridForm({"small": {**grid, "seeds": []}}, "store")


def test_the_form_without_a_kernel_is_told_in_words(form):
    assert repr(form).startswith("[a form: scale, pairs, methods, seeds, folder (small, larger);")


def test_a_scale_is_chosen_before_what_it_has(form):
    form.choose(seeds=2, scale="larger")
    assert form.grid["seeds"] == [3, 4]


def test_a_folder_that_nobody_has_is_said(form):
    form.choose(folder="~nobody-at-all/runs")
    assert 'role="alert"' in form.status.value
