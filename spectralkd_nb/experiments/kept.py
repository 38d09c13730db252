"""What a store kept of a grid's students, beside the data and the teachers that they had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation.history import kept_networks
from spectralkd_nb.distillation.store import epochs_not_kept
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.experiments.records import Record, finished_runs

TEACHER = "teacher"  # in the column of methods
IMAGES = 256  # test images, about


def finished_students(
    bench: Bench, grid: Mapping[str, Any] | str | Path, all_epochs_of: int | None = None
) -> Iterator[tuple[Record, int, nn.Module, LabelledImages]]:
    """Record, epoch, network and data of each finished run of a grid, at what it kept last.

    All are compared with their data and teachers before the first comes.

    Args:
        bench: of the store.
        all_epochs_of: the seed whose students come at every epoch that was kept, and before them untrained at epoch 0.

    Raises:
        ValueError: a run kept no epochs, or not all that the grid asks for, or had other data or another teacher than
            are there now.
    """
    records = finished_runs(grid, bench.store)
    for record in records:
        bench.load(record.plan)
    bench.require_same(records)
    for record in records:
        plan, folder = record.plan, bench.store / record.plan.folder
        data = bench.data_of(plan)
        require_epochs(plan, folder)
        last = plan.seed != all_epochs_of
        for epoch, network in kept_networks(record.run, folder, len(data.classes), sample_of(data), last):
            yield record, epoch, network, data


def sample_of(data: LabelledImages) -> Tensor:
    """About 256 test images, evenly spread, as the networks take them."""
    return data.normalise(data.test_images[:: max(1, len(data.test_images) // IMAGES)])


def require_epochs(plan: Plan, folder: Path) -> None:
    """Refuse a finished run that did not keep what its grid asks for."""
    if missing := epochs_not_kept(folder, plan.keep_epochs):
        raise ValueError(f"the run in {folder} did not keep epoch {missing[0]}; delete it and run the grid again")


def with_teachers(plan: Plan, pairs: Sequence[Mapping[str, Any]]) -> list[Plan]:
    """The plan, if it has a teacher; else one for each teacher that the pairs have for its student."""
    if plan.teacher:
        return [plan]
    named = [(pair.get("teacher"), pair.get("teacher_weights")) for pair in pairs if pair["student"] == plan.student]
    teachers = dict.fromkeys(both for both in named if both[0])
    if not teachers:
        raise ValueError(f"no pair of the grid has a teacher for {plan.student!r}; name one to compare it with")
    return [replace(plan, teacher=teacher, teacher_weights=weights) for teacher, weights in teachers]


def fewer(data: LabelledImages, count: int | None) -> LabelledImages:
    """The data with at most so many training images, evenly spread over each class; None for all of them.

    Raises:
        ValueError: fewer than one.
    """
    if count is None or count >= len(data.train_labels):
        return data
    if count < 1:
        raise ValueError(f"train_images={count} would leave nothing to fit to; give 1 or more")
    by_class = data.train_labels.argsort(stable=True)  # files are often sorted by class, or classes take turns
    places = torch.arange(count, device=by_class.device) * len(by_class) // count
    kept = by_class[places].sort().values
    return replace(
        data,
        train_images=data.train_images[kept].contiguous(memory_format=torch.channels_last),
        train_labels=data.train_labels[kept],
        groups=None if data.groups is None else data.groups[kept.to(data.groups.device)],
    )
