"""The state of one training run, and how it moves on by a batch."""

from __future__ import annotations

import copy
import json
import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spectralkd_nb import __version__
from spectralkd_nb.datasets import LabelledImages, Views, augment, draw_views
from spectralkd_nb.distillation import distributed
from spectralkd_nb.distillation.evaluation import evaluate
from spectralkd_nb.distillation.graphs import Graphed
from spectralkd_nb.distillation.progress import Progress
from spectralkd_nb.distillation.records import Recipe, Run, commit, losses_of, title_of
from spectralkd_nb.distillation.steps import Step, Terms, described
from spectralkd_nb.distillation.store import CHECKPOINT, RunStore
from spectralkd_nb.networks.layers import left_alone
from spectralkd_nb.networks.weights import fingerprint_of, randomness_kept

Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W) as networks take them, labels (B,)
TESTED_AT_ONCE = {"cpu": 256}  # images; a GPU takes more
TESTED_ON_A_GPU = 2000


class Batches:
    """The batches of a run, each of which follows from the seed, the epoch and its position alone.

    Args:
        data: on the device of the training.
        recipe, seed: of the run.
    """

    def __init__(self, data: LabelledImages, recipe: Recipe, seed: int) -> None:
        self.data, self.recipe, self.seed = data, recipe, seed
        self._epoch, self._views = -1, None

    def at(self, epoch: int, position: int) -> Batch:
        """The batch at a position of an epoch, both from 0, on the data's device; this process's share of it."""
        data, size = self.data, self.recipe.batch_size
        views = self._views_of(epoch).batch(position * size, size)
        views = views.part(distributed.share_of_batch(len(views.order)))
        images, labels = data.train_images[views.order], data.train_labels[views.order]
        if self.recipe.augment:
            images = augment(images, views, data.pad)
        images = data.normalise(images)
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, labels

    def _views_of(self, epoch: int) -> Views:
        """Order, shifts and mirror images of an epoch."""
        if epoch != self._epoch:
            state = np.random.SeedSequence((self.seed, epoch)).generate_state(1)
            generator = torch.Generator().manual_seed(int(state[0]))
            pad, flip = (self.data.pad, self.data.flip) if self.recipe.augment else (0, False)
            views = draw_views(len(self.data.train_labels), pad, flip, generator)
            self._epoch, self._views = epoch, views.to(self.data.train_images.device)
        return self._views


