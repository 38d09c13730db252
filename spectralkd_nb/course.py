"""The lessons' set-up: one call that settles device, profile, seed and figure style, and says what it settled."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import torch

from spectralkd_nb import __version__, plots

__all__ = ["Lesson", "start"]

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


def start(profile: str | None = None, seed: int = 0) -> Lesson:
    """Set a lesson up: pick the device and profile, seed torch, set the figure style, and print all of it.

    Args:
        profile: "quick" or "full"; None means "quick", a GPU or not: a long run is never a surprise.
    """
    if profile not in (None, *PROFILES):
        raise ValueError(f"profile={profile!r} is not known; choose 'quick' or 'full'")
    device = _device()
    lesson = Lesson(device, profile or "quick", seed)
    torch.manual_seed(seed)
    plots.use_style()
    print(f"spectralkd_nb {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"device: {device}, profile: {lesson.profile}, seed: {seed}")
    if device == "cpu":
        print("No GPU found; every lesson runs without one. On Colab: Runtime, Change runtime type, GPU.")
    return lesson


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
