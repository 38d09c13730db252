"""python -m spectralkd_nb, as a person types it."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spectralkd_nb.__main__ import main
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.distillation import evaluate
from spectralkd_nb.distillation.shipping import measure_shipped
from spectralkd_nb.networks import build, load_weights
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
        "python -m spectralkd_nb train resnet8 shades --folder runs/resnet8_shades --epochs 2 --batch-size 8 --seed 4 "
        "--ship data/weights"
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
