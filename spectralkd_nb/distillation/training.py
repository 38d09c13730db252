"""The loop: one training run, with or without a teacher."""

from __future__ import annotations

import contextlib
import json
import math
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectralkd_nb import __version__
from spectralkd_nb.datasets import LabelledImages, Views, augment, draw_views
from spectralkd_nb.distillation.evaluation import evaluate, teaching
from spectralkd_nb.distillation.progress import Callback, Progress
from spectralkd_nb.distillation.records import Recipe, Run, losses_of, plain, title_of
from spectralkd_nb.distillation.steps import CrossEntropy, SoftTargets, Step, Terms, described
from spectralkd_nb.distillation.store import CHECKPOINT, TRAINED, RunStore
from spectralkd_nb.networks import build
from spectralkd_nb.networks.weights import fingerprint_of, randomness_kept

PROGRESS_SECONDS = 0.25  # between two calls of a callback


def default_device() -> str:
    """The device that a run uses unless told otherwise: "cuda", "mps" or "cpu"."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


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
    keep_epochs: Sequence[int] = (),
    teacher_batch_statistics: bool = False,
    train_teacher: bool = False,
) -> Run:
    """Train a student, alone or from a teacher, and return the record of the run with the network in it.

    Args:
        student: a network, trained in place; or a name for `build`, with as many classes as the data.
        data: what to learn. recipe: how; `Recipe()` if None.
        teacher: network that `step` may ask. It is in eval mode and its parameters get no gradient; afterwards its
            modes and what wants gradients are as before, and it is on the run's device.
        step: what is learned; `SoftTargets()` with a teacher, `CrossEntropy()` without.
        weights: by name of the loss terms that `step` returns; 1 for those not named.
        seed: of order, augmentation, dropout, and of the initial weights if the student is a name.
        folder: where checkpoints and the record are kept. A run that was stopped goes on from there when it is called
            again; one that is finished is read from there and not trained again. None keeps nothing.
        callback: called with a `Progress` a few times a second and after each epoch.
        device: `default_device()` if None. checkpoint_seconds: at least so long between two checkpoints.
        keep_epochs: after these epochs the student's weights are also written into the folder, in half precision, as
            `epoch_004.safetensors`, and what a step has learned as `epoch_004_step.safetensors`: what a lesson needs
            that looks at a training from its beginning.
        teacher_batch_statistics: put the teacher in train mode, so that its batch norms use, and update, the statistics
            of the batch.
        train_teacher: train the teacher's parameters too (implies train mode).

    Returns:
        `Run`, with `network` the trained student, in eval mode; a step that is a module is in eval mode too.

    Raises:
        ValueError: names of weights that `step` does not return, a folder that holds another run or a damaged one,
            epochs that the run does not have or that it is past and has not kept, no images, losses that are not
            finite.
        OSError: the folder cannot be written to, or has no room; found before training starts. BlockingIOError, which
            is one: another process trains in it.
        KeyboardInterrupt: after the checkpoint of the last whole step is written.

    Whatever ends a run before its end, the student (and what else is trained) then has the weights that it came with:
    what was learned is in the folder, and the same call goes on from there.
    """
    recipe, seed = recipe or Recipe(), int(seed)
    device = torch.device(device or default_device())
    if isinstance(student, str):
        student = build(student, len(data.classes), seed=seed)
    step = step or (SoftTargets() if teacher is not None else CrossEntropy())
    # Plain numbers: a checkpoint with numpy's could not be read back safely.
    weights = {str(name): float(weight) for name, weight in (weights or {}).items()}
    how = {"teacher batch statistics": bool(teacher_batch_statistics), "teacher trained": bool(train_teacher)}
    loop = _Loop(student, data, recipe, teacher, step, weights, seed, device, how)
    keep_epochs = _checked_epochs(keep_epochs, recipe, folder)
    store = RunStore(folder, loop.identity()) if folder is not None else None
    loop.prepare(train_teacher)
    with contextlib.ExitStack() as stack:
        finished = store.finished(device) if store is not None else None
        if store is not None and finished is None:
            stack.enter_context(store.alone())
            finished = store.finished(device)  # by another process, since
        if finished is not None:
            loop.trained.load_state_dict(store.load(TRAINED, device))
            store.require_kept(keep_epochs)
            return replace(finished, network=_put_in_eval_mode(student, step))
        stack.enter_context(_own_randomness(seed))
        stack.enter_context(_all_or_nothing(loop.trained))
        if teacher is not None:
            stack.enter_context(teaching(teacher, teacher_batch_statistics, train_teacher))
        if store is not None:
            store.require_room(loop.size())
            loop.restore(store, keep_epochs)
        stopped = loop.go(store, callback, checkpoint_seconds, keep_epochs)
        run = loop.record()
        if store is not None:
            store.finish(run, loop.trained)
    if stopped:
        raise KeyboardInterrupt("the run was stopped as it ended; it is finished")
    return replace(run, network=_put_in_eval_mode(student, step))


def _put_in_eval_mode(student: nn.Module, step: Step) -> nn.Module:
    """The student; it and what the step has learned are asked from now on, and not trained."""
    if isinstance(step, nn.Module):
        step.eval()
    return student.eval()


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
        how: dict[str, bool],
    ) -> None:
        if not len(data.train_labels) or not len(data.test_labels):
            raise ValueError(f"{data.name} holds no images to train or to test with")
        self.student, self.teacher, self.step = student, teacher, step
        self.data, self.recipe, self.weights = data, recipe, weights
        self.seed, self.device, self.how = seed, device, how
        self.pair = {"student": _name(student), "teacher": _name(teacher)}
        self.came_with = {
            "student fingerprint": fingerprint_of(student.state_dict()),
            "teacher fingerprint": None if teacher is None else fingerprint_of(teacher.state_dict()),
        }
        self.precision = _precision(device) if recipe.precision == "auto" else recipe.precision
        self.steps = math.ceil(len(data.train_labels) / recipe.batch_size)
        # What a checkpoint holds, beside tensors:
        self.epoch = 0  # epochs finished
        self.position = 0  # batches of the current epoch done
        self.seconds = 0.0
        self.rate = 0.0  # the learning rate of the last step
        self.curves: dict[str, list[float]] = {}

    def identity(self) -> dict[str, Any]:
        """What makes this run this one; a folder that holds another is not written to."""
        return {
            "pair": self.pair,
            "method": described(self.step),
            "weights": self.weights,
            "seed": self.seed,
            "protocol": {
                "data": self.data.name,
                "fingerprint": self.data.fingerprint,
                "train images": len(self.data.train_labels),
                "test images": len(self.data.test_labels),
                "shift": self.data.pad if self.recipe.augment else 0,
                "mirror": self.data.flip and self.recipe.augment,
                **self.came_with,
                **self.how,
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

    def go(
        self,
        store: RunStore | None,
        callback: Callback | None,
        checkpoint_seconds: float,
        keep_epochs: Sequence[int],
    ) -> bool:
        """Train to the end. An interrupt is taken between two steps, after a checkpoint.

        Returns:
            whether an interrupt came too late to stop anything.
        """
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
                        store.checkpoint(self.state())
                        saved = time.perf_counter()
                    if interrupted():
                        raise KeyboardInterrupt(_going_on(store, self))
                    if callback is not None and now - shown >= PROGRESS_SECONDS:
                        callback(self._progress())
                        shown = time.perf_counter()
                self._finish_epoch(before, started)
                # Before the checkpoint: a run that goes on behind an epoch has its weights.
                if store is not None and self.epoch in keep_epochs:
                    store.keep(self.epoch, self.student, self.step if isinstance(self.step, nn.Module) else None)
                done = self.epoch == self.recipe.epochs
                if store is not None and (interrupted() or time.perf_counter() - saved >= checkpoint_seconds):
                    store.checkpoint(self.state())
                    saved = time.perf_counter()
                if callback is not None:
                    callback(self._progress(done=done))
                if interrupted() and not done:
                    raise KeyboardInterrupt(_going_on(store, self))
            return interrupted()

    def _views(self) -> Views:
        """Order, shifts and mirror images of the current epoch: they follow from seed and epoch alone."""
        state = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)
        generator = torch.Generator().manual_seed(int(state[0]))
        pad, flip = (self.data.pad, self.data.flip) if self.recipe.augment else (0, False)
        return draw_views(len(self.data.train_labels), pad, flip, generator).to(self.device)

    def _advance(self, views: Views) -> None:
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
        self.rate = self.optimiser.param_groups[0]["lr"]
        self.optimiser.step()
        self.schedule.step()
        self.position += 1
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum()
            for name, value in {**terms, "train accuracy": right / len(labels)}.items():
                self.sums[name] = self.sums.get(name, 0) + value.detach().float() * len(labels)

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
        accuracy = evaluate(self.student, self.on_device, precision=self.precision)
        self.seconds = before + time.perf_counter() - started
        self.epoch += 1
        self.position, self.sums = 0, {}
        means["train accuracy"] *= 100
        row = {"epoch": self.epoch, "learning rate": self.rate, **means}
        for name, value in {**row, "test accuracy": accuracy, "seconds": self.seconds}.items():
            self.curves.setdefault(name, []).append(value)

    def _progress(self, done: bool = False) -> Progress:
        means = self._means()
        share = (self.epoch + self.position / self.steps) / self.recipe.epochs
        last = {name: values[-1] for name, values in losses_of(self.curves).items()}
        return Progress(
            title=title_of(self.pair),
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
            "rate": self.rate,
            "sums": self.sums,
            "seconds": self.seconds,
            "curves": self.curves,
            "precision": self.precision,
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def size(self) -> int:
        """Bytes that a checkpoint will take, a little too many."""
        tensors = [*self.trained.state_dict().values(), *self.parameters]  # the momentum is as large as the parameters
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 2**20

    def restore(self, store: RunStore, keep_epochs: Sequence[int]) -> None:
        """Go back to the last checkpoint, if there is one.

        Raises:
            ValueError: it is past an epoch that is asked for and was not kept, or what `RunStore.load` refuses.
        """
        state = store.load(CHECKPOINT, self.device)
        if state is None:
            return
        done = state["epoch"]
        store.require_kept([epoch for epoch in keep_epochs if epoch <= done], f"past epoch {done}")
        # As it began, whatever this device would choose: the record tells one precision.
        self.precision = state.get("precision", self.precision)
        self.trained.load_state_dict(state["trained"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.position, self.rate = state["epoch"], state["position"], state["rate"]
        self.sums, self.seconds, self.curves = state["sums"], state["seconds"], state["curves"]
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if state["random"]["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)


def _checked_epochs(epochs: Sequence[int], recipe: Recipe, folder: str | Path | None) -> list[int]:
    """The epochs to keep, as whole numbers of Python's."""
    if isinstance(epochs, str) or not np.iterable(epochs):
        raise ValueError(f"keep_epochs={epochs!r} is no list; name epochs, for example keep_epochs=[1, 4]")
    epochs = [plain(epoch) for epoch in epochs]
    if epochs and folder is None:
        raise ValueError("keep_epochs writes into the run's folder; name one")
    if strange := [epoch for epoch in epochs if type(epoch) is not int or not 1 <= epoch <= recipe.epochs]:
        raise ValueError(f"keep_epochs names epoch {strange[0]}, and the run has epochs 1 to {recipe.epochs}")
    return epochs


