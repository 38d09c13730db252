"""What a grid's students have learned beside their task, and how far their channels are from those of a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spectralkd_nb.datasets import LabelledImages, rotated
from spectralkd_nb.distillation.history import as_it_began
from spectralkd_nb.distillation.probes import linear_probes
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.kept import TEACHER, fewer, finished_students, sample_of, with_teachers
from spectralkd_nb.experiments.plan import OF_A_RUN, Plan, pairs_of, read_grid
from spectralkd_nb.losses.selectivity import KERNELS, nst_loss
from spectralkd_nb.networks.features import features_of

if TYPE_CHECKING:
    import pandas

UNTRAINED = "untrained"  # in the column of methods
PROBED = [*OF_A_RUN, "task", "layer", "features", "accuracy", "train_accuracy"]
COMPARED = [*OF_A_RUN, "layer", "kernel", "discrepancy"]


def grid_probes(
    grid: Mapping[str, Any] | str | Path,
    store: str | Path,
    layers: Sequence[str],
    data: LabelledImages | None = None,
    train_images: int | None = None,
) -> pandas.DataFrame:
    """How well a second task is read off layers of every student in a store, of the untrained ones and the teachers.

    Each is a `linear_probe` of the network that the run kept last. An untrained student is the run's own before
    training, its batch norms with the statistics of about 256 test images of the protocol. The second task's images
    are normalised with the mean and deviation of the data that the student was trained on.

    Args:
        grid, store: as for `run_grid`; runs that are not finished are left out.
        layers: dotted paths that students and teachers share.
        data: the second task; None for `rotated`, which way is up, of each protocol's own images.
        train_images: at most so many of the second task's training images, the classes evenly; None for all.

    Returns:
        one row a network and layer: student (None for a teacher), teacher (as planned: None for a student alone or
        untrained), protocol, method ("teacher" or "untrained" for these), seed (None for a teacher), task, layer,
        features (their number), accuracy and train_accuracy (percent).

    Raises:
        ValueError: a finished run kept no epochs, or not all that the grid asks for, or had other data or another
            teacher than are there now; a student that has no teacher anywhere in the grid; what `linear_probe` refuses.
    """
    import pandas as pd

    grid, bench, rows = read_grid(grid), Bench(store=Path(store).expanduser()), []
    pairs = pairs_of(grid)
    teachers: dict[tuple, list[dict[str, Any]]] = {}
    tasks: dict[int, LabelledImages] = {}  # by the data's id, which lives as long as the bench
    for plan, student, own in _students(bench, grid):
        if id(own) not in tasks:
            tasks[id(own)] = fewer(rotated(own) if data is None else data, train_images)
        task = tasks[id(own)]
        for taught in with_teachers(plan, pairs):
            if taught.taught_by not in teachers:
                told = taught.names | {"student": None, "method": TEACHER, "seed": None}
                teachers[taught.taught_by] = _probe_rows(bench.teacher_of(taught), task, own, layers, told)
        rows += _probe_rows(student, task, own, layers, plan.names)
    return pd.DataFrame([row for found in teachers.values() for row in found] + rows, columns=PROBED)


def grid_discrepancies(
    grid: Mapping[str, Any] | str | Path, store: str | Path, layers: Sequence[str]
) -> pandas.DataFrame:
    """How far the channels of every student in a store, and of the untrained ones, are from those of its teacher.

    The squared maximum mean discrepancy that `nst_loss` is, with each of its kernels, as a mean over about 256 test
    images of the protocol. A student trained alone, and an untrained one, is compared with every teacher that the
    grid's pairs have for it.

    Args:
        grid, store: as for `grid_probes`.
        layers: dotted paths, of maps, that students and teachers share.

    Returns:
        one row a student, teacher, layer and kernel: student, teacher (compared with), protocol, method ("untrained"
        before training), seed, layer, kernel, discrepancy.

    Raises:
        ValueError: as `grid_probes`; what `nst_loss` refuses.
    """
    import pandas as pd

    grid, bench, rows = read_grid(grid), Bench(store=Path(store).expanduser()), []
    pairs = pairs_of(grid)
    shown: dict[tuple, dict[str, Tensor]] = {}
    for plan, student, own in _students(bench, grid):
        images = sample_of(own)
        mine = features_of(student, images, layers)
        for taught in with_teachers(plan, pairs):
            if (which := taught.taught_by) not in shown:
                shown[which] = features_of(bench.teacher_of(taught), images, layers)
            for layer in layers:
                for kernel in KERNELS:
                    distance = float(nst_loss(mine[layer], shown[which][layer], kernel))
                    rows.append({**taught.names, "layer": layer, "kernel": kernel, "discrepancy": distance})
    return pd.DataFrame(rows, columns=COMPARED)


# --- whose features ------------------------------------------------------------------------------


def _students(bench: Bench, grid: Mapping[str, Any]) -> Iterator[tuple[Plan, nn.Module, LabelledImages]]:
    """Plan, network and data of each finished run; before the first of a seed, of the student as it was untrained."""
    begun = set()
    for record, _, network, data in finished_students(bench, grid):
        plan = record.plan
        which = plan.student, plan.protocol, plan.seed
        if which not in begun:
            begun.add(which)
            untrained = as_it_began(record.run, len(data.classes), sample_of(data))
            yield replace(plan, method=UNTRAINED, teacher=None, teacher_weights=None), untrained, data
        yield plan, network, data


def _probe_rows(
    network: nn.Module, task: LabelledImages, own: LabelledImages, layers: Sequence[str], told: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row a layer. own: the data that the network is used to."""
    found = linear_probes(network, task, layers, normalise=own.normalise)
    facts = ("layer", "features", "accuracy", "train_accuracy")
    return [{**told, "task": task.name, **{fact: getattr(probe, fact) for fact in facts}} for probe in found]
