"""The spectra of students in the course of their trainings, from what a store kept, beside those of their teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.kept import TEACHER, finished_students, sample_of
from spectralkd_nb.spectra import RadialSpectrum

if TYPE_CHECKING:
    import pandas

EDGES_OF_LOSSES = "none"  # as the losses see the maps
WHOSE = ["student", "teacher", "protocol", "side"]  # of one spectrum there is one of each


def grid_spectra(
    grid: Mapping[str, Any] | str | Path, store: str | Path, layers: Sequence[str], all_epochs_of: int
) -> pandas.DataFrame:
    """Spectra of layers of every student in a store, at the epochs that it kept, and of the teachers.

    Power of about 256 test images of a run's protocol, pooled over images and channels, without edge treatment: what
    the losses on features act on. Before training, which is epoch 0, the batch norms have the statistics of these
    images.

    Args:
        grid, store: as for `run_grid`; runs that are not finished are left out.
        layers: dotted paths that students and teachers share.
        all_epochs_of: the seed whose students are measured at every kept epoch; those of others only at the last.

    Returns:
        one row a ring: student, teacher, protocol, method ("teacher" for the teacher's own), seed, epoch, layer, side
        (pixels), frequency (cycles a pixel), modes (in the ring), power (maps squared). `stored_spectrum` reads it.

    Raises:
        ValueError: a finished run kept no epochs, or not all that the grid asks for, or had other data or another
            teacher than are there now.
    """
    import pandas as pd

    bench, rows, teachers = Bench(store=Path(store).expanduser()), [], {}
    for record, epoch, network, data in finished_students(bench, grid, all_epochs_of):
        plan, images = record.plan, sample_of(data)
        rows += _rows(network, images, layers, plan.names | {"epoch": epoch})
        if plan.teacher and plan.taught_by not in teachers:
            own = plan.names | {"student": None, "method": TEACHER, "seed": None, "epoch": None}
            teachers[plan.taught_by] = _rows(bench.teacher_of(plan), images, layers, own)
    return pd.DataFrame([row for found in teachers.values() for row in found] + rows)


def _rows(network: nn.Module, images: Tensor, layers: Sequence[str], own: dict[str, Any]) -> list[dict[str, Any]]:
    measured = activation_spectra(network, images, layers, edges=EDGES_OF_LOSSES, progress=False)
    rows = []
    for layer in layers:
        spectrum = measured.spectrum(layer)
        rings = (spectrum.frequency.tolist(), spectrum.modes.tolist(), spectrum.power.tolist())
        for frequency, modes, power in zip(*rings, strict=True):
            told = {"layer": layer, "side": min(spectrum.shape), "frequency": frequency, "modes": modes, "power": power}
            rows.append({**own, **told})
    return rows


def stored_spectrum(
    table: pandas.DataFrame, method: str, layer: str, seed: int | None = None, epoch: int | None = None
) -> RadialSpectrum:
    """One spectrum of a table of `grid_spectra`; of square maps.

    Of a table of several students, teachers or protocols choose rows first.

    Args:
        method: of the grid, or "teacher".
        layer, seed: whose.
        epoch: the last that is there if None.

    Returns:
        `RadialSpectrum` with power (rings,), in units of maps squared.

    Raises:
        ValueError: the table has no such rows, or has them of several networks.
    """
    rows = table[(table["method"] == method) & (table["layer"] == layer)]
    rows = rows if seed is None else rows[rows["seed"] == seed]
    several = (rows[WHOSE].nunique(dropna=False) > 1).any()  # also where their last epochs differ
    if method != TEACHER:
        rows = rows[rows["epoch"] == (rows["epoch"].max() if epoch is None else epoch)]
    seeds = rows["seed"].nunique(dropna=False)
    if rows.empty or several or seeds > 1 or rows["frequency"].duplicated().any():
        found = "none" if rows.empty else "several"
        raise ValueError(
            f"of {method}, {layer}, seed {seed}, epoch {epoch} the table has {found}; name one that it has"
        )
    side = int(rows["side"].iloc[0])
    frequency, modes, power = (torch.tensor(rows[key].to_numpy()) for key in ("frequency", "modes", "power"))
    return RadialSpectrum(frequency, power, modes, 1, (side, side), EDGES_OF_LOSSES)
