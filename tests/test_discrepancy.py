"""What neuron selectivity transfer is made of: against loops and matrices written out in numpy."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from spectralkd_nb.losses import discrepancy
from spectralkd_nb.losses.discrepancy import (
    gram_shares,
    kernel_matrices,
    pixel_gram,
    shift_average,
    two_pixel_maps,
    witness,
)
from spectralkd_nb.losses.selectivity import nst_loss

KERNELS = {
    "linear": {"kernel": "linear"},
    "poly": {"kernel": "poly"},
    "poly, offset": {"kernel": "poly", "offset": 0.3},
    "poly, degree 3": {"kernel": "poly", "degree": 3, "offset": 0.5},
    "gaussian": {"kernel": "gaussian"},
    "gaussian, sigma": {"kernel": "gaussian", "sigma": 0.6},
}
every_kernel = pytest.mark.parametrize("settings", [pytest.param(s, id=name) for name, s in KERNELS.items()])
FEW, MANY = (3, 4, 6, 5), (3, 9, 2, 3)  # fewer channels than pixels, and more
SIZES = [(4, 4), (3, 5), (6, 4), (1, 7), (7, 2)]


def maps(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.5 + torch.randn(*(shape or FEW), generator=generator, dtype=torch.float64)).to(dtype)


def pair(shape: tuple[int, ...] = FEW) -> tuple[torch.Tensor, torch.Tensor]:
    """Unequal numbers of channels, and a dead channel on either side."""
    student, teacher = maps(0, *shape), maps(1, *shape)[:, 1:]
    student[0, 1] = teacher[1, 0] = 0
    return student, teacher


def unit_vectors(features: torch.Tensor) -> np.ndarray:
    flat = features.double().numpy().reshape(*features.shape[:2], -1)
    lengths = np.linalg.norm(flat, axis=-1, keepdims=True)
    return np.divide(flat, lengths, out=np.zeros_like(flat), where=lengths > 0)


def respond(x, y, variance, kernel, degree=2, offset=0.0, sigma=None) -> np.ndarray:
    """Kernels between all of x and all of y of one image, one after the other."""
    one = {
        "linear": lambda a, b: a @ b,
        "poly": lambda a, b: (a @ b + offset) ** degree,
        "gaussian": lambda a, b: np.exp(-np.sum((a - b) ** 2) / (2 * (sigma**2 if sigma else variance))),
    }[kernel]
    return np.array([[one(a, b) for b in y] for a in x])


def variance_of(s, t) -> float:
    return np.mean([np.sum((a - b) ** 2) for a, b in product(s, t)])


def gram_of(features: torch.Tensor) -> np.ndarray:
    return np.stack([unit.T @ unit / len(unit) for unit in unit_vectors(features)])


def circulant_part(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each entry replaced by the mean of all entries whose pixels lie as far apart, borders circular."""
    pixels = list(product(range(height), range(width)))
    apart = [[((v - y) % height, (u - x) % width) for v, u in pixels] for y, x in pixels]
    shift = np.array([[dy * width + dx for dy, dx in row] for row in apart])
    return np.array([matrix[shift == k].mean() for k in range(height * width)])[shift]


@every_kernel
@pytest.mark.parametrize("shape", [FEW, MANY, (3, 2, 1, 1)])
def test_kernels_are_those_of_all_pairs_and_their_discrepancy_is_the_loss(settings, shape):
    student, teacher = pair(shape)
    found = kernel_matrices(student, teacher, **settings)
    for i, (s, t) in enumerate(zip(unit_vectors(student), unit_vectors(teacher), strict=True)):
        for matrices, one, other in [(found.own, s, s), (found.others, t, t), (found.crossed, s, t)]:
            assert matrices[i].numpy() == pytest.approx(respond(one, other, variance_of(s, t), **settings), abs=1e-14)
    loss = nst_loss(student, teacher, **settings)
    assert found.discrepancy.shape == (3,)
    assert float(found.discrepancy.mean()) == pytest.approx(float(loss), rel=1e-11, abs=1e-14)


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_equal_features_have_a_discrepancy_of_exactly_zero(settings, dtype):
    for shape in (FEW, MANY, (2, 64, 16, 16), (5, 16, 9, 7)):
        teacher = maps(1, *shape, dtype=dtype)
        teacher[:, 0] = 0
        student = torch.empty(teacher.numel() + 3, dtype=dtype)[3:].view(shape).copy_(teacher)
        student = student.contiguous(memory_format=torch.channels_last)
        assert not kernel_matrices(student, teacher, **settings).discrepancy.any()


