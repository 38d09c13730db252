"""Grids of runs: what is planned, what is refused, what is done once, and what survives whatever happens."""

from __future__ import annotations

import copy
import errno
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from test_distillation import assert_equal, stripes, tensors
from threads import one_thread as one_thread  # a fixture
from torch import nn
from torch.testing import assert_close

from spectralkd_nb import course, experiments, widgets
from spectralkd_nb.__main__ import main
from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.datasets import LabelledImages, open_dataset
from spectralkd_nb.distillation import CrossEntropy, Progress, Recipe, Run, SoftTargets, TerminalProgress, train
from spectralkd_nb.distillation.features import Connector, FeatureMatching
from spectralkd_nb.distillation.store import RunStore
from spectralkd_nb.experiments import (
    Plan,
    Record,
    finished_runs,
    method_step,
    planned_runs,
    read_records,
    results_of,
    run_grid,
)
from spectralkd_nb.experiments.bench import Bench, do_run
from spectralkd_nb.experiments.methods import measured_alphas
from spectralkd_nb.experiments.plan import USUAL
from spectralkd_nb.experiments.progress import TerminalGrid, describe_grid, progress_table, reasons_of_failure
from spectralkd_nb.experiments.records import failure_file, grid_results, write_records
from spectralkd_nb.experiments.spectra import grid_spectra, stored_spectrum
from spectralkd_nb.experiments.work import GridProgress
from spectralkd_nb.losses import kd_loss, nst_loss
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.features import collected

Grid = dict[str, Any]

TOML = """
name = "shades"
seeds = [0, 1]

[[pairs]]
student = "vgg8x0.0625"
teacher = "vgg8x0.125"
teacher_weights = "{place}/teacher.pt"

[protocols.quick]
data = "{place}/shades.npz"
epochs = 2
batch_size = 16
augment = false

[methods.alone]
"cross-entropy" = 1

[methods.KD]
"soft targets" = {{ temperature = 2.0, weight = 0.9 }}
"cross-entropy" = 0.1

[methods."two terms"]
"cross-entropy" = 1.0
whitened = {{ weight = 0.5, layers = [["layer1", "layer1"]], balance = "octave" }}
shape = {{ weight = 0.1, layers = ["layer1", "layer2"] }}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a data set of two shades in much noise, and the weights of a teacher that has learned nothing."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(["dark", "light"])}
    for part, count in (("train", 40), ("test", 24)):
        labels = np.arange(count) % 2
        shade = 110 + 12 * labels[:, None, None, None] + 40 * rng.standard_normal((count, 4, 4, 3))
        noisy = shade.repeat(4, 1).repeat(4, 2) + 20 * rng.standard_normal((count, 16, 16, 3))
        arrays |= {f"{part}_images": noisy.clip(0, 255).astype(np.uint8), f"{part}_labels": labels}
    np.savez(place / "shades.npz", **arrays)
    torch.save(build("vgg8x0.125", 2, seed=5).state_dict(), place / "teacher.pt")
    return place


@pytest.fixture
def grid(place) -> Grid:
    """Two seeds of three methods: six runs."""
    return {
        "name": "shades",
        "seeds": [0, 1],
        "pairs": [
            {"student": "vgg8x0.0625", "teacher": "vgg8x0.125", "teacher_weights": f"{place}/teacher.pt"},
        ],
        "protocols": {"quick": {"data": f"{place}/shades.npz", "epochs": 2, "batch_size": 16, "augment": False}},
        "methods": {
            "alone": {"cross-entropy": 1.0},
            "KD": {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "temperature": 2.0}},
            "two terms": {
                "cross-entropy": 1.0,
                "shape": {"weight": 0.1, "layers": ("layer1", "layer2")},
                "whitened": {"weight": 0.5, "layers": [("layer1", "layer1")], "balance": "octave"},
            },
        },
    }


@pytest.fixture(scope="module")
def done(place, tmp_path_factory) -> Path:
    """A store in which all six runs are finished, each at the first go. Not to be written to."""
    store = tmp_path_factory.mktemp("done")
    file = place / "grid.toml"
    file.write_text(TOML.format(place=place))
    run_grid(file, store)
    return store


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The folders of the runs that were trained, or gone on with, or failed; in this order."""
    folders: list[str] = []

    def counted(student: nn.Module, *arguments: Any, **options: Any) -> Run:
        folders.append(Path(options["folder"]).name)
        return train(student, *arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.bench.train", counted)
    return folders


@pytest.fixture
def every_step(monkeypatch) -> None:
    """Callbacks hear of every step."""
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)


def running(progress: GridProgress) -> Plan:
    return progress.plans[progress.states.index("running")]


def outcomes(store: Path) -> dict[str, Any]:
    """What the finished runs of a store have come to: weights and curves, by folder."""
    found = {}
    for record in sorted(store.glob("*/run.json")):
        run = json.loads(record.read_text())
        curves = {name: values for name, values in run["curves"].items() if name != "seconds"}
        weights = torch.load(record.parent / "trained.pt", weights_only=True)
        found[record.parent.name] = {"curves": curves, "method": run["method"], "weights": weights}
    return found


def changed(grid: Grid, part: str, value: Any) -> Grid:
    """A grid with another pair, method, protocol, or key; ... takes one away."""
    grid = copy.deepcopy(grid)
    if part == "method":
        grid["methods"] = {"mine": value}
        return grid
    table = {"grid": grid, "pair": grid["pairs"][0], "protocol": grid["protocols"]["quick"]}[part]
    table |= value
    for key in [key for key, kept in value.items() if kept is ...]:
        del table[key]
    return grid


# --- what is planned -----------------------------------------------------------------------------


def test_runs_are_planned_seed_by_seed(grid):
    grid["protocols"]["slow"] = {**grid["protocols"]["quick"], "epochs": 4}
    order = [(plan.seed, plan.protocol, plan.method) for plan in planned_runs(grid)]
    each = [(protocol, method) for protocol in ("quick", "slow") for method in ("alone", "KD", "two terms")]
    assert order == [(seed, *one) for seed in (0, 1) for one in each]


def test_a_method_that_asks_no_teacher_is_planned_once_a_student(grid):
    grid["pairs"] += [{"student": "vgg8x0.0625", "teacher": "vgg8x0.5"}, {"student": "resnet8", "teacher": "vgg8x0.5"}]
    plans = [plan for plan in planned_runs(grid) if plan.seed == 0]
    alone = [plan for plan in plans if plan.method == "alone"]
    assert [(plan.student, plan.teacher, plan.teacher_weights) for plan in alone] == [
        ("vgg8x0.0625", None, None),
        ("resnet8", None, None),
    ]
    assert len(plans) == 2 + 2 * 3
    assert len({plan.folder for plan in plans}) == len(plans)


def test_toml_and_dict_give_the_same_plans(grid, place, tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text(TOML.format(place=place))
    assert planned_runs(file) == planned_runs(str(file))
    # A pair of one name twice is written out in the file, terms and settings come in another order, and 1 is 1.0.
    assert planned_runs(file) == planned_runs(grid)
    assert all(json.loads(json.dumps(asdict(plan))) == asdict(plan) for plan in planned_runs(grid))


def test_a_seed_or_a_pair_that_is_named_twice_is_run_once(grid):
    once = planned_runs(grid)
    grid["seeds"], grid["pairs"] = [0, 1, 0], grid["pairs"] * 2
    assert planned_runs(grid) == once


def test_a_folder_does_not_depend_on_what_a_grid_calls_a_run_nor_on_where_data_lies(grid, tmp_path):
    before = [plan.folder for plan in planned_runs(grid)]
    grid["name"], grid["keep_epochs"] = "other", [1]
    grid["methods"] = {f"{name}!": dict(reversed(method.items())) for name, method in grid["methods"].items()}
    grid["protocols"] = {"other": {**grid["protocols"]["quick"], "data": f"{tmp_path}/elsewhere/shades.npz"}}
    grid["protocols"]["other"] |= {"learning_rate": 0.1, "held_out": 0, "clip_norm": None}  # as they are anyway
    assert [plan.folder for plan in planned_runs(grid)] == before
    assert before[1].startswith("vgg8x0.0625-from-vgg8x0.125-shades-seed0-")
    assert all(Path(name).name == name for name in before)


RECIPES = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.05,
    "schedule": "step",
    "warm_up": 0.2,
    "milestones": [1],
    "decay": 0.5,
    "momentum": 0.8,
    "nesterov": False,
    "weight_decay": 0.0,
    "clip_norm": 1,
    "augment": True,
    "precision": "float32",
    "channels_last": False,
    "compile": True,
}
METHOD = {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "temperature": 2.0}}
WHITENED = {"weight": 1.0, "layers": ["layer1"]}


SETTINGS = [
    ("grid", {"seeds": [7]}),
    ("pair", {"student": "vgg8x0.25"}),
    ("pair", {"teacher": "vgg8x0.5"}),
    ("pair", {"teacher_weights": "other.pt"}),
    ("method", METHOD | {"cross-entropy": 0.2}),
    ("method", METHOD | {"soft targets": 0.9}),
    ("method", METHOD | {"soft targets": {"weight": 0.9, "temperature": 4.0}}),
    ("method", METHOD | {"whitened": WHITENED}),
    ("method", METHOD | {"whitened": WHITENED | {"alpha": 1.0}}),
    ("method", METHOD | {"whitened": WHITENED | {"balance": "octave"}}),
    ("method", METHOD | {"whitened": WHITENED | {"weight": 2.0}}),
    ("method", METHOD | {"whitened": WHITENED | {"layers": ["layer1", "layer2"]}}),
    ("protocol", {"data": "other.npz"}),
    ("protocol", {"data": "folders/set.1"}),
    ("protocol", {"data": "folders/set.2"}),
    ("protocol", {"held_out": 4}),
    *(("protocol", {name: value}) for name, value in RECIPES.items() if name != "schedule"),
    ("protocol", {"schedule": "step", "milestones": [1]}),
]