def _schedule(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "step":
        milestones = [epoch * steps for epoch in recipe.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, recipe.decay)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        recipe.learning_rate,
        total_steps=recipe.epochs * steps + 1,  # the last call of step() only looks one ahead
        pct_start=recipe.warm_up * (1 + 1e-9),  # a warm-up of exactly one step would divide by zero
        cycle_momentum=False,
    )


@contextlib.contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Dropout and the like draw from the run's seed, and the caller's generators are left as they were."""
    with randomness_kept():
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def _all_or_nothing(trained: nn.Module) -> Iterator[None]:
    """What ends early leaves the weights as they came, or the same call would begin with half a training."""
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    try:
        yield
    except BaseException:
        trained.load_state_dict(before)
        raise


def _precision(device: torch.device) -> str:
    # Cards that only emulate bfloat16, such as Colab's T4, have no convolutions in it.
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


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
    if usual in (signal.SIG_IGN, None):  # a job in the background, which nobody's key is meant for
        yield pressed.is_set
        return

    def first(*_: object) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, first)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, usual)


# --- names ---------------------------------------------------------------------------------------


def _name(network: nn.Module | None) -> str | None:
    if network is None:
        return None
    return network.info.name if hasattr(network, "info") else type(network).__name__


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _going_on(store: RunStore | None, loop: _Loop) -> str:
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
