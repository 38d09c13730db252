"""What losses on features add to a step of distillation. `make bench` runs and prints it.

No time is asserted: a machine decides its own. The aim is at most 1.4 times a plain KD step for the shapes of spectra
at three stages, and 1.8 times with whitened features at the same three. For neuron selectivity there is also the
broadcast form, which multiplies every pair of maps out and which public implementations have.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from pairs import paired_ratio, report
from torch import Tensor
from torch.nn import functional as F

from spectralkd_nb.adaptation import AdaptedTeacher
from spectralkd_nb.distillation import (
    AdaptiveMatching,
    Connector,
    CrossEntropy,
    FeatureMatching,
    Match,
    SoftTargets,
)
from spectralkd_nb.distillation.steps import Step
from spectralkd_nb.losses import hint_loss, nst_loss, spectral_shape_loss, whitened_spectral_loss
from spectralkd_nb.networks import build

BATCH, CLASSES = 128, 100
STAGES = {"layer1": (16, 32), "layer2": (32, 64), "layer3": (64, 128)}  # channels of student and teacher
# Small, so that training stays finite on noise.
WEIGHTS = {
    "cross-entropy": 0.1,
    "soft targets": 0.9,
    "shape": 0.01,
    "whitened": 0.01,
    "nst": 0.01,
    "hint": 0.01,
    "approach": 0.01,
    "anchor": 0.01,
}


def shape() -> list[Match]:
    return [Match("shape", spectral_shape_loss, stage, stage) for stage in STAGES]


def whitened() -> list[Match]:
    loss = partial(whitened_spectral_loss, alpha=1.7)
    return [Match("whitened", loss, stage, stage, Connector(*channels)) for stage, channels in STAGES.items()]


def selective(kernel: str) -> list[Match]:
    return [Match("nst", partial(nst_loss, kernel=kernel), stage, stage) for stage in STAGES]


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
    ("name", "matches"),
    [
        ("shape", shape),
        ("shape and whitened features", lambda: shape() + whitened()),
        ("NST linear", partial(selective, "linear")),
        ("NST poly", partial(selective, "poly")),
        ("NST gaussian", partial(selective, "gaussian")),
    ],
)
def test_a_step_with_losses_on_features_against_plain_distillation(benchmark, name, matches):
    plain, featured = training_step(SoftTargets()), training_step(FeatureMatching(SoftTargets(), matches()))
    assert 0 < plain() < benchmark.pedantic(featured, rounds=1) < float("inf")
    report(benchmark, f"a KD step with {name} at three stages / a plain KD step", paired_ratio(featured, plain))


def test_a_step_whose_teacher_adapts_against_a_hint_and_plain_distillation(benchmark):
    """The adapted teacher runs once, and back through what lies behind its module; the replaced block does not run."""
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for layer, channels in STAGES.items():
        hint = [Match("hint", hint_loss, layer, layer, Connector(*channels))]
        adapted = AdaptedTeacher(build("wrn-16-2", CLASSES).eval(), [layer], images)
        adaptive = training_step(AdaptiveMatching(CrossEntropy(), hint, adapted))
        plain, hinted = training_step(SoftTargets()), training_step(FeatureMatching(CrossEntropy(), hint))
        assert 0 < adaptive() < float("inf")
        for name, other in (("a plain KD step", plain), ("a step with a hint", hinted)):
            report(benchmark, f"a step that adapts {layer} / {name}", paired_ratio(adaptive, other))
    benchmark.pedantic(adaptive, rounds=1)


def broadcast_nst(student: Tensor, teacher: Tensor) -> Tensor:
    """Poly, every pair of maps multiplied out: (B, C, C', H W) numbers for each of three kernels."""
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in (student, teacher))

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x[:, :, None] * y[:, None]).sum(-1).square().mean()

    return kernel(s, s) + kernel(t, t) - 2 * kernel(s, t)


@pytest.mark.parametrize(("channels", "side"), [(64, 32), (128, 16), (256, 8)])
def test_products_of_matrices_against_every_pair_of_maps(benchmark, channels, side):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.rand(2, 8, channels, side, side, generator=generator)
    student.requires_grad_()

    def pulled(loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        value = loss(student, teacher)
        value.backward()
        return value.item()

    products, pairs = partial(pulled, nst_loss), partial(pulled, broadcast_nst)
    assert benchmark.pedantic(products, rounds=1) == pytest.approx(pairs(), rel=1e-3)
    ratio = paired_ratio(pairs, products)
    report(benchmark, f"{channels} maps of {side} x {side}: every pair of maps / products of matrices", ratio)
