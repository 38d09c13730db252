"""How good a network is, and how to ask one without changing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages


def evaluate(network: nn.Module, data: LabelledImages, batch_size: int = 256, precision: str = "float32") -> float:
    """Top-1 accuracy on the test images, percent. Every module is left in the mode that it was in.

    Args:
        network: on the device of its parameters; the images are brought there.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    right = 0
    with torch.inference_mode(), in_eval_mode(network):
        for images, labels in zip(data.test_images.split(batch_size), data.test_labels.split(batch_size), strict=True):
            batch = data.normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                right += int((network(batch).argmax(1) == labels.to(device)).sum())
    return 100 * right / len(data.test_labels)


@contextlib.contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextlib.contextmanager
def teaching(teacher: nn.Module, batch_statistics: bool, trained: bool) -> Iterator[None]:
    """The teacher in the asked mode, and as it was before afterwards."""
    wanted = {parameter: parameter.requires_grad for parameter in teacher.parameters()}
    with in_eval_mode(teacher):
        teacher.train(batch_statistics or trained)
        teacher.requires_grad_(trained)
        try:
            yield
        finally:
            for parameter, before in wanted.items():
                parameter.requires_grad_(before)
