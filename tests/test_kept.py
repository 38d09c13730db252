"""What a store kept of a grid is measured only beside the data and the teachers that its runs had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_targets import write_shades
from threads import one_thread as one_thread  # a fixture

from spectralkd_nb.experiments import run_grid
from spectralkd_nb.experiments.features import grid_discrepancies, grid_probes
from spectralkd_nb.experiments.profiles import grid_profiles
from spectralkd_nb.experiments.spectra import grid_spectra
from spectralkd_nb.experiments.targets import grid_targets
from spectralkd_nb.networks import build

Measure = Callable[[dict[str, Any], Path], Any]
MEASURES: dict[str, Measure] = {
    "spectra": lambda grid, store: grid_spectra(grid, store, ["layer1"], all_epochs_of=-1),
    "probes": lambda grid, store: grid_probes(grid, store, ["layer1"], train_images=8),
    "discrepancies": lambda grid, store: grid_discrepancies(grid, store, ["layer1"]),
    "targets": lambda grid, store: grid_targets(grid, store, ["layer1"], all_epochs_of=-1),
    "profiles": grid_profiles,
}


@pytest.fixture
def grid(tmp_path) -> dict[str, Any]:
    write_shades(tmp_path / "shades.npz")
    torch.save(build("vgg8x0.125", 2, seed=5).state_dict(), tmp_path / "teacher.pt")
    return {
        "seeds": [0],
        "keep_epochs": [1],
        "pairs": [
            {"student": "vgg8x0.0625", "teacher": "vgg8x0.125", "teacher_weights": f"{tmp_path}/teacher.pt"},
        ],
        "protocols": {"quick": {"data": f"{tmp_path}/shades.npz", "epochs": 1, "batch_size": 16, "augment": False}},
        "methods": {"alone": {"cross-entropy": 1}, "KD": {"cross-entropy": 0.1, "soft targets": 0.9}},
    }


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_nothing_is_measured_on_other_data_or_beside_another_teacher(grid, tmp_path, measure):
    store = tmp_path / "store"
    assert (run_grid(grid, store)["state"] == "finished").all()
    file, weights = tmp_path / "shades.npz", tmp_path / "teacher.pt"
    own = weights.read_bytes()
    torch.save(build("vgg8x0.125", 2, seed=6).state_dict(), weights)
    with pytest.raises(ValueError, match=r"was trained from another vgg8x0\.125 than the one that is there now"):
        measure(grid, store)
    weights.write_bytes(own)
    arrays = dict(np.load(file))
    np.savez(file, **{**arrays, "train_images": arrays["train_images"][::-1]})
    with pytest.raises(ValueError, match=r"was trained on other data than .*shades\.npz holds now"):
        measure(grid, store)
