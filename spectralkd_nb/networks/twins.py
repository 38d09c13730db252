"""A network beside itself as it would be otherwise: untrained, with other statistics, without batch norm."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from spectralkd_nb.networks.weights import build

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def reestimate_batch_norm(network: nn.Module, images: Tensor, batch_size: int = 64) -> nn.Module:
    """A copy whose batch norms have the statistics of these images, in eval mode.

    The statistics of an untrained network are 0 and 1, whatever its maps are: its batch norms do nothing. And those of
    a trained network are of the pictures that it was trained on. Each batch passes with its own statistics, as in
    training, and their average is kept; nothing but batch norms does as in training, so that no dropout takes part.

    Args:
        network: any; it stays as it is.
        images: (B, C, H, W), as the network takes them, on its device.
        batch_size: at most; the batches are of about one size.

    Raises:
        ValueError: there are no images.
    """
    if not len(images):
        raise ValueError("statistics of no images are none; pass at least one")
    network = copy.deepcopy(network).eval()
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for the average of all batches
        norm.train()
    with torch.no_grad():
        for batch in images.tensor_split(math.ceil(len(images) / batch_size)):
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def without_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of a network in which every batch norm lets its input through as it is."""
    network = copy.deepcopy(network)
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if isinstance(module, NORMS):
            parent, _, name = path.rpartition(".")
            setattr(network.get_submodule(parent), name, nn.Identity())
    return network


def with_circular_padding(network: nn.Module) -> nn.Module:
    """A copy of a network whose convolutions wrap around instead of padding with zeros, so that no map has a frame."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    return network


def untrained_twin(network: nn.Module, images: Tensor, seed: int | None = None) -> nn.Module:
    """The network as it was before training, its batch norms settled on these images.

    The same name, number of classes and, unless another seed is asked for, the very weights that training began with.

    Args:
        network: made by `build`, whose `info` says its name.
        images: (B, C, H, W), normalised.
        seed: of the weights; if None that of the network's own.

    Raises:
        ValueError: a network that does not say its name, or has other parameters than `build` gives to that name.
    """
    if not hasattr(network, "info"):
        raise ValueError("only a network made by build says how to make it again; build your twin, with other weights")
    twin = build(network.info.name, network.info.classes, seed=network.info.seed if seed is None else seed)
    if _shapes(twin) != _shapes(network):
        raise ValueError(
            f"the network has other parameters than {network.info.name} as build makes it; build its twin as you built "
            "it, with shortcut=... for instance, and give that to reestimate_batch_norm"
        )
    return reestimate_batch_norm(twin, images)


def _shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
