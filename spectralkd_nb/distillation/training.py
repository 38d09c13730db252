"""Training runs, one or several at once, with or without a teacher: how they begin, are kept, stopped and ended."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import distributed
from spectralkd_nb.distillation.evaluation import teaching
from spectralkd_nb.distillation.loop import Batch, Loop
from spectralkd_nb.distillation.progress import Callback
from spectralkd_nb.distillation.records import Recipe, Run, plain
from spectralkd_nb.distillation.steps import CrossEntropy, SoftTargets, Step
from spectralkd_nb.distillation.store import TRAINED, RunStore, SharedStore
from spectralkd_nb.distillation.together import Company, Turns, in_companies
from spectralkd_nb.networks import build
from spectralkd_nb.networks.weights import randomness_kept

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
    graphs: bool = True,
) -> Run:
    """Train a student, alone or from a teacher, and return the record of the run with the network in it.

    Args:
        student: a network, trained in place; or a name for `build`, with as many classes as the data.
        data: what to learn.
        recipe: how; `Recipe()` if None.
        teacher: network that `step` may ask. It is in eval mode and its parameters get no gradient; afterwards its
            modes and what wants gradients are as before, and it is on the run's device.
        step: what is learned; `SoftTargets()` with a teacher, `CrossEntropy()` without.
        weights: by name of the loss terms that `step` returns; 1 for those not named.
        seed: of order, augmentation, dropout, and of the initial weights if the student is a name.
        folder: where checkpoints and the record are kept. A run that was stopped goes on from there when it is called
            again; one that is finished is read from there and not trained again. None keeps nothing.
        callback: called with a `Progress` a few times a second and after each epoch.
        device: `default_device()` if None; of processes that torchrun has started, each has its own of that kind.
        checkpoint_seconds: at least so long between two checkpoints.
        keep_epochs: after these epochs the student's weights are also written into the folder, in half precision, as
            `epoch_004.safetensors`, and what a step has learned as `epoch_004_step.safetensors`: what a lesson needs
            that looks at a training from its beginning.
        teacher_batch_statistics: put the teacher in train mode, so that its batch norms use, and update, the statistics
            of the batch.
        train_teacher: train the teacher's parameters too (implies train mode).
        graphs: on a CUDA device, launch each step as one graph, see `graphs.Graphed`; the numbers are the same.

    Returns:
        `Run`, with `network` the trained student, in eval mode; a step that is a module is in eval mode too.

    Raises:
        ValueError: names of weights that `step` does not return, a folder that holds another run or a damaged one,
            epochs that the run does not have or that it is past and has not kept, no images, fewer outputs than
            classes, a batch of one image that the student cannot learn from, losses that are not finite.
        OSError: the folder cannot be written to, or has no room, which is looked for before training starts; if it is
            gone later, the same call goes on from what was kept. BlockingIOError, which
            is one: another process trains in it. `distributed.OutOfStep`, another: of the processes of this run one is
            gone.
        KeyboardInterrupt: after the checkpoint of the last whole step is written.

    Processes that torchrun has started train one run together, see `distributed`: each calls this with the same
    arguments, takes its share of every batch, and returns the same record. Gradients are those of the whole batch;
    batch norms, and losses that compare images with each other, see the process's own share. The first process alone
    writes, calls the callback and tests. What ends one of them ends all: an error is raised in each.

    Whatever ends a run before its end, the student (and what else is trained) then has the weights that it came with:
    what was learned is in the folder, and the same call goes on from there.
    """
    asked = Training(
        student,
        data,
        recipe,
        teacher=teacher,
        step=step,
        weights=weights,
        seed=seed,
        folder=folder,
        callback=callback,
        keep_epochs=keep_epochs,
        teacher_batch_statistics=teacher_batch_statistics,
        train_teacher=train_teacher,
    )
    (outcome,) = train_together([asked], device=device, checkpoint_seconds=checkpoint_seconds, graphs=graphs)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True)
class Training:
    """What `train` is asked for, as one of several: its arguments, by their names."""

    student: nn.Module | str
    data: LabelledImages
    recipe: Recipe | None = None
    teacher: nn.Module | None = None
    step: Step | None = None
    weights: Mapping[str, float] | None = None
    seed: int = 0
    folder: str | Path | None = None
    callback: Callback | None = None
    keep_epochs: Sequence[int] = ()
    teacher_batch_statistics: bool = False
    train_teacher: bool = False


def train_together(
    trainings: Sequence[Training],
    *,
    device: str | torch.device | None = None,
    checkpoint_seconds: float = 60.0,
    graphs: bool = True,
) -> list[Run | Exception]:
    """Several runs at once on one device, each of them as `train` does it.

    They take turns, batch by batch. Runs of one data set, seed and batch size share their batches, and of these the
    ones that have equal teachers share the answers: the teacher looks at each batch once. Each run comes to what it
    comes to by itself, on a CPU to the last bit.

    Args:
        trainings: what is asked, see `train`. No two may have one student, step, teacher or folder.
        device, checkpoint_seconds, graphs: as there, for all.

    Returns:
        Of each training its record, or what it raised; the others went on.

    Raises:
        KeyboardInterrupt: after each run's checkpoint is written.
        ValueError: torchrun has started several processes, which share one run.
    """
    if distributed.alone():
        return _Together(trainings, torch.device(device or default_device()), checkpoint_seconds, graphs).go()
    if len(trainings) > 1:
        distributed.require_alone("training several runs at once")
    try:
        return _Together(trainings, distributed.own_device(device), checkpoint_seconds, graphs).go()
    except Exception as error:  # outside a session, such as a batch that finds no memory
        raise distributed.told(error) from None


class _Together:
    """Sessions of several trainings, and which batch each of them waits for."""

    def __init__(
        self, trainings: Sequence[Training], device: torch.device, checkpoint_seconds: float, graphs: bool
    ) -> None:
        self.trainings = list(trainings)
        self.device, self.checkpoint_seconds, self.graphs = device, checkpoint_seconds, graphs
        self.turns = Turns(device)
        self.on_device: dict[int, LabelledImages] = {}
        self.waiting: dict[int, Loop] = {}
        self.outcomes: dict[int, Run | Exception | _Stopped] = {}

    def go(self) -> list[Run | Exception]:
        with randomness_kept(), _deferred_interrupt() as interrupted, contextlib.ExitStack() as stack:
            self.sessions = [_session(asked, self, interrupted) for asked in self.trainings]
            for session in self.sessions:
                stack.callback(session.close)
            for who in range(len(self.sessions)):
                self._let(who, None)
            companies = in_companies(list(self.waiting.values()))
            while self.waiting:
                for company in companies:
                    self._advance(company)
            # By then the first process has written the last checkpoint: torchrun ends all when one has ended.
            stop = distributed.agree(stop=interrupted())
            stopped = [outcome for outcome in self.outcomes.values() if isinstance(outcome, _Stopped)]
            if stopped:
                raise KeyboardInterrupt(str(stopped[0]))
            if stop:
                raise KeyboardInterrupt("the run was stopped as it ended; it is finished")
        return [self.outcomes[who] for who in range(len(self.sessions))]

    def _advance(self, company: Company) -> None:
        """One batch, for those of the company that are furthest behind."""
        there = {who: loop for who, loop in self.waiting.items() if loop in company.loops}
        if not there:
            return
        furthest = min((loop.epoch, loop.position) for loop in there.values())
        behind = {who: loop for who, loop in there.items() if (loop.epoch, loop.position) == furthest}
        try:
            batch = company.batch(list(behind.values()))
        except Exception as error:
            for who in behind:
                self._let(who, error)
            return
        for who in behind:
            self._let(who, batch)

    def _let(self, who: int, batch: Batch | Exception | None) -> None:
        """A run goes on until it waits for its next batch, or ends; with an error in the batch's place it ends so."""
        self.waiting.pop(who, None)
        try:
            with self.turns.of(who, int(self.trainings[who].seed)):
                session = self.sessions[who]
                self.waiting[who] = session.throw(batch) if isinstance(batch, Exception) else session.send(batch)
        except StopIteration as end:
            self.outcomes[who] = end.value
        except _Stopped as stopped:  # agreed on
            self.outcomes[who] = stopped
        except Exception as error:
            self.outcomes[who] = distributed.told(error)
            if len(self.trainings) > 1:  # the others need the memory that the failed step still holds
                traceback.clear_frames(error.__traceback__)

    def moved(self, data: LabelledImages) -> LabelledImages:
        """The data on the device, where all runs of it share them."""
        if id(data) not in self.on_device:
            self.on_device[id(data)] = data.to(self.device)
        return self.on_device[id(data)]