@every_kernel
@pytest.mark.parametrize("shape", [FEW, MANY])
def test_the_witness_is_the_mean_to_the_student_minus_that_to_the_teacher(settings, shape):
    student, teacher = pair(shape)
    points = maps(2, 3, 5, *shape[2:])
    points[2, 3] = 0
    found = witness(points, student, teacher, **settings)
    assert found.shape == (3, 5)
    for i, (x, s, t) in enumerate(zip(*map(unit_vectors, (points, student, teacher)), strict=True)):
        to_student, to_teacher = (respond(x, other, variance_of(s, t), **settings).mean(1) for other in (s, t))
        assert found[i].numpy() == pytest.approx(to_student - to_teacher, abs=1e-14)
    # Its mean over the student's channels minus that over the teacher's is the squared discrepancy.
    over = [witness(points, student, teacher, **settings).mean(1) for points in (student, teacher)]
    expected = kernel_matrices(student, teacher, **settings).discrepancy
    assert_close(over[0] - over[1], expected)
    assert (over[0] > over[1]).all()
    assert not witness(points, teacher, teacher.clone(), **settings).any()


@pytest.mark.parametrize("shape", [FEW, MANY])
def test_the_pixel_gram_is_a_mean_over_channels_and_its_distance_is_the_loss(shape):
    student, teacher = pair(shape)
    grams = [pixel_gram(features) for features in (student, teacher)]
    for gram, features in zip(grams, (student, teacher), strict=True):
        assert gram.numpy() == pytest.approx(gram_of(features), abs=1e-14)
        living = (features.abs().amax((2, 3)) > 0).double().mean(1)
        assert_close(gram.diagonal(dim1=1, dim2=2).sum(1), living)
    loss = (grams[0] - grams[1]).square().sum((1, 2)).mean()
    assert float(loss) == pytest.approx(float(nst_loss(student, teacher)), rel=1e-11)


@pytest.mark.parametrize("size", SIZES)
def test_the_shift_average_is_over_all_pixels_with_circular_borders(size):
    height, width = size
    gram = maps(4, 2, height * width, height * width)  # no Gram, nor symmetric: direction counts
    expected = np.zeros((2, height, width))
    for dy, dx, y, x in product(range(height), range(width), range(height), range(width)):
        there = (y + dy) % height * width + (x + dx) % width
        expected[:, dy, dx] += gram[:, y * width + x, there].numpy() / (height * width)
    assert shift_average(gram, height, width).numpy() == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_its_transform_is_the_mean_power_of_the_unit_maps(size):
    features = maps(0, 2, 4, *size)
    features[1, 2] = 0
    unit = unit_vectors(features).reshape(features.shape)
    power = (np.abs(np.fft.fft2(unit)) ** 2).mean(1) / np.prod(size)
    found = shift_average(pixel_gram(features), *size)
    assert np.fft.fft2(found.numpy()) == pytest.approx(power, abs=1e-13)
    assert_close(shift_average(pixel_gram(features.roll((2, 3), (2, 3))), *size), found)


@pytest.mark.parametrize("size", SIZES)
def test_shares_are_those_of_the_projections_written_out(size):
    student, teacher = pair((3, 4, *size))
    difference = gram_of(student) - gram_of(teacher)
    circulant = np.stack([circulant_part(one, *size) for one in difference])
    assert np.sum(circulant * (difference - circulant)) == pytest.approx(0, abs=1e-14)  # or it is no projection
    total = np.sum(difference**2)
    power = [(np.abs(np.fft.fft2(unit_vectors(x).reshape(x.shape))) ** 2).mean(1) for x in (student, teacher)]
    by_power = np.sum((power[0] - power[1]) ** 2) / np.prod(size) ** 2
    found = gram_shares(student, teacher)
    assert found.total == pytest.approx(total / 3, rel=1e-11)
    assert found.total == pytest.approx(float(nst_loss(student, teacher)), rel=1e-11)
    assert found.shifts == pytest.approx(np.sum(circulant**2) / total, rel=1e-11)
    assert found.shifts == pytest.approx(by_power / total, rel=1e-11)
    assert found.diagonal == pytest.approx(np.sum(np.einsum("bpp->bp", difference) ** 2) / total, rel=1e-11)
    low = gram_shares(student.float(), teacher.float())
    assert (low.total, low.diagonal, low.shifts) == pytest.approx((found.total, found.diagonal, found.shifts), rel=1e-4)


