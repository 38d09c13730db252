"""What a training tells while it runs, and how a terminal shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """What a callback is told while a run goes on.

    Attributes:
        title: student, and teacher if there is one.
        epoch, epochs: the epoch being worked on, from 1, and their number.
        step, steps: batches of this epoch that are done, and their number.
        losses: running mean of each loss term over the epoch so far, by name.
        accuracy: right answers over the epoch so far, percent, on training images as they were seen (augmented).
        curves: one list a quantity, one value a finished epoch; see `Run`.
        seconds: of training so far, all sittings together.
        seconds_left: an estimate.
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


class TerminalProgress:
    """A callback for a terminal: a bar of the epoch, and a line for each epoch that is finished. ::

        with TerminalProgress() as progress:
            train(..., callback=progress)

    Args:
        epochs: whether finished epochs get their lines.
    """

    def __init__(self, epochs: bool = True) -> None:
        self._tells_epochs = epochs

    def __enter__(self) -> TerminalProgress:
        from tqdm import tqdm

        # tqdm's own rate and time would count the batches of an earlier sitting.
        form = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
        self._bar = tqdm(total=1, bar_format=form, dynamic_ncols=True, leave=False)
        self._epochs_said = None
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, progress: Progress) -> None:
        """Show a run's progress; only inside `with`."""
        finished = progress.curves.get("epoch", [])
        if self._epochs_said is None:  # a run that goes on does not repeat what it said before
            self._epochs_said = len(finished) - (not progress.step or progress.done)
        for i in range(self._epochs_said, len(finished) if self._tells_epochs else 0):
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
