"""What the teachers of a sweep still said, and how far their students followed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import responses
from spectralkd_nb.distillation.store import kept_name
from spectralkd_nb.experiments.grid import Bench
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.experiments.sweep import finished_students, read_sweep
from spectralkd_nb.networks import build, load_weights
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
    sweep: Mapping[str, Any] | str | Path, store: str | Path, temperatures: Sequence[float] = TEMPERATURES
) -> pandas.DataFrame:
    """`describe_response` of every teacher of a sweep, and the `fidelity` of its student.

    On training images, which the student was taught with, and on those that it was tested with; the classes' similarity
    is held against `reference_similarity` of the sweep's data.

    Args:
        sweep, store: as for `sweep_results`; what is not finished is left out. temperatures: of the soft targets.

    Returns:
        one row a teacher, kind of images and temperature: step, network, batch_size, epochs, seed; images ("training"
        or "test"), temperature; accuracy, entropy, effective_classes, non_target_mass, similarity, similarity_p,
        calibration_error as in `ResponseQuality`; agreement, divergence as in `Fidelity`.
    """
    import pandas as pd

    bench, rows = Bench(store=Path(store).expanduser()), []
    references: dict[int, Tensor] = {}  # by the data's id, which lives as long as the bench
    for step, record, teacher, _ in finished_students(read_sweep(sweep), store):
        if teacher is None:
            continue
        plan, data = record.plan, bench.data_of(record.plan)
        if id(data) not in references:
            references[id(data)] = reference_similarity(data)
        told = {"step": step, **asdict(teacher), "seed": plan.seed}
        pair = _student(plan, bench.store, len(data.classes)), bench.teacher_of(plan)
        rows += [told | row for row in _described(*pair, data, references[id(data)], temperatures)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _student(plan: Plan, store: Path, classes: int) -> nn.Module:
    """As the run kept it after its last epoch."""
    return load_weights(build(plan.student, classes), store / plan.folder / kept_name(plan.recipe.epochs))


def _described(
    student: nn.Module, teacher: nn.Module, data: LabelledImages, reference: Tensor, temperatures: Sequence[float]
) -> Iterator[dict[str, Any]]:
    parts = {TRAINING: (data.train_images, data.train_labels), TEST: (data.test_images, data.test_labels)}
    for name, (images, labels) in parts.items():
        ours, its = responses(student, data, images), responses(teacher, data, images)
        for temperature in temperatures:
            quality = asdict(describe_response(its, labels, reference, temperature))
            correlation = quality.pop("similarity")
            yield {
                "images": name,
                **quality,
                "similarity": correlation["rho"],
                "similarity_p": correlation["p"],
                **asdict(fidelity(ours, its, temperature)),
            }