def test_a_circular_shift_is_in_no_power_spectrum():
    teacher = maps(1, 3, 4, 8, 8)
    found = gram_shares(teacher.roll((1, 3), (2, 3)), teacher)
    assert found.total > 0.1
    assert found.shifts < 1e-25
    assert gram_shares(teacher.roll(1, 3).float(), teacher.float()).shifts < 1e-12


def all_shifts(picture: torch.Tensor) -> torch.Tensor:
    height, width = picture.shape
    return torch.stack([picture.roll(shift, (0, 1)) for shift in product(range(height), range(width))])[None]


def test_channels_that_are_all_shifts_of_one_map_differ_in_power_alone():
    found = gram_shares(all_shifts(maps(0, 4, 6)), all_shifts(maps(1, 4, 6)))
    assert found.total > 0.01
    assert found.shifts == pytest.approx(1, rel=1e-12)
    assert found.diagonal < 1e-25  # a block-circulant Gram has one number along it, here 1 / (H W) on both sides


def test_maps_of_single_pixels_differ_along_the_diagonal_alone():
    student, teacher = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    student[:, 0, 0, 0], student[:, 1, 2, 1], student[:, 2, 3, 3] = 3, 1, -2
    teacher[:, 0, 0, 1], teacher[:, 1, 2, 1], teacher[:, 2, 0, 1] = 1, 7, 1
    found = gram_shares(student, teacher)
    assert (found.total, found.diagonal, found.shifts) == pytest.approx(((1 + 4 + 1) / 9, 1, 0), abs=1e-7)


def test_dead_features_have_no_power_at_all():
    # Of D = -G the mean of the diagonal, -1 / (H W), is in both parts.
    student, teacher = torch.zeros(1, 2, 2, 2), torch.eye(4).reshape(1, 4, 2, 2)
    found = gram_shares(student, teacher)
    assert (found.total, found.diagonal, found.shifts) == pytest.approx((1 / 4, 1, 1), rel=1e-6)


def test_equal_features_have_no_shares():
    for dtype in (torch.float64, torch.float32, torch.float16):
        teacher = maps(1, 3, 4, 9, 7, dtype=dtype)
        student = teacher.contiguous(memory_format=torch.channels_last)
        assert gram_shares(student, teacher) == discrepancy.GramShares(total=0, diagonal=0, shifts=0)


@pytest.mark.parametrize("at_once", [1, 2500, 10**9])
def test_images_with_more_of_the_distance_count_more_however_many_are_taken_at_once(at_once, monkeypatch):
    student, teacher = maps(0, 5, *FEW[1:]), maps(1, 5, *FEW[1:])
    student[:2] = teacher[:2] + 0.1 * student[:2]
    alone = [gram_shares(s[None], t[None]) for s, t in zip(student, teacher, strict=True)]
    monkeypatch.setattr(discrepancy, "AT_ONCE", at_once)
    found, totals = gram_shares(student, teacher), [one.total for one in alone]
    assert found.total == pytest.approx(np.mean(totals), rel=1e-12)
    assert found.diagonal == pytest.approx(np.average([one.diagonal for one in alone], weights=totals), rel=1e-12)
    assert found.shifts == pytest.approx(np.average([one.shifts for one in alone], weights=totals), rel=1e-12)


def everything(student, teacher) -> list[torch.Tensor]:
    kernels, shares = kernel_matrices(student, teacher, "gaussian"), gram_shares(student, teacher)
    gram = pixel_gram(student)
    by_shift = shift_average(gram.clone().requires_grad_(), 6, 5)
    found = [kernels.own, kernels.others, kernels.crossed, kernels.discrepancy, gram, by_shift]
    numbers = torch.tensor([shares.total, shares.diagonal, shares.shifts])
    return [*found, witness(teacher, student, teacher), witness(teacher, student, teacher, "gaussian"), numbers]


def test_nothing_has_a_graph_and_half_precision_is_computed_in_full():
    student, teacher = (features.requires_grad_() for features in pair())
    expected = everything(student, teacher)
    assert not any(tensor.requires_grad for tensor in expected)
    assert {tensor.dtype for tensor in expected[:-1]} == {torch.float64}
    assert {tensor.dtype for tensor in everything(student.float(), teacher)[:4]} == {torch.float64}
    half = student.bfloat16(), teacher.bfloat16()
    assert witness(student, *half).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        low = everything(*half)
    assert {tensor.dtype for tensor in low} == {torch.float32}
    for found, wanted in zip(low, everything(*(x.double() for x in half)), strict=True):
        assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)
    assert shift_average(maps(0, 1, 4, 4).half(), 2, 2).dtype == torch.float32


