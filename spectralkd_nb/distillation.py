"""One training run, with or without a teacher: steps, checkpoints, resuming, progress.

A *step* says what is learned. It is called as `step(student, teacher, images, labels)` and returns the student's logits
and a dictionary of named loss terms; `train` adds the terms up with named weights and does all the rest. A step that is
an `nn.Module` with parameters of its own, for instance a connector between feature maps, has them trained along.

A run is a function of its arguments: every batch follows from the seed, the epoch and the position in it. So a run that
was interrupted goes on from its last checkpoint to the very tensors that an unbroken run reaches, on the same machine
with the same number of threads.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb import __version__
from spectralkd_nb.datasets import LabelledImages, augment, draw_views
from spectralkd_nb.losses.logits import soft_target_loss
from spectralkd_nb.networks import build

__all__ = [
    "Labels",
    "Progress",
    "Recipe",
    "Run",
    "SoftTargets",
    "TerminalProgress",
    "default_device",
    "evaluate",
    "read_run",
    "train",
]

SCHEDULES = ("one-cycle", "step")
PRECISIONS = ("auto", "float32", "bfloat16")
PROGRESS_SECONDS = 0.25  # between two calls of a callback
CHECKPOINT, NETWORK, RECORD = "checkpoint.pt", "network.pt", "run.json"

Terms = dict[str, Tensor]
Step = Callable[[nn.Module, nn.Module | None, Tensor, Tensor], tuple[Tensor, Terms]]


# --- what is learned: two steps ------------------------------------------------------------------


class Labels(nn.Module):
    """Learning from labels alone: cross-entropy.

    Args:
        smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016, arXiv 1512.00567).
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        super().__init__()
        self.smoothing = smoothing

    def forward(
        self,
        student: nn.Module,
        teacher: nn.Module | None,  # noqa: ARG002 - every step is called alike
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Terms]:
        logits = student(images)
        return logits, {"labels": F.cross_entropy(logits, labels, label_smoothing=self.smoothing)}

    def extra_repr(self) -> str:
        return f"smoothing={self.smoothing:g}"


class SoftTargets(nn.Module):
    """Learning from labels and from a teacher's softened outputs (Hinton et al. 2015, arXiv 1503.02531).

    Args:
        temperature: T of `soft_target_loss`.
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Terms]:
        if teacher is None:
            raise ValueError("soft targets come from a teacher; pass teacher=... to train")
        logits = student(images)
        return logits, {
            "labels": F.cross_entropy(logits, labels),
            "soft targets": soft_target_loss(logits, teacher(images), self.temperature),
        }

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}"


# --- how it is learned ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a run is optimised: SGD with momentum, and what surrounds it.

    Attributes:
        epochs: passes over the training images. batch_size: images a step.
        learning_rate: of SGD; the peak of the one-cycle schedule, the start of the step schedule.
        schedule: "one-cycle" (Smith & Topin 2019, arXiv 1708.07120), up in `warm_up` of the steps and down to nothing
            along half cosines; or "step", times `decay` at the start of each epoch in `milestones`.
        momentum, nesterov, weight_decay: of SGD, on every parameter.
        clip_norm: largest norm of the gradient of all trained parameters together; None for no limit.
        augment: random shifts and mirror images, as the data set allows.
        precision: "float32", "bfloat16" (autocast), or "auto": bfloat16 on CUDA, float32 elsewhere.
        channels_last: memory layout of images and weights; several times faster on a CPU.
        compile: torch.compile student and teacher; pays off over minutes.
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

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r} is not known; choose one of {SCHEDULES}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is not known; choose one of {PRECISIONS}")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs={self.epochs}, batch_size={self.batch_size}: both must be 1 or more")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm} would stop all learning; give a positive number or None")


@dataclass(frozen=True)
class Progress:
    """What a callback is told while a run goes on.

    Attributes:
        title: student, and teacher if there is one. epoch, epochs: the epoch being worked on, from 1, and their number.
        step, steps: batches of this epoch that are done, and their number.
        losses: running mean of each loss term over the epoch so far, by name.
        accuracy: share of right answers over the epoch so far, on training images as they were seen (augmented).
        curves: one list a quantity, one value a finished epoch; see `Run`.
        seconds: of training so far, all sittings together. seconds_left: an estimate.
        done: the run is finished.
    """

    title: str
    epoch: int
    epochs: int
    step: int
    steps: int
    losses: dict[str, float]
    accuracy: float
    curves: dict[str, list[float]]
    seconds: float
    seconds_left: float
    done: bool = False


Callback = Callable[[Progress], None]


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
    network: nn.Module | None = field(default=None, repr=False, compare=False)

    def __str__(self) -> str:
        names = _title(self.pair)
        return f"{names}: {self.accuracy_last:.1f} % after {self.recipe['epochs']} epochs, {self.seconds:.0f} s"

    def as_json(self) -> str:
        """The record as one JSON object; the network is not part of it."""
        return json.dumps({k: v for k, v in asdict(replace(self, network=None)).items() if k != "network"}, indent=1)


def read_run(file: str | Path) -> Run:
    """A run's record from its JSON file, without the network."""
    return Run(**json.loads(Path(file).expanduser().read_text("utf-8")))


