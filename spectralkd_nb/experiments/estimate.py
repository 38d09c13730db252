"""What a grid will take, measured on a few batches before it starts."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import train
from spectralkd_nb.distillation.progress import in_words
from spectralkd_nb.distillation.training import default_device
from spectralkd_nb.experiments.bench import Bench, arguments_of, teacher_key
from spectralkd_nb.experiments.methods import ANY_ALPHA, wants_alpha
from spectralkd_nb.experiments.plan import Plan, planned_runs, planned_teachers, read_grid
from spectralkd_nb.experiments.records import FINISHED, state_of
from spectralkd_nb.networks import build

if TYPE_CHECKING:
    import pandas

BATCHES, BATCHES_ON_A_GPU = 4, 40  # of an epoch that stands for all; what happens once an epoch weighs more on a GPU


def estimate_grid(
    grid: Mapping[str, Any] | str | Path,
    store: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    batches: int | None = None,
) -> pandas.DataFrame:
    """How long the runs of a grid will take that a store does not have yet, one after the other, and with how much GPU
    memory.

    Each method trains for two short epochs, with its real networks and losses; the first holds what happens once a run,
    the second stands for all others. Nothing is kept. A teacher that the grid is yet to train is taken untrained, which
    costs the same. Expect a third more or less on a machine that does other things too.

    Args:
        grid: dict or TOML file.
        store: its folder; None, or one that is not there, has no runs.
        device: as for `train`.
        batches: in a short epoch; 4, and 40 on a GPU, if None.

    Returns:
        one row a student, teacher, protocol and method, the grid's own teachers first: runs (left to do), seconds (of
        one run), minutes (of all that are left), and gigabytes (GiB of GPU memory at the peak; NaN without a GPU).

    Raises:
        ValueError, OSError: what is wrong with the grid, its data or its teachers, as in `run_grid`.
    """
    import pandas as pd

    grid = read_grid(grid)
    plans = [*planned_teachers(grid), *planned_runs(grid)]
    device = torch.device(device or default_device())
    batches = batches or (BATCHES_ON_A_GPU if device.type == "cuda" else BATCHES)
    bench = _bench(grid, store)
    groups: dict[tuple[str | None, ...], list[Plan]] = {}
    for plan in plans:
        groups.setdefault((plan.student, plan.teacher, plan.protocol, plan.method), []).append(plan)
    rows = []
    for (student, teacher, protocol, method), own in groups.items():
        left = [plan for plan in own if store is None or state_of(plan, store)[0] != FINISHED]
        seconds, gigabytes = _measured(own[0], bench, device, batches) if left else (math.nan, math.nan)
        rows.append(
            {
                "student": student,
                "teacher": teacher,
                "protocol": protocol,
                "method": method,
                "runs": len(left),
                "seconds": seconds,
                "minutes": len(left) * seconds / 60 if left else 0.0,
                "gigabytes": gigabytes,
            }
        )
    return pd.DataFrame(rows)


def describe_estimate(table: pandas.DataFrame) -> str:
    """The whole of an estimate in a sentence.

    Args:
        table: of `estimate_grid`.
    """
    runs, minutes, peak = int(table["runs"].sum()), float(table["minutes"].sum()), float(table["gigabytes"].max())
    if not runs:
        return "Nothing is left to do."
    memory = "" if math.isnan(peak) else f", with up to {peak:.1f} GiB of GPU memory"
    return f"{runs} runs are left: about {in_words(60 * minutes)}{memory}."


def _bench(grid: Mapping[str, Any], store: str | Path | None) -> Bench:
    """Data and teachers, untrained ones for those that the grid has not trained yet."""
    folder = None if store is None else Path(store).expanduser()
    bench = Bench(store=folder)
    yet_to_come = {
        plan.folder for plan in planned_teachers(grid) if folder is None or state_of(plan, folder)[0] != FINISHED
    }
    for plan in planned_runs(grid):
        if plan.teacher and plan.teacher_weights and plan.teacher_weights.split("/")[0] in yet_to_come:
            bench.teachers[teacher_key(plan)] = _untrained(plan, bench)
    return bench


def _untrained(plan: Plan, bench: Bench) -> nn.Module:
    return build(plan.teacher, len(bench.data_of(plan).classes), seed=0).eval()


def _measured(plan: Plan, bench: Bench, device: torch.device, batches: int) -> tuple[float, float]:
    """Seconds of a run, and GiB at its peak."""
    asked = arguments_of(replace(plan, terms=_without_measuring(plan.terms), keep_epochs=[]), None, None, bench)
    whole, size = asked["data"], plan.recipe.batch_size
    data = _part(whole, batches * size + len(whole.train_labels) % size)  # with a last batch of the same size
    _free(device)
    # So few steps may follow no schedule; they learn next to nothing, so that none diverges.
    recipe = replace(plan.recipe, epochs=2, schedule="step", milestones=(2,), learning_rate=1e-6)
    run = train(**{**asked, "data": data, "recipe": recipe}, device=device)
    first, both = run.curves["seconds"]
    epoch = (both - first) * len(whole.train_labels) / len(data.train_labels)
    once = max(0.0, 2 * first - both)
    peak = math.nan
    if device.type == "cuda":
        missing = (
            whole.train_images.nbytes + whole.test_images.nbytes - data.train_images.nbytes - data.test_images.nbytes
        )
        peak = (torch.cuda.max_memory_reserved(device) + missing) / 2**30
    _free(device)
    return once + plan.recipe.epochs * epoch, peak


def _free(device: torch.device) -> None:
    """Give back what earlier runs held, and count the peak from here."""
    if device.type != "cuda":
        return
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def _part(data: LabelledImages, train_images: int) -> LabelledImages:
    """The first so many training images, and as large a part of the test images."""
    train_images = min(train_images, len(data.train_labels))
    test_images = max(1, round(len(data.test_labels) * train_images / len(data.train_labels)))
    return replace(
        data,
        train_images=data.train_images[:train_images],
        train_labels=data.train_labels[:train_images],
        test_images=data.test_images[:test_images],
        test_labels=data.test_labels[:test_images],
        groups=None,
    )


def _without_measuring(terms: Mapping[str, Any]) -> dict[str, Any]:
    """The method with an alpha given, so that none is measured of a teacher that may have none."""
    return {
        term: {**settings, "alpha": ANY_ALPHA} if wants_alpha(term, settings) else settings
        for term, settings in terms.items()
    }