class _Stopped(KeyboardInterrupt):
    """An interrupt that was taken at the end of a step, with everything kept."""


def _session(asked: Training, room: _Together, interrupted: Callable[[], bool]) -> Generator[Loop, Batch, Run]:
    """One run, which hands out its loop whenever it wants a batch, and returns its record."""
    recipe, seed, data = asked.recipe or Recipe(), int(asked.seed), asked.data
    device, student, teacher = room.device, asked.student, asked.teacher
    if isinstance(student, str):
        student = build(student, len(data.classes), seed=seed)
    step = asked.step or (SoftTargets() if teacher is not None else CrossEntropy())
    # Plain numbers: a checkpoint with numpy's could not be read back safely.
    weights = {str(name): float(weight) for name, weight in (asked.weights or {}).items()}
    statistics, train_teacher = bool(asked.teacher_batch_statistics), bool(asked.train_teacher)
    how = {"teacher batch statistics": statistics, "teacher trained": train_teacher}
    loop = Loop(student, data, recipe, teacher, step, weights, seed, device, how, room.graphs)
    keep_epochs = _checked_epochs(asked.keep_epochs, recipe, asked.folder)
    kind = RunStore if distributed.alone() else SharedStore
    store = kind(asked.folder, loop.identity()) if asked.folder is not None else None
    with contextlib.ExitStack() as stack:
        if teacher is not None:
            stack.enter_context(teaching(teacher, statistics, train_teacher))
        loop.prepare(train_teacher, room.moved(data))
        if teacher is not None:
            teacher.train(statistics or train_teacher)  # again: a step that holds it has put it in train mode
        stack.callback(loop.close)
        finished = store.finished(device) if store is not None else None
        if store is not None and finished is None:
            stack.enter_context(store.alone())
            finished = store.finished(device)  # by another process, since
        if finished is not None:
            loop.trained.load_state_dict(store.load(TRAINED, device))
            store.require_kept(keep_epochs)
            return replace(finished, network=_put_in_eval_mode(student, step))
        stack.enter_context(_all_or_nothing(loop.trained))
        if store is not None:
            store.require_room(loop.size())
            loop.restore(store, keep_epochs)
        callback = asked.callback if distributed.is_first() else None
        yield from _epochs(loop, store, callback, room.checkpoint_seconds, keep_epochs, interrupted)
        run = distributed.by_first(lambda: loop.record(together=len(room.trainings)))
        distributed.share_buffers(loop.trained)
        if store is not None:
            store.finish(run, loop.trained)
    return replace(run, network=_put_in_eval_mode(student, step))


