"""python -m spectralkd_nb, as a person types it."""

import csv
import subprocess
import sys

import pytest
from PIL import Image

from spectralkd_nb.__main__ import main
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