def test_every_setting_that_changes_the_result_changes_the_folder(grid):
    grid |= {"seeds": [0], "methods": {"KD": METHOD}}
    (usual,) = planned_runs(grid)
    others = {str(one): planned_runs(changed(grid, *one))[0].folder for one in SETTINGS}
    assert len({usual.folder, *others.values()}) == 1 + len(SETTINGS)


def test_a_plan_holds_every_setting_of_a_recipe(grid):
    assert RECIPES.keys() == asdict(Recipe()).keys()
    (plan, *_) = planned_runs(changed(grid, "protocol", RECIPES))
    assert plan.recipe == Recipe(**RECIPES)
    assert planned_runs(changed(grid, "protocol", {"epochs": np.int64(3)}))[0].recipe.epochs == 3


def features(**settings: Any) -> dict[str, Any]:
    return {"cross-entropy": 1.0, "shape": {"weight": 1.0, "layers": ["layer1"]} | settings}


def adapted(*replace: str) -> dict[str, Any]:
    return {"cross-entropy": 1, "hint": WHITENED, "anchor": {"weight": 1, "replace": list(replace)}, "approach": 1}


REFUSED = [
    # --- grids
    ("grid", {"sedes": [1]}, r"a grid has no 'sedes'; it has keep_epochs, methods, name, pairs, protocols, seeds"),
    *(("grid", {key: ...}, f"a grid needs '{key}'") for key in ("seeds", "pairs", "methods", "protocols")),
    *(("grid", {key: []}, f"the grid's {key} are empty, so there is nothing to run") for key in ("seeds", "pairs")),
    *(("grid", {key: {}}, f"the grid's {key} are empty") for key in ("methods", "protocols")),
    ("grid", {"seeds": 5}, "the grid's seeds are 5; give a list"),
    ("grid", {"seeds": "123"}, "the grid's seeds are '123'; give a list"),
    ("grid", {"pairs": {"student": "resnet8"}}, "the grid's pairs are .*; give a list"),
    ("grid", {"methods": ["alone"]}, "the grid's methods are .*; give a table"),
    ("grid", {"keep_epochs": [1, 3]}, r"keep_epochs=\[1, 3\]: protocol 'quick' has epochs 1 to 2"),
    ("grid", {"keep_epochs": [1.5]}, r"keep_epochs=\[1.5\]: protocol 'quick' has epochs 1 to 2"),
    *(("grid", {"keep_epochs": epochs}, "keep_epochs=.* is no list; name epochs") for epochs in (1, 1.5, "1")),
    ("grid", {2: 1, None: 2, "sedes": [1]}, "a grid has no 2; it has"),
    ("grid", {"methods": {1: {"cross-entropy": 1.0}, "KD": {}}}, "one of the grid's methods is called 1, which is no"),
    *(("grid", {"seeds": [0, seed]}, "is no whole number from 0 on") for seed in (-1, 1.0, "1", True, None)),
    # --- pairs
    ("grid", {"pairs": ["resnet8"]}, "a pair is 'resnet8'; give a table with student"),
    ("pair", {"weights": "x.pt"}, "a pair has no 'weights'; it has student, teacher, teacher_weights"),
    ("pair", {"student": ...}, "a pair needs 'student'"),
    ("pair", {"student": 8}, "a pair's student is 8, which is no name"),
    ("pair", {"teacher_weights": 1}, "a pair's teacher_weights is 1, which is no name"),
    ("pair", {"student": "resent8"}, "there is no network 'resent8'; did you mean resnet8"),
    ("pair", {"teacher": "resnet9"}, r"has 6 n \+ 2 layers .*, not 9"),
    ("pair", {"teacher": ...}, "method 'KD' needs a teacher, and the pair of 'vgg8x0.0625' names none"),
    # --- methods
    ("method", 1.0, "method 'mine' is 1.0; give a table of loss terms with their weights"),
    ("method", {"soft targets": 1.0}, "method 'mine' has no 'cross-entropy'; give it a weight, which may be 0"),
    ("method", {"cross entropy": 1.0}, "term 'cross entropy' is not known; did you mean 'cross-entropy'"),
    (
        "method",
        {"cross-entropy": 1.0, "zebra": 1.0},
        "term 'zebra' is not known; there are 'anchor', 'approach', 'attention', 'cross-ent",
    ),
    ("method", {"cross-entropy": {"smothing": 0.1}}, "no setting 'smothing'; did you mean 'smoothing'"),
    ("method", features(alpha=1.0), "term 'shape': no setting 'alpha'; there are 'edges', 'layers', 'weight'"),
    ("method", {"cross-entropy": {"smoothing": 0.1}}, "term 'cross-entropy': weight=None is no number"),
    *(("method", {"cross-entropy": weight}, "is no number") for weight in ("1", True, float("nan"), float("inf"))),
    ("method", features(layers=[]), r"term 'shape': name the layers to match, for example layers = \['layer1'"),
    ("method", features(layers="layer1"), "term 'shape': name the layers to match"),
    ("method", {"cross-entropy": 1.0, "hint": 1.0}, "term 'hint': name the layers to match"),
    ("method", features(layers=[["layer1"]]), r"\['layer1'\] in layers is no name, nor two"),
    ("method", features(layers=["layer1", 2]), "2 in layers is no name, nor two"),
    ("method", features(edges=nn.ReLU()), "method 'mine' is no plain data: .*ReLU is not JSON"),
    (
        "method",
        {"cross-entropy": {"weight": 1.0, "smoothing": 0.1}, "soft targets": 1.0},
        "smoothed only where no soft",
    ),
    *(
        ("method", METHOD | {"soft targets": {"weight": 1, "temperature": temperature}}, "is no number above 0")
        for temperature in (0, -1.0, "4", True, math.inf, math.nan)
    ),
    ("method", {"cross-entropy": {"weight": 1, "smoothing": 1.5}}, "smoothing=1.5 is no share, from 0 up to 1"),
    ("method", features(edges="blackman"), "method 'mine', term 'shape': edges='blackman' is not known"),
    ("method", features(edges=3), "method 'mine', term 'shape': edges=3 is not known"),
    (
        "method",
        METHOD | {"nst": WHITENED | {"kernel": "polly"}},
        "method 'mine', term 'nst': kernel='polly' is none of",
    ),
    ("method", METHOD | {"nst": WHITENED | {"offset": "1"}}, "term 'nst': offset='1' is no number"),
    ("method", METHOD | {"nst": WHITENED | {"half": "no"}}, "term 'nst': half='no' is not true or false"),
    (
        "method",
        METHOD | {"whitened": WHITENED | {"balance": "octaves"}},
        "term 'whitened': balance='octaves' is not known",
    ),
    ("method", METHOD | {"whitened": WHITENED | {"alpha": "2"}}, "term 'whitened': alpha='2' is no number"),
    ("method", METHOD | {"whitened": WHITENED | {"alpha": 1e3}}, "term 'whitened': no weights follow .*; check alpha"),
    (
        "method",
        METHOD | {"nst": WHITENED | {"sigma": "1"}},
        "term 'nst': the loss takes no sigma='1': '<=' not supported",
    ),
    ("method", METHOD | {"attention": WHITENED | {"mode": "papers"}}, "term 'attention': mode='papers' is none of"),
    (
        "method",
        METHOD | {"exponent": WHITENED | {"band": [0.3, 0.31]}},
        "term 'exponent': 1 ring lies between 0.3 and 0.31",
    ),
    # --- layers
    ("method", features(layers=["layer9"]), "method 'mine', term 'shape', student vgg8x0.0625: the network has no lay"),
    ("method", features(layers=[["layer1", "layer9"]]), "term 'shape', teacher vgg8x0.125: the network has no layer"),
    (
        "method",
        adapted("layer9"),
        "method 'mine', term 'anchor', teacher vgg8x0.125: the network has no layer 'layer9'",
    ),
    ("method", adapted("layer2", "layer2.0"), "term 'anchor', teacher vgg8x0.125: 'layer2.0' lies inside 'layer2'"),
    # --- protocols
    ("grid", {"protocols": {"quick": "photographs"}}, "protocol 'quick' is 'photographs'; give a table with data"),
    ("protocol", {"data": ...}, "protocol 'quick' needs 'data'"),
    *(("protocol", {"data": data}, f"data='{data}' is no name; name a data set") for data in ("", " ", "/")),
    ("protocol", {"epoch": 3}, "protocol 'quick' has no 'epoch'; it has augment, batch_size"),
    ("protocol", {"epochs": 0}, "protocol 'quick': epochs=0 is not possible; give a whole number from 1 on"),
    ("protocol", {"schedule": "cosine"}, "protocol 'quick': schedule='cosine' is not known"),
    ("protocol", {"epochs": "3"}, "protocol 'quick': epochs='3' is not a whole number"),
    ("protocol", {"epochs": 2.5}, "protocol 'quick': epochs=2.5 is not a whole number"),
    ("protocol", {"epochs": True}, "protocol 'quick': epochs=True is not a whole number"),
    ("protocol", {"augment": "false"}, "protocol 'quick': augment='false' is not true or false"),
    ("protocol", {"learning_rate": "0.1"}, "learning_rate='0.1' is not a number"),
    ("protocol", {"clip_norm": "1"}, "clip_norm='1' is not a number"),
    ("protocol", {"milestones": 3}, "milestones=3 is not a list of whole numbers"),
    *(("protocol", {"held_out": held}, "one training image in 2, 3, ... is held out") for held in (1, -2, 0.2, True)),
]


