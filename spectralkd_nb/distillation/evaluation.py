"""How good a network is, and how to ask one without changing it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.networks.features import device_of
from spectralkd_nb.networks.layers import in_eval_mode


def evaluate(network: nn.Module, data: LabelledImages, batch_size: int = 256, precision: str = "float32") -> float:
    """Top-1 accuracy on the test images, percent. Every module is left in the mode that it was in.

    Args:
        network: on the device of its parameters; the images are brought there.
        data: the task, whose colours the network is used to.
        batch_size, precision: as for `responses`.
    """
    logits = responses(network, data, data.test_images, precision=precision, batch_size=batch_size)
    right = int((logits.argmax(1) == data.test_labels.to(logits.device)).sum())
    return 100 * right / len(data.test_labels)


def responses(
    network: nn.Module,
    data: LabelledImages,
    images: Tensor,
    *,
    precision: str = "float32",
    batch_size: int = 500,
) -> Tensor:
    """A network's logits for images as they are, without augmentation. Every module is left in its mode.

    Args:
        network: on the device of its parameters; the images are brought there.
        data: whose colours it is used to.
        images: (N, 3, H, W) uint8, `data.train_images` for instance.
        precision: "float32" or "bfloat16" (autocast).
        batch_size: images at a time.

    Returns:
        (N, classes) on the network's device.
    """
    device = device_of(network)
    found = []
    with torch.no_grad(), in_eval_mode(network):
        for some in images.split(batch_size):
            batch = data.normalise(some.to(device)).contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                found.append(network(batch))
    return torch.cat(found)


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
