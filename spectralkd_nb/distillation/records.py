"""How a run is done, and what is written down of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

SCHEDULES = ("one-cycle", "step")
RECIPES = ("quick", "fast", "crd")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """How a run is optimised: SGD with momentum, and what surrounds it.

    Attributes:
        epochs: passes over the training images. batch_size: images a step.
        learning_rate: of SGD; the peak of the one-cycle schedule, the start of the step schedule.
        schedule: "one-cycle" (Smith & Topin 2019, arXiv 1708.07120), up in `warm_up` of the steps, 0..1, and down to
            nothing along half cosines; or "step", times `decay` after each of the `milestones`, in whole epochs.
        momentum, nesterov, weight_decay: of SGD, on every parameter.
        clip_norm: largest norm of the gradient of all trained parameters together; None for no limit.
        augment: random shifts and mirror images, as the data set allows.
        precision: "float32", "bfloat16" (autocast), or "auto": bfloat16 on CUDA, float32 elsewhere.
        channels_last: memory layout of images and weights; several times faster on a CPU.
        compile: torch.compile student and teacher; pays off over minutes.

    Raises:
        ValueError: an unknown schedule or precision; epochs or a batch size below 1; a clip_norm that is not positive.
    """

    epochs: int = 12
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "one-cycle"
    warm_up: float = 0.3
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    clip_norm: float | None = None
    augment: bool = True
    precision: str = "auto"
    channels_last: bool = True
    compile: bool = False

    @classmethod
    def quick(cls, **changes: Any) -> Recipe:
        """The recipe of the task that needs no download, `open_dataset("photographs")`: seconds on two cores.

        Small batches, and images as they are: with it "vgg8x0.0625" has converged, in that twice the epochs gain less
        than a point. CONTRIBUTING.md has the measurements.
        """
        return cls(**{"epochs": 30, "batch_size": 32, "augment": False, **changes})

    @classmethod
    def crd(cls, **changes: Any) -> Recipe:
        """The recipe of the benchmark that most papers compare with: 240 epochs on CIFAR-100 (Tian et al. 2020).

        arXiv 1910.10699 and its code: batches of 64, learning rate 0.05, a tenth at epochs 150, 180 and 210, weight
        decay 5e-4, momentum without Nesterov's look ahead.
        """
        rate = {"learning_rate": 0.05, "schedule": "step", "milestones": (150, 180, 210), "decay": 0.1}
        return cls(**{"epochs": 240, "batch_size": 64, "nesterov": False, **rate, **changes})

    @classmethod
    def fast(cls, **changes: Any) -> Recipe:
        """One cycle of 60 epochs in batches of 500, for CIFAR on a GPU: minutes where `crd` takes hours.

        500 divides the training images, so that every step is of one size. The learning rate is half of what the linear
        rule makes of 0.2 at 128 (Goyal et al. 2017, arXiv 1706.02677): with all of it, losses that compare features
        behind connectors diverge.
        """
        return cls(**{"epochs": 60, "batch_size": 500, "learning_rate": 0.4, **changes})

    @classmethod
    def named(cls, name: str, **changes: Any) -> Recipe:
        """The recipe called "quick", "fast" or "crd", with changes.

        Raises:
            ValueError: no recipe has this name.
        """
        if name not in RECIPES:
            raise ValueError(f"there is no recipe {name!r}; there are {', '.join(map(repr, RECIPES))}")
        return getattr(cls, name)(**changes)

    def __post_init__(self) -> None:
        for setting in fields(self):
            object.__setattr__(self, setting.name, plain(getattr(self, setting.name)))
        object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} is not known; choose one of {SCHEDULES}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not known; choose one of {PRECISIONS}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs={self.epochs}, batch_size={self.batch_size}: both must be 1 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm} would stop all learning; give a positive number or None")


def plain(value: Any) -> Any:
    """A number of Python's where one of numpy's is given, which would not go into a record or a checkpoint."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Run:
    """The record of a finished run, as its JSON file holds it.

    Attributes:
        pair: {"student": name, "teacher": name or None}. method: the step, as Python shows it. weights: of its terms.
        seed: of initialisation (where the student was built here), order, augmentation and dropout.
        protocol: data set, its fingerprint and sizes, augmentation, and which epoch is reported.
        recipe: see `Recipe`.
        accuracy_last: top-1 accuracy on the test images after the last epoch, percent. The headline.
        accuracy_best: of the best epoch, chosen on the test images: optimistic, and here for comparison only.
        curves: "epoch", "learning rate", "train accuracy", "test accuracy" (percent), "seconds", and each loss term.
        seconds: of training and testing, all sittings together. device, threads, precision: where it ran.
        versions: of Python, torch and this package. commit: of the code, if it is a git checkout.
        together: how many runs were trained at once on the device; the seconds are then those of all of them.
        processes: how many processes shared each batch; with more than one, batch norms saw a share of it.
        network: the trained student in eval mode; None where the record was read from a file.
    """

    pair: dict[str, str | None]
    method: str
    weights: dict[str, float]
    seed: int
    protocol: dict[str, Any]
    recipe: dict[str, Any]
    accuracy_last: float
    accuracy_best: float
    curves: dict[str, list[float]]
    seconds: float
    device: str
    threads: int
    precision: str
    versions: dict[str, str]
    commit: str | None
    together: int = 1
    processes: int = 1
    network: nn.Module | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        names = title_of(self.pair)
        return f"{names}: {self.accuracy_last:.1f} % after {self.recipe['epochs']} epochs, {self.seconds:.0f} s"

    def as_json(self) -> str:
        """The record as one JSON object; the network is not part of it."""
        return json.dumps({k: v for k, v in asdict(replace(self, network=None)).items() if k != "network"}, indent=1)


def read_run(file: str | Path) -> Run:
    """A run's record from its JSON file, without the network.

    Raises:
        ValueError: the file is damaged. OSError: it cannot be read.
    """
    file = Path(file).expanduser()
    try:
        return Run(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError):
        raise damaged(file) from None


def damaged(what: str | Path) -> ValueError:
    """What is raised of a file, or a line of one, that is not as this package has written it."""
    return ValueError(f"{what} is damaged and cannot be read; delete it")


def losses_of(curves: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Of a run's curves those of loss terms."""
    others = ("epoch", "learning rate", "train accuracy", "test accuracy", "seconds")
    return {name: values for name, values in curves.items() if name not in others}


def title_of(pair: Mapping[str, str | None]) -> str:
    return pair["student"] if pair["teacher"] is None else f"{pair['student']} from {pair['teacher']}"
