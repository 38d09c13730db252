"""Teachers and students: the families that the field distils, their weights, and the list of a network's layers."""

from spectralkd_nb.networks.families import NAMES
from spectralkd_nb.networks.layers import Layer, list_layers
from spectralkd_nb.networks.weights import NetworkInfo, build, load_weights, shipped_networks

__all__ = ["NAMES", "Layer", "NetworkInfo", "build", "list_layers", "load_weights", "shipped_networks"]
