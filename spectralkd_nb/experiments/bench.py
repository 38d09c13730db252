"""One run of a grid from its plan, and what runs share: data sets and teachers, each read once."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages, open_dataset
from spectralkd_nb.distillation import Run, distributed, train
from spectralkd_nb.distillation.progress import Callback
from spectralkd_nb.experiments.methods import method_step
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.experiments.records import Record
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.weights import fingerprint_of

TeacherKey = tuple[str | None, str | None, str]  # network, weights and data


@dataclass
class Bench:
    """What runs of one grid share: data sets and teachers, each read once.

    Attributes:
        data, teachers: what was read.
        store: folder of runs, some of which may have trained a teacher.
        fingerprints: of those teachers that runs were compared with.
    """

    data: dict[tuple[str, int], LabelledImages] = field(default_factory=dict)
    teachers: dict[TeacherKey, nn.Module] = field(default_factory=dict)
    store: Path | None = None
    fingerprints: dict[TeacherKey, str] = field(default_factory=dict)

    def data_of(self, plan: Plan) -> LabelledImages:
        name, every = plan.setting["data"], plan.setting["held_out"]
        if (name, every) not in self.data:
            whole = open_dataset(name)
            self.data[name, every] = whole.held_out(every) if every else whole
        return self.data[name, every]

    def teacher_of(self, plan: Plan) -> nn.Module | None:
        """A copy for each run: `train` moves it to a device and into another memory layout, where rounding differs."""
        if plan.teacher is None:
            return None
        self.load(plan)
        return copy.deepcopy(self.teachers[teacher_key(plan)])

    def load(self, plan: Plan) -> None:
        """Read what the run needs, if it is not here yet."""
        classes, key = len(self.data_of(plan).classes), teacher_key(plan)
        if plan.teacher is None or key in self.teachers:
            return
        if plan.teacher_weights:
            teacher = load_weights(build(plan.teacher, classes), self._file(plan.teacher_weights))
        elif not plan.data_name:  # of a plan that no grid has checked
            raise ValueError(f"data={plan.setting['data']!r} has no name to find weights by; give teacher_weights")
        else:
            teacher = build(plan.teacher, classes, pretrained=plan.data_name)
        self.teachers[key] = teacher.eval()

    def _file(self, weights: str) -> Path:
        """A file of weights: kept by a run of the store, by its folder's name and its own, or anywhere else."""
        if self.store is not None and (self.store / weights).exists():
            return self.store / weights
        return Path(weights).expanduser()

    def forget_teachers(self) -> None:
        """They are read again when the next run needs one."""
        self.teachers.clear()
        self.fingerprints.clear()

    def require_same(self, records: Iterable[Record]) -> None:
        """Refuse finished runs of other data, or of another teacher, than those of the same names that are loaded.

        Raises:
            ValueError: the store holds such a run.
        """
        for record in records:
            plan, protocol = record.plan, record.run.protocol
            data = self.data.get((plan.setting["data"], plan.setting["held_out"]))
            teacher = self._fingerprint(teacher_key(plan))
            if data is not None and protocol.get("fingerprint") != data.fingerprint:
                other = f"on other data than {plan.setting['data']} holds now"
            elif teacher is not None and protocol.get("teacher fingerprint") != teacher:
                other = f"from another {plan.teacher} than the one that is there now"
            else:
                continue
            raise ValueError(
                f"the run in {self.store / plan.folder} was trained {other}; delete it, or give this grid another store"
            )

    def _fingerprint(self, key: TeacherKey) -> str | None:
        """Of a teacher that is loaded, hashed once; None of one that is not."""
        if key not in self.fingerprints and key in self.teachers:
            self.fingerprints[key] = fingerprint_of(self.teachers[key].state_dict())
        return self.fingerprints.get(key)


def teacher_key(plan: Plan) -> TeacherKey:
    return plan.teacher, plan.teacher_weights, plan.setting["data"]


def do_run(
    plan: Plan,
    folder: str | Path | None,
    *,
    callback: Callback | None = None,
    device: str | torch.device | None = None,
    bench: Bench | None = None,
) -> Run:
    """One run from its plan, which is all that it depends on; finished, cut off or new, as `train` finds it.

    Args:
        plan: see `Plan`.
        folder: where it is kept; None keeps nothing.
        callback, device: as for `train`.
        bench: data sets and teachers that were read before; None reads them.

    Returns:
        as `train`.

    Raises:
        ValueError, OSError: what `train`, `method_step` and the readers of data and weights raise.
    """
    with distributed.agreed():
        return train(**arguments_of(plan, folder, callback, bench or Bench()), device=device)


def arguments_of(plan: Plan, folder: str | Path | None, callback: Callback | None, bench: Bench) -> dict[str, Any]:
    """What `train` is asked for, by the names of its arguments."""
    data, teacher = bench.data_of(plan), bench.teacher_of(plan)
    student = build(plan.student, len(data.classes), seed=plan.seed)
    step, weights = method_step(plan.terms, student, teacher, data, plan.seed)
    return {
        "student": student,
        "data": data,
        "recipe": plan.recipe,
        "teacher": teacher,
        "step": step,
        "weights": weights,
        "seed": plan.seed,
        "folder": folder,
        "callback": callback,
        "keep_epochs": plan.keep_epochs if folder is not None else (),
    }