def _epochs(
    loop: Loop,
    store: RunStore | SharedStore | None,
    callback: Callback | None,
    checkpoint_seconds: float,
    keep_epochs: Sequence[int],
    interrupted: Callable[[], bool],
) -> Generator[Loop, Batch, None]:
    """Train to the end. An interrupt is taken between two steps, after a checkpoint."""
    loop.start_clock()
    saved = shown = time.perf_counter()
    while loop.epoch < loop.recipe.epochs:
        while loop.position < loop.steps:
            images, labels = yield loop
            loop.learn(images, labels)
            loop.clock()
            now, stop = time.perf_counter(), distributed.agree(stop=interrupted())
            if store is not None and (stop or now - saved >= checkpoint_seconds):
                store.checkpoint(loop.state())
                saved = time.perf_counter()
            if stop:
                raise _Stopped(_going_on(store, loop))
            if callback is not None and now - shown >= PROGRESS_SECONDS:
                callback(loop.progress())
                shown = time.perf_counter()
        loop.finish_epoch()
        # Before the checkpoint: a run that goes on behind an epoch has its weights.
        if store is not None and loop.epoch in keep_epochs:
            store.keep(loop.epoch, loop.student, loop.step if isinstance(loop.step, nn.Module) else None)
        if store is not None and time.perf_counter() - saved >= checkpoint_seconds:
            store.checkpoint(loop.state())
            saved = time.perf_counter()
        done = loop.epoch == loop.recipe.epochs
        if callback is not None:
            callback(loop.progress(done=done))
        stop = distributed.agree(stop=interrupted())  # also one that came while the callback ran
        if stop and store is not None:
            store.checkpoint(loop.state())
        if stop and not done:
            raise _Stopped(_going_on(store, loop))


def _put_in_eval_mode(student: nn.Module, step: Step) -> nn.Module:
    """The student; it and what the step has learned are asked from now on, and not trained."""
    if isinstance(step, nn.Module):
        step.eval()
    return student.eval()


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


@contextlib.contextmanager
def _all_or_nothing(trained: nn.Module) -> Iterator[None]:
    """What ends early leaves the weights as they came, or the same call would begin with half a training."""
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    try:
        yield
    except BaseException:
        trained.load_state_dict(before)
        raise


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """An interrupt waits for the end of the step: half an update would be no state to go on from.

    A second one is not kept waiting. Outside the main thread nothing can be deferred. SIGTERM is an interrupt too where
    torchrun has started several processes: so it ends them all when one has ended, or when it is ended itself.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    numbers = (signal.SIGINT,) if distributed.alone() else (signal.SIGINT, signal.SIGTERM)
    usual = {number: signal.getsignal(number) for number in numbers}
    # Ignored: a job in the background, which nobody's key is meant for.
    usual = {number: handler for number, handler in usual.items() if handler not in (signal.SIG_IGN, None)}

    def as_usual() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def first(*_: object) -> None:
        pressed.set()
        as_usual()

    for number in usual:
        signal.signal(number, first)
    try:
        yield pressed.is_set
    finally:
        as_usual()


def _going_on(store: RunStore | None, loop: Loop) -> str:
    if store is None:
        return "the run was stopped; nothing was kept, because it has no folder"
    return f"the run was stopped in epoch {loop.epoch + 1}; the same call goes on from here"
