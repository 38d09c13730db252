"""Neuron selectivity transfer: against all pairs of channels in numpy, and what it must and must not see."""

import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from spectralkd_nb.losses import selectivity
from spectralkd_nb.losses.selectivity import nst_loss

KERNELS = {
    "linear": {"kernel": "linear"},
    "poly": {"kernel": "poly"},
    "poly, offset": {"kernel": "poly", "offset": 0.3},
    "poly, degree 1": {"kernel": "poly", "degree": 1, "offset": 2},
    "poly, degree 3": {"kernel": "poly", "degree": 3, "offset": 0.5},
    "gaussian": {"kernel": "gaussian"},
    "gaussian, sigma": {"kernel": "gaussian", "sigma": 0.6},
}
every_kernel = pytest.mark.parametrize("settings", [pytest.param(s, id=name) for name, s in KERNELS.items()])
FEW, MANY = (3, 4, 6, 5), (3, 9, 2, 3)  # fewer channels than pixels, and more
either_side = pytest.mark.parametrize("shape", [FEW, MANY])


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + torch.randn(*(shape or FEW), generator=generator, dtype=torch.float64)).to(dtype)


def gradient(loss, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    student = student.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(student, teacher), student)[0]


# --- by definition -------------------------------------------------------------------------------


def unit_vectors(maps: torch.Tensor) -> list[np.ndarray]:
    """Of each image, its channels as unit vectors; a dead one stays 0."""
    flat = maps.double().numpy().reshape(*maps.shape[:2], -1)
    lengths = np.linalg.norm(flat, axis=-1, keepdims=True)
    return list(np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0))


def by_pairs(student, teacher, kernel="poly", degree=2, offset=0.0, sigma=None) -> float:
    """Mean over images of the squared discrepancy, one pair of channels after the other."""
    losses = []
    for s, t in zip(unit_vectors(student), unit_vectors(teacher), strict=True):
        variance = sigma**2 if sigma else np.mean([np.sum((x - y) ** 2) for x, y in product(s, t)])
        respond = {
            "linear": lambda x, y: x @ y,
            "poly": lambda x, y: (x @ y + offset) ** degree,
            "gaussian": lambda x, y, variance=variance: np.exp(-np.sum((x - y) ** 2) / 2 / variance),
        }[kernel]
        own, others, crossed = (
            np.mean([respond(x, y) for x, y in product(*sets)]) for sets in [(s, s), (t, t), (s, t)]
        )
        losses.append(own + others - 2 * crossed)
    return np.mean(losses)


@every_kernel
@pytest.mark.parametrize("student", [(3, 4, 6, 5), (3, 9, 2, 3), (3, 1, 2, 3), (3, 6, 2, 3), (3, 5, 1, 1)])
@pytest.mark.parametrize("channels", [1, 4, 7])
def test_it_is_the_discrepancy_over_all_pairs(settings, student, channels):
    ours, other = maps(0, *student), maps(1, student[0], channels, *student[2:])
    assert float(nst_loss(ours, other, **settings)) == pytest.approx(by_pairs(ours, other, **settings), abs=1e-14)
    low = float(nst_loss(ours.float(), other.float(), **settings))
    assert low == pytest.approx(by_pairs(ours, other, **settings), rel=1e-5, abs=1e-6)


@either_side
def test_linear_is_the_distance_of_means(shape):
    student, teacher = maps(0, *shape), maps(1, *shape).repeat(1, 2, 1, 1)[:, :-1]
    distances = [
        np.sum((s.mean(0) - t.mean(0)) ** 2) for s, t in zip(unit_vectors(student), unit_vectors(teacher), strict=True)
    ]
    assert float(nst_loss(student, teacher, "linear")) == pytest.approx(np.mean(distances), rel=1e-12)


@either_side
def test_poly_of_degree_2_is_the_distance_of_grams_over_channel_counts(shape):
    student, teacher = maps(0, *shape), maps(1, *shape).repeat(1, 2, 1, 1)[:, :-1]
    distances = [
        np.sum((s.T @ s / len(s) - t.T @ t / len(t)) ** 2)
        for s, t in zip(unit_vectors(student), unit_vectors(teacher), strict=True)
    ]
    assert float(nst_loss(student, teacher, "poly")) == pytest.approx(np.mean(distances), rel=1e-12)


