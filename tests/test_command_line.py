"""python -m spectralkd_nb, as a person types it."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spectralkd_nb import data_path
from spectralkd_nb.__main__ import COMMANDS, command_of, main, recipe_of
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.distillation import Recipe, Run, evaluate, read_run, train
from spectralkd_nb.distillation.history import epoch_profiles
from spectralkd_nb.distillation.shipping import measure_shipped, ship, ship_epochs
from spectralkd_nb.networks import build, load_weights, shipped_networks, snapshots
from spectralkd_nb.networks.weights import fingerprint_of
from spectralkd_nb.pictures import measure_exponents, open_picture, photographs


def test_exponents_of_a_folder(tmp_path, capsys):
    grey = (photographs()["camera"].grey().numpy() * 255).round().astype("uint8")
    Image.fromarray(grey).save(tmp_path / "camera.png")
    main(["exponents", str(tmp_path), str(tmp_path / "out.csv")])
    assert "1 pictures measured" in capsys.readouterr().out
    with (tmp_path / "out.csv").open() as file:
        (row,) = csv.DictReader(file)
    expected = measure_exponents([open_picture(tmp_path / "camera.png")])[0]
    assert row["name"] == "camera"
    assert float(row["alpha"]) == pytest.approx(expected["alpha"], abs=1e-4)


def test_a_wrong_folder_is_one_sentence_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "spectralkd_nb", "exponents", str(tmp_path / "nowhere"), str(tmp_path / "out.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "there is no folder" in done.stderr
    assert not (tmp_path / "out.csv").exists()


def test_a_picture_that_is_too_small_is_named_and_the_old_table_stays(tmp_path, capsys):
    Image.fromarray(np.arange(144, dtype="uint8").reshape(12, 12)).save(tmp_path / "stamp.png")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(SystemExit):
        main(["exponents", str(tmp_path), str(tmp_path / "out.csv")])
    assert capsys.readouterr().err.startswith("python -m spectralkd_nb: stamp: ")
    assert (tmp_path / "out.csv").read_text() == "old"


@pytest.mark.parametrize("out", ["taken", "file/out.csv"])
@pytest.mark.parametrize(
    ("work", "command"),
    [
        ("measure_exponents", ["exponents", ".", "OUT"]),
        ("write_simulations", ["simulate-depth", "OUT"]),
        ("epoch_profiles", ["epoch-profiles", "OUT", "nowhere", "--data", "photographs"]),
        ("run_grid", ["run", str(data_path("results/distillation_photographs.toml")), "nowhere", "--records", "OUT"]),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, capsys, work, command, out):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(f"spectralkd_nb.__main__.{work}", None)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path / out) if word == "OUT" else word for word in command])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path / out.split("/")[0]) in said


def test_every_command_has_a_line_of_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert len(COMMANDS) == 15
    for add in COMMANDS:
        name = add.__name__.removeprefix("add_").replace("_", "-")
        assert re.search(rf"^    {name}\b", said, re.MULTILINE), name


# --- training ------------------------------------------------------------------------------------


@pytest.fixture
def data_file(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 3
    images = (60 + 60 * labels[:, None, None, None] + rng.integers(40, size=(24, 16, 16, 3))).astype(np.uint8)
    path = tmp_path / "shades.npz"
    classes = np.array(["dark", "grey", "light"])
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels, classes=classes)
    return path


def training(folder: Path, data_file: Path) -> list[str]:
    """A command that trains on the file, keeps the run in the folder's run, and ships to its weights."""
    return ["train", "resnet8", str(data_file), "--folder", str(folder / "run"), "--ship", str(folder / "weights")]


def test_training_ships_weights_with_a_true_card(tmp_path, data_file, capsys):
    command = training(tmp_path, data_file)
    main([*command, "--epochs", "2", "--batch-size", "8", "--seed", "4"])
    said = capsys.readouterr().out
    card = json.loads((tmp_path / "weights" / "resnet8_shades.json").read_text())
    assert f"{card['file']}: {card['accuracy']:.2f} % in half precision" in said
    network = load_weights(build("resnet8", 3), tmp_path / "weights" / card["file"])
    assert evaluate(network, open_dataset(data_file)) == pytest.approx(card["accuracy"], abs=0.01)
    assert card["recipe"]["epochs"] == 2
    assert (card["seed"], card["data"]["name"]) == (4, "shades")
    assert card["command"] == (
        "python -m spectralkd_nb train resnet8 shades --folder runs/resnet8_shades_seed4 --epochs 2 --batch-size 8 "
        "--seed 4 --ship data/weights"
    )
    assert str(tmp_path) not in (tmp_path / "weights" / "resnet8_shades.json").read_text()

    main([*command, "--epochs", "2", "--batch-size", "8", "--seed", "4"])  # finished: read, not trained again
    assert "epoch 1 of 2" not in capsys.readouterr().out


