"""spectralkd_nb: the spectra of natural images and of activations, and knowledge distillation that respects them."""

from pathlib import Path

__version__ = "0.1.0"


def data_path(name: str) -> Path:
    """Path of a file of data/, which sits beside the package in a checkout and inside it once installed."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "data" / name, package.parent / "data" / name
    return inside if inside.exists() else beside