@pytest.mark.parametrize(("part", "value", "sentence"), REFUSED, ids=[f"{p} {v}"[:50] for p, v, _ in REFUSED])
def test_what_is_wrong_with_a_grid_is_said_before_anything_is_done(grid, tmp_path, trained, part, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        run_grid(changed(grid, part, value), tmp_path / "store")
    assert not (tmp_path / "store").exists()
    assert trained == []


def test_layers_of_what_stands_in_for_a_teachers_block_may_be_matched(grid):
    method = adapted("layer2") | {"shape": {"weight": 1, "layers": [["layer2", "layer2.pointwise"]]}}
    assert [plan.method for plan in planned_runs(changed(grid, "method", method))] == ["mine"] * 2


def test_a_narrow_band_of_large_maps_is_no_mistake(grid):
    planned_runs(changed(grid, "method", METHOD | {"exponent": WHITENED | {"band": [0.05, 0.12]}}))


def test_runs_together_are_for_this_process(grid, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.experiments.grid.require_workers", lambda *_: None)
    with pytest.raises(ValueError, match='together=4 is for this process, and workers="ray" are others; leave out one'):
        run_grid(grid, tmp_path / "store", together=4, workers="ray")
    with pytest.raises(ValueError, match="together=0: how many runs are trained at once, 1 or more"):
        run_grid(grid, tmp_path / "store", together=0)
    assert not (tmp_path / "store").exists()


def test_one_run_under_two_names_is_refused(grid):
    grid["methods"]["again"] = dict(reversed(grid["methods"]["KD"].items()))
    with pytest.raises(ValueError, match="'KD' by 'quick' and 'again' by 'quick' are the same run under two names"):
        planned_runs(grid)
    del grid["methods"]["again"]
    grid["protocols"]["again"] = {**grid["protocols"]["quick"], "learning_rate": 0.1}
    with pytest.raises(ValueError, match="'alone' by 'quick' and 'alone' by 'again' are the same run"):
        planned_runs(grid)


def test_one_teacher_with_two_weights_is_refused(grid):
    grid["pairs"].append({**grid["pairs"][0], "teacher_weights": "other.pt"})
    with pytest.raises(ValueError, match="with different weights cannot be told apart"):
        planned_runs(grid)


def test_the_folder_that_one_is_in_has_a_name_too(grid, tmp_path, monkeypatch):
    (tmp_path / "shades").mkdir()
    monkeypatch.chdir(tmp_path / "shades")
    there = planned_runs(changed(grid, "protocol", {"data": "."}))
    assert {plan.data_name for plan in there} == {"shades"}
    assert [plan.folder for plan in there] == [plan.folder for plan in planned_runs(grid)]


def test_no_teacher_is_built_untrained(grid, shades):
    plan = planned_runs(changed(grid, "pair", {"teacher_weights": None}))[1]
    plan = replace(plan, setting={**plan.setting, "data": "/"})  # what no grid lets through
    with pytest.raises(ValueError, match="data='/' has no name to find weights by; give teacher_weights"):
        Bench({("/", 0): shades}).teacher_of(plan)


def test_numbers_of_numpy_are_numbers(grid):
    usual = planned_runs(grid | {"keep_epochs": [1]})
    numpy = grid | {"seeds": list(np.arange(2)), "keep_epochs": [np.int64(1)]}
    assert planned_runs(numpy) == usual
    assert [plan.folder for plan in planned_runs(numpy)] == [plan.folder for plan in usual]
    with pytest.raises(ValueError, match=r"seed 0\.0 is no whole number"):
        planned_runs(grid | {"seeds": [np.float64(0)]})


def test_a_file_with_a_byte_order_mark_is_read(grid, place, tmp_path):
    (tmp_path / "grid.toml").write_text(TOML.format(place=place), encoding="utf-8-sig")
    assert planned_runs(tmp_path / "grid.toml") == planned_runs(grid)


def test_a_file_that_is_no_toml_is_refused(tmp_path):
    (tmp_path / "grid.toml").write_text("seeds = [0, 1\n[methods]")
    with pytest.raises(ValueError, match=r"grid\.toml is no TOML: .*line 2"):
        run_grid(tmp_path / "grid.toml", tmp_path / "store")
    with pytest.raises(FileNotFoundError):
        run_grid(tmp_path / "none.toml", tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("part", "value", "error", "sentence"),
    [
        ("pair", {"teacher_weights": "none.pt"}, FileNotFoundError, "there is no file none.pt"),
        ("pair", {"teacher_weights": None}, ValueError, "no weights of vgg8x0.125 on shades for 2 classes are shipped"),
        ("pair", {"teacher": "vgg8x0.25"}, ValueError, "teacher.pt does not fit Vgg"),
        ("protocol", {"data": "none.npz"}, FileNotFoundError, "there is no file none.npz"),
        ("protocol", {"data": "photos"}, ValueError, "there is no data set 'photos'"),
        ("protocol", {"held_out": 25}, ValueError, "no class has 25 training images"),
    ],
)
def test_data_and_weights_that_are_missing_are_told_of_before_the_first_training(
    grid, tmp_path, trained, part, value, error, sentence
):
    wrong = changed(grid, part, value)
    if part == "protocol":  # the last of all, and of a student alone
        wrong["protocols"] = {"good": grid["protocols"]["quick"], **wrong["protocols"]}
        wrong["methods"] = {"alone": grid["methods"]["alone"]}
    with pytest.raises(error, match=sentence):
        run_grid(wrong, tmp_path)
    assert trained == []
    assert list(tmp_path.iterdir()) == []


# --- methods -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shades(place) -> LabelledImages:
    return open_dataset(place / "shades.npz")


@pytest.fixture(scope="module")
def pair() -> tuple[nn.Module, nn.Module]:
    return build("vgg8x0.0625", 2), build("vgg8x0.125", 2, seed=5).eval()


def test_a_method_is_a_step_and_its_weights(shades, pair):
    step, weights = method_step({"cross-entropy": {"weight": 2, "smoothing": 0.1}}, pair[0], None, shades)
    assert repr(step) == "CrossEntropy(smoothing=0.1)"
    assert weights == {"cross-entropy": 2.0}
    soft = {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "temperature": 2}}
    step, weights = method_step(soft, *pair, shades)
    assert repr(step) == "SoftTargets(temperature=2)"
    assert weights == {"cross-entropy": 0.1, "soft targets": 0.9}
    shape = {"shape": {"weight": 1, "layers": ["layer1"]}}
    for method, base in (({"cross-entropy": 1}, CrossEntropy), (soft, SoftTargets)):
        step, weights = method_step(method | shape, *pair, shades)
        assert isinstance(step, FeatureMatching)
        assert isinstance(step.base, base)
        assert weights.keys() == {*method, "shape"}


def test_soft_targets_may_be_of_standardised_logits(shades, pair):
    soft = {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "temperature": 2, "standardise": "paper"}}
    step, _ = method_step(soft, *pair, shades)
    assert repr(step) == "SoftTargets(temperature=2, standardise='paper')"
    images, labels = shades.normalise(shades.train_images[:8]), shades.train_labels[:8]
    with torch.no_grad():
        logits, terms = step(*pair, images, labels)
        expected = kd_loss(logits, pair[1](images), 2.0, "paper")
    assert terms["soft targets"] == pytest.approx(expected.item())
    assert kd_loss(logits, pair[1](images), 2.0).item() != pytest.approx(expected.item(), rel=0.01)
    soft["soft targets"]["standardise"] = "papers"
    with pytest.raises(ValueError, match="standardise='papers'; did you mean 'paper'"):
        method_step(soft, *pair, shades)


def test_a_method_says_the_same_in_whatever_order_it_is_written(shades, pair):
    shape, whitened = {"weight": 1, "layers": ["layer1"]}, {"weight": 1, "layers": ["layer2"], "alpha": 1.0}
    terms = {"cross-entropy": 1, "shape": shape, "whitened": whitened | {"balance": "octave"}}
    again = {"whitened": {"balance": "octave"} | whitened, "shape": shape, "cross-entropy": 1}
    first, second = (method_step(method, *pair, shades)[0] for method in (terms, again))
    assert repr(first) == repr(second)
    assert "alpha=1.0, balance='octave'" in repr(first)
    bands = ((0.1, 0.5), [0.1, 0.5])
    exponents = [{"cross-entropy": 1, "exponent": shape | {"band": band}} for band in bands]
    assert len({repr(method_step(method, *pair, shades)[0]) for method in exponents}) == 1


def test_a_method_that_needs_a_teacher_says_so(shades, pair):
    hint = {"hint": {"weight": 1, "layers": ["layer1"]}}
    for method, asks in (({"soft targets": 0.9}, "'soft targets'"), (hint, "'hint'")):
        with pytest.raises(ValueError, match=f"a method with {asks} needs a teacher, and there is none; pass one"):
            method_step({"cross-entropy": 1.0} | method, pair[0], None, shades)