def test_two_maps_at_a_right_angle_by_hand():
    # k is 1 with itself and 0 with the other; of the Gaussian exp(-2 / (2 sigma^2)), whose sigma^2 is 2 if not given.
    student, teacher = torch.zeros(2, 1, 2, 2), torch.zeros(2, 3, 2, 2)
    student[:, :, 0, 0], teacher[:, :, 1, 1] = 5, 0.1
    for kernel, settings, expected in [
        ("linear", {}, 2),
        ("poly", {}, 2),
        ("poly", {"offset": 1.0}, 4 + 4 - 2),
        ("poly", {"degree": 3, "offset": 1.0}, 8 + 8 - 2),
        ("gaussian", {}, 2 - 2 * np.exp(-1 / 2)),
        ("gaussian", {"sigma": 1.0}, 2 - 2 * np.exp(-1)),
    ]:
        assert float(nst_loss(student, teacher, kernel, **settings)) == pytest.approx(expected, rel=1e-6)
        assert float(nst_loss(student, teacher, kernel, **settings, half=True)) == pytest.approx(expected / 2, rel=1e-6)


def test_golden_values():
    # cos(i^2 / 7) and sin(i^2 / 5), made by the pairs above in numpy.
    i = torch.arange(2 * 3 * 4 * 2, dtype=torch.float64)
    student, teacher = (i**2 / 7).cos().reshape(2, 3, 4, 2), (i**2 / 5).sin().reshape(2, 3, 4, 2)
    golden = {
        "linear": 0.594415198589,
        "poly": 0.5793692793,
        "poly, offset": 0.936018398453,
        "poly, degree 1": 0.594415198589,
        "poly, degree 3": 1.95155594666,
        "gaussian": 0.22443489112,
        "gaussian, sigma": 0.581085822903,
    }
    assert {name: float(nst_loss(student, teacher, **settings)) for name, settings in KERNELS.items()} == pytest.approx(
        golden, rel=1e-9
    )
    assert nst_loss(student, teacher) == nst_loss(student, teacher, "poly", degree=2, offset=0, half=False)


# --- zero, and above -----------------------------------------------------------------------------


