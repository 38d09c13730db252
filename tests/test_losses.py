"""Losses on logits, features and attention maps, against what they are by definition."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy

from spectralkd_nb.losses import attention_loss, fourier_loss, hint_loss, kd_loss
from spectralkd_nb.losses.logits import softened_divergence


def logits(seed: int, images: int = 6, classes: int = 9) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)


def maps(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.randn(*(shape or (3, 4, 6, 5)), generator=generator, dtype=torch.float64)


ON_LOGITS = {
    "kd": kd_loss,
    "kd, standardised": partial(kd_loss, standardise=True),
    "kd, standardised as the code does": partial(kd_loss, standardise="code"),
}
ON_MAPS = {
    "hint": hint_loss,
    "fourier": fourier_loss,
    "attention": attention_loss,
    "attention, code": partial(attention_loss, mode="code"),
}
LOSSES = [pytest.param(loss, logits, id=name) for name, loss in ON_LOGITS.items()]
LOSSES += [pytest.param(loss, maps, id=name) for name, loss in ON_MAPS.items()]
every_loss = pytest.mark.parametrize(("loss", "draw"), LOSSES)


def gradient(loss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, teacher), student)[0]


# --- what holds for all of them ------------------------------------------------------------------


@every_loss
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_zero_at_equality_with_a_gradient_of_zero(loss, draw, dtype):
    teacher = draw(1).to(dtype)
    assert float(loss(teacher, teacher)) == 0
    assert (gradient(loss, teacher, teacher).abs() < 1e-6).all()


@every_loss
@pytest.mark.parametrize("distance", [1e-7, 1e-4, 1e-2, 1.0, 100.0])
def test_positive_elsewhere(loss, draw, distance):
    student, teacher = draw(1) + distance * draw(2), draw(1)
    assert float(loss(student, teacher)) > 0
    assert float(loss(student.float(), teacher.float())) >= 0


@every_loss
def test_the_gradient_is_the_derivative(loss, draw):
    student = draw(0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, draw(1)), student)


@every_loss
def test_the_gradient_goes_to_the_student_only(loss, draw):
    student, teacher = draw(0).requires_grad_(), draw(1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None


@every_loss
@pytest.mark.parametrize("dead", [0.0, 0.1, -3.7, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_maps_and_equal_logits_have_a_finite_and_harmless_gradient(loss, draw, dead, dtype):
    alive = draw(1).to(dtype)
    constant = torch.full_like(alive, dead)
    for student, teacher in [(constant, alive), (alive, constant), (constant, constant)]:
        assert torch.isfinite(loss(student, teacher))
        assert gradient(loss, student, teacher).abs().max() < 100


@every_loss
def test_one_dead_image_leaves_the_others_their_gradient(loss, draw):
    student, teacher = draw(0), draw(1)
    alone = gradient(loss, student[1:], teacher[1:])
    student[0] = 0
    among = gradient(loss, student, teacher)[1:]
    torch.testing.assert_close(among * len(student), alone * (len(student) - 1))


@every_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(loss, draw, dtype):
    teacher, student = draw(1).to(dtype), (draw(1) + 0.05 * draw(2)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(student, teacher)
    assert low.dtype == torch.float32
    assert low == loss(student.float(), teacher.float())
    # Logarithms of outputs cancel in kd_loss, and T^2 times their rounding, 2e-6, is left.
    assert float(low) == pytest.approx(float(loss(student.double(), teacher.double())), rel=1e-4, abs=2e-6)


@every_loss
def test_float64_stays(loss, draw):
    assert loss(draw(0), draw(1)).dtype == torch.float64
    assert loss(draw(0).float(), draw(1)).dtype == torch.float64


@every_loss
def test_the_loss_of_a_batch_is_the_mean_over_its_images(loss, draw):
    student, teacher = draw(0), draw(1)
    alone = [float(loss(s[None], t[None])) for s, t in zip(student, teacher, strict=True)]
    assert float(loss(student, teacher)) == pytest.approx(np.mean(alone), rel=1e-12)


@every_loss
def test_another_batch_and_no_batch_are_refused(loss, draw):
    with pytest.raises(ValueError, match="student"):
        loss(draw(0)[:1], draw(1))
    with pytest.raises(ValueError, match="empty"):
        loss(draw(0)[:0], draw(1)[:0])


@every_loss
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_what_are_no_real_floating_numbers_is_refused(loss, draw, dtype):
    with pytest.raises(TypeError, match=f"student.* {re.escape(str(dtype))}; real floating"):
        loss(draw(0).to(dtype), draw(1))
    with pytest.raises(TypeError, match=f"teacher.* {re.escape(str(dtype))}; real floating"):
        loss(draw(0), draw(1).to(dtype))


# --- softened outputs ----------------------------------------------------------------------------


def divergence(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    p, q = (np.exp(log_softmax(x / temperature, axis=1)) for x in (teacher, student))
    return temperature**2 * np.mean([entropy(a, b) for a, b in zip(p, q, strict=True)])


def z_scores(x: np.ndarray, lost: int) -> np.ndarray:
    return (x - x.mean(1, keepdims=True)) / x.std(1, ddof=lost, keepdims=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kd_agrees_with_scipys_divergence(temperature):
    expected = divergence(logits(0).numpy(), logits(1).numpy(), temperature)
    assert float(kd_loss(logits(0), logits(1), temperature)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("standardise", "lost", "tolerance"), [(True, 0, 1e-12), ("paper", 0, 1e-12), ("code", 1, 1e-6)]
)
def test_kd_of_z_scores_agrees_with_scipys_divergence(standardise, lost, tolerance):
    student, teacher = (z_scores(logits(seed).numpy(), lost) for seed in (0, 1))
    found = float(kd_loss(logits(0), logits(1), 2.0, standardise))
    assert found == pytest.approx(divergence(student, teacher, 2.0), rel=tolerance)


def test_kd_of_two_classes_by_hand():
    # Outputs (3/4, 1/4) of the teacher and (1/2, 1/2) of the student; z-scores of two classes are 1 and -1.
    student, teacher = torch.zeros(1, 2).double(), torch.tensor([[np.log(3), 0.0]]).double()
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    assert float(kd_loss(student, teacher, 1.0)) == pytest.approx(expected, rel=1e-12)
    assert float(kd_loss(teacher / 7 - 5, teacher, 1.0, standardise=True)) == pytest.approx(0, abs=1e-14)
    assert float(kd_loss(-teacher, teacher, 1.0, standardise=True)) == pytest.approx(2 * np.tanh(1), rel=1e-12)


def test_kd_does_not_see_a_constant_and_standardised_no_scale_either():
    teacher = logits(1)
    shifted = teacher + torch.arange(6)[:, None]
    assert float(kd_loss(shifted, teacher)) == pytest.approx(0, abs=1e-14)
    assert float(kd_loss(5 * shifted, teacher)) > 0.1
    assert float(kd_loss(5 * shifted, teacher, standardise=True)) == pytest.approx(0, abs=1e-14)
    assert float(kd_loss(-teacher, teacher, standardise=True)) > 0.1


def test_at_high_temperature_the_gradient_is_that_of_matching_logits():
    # Hinton et al. 2015, section 2.1: logits without their means, difference divided by the number of classes.
    student, teacher = logits(0), logits(1)
    centred = [x - x.mean(1, keepdim=True) for x in (student, teacher)]
    found = gradient(lambda s, t: kd_loss(s, t, 1e4), student, teacher)
    assert torch.allclose(found, (centred[0] - centred[1]) / 9 / 6, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("standardise", [False, "paper", "code"])
def test_one_class_has_nothing_to_tell(standardise):
    assert float(kd_loss(logits(0, classes=1), logits(1, classes=1), standardise=standardise)) == 0


def test_a_teacher_that_is_trained_too_gets_a_gradient_from_the_same_number():
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    assert torch.equal(softened_divergence(student, teacher, 4.0), kd_loss(student, teacher))
    assert torch.autograd.gradcheck(partial(softened_divergence, temperature=4.0), (student, teacher))


def test_what_kd_cannot_take_is_refused():
    with pytest.raises(ValueError, match="temperature=0 softens nothing"):
        kd_loss(logits(0), logits(1), 0)
    with pytest.raises(ValueError, match="standardise='z' is neither a bool nor one of"):
        kd_loss(logits(0), logits(1), standardise="z")
    with pytest.raises(ValueError, match=r"student \(6, 8\) and of the teacher \(6, 9\)"):
        kd_loss(logits(0, classes=8), logits(1))
    with pytest.raises(ValueError, match="both must be"):
        kd_loss(logits(0)[0], logits(1)[0])


# --- features ------------------------------------------------------------------------------------


def test_the_hint_is_numpys_mean_square():
    expected = np.mean((maps(0).numpy() - maps(1).numpy()) ** 2)
    assert float(hint_loss(maps(0), maps(1))) == pytest.approx(expected, rel=1e-12)
    assert float(hint_loss(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 2.0]))) == 4.5


@pytest.mark.parametrize("size", [(6, 5), (5, 6), (8, 8), (7, 7), (1, 1), (1, 2), (3, 1)])
def test_by_parseval_the_fourier_loss_is_the_hint_loss(size):
    student, teacher = maps(0, 3, 4, *size), maps(1, 3, 4, *size)
    full_plane = np.abs(np.fft.fft2(student.numpy()) - np.fft.fft2(teacher.numpy())) ** 2
    found = float(fourier_loss(student, teacher))
    assert found == pytest.approx(full_plane.mean() / (size[0] * size[1]), rel=1e-12)
    assert found == pytest.approx(float(hint_loss(student, teacher)), rel=1e-12)
    torch.testing.assert_close(gradient(fourier_loss, student, teacher), gradient(hint_loss, student, teacher))


@pytest.mark.parametrize("loss", [hint_loss, fourier_loss])
def test_features_of_another_shape_need_a_connector(loss):
    for other in [(3, 5, 6, 5), (3, 1, 6, 5), (3, 4, 6, 6)]:
        with pytest.raises(ValueError, match="differ in shape; put a connector"):
            loss(maps(0), maps(1, *other))


def test_a_vector_has_no_second_frequency():
    with pytest.raises(ValueError, match="two spatial dimensions"):
        fourier_loss(maps(0, 5), maps(1, 5))


# --- attention -----------------------------------------------------------------------------------


def attention_difference(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """(B, H W), of attention maps of unit length."""
    flat = [(np.abs(x) ** 2).mean(1).reshape(len(x), -1) for x in (student, teacher)]
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in flat]
    return unit[0] - unit[1]


def test_attention_is_the_length_in_the_paper_and_the_mean_square_in_the_code():
    student, teacher = maps(0), maps(1, 3, 7, 6, 5)
    difference = attention_difference(student.numpy(), teacher.numpy())
    paper = np.linalg.norm(difference, axis=1).mean()
    assert float(attention_loss(student, teacher)) == pytest.approx(paper, rel=1e-12)
    assert float(attention_loss(student, teacher, mode="code")) == pytest.approx(np.mean(difference**2), rel=1e-12)


def test_attention_at_two_different_pixels_by_hand():
    # Unit vectors at a right angle lie sqrt(2) apart; 2 is the sum of squares over 4 pixels.
    student, teacher = torch.zeros(2, 1, 2, 2), torch.zeros(2, 3, 2, 2)
    student[:, :, 0, 0], teacher[:, :, 1, 1] = -5, 0.1
    assert float(attention_loss(student, teacher, "paper")) == pytest.approx(2**0.5, rel=1e-6)
    assert float(attention_loss(student, teacher, "code")) == pytest.approx(2 / 4, rel=1e-6)


@pytest.mark.parametrize("mode", ["paper", "code"])
def test_attention_sees_neither_order_nor_sign_nor_scale_nor_number_of_channels(mode):
    student, teacher = maps(0), maps(1, 3, 7, 6, 5)
    expected = float(attention_loss(student, teacher, mode))
    order = torch.tensor([6, 2, 0, 1, 5, 3, 4])
    for other in [teacher[:, order], -teacher, 1e3 * teacher, teacher.repeat(1, 3, 1, 1)]:
        assert float(attention_loss(student, other, mode)) == pytest.approx(expected, rel=1e-12)
    assert float(attention_loss(student[:, [3, 1, 0, 2]], teacher, mode)) == pytest.approx(expected, rel=1e-12)
    assert float(attention_loss(student, teacher.roll(1, 3), mode)) != pytest.approx(expected, rel=1e-3)


def test_what_has_no_attention_to_compare_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4, 6, 5\), teacher \(3, 4, 3, 5\): attention maps of unequal size"):
        attention_loss(maps(0), maps(1, 3, 4, 3, 5))
    with pytest.raises(ValueError, match=r"features \(B, C, H, W\)"):
        attention_loss(maps(0)[0], maps(1)[0])
    with pytest.raises(ValueError, match="the same images"):
        attention_loss(maps(0), maps(1)[:2])
    with pytest.raises(ValueError, match="mode='sum' is none of"):
        attention_loss(maps(0), maps(1), "sum")
