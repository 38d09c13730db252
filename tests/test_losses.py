"""Losses on logits, against what they are by definition."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from spectralkd_nb.losses.logits import soft_target_loss


def logits(seed: int, images: int = 6, classes: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets_agree_with_scipys_divergence(temperature):
    student, teacher = logits(0), logits(1)
    p, q = (np.exp(log_softmax(x.numpy() / temperature, axis=1)) for x in (teacher, student))
    expected = temperature**2 * np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])
    assert float(soft_target_loss(student, teacher, temperature)) == pytest.approx(expected, rel=1e-12)


def test_soft_targets_are_zero_at_equality_and_do_not_see_a_constant():
    teacher = logits(1)
    assert float(soft_target_loss(teacher, teacher)) == pytest.approx(0, abs=1e-14)
    assert float(soft_target_loss(teacher + torch.arange(6)[:, None], teacher)) == pytest.approx(0, abs=1e-14)
    assert float(soft_target_loss(logits(0), teacher)) > 0


def test_at_high_temperature_the_gradient_is_that_of_matching_logits():
    # Hinton et al. 2015, section 2.1: logits without their means, difference divided by the number of classes.
    student, teacher = logits(0).requires_grad_(), logits(1)
    (gradient,) = torch.autograd.grad(soft_target_loss(student, teacher, 1e4), student)
    centred = [x - x.mean(1, keepdim=True) for x in (student.detach(), teacher)]
    assert torch.allclose(gradient, (centred[0] - centred[1]) / 9 / 6, rtol=1e-2, atol=1e-5)


def test_half_precision_is_computed_in_full():
    teacher = logits(1).bfloat16()
    student = (logits(1) + 0.05 * logits(2)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        low = soft_target_loss(student, teacher)
    assert float(low) == pytest.approx(float(soft_target_loss(student.double(), teacher.double())), rel=1e-4)


def test_a_temperature_of_0_is_refused():
    with pytest.raises(ValueError, match="temperature=0 softens nothing"):
        soft_target_loss(logits(0), logits(1), 0)
