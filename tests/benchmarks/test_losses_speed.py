"""What the spectral losses add to a step of distillation. `make bench` runs and prints it.

No time is asserted: a machine decides its own. The aim is at most 1.4 times a plain KD step for the shapes of spectra
at three stages, and 1.8 times with whitened features at the same three.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from pairs import paired_ratio, report

from spectralkd_nb.distillation import Connector, FeatureMatching, Match, SoftTargets
from spectralkd_nb.distillation.steps import Step
from spectralkd_nb.losses import spectral_shape_loss, whitened_spectral_loss
from spectralkd_nb.networks import build

BATCH, CLASSES = 128, 100
STAGES = {"layer1": (16, 32), "layer2": (32, 64), "layer3": (64, 128)}  # channels of student and teacher
WEIGHTS = {"cross-entropy": 0.1, "soft targets": 0.9, "shape": 0.01, "whitened": 0.01}  # stays finite on noise


def shape() -> list[Match]:
    return [Match("shape", spectral_shape_loss, stage, stage) for stage in STAGES]


def whitened() -> list[Match]:
    loss = partial(whitened_spectral_loss, alpha=1.7)
    return [Match("whitened", loss, stage, stage, Connector(*channels)) for stage, channels in STAGES.items()]


def training_step(step: Step) -> Callable[[], float]:
    """One update of a student of its own."""
    student = build("wrn-10-1", CLASSES).train().to(memory_format=torch.channels_last)
    teacher = build("wrn-16-2", CLASSES).eval().requires_grad_(False).to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)
    trained = [*student.parameters(), *step.parameters()]
    optimiser = torch.optim.SGD(trained, 0.01, 0.9, nesterov=True, weight_decay=5e-4)

    def update() -> float:
        _, terms = step(student, teacher, images, labels)
        loss = sum(WEIGHTS[name] * term for name, term in terms.items())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return update


@pytest.mark.parametrize(
    ("name", "matches"), [("shape", shape), ("shape and whitened features", lambda: shape() + whitened())]
)
def test_a_step_with_spectral_losses_against_plain_distillation(benchmark, name, matches):
    plain, spectral = training_step(SoftTargets()), training_step(FeatureMatching(SoftTargets(), matches()))
    assert 0 < plain() < benchmark.pedantic(spectral, rounds=1) < float("inf")
    report(benchmark, f"a KD step with {name} at three stages / a plain KD step", paired_ratio(spectral, plain))