def default_device() -> str:
    """The device that a run uses unless told otherwise: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


# --- one run -------------------------------------------------------------------------------------


def train(
    student: nn.Module | str,
    data: LabelledImages,
    recipe: Recipe | None = None,
    *,
    teacher: nn.Module | None = None,
    step: Step | None = None,
    weights: Mapping[str, float] | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    callback: Callback | None = None,
    device: str | torch.device | None = None,
    checkpoint_seconds: float = 60.0,
    teacher_batch_statistics: bool = False,
    train_teacher: bool = False,
) -> Run:
    """Train a student, alone or from a teacher, and return the record of the run with the network in it.

    Args:
        student: a network, trained in place; or a name for `build`, with as many classes as the data.
        data: what to learn. recipe: how; `Recipe()` if None.
        teacher: network that `step` may ask. It is in eval mode and its parameters get no gradient, and afterwards it
            is as it was before.
        step: what is learned; `SoftTargets()` with a teacher, `Labels()` without.
        weights: by name of the loss terms that `step` returns; 1 for those not named.
        seed: of order, augmentation, dropout, and of the initial weights if the student is a name.
        folder: where checkpoints and the record are kept. A run that was stopped goes on from there when it is called
            again; one that is finished is read from there and not trained again. None keeps nothing.
        callback: called with a `Progress` a few times a second and after each epoch.
        device: `default_device()` if None. checkpoint_seconds: at least so long between two checkpoints.
        teacher_batch_statistics: put the teacher in train mode, so that its batch norms use, and update, the statistics
            of the batch.
        train_teacher: train the teacher's parameters too (implies train mode).

    Returns:
        `Run`, with `network` the trained student, in eval mode.

    Raises:
        ValueError: names of weights that `step` does not return, a folder that holds another run, data of no class,
            losses that are not finite.
        OSError: the folder cannot be written to, or has no room; found before training starts.
        KeyboardInterrupt: after the checkpoint of the last whole step is written.
    """
    recipe = recipe or Recipe()
    device = torch.device(device or default_device())
    if isinstance(student, str):
        student = build(student, len(data.classes), seed=seed)
    step = step or (SoftTargets() if teacher is not None else Labels())
    loop = _Loop(student, data, recipe, teacher, step, dict(weights or {}), seed, device)
    store = _Store(folder, loop.identity()) if folder is not None else None
    if store is not None and (finished := store.finished()):
        student.load_state_dict(store.load(NETWORK, device))
        return replace(finished, network=student.to(device).eval())

    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_randomness(seed, device))
        if teacher is not None:
            stack.enter_context(_teaching(teacher.to(device), teacher_batch_statistics, train_teacher))
        loop.prepare(train_teacher)
        if store is not None:
            store.require_room(loop)
            loop.restore(store)
        loop.go(store, callback, checkpoint_seconds)
    run = loop.record()
    if store is not None:
        store.finish(run, student)
    return replace(run, network=student.eval())


class _Loop:
    """The state of a run, and how it moves on by a batch."""

    def __init__(
        self,
        student: nn.Module,
        data: LabelledImages,
        recipe: Recipe,
        teacher: nn.Module | None,
        step: Step,
        weights: dict[str, float],
        seed: int,
        device: torch.device,
    ) -> None:
        if not len(data.train_labels) or not len(data.test_labels):
            raise ValueError(f"{data.name} holds no images to train or to test with")
        self.student, self.teacher, self.step = student, teacher, step
        self.data, self.recipe, self.weights = data, recipe, weights
        self.seed, self.device = seed, device
        precision = recipe.precision
        self.precision = precision if precision != "auto" else "bfloat16" if device.type == "cuda" else "float32"
        self.steps = math.ceil(len(data.train_labels) / recipe.batch_size)
        # What a checkpoint holds, beside tensors:
        self.epoch = 0  # epochs finished
        self.position = 0  # batches of the current epoch done
        self.seconds = 0.0
        self.curves: dict[str, list[float]] = {}

    def identity(self) -> dict[str, Any]:
        """What makes this run this one; a folder that holds another is not written to."""
        return {
            "pair": {"student": _name(self.student), "teacher": _name(self.teacher)},
            "method": _described(self.step),
            "weights": self.weights,
            "seed": self.seed,
            "protocol": {
                "data": self.data.name,
                "fingerprint": self.data.fingerprint,
                "train images": len(self.data.train_labels),
                "test images": len(self.data.test_labels),
                "shift": self.data.pad if self.recipe.augment else 0,
                "mirror": self.data.flip and self.recipe.augment,
                "reported": "last epoch",
            },
            "recipe": json.loads(json.dumps(asdict(self.recipe))),
        }

    def prepare(self, train_teacher: bool) -> None:
        """Put everything on the device, and make the optimiser."""
        layout = {"memory_format": torch.channels_last} if self.recipe.channels_last else {}
        self.student.to(self.device, **layout).train()
        if self.teacher is not None:
            self.teacher.to(self.device, **layout)
        trained = [self.student]
        if isinstance(self.step, nn.Module):
            trained.append(self.step.to(self.device).train())
        if train_teacher and self.teacher is not None:
            trained.append(self.teacher)
        self.trained = nn.ModuleList(trained)
        self.parameters = [p for p in self.trained.parameters() if p.requires_grad]
        recipe = self.recipe
        self.optimiser = torch.optim.SGD(
            self.parameters,
            recipe.learning_rate,
            recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
        )
        self.schedule = _schedule(self.optimiser, recipe, self.steps)
        self.on_device = self.data.to(self.device)
        self.sums: dict[str, Tensor] = {}
        # The compiled networks share their parameters with the ones that are saved.
        compiled = torch.compile if recipe.compile else lambda network: network
        self.ask_student = compiled(self.student)
        self.ask_teacher = compiled(self.teacher) if self.teacher is not None else None

    def go(self, store: _Store | None, callback: Callback | None, checkpoint_seconds: float) -> None:
        """Train to the end. An interrupt is taken between two steps, after a checkpoint."""
        started, before = time.perf_counter(), self.seconds
        saved = shown = started
        with _deferred_interrupt() as interrupted:
            while self.epoch < self.recipe.epochs:
                views = self._views()
                while self.position < self.steps:
                    self._advance(views.batch(self.position * self.recipe.batch_size, self.recipe.batch_size))
                    now = time.perf_counter()
                    self.seconds = before + now - started
                    if store is not None and (interrupted() or now - saved >= checkpoint_seconds):
                        store.checkpoint(self)
                        saved = time.perf_counter()
                    if interrupted():
                        raise KeyboardInterrupt(_going_on(store, self))
                    if callback is not None and now - shown >= PROGRESS_SECONDS:
                        callback(self._progress())
                        shown = time.perf_counter()
                self._finish_epoch(before, started)
                if store is not None and time.perf_counter() - saved >= checkpoint_seconds:
                    store.checkpoint(self)
                    saved = time.perf_counter()
                if callback is not None:
                    callback(self._progress(done=self.epoch == self.recipe.epochs))

    def _views(self):
        """Order, shifts and mirror images of the current epoch: they follow from seed and epoch alone."""
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        pad, flip = (self.data.pad, self.data.flip) if self.recipe.augment else (0, False)
        return draw_views(len(self.data.train_labels), pad, flip, generator).to(self.device)

    def _advance(self, views) -> None:
        """One batch: forward, backward, update."""
        data = self.on_device
        images, labels = data.train_images[views.order], data.train_labels[views.order]
        if self.recipe.augment:
            images = augment(images, views, self.data.pad)
        images = data.normalise(images)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits, terms = self.step(self.ask_student, self.ask_teacher, images, labels)
        loss = self._total(terms)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.optimiser.step()
        self.schedule.step()
        self.position += 1
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            for name, value in {**terms, "train accuracy": right / len(labels)}.items():
                self.sums[name] = self.sums.get(name, 0) + value.detach().double() * len(labels)

    def _total(self, terms: Terms) -> Tensor:
        unknown = set(self.weights) - set(terms)
        if unknown:
            raise ValueError(
                f"weights name {', '.join(sorted(unknown))}, and the step's loss terms are {', '.join(terms)}"
            )
        return sum(self.weights.get(name, 1.0) * term for name, term in terms.items())

    def _means(self) -> dict[str, float]:
        seen = min(self.position * self.recipe.batch_size, len(self.data.train_labels))
        return {name: float(total) / max(seen, 1) for name, total in self.sums.items()}

    def _finish_epoch(self, before: float, started: float) -> None:
        means = self._means()
        if not all(math.isfinite(value) for value in means.values()):
            raise ValueError(
                f"the loss of epoch {self.epoch + 1} is not finite; lower the learning rate or set clip_norm"
            )
        accuracy = evaluate(self.student, self.on_device, self.recipe.batch_size, precision=self.precision)
        self.seconds = before + time.perf_counter() - started
        self.epoch += 1
        self.position, self.sums = 0, {}
        means["train accuracy"] *= 100
        row = {"epoch": self.epoch, "learning rate": self.schedule.get_last_lr()[0], **means}
        for name, value in {**row, "test accuracy": accuracy, "seconds": self.seconds}.items():
            self.curves.setdefault(name, []).append(value)

    def _progress(self, done: bool = False) -> Progress:
        means = self._means()
        share = (self.epoch + self.position / self.steps) / self.recipe.epochs
        last = {name: values[-1] for name, values in self.curves.items() if name not in NOT_LOSSES}
        return Progress(
            title=_title(self.identity()["pair"]),
            epoch=min(self.epoch + 1, self.recipe.epochs),
            epochs=self.recipe.epochs,
            step=self.steps if done else self.position,
            steps=self.steps,
            losses={name: value for name, value in means.items() if name != "train accuracy"} or last,
            accuracy=100 * means["train accuracy"] if means else self.curves["train accuracy"][-1],
            curves={name: list(values) for name, values in self.curves.items()},
            seconds=self.seconds,
            seconds_left=self.seconds * (1 / share - 1) if share else math.inf,
            done=done,
        )

    def record(self) -> Run:
        curve = self.curves["test accuracy"]
        return Run(
            **self.identity(),
            accuracy_last=curve[-1],
            accuracy_best=max(curve),
            curves=self.curves,
            seconds=self.seconds,
            device=_device_name(self.device),
            threads=torch.get_num_threads(),
            precision=self.precision,
            versions={"python": platform.python_version(), "torch": torch.__version__, "spectralkd_nb": __version__},
            commit=_commit(),
        )

    # --- checkpoints ---

    def state(self) -> dict[str, Any]:
        """All that the rest of the run depends on."""
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return {
            "identity": self.identity(),
            "trained": self.trained.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "epoch": self.epoch,
            "position": self.position,
            "sums": self.sums,
            "seconds": self.seconds,
            "curves": self.curves,
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def restore(self, store: _Store) -> None:
        """Go back to the last checkpoint, if there is one."""
        state = store.load(CHECKPOINT, self.device)
        if state is None:
            return
        self.trained.load_state_dict(state["trained"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.position = state["epoch"], state["position"]
        self.sums, self.seconds, self.curves = state["sums"], state["seconds"], state["curves"]
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if state["random"]["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)


NOT_LOSSES = ("epoch", "learning rate", "train accuracy", "test accuracy", "seconds")


def _schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "step":
        milestones = [epoch * steps for epoch in recipe.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, recipe.decay)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        recipe.learning_rate,
        total_steps=recipe.epochs * steps + 1,  # the last call of step() only looks one ahead
        pct_start=recipe.warm_up,
        cycle_momentum=False,
    )


# --- evaluating ----------------------------------------------------------------------------------


def evaluate(network: nn.Module, data: LabelledImages, batch_size: int = 256, precision: str = "float32") -> float:
    """Top-1 accuracy on the test images, percent. Every module is left in the mode that it was in.

    Args:
        network: on the device of its parameters; the images are brought there.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    right = 0
    with torch.inference_mode(), _in_eval_mode(network):
        for images, labels in zip(data.test_images.split(batch_size), data.test_labels.split(batch_size), strict=True):
            batch = data.normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                right += int((network(batch).argmax(1) == labels.to(device)).sum())
    return 100 * right / len(data.test_labels)


