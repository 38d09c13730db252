"""Networks by name, with weights that this project trained, that torchvision ships, or that others trained."""

from __future__ import annotations

import torch
from torch import nn

from spectralkd_nb.networks.families import family_of

__all__ = ["build"]


def build(name: str, classes: int = 100, *, seed: int = 0, shortcut: str = "projection") -> nn.Module:
    make = family_of(name, shortcut)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = make(classes)
    network.name = name
    return network