def test_only_losses_that_compare_features_of_one_shape_get_connectors(shades, pair):
    layers = {"weight": 1, "layers": ["layer1", ["layer1", "layer2"]]}
    method = {
        "cross-entropy": 1.0,
        **dict.fromkeys(("hint", "fourier", "shape"), layers),
        "nst": layers | {"kernel": "gaussian", "sigma": 0.5, "half": True, "rectify": True},
        "whitened": layers | {"alpha": 1.0},
        "attention": {"weight": 1, "layers": ["layer1"]},
        "exponent": {"weight": 1, "layers": ["layer1"]},
    }
    before = [tensors(network) for network in pair]
    modes = [network.training for network in pair]
    state = torch.get_rng_state()
    step, weights = method_step(method, *pair, shades, seed=3)
    found = {}
    for match in step.matches:
        found.setdefault(match.name, []).append((match.student, match.teacher, repr(match.connector)))
    joined = [("layer1", "layer1", "Connector(4, 8)"), ("layer1", "layer2", "Connector(4, 16, stride=2)")]
    unjoined = [(mine, its, "None") for mine, its, _ in joined]
    assert found["hint"] == found["fourier"] == found["whitened"] == joined
    assert found["shape"] == found["nst"] == unjoined
    assert found["attention"] == found["exponent"] == unjoined[:1]
    assert weights.keys() == method.keys()
    # Networks and the caller's randomness are as they were.
    assert_equal([tensors(network) for network in pair], before)
    assert [network.training for network in pair] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.isfinite(term) for term in step(*pair, *normalised(shades))[1].values())


def normalised(data: LabelledImages) -> tuple[torch.Tensor, torch.Tensor]:
    return data.normalise(data.train_images), data.train_labels


def test_selectivity_is_asked_for_with_all_its_settings(shades, pair):
    settings = {"kernel": "gaussian", "sigma": 0.5, "half": True, "rectify": True}
    method = {"cross-entropy": 1, "nst": {"weight": 2, "layers": ["layer1.1"]} | settings}
    step, weights = method_step(method, *pair, shades)
    with collected(pair[0], ["layer1.1"]) as mine, collected(pair[1], ["layer1.1"]) as its:
        terms = step(*pair, *normalised(shades))[1]
    assert weights["nst"] == 2
    assert torch.equal(terms["nst"], nst_loss(mine["layer1.1"], its["layer1.1"], **settings))
    with pytest.raises(ValueError, match="no setting 'sigmas'; did you mean 'sigma'"):
        method_step({"cross-entropy": 1, "nst": {"weight": 1, "layers": ["layer1"], "sigmas": 1}}, *pair, shades)


def test_connectors_are_drawn_by_the_seed(shades, pair):
    method = {"cross-entropy": 1, "hint": {"weight": 1, "layers": ["layer1"]}}
    torch.manual_seed(8)
    first, again, other = (tensors(method_step(method, *pair, shades, seed)[0]) for seed in (3, 3, 4))
    maps = torch.zeros(1, 4, 16, 16), torch.zeros(1, 8, 16, 16)
    assert_equal(first, again)
    assert_equal(first, tensors(Connector.between(*maps, seed=3)))
    assert not torch.equal(first[0], other[0])


def test_a_layer_that_does_not_exist_is_named_with_the_nearest(shades, pair):
    with pytest.raises(ValueError, match=r"no layer 'layer9'; the nearest are 'layer\d', 'layer\d'"):
        method_step({"cross-entropy": 1, "hint": {"weight": 1, "layers": ["layer9"]}}, *pair, shades)


def test_alpha_is_measured_without_edge_treatment_and_rounded(shades, pair):
    teacher, images = pair[1], normalised(shades)[0]

    def alpha(edges: str) -> float:
        return activation_spectra(teacher, images, ["layer1"], edges=edges, progress=False).exponent("layer1").alpha

    found = measured_alphas(teacher, shades, ["layer1"])["layer1"]
    assert found == round(alpha("none"), 2)
    assert found != round(alpha("periodic"), 2)
    method = {"cross-entropy": 1.0, "whitened": {"weight": 1, "layers": ["layer1"]}}
    assert f"whitened_spectral_loss with alpha={found!r} on" in repr(method_step(method, *pair, shades)[0])
    method["whitened"]["layers"] = [["layer1", "layer2"]]
    its = measured_alphas(teacher, shades, ["layer2"])["layer2"]
    assert its != found
    assert f"with alpha={its!r} on layer1 through" in repr(method_step(method, *pair, shades)[0])
    method["whitened"]["alpha"] = 1.23456
    assert "whitened_spectral_loss with alpha=1.23456 on" in repr(method_step(method, *pair, shades)[0])


