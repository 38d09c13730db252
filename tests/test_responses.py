"""What shipped networks and the teachers of a sweep still say, against the single measures and the cards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from spectralkd_nb import data_path, teacher_quality
from spectralkd_nb.__main__ import main
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.distillation import responses
from spectralkd_nb.experiments.responses import COLUMNS, shipped_responses, sweep_responses
from spectralkd_nb.experiments.sweep import sweep_teachers
from spectralkd_nb.networks import build, load_weights, shipped_networks, snapshots

KEYS = ["step", "network", "batch_size", "epochs", "seed", "images", "temperature"]


@pytest.fixture(scope="module")
def photographs():
    return open_dataset("photographs")


@pytest.fixture(scope="module")
def shipped(photographs):
    return shipped_responses(photographs, [4.0], train_images=70)


def test_every_shipped_network_of_the_data_is_asked(shipped, photographs):
    own = [card for card in shipped_networks() if card["data"]["fingerprint"] == photographs.fingerprint]
    along = [card for card in shipped_networks(epochs=True) if card["data"]["fingerprint"] == photographs.fingerprint]
    wanted = {(card["network"], card["recipe"]["epochs"]): card["accuracy"] for card in own}
    wanted |= {(card["network"], one["epoch"]): one["accuracy"] for card in along for one in card["epochs"]}
    test = shipped[shipped.images == "test"].set_index(["network", "epoch"])
    assert set(test.index) == wanted.keys()
    for which, accuracy in wanted.items():
        assert test.accuracy[which] == pytest.approx(
            accuracy, abs=0.2
        )  # some images lie on a border, which rounding moves
    assert set(shipped[shipped.images == "training"].set_index(["network", "epoch"]).index) == wanted.keys()


def test_its_measures_are_those_of_teacher_quality(shipped, photographs):
    logits = responses(snapshots("vgg8x0.25")[36], photographs, photographs.test_images)
    row = shipped[(shipped.network == "vgg8x0.25") & (shipped.epoch == 36) & (shipped.images == "test")].iloc[0]
    mass = teacher_quality.non_target_mass(logits, photographs.test_labels, 4.0).mean()
    assert row.non_target_mass == pytest.approx(float(mass), rel=1e-5)
    similarity = teacher_quality.class_similarity(logits, photographs.test_labels, 4.0)
    wanted = teacher_quality.rank_correlation(similarity, teacher_quality.reference_similarity(photographs))
    assert (row.similarity, row.similarity_p) == pytest.approx((wanted.rho, wanted.p), abs=1e-6)


def test_data_that_nothing_is_shipped_for_is_told_so():
    fields = open_dataset("fields", train=2, test=2)
    with pytest.raises(ValueError, match="no shipped network was trained on fields as it is here"):
        shipped_responses(fields)


def tiny_sweep() -> dict:
    return {
        "student": "vgg8x0.0625",
        "teachers": ["vgg8x0.0625"],
        "batch_sizes": [64],
        "epochs": [1, 2],
        "refinements": 0,
        "search": {"seeds": [5, 6], "held_out": 4},
        "confirmation": {"seeds": [0, 1]},
        "protocol": {"data": "photographs", "epochs": 1, "batch_size": 128, "augment": False},
        "method": {"cross-entropy": 0.1, "soft targets": {"weight": 0.9}},
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    torch.set_num_threads(1)
    return store, sweep_teachers(tiny_sweep(), store)


def test_every_teacher_of_a_sweep_is_asked_at_every_temperature_about_both_kinds_of_images(swept):
    store, table = swept
    said = sweep_responses(tiny_sweep(), store, [1.0, 4.0])
    assert list(said.columns) == COLUMNS
    taught = table.dropna(subset="network")
    assert len(said) == 4 * len(taught)
    assert not said.duplicated(KEYS).any()
    test = said[(said.images == "test") & (said.temperature == 1)].merge(taught, on=KEYS[:5])
    assert len(test) == len(taught)
    assert (test.accuracy - test.teacher_accuracy).abs().max() < 1  # half precision


def test_a_students_fidelity_is_measured_to_the_teacher_of_its_own(swept, photographs):
    store, table = swept
    row = table[(table.step == "confirmation") & table.network.notna()].iloc[0]
    teacher, student = (
        load_weights(build("vgg8x0.0625", 14), store / run / f"epoch_{epochs:03.0f}.safetensors").eval()
        for run, epochs in ((row.teacher_run, row.epochs), (row.student_run, 1))
    )
    its, ours = (responses(network, photographs, photographs.test_images) for network in (teacher, student))
    wanted = teacher_quality.fidelity(ours, its, 2.0)
    said = sweep_responses(tiny_sweep(), store, [2.0]).set_index(KEYS)
    found = said.loc[(row.step, row.network, row.batch_size, row.epochs, row.seed, "test", 2.0)]
    assert (found.agreement, found.divergence) == pytest.approx((wanted.agreement, wanted.divergence), rel=1e-5)


def test_no_student_is_asked_on_other_data_or_beside_another_teacher(swept, photographs, tmp_path, monkeypatch):
    store = shutil.copytree(swept[0], tmp_path / "store")
    other = replace(photographs, train_images=photographs.train_images.flip(0))
    with monkeypatch.context() as patch:
        patch.setattr("spectralkd_nb.experiments.bench.open_dataset", lambda name: other)
        with pytest.raises(ValueError, match="was trained on other data than photographs holds now"):
            sweep_responses(tiny_sweep(), store, [4.0])
    run = swept[1].teacher_run.dropna().iloc[0]
    (weights,) = (store / run).glob("epoch_*.safetensors")
    save_file(build("vgg8x0.0625", 14, seed=9).state_dict(), weights)
    with pytest.raises(ValueError, match=r"was trained from another vgg8x0\.0625 than the one that is there now"):
        sweep_responses(tiny_sweep(), store, [4.0])


def test_the_commands_write_what_the_functions_find(swept, tmp_path, capsys):
    store, _ = swept
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        'student = "vgg8x0.0625"\nteachers = ["vgg8x0.0625"]\nbatch_sizes = [64]\nepochs = [1, 2]\nrefinements = 0\n'
        "[search]\nseeds = [5, 6]\nheld_out = 4\n[confirmation]\nseeds = [0, 1]\n"
        '[protocol]\ndata = "photographs"\nepochs = 1\nbatch_size = 128\naugment = false\n'
        '[method]\n"cross-entropy" = 0.1\n"soft targets" = { weight = 0.9 }\n'
    )
    main(["sweep-responses", str(sweep), str(store), str(tmp_path / "said.csv"), "--temperatures", "4"])
    found, wanted = pd.read_csv(tmp_path / "said.csv"), sweep_responses(tiny_sweep(), store, [4.0])
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-4, check_dtype=False)
    with pytest.raises(SystemExit, match="1"):
        main(["sweep-responses", str(sweep), str(tmp_path / "nowhere"), str(tmp_path / "other.csv")])
    assert "holds no taught student" in capsys.readouterr().err
    assert not (tmp_path / "other.csv").exists()


def test_the_stored_responses_of_cifar_100_are_of_what_is_shipped():
    said = pd.read_csv(data_path("results/responses_cifar100.csv"))
    cards = [json.loads(path.read_text()) for path in data_path("weights").glob("*_cifar100.json")]
    test = said[(said.images == "test") & (said.temperature == 1)].set_index(["network", "epoch"])
    for card in cards:
        assert test.accuracy[card["network"], card["recipe"]["epochs"]] == pytest.approx(card["accuracy"], abs=0.1)
