"""What the teachers of a sweep, and shipped networks, still say of similarity; how far students followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import responses
from spectralkd_nb.distillation.store import kept_name
from spectralkd_nb.distillation.training import default_device
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.kept import fewer, require_epochs
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.experiments.sweep import read_sweep, students_of_sweep
from spectralkd_nb.networks import build, load_weights, shipped_networks, snapshots
from spectralkd_nb.teacher_quality import describe_response, fidelity, reference_similarity

if TYPE_CHECKING:
    import pandas

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
TRAINING, TEST = "training", "test"  # images; during the search the latter are those held out
COLUMNS = [
    *("step", "network", "batch_size", "epochs", "seed", "images", "temperature", "accuracy", "entropy"),
    *("effective_classes", "non_target_mass", "similarity", "similarity_p", "calibration_error", "agreement"),
    "divergence",
]


def sweep_responses(
    sweep: Mapping[str, Any] | str | Path,
    store: str | Path,
    temperatures: Sequence[float] = TEMPERATURES,
    device: str | torch.device | None = None,
) -> pandas.DataFrame:
    """`describe_response` of every teacher of a sweep, and the `fidelity` of its student.

    On training images, which the student was taught with, and on those that it was tested with; the classes' similarity
    is held against `reference_similarity` of the sweep's data.

    Args:
        sweep, store: as for `sweep_results`; what is not finished is left out.
        temperatures: of the soft targets.
        device: see `train`.

    Returns:
        one row a teacher, kind of images and temperature: step, network, batch_size, epochs, seed; images ("training"
        or "test"), temperature; accuracy, entropy, effective_classes, non_target_mass, similarity, similarity_p,
        calibration_error as in `ResponseQuality`; agreement, divergence as in `Fidelity`.

    Raises:
        ValueError: what `read_sweep` and `describe_response` refuse; a finished student whose weights were not kept, or
            that had other data or another teacher than are there now.
    """
    import pandas as pd

    bench, rows = Bench(store=Path(store).expanduser()), []
    references: dict[int, Tensor] = {}  # by the data's id, which lives as long as the bench
    for step, record, teacher, _ in students_of_sweep(read_sweep(sweep), store):
        if teacher is None:
            continue
        plan, data = record.plan, bench.data_of(record.plan)
        bench.load(plan)
        bench.require_same([record])
        if id(data) not in references:
            references[id(data)] = reference_similarity(data)
        told = {"step": step, **asdict(teacher), "seed": plan.seed}
        pair = bench.teacher_of(plan), _student(plan, bench.store, len(data.classes))
        bench.forget_teachers()  # each is asked once, and there may be hundreds
        network, student = (one.to(device or default_device()) for one in pair)
        rows += [told | row for row in _described(network, data, references[id(data)], temperatures, student)]
    return pd.DataFrame(rows, columns=COLUMNS)


def shipped_responses(
    data: LabelledImages, temperatures: Sequence[float] = TEMPERATURES, train_images: int | None = None
) -> pandas.DataFrame:
    """`describe_response` of every network that is shipped for a data set, and of those shipped along a training.

    Args:
        data: the networks are those whose card has its fingerprint.
        temperatures: of the soft targets.
        train_images: at most so many training images, the classes evenly; None for all.

    Returns:
        one row a network, epoch, kind of images and temperature: network; epoch, after which it was kept, 0 before
        training, of a finished network the last; images, temperature and the measures as in `sweep_responses`.

    Raises:
        ValueError: no network is shipped for the data.
    """
    import pandas as pd

    shown, reference, rows = fewer(data, train_images), reference_similarity(data), []
    for name, epoch, network in _shipped(data):
        told = {"network": name, "epoch": epoch}
        # Normalised as the whole data are, which fewer images would not quite be.
        rows += [told | row for row in _described(network, shown, reference, temperatures, used_to=data)]
    if not rows:
        raise ValueError(f"no shipped network was trained on {data.name} as it is here")
    return pd.DataFrame(rows)


def _shipped(data: LabelledImages) -> Iterator[tuple[str, int, nn.Module]]:
    """Name, epoch and network of all that is shipped for the data; untrained ones have nothing to say."""
    for card in _cards_of(data, epochs=False):
        yield card["network"], card["recipe"]["epochs"], build(card["network"], card["classes"], pretrained=data.name)
    for card in _cards_of(data, epochs=True):
        for epoch, network in snapshots(card["network"], data.name).items():
            if epoch:
                yield card["network"], epoch, network


def _cards_of(data: LabelledImages, epochs: bool) -> list[dict[str, Any]]:
    return [card for card in shipped_networks(epochs) if card["data"]["fingerprint"] == data.fingerprint]


def _student(plan: Plan, store: Path, classes: int) -> nn.Module:
    """As the run kept it after its last epoch."""
    require_epochs(plan, store / plan.folder)
    return load_weights(build(plan.student, classes), store / plan.folder / kept_name(plan.recipe.epochs))


def _described(
    network: nn.Module,
    data: LabelledImages,
    reference: Tensor,
    temperatures: Sequence[float],
    student: nn.Module | None = None,
    used_to: LabelledImages | None = None,
) -> Iterator[dict[str, Any]]:
    """The measures of a network, and of a student's fidelity to it if there is one, by images and temperature.

    Args:
        used_to: whose mean and deviation images are normalised with; the data's own if None.
    """
    own = data if used_to is None else used_to
    parts = {TRAINING: (data.train_images, data.train_labels), TEST: (data.test_images, data.test_labels)}
    for name, (images, labels) in parts.items():
        its = responses(network, own, images)
        ours = responses(student, own, images) if student is not None else None
        for temperature in temperatures:
            quality = asdict(describe_response(its, labels, reference, temperature))
            correlation = quality.pop("similarity")
            said = {"images": name, **quality, "similarity": correlation["rho"], "similarity_p": correlation["p"]}
            yield said if ours is None else said | asdict(fidelity(ours, its, temperature))
