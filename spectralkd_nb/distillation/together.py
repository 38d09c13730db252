"""Runs that are trained together: what one batch is made of, and what a teacher says of it, serve all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb.distillation.adaptive import AdaptiveMatching
from spectralkd_nb.distillation.features import FeatureMatching
from spectralkd_nb.distillation.graphs import Graphed
from spectralkd_nb.distillation.loop import Batch, Batches, Loop
from spectralkd_nb.distillation.steps import CrossEntropy, SoftTargets, Step
from spectralkd_nb.networks.features import collected, modules_at
from spectralkd_nb.networks.layers import in_eval_mode


class SharedTeacher(nn.Module):
    """A teacher who looks at each batch once, however many students ask.

    Students ask it as they would ask the teacher: it returns the logits, and modules of the teacher's names return the
    features, so that hooks find them.

    Args:
        teacher: asked in eval mode.
        layers: dotted paths of the features that anybody asks for.
        precision: as students see it, "float32" or "bfloat16".
        graphs: record a CUDA graph.
    """

    def __init__(self, teacher: nn.Module, layers: Sequence[str], precision: str, graphs: bool) -> None:
        super().__init__()
        self._graphs = graphs
        self._said: tuple[Tensor, dict[str, Tensor]] | None = None
        self._kept: dict[tuple[int, ...], tuple[Tensor, dict[str, Tensor]]] = {}

        def look(images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            reduced = torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16")
            with torch.no_grad(), in_eval_mode(teacher), reduced, collected(teacher, layers) as features:
                logits = teacher(images)
            return logits, features

        self._look = Graphed(look) if graphs else look
        for path in layers:
            _add_at(self, path)

    def look(self, images: Tensor) -> None:
        """What students ask from now on is asked about these images."""
        logits, features = self._look(images)
        if not self._graphs:
            self._said = logits, features
            return
        # Students' graphs read from where they have read first, whether or not the teacher could be recorded too.
        shape = tuple(images.shape)
        if shape not in self._kept:
            self._kept[shape] = logits.clone(), {path: maps.clone() for path, maps in features.items()}
        self._said = self._kept[shape]
        self._said[0].copy_(logits)
        for path, maps in features.items():
            self._said[1][path].copy_(maps)

    def forward(self, images: Tensor) -> Tensor:
        logits, features = self._said
        if len(images) != len(logits):
            raise ValueError(f"the shared teacher has looked at {len(logits)} images, and is asked about {len(images)}")
        for path, maps in features.items():
            self.get_submodule(path)(maps)
        return logits


class _Shown(nn.Module):
    """Returns what it is given, and so shows it to hooks."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def _add_at(root: nn.Module, path: str) -> None:
    for name in path.split("."):
        if name not in dict(root.named_children()):
            root.add_module(name, _Shown())
        root = getattr(root, name)


def layers_asked(step: Step) -> list[str] | None:
    """The teacher's layers that a step takes features from; None if nobody can tell."""
    if type(step) is FeatureMatching:
        below = layers_asked(step.base)
        return None if below is None else [*below, *(match.teacher for match in step.matches)]
    if type(step) is AdaptiveMatching:  # features are of its own copy
        return layers_asked(step.base)
    return [] if type(step) in (SoftTargets, CrossEntropy) else None


class Company:
    """Runs that see the same batches: of one data set, one seed and one way to make images ready.

    Those of them that have one teacher, and ask it things that can be told beforehand, share its answers too.
    """

    def __init__(self, loops: Sequence[Loop]) -> None:
        self.loops = list(loops)
        first = self.loops[0]
        self.batches = Batches(first.on_device, first.recipe, first.seed)
        self.teachers: list[tuple[SharedTeacher, list[Loop]]] = []
        by_teacher: dict[tuple[str, str], list[Loop]] = {}
        for loop in self.loops:
            if loop.shares_teacher() and _can_be_told(loop):
                key = loop.came_with["teacher fingerprint"], repr(loop.teacher)
                by_teacher.setdefault(key, []).append(loop)
        for pupils in by_teacher.values():
            if len(pupils) > 1:
                self.teachers.append((_shared(pupils), pupils))

    def batch(self, loops: Sequence[Loop]) -> Batch:
        """The next batch of runs that are equally far; the teachers that they share look at it."""
        images, labels = self.batches.at(loops[0].epoch, loops[0].position)
        for teacher, pupils in self.teachers:
            if any(pupil in loops for pupil in pupils):
                teacher.look(images)
        return images, labels


def _can_be_told(loop: Loop) -> bool:
    """Whether it is known what a run asks its teacher, and the teacher has it; if not, the run itself will say so."""
    asked = layers_asked(loop.step)
    if asked is None:
        return False
    try:
        modules_at(loop.teacher, asked)
    except ValueError:
        return False
    return True


def _shared(pupils: Sequence[Loop]) -> SharedTeacher:
    layers = dict.fromkeys(layer for pupil in pupils for layer in layers_asked(pupil.step))
    first = pupils[0]
    shared = SharedTeacher(first.teacher, list(layers), first.precision, first.graphs)
    for pupil in pupils:
        pupil.ask_instead(shared)
    return shared


def in_companies(loops: Sequence[Loop]) -> list[Company]:
    """Loops by the batches that they see."""
    found: dict[tuple[Any, ...], list[Loop]] = {}
    for loop in loops:
        recipe = loop.recipe
        key = (id(loop.on_device), loop.seed, recipe.batch_size, recipe.augment, recipe.channels_last, loop.precision)
        found.setdefault(key, []).append(loop)
    return [Company(some) for some in found.values()]


class Turns:
    """Whose turn it is: each run has random numbers of its own.

    All runs use one stream of a GPU, one after the other. Several streams gained nothing with small networks, and
    recorded steps that run side by side are not safe: libraries give all graphs one piece of memory to work in.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._random: dict[int, tuple[Tensor, Tensor | None]] = {}

    @contextlib.contextmanager
    def of(self, who: int, seed: int) -> Iterator[None]:
        """The turn of run number `who`; at its first, random numbers begin with the seed."""
        if who in self._random:
            self._set_random(self._random[who])
        else:
            torch.manual_seed(seed)
        yield
        self._random[who] = self._get_random()

    def _get_random(self) -> tuple[Tensor, Tensor | None]:
        cuda = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        return torch.get_rng_state(), cuda

    def _set_random(self, state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], self.device)