def test_alpha_is_measured_on_256_images_from_all_over_the_set(monkeypatch, pair):
    data, seen = stripes(train_images=300, size=16), []

    def noted(teacher: nn.Module, images: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(images)
        return activation_spectra(teacher, images, *arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.methods.activation_spectra", noted)
    measured_alphas(pair[1], data, ["layer1"])
    assert len(seen[0]) == len(seen[0].unique(dim=0)) == 256
    assert torch.equal(seen[0][[0, -1]], data.normalise(data.train_images[[0, 298]]))


def test_a_layer_without_an_exponent_cannot_be_whitened_by_it(shades):
    teacher = build("vgg8x0.125", 2)
    nn.init.zeros_(teacher.layer1[1].weight)
    with pytest.raises(ValueError, match=r"layer 'layer1' has no exponent to whiten by: all maps are .*; give alpha"):
        measured_alphas(teacher.eval(), shades, ["layer1"])


# --- images that are held out --------------------------------------------------------------------


def three_classes() -> LabelledImages:
    """Eleven, eight and five images of three classes, every one unlike all others, and seven to test with."""
    labels = torch.tensor([0] * 11 + [1] * 8 + [2] * 5)[torch.randperm(24, generator=torch.Generator().manual_seed(0))]
    images = torch.arange(31, dtype=torch.uint8)[:, None, None, None].expand(31, 3, 4, 4)
    images = images.contiguous(memory_format=torch.channels_last)
    return LabelledImages("three", images[:24], labels, images[24:], torch.arange(7) % 3, ("a", "b", "c"), pad=1)


@pytest.mark.parametrize(("every", "counts"), [(2, [5, 4, 2]), (5, [2, 1, 1]), (6, [1, 1, 0])])
def test_held_out_images_are_of_every_class_and_in_one_place_only(every, counts):
    whole = three_classes()
    part = whole.held_out(every)
    train_numbers, test_numbers = (images[:, 0, 0, 0].tolist() for images in (part.train_images, part.test_images))
    assert sorted(train_numbers + test_numbers) == list(range(24))  # none twice, none lost, none to test with
    assert part.test_labels.bincount(minlength=3).tolist() == counts
    for numbers, labels in ((train_numbers, part.train_labels), (test_numbers, part.test_labels)):
        assert whole.train_labels[numbers].tolist() == labels.tolist()
    for images in (part.train_images, part.test_images):
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert part.name == f"three, 1 in {every} held out"
    assert (part.classes, part.pad) == (whole.classes, 1)
    assert part.fingerprint != whole.fingerprint
    assert float(part.mean[0]) == pytest.approx(np.mean(train_numbers) / 255)  # of the images that are left
    assert_equal(whole.held_out(every).test_labels, part.test_labels)


def test_images_that_share_pixels_are_held_out_together():
    whole = replace(three_classes(), groups=torch.arange(24) // 6 * 3 + three_classes().train_labels)
    part = whole.held_out(2)
    held = set(whole.groups.tolist()) - set(part.groups.tolist())
    numbers = part.test_images[:, 0, 0, 0].tolist()
    assert held
    assert sorted(numbers) == [i for i, group in enumerate(whole.groups.tolist()) if group in held]
    assert set(part.test_labels.tolist()) == {0, 1, 2}


def test_patches_of_one_tile_of_the_built_in_task_stay_together():
    whole = open_dataset("photographs")
    part = whole.held_out(4)
    kept = set(part.groups.tolist())
    held = [i for i, group in enumerate(whole.groups.tolist()) if group not in kept]
    assert_equal(part.test_images, whole.train_images[held])
    assert (part.test_labels.bincount() > 10).all()
    for label in range(len(whole.classes)):  # a tile is of one photograph
        others = whole.groups[whole.train_labels != label]
        assert not torch.isin(whole.groups[whole.train_labels == label], others).any()


def test_what_cannot_be_held_out_is_refused():
    with pytest.raises(ValueError, match="every=1 would leave nothing to train with; give 2 or more"):
        three_classes().held_out(1)
    with pytest.raises(ValueError, match="no class has 12 training images, so none would be held out"):
        three_classes().held_out(12)


# --- what is done --------------------------------------------------------------------------------


def test_every_run_is_done_once_and_kept_in_its_folder(grid, done):
    plans = planned_runs(grid)
    assert sorted(path.name for path in done.iterdir()) == sorted(plan.folder for plan in plans)
    for record in finished_runs(grid, done):
        assert sorted(path.name for path in (done / record.plan.folder).iterdir()) == ["run.json", "trained.pt"]
        assert record.run.pair == {"student": record.plan.student, "teacher": record.plan.teacher}
        assert (record.run.seed, record.run.recipe["epochs"]) == (record.plan.seed, 2)
    assert [record.plan for record in finished_runs(grid, done)] == plans


def test_what_is_stored_is_not_done_again(grid, done, trained):
    heard = []
    table = run_grid(grid, done, callback=heard.append)
    assert trained == []
    assert [progress.run for progress in heard] == [None]
    assert table.state.tolist() == ["finished"] * 6
    # Nor are runs of another grid that are the same runs.
    grid["methods"] = {"other name": grid["methods"]["KD"]}
    assert run_grid(grid, done).method.tolist() == ["other name"] * 2
    assert trained == []


def test_a_grid_that_grows_does_what_is_new(grid, done, tmp_path, trained):
    store = shutil.copytree(done, tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in store.glob("*/*")}
    grid["seeds"] = [0, 1, 2]
    run_grid(grid, store)
    assert trained == [plan.folder for plan in planned_runs(grid) if plan.seed == 2]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_epochs_are_kept_where_the_grid_says_so(grid, tmp_path):
    grid |= {"keep_epochs": [1, 2], "seeds": [0], "methods": {"alone": grid["methods"]["alone"]}}
    run_grid(grid, tmp_path)
    (plan,) = planned_runs(grid)
    kept = ["epoch_001.safetensors", "epoch_002.safetensors", "run.json", "trained.pt"]
    assert sorted(path.name for path in (tmp_path / plan.folder).iterdir()) == kept
    assert do_run(plan, None).curves.keys() == finished_runs(grid, tmp_path)[0].run.curves.keys()


def test_a_callback_hears_of_every_run(grid, done, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 1e9)  # after each epoch only
    store = shutil.copytree(done, tmp_path / "store")
    plans = planned_runs(grid)
    shutil.rmtree(store / plans[4].folder)
    heard: list[GridProgress] = []
    run_grid(grid, store, callback=heard.append)
    assert {progress.name for progress in heard} == {"shades"}
    assert heard[0].plans == tuple(plans)
    states = [progress.states[4] for progress in heard]
    assert states == ["to do", "running", "running", "finished", "finished"]
    assert heard[1].details[4] == "epoch 2 of 2"  # as the first of two is finished
    assert heard[-1].details[4].endswith(" %")
    assert [progress.run is not None for progress in heard] == [False, True, True, False, False]


def interrupted_in(method: str, seed: int, epoch: int) -> Callable[[GridProgress], None]:
    """Presses the kernel's stop button in an epoch of a run."""

    def press(progress: GridProgress) -> None:
        if progress.run is None or progress.run.epoch != epoch or not progress.run.step:
            return
        if (running(progress).method, running(progress).seed) == (method, seed):
            os.kill(os.getpid(), signal.SIGINT)

    return press


@pytest.mark.usefixtures("every_step")
def test_an_interrupt_goes_through_and_the_same_call_goes_on_to_the_same_results(grid, done, tmp_path, trained):
    plans = planned_runs(grid)
    with pytest.raises(KeyboardInterrupt, match="in epoch 2; the same call goes on from here"):
        run_grid(grid, tmp_path, callback=interrupted_in("two terms", 0, epoch=2))
    states = ["finished", "finished", "cut off", "to do", "to do", "to do"]
    assert grid_results(grid, tmp_path).state.tolist() == states
    assert not list(tmp_path.glob("*.json"))  # an interrupt is no failure
    trained.clear()
    heard = []
    run_grid(grid, tmp_path, callback=heard.append)
    assert trained == [plan.folder for plan in plans[2:]]
    assert heard[0].states == tuple(states)
    assert heard[1].run.epoch == 2  # it did not begin anew
    assert_equal(outcomes(tmp_path), outcomes(done))


def test_a_full_disk_stops_the_grid_and_the_same_call_goes_on(grid, done, tmp_path, monkeypatch, trained):
    write, writes = os.fsync, []

    def full_the_fourth_time(descriptor: int) -> None:
        writes.append(1)
        if len(writes) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_the_fourth_time)
        with pytest.raises(OSError, match="No space left"):
            run_grid(grid, tmp_path)
    assert len(trained) == 2
    assert not list(tmp_path.glob("*.json"))
    assert grid_results(grid, tmp_path).state.tolist() == ["finished"] + ["to do"] * 5
    run_grid(grid, tmp_path)
    assert_equal(outcomes(tmp_path), outcomes(done))


@pytest.fixture
def fails_with_kd(monkeypatch, trained) -> list[str]:
    """Trainings with soft targets alone fail as long as the list holds a reason."""
    reasons = ["the <cat> sat on the keyboard"]
    counted = experiments.bench.train

    def fails(*arguments: Any, **options: Any) -> Run:
        if reasons and isinstance(options["step"], SoftTargets):
            trained.append("failed")
            raise RuntimeError(reasons[0])
        return counted(*arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.bench.train", fails)
    return reasons


def test_a_failure_is_recorded_with_its_reason_and_the_others_go_on(grid, done, tmp_path, trained, fails_with_kd):
    table = run_grid(grid, tmp_path)
    reason = "RuntimeError: the <cat> sat on the keyboard"
    assert table.state.tolist() == ["finished", "failed", "finished"] * 2
    assert table.reason.tolist() == ["", reason, ""] * 2
    assert table.accuracy.isna().tolist() == [False, True, False] * 2
    failed = [plan for plan in planned_runs(grid) if plan.method == "KD"]
    assert sorted(tmp_path.glob("*.json")) == sorted(failure_file(plan, tmp_path) for plan in failed)
    record = json.loads((tmp_path / f"{failed[0].folder}.failed.json").read_text())
    assert Plan(**record["plan"]) == failed[0]
    assert record["reason"] == reason
    assert any("sat on the keyboard" in line for line in record["where"])
    assert time.strptime(record["when"], "%Y-%m-%d %H:%M:%S")

    # It is not tried again, unless that is asked for; then its record goes away.
    trained.clear()
    fails_with_kd.clear()
    assert run_grid(grid, tmp_path).state.tolist() == ["finished", "failed", "finished"] * 2
    assert trained == []
    assert run_grid(grid, tmp_path, retry=True).state.tolist() == ["finished"] * 6
    assert trained == [plan.folder for plan in failed]
    assert not list(tmp_path.glob("*.json"))
    assert_equal(outcomes(tmp_path), outcomes(done))


def test_a_failure_that_is_tried_again_in_vain_is_recorded_again(grid, tmp_path, trained, fails_with_kd):
    grid |= {"seeds": [0], "methods": {"KD": grid["methods"]["KD"]}}
    run_grid(grid, tmp_path)
    fails_with_kd[0] = "again"
    assert run_grid(grid, tmp_path, retry=True).reason.tolist() == ["RuntimeError: again"]
    assert trained == ["failed"] * 2


def test_bad_input_that_only_a_run_can_tell_is_a_failure_in_a_sentence(grid, tmp_path):
    grid["seeds"] = [0]
    grid["methods"]["lost"] = {"cross-entropy": 1, "hint": {"weight": 1, "layers": [["layer3", "layer1"]]}}
    grid["methods"]["loud"] = {"cross-entropy": 1e30}
    table = run_grid(grid, tmp_path).set_index("method")
    assert table.state.tolist() == ["finished"] * 3 + ["failed"] * 2
    assert table.reason["lost"].startswith(
        "ValueError: student (2, 16, 4, 4), teacher (2, 8, 16, 16): the student's maps"
    )
    assert "is not finite; lower the learning rate or set clip_norm" in table.reason["loud"]


def test_a_callback_that_fails_is_no_failure_of_the_run(grid, tmp_path):
    def gone(progress: GridProgress) -> None:
        if progress.run is not None:
            raise RuntimeError("the view is gone")

    with pytest.raises(RuntimeError, match="the view is gone"):
        run_grid(grid, tmp_path, callback=gone)
    assert grid_results(grid, tmp_path).state.tolist() == ["to do"] * 6


@pytest.mark.parametrize("error", [BlockingIOError, PermissionError, OSError])
def test_a_callback_that_cannot_write_is_told_of_and_not_taken_for_another_process(grid, tmp_path, error):
    def gone(progress: GridProgress) -> None:
        if progress.run is not None:
            raise error(errno.EWOULDBLOCK, "the pipe is full")

    with pytest.raises(error, match="the pipe is full"):
        run_grid(grid, tmp_path, callback=gone)
    assert grid_results(grid, tmp_path).state.tolist() == ["to do"] * 6


def test_finished_runs_of_other_data_are_found_before_the_first_training(grid, done, place, tmp_path, trained):
    arrays = dict(np.load(place / "shades.npz"))
    arrays["train_images"] = 255 - arrays["train_images"]
    np.savez(tmp_path / "shades.npz", **arrays)
    other = changed(grid, "protocol", {"data": str(tmp_path / "shades.npz")})
    assert run_grid(other, done).state.tolist() == ["finished"] * 6  # nothing is left, so nothing is looked at
    first = planned_runs(grid)[0].folder
    with pytest.raises(ValueError, match=f"{first} was trained on other data than .*shades.npz holds now; delete it"):
        run_grid(other | {"seeds": [0, 1, 2]}, done)
    assert trained == []


def test_finished_runs_from_another_teacher_are_found_before_the_first_training(grid, done, tmp_path, trained):
    store = shutil.copytree(done, tmp_path / "store")
    alone, kd, *_ = planned_runs(grid)
    file = store / kd.folder / "run.json"
    run = json.loads(file.read_text())
    run["protocol"]["teacher fingerprint"] = "0" * 16  # as if the weights had been others in those days
    file.write_text(json.dumps(run))
    with pytest.raises(ValueError, match=f"{kd.folder} was trained from another vgg8x0.125 than the one that is there"):
        run_grid(grid | {"seeds": [0, 1, 2]}, store)
    assert trained == []
    # Where only students alone are left to do, no teacher is loaded.
    shutil.rmtree(store / alone.folder)
    run_grid(grid, store)
    assert trained == [alone.folder]


def test_a_grid_that_is_edited_meanwhile_goes_on_as_it_began(done, place, tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text(TOML.format(place=place))
    table = run_grid(file, done, callback=lambda _: file.write_text("seeds = ["))
    assert table.state.tolist() == ["finished"] * 6


def test_a_run_that_another_process_takes_at_the_last_moment_is_no_failure(grid, tmp_path, monkeypatch):
    grid["seeds"] = [0]
    calls = []

    def taken_first(*arguments: Any, **options: Any) -> Run:
        calls.append(1)
        if len(calls) == 1:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process trains here")
        return train(*arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.bench.train", taken_first)
    assert run_grid(grid, tmp_path).state.tolist() == ["finished"] * 3
    assert len(calls) == 4


def test_teacher_weights_that_have_changed_since_are_found(grid, tmp_path, done):
    store = shutil.copytree(done, tmp_path / "store")
    (plan, *_) = [plan for plan in planned_runs(grid) if plan.method == "KD"]
    torch.save(build("vgg8x0.125", 2, seed=6).state_dict(), tmp_path / "other.pt")
    with pytest.raises(ValueError, match="holds another run, which differs in protocol"):
        do_run(replace(plan, teacher_weights=str(tmp_path / "other.pt")), store / plan.folder)


def test_a_runs_seed_is_that_of_its_student_and_of_its_connectors(grid, tmp_path, monkeypatch):
    grid["methods"] = {"hint": {"cross-entropy": 1.0, "hint": {"weight": 1.0, "layers": ["layer1"]}}}
    maps = torch.zeros(1, 4, 16, 16), torch.zeros(1, 8, 16, 16)
    begun = []

    def noted(student: nn.Module, *arguments: Any, **options: Any) -> Run:
        begun.append((tensors(student), tensors(options["step"].matches[0].connector), options["seed"]))
        return train(student, *arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.bench.train", noted)
    run_grid(grid, tmp_path)
    wanted = [(build("vgg8x0.0625", 2, seed=seed), Connector.between(*maps, seed), seed) for seed in (0, 1)]
    assert_equal(begun, [(tensors(student), tensors(connector), seed) for student, connector, seed in wanted])


def test_every_run_has_a_teacher_of_its_own(grid):
    # A training moves it to a device and into a memory layout, where the next would round otherwise.
    bench, (plan, *_) = Bench(), [plan for plan in planned_runs(grid) if plan.teacher]
    first = bench.teacher_of(plan).to(memory_format=torch.channels_last)
    nn.init.zeros_(first.fc.weight)
    second = bench.teacher_of(plan)
    assert second.layer2[0].weight.is_contiguous()
    assert not second.training
    assert_equal(tensors(second), tensors(build("vgg8x0.125", 2, seed=5)))


def test_a_run_can_be_done_again_from_its_record(grid, done, tmp_path):
    write_records(finished_runs(grid, done), tmp_path / "records.jsonl")
    for record in read_records(tmp_path / "records.jsonl")[2:4]:
        run = do_run(record.plan, None)
        assert run.accuracy_last == record.run.accuracy_last
        assert run.curves["test accuracy"] == pytest.approx(record.run.curves["test accuracy"], rel=1e-5)
        weights = {f"0.{name}": value for name, value in run.network.state_dict().items()}
        kept = outcomes(done)[record.plan.folder]["weights"]
        assert_equal(weights, {name: value for name, value in kept.items() if name.startswith("0.")})


def test_held_out_images_are_tested_with_instead(grid, tmp_path, shades):
    grid |= {"seeds": [0], "methods": {"alone": grid["methods"]["alone"]}}
    grid["protocols"]["quick"]["held_out"] = 5
    run_grid(grid, tmp_path)
    (record,) = finished_runs(grid, tmp_path)
    assert record.run.protocol["fingerprint"] == shades.held_out(5).fingerprint
    assert (record.run.protocol["train images"], record.run.protocol["test images"]) == (32, 8)


# --- several processes ---------------------------------------------------------------------------

WORKER = """
import os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from spectralkd_nb.experiments import run_grid

grid, store, notes, mine = *map(Path, sys.argv[1:4]), sys.argv[4]
met = False

def note(progress):
    global met
    if progress.run is None:
        return
    folder = progress.plans[progress.states.index("running")].folder
    with (notes / "trained").open("a") as file:
        file.write(f"{mine} {folder} {progress.run.done}\\n")
    (notes / mine).touch()
    waited = time.monotonic()
    while not met and not {others}:
        time.sleep(0.01)
        assert time.monotonic() - waited < 120, "the other one has not begun"
    met = True

print(run_grid(grid, store, callback=note).to_csv(index=False))
"""


def start_worker(grid: Path, store: Path, notes: Path, name: str, others: str) -> subprocess.Popen:
    """A process that works on a grid, notes what it trains, and stops in its first run until others are there."""
    notes.mkdir(exist_ok=True)
    command = [sys.executable, "-c", WORKER.replace("{others}", others), *map(str, (grid, store, notes, name))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_on_one_store_do_each_run_once(grid, place, done, tmp_path):
    file, store, notes = tmp_path / "grid.toml", tmp_path / "store", tmp_path / "notes"
    file.write_text(TOML.format(place=place))
    # Both have begun a run before either goes on, so that they are at work at the same time.
    both = "(notes / 'first').exists() and (notes / 'second').exists()"
    workers = [start_worker(file, store, notes, name, f"({both})") for name in ("first", "second")]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    tables = [pd.read_csv(io.StringIO(out)) for out, _ in said]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0].state.tolist() == ["finished"] * 6
    ended = [line.split()[:2] for line in (notes / "trained").read_text().splitlines() if line.endswith("True")]
    assert sorted(folder for _, folder in ended) == sorted(plan.folder for plan in planned_runs(grid))
    begun = {tuple(line.split()[:2]) for line in (notes / "trained").read_text().splitlines()}
    assert len(begun) == 6  # none was begun by both
    assert {name for name, _ in begun} == {"first", "second"}
    assert_equal(outcomes(store), outcomes(done))
    assert not list(store.rglob(".lock"))


def test_what_a_killed_process_drops_is_taken_over(grid, place, done, tmp_path, monkeypatch, trained):
    monkeypatch.setattr("spectralkd_nb.experiments.grid.WAITING", 0.05)
    file, store, notes = tmp_path / "grid.toml", tmp_path / "store", tmp_path / "notes"
    file.write_text(TOML.format(place=place))
    worker = start_worker(file, store, notes, "killed", "False")  # it waits in its first run for nobody
    begun = time.monotonic()
    while not (notes / "killed").exists():
        assert worker.poll() is None, worker.communicate()
        assert time.monotonic() - begun < 120
        time.sleep(0.02)
    waited = []

    def kill_when_nothing_else_is_left(progress: GridProgress) -> None:
        if set(progress.states) == {"finished", "elsewhere"}:
            waited.append(progress)
            if len(waited) == 3:
                worker.kill()

    table = run_grid(grid, store, callback=kill_when_nothing_else_is_left)
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    assert len(waited) >= 3
    assert waited[0].states == ("elsewhere", *["finished"] * 5)
    assert waited[0].details[0] == "another process has it"
    folders = [plan.folder for plan in planned_runs(grid)]
    assert trained == [*folders[1:], folders[0]]
    assert table.state.tolist() == ["finished"] * 6
    assert_equal(outcomes(store), outcomes(done))
    assert not list(store.rglob(".lock"))


# --- what a store holds --------------------------------------------------------------------------


def test_a_store_is_told_run_by_run(grid, done, tmp_path):
    store = shutil.copytree(done, tmp_path / "store")
    _, failed, cut_off, busy, to_do, _ = (plan.folder for plan in planned_runs(grid))
    for folder in (failed, cut_off, busy, to_do):
        shutil.rmtree(store / folder)
    (store / f"{failed}.failed.json").write_text('{"reason": "ValueError: no"}')
    (store / cut_off).mkdir()
    (store / cut_off / "checkpoint.pt").touch()
    with RunStore(store / busy, {}).alone():
        table = grid_results(grid, store)
    assert table.state.tolist() == ["finished", "failed", "cut off", "elsewhere", "to do", "finished"]
    assert table.reason.tolist() == ["", "ValueError: no", "", "", "", ""]
    columns = "student teacher protocol method seed accuracy best seconds state reason"
    assert list(table.columns) == columns.split()
    assert table.seed.tolist() == [0, 0, 0, 1, 1, 1]
    assert table.teacher.isna().tolist() == [True, False, False] * 2
    run = finished_runs(grid, store)[0].run
    assert table.loc[0, ["accuracy", "best", "seconds"]].tolist() == [run.accuracy_last, run.accuracy_best, run.seconds]
    assert table.loc[1:4, ["accuracy", "best", "seconds"]].isna().all(axis=None)
    assert grid_results(grid, store).state.tolist()[3] == "to do"


def test_a_damaged_file_is_a_failure_of_its_run_alone(grid, done, tmp_path):
    store = shutil.copytree(done, tmp_path / "store")
    record, failure, checkpoint, *_ = (plan.folder for plan in planned_runs(grid))
    (store / record / "run.json").write_text('{"pair": ')
    for folder in (failure, checkpoint):
        shutil.rmtree(store / folder)
    (store / f"{failure}.failed.json").write_text("[]")
    (store / checkpoint).mkdir()
    (store / checkpoint / "checkpoint.pt").write_bytes(b"half")
    table = run_grid(grid, store)
    assert table.state.tolist() == ["failed"] * 3 + ["finished"] * 3
    files = (f"{record}/run.json", f"{failure}.failed.json", f"{checkpoint}/checkpoint.pt")
    for reason, file in zip(table.reason, files, strict=False):
        assert reason.endswith(f"{store / file} is damaged and cannot be read; delete it")
    assert len(finished_runs(grid, store)) == 3
    for file in files:
        (store / file).unlink()
    assert run_grid(grid, store, retry=True).state.tolist() == ["finished"] * 6


def test_a_failure_that_vanishes_as_it_is_read_is_none(grid, tmp_path, monkeypatch):
    for plan in planned_runs(grid):
        failure_file(plan, tmp_path).write_text('{"reason": "ValueError: no"}')
    read = Path.read_text

    def too_late(file: Path, *arguments: Any) -> str:
        if file.parent == tmp_path:  # and nothing of the package's own
            file.unlink()
        return read(file, *arguments)

    monkeypatch.setattr(Path, "read_text", too_late)
    assert grid_results(grid, tmp_path).state.tolist() == ["to do"] * 6


def test_a_store_without_any_run_and_one_of_students_alone_are_tables_too(grid, done, tmp_path):
    table = grid_results(grid, tmp_path / "none")
    assert table.state.tolist() == ["to do"] * 6
    assert table.accuracy.isna().all()
    assert not (tmp_path / "none").exists()
    grid["methods"] = {"alone": grid["methods"]["alone"]}
    assert grid_results(grid, done).accuracy.notna().all()


def test_results_are_one_row_a_finished_run(grid, done):
    records = finished_runs(grid, done)
    table = results_of(records)
    assert list(table.columns) == ["student", "teacher", "protocol", "method", "seed", "accuracy", "best", "seconds"]
    for row, record in zip(table.itertuples(index=False), records, strict=True):
        assert (row.student, row.protocol, row.method, row.seed) == (
            *(record.plan.student, record.plan.protocol, record.plan.method, record.plan.seed),
        )
        assert (row.accuracy, row.best, row.seconds) == (
            *(record.run.accuracy_last, record.run.accuracy_best, record.run.seconds),
        )
    whole = grid_results(grid, done)[list(table.columns)]
    pd.testing.assert_frame_equal(whole, table)


def test_records_are_one_line_a_run_and_read_back(grid, done, tmp_path):
    records = finished_runs(grid, done)
    write_records(records, tmp_path / "records.jsonl")
    lines = (tmp_path / "records.jsonl").read_text().splitlines()
    assert len(lines) == 6
    assert all(json.loads(line).keys() == {"plan", "run"} for line in lines)
    again = read_records(tmp_path / "records.jsonl")
    assert [record.plan for record in again] == [record.plan for record in records]
    assert [record.plan.recipe for record in again] == [record.plan.recipe for record in records]
    for kept, record in zip(again, records, strict=True):
        assert replace(kept.run, curves={}) == replace(record.run, curves={})
        assert kept.run.curves.keys() == record.run.curves.keys()
        for name, values in record.run.curves.items():
            assert kept.run.curves[name] == [value if name == "epoch" else float(f"{value:.6g}") for value in values]
        assert kept.run.recipe == json.loads(json.dumps(asdict(kept.plan.recipe)))
    assert any(kept.run.curves != record.run.curves for kept, record in zip(again, records, strict=True))
    pd.testing.assert_frame_equal(results_of(again), results_of(records))


@pytest.mark.parametrize("damage", ["[]", "{", '{"plan": {}, "run": {}}', '{"plan": 1}'])
def test_a_damaged_line_of_records_is_named_and_blank_ones_are_skipped(grid, done, tmp_path, damage):
    records, file = finished_runs(grid, done)[:2], tmp_path / "records.jsonl"
    write_records(records, file)
    whole = file.read_text()
    file.write_text("\n" + whole.replace("\n", "\n \n"))
    assert [record.plan for record in read_records(file)] == [record.plan for record in records]
    file.write_text(f"{whole}\n{damage}\n")
    with pytest.raises(ValueError, match=r"line 4 of .*records\.jsonl is damaged and cannot be read; delete it"):
        read_records(file)


def test_records_are_written_whole_or_not_at_all(grid, done, tmp_path, monkeypatch):
    records, file = finished_runs(grid, done), tmp_path / "records.jsonl"
    write_records(records[:2], file)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_records(records, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_recipe_goes_through_a_record_unchanged(grid, done, tmp_path):
    (plan, *_) = planned_runs(changed(grid, "protocol", RECIPES))
    run = finished_runs(grid, done)[0].run
    write_records([Record(plan, run)], tmp_path / "records.jsonl")
    assert read_records(tmp_path / "records.jsonl")[0].plan.recipe == Recipe(**RECIPES)
    assert asdict(Recipe()) == USUAL


# --- how far a grid is ---------------------------------------------------------------------------


def told(grid: Grid, *states: str, run: Progress | None = None, **details: str) -> GridProgress:
    """Progress of the grid with these states of its runs; details by state."""
    usual = {"finished": "61.5 %", "running": "epoch 1 of 2", "failed": "ValueError: <b> is no layer"} | details
    return GridProgress("shades", tuple(planned_runs(grid)), states, tuple(usual.get(s, "") for s in states), run)


STATES = ("finished", "failed", "running", "elsewhere", "cut off", "to do")
RUN = Progress(
    title="a <student>",
    epoch=1,
    epochs=2,
    step=1,
    steps=4,
    losses={"cross-entropy": 1.25},
    accuracy=51.0,
    curves={},
    seconds=30.0,
    seconds_left=60.0,
)


def test_a_grids_progress_is_one_table(grid):
    table = progress_table(told(grid, *STATES))
    assert table.index.names == ["student", "teacher", "protocol", "method"]
    assert [row[-1] for row in table.index] == ["alone", "KD", "two terms"]  # in the grid's order
    assert [row[1] for row in table.index] == ["", "vgg8x0.125", "vgg8x0.125"]
    assert table.columns.tolist() == [0, 1]
    assert table[0].tolist() == ["61.5 %", "failed", "epoch 1 of 2"]
    assert table[1].tolist() == ["elsewhere", "cut off", "to do"]
    grid["methods"] = dict(reversed(grid["methods"].items()))
    assert [row[-1] for row in progress_table(told(grid, *STATES)).index] == ["two terms", "KD", "alone"]


def test_a_cell_without_a_run_is_empty(grid):
    progress = told(grid, *STATES)
    fewer = replace(progress, plans=progress.plans[:4], states=progress.states[:4], details=progress.details[:4])
    assert progress_table(fewer)[1].tolist() == ["elsewhere", "", ""]


def test_a_grids_progress_in_words(grid):
    assert describe_grid(told(grid, *STATES)) == "shades: 1 of 6 runs are finished, 1 failed, 1 cut off, 1 elsewhere"
    assert describe_grid(told(grid, *["finished"] * 6)) == "shades: 6 of 6 runs are finished"
    assert reasons_of_failure(told(grid, *STATES)) == ["KD, seed 0: ValueError: <b> is no layer"]


def test_a_terminal_shows_the_table_once_a_run_has_ended(grid, capsys):
    with TerminalGrid() as progress:
        progress(told(grid, *["to do"] * 6))
        assert "0 of 6 runs are finished" in capsys.readouterr().out
        progress(told(grid, "running", *["to do"] * 5, run=RUN))
        said = capsys.readouterr()
        assert said.out == ""  # a bar goes to the other stream
        assert "cross-entropy 1.250, accuracy 51.0 %" in said.err
        progress(told(grid, "finished", "failed", *["to do"] * 4))
        said = capsys.readouterr().out
        assert "shades: 1 of 6 runs are finished, 1 failed\n" in said
        assert "61.5 %" in said
        assert "KD, seed 0: ValueError: <b> is no layer" in said
        progress(told(grid, "finished", "failed", *["to do"] * 4))
        assert capsys.readouterr().out == ""  # nothing has changed


def test_a_terminals_bar_goes_away_with_what_went_wrong(grid):
    progress = TerminalGrid()
    with pytest.raises(KeyboardInterrupt), progress:
        stopped_in(progress, told(grid, "running", *["to do"] * 5, run=RUN))
    assert progress._run is None


def stopped_in(callback: Callable[[GridProgress], None], progress: GridProgress) -> None:
    callback(progress)
    raise KeyboardInterrupt


def test_epochs_are_not_told_one_by_one_unless_wanted(shades, capsys):
    for epochs, lines in ((True, 2), (False, 0)):
        with TerminalProgress(epochs) as progress:
            train("resnet8", shades, Recipe(epochs=2), callback=progress)
        assert capsys.readouterr().out.count("resnet8, epoch") == lines


def test_a_view_shows_table_reasons_and_the_current_run(grid):
    grid["methods"] = {f"<i>{name}": method for name, method in grid["methods"].items()}
    view = widgets.GridView()
    assert "not started" in view.status.value
    view(told(grid, *STATES, run=RUN))
    assert "<b>shades: 1 of 6 runs are finished, 1 failed, 1 cut off, 1 elsewhere.</b>" in view.table.value
    assert "<br>&lt;i&gt;KD, seed 0: ValueError: &lt;b&gt; is no layer" in view.table.value
    for words in (">seed 1</th>", ">&lt;i&gt;two terms</td>", ">61.5 %</td>", ">epoch 1 of 2</td>", ">cut off</td>"):
        assert words in view.table.value
    assert "<i>" not in view.table.value
    # What is the same in every row is not shown; a teacher that some methods do without is the same too.
    for word in ("vgg8x0.0625", "vgg8x0.125", "quick"):
        assert word not in view.table.value
    assert "a &lt;student&gt;, epoch 1 of 2" in view.status.value
    assert 'value="0.1250"' in view.status.value
    view(told(grid, *["finished"] * 6))
    assert view.status.value == '<div role="status">No run goes on.</div>'
    assert "6 of 6 runs are finished" in view.table.value


def test_a_view_draws_its_table_again_only_when_a_run_got_on(grid, monkeypatch):
    view, drawn = widgets.GridView(), []
    monkeypatch.setattr(widgets, "_grid_html", lambda progress: drawn.append(1) or f"{len(drawn)}")
    for step in (4, 8):
        view(told(grid, *STATES, run=replace(RUN, step=step)))
    assert view.table.value == "1"
    assert f'value="{8 / RUN.steps / RUN.epochs:.4f}"' in view.status.value
    view(told(grid, *["finished"] * 6))
    assert view.table.value == "2"


def test_a_view_of_a_single_method_still_names_it(grid):
    grid["methods"] = {"KD": grid["methods"]["KD"]}
    view = widgets.GridView("mine")
    view(told(grid, "finished", "to do"))
    assert ">KD</td>" in view.table.value
    assert "vgg8" not in view.table.value
    classes = [view, view.table, view.status]
    assert [widget._dom_classes[-1] for widget in classes] == ["sk-mine", "sk-mine-table", "sk-mine-status"]


def test_a_view_is_one_short_line_without_a_kernel():
    assert repr(widgets.GridView()) == "[a grid's progress; it is seen while the cell runs]"


def test_a_lesson_runs_a_grid_behind_a_view(grid, done, monkeypatch, trained):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    table = course.Lesson("cpu", "quick", 0).run_grid(grid, done)
    assert table.state.tolist() == ["finished"] * 6
    (view,) = shown
    assert "6 of 6 runs are finished" in view.table.value
    assert trained == []


# --- the command ---------------------------------------------------------------------------------


def test_spectra_of_students_are_those_of_the_epochs_that_were_kept(grid, tmp_path, shades):
    grid |= {"keep_epochs": [1, 2], "seeds": [0, 1]}
    grid["methods"] = {name: grid["methods"][name] for name in ("alone", "KD")}
    run_grid(grid, tmp_path / "store")
    layers = ["layer1", "layer2"]
    table = grid_spectra(grid, tmp_path / "store", layers, all_epochs_of=1)
    told = table.groupby(["method", "seed"])["epoch"].unique()
    assert {key: list(epochs) for key, epochs in told.items()} == {
        (method, seed): [0, 1, 2] if seed else [2] for method in ("alone", "KD") for seed in (0, 1)
    }
    teacher = build("vgg8x0.125", 2, seed=5)
    plan = planned_runs(grid)[1]
    student = load_weights(build("vgg8x0.0625", 2), tmp_path / "store" / plan.folder / "epoch_002.safetensors")
    load_weights(teacher, plan.teacher_weights)
    for network, whose in ((student, (plan.method, plan.seed, 2)), (teacher, ("teacher", None, None))):
        measured = activation_spectra(network, shades.normalise(shades.test_images), layers, "none", progress=False)
        for layer in layers:
            stored = stored_spectrum(table, whose[0], layer, *whose[1:])
            assert_close(stored.power, measured.spectrum(layer).power, rtol=1e-6, atol=0)
            assert_equal(stored.frequency, measured.spectrum(layer).frequency)
            assert_equal(stored.modes, measured.spectrum(layer).modes)
    assert stored.shape == measured.spectrum(layers[-1]).shape


def test_spectra_are_of_each_protocol_and_ambiguous_ones_are_refused(grid, tmp_path, shades, monkeypatch):
    grid |= {"keep_epochs": [1], "seeds": [0], "methods": {"KD": grid["methods"]["KD"]}}
    grid["protocols"] = {"quick": {**grid["protocols"]["quick"], "epochs": 1}}
    grid["protocols"]["held"] = {**grid["protocols"]["quick"], "held_out": 5}
    run_grid(grid, tmp_path)
    monkeypatch.setattr("spectralkd_nb.distillation.history.reestimate_batch_norm", None)  # what no last network needs
    table = grid_spectra(grid, tmp_path, ["layer1"], all_epochs_of=1)
    teacher = load_weights(build("vgg8x0.125", 2), grid["pairs"][0]["teacher_weights"])
    for protocol, data in (("quick", shades), ("held", shades.held_out(5))):
        images = data.normalise(data.test_images)
        measured = activation_spectra(teacher, images, ["layer1"], "none", progress=False).spectrum("layer1")
        stored = stored_spectrum(table[table["protocol"] == protocol], "teacher", "layer1")
        assert_close(stored.power, measured.power, rtol=1e-6, atol=0)
    for rows in (table, table[~table.duplicated(["method", "frequency"])], table.assign(epoch=range(len(table)))):
        several = rows.assign(protocol=["quick", "held"] * (len(rows) // 2))
        for method in ("teacher", "KD"):
            with pytest.raises(ValueError, match=f"of {method}, layer1, seed None, epoch None the table has several"):
                stored_spectrum(several, method, "layer1")
    one = table[(table["protocol"] == "quick") & (table["method"] == "KD")]
    for column in ("student", "teacher", "side", "seed"):
        with pytest.raises(ValueError, match="the table has several"):
            stored_spectrum(one.assign(**{column: range(len(one))}), "KD", "layer1")


def test_an_epoch_that_a_finished_run_lacks_is_named(grid, tmp_path):
    grid |= {"keep_epochs": [1, 2], "seeds": [0], "methods": {"alone": grid["methods"]["alone"]}}
    run_grid(grid, tmp_path)
    (plan,) = planned_runs(grid)
    (tmp_path / plan.folder / "epoch_001.safetensors").unlink()
    sentence = f"the run in .*{plan.folder} did not keep epoch 1; delete it and run the grid again"
    for seed in (0, 1):
        with pytest.raises(ValueError, match=sentence):
            grid_spectra(grid, tmp_path, ["layer1"], all_epochs_of=seed)


def test_spectra_are_written_by_a_command(grid_file, tmp_path, capsys):
    text = grid_file.read_text().replace("seeds = [0, 1]", "seeds = [0]\nkeep_epochs = [2]")
    grid_file.write_text(text)
    run_grid(grid_file, tmp_path / "store")
    main(["grid-spectra", str(grid_file), str(tmp_path / "store"), str(tmp_path / "a" / "s.csv"), "--layers", "layer1"])
    assert "rings measured" in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "a" / "s.csv")["epoch"].dropna()) == {0, 2}


@pytest.fixture
def grid_file(place, tmp_path) -> Path:
    (tmp_path / "grid.toml").write_text(TOML.format(place=place))
    return tmp_path / "grid.toml"


def test_the_command_does_a_grid_compares_its_methods_and_writes_records(grid_file, done, tmp_path, capsys, trained):
    store, out = shutil.copytree(done, tmp_path / "store"), tmp_path / "results" / "records.jsonl"
    lost = [path for path in store.iterdir() if "seed1" in path.name]
    for folder in lost:
        shutil.rmtree(folder)
    main(["grid", str(grid_file), str(store), "--baseline", "alone", "--records", str(out)])
    said = capsys.readouterr().out
    assert len(trained) == len(lost) == 3
    assert "shades: 3 of 6 runs are finished" in said
    assert "shades: 6 of 6 runs are finished" in said
    assert "epoch 1 of 2:" not in said
    assert f"6 runs -> {out}" in said
    for method in ("KD", "two terms"):
        assert re.search(rf"{method} +alone .* (inconclusive|better|worse)\n", said)
    assert [record.plan for record in read_records(out)] == planned_runs(grid_file)

    main(["grid", str(grid_file), str(store)])
    assert len(trained) == 3
    assert "baseline" not in capsys.readouterr().out


def test_the_command_tries_failures_again_where_asked(grid_file, done, tmp_path, capsys, trained):
    store = shutil.copytree(done, tmp_path / "store")
    plans = planned_runs(grid_file)
    for plan in plans:
        shutil.rmtree(store / plan.folder)
        failure_file(plan, store).write_text('{"reason": "ValueError: no"}')
    out = tmp_path / "records.jsonl"
    with pytest.raises(SystemExit) as exit_code:
        main(["grid", str(grid_file), str(store), "--baseline", "alone", "--records", str(out)])
    assert exit_code.value.code == 1
    said = capsys.readouterr()
    assert "KD, seed 1: ValueError: no" in said.out
    assert "no run of 'alone' is finished, so there is nothing to compare with" in said.out
    assert said.err.startswith("python -m spectralkd_nb: 6 of 6 runs failed; the reasons are above, and --retry tries")
    assert said.err.count("\n") == 1
    assert read_records(out) == []
    assert trained == []
    main(["grid", str(grid_file), str(store), "--retry"])
    assert trained == [plan.folder for plan in plans]
    assert "6 of 6 runs are finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (["none.toml", "store"], "No such file or directory: 'none.toml'"),
        (
            ["grid.toml", "store", "--baseline", "none"],
            "no method is called 'none'; there are 'KD', 'alone',",
        ),
        (["wrong.toml", "store"], "a grid has no 'wrong'"),
    ],
)
def test_a_wrong_command_is_one_sentence_before_anything_is_done(
    grid_file, tmp_path, monkeypatch, capsys, trained, command, sentence
):
    monkeypatch.chdir(tmp_path)
    Path("wrong.toml").write_text(f"wrong = 1\n{grid_file.read_text()}")
    with pytest.raises(SystemExit) as exit_code:
        main(["grid", *command])
    assert exit_code.value.code == 1
    said = capsys.readouterr()
    assert said.err.startswith("python -m spectralkd_nb: ")
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert trained == []
    assert not Path("store").exists()