class Loop:
    """The state of a run, and how it moves on by a batch.

    Arguments are those of `train`; how: what else the record tells of them. graphs: only heeded on a CUDA device, and
    with one process.
    """

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
        graphs: bool = True,
    ) -> None:
        if not len(data.train_labels) or not len(data.test_labels):
            raise ValueError(f"{data.name} holds no images to train or to test with")
        self.student, self.teacher, self.step = student, teacher, step
        self.data, self.recipe, self.weights = data, recipe, weights
        self.seed, self.device, self.how = seed, device, how
        self.graphs = graphs and device.type == "cuda" and not recipe.compile and distributed.alone()
        self.pair = {"student": _name(student), "teacher": _name(teacher)}
        self.came_with = {
            "student fingerprint": fingerprint_of(student.state_dict()),
            "teacher fingerprint": None if teacher is None else fingerprint_of(teacher.state_dict()),
        }
        self.precision = precision_of(device) if recipe.precision == "auto" else recipe.precision
        self.steps = math.ceil(len(data.train_labels) / recipe.batch_size)
        self.commit = commit()  # now: at the end of a long run the checkout may be another
        # What a checkpoint holds, beside tensors:
        self.epoch = 0  # epochs finished
        self.position = 0  # batches of the current epoch done
        self.seconds = 0.0
        self.rate = 0.0  # the learning rate of the last step
        self.sums: dict[str, Tensor] = {}  # of the current epoch
        self.curves: dict[str, list[float]] = {}
        self._clock_at = time.perf_counter()
        # What `prepare` makes, and of it what `close` lets go:
        self.on_device: LabelledImages
        self.trained: nn.ModuleList
        self.parameters: list[nn.Parameter]
        self.optimiser: torch.optim.Optimizer
        self.schedule: torch.optim.lr_scheduler.LRScheduler
        self.ask_student: nn.Module | None
        self.ask_teacher: nn.Module | None
        self.look: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Terms]] | None
        self.differentiate: Callable[[Tensor, Tensor], Terms] | None

    def start_clock(self) -> None:
        self._clock_at = time.perf_counter()

    def clock(self) -> None:
        """Count the time since the clock was last looked at."""
        now = time.perf_counter()
        self.seconds += now - self._clock_at
        self._clock_at = now

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

    def prepare(self, train_teacher: bool, on_device: LabelledImages) -> None:
        """Put everything on the device, and make the optimiser. on_device: the data, already there."""
        layout = {"memory_format": torch.channels_last} if self.recipe.channels_last else {}
        self.student.to(self.device, **layout).train()
        _require_an_output_for_each_class(self.student, on_device)
        _require_no_image_left_alone(self.student, on_device, self.recipe.batch_size)
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
            fused=True if self.device.type == "cuda" else None,
        )
        self.schedule = schedule_of(self.optimiser, recipe, self.steps)
        self.on_device = on_device
        # The compiled networks share their parameters with the ones that are saved.
        compiled = torch.compile if recipe.compile else lambda network: network
        self.ask_student = compiled(self.student)
        self.ask_teacher = compiled(self.teacher) if self.teacher is not None else None
        self.look = distributed.parallel(self.trained, self._look)
        self.differentiate = self._differentiate
        if self.graphs:
            watched = [self.trained, self.teacher] if self.how["teacher batch statistics"] else [self.trained]
            buffers = [buffer for module in watched for buffer in module.buffers()]
            self.differentiate = Graphed(self._differentiate, self.parameters, buffers)

    def shares_teacher(self) -> bool:
        """Whether its teacher only answers, and is one of ours, which are equal if their names and weights are."""
        ours = self.teacher is not None and hasattr(self.teacher, "info")
        return ours and not any(self.how.values()) and not self.recipe.compile

    def ask_instead(self, teacher: nn.Module) -> None:
        """From now on this one answers in the teacher's place."""
        self.ask_teacher = teacher

    def close(self) -> None:
        """Let go of what only training needs: graphs and their memory, and the gradients that lie in it."""
        self.optimiser.zero_grad(set_to_none=True)
        self.look = self.differentiate = self.ask_student = self.ask_teacher = None

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """One step on the batch at `position`, or this process's share of it: forward, backward, update."""
        distributed.reseed(self.seed, self.epoch, self.position)
        size = self._batch_size()
        found = self.differentiate(images, labels)
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip_norm)
        self.rate = self.optimiser.param_groups[0]["lr"]
        self.optimiser.step()
        self.schedule.step()
        self.position += 1
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0) + value * size

    def _batch_size(self) -> int:
        """How many images the batch at `position` has, in all processes together."""
        return min(self.recipe.batch_size, len(self.data.train_labels) - self.position * self.recipe.batch_size)

    def _differentiate(self, images: Tensor, labels: Tensor) -> Terms:
        """Leave the total loss's gradient in the parameters; return the loss terms and the share of right answers."""
        self.optimiser.zero_grad(set_to_none=True)
        total, logits, terms = self.look(images, labels)
        weight = distributed.weight_of_share(self._batch_size())
        with distributed.exchange():
            (total if weight == 1 else weight * total).backward()
        with torch.no_grad():
            right = (logits.argmax(1) == labels).sum() / len(labels)
            found = {name: value.float() for name, value in {**terms, "train accuracy": right}.items()}
            return distributed.means_over_batch(found, weight)

    def _look(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Terms]:
        """The total loss; and without gradients the logits and the loss terms."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits, terms = self.step(self.ask_student, self.ask_teacher, images, labels)
        return self._total(terms), logits.detach(), {name: term.detach() for name, term in terms.items()}

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

    def finish_epoch(self) -> None:
        """Test the student, and write the epoch down.

        Raises:
            ValueError: the losses are not finite.
        """
        means = self._means()
        if not all(math.isfinite(value) for value in means.values()):
            raise ValueError(
                f"the loss of epoch {self.epoch + 1} is not finite; lower the learning rate or set clip_norm"
            )
        at_once = TESTED_AT_ONCE.get(self.device.type, TESTED_ON_A_GPU)
        accuracy = distributed.by_first(lambda: evaluate(self.student, self.on_device, at_once, self.precision))
        self.clock()
        self.epoch += 1
        self.position, self.sums = 0, {}
        means["train accuracy"] *= 100
        row = {"epoch": self.epoch, "learning rate": self.rate, **means}
        for name, value in {**row, "test accuracy": accuracy, "seconds": self.seconds}.items():
            self.curves.setdefault(name, []).append(value)

    def progress(self, done: bool = False) -> Progress:
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

    def record(self, together: int) -> Run:
        """What is written down. together: runs that shared the device."""
        curve = self.curves["test accuracy"]
        return Run(
            **self.identity(),
            accuracy_last=curve[-1],
            accuracy_best=max(curve),
            curves=self.curves,
            seconds=self.seconds,
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            precision=self.precision,
            versions={"python": platform.python_version(), "torch": torch.__version__, "spectralkd_nb": __version__},
            commit=self.commit,
            together=together,
            processes=distributed.processes(),
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
            "processes": distributed.processes(),
            "random": {"cpu": torch.get_rng_state(), "cuda": cuda},
        }

    def size(self) -> int:
        """Bytes that a checkpoint will take, a little too many."""
        tensors = [*self.trained.state_dict().values(), *self.parameters]  # the momentum is as large as the parameters
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors) + 2**20

    def restore(self, store: RunStore, keep_epochs: Sequence[int]) -> None:
        """Go back to the last checkpoint, if there is one.

        Raises:
            ValueError: it is past an epoch that is asked for and was not kept, it is of another number of processes, or
                what `RunStore.load` refuses.
        """
        state = store.load(CHECKPOINT, self.device)
        if state is None:
            return
        begun = state.get("processes", 1)
        if begun != distributed.processes():
            raise ValueError(
                f"the run in {store.folder} was begun by {begun} processes and cannot go on with "
                f"{distributed.processes()}; start as many again, or delete its folder"
            )
        done = state["epoch"]
        store.require_kept([epoch for epoch in keep_epochs if epoch <= done], f"past epoch {done}")
        # As it began, whatever this device would choose: the record tells one precision.
        self.precision = state.get("precision", self.precision)
        self.trained.load_state_dict(state["trained"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.position, self.rate = state["epoch"], state["position"], state["rate"]
        self.sums = {name: total.to(self.device) for name, total in state["sums"].items()}
        self.seconds, self.curves = state["seconds"], state["curves"]
        torch.set_rng_state(state["random"]["cpu"].cpu())
        if state["random"]["cuda"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"].cpu(), self.device)


def schedule_of(optimiser: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "step":
        milestones = [epoch * steps for epoch in recipe.milestones]
        return torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, recipe.decay)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        recipe.learning_rate,
        total_steps=recipe.epochs * steps + 1,  # the last call of step() only looks one ahead
        pct_start=min(recipe.warm_up * (1 + 1e-9), 1.0),  # a warm-up of exactly one step would divide by zero
        cycle_momentum=False,
    )


def precision_of(device: torch.device) -> str:
    # Cards that only emulate bfloat16, such as Colab's T4, have no convolutions in it.
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    return "float32"


def _require_an_output_for_each_class(student: nn.Module, data: LabelledImages) -> None:
    """Before any label is looked up: on a GPU a label without an output ends the process's use of the GPU."""
    with left_alone(student, data.train_images.device):
        outputs = student(data.normalise(data.train_images[:1]))
    if isinstance(outputs, Tensor) and outputs.shape[-1] < len(data.classes):
        raise ValueError(
            f"the student has {outputs.shape[-1]} outputs, and {data.name} has {len(data.classes)} classes; give it "
            "an output for each"
        )


def _require_no_image_left_alone(student: nn.Module, data: LabelledImages, batch_size: int) -> None:
    """A batch norm behind maps of one pixel cannot take a batch of one image, and an epoch may end with one."""
    images = len(data.train_labels)
    if images % batch_size != 1 and batch_size > 1:
        return
    try:
        with torch.no_grad(), randomness_kept():
            copy.deepcopy(student)(data.normalise(data.train_images[:1]))
    except ValueError as error:
        raise ValueError(
            f"{images} images in batches of {batch_size} leave a batch of one, which the student cannot learn from "
            f"({error}); choose another batch_size"
        ) from None


def _name(network: nn.Module | None) -> str | None:
    if network is None:
        return None
    return network.info.name if hasattr(network, "info") else type(network).__name__


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
