"""Spectral losses: against loops in numpy, and what they must and must not see."""

import math

import numpy as np
import pytest
import torch

from spectralkd_nb.losses.spectral import _ChannelPower, exponent_loss, spectral_shape_loss, whitened_spectral_loss
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import EDGES, fit_power_law, mode_frequencies, power_spectrum, radial_spectrum


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fields(alpha: float, size: int | tuple[int, int] = 32, images: int = 2, channels: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    drawn = power_law_field(size, alpha, images * channels, generator, torch.float64)
    return drawn.unflatten(0, (images, channels))


def whitened(student, teacher):
    return whitened_spectral_loss(student, teacher, 1.7)


LOSSES = [spectral_shape_loss, exponent_loss, whitened]
SHAPES = [spectral_shape_loss, exponent_loss]  # those that see the shapes of spectra only


# --- against loops, one number at a time ---------------------------------------------------------


def ring_powers(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power, number of modes and mean radius (cycles a pixel) of each ring of one image (C, H, W), at a common size."""
    power = (np.abs(np.fft.fft2(image)) ** 2).mean(0) / image[0].size
    side = min(size)
    found = {k: [] for k in range(1, side // 2 + 1)}
    for ky in range(-(size[0] // 2), (size[0] + 1) // 2):
        for kx in range(-(size[1] // 2), (size[1] + 1) // 2):
            radius = math.hypot(ky / size[0], kx / size[1])
            ring = math.floor(radius * side + 0.5)
            if ring in found and radius <= 0.5 + 1e-12:
                found[ring].append((power[ky, kx], radius))
    rows = [(np.mean([p for p, _ in ring]), len(ring), np.mean([r for _, r in ring])) for ring in found.values()]
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def floored(power: np.ndarray, modes: np.ndarray) -> tuple[np.ndarray, float]:
    mean = np.average(power, weights=modes)
    return power + 1e-6 * mean + 1e-12, mean + 1e-6 * mean + 1e-12


def expected_shape(student: np.ndarray, teacher: np.ndarray) -> float:
    size = tuple(np.minimum(student.shape[-2:], teacher.shape[-2:]))
    losses = []
    for pair in zip(student, teacher, strict=True):
        logs = []
        for image in pair:
            power, modes, _ = ring_powers(image, size)
            power, mean = floored(power, modes)
            logs.append(np.log(power / mean))
        losses.append(np.average((logs[0] - logs[1]) ** 2, weights=modes))
    return np.mean(losses)


def expected_exponent(student: np.ndarray, teacher: np.ndarray, band: tuple[float, float]) -> float:
    size = tuple(np.minimum(student.shape[-2:], teacher.shape[-2:]))
    losses = []
    for pair in zip(student, teacher, strict=True):
        alphas = []
        for image in pair:
            power, modes, radius = ring_powers(image, size)
            power, _ = floored(power, modes)
            inside = (radius >= band[0]) & (radius <= band[1])
            slope, _ = np.polyfit(np.log(radius[inside]), np.log(power[inside]), 1, w=np.sqrt(modes[inside]))
            alphas.append(-slope)
        losses.append((alphas[0] - alphas[1]) ** 2)
    return np.mean(losses)


def expected_whitened(student: np.ndarray, teacher: np.ndarray, beta: float) -> float:
    height, width = student.shape[-2:]
    power = np.abs(np.fft.fft2(student - teacher)) ** 2 / (height * width) ** 2
    ratio = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) * min(height, width)
    weights = np.where(ratio < 1, 1, ratio) ** beta
    return (weights / weights.mean() * power).sum((-2, -1)).mean()


SIZES = [((16, 16), (16, 16)), ((15, 15), (15, 15)), ((16, 22), (16, 22)), ((16, 16), (32, 32)), ((30, 21), (19, 25))]


@pytest.mark.parametrize(("student_size", "teacher_size"), SIZES)
def test_shape_and_exponent_agree_with_loops_over_modes(student_size, teacher_size):
    student, teacher = 3 + maps(2, 3, *student_size), maps(2, 5, *teacher_size, seed=1).cumsum(-1)
    expected = expected_shape(student.numpy(), teacher.numpy())
    assert float(spectral_shape_loss(student, teacher)) == pytest.approx(expected, rel=1e-10)
    assert float(spectral_shape_loss(student.float(), teacher.float())) == pytest.approx(expected, rel=1e-4)
    expected = expected_exponent(student.numpy(), teacher.numpy(), (0.06, 0.5))
    assert float(exponent_loss(student, teacher, (0.06, 0.5))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (6, 9), (4, 12), (2, 3)])
@pytest.mark.parametrize(("alpha", "balance", "beta"), [(1.7, "mode", 1.7), (1.7, "octave", -0.3), (-1, "mode", -1)])
def test_the_whitened_loss_agrees_with_the_full_plane_in_numpy(size, alpha, balance, beta):
    student, teacher = maps(2, 3, *size), 1 + maps(2, 3, *size, seed=1)
    expected = expected_whitened(student.numpy(), teacher.numpy(), beta)
    assert float(whitened_spectral_loss(student, teacher, alpha, balance)) == pytest.approx(expected, rel=1e-12)
    low = whitened_spectral_loss(student.float(), teacher.float(), alpha, balance)
    assert float(low) == pytest.approx(expected, rel=1e-5)


def test_golden_values():
    student = torch.linspace(-1, 1, 2 * 2 * 16 * 16, dtype=torch.float64).mul(40).sin().reshape(2, 2, 16, 16)
    teacher = torch.linspace(-1, 1, 2 * 2 * 16 * 16, dtype=torch.float64).square().mul(70).cos().reshape(2, 2, 16, 16)
    values = [loss(student, teacher).item() for loss in LOSSES]
    assert values == pytest.approx([6.223260559299152, 12.606823255118845, 0.5105526012665191], rel=1e-9)  # the loops'


# --- what holds for each -------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_zero_at_equality_with_no_gradient_and_positive_elsewhere(loss):
    teacher = maps(2, 3, 16, 16)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.shape == ()
    assert float(value.detach()) == 0
    assert not gradient.any()
    assert float(loss(maps(2, 3, 16, 16, seed=1), teacher)) > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_is_the_students_alone_and_right(loss):
    student, teacher = maps(2, 3, 14, 15).requires_grad_(), maps(2, 3, 14, 15, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().min() > 0
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher[:1, :2]), maps(1, 2, 14, 15).requires_grad_())


@pytest.mark.parametrize("loss", SHAPES)
def test_gradients_through_unequal_sizes_are_right(loss):
    small, large = maps(1, 2, 14, 14), maps(1, 1, 17, 20, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, large), small.requires_grad_())
    assert torch.autograd.gradcheck(lambda x: loss(x, small), large.requires_grad_())


@pytest.mark.parametrize("edges", EDGES)
def test_gradients_with_every_edge_treatment_are_right(edges):
    teacher = maps(1, 3, 9, 9)
    assert torch.autograd.gradcheck(
        lambda x: spectral_shape_loss(x, teacher, edges), maps(1, 2, 8, 8, seed=1).requires_grad_()
    )


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (1, 4)])
def test_power_over_channels_is_that_of_power_spectrum_and_its_gradient_holds_for_any_weights(size):
    student = maps(2, 3, *size)
    assert torch.autograd.gradcheck(_ChannelPower.apply, student.requires_grad_())
    if min(size) >= 4:
        centred = student.detach() - student.detach().mean((-2, -1), keepdim=True)
        assert torch.allclose(_ChannelPower.apply(centred), power_spectrum(student.detach(), "none").mean(1))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_maps_leave_loss_and_gradient_finite(loss, dtype):
    alive = fields(2).to(dtype)
    nearly = 1e-20 * alive
    one_dead = torch.stack([torch.full_like(alive[0], 5.3), alive[1]])
    for student, teacher in [
        (torch.zeros_like(alive), alive),
        (torch.full_like(alive, 5.3), alive),
        (nearly, alive),
        (one_dead, alive),
        (alive, one_dead),
        (alive, torch.zeros_like(alive)),
        (torch.zeros_like(alive), torch.zeros_like(alive)),
    ]:
        student = student.clone().requires_grad_()
        value = loss(student, teacher)
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()
        assert float(gradient.abs().max()) < 1e3  # about 1 for the living


@pytest.mark.parametrize("loss", SHAPES)
def test_a_ring_without_power_leaves_the_gradient_finite(loss):
    x = torch.arange(32, dtype=torch.float64)
    student = torch.cos(2 * torch.pi * 3 * x / 32).expand(2, 1, 32, 32).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, fields(2)), student)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(loss, dtype):
    student, teacher = (x.to(dtype) for x in (fields(1), fields(2, seed=1)))
    student.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(student, teacher)
    assert float(low.detach()) == pytest.approx(float(loss(student.detach().double(), teacher.double())), rel=1e-4)
    (gradient,) = torch.autograd.grad(low, student)
    assert gradient.dtype == dtype
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_maps_that_do_not_fit_are_refused(loss):
    good = maps(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) is needed"):
        loss(good[0], good)
    with pytest.raises(ValueError, match="the teacher's maps have shape"):
        loss(good, good[:0])
    with pytest.raises(ValueError, match="1 images of the student's and 2 of the teacher's"):
        loss(good[:1], good)
    with pytest.raises(TypeError, match=r"the student's maps are torch\.int64"):
        loss(good.long(), good)
    with pytest.raises(TypeError, match=r"the teacher's maps are torch\.complex128"):
        loss(good, good + 0j)


# --- shape and exponent --------------------------------------------------------------------------


@pytest.mark.parametrize("loss", SHAPES)
def test_neither_scale_nor_channels_nor_place_count(loss):
    student, teacher = fields(1), fields(2, channels=5, seed=1)
    value = float(loss(student, teacher))
    for other in [100 * student, 0.01 * student, student - 7, student.flip(1), student.roll((3, -5), (-2, -1))]:
        assert float(loss(other, teacher)) == pytest.approx(value, rel=1e-6)
    for other in [100 * teacher, teacher.flip(1), teacher.repeat(1, 2, 1, 1), teacher.roll(4, -1)]:
        assert float(loss(student, other)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("loss", SHAPES)
def test_maps_are_not_averaged_before_their_power_is(loss):
    # Two channels that cancel: their average is dead, their spectra are not.
    student = fields(2, channels=1)
    assert float(loss(torch.cat([student, -student], 1), student)) == pytest.approx(0, abs=1e-20)


@pytest.mark.parametrize("loss", SHAPES)
@pytest.mark.parametrize(("small", "large"), [((16, 16), (32, 32)), ((15, 15), (32, 32)), ((16, 14), (24, 35))])
def test_one_picture_sampled_twice_has_no_loss(loss, small, large):
    modes = torch.fft.rfft2(fields(1.5, small))
    fy, fx = mode_frequencies(*small)
    modes = modes * ((fy > -0.5) & (fx < 0.5))  # a mode at Nyquist is half of one on the larger plane
    finer = torch.zeros(2, 3, large[0], large[1] // 2 + 1, dtype=modes.dtype)
    up = (small[0] + 1) // 2
    finer[:, :, :up, : modes.shape[-1]] = modes[:, :, :up]
    finer[:, :, up - small[0] :, : modes.shape[-1]] = modes[:, :, up:]
    student, teacher = torch.fft.irfft2(modes, s=small), torch.fft.irfft2(finer, s=large)
    assert float(loss(student, teacher)) == pytest.approx(0, abs=1e-18)
    assert float(loss(teacher, student)) == pytest.approx(0, abs=1e-18)


def test_detail_beyond_the_smaller_maps_nyquist_is_not_compared():
    small, large = fields(2, 16), fields(2, 32, seed=1)
    x = torch.arange(32, dtype=torch.float64)
    detail = torch.cos(2 * torch.pi * 12 * x / 32)  # 12 cycles a picture; the small map holds 8
    assert float(spectral_shape_loss(small, large + detail)) == pytest.approx(float(spectral_shape_loss(small, large)))


@pytest.mark.parametrize("size", [32, 14])
def test_alpha_2_and_3_are_1_apart(size):
    student, teacher = fields(2, size, 8, 64), fields(3, size, 8, 64, seed=1)
    assert float(exponent_loss(student, teacher)) == pytest.approx(1, abs=0.1)


def test_the_exponents_are_those_of_the_weighted_line():
    student, teacher = fields(1), fields(2, seed=1)
    spectra = (radial_spectrum(x, "none") for x in (student, teacher))
    alphas = [
        fit_power_law(type(s)(s.frequency, s.power.mean(1), s.modes, 1, s.shape, "none"), method="weighted").alpha
        for s in spectra
    ]
    expected = float((alphas[0] - alphas[1]).square().mean())
    assert float(exponent_loss(student, teacher)) == pytest.approx(expected, rel=1e-4)  # but for the floor


def test_power_tilted_by_one_power_of_f_moves_alpha_by_one_whatever_the_law():
    student = fields(0).relu()
    fy, fx = mode_frequencies(32, 32)
    radius = torch.hypot(fy, fx)
    radius[0, 0] = 1
    teacher = torch.fft.irfft2(torch.fft.rfft2(student) * radius**-0.5, s=(32, 32))
    assert float(exponent_loss(student, teacher)) == pytest.approx(1, abs=0.02)


def test_maps_of_too_few_rings_have_no_exponent():
    with pytest.raises(ValueError, match=r"maps of 8 x 8 pixels have 3 rings between 0\.0625 and 0\.45"):
        exponent_loss(fields(1, 8), fields(1, 32))
    with pytest.raises(ValueError, match=r"maps of 32 x 32 pixels have 3 rings between 0\.1 and 0\.2"):
        exponent_loss(fields(1), fields(1), (0.1, 0.2))
    with pytest.raises(ValueError, match="is no pair of frequencies"):
        exponent_loss(fields(1), fields(1), 0.3)
    with pytest.raises(ValueError, match="maps of 3 x 3 pixels have no spectrum"):
        spectral_shape_loss(fields(1, 8), maps(2, 3, 3, 3))
    with pytest.raises(ValueError, match="edges='wrong' is not known"):
        spectral_shape_loss(fields(1), fields(1), "wrong")


# --- the whitened loss ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (5, 12)])
@pytest.mark.parametrize(("alpha", "balance"), [(0, "mode"), (2, "octave")])
def test_without_weights_it_is_the_mean_squared_difference(size, alpha, balance):
    student, teacher = maps(2, 3, *size).requires_grad_(), 1 + maps(2, 3, *size, seed=1)
    value, hint = whitened_spectral_loss(student, teacher, alpha, balance), (student - teacher).square().mean()
    assert float(value.detach()) == pytest.approx(float(hint.detach()), rel=1e-13)
    gradients = [torch.autograd.grad(x, student)[0] for x in (value, hint)]
    assert torch.allclose(*gradients, rtol=1e-10, atol=1e-16)


def test_nothing_jumps_near_beta_0():
    student, teacher = fields(1), 1 + fields(2, seed=1)
    values = [float(whitened_spectral_loss(student, teacher, beta)) for beta in (-2e-4, -1e-4, 0, 1e-4, 2e-4)]
    steps = np.diff(values)
    assert np.abs(steps).max() < 1e-3 * values[2]
    assert steps == pytest.approx(np.full(4, steps.mean()), rel=1e-2)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_the_balances_weigh_modes_and_octaves_alike(alpha):
    # A difference with the spectrum of the law, one mode or one octave at a time.
    fy, fx = mode_frequencies(64, 64)
    radius = torch.hypot(fy, fx)
    radius[0, 0] = 1

    def loss_of(inside, balance):
        one = torch.where(inside, radius ** (-alpha / 2), 0.0).to(torch.complex128)
        difference = torch.fft.irfft2(one, s=(64, 64))[None, None]
        return float(whitened_spectral_loss(difference, torch.zeros_like(difference), alpha, balance))

    place = torch.arange(33)
    modes = [loss_of((fy == 0) & (place == k), "mode") for k in (1, 2, 5, 20)]
    assert modes == pytest.approx([modes[0]] * 4, rel=1e-10)
    octaves = [loss_of((radius * 64 >= low) & (radius * 64 < 2 * low), "octave") for low in (4, 8, 16)]
    assert octaves == pytest.approx([octaves[-1]] * 3, rel=0.12)  # few modes make ragged octaves


def test_the_mean_of_the_maps_weighs_what_the_lowest_frequency_does():
    teacher = maps(1, 1, 16, 16)
    x = torch.arange(16, dtype=torch.float64)
    wave = math.sqrt(2) * torch.cos(2 * torch.pi * x / 16)
    values = [float(whitened_spectral_loss(teacher + extra, teacher, 2)) for extra in (1, wave, wave[:, None])]
    assert values == pytest.approx([values[0]] * 3, rel=1e-10)


def test_it_hears_high_frequencies_that_a_pixel_loss_does_not():
    teacher = fields(2, images=4)
    high = fields(-2, images=4, seed=1)
    low = fields(4, images=4, seed=2)

    def relative(loss):
        return float(loss(teacher + 0.1 * high, teacher)) / float(loss(teacher + 0.1 * low, teacher))

    def pixels(student, teacher):
        return (student - teacher).square().mean()

    assert relative(pixels) == pytest.approx(1, rel=0.3)
    assert relative(lambda s, t: whitened_spectral_loss(s, t, 2)) > 10 * relative(pixels)


def test_what_it_cannot_weigh_is_refused():
    student = maps(2, 3, 8, 8)
    with pytest.raises(ValueError, match="apply a connector"):
        whitened_spectral_loss(student, maps(2, 4, 8, 8), 2)
    with pytest.raises(ValueError, match="balance='ring' is not known"):
        whitened_spectral_loss(student, student, 2, "ring")
    for alpha in (math.nan, math.inf, 1e4):
        with pytest.raises(ValueError, match="no weights follow"):
            whitened_spectral_loss(student, student, alpha)
