"""A lesson's set-up: one call that settles device, profile, seed and figure style, and says what it settled."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from spectralkd_nb import __version__, plots, widgets
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Recipe, Run, train
from spectralkd_nb.distillation.training import default_device
from spectralkd_nb.experiments import run_grid

if TYPE_CHECKING:
    import pandas

Item = TypeVar("Item")

PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Lesson:
    """What a lesson runs with.

    Attributes:
        device: "cuda", "mps" or "cpu".
        profile: "quick" (minutes on two cores) or "full".
        seed: of every generator.
    """

    device: str
    profile: str
    seed: int

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the lesson's seed: the same numbers on every machine."""
        return torch.Generator().manual_seed(self.seed)

    def train(
        self, student: nn.Module | str, data: LabelledImages, recipe: Recipe | None = None, **options: Any
    ) -> Run:
        """`distillation.train` on the lesson's device and with its seed, behind a bar and curves that grow.

        Stop it with the kernel's stop button. With folder=... the same cell then goes on where it was stopped.

        Args:
            student, data, options: as in `distillation.train`.
            recipe: `Recipe.quick()` if None.
        """
        from IPython.display import display

        view = widgets.TrainingView()
        display(view)
        settled = {"seed": self.seed, "device": self.device, "callback": view}
        run = train(student, data, recipe or Recipe.quick(), **{**settled, **options})
        view.end(str(run))
        return run

    def run_grid(self, grid: Mapping[str, Any] | str | Path, store: str | Path, **options: Any) -> pandas.DataFrame:
        """`experiments.run_grid` on the lesson's device, behind a table of all runs and the bar of the current one.

        Stop it with the kernel's stop button; the same cell then goes on where it was stopped. On a CPU it runs in one
        thread; several notebooks may work on one store.

        Args:
            grid, store, options: as for `experiments.run_grid`, and so is what it returns.
        """
        from IPython.display import display

        view = widgets.GridView()
        display(view)
        with _one_thread(self.device):
            return run_grid(grid, store, **{"device": self.device, "callback": view, **options})


@contextlib.contextmanager
def _one_thread(device: str) -> Iterator[None]:
    """On a CPU one thread: how many there are decides the order of sums, and so how a run comes out."""
    threads = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def start(profile: str | None = None, seed: int = 0) -> Lesson:
    """Set a lesson up: pick the device and profile, seed torch, set the figure style, and print all of it.

    Args:
        profile: "quick" or "full"; None means "quick", a GPU or not: a long run is never a surprise.
        seed: of torch's generators, and of `Lesson.generator`.

    Raises:
        ValueError: another profile.
    """
    if profile not in (None, *PROFILES):
        raise ValueError(f"profile={profile!r} is not known; choose 'quick' or 'full'")
    device = default_device()
    lesson = Lesson(device, profile or "quick", seed)
    torch.manual_seed(seed)
    plots.use_style()
    print(f"spectralkd_nb {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"device: {device}, profile: {lesson.profile}, seed: {seed}")
    if device == "cpu":
        print("No GPU found; every lesson runs without one. On Colab: Runtime, Change runtime type, GPU.")
    return lesson


def progress(items: Iterable[Item], label: str) -> Iterable[Item]:
    """The items one after another behind a progress bar, in a notebook or a terminal; for what takes over two seconds.

    Args:
        items: what is gone through.
        label: what is being done, in a word or two.
    """
    from tqdm.auto import tqdm

    return tqdm(items, desc=label, leave=False)