def test_what_does_not_fit_is_refused_in_a_sentence():
    student, teacher = pair()
    for function in (kernel_matrices, gram_shares, lambda s, t: witness(student, s, t)):
        for one, other, message in [
            (student, teacher[:, :, :3], r"maps of \(6, 5\) and \(3, 5\) pixels; pair layers of one size, or average"),
            (student[:1], teacher, "1 images of the student's and 3 of the teacher's make no pairs"),
            (student[0], teacher, r"the student's maps have shape \(4, 6, 5\)"),
            (student, teacher[:, :0], r"the teacher's maps have shape \(3, 0, 6, 5\)"),
        ]:
            with pytest.raises(ValueError, match=message):
                function(one, other)
        with pytest.raises(TypeError, match=r"the student's maps are torch\.int64"):
            function(student.long(), teacher)
    for function in (kernel_matrices, lambda s, t, **settings: witness(s, s, t, **settings)):
        for name, value in [("kernel", "cubic"), ("degree", 0), ("offset", -1.0), ("sigma", 0.0)]:
            with pytest.raises(ValueError, match=f"{name}={value!r}"):
                function(student, teacher, **{name: value})
    for points in (student[:2], student[..., :4], student[0], student[:, :0]):
        with pytest.raises(ValueError, match=r"the points have shape .*; \(B, N, H, W\) is needed"):
            witness(points, student, teacher)
    with pytest.raises(ValueError, match=r"the maps have shape \(4, 6, 5\); \(B, C, H, W\) is needed"):
        pixel_gram(student[0])
    for function in (pixel_gram, lambda maps: witness(maps, student, teacher)):
        with pytest.raises(TypeError, match=r"the (maps|points) are torch\.int64; real floating maps are needed"):
            function(student.long())
    for gram in (torch.ones(2, 6, 5), torch.ones(6, 6), torch.ones(2, 4, 4)):
        with pytest.raises(ValueError, match=r"a Gram of shape .*; maps of 2 x 3 pixels have \(B, 6, 6\)"):
            shift_average(gram, 2, 3)


PEAK = """
import re, sys
from pathlib import Path
import torch
from spectralkd_nb.losses.discrepancy import gram_shares

def memory(line):
    return int(re.search(line + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

torch.set_num_threads(1)
gram_shares(torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4))
channels, side = int(sys.argv[1]), int(sys.argv[2])
student, teacher = torch.randn(64, channels, side, side), torch.randn(64, channels, side, side)
before = memory("VmRSS")
gram_shares(student, teacher)
print(memory("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize(("channels", "side"), [(64, 32), (2048, 8)])
def test_shares_take_little_memory_beside_the_features(channels, side):
    command = [sys.executable, "-c", PEAK, str(channels), str(side)]
    given_back = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1048576"}  # or glibc keeps up to 30 MiB of what is freed
    done = subprocess.run(command, env=given_back, capture_output=True, text=True, check=True)
    assert 0 <= float(done.stdout) < 64  # MiB; the Grams of the batch alone would be 512 at 32 pixels


def test_two_pixel_maps_are_unit_vectors_at_their_angles():
    degrees = torch.tensor([0.0, 90, 180, 60], dtype=torch.float64, requires_grad=True)
    maps = two_pixel_maps(degrees)
    assert maps.shape == (1, 4, 1, 2)
    expected = torch.tensor([[1, 0], [0, 1], [-1, 0], [0.5, 0.75**0.5]], dtype=torch.float64)
    assert_close(maps[0, :, 0], expected)
    assert_close(two_pixel_maps([0, 90, 180, 60]), maps.detach())
    (slope,) = torch.autograd.grad(maps[0, 3, 0, 0], degrees)
    assert_close(slope, torch.tensor([0, 0, 0, -np.deg2rad(1) * 0.75**0.5], dtype=torch.float64))


def test_two_pixel_neurons_that_only_a_gaussian_kernel_tells_apart():
    pair = two_pixel_maps([0, 90, 180, 270]), two_pixel_maps([0, 120, 240])  # means of 0, and Grams of one half
    found = {kernel: float(nst_loss(*pair, kernel, sigma=0.5)) for kernel in ("linear", "poly", "gaussian")}
    assert found["linear"] == pytest.approx(0, abs=1e-15)
    assert found["poly"] == pytest.approx(0, abs=1e-15)
    assert found["gaussian"] > 0.01
