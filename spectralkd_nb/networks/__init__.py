"""Teachers and students: the families that the field distils, their weights, and the list of a network's layers."""

from spectralkd_nb.networks.families import NAMES
from spectralkd_nb.networks.features import features_of
from spectralkd_nb.networks.layers import Layer, list_layers
from spectralkd_nb.networks.random_network import RandomNetwork, draw_kernels
from spectralkd_nb.networks.twins import (
    reestimate_batch_norm,
    untrained_twin,
    with_circular_padding,
    without_batch_norm,
)
from spectralkd_nb.networks.weights import NetworkInfo, build, load_weights, shipped_networks, snapshots

__all__ = [
    "NAMES",
    "Layer",
    "NetworkInfo",
    "RandomNetwork",
    "build",
    "draw_kernels",
    "features_of",
    "list_layers",
    "load_weights",
    "reestimate_batch_norm",
    "shipped_networks",
    "snapshots",
    "untrained_twin",
    "with_circular_padding",
    "without_batch_norm",
]
