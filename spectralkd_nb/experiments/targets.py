"""What a grid's students were given to match, and whether it came toward them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.adaptation import describe_target
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import AdaptiveMatching, evaluate, responses
from spectralkd_nb.distillation.history import EACH, SIZE, as_it_began, kept_networks
from spectralkd_nb.distillation.store import STEP, kept_name
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.kept import finished_students, sample_of, with_teachers
from spectralkd_nb.experiments.methods import ANCHOR, FEATURES, method_step, on_both_sides
from spectralkd_nb.experiments.plan import OF_A_RUN, Plan, pairs_of, read_grid
from spectralkd_nb.experiments.records import Record
from spectralkd_nb.networks import load_weights
from spectralkd_nb.networks.features import features_of
from spectralkd_nb.pictures import photograph_crops

if TYPE_CHECKING:
    import pandas

MEASURED = [
    *("mismatch", "moved", "channels", "channels_before", "adapted_accuracy", "test_loss"),
    *("target_alpha", "target_lower", "target_upper", "student_alpha", "student_lower", "student_upper"),
]


def grid_targets(
    grid: Mapping[str, Any] | str | Path, store: str | Path, layers: Sequence[str], all_epochs_of: int
) -> pandas.DataFrame:
    """The targets of every student in a store; for those that were given none, the teacher's own layers.

    Students that learned features are measured at the layers that they learned, from the teacher that they had, be it
    adapted or not. Mismatch, distance and channels are of about 256 test images of the protocol; alpha is of four
    cut-outs of 128 pixels of each photograph in `pictures.photographs`, pooled over images and channels, with a 95 %
    interval over cut-outs.

    Args:
        grid, store: as for `run_grid`; runs that are not finished are left out.
        layers: dotted paths that students and teachers share, for students that learned no features.
        all_epochs_of: the seed whose runs are measured at every kept epoch, and before training (epoch 0); those of
            others only at the last.

    Returns:
        one row a run, epoch and pair of layers: student, teacher, protocol, method, seed, epoch, layer (the target's),
        the columns of `TargetQuality`, adapted_accuracy (of the teacher that gave the target, percent), test_loss (the
        student's cross-entropy on the test images, nats), target_alpha, student_alpha, and their intervals' ends.

    Raises:
        ValueError: a finished run did not keep what is asked for, or had other data or another teacher than are there
            now; a layer that does not exist.
    """
    import pandas as pd

    grid, bench, rows = read_grid(grid), Bench(store=Path(store).expanduser()), []
    crops, pairs = 255 * photograph_crops(SIZE, EACH), pairs_of(grid)
    originals: dict[tuple, Target] = {}
    last = begun = None
    for record, epoch, student, data in finished_students(bench, grid, all_epochs_of):
        images, adapted = sample_of(data), None
        if ANCHOR in record.plan.terms:
            if last is not record:  # a run's epochs come one after the other
                last, begun = record, step_as_begun(record, bench)
            adapted = step_after(begun, bench.store / record.plan.folder, epoch).adapted.network
        loss = {"test_loss": loss_on_test_images(student, data)}
        for plan in with_teachers(record.plan, pairs):
            for mine, its in _layers(plan, layers):
                which = *plan.taught_by, its
                if which not in originals:
                    originals[which] = _target(bench.teacher_of(plan), data, images, crops, its)
                original = originals[which]
                target = original if adapted is None else _target(adapted, data, images, crops, its)
                features = features_of(student, images, [mine])[mine]
                told = plan.names | {"epoch": epoch, "layer": its}
                quality = vars(describe_target(features, target.features, original.features))
                rows.append(told | quality | target.facts | loss | alpha_of(student, data, crops, mine, "student"))
    return pd.DataFrame(rows, columns=[*OF_A_RUN, "epoch", "layer", *MEASURED])


class Target(NamedTuple):
    """What a layer of a network returns, and what is known of it."""

    features: Tensor
    facts: dict[str, float]


def _target(network: nn.Module, data: LabelledImages, images: Tensor, crops: Tensor, layer: str) -> Target:
    alphas = alpha_of(network, data, crops, layer, "target")
    return Target(features_of(network, images, [layer])[layer], {**alphas, "adapted_accuracy": evaluate(network, data)})


def _layers(plan: Plan, layers: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of layers that a run learned, or those that are asked for."""
    learned = [settings["layers"] for term, settings in plan.terms.items() if term in FEATURES]
    named = [on_both_sides(layer) for some in learned for layer in some]
    return list(dict.fromkeys(named)) or [(layer, layer) for layer in layers]


def step_as_begun(record: Record, bench: Bench) -> nn.Module:
    """The step of a run as it was before training, in eval mode. bench: with the data and the teacher that it had."""
    plan, data = record.plan, bench.data_of(record.plan)
    began = as_it_began(record.run, len(data.classes), sample_of(data))
    step, _ = method_step(plan.terms, began, bench.teacher_of(plan), data, plan.seed)
    return step.eval()


def step_after(begun: nn.Module, folder: Path, epoch: int) -> nn.Module:
    """A copy of a step as it was after an epoch that its run kept in its folder; 0 is before training.

    Raises:
        FileNotFoundError: it kept no step at that epoch.
    """
    step = copy.deepcopy(begun)
    if epoch:
        load_weights(step, folder / kept_name(epoch, STEP))
    return step


def kept_pairs(record: Record, store: str | Path) -> dict[int, tuple[nn.Module, nn.Module]]:
    """By epoch, a run's student and the step that it learned from, as a store kept them; 0 is before training.

    Args:
        record: of a finished run whose step has something that learns, such as `AdaptiveMatching`.

    Raises:
        ValueError: the run kept no epochs; its data or teacher are others now.
        FileNotFoundError: it kept no steps.
    """
    bench = Bench(store=Path(store).expanduser())
    bench.load(record.plan)
    bench.require_same([record])
    data, folder = bench.data_of(record.plan), bench.store / record.plan.folder
    begun = step_as_begun(record, bench)
    students = kept_networks(record.run, folder, len(data.classes), sample_of(data))
    return {epoch: (student.eval(), step_after(begun, folder, epoch)) for epoch, student in students}


class Meeting(NamedTuple):
    """Both sides of one match, (B, C, H, W) each."""

    target: Tensor
    offered: Tensor


def meeting_of(student: nn.Module, step: AdaptiveMatching, images: Tensor) -> Meeting:
    """What an adapted teacher asks for and what the student offers through its connector, at the step's first match.

    Args:
        student: a network.
        step: with its adapted teacher.
        images: (B, 3, H, W), normalised; of any size that the networks take.

    Returns:
        target and offered, (B, C, H, W) each, without gradients.
    """
    match = step.matches[0]
    target = features_of(step.adapted.network, images, [match.teacher])[match.teacher]
    with torch.no_grad():
        return Meeting(target, match.connected(features_of(student, images, [match.student])[match.student]))


def loss_on_test_images(network: nn.Module, data: LabelledImages) -> float:
    """Mean cross-entropy on the test images, nats."""
    logits = responses(network, data, data.test_images)
    return float(F.cross_entropy(logits, data.test_labels.to(logits.device)))


def alpha_of(network: nn.Module, data: LabelledImages, crops: Tensor, layer: str, whose: str) -> dict[str, float]:
    """alpha of a layer over cut-outs (values 0 to 255), and its 95 % interval, as columns named after `whose`."""
    found = activation_spectra(network, data.normalise(crops), [layer], progress=False).exponent(layer)
    low, high = found.interval
    return {f"{whose}_alpha": float(found.alpha), f"{whose}_lower": low, f"{whose}_upper": high}
