"""The lessons' set-up: one call that settles device, profile, seed and figure style, and says what it settled."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spectralkd_nb import __version__, pictures, plots, widgets
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Recipe, Run, train
from spectralkd_nb.distillation.training import default_device
from spectralkd_nb.spectra import fit_power_law, radial_spectrum

__all__ = [
    "Lesson",
    "Verdict",
    "check_band_exponents",
    "check_leaf_density",
    "check_phase_noise",
    "progress",
    "start",
]

Item = TypeVar("Item")

PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Lesson:
    """What a lesson runs with.

    Attributes:
        device: "cuda", "mps" or "cpu". profile: "quick" (minutes on two cores) or "full". seed: of every generator.
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
            student, data, options: as in `distillation.train`. recipe: `Recipe.quick()` if None.
        """
        from IPython.display import display

        view = widgets.TrainingView()
        display(view)
        settled = {"seed": self.seed, "device": self.device, "callback": view}
        return train(student, data, recipe or Recipe.quick(), **{**settled, **options})


def start(profile: str | None = None, seed: int = 0) -> Lesson:
    """Set a lesson up: pick the device and profile, seed torch, set the figure style, and print all of it.

    Args:
        profile: "quick" or "full"; None means "quick", a GPU or not: a long run is never a surprise.
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
        items: what is gone through. label: what is being done, in a word or two.
    """
    from tqdm.auto import tqdm

    return tqdm(items, desc=label, leave=False)


# --- exercises -----------------------------------------------------------------------------------
# One function an exercise. It measures the answer with the package's own tools, so that no solution is stored here:
# the answers are in tests/answers, where a test runs them, and `make answers` writes the teacher's copy from them.


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer: solved or not, and why."""

    solved: bool
    text: str

    def __repr__(self) -> str:
        return self.text


def _open(exercise: str, todo: str) -> Verdict:
    return Verdict(False, f"Exercise {exercise} is open: {todo}.")


def _wrong(exercise: str, why: str) -> Verdict:
    return Verdict(False, f"Exercise {exercise}, not yet: {why}.")


def _right(exercise: str, remark: str) -> Verdict:
    return Verdict(True, f"Exercise {exercise} is solved: {remark}.")


COFFEE_BANDS = ((0.005, 0.05), (0.05, 0.2), (0.2, 0.45))


def check_band_exponents(alphas: Sequence[float] | None) -> Verdict:
    """Lesson 1, exercise 1: alpha of the coffee picture in the bands 0.005-0.05, 0.05-0.2 and 0.2-0.45.

    Args:
        alphas: the three exponents in this order, or None while unsolved.
    """
    if alphas is None:
        return _open("1.1", "replace None by a list of three exponents")
    if len(alphas) != len(COFFEE_BANDS):
        return _wrong("1.1", f"{len(COFFEE_BANDS)} exponents are asked for, one a band, and here are {len(alphas)}")
    spectrum = radial_spectrum(pictures.photographs()["coffee"].grey())
    for alpha, band in zip(alphas, COFFEE_BANDS, strict=True):
        if not abs(float(alpha) - float(fit_power_law(spectrum, band).alpha)) < 0.02:
            return _wrong("1.1", f"{float(alpha):.2f} is not what the band from {band[0]} to {band[1]} gives")
    spread = float(max(alphas)) - float(min(alphas))
    low, high = fit_power_law(spectrum).interval.tolist()
    return _right(
        "1.1", f"the bands differ by {spread:.2f}, and the interval of the whole fit is {high - low:.2f} wide"
    )


def check_phase_noise(picture: Tensor | None) -> Verdict:
    """Lesson 1, exercise 2: the power of the cat chelsea with the phases of white noise.

    Args:
        picture: (300, 451), or None while unsolved.
    """
    if picture is None:
        return _open("1.2", "replace None by a picture of 300 x 451 pixels")
    cat = pictures.photographs()["chelsea"].grey()
    if picture.shape != cat.shape:
        return _wrong("1.2", f"the cat has {tuple(cat.shape)} pixels, and this has {tuple(picture.shape)}")
    mine, hers = (radial_spectrum(p, "none").power for p in (picture, cat))
    if not torch.allclose(mine, hers, rtol=1e-3):
        return _wrong(
            "1.2", "its power is not the cat's; which of the two results keeps the power of the first picture?"
        )
    if abs(pictures.likeness(picture, cat)) > 0.1:
        return _wrong("1.2", "it still looks like the cat; take the phases from white noise")
    alpha = float(fit_power_law(radial_spectrum(picture)).alpha)
    return _right("1.2", f"no cat in sight, and alpha = {alpha:.2f} all the same")


def check_leaf_density(p: float | None) -> Verdict:
    """Lesson 1, exercise 3: the density r^-p of radii with which dead leaves have Tolhurst's alpha of 2.4.

    Args:
        p: the exponent of the density, or None while unsolved.
    """
    if p is None:
        return _open("1.3", "replace None by the p of a density r^-p")
    leaves = pictures.dead_leaves(256, n=4, exponent=float(p), generator=torch.Generator().manual_seed(0))
    alpha = float(fit_power_law(radial_spectrum(leaves).average(), (4 / 256, 0.3)).alpha)
    if abs(alpha - 2.4) > 0.1:
        return _wrong("1.3", f"leaves of density r^-{p:g} have alpha = {alpha:.2f}, and 2.4 is wanted")
    return _right("1.3", f"leaves of density r^-{p:g} have alpha = {alpha:.2f}")