@every_kernel
@pytest.mark.parametrize("shape", [FEW, MANY, (5, 16, 9, 7), (2, 64, 16, 16), (2, 40, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_exactly_zero_at_equality_with_a_gradient_of_zero(settings, shape, dtype):
    teacher = maps(1, *shape, dtype=dtype)
    teacher[:, 0] = 0
    assert float(nst_loss(teacher, teacher.clone(), **settings)) == 0
    assert gradient(partial(nst_loss, **settings), teacher, teacher).abs().max() < 1e-5


@every_kernel
@pytest.mark.parametrize("start", [1, 3, 5])
def test_zero_does_not_hang_on_where_and_how_equal_features_lie_in_memory(settings, start):
    # Matrix products round by alignment and by the order of dimensions.
    teacher = maps(1, 4, 7, 6, 5, dtype=torch.float32)
    student = torch.empty(teacher.numel() + start)[start:].view(teacher.shape).copy_(teacher)
    assert float(nst_loss(student, teacher, **settings)) == 0
    assert float(nst_loss(student, teacher.contiguous(memory_format=torch.channels_last), **settings)) == 0


@every_kernel
@either_side
@pytest.mark.parametrize("distance", [1e-6, 1e-4, 1e-2, 1.0, 100.0])
def test_positive_elsewhere_with_a_gradient(settings, shape, distance):
    student, teacher = maps(1, *shape) + distance * maps(2, *shape), maps(1, *shape)
    assert float(nst_loss(student, teacher, **settings)) > 0
    for dtype in (torch.float64, torch.float32):
        student, teacher = student.to(dtype), teacher.to(dtype)
        assert float(nst_loss(student, teacher, **settings)) >= 0
        assert gradient(partial(nst_loss, **settings), student, teacher).abs().max() > 0


@every_kernel
@pytest.mark.parametrize("shape", [(8, 1, 16, 16), (8, 1, 4, 4), (8, 1, 1, 1), (8, 2, 1, 1), (8, 16, 1, 1)])
def test_one_map_at_several_loudnesses_is_no_difference_but_rounding(settings, shape):
    """Where all maps point one way, the distances that a Gaussian kernel would follow are rounding themselves."""
    generator = torch.Generator().manual_seed(0)
    teacher = 0.1 + torch.rand(shape, generator=generator)
    student = teacher * (0.1 + 10 * torch.rand(*shape[:2], 1, 1, generator=generator))
    assert float(nst_loss(student, teacher, **settings)) < 3e-4
    assert gradient(partial(nst_loss, **settings), student, teacher).abs().max() < 0.01


@every_kernel
def test_where_rounding_wins_the_value_is_not_below_zero_and_the_gradient_is_that_of_the_formula(settings):
    drowned, loss = 0, partial(nst_loss, **settings)
    for seed in range(20):
        teacher = maps(seed, 1, 4, 6, 5, dtype=torch.float32)
        student = teacher + 1e-4 * maps(seed + 100, 1, 4, 6, 5, dtype=torch.float32)
        value = float(loss(student, teacher))
        assert 0 <= value < 1e-6
        drowned += value == 0
        expected = gradient(loss, student.double(), teacher.double())
        assert (gradient(loss, student, teacher) - expected).abs().max() < 0.02 * expected.abs().max()
    if settings["kernel"] == "gaussian":
        assert drowned > 0  # or this test would see nothing


@every_kernel
@either_side
def test_the_same_channels_in_another_order_are_zero_to_rounding(settings, shape):
    teacher = maps(1, *shape)
    assert float(nst_loss(teacher.flip(1), teacher, **settings)) == pytest.approx(0, abs=1e-14)
    assert float(nst_loss(teacher.flip(1).float(), teacher.float(), **settings)) == pytest.approx(0, abs=1e-6)
    assert float(nst_loss(teacher.repeat(1, 3, 1, 1), teacher, **settings)) == pytest.approx(0, abs=1e-14)


# --- what it does not see ------------------------------------------------------------------------


@every_kernel
@either_side
def test_neither_order_nor_scale_of_channels_counts_but_place_does(settings, shape):
    student, teacher = maps(0, *shape), maps(1, *shape)
    expected = float(nst_loss(student, teacher, **settings))
    scales = torch.logspace(-5, 5, shape[1], dtype=torch.float64)[:, None, None]
    for change in [lambda x: x.flip(1), lambda x: x * scales, lambda x: x.repeat(1, 2, 1, 1)]:
        assert float(nst_loss(change(student), teacher, **settings)) == pytest.approx(expected, rel=1e-11)
        assert float(nst_loss(student, change(teacher), **settings)) == pytest.approx(expected, rel=1e-11)
    assert float(nst_loss(student, teacher.roll(1, 3), **settings)) != pytest.approx(expected, rel=1e-3)
    assert float(nst_loss(student.roll(1, 3), teacher.roll(1, 3), **settings)) == pytest.approx(expected, rel=1e-11)


@either_side
def test_an_even_degree_without_offset_does_not_see_signs_and_the_others_do(shape):
    student, teacher = maps(0, *shape), maps(1, *shape)
    signs = torch.tensor([1, -1] * shape[1])[: shape[1], None, None]
    for settings in [*KERNELS.values(), {"kernel": "poly", "degree": 4}]:
        blind = settings in ({"kernel": "poly"}, {"kernel": "poly", "degree": 4})
        expected, found = (float(nst_loss(x, teacher, **settings)) for x in (student, signs * student))
        assert (found == pytest.approx(expected, rel=1e-11)) is blind


def test_rectified_features_are_those_after_a_relu():
    student, teacher = maps(0), maps(1, 3, 7, 12, 10)
    expected = float(nst_loss(student.relu(), teacher.relu()))
    assert float(nst_loss(student, teacher, rectify=True)) == pytest.approx(expected, rel=1e-12)
    assert float(nst_loss(student, teacher)) != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_of_two_sizes_the_larger_is_averaged_or_refused(larger):
    features = {"student": maps(0, 3, 4, 6, 4), "teacher": maps(1, 3, 5, 6, 4)}
    expected = float(nst_loss(**features))
    assert float(nst_loss(**features, sizes="refuse")) == expected
    # Four pixels for each, whose mean it is.
    noise = maps(2, 3, features[larger].shape[1], 6, 4)
    finer = torch.stack([features[larger] + noise, features[larger] - noise], -1).flatten(-2)
    features[larger] = finer.repeat_interleave(2, 2)
    assert float(nst_loss(**features)) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"pair layers of one size, or let sizes='pool'"):
        nst_loss(**features, sizes="refuse")


def test_height_and_width_are_each_averaged_to_the_smaller():
    student, teacher = maps(0, 3, 4, 6, 2), maps(1, 3, 4, 3, 4)
    expected = nst_loss(student.unflatten(2, (3, 2)).mean(3), teacher.unflatten(3, (2, 2)).mean(4))
    assert float(nst_loss(student, teacher)) == pytest.approx(float(expected), rel=1e-12)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(KERNELS.keys() - {"gaussian"}))  # which is in the next test
@either_side
def test_the_gradient_is_the_derivative(name, shape):
    student, teacher = maps(0, *shape).requires_grad_(), maps(1, *shape)[:, 1:]
    assert torch.autograd.gradcheck(lambda x: 3 * nst_loss(x, teacher, **KERNELS[name]), student)


@either_side
def test_a_sigma_of_its_own_is_a_constant_to_the_gradient(shape):
    student, teacher = maps(0, *shape)[:1], maps(1, *shape)[:1, 1:]
    (s,), (t,) = unit_vectors(student), unit_vectors(teacher)
    sigma = np.sqrt(np.mean([np.sum((x - y) ** 2) for x, y in product(s, t)]))
    expected = gradient(partial(nst_loss, kernel="gaussian", sigma=sigma), student, teacher)
    torch.testing.assert_close(gradient(partial(nst_loss, kernel="gaussian"), student, teacher), expected)


@every_kernel
def test_the_gradient_passes_relu_and_pooling(settings):
    settings = settings | ({"sigma": 1.0} if settings["kernel"] == "gaussian" else {})
    student, teacher = maps(0, 2, 3, 6, 4).requires_grad_(), maps(1, 2, 4, 3, 2)
    assert torch.autograd.gradcheck(lambda x: nst_loss(x, teacher, rectify=True, half=True, **settings), student)


@every_kernel
def test_the_gradient_goes_to_the_student_only(settings):
    student, teacher = maps(0).requires_grad_(), maps(1).requires_grad_()
    nst_loss(student, teacher, **settings).backward()
    assert student.grad.abs().max() > 0
    assert teacher.grad is None
    assert not nst_loss(student.detach(), teacher, **settings).requires_grad


@every_kernel
def test_without_a_gradient_none_is_computed_and_the_value_is_the_same(settings, monkeypatch):
    student, teacher = maps(0).requires_grad_(), maps(1)
    expected = nst_loss(student, teacher, **settings)
    monkeypatch.setattr(torch.autograd, "grad", None)
    with torch.no_grad():
        assert torch.equal(nst_loss(student, teacher, **settings), expected)
    with torch.inference_mode():
        assert torch.equal(nst_loss(student, teacher, **settings), expected)


@every_kernel
@either_side
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [0.0, 1e-30])
def test_a_dead_channel_is_a_vector_of_zeros_without_a_gradient(settings, shape, dtype, length):
    student, teacher = maps(0, *shape, dtype=dtype), maps(1, *shape, dtype=dtype)
    student[:, 1], teacher[0, 2] = length, length
    exact = [x.masked_fill(x == length, 0) for x in (student, teacher)]
    assert float(nst_loss(student, teacher, **settings)) == pytest.approx(by_pairs(*exact, **settings), rel=1e-5)
    found = gradient(partial(nst_loss, **settings), student, teacher)
    assert torch.isfinite(found).all()
    assert (found[:, 1] == 0).all()
    assert (found[:, [0, 2, 3]].abs().amax((2, 3)) > 0).all()