@contextlib.contextmanager
def _in_eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def _teaching(teacher: nn.Module, batch_statistics: bool, trained: bool) -> Iterator[None]:
    """The teacher in the asked mode, and as it was before afterwards."""
    wanted = {parameter: parameter.requires_grad for parameter in teacher.parameters()}
    with _in_eval_mode(teacher):
        teacher.train(batch_statistics or trained)
        teacher.requires_grad_(trained)
        try:
            yield
        finally:
            for parameter, before in wanted.items():
                parameter.requires_grad_(before)


@contextlib.contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and the like draw from the run's seed, and the caller's generators are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """An interrupt waits for the end of the step: half an update would be no state to go on from.

    A second one is not kept waiting. Outside the main thread nothing can be deferred.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    usual = signal.getsignal(signal.SIGINT)

    def first(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, first)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


# --- progress in a terminal ----------------------------------------------------------------------


class TerminalProgress:
    """A callback for a terminal: a bar of the epoch, and a line for each epoch that is finished.

    with TerminalProgress() as progress:
        train(..., callback=progress)
    """

    def __enter__(self) -> TerminalProgress:
        from tqdm import tqdm

        self._bar = tqdm(unit="batch", dynamic_ncols=True, leave=False)
        self._epochs_said = None
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        finished = progress.curves.get("epoch", [])
        if self._epochs_said is None:  # a run that goes on does not repeat what it said before
            self._epochs_said = len(finished) - (not progress.step or progress.done)
        for i in range(self._epochs_said, len(finished)):
            values = {name: curve[i] for name, curve in progress.curves.items() if name not in ("epoch", "seconds")}
            words = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            self._bar.write(f"{progress.title}, epoch {finished[i]} of {progress.epochs}: {words}")
        self._epochs_said = len(finished)
        self._bar.total, self._bar.n = progress.steps, progress.step
        self._bar.set_description(f"{progress.title}, epoch {progress.epoch} of {progress.epochs}", refresh=False)
        self._bar.set_postfix_str(f"{describe_progress(progress)}, {in_words(progress.seconds_left)} left")


def describe_progress(progress: Progress) -> str:
    """Losses by name and the training accuracy, in one line."""
    return ", ".join([*(f"{k} {v:.3f}" for k, v in progress.losses.items()), f"accuracy {progress.accuracy:.1f} %"])


def in_words(seconds: float) -> str:
    """A duration as a person says it: 45 s, 12 min, 3.5 h."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


