"""What a grid's students were given to match: methods that adapt a teacher, and what is measured of their targets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from threads import one_thread as one_thread  # a fixture
from torch.nn import functional as F

from spectralkd_nb.__main__ import main
from spectralkd_nb.adaptation import AdaptedTeacher, describe_target
from spectralkd_nb.datasets import LabelledImages, open_dataset
from spectralkd_nb.distillation import AdaptiveMatching, FeatureMatching, evaluate
from spectralkd_nb.experiments import finished_runs, kept_pairs, method_step, planned_runs, run_grid
from spectralkd_nb.experiments.kept import sample_of
from spectralkd_nb.experiments.methods import checked_method
from spectralkd_nb.experiments.targets import MEASURED, alpha_of, grid_targets
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.features import features_of
from spectralkd_nb.pictures import photograph_crops

HINT = {"weight": 1.0, "layers": ["layer2"]}
AMA = {"cross-entropy": 1, "hint": HINT, "anchor": {"weight": 1, "replace": ["layer2"]}, "approach": 0.5}


def write_shades(file: Path) -> None:
    """Two shades of grey as data."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(["dark", "light"])}
    for part, count in (("train", 40), ("test", 24)):
        labels = np.arange(count) % 2
        images = 90 + 60 * labels[:, None, None, None] + 40 * rng.standard_normal((count, 16, 16, 3))
        arrays |= {f"{part}_images": images.clip(0, 255).astype(np.uint8), f"{part}_labels": labels}
    np.savez(file, **arrays)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two shades of grey as data, and a teacher's weights."""
    place = tmp_path_factory.mktemp("place")
    write_shades(place / "shades.npz")
    torch.save(build("vgg8x0.125", 2, seed=5).state_dict(), place / "teacher.pt")
    (place / "grid.toml").write_text(
        f"""
seeds = [0, 1]
keep_epochs = [1, 2]
pairs = [{{ student = "vgg8x0.0625", teacher = "vgg8x0.125", teacher_weights = '{place}/teacher.pt' }}]
protocols.quick = {{ data = '{place}/shades.npz', epochs = 2, batch_size = 16, augment = false }}
[methods]
alone = {{ "cross-entropy" = 1 }}
hint = {{ "cross-entropy" = 1, hint = {{ weight = 1, layers = ["layer2"] }} }}
[methods.AMA]
"cross-entropy" = 1
hint = {{ weight = 1, layers = ["layer2"] }}
anchor = {{ weight = 1, replace = ["layer2"] }}
approach = 0.5
[methods."AMA, other layers"]
"cross-entropy" = 1
hint = {{ weight = 1, layers = [["layer1", "layer2"]] }}
anchor = {{ weight = 1, replace = ["layer2"] }}
approach = 0.5
"""
    )
    return place


@pytest.fixture(scope="module")
def store(place, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("store")
    assert (run_grid(place / "grid.toml", store)["state"] == "finished").all()
    return store


@pytest.fixture(scope="module")
def shades(place) -> LabelledImages:
    return open_dataset(place / "shades.npz")


@pytest.fixture(scope="module")
def pair(place) -> tuple[torch.nn.Module, torch.nn.Module]:
    return build("vgg8x0.0625", 2), load_weights(build("vgg8x0.125", 2), place / "teacher.pt").eval()


@pytest.fixture(scope="module")
def table(place, store) -> pd.DataFrame:
    return grid_targets(place / "grid.toml", store, ["layer2"], all_epochs_of=0)


# --- the method ----------------------------------------------------------------------------------


def test_an_anchor_makes_the_teacher_adapt(pair, shades):
    step, weights = method_step(AMA, *pair, shades)
    assert isinstance(step, AdaptiveMatching)
    assert step.adapted.paths == ("layer2",)
    assert weights == {"cross-entropy": 1.0, "hint": 1.0, "anchor": 1.0, "approach": 0.5}
    plain, _ = method_step({"cross-entropy": 1, "hint": HINT}, *pair, shades)
    assert isinstance(plain, FeatureMatching)


def test_modules_are_fitted_to_images_from_all_over_the_training_set(pair, shades, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.experiments.methods.FITTED_TO", 10)
    step, _ = method_step(AMA, *pair, shades, seed=7)
    spread = shades.normalise(shades.train_images[::4])
    expected = AdaptedTeacher(pair[1], ["layer2"], spread, seed=7)
    assert step.adapted.fitted_to == 10
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(step.adapted.state_dict()[name], value)


def test_another_teacher_than_the_run_had_is_refused(place, store, tmp_path):
    shutil.copytree(place, tmp_path / "place")
    shutil.copytree(store, tmp_path / "store")
    grid = (place / "grid.toml").read_text()
    torch.save(build("vgg8x0.125", 2, seed=6).state_dict(), place / "teacher.pt")
    try:
        with pytest.raises(ValueError, match=r"was trained from another vgg8x0\.125 than the one that is there now"):
            grid_targets(place / "grid.toml", store, ["layer2"], all_epochs_of=0)
    finally:
        shutil.copy(tmp_path / "place" / "teacher.pt", place / "teacher.pt")
    assert (place / "grid.toml").read_text() == grid


def test_soft_targets_are_the_teachers_that_is_not_adapted(pair, shades):
    step, weights = method_step(AMA | {"soft targets": 0.9}, *pair, shades)
    assert list(weights) == ["cross-entropy", "soft targets", "hint", "anchor", "approach"]
    images, labels = shades.normalise(shades.train_images[:8]), shades.train_labels[:8]
    with torch.no_grad():
        step.adapted.stand_ins[0].pointwise.bias += 5
        student = pair[0].eval()
        logits, terms = step(student, pair[1], images, labels)
        soft = F.log_softmax(pair[1](images) / 4, 1).exp()
        expected = 16 * F.kl_div(F.log_softmax(logits / 4, 1), soft, reduction="batchmean")
    torch.testing.assert_close(terms["soft targets"], expected)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"anchor": {"weight": 1}}, "name the teacher's blocks to replace"),
        ({"anchor": {"weight": 1, "replace": "layer2"}}, "name the teacher's blocks to replace"),
        ({"anchor": {"weight": 1, "replace": [2]}}, "name the teacher's blocks to replace"),
        ({"anchor": {"weight": 1, "replaced": ["layer2"]}}, "no setting 'replaced'; did you mean 'replace'"),
        ({"anchor": None}, "needs both 'anchor' and 'approach', or neither"),
        ({"approach": None}, "needs both 'anchor' and 'approach', or neither"),
        ({"hint": None}, "adapts a teacher of whose features it learns nothing"),
        ({"aproach": 1}, "did you mean 'approach'"),
    ],
)
def test_what_an_adaptation_lacks_is_said_before_anything_is_trained(change, told):
    method = {term: settings for term, settings in {**AMA, **change}.items() if settings is not None}
    with pytest.raises(ValueError, match=told):
        checked_method("AMA", method)