@every_kernel
@pytest.mark.parametrize("dead", [0.0, 0.1, -3.7, 1e-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rectify", [False, True])
def test_dead_and_constant_maps_have_a_finite_and_harmless_gradient(settings, dead, dtype, rectify):
    alive = maps(1, dtype=dtype)
    constant = torch.full_like(alive, dead)
    for student, teacher in [(constant, alive), (alive, constant), (constant, constant), (constant, -constant)]:
        loss = partial(nst_loss, rectify=rectify, **settings)
        assert torch.isfinite(loss(student, teacher))
        assert gradient(loss, student, teacher).abs().max() < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_of_one_direction_leave_a_sigma_of_its_own_above_zero(dtype):
    teacher = maps(1, 3, 1, 6, 5, dtype=dtype).repeat(1, 4, 1, 1)
    scales = torch.tensor([0.3, 1.0, 7.0, 20.0], dtype=dtype)[:, None, None]
    assert float(nst_loss(scales * teacher, teacher, "gaussian")) == pytest.approx(0, abs=0.3)
    assert torch.isfinite(gradient(partial(nst_loss, kernel="gaussian"), scales * teacher, teacher)).all()


# --- batches and precision -----------------------------------------------------------------------


@every_kernel
@either_side
@pytest.mark.parametrize("at_once", [1, 200, 10**9])
def test_the_loss_of_a_batch_is_the_mean_over_its_images_however_many_are_taken_at_once(
    settings, shape, at_once, monkeypatch
):
    student, teacher, loss = maps(0, 5, *shape[1:]), maps(1, 5, *shape[1:]), partial(nst_loss, **settings)
    pairs = [(s[None], t[None]) for s, t in zip(student, teacher, strict=True)]
    monkeypatch.setattr(selectivity, "AT_ONCE", at_once)
    assert float(loss(student, teacher)) == pytest.approx(np.mean([float(loss(*pair)) for pair in pairs]), rel=1e-12)
    alone = torch.cat([gradient(loss, *pair) for pair in pairs])
    torch.testing.assert_close(gradient(loss, student, teacher), alone / 5)


@every_kernel
@either_side
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(settings, shape, dtype):
    student, teacher = maps(0, *shape, dtype=dtype).requires_grad_(), maps(1, *shape, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        low = nst_loss(student, teacher, **settings)
    assert low.dtype == torch.float32
    assert low == nst_loss(student.float(), teacher.float(), **settings)
    exact = student.detach().double(), teacher.double()
    assert float(low.detach()) == pytest.approx(float(nst_loss(*exact, **settings)), rel=1e-5, abs=1e-6)
    (found,) = torch.autograd.grad(low, student)
    assert found.dtype == dtype
    expected = gradient(partial(nst_loss, **settings), *exact)
    assert (found - expected).abs().max() < 0.01 * expected.abs().max()


@every_kernel
def test_float64_stays(settings):
    assert nst_loss(maps(0), maps(1), **settings).dtype == torch.float64
    assert nst_loss(maps(0).float(), maps(1), **settings).dtype == torch.float64
    assert gradient(partial(nst_loss, **settings), maps(0).float(), maps(1)).dtype == torch.float32


def test_what_cannot_be_compared_is_refused():
    for student, teacher, message in [
        (maps(0)[:1], maps(1), "1 images of the student's and 3 of the teacher's make no pairs"),
        (maps(0)[:0], maps(1)[:0], r"the student's maps have shape \(0, 4, 6, 5\); .* none of them 0"),
        (maps(0), maps(1)[:, :0], "the teacher's maps have shape"),
        (maps(0)[0], maps(1), r"\(B, C, H, W\) is needed"),
    ]:
        with pytest.raises(ValueError, match=message):
            nst_loss(student, teacher)
    with pytest.raises(TypeError, match=r"the student's maps are torch\.int64"):
        nst_loss(maps(0).long(), maps(1))


def test_settings_that_make_no_kernel_are_refused():
    for settings, message in [
        ({"kernel": "cubic"}, r"kernel='cubic' is none of \('linear', 'poly', 'gaussian'\)"),
        ({"sizes": "crop"}, "sizes='crop' is none of"),
        ({"degree": 0}, "degree=0 makes no kernel"),
        ({"degree": 1.5}, r"degree=1\.5 makes no kernel"),
        ({"offset": -0.1}, r"offset=-0\.1 makes no kernel"),
        ({"offset": float("nan")}, "offset=nan makes no kernel"),
        ({"degree": float("inf")}, "degree=inf makes no kernel"),
        ({"degree": float("nan")}, "degree=nan makes no kernel"),
        ({"degree": None}, "degree=None makes no kernel"),
        ({"kernel": "gaussian", "sigma": 0.0}, r"sigma=0\.0 has to be finite and from 0\.001 on"),
        ({"kernel": "gaussian", "sigma": 1e-30}, "sigma=1e-30 has to be finite and from"),
        ({"kernel": "gaussian", "sigma": float("inf")}, "sigma=inf has to be finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            nst_loss(maps(0), maps(1), **settings)


@pytest.mark.parametrize(("shape", "side"), [(FEW, 4), (MANY, 6), ((3, 6, 2, 3), 6), ((3, 5, 2, 3), 5)])
@pytest.mark.parametrize("offset", [0, 0.3])
def test_products_are_of_the_smaller_side_and_none_is_of_pairs_of_maps(shape, side, offset, monkeypatch):
    sides, product_of = set(), torch.bmm
    monkeypatch.setattr(torch, "bmm", lambda *pair: sides.add(product_of(*pair).shape[1:]) or product_of(*pair))
    nst_loss(maps(0, *shape), maps(1, *shape), offset=offset)
    assert (side, side) in sides
    assert sides <= {(side, side), (1, shape[2] * shape[3])}


@pytest.mark.parametrize("settings", [{"kernel": "linear"}, {"kernel": "poly"}, {"kernel": "poly", "offset": 0.3}])
def test_sums_of_squares_keep_their_digits_close_to_zero(settings):
    teacher = maps(1, *MANY, dtype=torch.float32)
    student = teacher + 1e-4 * maps(2, *MANY, dtype=torch.float32)
    expected = float(nst_loss(student.double(), teacher.double(), **settings))
    assert expected < 1e-7
    assert float(nst_loss(student, teacher, **settings)) == pytest.approx(expected, rel=0.02)


# --- memory --------------------------------------------------------------------------------------

PEAK = """
import re, sys
from pathlib import Path
import torch
from spectralkd_nb.losses.selectivity import nst_loss

def memory(line):
    return int(re.search(line + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

def gradient(*shape):
    student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
    before = memory("VmRSS")
    (gradient,) = torch.autograd.grad(nst_loss(student, teacher, sys.argv[1]), student)
    return memory("VmHWM") - before - gradient.numel() * gradient.element_size() / 2**20

torch.set_num_threads(1)
channels, side = int(sys.argv[2]), int(sys.argv[3])
gradient(2, 8, 4, 4)  # what the first products load
gradient(2, 8, 2, 2)
print(gradient(64, channels, side, side))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(("channels", "side"), [(64, 32), (128, 16), (256, 8)])
@pytest.mark.parametrize("kernel", ["linear", "poly", "gaussian"])
def test_memory_stays_small_at_resnet32x4_widths(kernel, channels, side):
    """Peak of forward and backward above what is alive anyway, features on both sides and the gradient, in MiB.

    The process's peak so far may lie above what it holds before the call; then the figure is too large, never too
    small. The broadcast form needs a GiB for each kernel of a stage.
    """
    command = [sys.executable, "-c", PEAK, kernel, str(channels), str(side)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 64