# --- what is kept on disk ------------------------------------------------------------------------


class _Store:
    """A folder with the checkpoint of an unfinished run, or with the record and the network of a finished one."""

    def __init__(self, folder: str | Path, identity: dict[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        self.identity = identity

    def finished(self) -> Run | None:
        record = self.folder / RECORD
        if not record.exists():
            return None
        run = read_run(record)
        self._require_same({key: getattr(run, key) for key in self.identity})
        return run

    def load(self, name: str, device: torch.device) -> Any:
        """What `name` holds, read without executing anything; None if it is not there."""
        path = self.folder / name
        if not path.exists():
            return None
        state = torch.load(path, map_location=device, weights_only=True)
        if name == CHECKPOINT:
            self._require_same(state["identity"])
        return state

    def _require_same(self, kept: dict[str, Any]) -> None:
        differ = [key for key in self.identity if kept[key] != self.identity[key]]
        if differ:
            raise ValueError(
                f"{self.folder} holds another run, which differs in {', '.join(differ)}; give each run a folder of its "
                "own, or delete this one"
            )

    def require_room(self, loop: _Loop) -> None:
        """Find out before training whether checkpoints can be written: two exist for a moment while one is replaced."""
        tensors = [*loop.trained.state_dict().values(), *loop.parameters]  # the momentum is as large as the parameters
        size = sum(t.numel() * t.element_size() for t in tensors) + 2**20
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                for _ in range(1 if (self.folder / CHECKPOINT).exists() else 2):
                    probe = stack.enter_context(tempfile.NamedTemporaryFile(dir=self.folder, prefix=".room-"))
                    for start in range(0, size, 2**20):
                        probe.write(bytes(min(2**20, size - start)))
                    probe.flush()
        except OSError as error:
            raise type(error)(
                error.errno,
                f"checkpoints of {size / 2**20:.0f} MB cannot be kept ({error.strerror}); choose another folder, or "
                "folder=None to keep nothing",
                str(self.folder),
            ) from None

    def checkpoint(self, loop: _Loop) -> None:
        _write_whole(self.folder / CHECKPOINT, lambda file: torch.save(loop.state(), file))

    def finish(self, run: Run, network: nn.Module) -> None:
        """The network first: the record is what says that the run is finished."""
        _write_whole(self.folder / NETWORK, lambda file: torch.save(network.state_dict(), file))
        _write_whole(self.folder / RECORD, lambda file: file.write(run.as_json().encode()))
        (self.folder / CHECKPOINT).unlink(missing_ok=True)


def _write_whole(path: Path, write: Callable[[Any], Any]) -> None:
    """Write a file so that whoever looks, whenever, finds the old one or the new one, and never half of one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# --- names ---------------------------------------------------------------------------------------


def _name(network: nn.Module | None) -> str | None:
    return None if network is None else getattr(network, "name", type(network).__name__)


def _title(pair: Mapping[str, str | None]) -> str:
    return pair["student"] if pair["teacher"] is None else f"{pair['student']} from {pair['teacher']}"


def _described(step: Step) -> str:
    return repr(step) if isinstance(step, nn.Module) else getattr(step, "__name__", type(step).__name__)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _going_on(store: _Store | None, loop: _Loop) -> str:
    if store is None:
        return "the run was stopped; nothing was kept, because it has no folder"
    return f"the run was stopped in epoch {loop.epoch + 1}; the same call goes on from here"


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, with a + if files were changed since; None elsewhere."""
    try:
        command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
        here = Path(__file__).resolve().parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
