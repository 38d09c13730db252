"""What the spectral losses add to a step of distillation. `make bench` runs and prints it.

No time is asserted: a machine decides its own. The aim is at most 1.4 times a plain KD step for the shapes of spectra
at three stages, and 1.8 times with whitened features at the same three.
"""

from collections.abc import Callable

import pytest
import torch
from pairs import paired_ratio, report
from torch import Tensor, nn

from spectralkd_nb.distillation import SoftTargets
from spectralkd_nb.losses import spectral_shape_loss, whitened_spectral_loss
from spectralkd_nb.networks import build

BATCH, CLASSES = 128, 100
STAGES = {"layer1": (16, 32), "layer2": (32, 64), "layer3": (64, 128)}  # channels of student and teacher
ALPHA = 1.7
WEIGHT = 1e-2  # small: the student must still be finite after many steps on noise


def shapes(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    return sum(spectral_shape_loss(*pair) for pair in zip(student, teacher, strict=True))


class ShapesAndWhitened(nn.Module):
    """Both losses at each stage; the whitened one behind a 1x1 convolution to the teacher's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.connectors = nn.ModuleList(nn.Conv2d(*channels, 1) for channels in STAGES.values())

    def forward(self, student: list[Tensor], teacher: list[Tensor]) -> Tensor:
        connected = [connector(maps) for connector, maps in zip(self.connectors, student, strict=True)]
        whitened = (whitened_spectral_loss(*pair, ALPHA) for pair in zip(connected, teacher, strict=True))
        return shapes(student, teacher) + sum(whitened)


def training_step(features: Callable | None = None) -> Callable[[], float]:
    """One step of a student of its own: soft targets, and a loss on the three stages' features if there is one."""
    student = build("wrn-10-1", CLASSES).train().to(memory_format=torch.channels_last)
    teacher = build("wrn-16-2", CLASSES).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    seen: dict[tuple[bool, str], Tensor] = {}
    for network in (student, teacher) if features else ():
        for path in STAGES:
            network.get_submodule(path).register_forward_hook(
                lambda _, inputs, output, key=(network is student, path): seen.update({key: output})
            )
    trained = [*student.parameters(), *(features.parameters() if isinstance(features, nn.Module) else ())]
    optimiser = torch.optim.SGD(trained, 0.01, 0.9, nesterov=True, weight_decay=5e-4)
    soft_targets = SoftTargets()

    def step() -> float:
        _, terms = soft_targets(student, teacher, images, labels)
        loss = sum(terms.values())
        if features:
            loss = loss + WEIGHT * features(*([seen[own, path] for path in STAGES] for own in (True, False)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


LOSSES = {"shapes": lambda: shapes, "shapes and whitened features": ShapesAndWhitened}


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_with_spectral_losses_against_plain_distillation(benchmark, name):
    plain, spectral = training_step(), training_step(LOSSES[name]())
    assert 0 < plain() < benchmark.pedantic(spectral, rounds=1) < float("inf")
    report(benchmark, f"a KD step with {name} at three stages / a plain KD step", paired_ratio(spectral, plain))
