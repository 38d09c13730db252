"""Teachers and students: the families that the field distils, their weights, and the list of a network's layers."""

from spectralkd_nb.networks.weights import build

__all__ = ["build"]
