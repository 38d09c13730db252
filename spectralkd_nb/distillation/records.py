"""How a run is done, and what is written down of it."""

from __future__ import annotations

import functools
import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from spectralkd_nb.storage import Damaged

SCHEDULES = ("one-cycle", "step")
RECIPES = ("quick", "fast", "crd")
PRECISIONS = ("auto", "float32", "bfloat16")
PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Recipe:
    """How a run is optimised: SGD with momentum, and what surrounds it.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
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
        ValueError: a setting that nobody can follow; the sentence names it and says what is possible.
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
        if np.iterable(self.milestones) and not isinstance(self.milestones, str):
            object.__setattr__(self, "milestones", tuple(map(plain, self.milestones)))
        for name, possible, wanted in self._demands():
            if not possible:
                raise ValueError(f"{name}={getattr(self, name)!r} {wanted}")

    def _demands(self) -> Iterator[tuple[str, bool, str]]:
        """Each setting, whether it can be followed, and what is said if not."""
        yield "schedule", self.schedule in SCHEDULES, f"is not known; choose one of {SCHEDULES}"
        yield "precision", self.precision in PRECISIONS, f"is not known; choose one of {PRECISIONS}"
        for name in ("epochs", "batch_size"):
            yield name, _is_count(getattr(self, name)), "is not possible; give a whole number from 1 on"
        for name in ("learning_rate", "decay"):
            yield name, is_number(getattr(self, name), above=0), "is not possible; give a positive number"
        yield "warm_up", is_number(self.warm_up) and 0 <= self.warm_up <= 1, "is not possible; give a share of 0 to 1"
        steady = is_number(self.momentum) and 0 <= self.momentum < 1 and not (self.nesterov and self.momentum == 0)
        yield "momentum", steady, "is not possible; give a number from 0 to below 1, above 0 with nesterov"
        decays = is_number(self.weight_decay) and self.weight_decay >= 0
        yield "weight_decay", decays, "is not possible; give 0 or a positive number"
        clips = self.clip_norm is None or is_number(self.clip_norm, above=0)
        yield "clip_norm", clips, "is not possible; give a positive number, or None for no limit"
        listed = isinstance(self.milestones, tuple) and all(map(_is_count, self.milestones))
        enough = listed and (self.schedule != "step" or len(self.milestones) > 0)
        yield "milestones", enough, "is not possible; list whole epochs from 1 on, one or more for schedule='step'"
        for name in ("nesterov", "augment", "channels_last", "compile"):
            yield name, isinstance(getattr(self, name), bool), "is not possible; give True or False"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def is_number(value: Any, above: float = -math.inf) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value < math.inf


def plain(value: Any) -> Any:
    """A number of Python's where one of numpy's is given, which would not go into a record or a checkpoint."""
    return value.item() if isinstance(value, np.generic) else value


@dataclass(frozen=True)
class Run:
    """The record of a finished run, as its JSON file holds it.

    Attributes:
        pair: {"student": name, "teacher": name or None}.
        method: the step, as Python shows it.
        weights: of its terms.
        seed: of initialisation (where the student was built here), order, augmentation and dropout.
        protocol: data set, its fingerprint and sizes, augmentation, and which epoch is reported.
        recipe: see `Recipe`.
        accuracy_last: top-1 accuracy on the test images after the last epoch, percent. The headline.
        accuracy_best: of the best epoch, chosen on the test images: optimistic, and here for comparison only.
        curves: "epoch", "learning rate", "train accuracy", "test accuracy" (percent), "seconds", and each loss term.
        seconds: of training and testing, all sittings together.
        device, threads, precision: where it ran.
        versions: of Python, torch and this package.
        commit: of the code, if it is a git checkout.
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
        ValueError: the file is damaged.
        OSError: it cannot be read.
    """
    file = Path(file).expanduser()
    try:
        return Run(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError):
        raise damaged(file) from None


@functools.cache  # a process goes on with the code that it has loaded, whatever is committed meanwhile
def commit(package: Path = PACKAGE) -> str | None:
    """The commit of the checkout that tracks this package, with a + if files were changed since; None elsewhere."""
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")  # not of a project that it is only installed in
        return _git(package, "describe", "--always", "--dirty=+", "--abbrev=12") or None
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def damaged(what: str | Path) -> Damaged:
    """What is raised of a file, or a line of one, that is not as this package has written it."""
    return Damaged(f"{what} is damaged and cannot be read; delete it")


def losses_of(curves: Mapping[str, list[float]]) -> dict[str, list[float]]:
    """Of a run's curves those of loss terms."""
    others = ("epoch", "learning rate", "train accuracy", "test accuracy", "seconds")
    return {name: values for name, values in curves.items() if name not in others}


def title_of(pair: Mapping[str, str | None]) -> str:
    return pair["student"] if pair["teacher"] is None else f"{pair['student']} from {pair['teacher']}"