def test_a_block_that_is_not_there_is_answered_with_the_nearest(pair, shades):
    with pytest.raises(ValueError, match=r"no layer 'layer22'; the nearest are 'layer2\.2', 'layer2'"):
        method_step(AMA | {"anchor": {"weight": 1, "replace": ["layer22"]}}, *pair, shades)


# --- what is measured ----------------------------------------------------------------------------


def test_every_run_is_measured_at_its_last_epoch_and_one_seed_at_all(table):
    assert list(table.columns[-len(MEASURED) :]) == MEASURED
    found = table.groupby(["method", "seed"])["epoch"].apply(list).to_dict()
    for method in ("alone", "hint", "AMA", "AMA, other layers"):
        assert found[method, 0] == [0, 1, 2]
        assert found[method, 1] == [2]
    assert (table["layer"] == "layer2").all()
    assert (table["teacher"] == "vgg8x0.125").all()  # those alone are compared with it too


def test_a_teacher_that_does_not_adapt_has_not_moved(table, pair, shades):
    plain = table[table["method"].isin(["alone", "hint"])]
    assert (plain["moved"] == 0).all()
    assert (plain["channels"] == plain["channels_before"]).all()
    assert plain["adapted_accuracy"].unique().tolist() == [evaluate(pair[1], shades)]
    adapted = table[table["method"] == "AMA"]
    assert (adapted["moved"] > 0).all()
    assert adapted["target_alpha"].nunique() == len(adapted)


@pytest.mark.parametrize(("method", "layer"), [("AMA", "layer2"), ("AMA, other layers", "layer1")])
def test_what_is_measured_is_measured_of_the_networks_that_were_kept(place, store, table, pair, shades, method, layer):
    runs = finished_runs(place / "grid.toml", store)
    record = next(run for run in runs if (run.plan.method, run.plan.seed) == (method, 0))
    kept = kept_pairs(record, store)
    assert list(kept) == [0, 1, 2]
    images = sample_of(shades)
    original = features_of(pair[1], images, ["layer2"])["layer2"]
    for epoch, (student, step) in kept.items():
        assert not step.training
        row = table[(table["method"] == method) & (table["seed"] == 0) & (table["epoch"] == epoch)].iloc[0]
        target = step.adapted.targets(images)["layer2"]
        mine = features_of(student, images, [layer])[layer]
        expected = describe_target(mine, target, original)
        for name, value in vars(expected).items():
            assert row[name] == pytest.approx(value, rel=1e-4), name
        with torch.no_grad():
            loss = F.cross_entropy(student(shades.normalise(shades.test_images)), shades.test_labels)
        assert row["test_loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["adapted_accuracy"] == evaluate(step.adapted.network, shades)
        alphas = alpha_of(student, shades, 255 * photograph_crops(128, 4), layer, "student")
        assert row["student_alpha"] == pytest.approx(alphas["student_alpha"], rel=1e-5)
    assert record.run.accuracy_last == evaluate(kept[2][0], shades)  # half precision changes none of 24 answers


def test_the_command_writes_the_table(place, store, table, tmp_path, capsys):
    out = tmp_path / "targets.csv"
    main(["grid-targets", str(place / "grid.toml"), str(store), str(out), "--layers", "layer2"])
    assert "16 targets measured" in capsys.readouterr().out
    again = pd.read_csv(out)
    assert again["mismatch"].to_numpy() == pytest.approx(table["mismatch"].to_numpy(), rel=1e-4)


def test_layers_that_were_learned_are_those_that_are_measured(place):
    plans = {plan.method: plan for plan in planned_runs(place / "grid.toml")}
    from spectralkd_nb.experiments.targets import _layers

    assert _layers(plans["hint"], ["layer5"]) == [("layer2", "layer2")]
    assert _layers(plans["alone"], ["layer5", "layer1"]) == [("layer5", "layer5"), ("layer1", "layer1")]
