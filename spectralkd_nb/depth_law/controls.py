"""Is it the network, or how it was measured? Profiles of one network in which one thing at a time is different."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb.activations import ActivationSpectra, activation_spectra
from spectralkd_nb.depth_law.profiles import ExponentProfile, exponent_profile
from spectralkd_nb.networks import reestimate_batch_norm, untrained_twin, with_circular_padding, without_batch_norm
from spectralkd_nb.pictures import dead_leaves

BORDER = 3  # pixels
OTHER_BAND = (0.1, 0.35)  # cycles a pixel


def control_profiles(
    network: nn.Module, pictures: Tensor, groups: int = 1, made_up: int = 16, seed: int = 0, **options: Any
) -> dict[str, ExponentProfile]:
    """Profiles of a network by what is different in each.

    - "as measured": nothing.
    - "white noise", "dead leaves": other pictures, of the same size. White noise has alpha = 0.
    - "noise, circular": white noise, and convolutions that wrap around instead of padding with zeros.
    - "re-estimated": batch norms with the statistics of these very pictures.
    - "normalised": each map divided by its own variance before the average.
    - "edges none": no edge treatment. "crop": without the outermost 3 pixels of each map. "band": 0.1 to 0.35 cycles a
      pixel.
    - "untrained": the twin before training, its batch norms re-estimated. "no norm": the same without batch norms.

    Args:
        network: made by `build`.
        pictures: (N, 3, H, W), values 0..1.
        groups: see `exponent_profile`.
        made_up: how many pictures of noise and of dead leaves.
        seed: of these.
        options: of `exponent_profile`, for all.
    """
    normalise = network.info.normalise
    height, width = pictures.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    noise = normalise(torch.rand(made_up, 3, height, width, generator=generator))
    leaves = normalise(dead_leaves((height, width), made_up, generator=generator)[:, None].expand(-1, 3, -1, -1))
    images = normalise(pictures)
    twin = untrained_twin(network, images)

    def profile(other: nn.Module = network, given: Tensor = images, **changed: Any) -> ExponentProfile:
        settings = {"groups": groups if given is images else 1, "name": network.info.name}
        return exponent_profile(other, given, **settings | options | changed)

    return {
        "as measured": profile(),
        "white noise": profile(given=noise),
        "noise, circular": profile(with_circular_padding(network), noise),
        "dead leaves": profile(given=leaves),
        "re-estimated": profile(reestimate_batch_norm(network, images)),
        "normalised": profile(average="normalised"),
        "edges none": profile(edges="none"),
        "crop": profile(crop=BORDER),
        "band": profile(band=OTHER_BAND),
        "untrained": profile(twin),
        "no norm": profile(without_batch_norm(twin)),
    }


def twin_spectra(network: nn.Module, pictures: Tensor, **options: Any) -> dict[str, ActivationSpectra]:
    """The spectra of image and blocks, of a network ("trained") and of its untrained twin ("untrained").

    Args:
        network: made by `build`.
        pictures: (N, 3, H, W), values 0..1.
        options: of `activation_spectra`.
    """
    images = network.info.normalise(pictures)
    pair = {"trained": network, "untrained": untrained_twin(network, images)}
    settings = {"layers": ["image", "blocks"], "progress": False} | options
    return {label: activation_spectra(one, images, **settings) for label, one in pair.items()}