def test_weights_that_are_too_large_are_not_shipped(tmp_path, data_file, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.shipping.LARGEST", 1000)
    command = training(tmp_path, data_file)
    with pytest.raises(SystemExit):
        main([*command, "--epochs", "1"])
    assert list((tmp_path / "weights").iterdir()) == []


def test_the_shipped_networks_are_as_good_as_their_cards_say(capsys):
    main(["weights", "photographs"])
    said = re.findall(r"(\S+): ([\d.]+) %, and its card says ([\d.]+) %", capsys.readouterr().out)
    assert said
    for _, measured, on_the_card in said:
        assert float(measured) == pytest.approx(float(on_the_card), abs=0.1)


def test_networks_are_not_measured_on_other_data(data_file):
    with pytest.raises(SystemExit):
        main(["weights", str(data_file)])
    card = {"data": {"name": "cifar100", "fingerprint": "0"}, "file": "x.safetensors"}
    with pytest.raises(ValueError, match="was trained on cifar100, and shades is other data"):
        measure_shipped(card, open_dataset(data_file))


def test_the_commands_on_the_cards_say_all_that_was_asked(monkeypatch):
    asked = []
    monkeypatch.setattr("spectralkd_nb.__main__.do_train", asked.append)
    for file in sorted(data_path("weights").rglob("*.json")):
        command = json.loads(file.read_text())["command"]
        main(shlex.split(command)[3:])
        options = asked.pop()
        assert command_of(options, recipe_of(options), options.keep_epochs) == command


def test_an_interrupted_training_is_one_sentence_and_no_traceback(tmp_path, data_file):
    command = [sys.executable, "-m", "spectralkd_nb", *training(tmp_path, data_file), "--epochs", "100000"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, env=alone, **pipes)
    try:
        assert "epoch 1 of 100000" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in said
    sentence = r"python -m spectralkd_nb: the run was stopped in epoch \d+; the same call goes on from here"
    assert re.fullmatch(sentence, said.splitlines()[-1])


def test_an_interrupt_without_words_says_that_it_stopped(monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spectralkd_nb.__main__.open_dataset", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["weights", "photographs"])
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\npython -m spectralkd_nb: stopped\n"


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def run_of_seed(seed: int, folder: Path, data_file: Path) -> Run:
    recipe = Recipe(epochs=1, batch_size=8)
    return train("resnet8", open_dataset(data_file), recipe, seed=seed, folder=folder, keep_epochs=(1,))


def test_weights_of_another_seed_are_not_written_over(tmp_path, data_file):
    data, shipped, epochs = open_dataset(data_file), tmp_path / "weights", tmp_path / "epochs"
    first, other = (run_of_seed(seed, tmp_path / f"run{seed}", data_file) for seed in (4, 0))
    ship(first, data, shipped, "first")
    ship_epochs(first, tmp_path / "run4", data, epochs, "first")
    for folder, ship_other in (
        (shipped, lambda folder: ship(other, data, folder, "other")),
        (epochs, lambda folder: ship_epochs(other, tmp_path / "run0", data, folder, "other")),
    ):
        said = f"{folder / 'resnet8_shades.json'} is of seed 4, and this run has seed 0; delete it, or ship elsewhere"
        before = files_in(folder)
        assert len(before) == 2
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            ship_other(folder)
        assert files_in(folder) == before
        assert ship_other(tmp_path / "elsewhere" / folder.name)["seed"] == 0
        (folder / "resnet8_shades.json").unlink()  # as it was told
        assert ship_other(folder)["seed"] == 0


def test_weights_of_the_same_seed_are_written_over(tmp_path, data_file):
    data, run = open_dataset(data_file), run_of_seed(4, tmp_path / "run", data_file)
    for command in ("first", "again"):
        assert ship(run, data, tmp_path / "weights", command)["command"] == command
        assert ship_epochs(run, tmp_path / "run", data, tmp_path / "epochs", command)["command"] == command
    for folder in ("weights", "epochs"):
        assert json.loads((tmp_path / folder / "resnet8_shades.json").read_text())["command"] == "again"


@pytest.mark.parametrize("option", ["--ship", "--ship-epochs"])
def test_another_seed_over_what_is_shipped_is_one_sentence_and_leaves_the_old_files(
    tmp_path, data_file, capsys, option
):
    def shipping(seed: int) -> None:
        into = ["--folder", str(tmp_path / f"run{seed}"), option, str(tmp_path / "weights")]
        schedule = ["--epochs", "1", "--batch-size", "8", "--keep-epochs", "1"]
        main(["train", "resnet8", str(data_file), *into, *schedule, "--seed", str(seed)])

    shipping(0)
    before = files_in(tmp_path / "weights")
    assert len(before) == 2
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_code:
        shipping(1)
    assert exit_code.value.code == 1
    card = tmp_path / "weights" / "resnet8_shades.json"
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"python -m spectralkd_nb: {card} is of seed 0, and this run has seed 1; delete it, or ship elsewhere"
    )
    assert files_in(tmp_path / "weights") == before
    assert read_run(tmp_path / "run1" / "run.json").seed == 1  # the run itself is not lost


def test_every_seed_has_a_folder_of_its_own_in_the_command(tmp_path, data_file, monkeypatch):
    asked = []
    monkeypatch.setattr("spectralkd_nb.__main__.do_train", asked.append)

    def command(*options: str) -> str:
        main([*training(tmp_path, data_file), *options])
        told = asked.pop()
        return command_of(told, recipe_of(told), ())

    folders = {"0": "runs/resnet8_shades", "1": "runs/resnet8_shades_seed1", "12": "runs/resnet8_shades_seed12"}
    for seed, folder in folders.items():
        told = command("--seed", seed)
        assert f" --folder {folder} " in told
        assert f" --seed {seed} " in told
        assert str(tmp_path) not in told
        # Typed again, the command says the same of itself.
        main(shlex.split(told)[3:])
        again = asked.pop()
        assert (again.seed, str(again.folder)) == (int(seed), folder)
        assert command_of(again, recipe_of(again), ()) == told
    assert command() == command("--seed", "0")


# --- the epochs of a training --------------------------------------------------------------------

KEPT = ["--epochs", "3", "--batch-size", "8", "--seed", "4", "--keep-epochs"]


def keeping(folder: Path, data_file: Path, *options: str) -> None:
    """Train with `KEPT`, keep the run in the folder's run, and ship the epochs to where a checkout has them."""
    into = ["--folder", str(folder / "run"), "--ship-epochs", str(folder / "weights" / "epochs")]
    main(["train", "resnet8", str(data_file), *into, *KEPT, *options])


@pytest.fixture
def looks_here(tmp_path, monkeypatch) -> None:
    """The package takes the test's folder for data/."""
    monkeypatch.setattr("spectralkd_nb.networks.weights.data_path", lambda name: tmp_path / name)


@pytest.mark.usefixtures("looks_here")
def test_the_epochs_of_a_training_are_shipped_with_one_true_card(tmp_path, data_file, capsys):
    keeping(tmp_path, data_file, "1", "3")
    said, data = capsys.readouterr().out, open_dataset(data_file)
    names = ["resnet8_shades.json", "resnet8_shades_epoch_001.safetensors", "resnet8_shades_epoch_003.safetensors"]
    assert sorted(path.name for path in (tmp_path / "weights" / "epochs").iterdir()) == names
    text = (tmp_path / "weights" / "epochs" / "resnet8_shades.json").read_text()
    card = json.loads(text)
    assert str(tmp_path) not in text
    assert [(kept["epoch"], kept["file"]) for kept in card["epochs"]] == [(1, names[1]), (3, names[2])]
    assert card["command"] == (
        "python -m spectralkd_nb train resnet8 shades --folder runs/resnet8_shades_seed4 --epochs 3 --batch-size 8 "
        "--seed 4 --keep-epochs 1 3 --ship-epochs data/weights/epochs"
    )
    run = read_run(tmp_path / "run" / "run.json")
    assert (card["seed"], card["recipe"], card["curves"]) == (4, run.recipe, run.curves)

    networks = snapshots("resnet8", "shades")
    assert list(networks) == [0, 1, 3]
    assert not any(network.training for network in networks.values())
    assert all(network.info.card == card for network in networks.values())
    assert fingerprint_of(networks[0].state_dict()) == run.protocol["student fingerprint"]
    for kept in card["epochs"]:
        assert f"{kept['file']}: {kept['accuracy']:.2f} % in half precision" in said
        assert round(evaluate(networks[kept["epoch"]], data), 2) == kept["accuracy"]
    images = data.test_images[:4]
    assert torch.allclose(networks[1].info.normalise(images / 255), data.normalise(images), atol=1e-4)
    assert not torch.equal(networks[1].fc.weight, networks[3].fc.weight)
    assert shipped_networks() == []  # an epoch is none of the networks that build knows


@pytest.mark.usefixtures("looks_here")
def test_a_command_names_all_epochs_that_the_run_has_kept(tmp_path, data_file):
    keeping(tmp_path, data_file, "1", "3")
    keeping(tmp_path, data_file, "1", "--ship", str(tmp_path / "weights"))
    (whole,) = shipped_networks()
    kept = snapshots("resnet8")[3].info.card
    assert whole["command"] == kept["command"]
    assert whole["command"].endswith("--keep-epochs 1 3 --ship data/weights --ship-epochs data/weights/epochs")
    assert kept["epochs"][-1]["accuracy"] == whole["accuracy"]
    about_files = {"file", "sha256", "accuracy", "accuracy of", "accuracy in full precision", "epochs"}
    assert {k: v for k, v in whole.items() if k not in about_files} == {
        k: v for k, v in kept.items() if k not in about_files
    }


def test_what_was_not_kept_is_not_shipped(tmp_path, data_file, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        keeping(tmp_path, data_file)
    assert "--ship-epochs ships what --keep-epochs keeps; name the epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()  # before hours of training, and not after

    data, shipped = open_dataset(data_file), tmp_path / "weights" / "epochs"
    run = train("resnet8", data, Recipe(epochs=1), folder=tmp_path / "none")
    with pytest.raises(ValueError, match="kept no epochs; train it again in another folder, with keep_epochs"):
        ship_epochs(run, tmp_path / "none", data, shipped, "command")
    assert not shipped.exists()

    monkeypatch.setattr("spectralkd_nb.distillation.shipping.LARGEST", 1000)
    with pytest.raises(SystemExit):
        keeping(tmp_path, data_file, "1")
    assert "resnet8_shades_epoch_001.safetensors would have" in capsys.readouterr().err
    assert list(shipped.iterdir()) == []


def test_profiles_of_the_epochs_of_a_training(tmp_path, data_file, capsys):
    keeping(tmp_path, data_file, "1", "3")
    out = tmp_path / "results" / "out.csv"
    main(["epoch-profiles", str(out), str(tmp_path / "run"), "--data", str(data_file)])
    assert f"12 layers measured -> {out}" in capsys.readouterr().out
    table = pd.read_csv(out)
    columns = "network seed epoch path depth block stage alpha lower upper trusted accuracy"
    assert list(table.columns) == columns.split()
    assert table.epoch.tolist() == [0] * 4 + [1] * 4 + [3] * 4
    assert table.path.tolist() == ["image", "layer1.0", "layer2.0", "layer3.0"] * 3
    assert set(zip(table.network, table.seed, strict=True)) == {("resnet8", 4)}
    assert ((table.lower < table.alpha) & (table.alpha < table.upper)).all()
    assert table[table.path == "image"].alpha.nunique() == 1
    assert table[table.path == "layer3.0"].alpha.nunique() == 3
    curves = read_run(tmp_path / "run" / "run.json").curves["test accuracy"]
    assert table[table.epoch == 0].accuracy.isna().all()
    assert table.accuracy[4:].tolist() == pytest.approx([curves[0]] * 4 + [curves[2]] * 4, abs=1e-4)
    assert re.fullmatch(
        r"resnet8,4,0,image,0,0,,\d\.\d{4},\d\.\d{4},\d\.\d{4},(True|False),", out.read_text().split("\n")[1]
    )


def test_profiles_of_what_is_no_such_run_are_refused(tmp_path, data_file):
    data = open_dataset(data_file)
    with pytest.raises(ValueError, match="holds no finished run"):
        epoch_profiles(tmp_path, data)
    train("resnet8", data, Recipe(epochs=1), folder=tmp_path)
    with pytest.raises(ValueError, match="kept no epochs"):
        epoch_profiles(tmp_path, data)
    with pytest.raises(ValueError, match="was trained on shades, and tones is other data"):
        epoch_profiles(tmp_path, replace(data, name="tones", test_labels=data.test_labels.flip(0)))
