"""What a loss on features listens to: against the full plane in numpy, what must hold, and the figures of it."""

import io
import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from spectralkd_nb.losses import (
    attention_loss,
    exponent_loss,
    fourier_loss,
    hint_loss,
    spectral_shape_loss,
    whitened_spectral_loss,
)
from spectralkd_nb.losses.frequency import (
    error_spectrum,
    gradient_agreement,
    gradient_spectrum,
    law_weights,
    octave_shares,
    shape_distance,
    weighted_maps,
)
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.plots import CaptionedFigure, losses
from spectralkd_nb.spectra import RadialSpectrum, fit_power_law, radial_spectrum

SIZES = [(32, 32), (16, 16), (8, 8), (4, 4), (12, 12), (7, 7), (9, 20)]
BETAS = [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.43]


def maps(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def fields(alpha: float, size: int = 32, images: int = 2, channels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = power_law_field(size, alpha, images * channels, generator, torch.float64)
    return drawn.unflatten(0, (images, channels))


def pair(size: tuple[int, int] = (16, 16), channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return 1 + maps(2, channels, *size), maps(2, channels, *size, seed=1).cumsum(-1)


def whitened(student, teacher):
    return whitened_spectral_loss(student, teacher, 1.7)


LOSSES = {
    "hint": hint_loss,
    "fourier": fourier_loss,
    "attention": attention_loss,
    "shape": spectral_shape_loss,
    "exponent": exponent_loss,
    "whitened": whitened,
}


# --- the full plane in numpy ---------------------------------------------------------------------


def full_plane(error: torch.Tensor) -> np.ndarray:
    """Mean square of each mode's share, (H, W): its sum is the mean square of the maps."""
    return (np.abs(np.fft.fft2(error.numpy())) ** 2).mean((0, 1)) / error[0, 0].numel() ** 2


def radius_of(height: int, width: int) -> np.ndarray:
    return np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))


def weights_of(height: int, width: int, beta: float) -> np.ndarray:
    weights = np.maximum(radius_of(height, width) * min(height, width), 1) ** beta
    return weights / weights.mean()


def by_ring(plane: np.ndarray) -> tuple[list[float], list[int]]:
    """Mean over each ring's modes, and how many they are."""
    side = min(plane.shape)
    radius = radius_of(*plane.shape)
    ring = np.where(radius <= 0.5 + 1e-12, np.floor(radius * side + 0.5), 0)
    rings = range(1, side // 2 + 1)
    return [plane[ring == k].mean() for k in rings], [int((ring == k).sum()) for k in rings]


def by_octave(plane: np.ndarray) -> dict[str | float, float]:
    """Sums of a plane over the mean, over each octave by its upper edge, over the corners."""
    radius = radius_of(*plane.shape)
    sums = {"mean": plane[0, 0], "corners": plane[radius > 0.5 + 1e-9].sum()}
    upper = 0.5
    while upper > 1 / max(plane.shape) - 1e-9:
        sums[upper] = plane[(radius > upper / 2 + 1e-9) & (radius <= upper + 1e-9)].sum()
        upper /= 2
    assert sum(sums.values()) == pytest.approx(plane.sum(), rel=1e-12)
    return sums


# --- the error -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_the_errors_spectrum_is_that_of_the_full_plane(size):
    student, teacher = pair(size)
    spectrum = error_spectrum(student, teacher)
    power, modes = by_ring(full_plane(student - teacher) * math.prod(size))
    assert spectrum.power.tolist() == pytest.approx(power, rel=1e-10)
    assert spectrum.modes.tolist() == modes
    assert (spectrum.maps, spectrum.shape, spectrum.edges) == (6, size, "none")


@pytest.mark.parametrize("side", [4, 7, 8, 32])
def test_the_errors_spectrum_and_what_is_in_no_ring_make_the_pixel_loss(side):
    student, teacher = pair((side, side))
    spectrum, octaves, loss = (f(student, teacher) for f in (error_spectrum, octave_shares, hint_loss))
    inside = float((spectrum.power * spectrum.modes).sum()) / side**2
    assert inside + float(loss) * (octaves.mean + octaves.corners) == pytest.approx(float(loss), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 1.7, -1.0])
@pytest.mark.parametrize("size", [*SIZES, (20, 20), (40, 24), (49, 20), (2, 3), (1, 4)])
def test_octave_shares_are_those_of_the_full_plane_and_sum_to_one(size, beta):
    student, teacher = pair(size)
    octaves = octave_shares(student, teacher, beta)
    plane = full_plane(student - teacher) * weights_of(*size, beta)
    expected, counted = by_octave(plane / plane.sum()), by_octave(np.ones(size))
    assert dict(zip(octaves.upper.tolist(), octaves.share.tolist(), strict=True)) == pytest.approx(
        {upper: share for upper, share in expected.items() if isinstance(upper, float)}, rel=1e-10
    )
    assert octaves.lower.tolist() == [upper / 2 for upper in octaves.upper.tolist()]
    assert octaves.upper.tolist() == sorted(octaves.upper.tolist())
    assert octaves.modes.tolist() == [counted[upper] for upper in octaves.upper.tolist()]
    assert (octaves.mean, octaves.corners) == pytest.approx((expected["mean"], expected["corners"]), rel=1e-10)
    assert octaves.corner_modes == counted["corners"]
    assert float(octaves.share.sum()) + octaves.mean + octaves.corners == pytest.approx(1, abs=1e-14)
    assert (octaves.beta, octaves.shape) == (beta, size)


@pytest.mark.parametrize("beta", [0.0, 1.7])
def test_an_octaves_share_is_what_the_loss_makes_of_that_octave_alone(beta):
    student, teacher = pair((16, 12))
    octaves, whole = octave_shares(student, teacher, beta), whitened_spectral_loss(student, teacher, beta)
    modes, radius = np.fft.fft2((student - teacher).numpy()), radius_of(16, 12)
    for lower, upper, share in zip(octaves.lower, octaves.upper, octaves.share, strict=True):
        inside = (radius > float(lower) + 1e-9) & (radius <= float(upper) + 1e-9)
        alone = torch.from_numpy(np.fft.ifft2(modes * inside).real)
        part = whitened_spectral_loss(alone, torch.zeros_like(alone), beta)
        assert float(part / whole) == pytest.approx(float(share), rel=1e-10)


@pytest.mark.parametrize("size", [12, 20, 28, 49, 64])
def test_a_wave_on_the_edge_of_two_octaves_belongs_to_the_lower(size):
    x = torch.arange(size, dtype=torch.float64)
    for cycles in range(1, size // 2 + 1):
        wave = torch.cos(2 * torch.pi * cycles * x / size).expand(1, 1, size, size)
        octaves = octave_shares(wave, torch.zeros_like(wave))
        (place,) = (octaves.share > 0.5).nonzero().flatten().tolist()
        exact = 2 * cycles * 2 ** (len(octaves.share) - 1 - place) / size  # f over the octave's upper edge
        assert 0.5 < exact <= 1
        assert float(octaves.share[place]) == pytest.approx(1, abs=1e-12)


def test_the_mean_and_the_corners_are_parts_of_their_own():
    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    assert octave_shares(ones, 0 * ones).mean == 1
    checkerboard = ones * (-1) ** (torch.arange(8)[:, None] + torch.arange(8))
    assert octave_shares(checkerboard, 0 * ones).corners == pytest.approx(1)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 2.0), (1.3, 1.3), (3.0, 3.0), (0.0, 0.0)])
def test_weighted_by_its_own_exponent_an_error_lies_in_octaves_as_modes_do(alpha, beta):
    error = fields(alpha, images=8, channels=16)
    octaves = octave_shares(error, torch.zeros_like(error), beta)
    per_mode = octaves.share / octaves.modes
    drawn = (2 / (octaves.modes * 128)).sqrt()  # relative sampling error of each octave's power
    assert ((per_mode * (32 * 32 - 1) - 1).abs() < 4 * drawn).all()
    assert octaves.corners == pytest.approx(octaves.corner_modes / (32 * 32 - 1), rel=0.05)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (1.3, -0.7), (3.0, 1.0)])
def test_weighted_by_two_less_an_error_lies_in_all_octaves_alike(alpha, beta):
    error = fields(alpha, size=64, images=8, channels=32)
    octaves = octave_shares(error, torch.zeros_like(error), beta)
    alike = octaves.share[2:].mean()
    drawn = (2 / (octaves.modes * 256)).sqrt()
    lattice = torch.tensor([0.92, 0.69, 0.97, 1.0, 1.0, 1.0])  # of so few modes, the lowest cannot but be uneven
    assert ((octaves.share / alike / lattice - 1).abs() < 0.03 + 4 * drawn).all()


def test_the_weights_have_mean_one_and_a_weighted_map_the_weighted_loss_for_its_mean_square():
    for size in SIZES:
        student, teacher = pair(size)
        weights = law_weights(*size, 1.7)
        assert weights.numpy() == pytest.approx(weights_of(*size, 1.7)[:, : size[1] // 2 + 1], rel=1e-12)
        seen = weighted_maps(student - teacher, 1.7)
        assert seen.shape == student.shape
        assert float(seen.square().mean()) == pytest.approx(float(whitened(student, teacher)), rel=1e-12)
        assert torch.allclose(weighted_maps(student, 0.0), student)


def test_the_distance_of_two_spectra_is_the_root_of_the_shape_loss_of_one_image():
    student, teacher = fields(1.0, images=1), fields(2.0, images=1, channels=5, seed=1)
    spectra = [radial_spectrum(x, "none").average() for x in (student, teacher)]
    distance = shape_distance(*spectra)
    assert distance == pytest.approx(float(spectral_shape_loss(student, teacher)) ** 0.5, rel=1e-9)
    louder = radial_spectrum(100 * student, "none").average()
    assert shape_distance(louder, spectra[1]) == pytest.approx(distance, rel=1e-6)
    assert shape_distance(louder, spectra[0]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="compare two averages over maps of one size"):
        shape_distance(spectra[0], radial_spectrum(fields(2.0, size=16), "none").average())
    with pytest.raises(ValueError, match="compare two averages"):
        shape_distance(spectra[0], radial_spectrum(teacher, "none"))


@pytest.mark.parametrize("measure", [error_spectrum, octave_shares])
def test_maps_that_do_not_fit_are_refused(measure):
    good = maps(2, 3, 16, 16)
    with pytest.raises(ValueError, match="differ in shape; apply a connector"):
        measure(good, good[:, :2])
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) is needed"):
        measure(good[0], good[0])
    with pytest.raises(TypeError, match=r"torch\.int64"):
        measure(good.long(), good)
    with pytest.raises(ValueError, match=r"NaN|nan"):
        measure(good * torch.nan, good)


def test_no_error_has_no_octaves():
    good = maps(2, 3, 16, 16)
    with pytest.raises(ValueError, match="squared error is 0; there is nothing to divide"):
        octave_shares(good, good)


# --- the gradient --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_gradients_of_hint_and_fourier_have_the_errors_spectrum(size):
    student, teacher = pair(size)
    expected = error_spectrum(student, teacher).power * (2 / student.numel()) ** 2
    for loss in (hint_loss, fourier_loss):
        assert torch.allclose(gradient_spectrum(loss, student, teacher).power, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_whitened_losss_gradient_has_the_errors_power_times_the_weights_squared(size):
    student, teacher = pair(size)
    plane = full_plane(student - teacher) * math.prod(size) * weights_of(*size, 1.7) ** 2
    found = gradient_spectrum(whitened, student, teacher)
    assert found.power.tolist() == pytest.approx([p * (2 / student.numel()) ** 2 for p in by_ring(plane)[0]], rel=1e-10)
    assert (found.shape, found.edges, found.maps) == (size, "none", 6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_and_zero_at_equality(name):
    student, teacher = pair((16, 20))
    power = gradient_spectrum(LOSSES[name], student, teacher).power
    assert torch.isfinite(power).all()
    assert power.max() > 0
    assert not gradient_spectrum(LOSSES[name], teacher, teacher).power.any()


def test_a_gradient_is_what_autograd_says():
    student, teacher = pair((8, 8), channels=2)
    leaf = student.clone().requires_grad_()
    spectral_shape_loss(leaf, teacher).backward()
    expected = by_ring(full_plane(leaf.grad) * 64)[0]
    assert gradient_spectrum(spectral_shape_loss, student, teacher).power.tolist() == pytest.approx(expected, rel=1e-9)


def test_channels_and_sizes_may_differ_where_the_loss_allows_it():
    student, teacher = maps(2, 3, 16, 16), maps(2, 5, 16, 16, seed=1)
    assert gradient_spectrum(attention_loss, student, teacher).maps == 6
    assert gradient_spectrum(spectral_shape_loss, student, maps(2, 5, 32, 32)).shape == (16, 16)


def test_nothing_of_the_callers_is_changed():
    student, teacher = (x.requires_grad_() for x in pair())
    before = student.detach().clone()
    connector = torch.nn.Conv2d(3, 3, 1).double()

    def connected(student, teacher):
        student.data.mul_(2)  # a loss that spoils its arguments
        return hint_loss(connector(student), teacher)

    gradient_spectrum(connected, student, teacher)
    assert student.grad is None
    assert teacher.grad is None
    assert connector.weight.grad is None
    assert torch.equal(student, before)


def test_gradients_are_found_where_the_caller_records_none():
    student, teacher = pair()
    expected = gradient_spectrum(hint_loss, student, teacher).power
    with torch.no_grad():
        assert torch.equal(gradient_spectrum(hint_loss, student, teacher).power, expected)
    with torch.inference_mode():
        inside = student + 0, teacher + 0
        assert torch.equal(gradient_spectrum(hint_loss, *inside).power, expected)


def test_gradients_of_half_precision_maps_do_not_vanish():
    student, teacher = (1e-3 * x for x in pair((32, 32)))
    low = gradient_spectrum(hint_loss, student.half(), teacher.half()).power  # about 1e-7, where float16 has one digit
    in_full = gradient_spectrum(hint_loss, student.half().double(), teacher.half().double()).power
    assert torch.allclose(low, in_full, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: t.mean(),
        lambda s, t: s.detach().mean(),
        lambda s, t: float(s.detach().mean()),
        lambda s, t: s,
        lambda s, t: torch.ones((), requires_grad=True) * 2,
    ],
)
def test_a_loss_without_gradient_is_refused_in_a_sentence(loss):
    with pytest.raises(ValueError, match="the loss gives the student no gradient; it must return one number"):
        gradient_spectrum(loss, *pair())


def test_agreement_is_the_cosine_between_gradients():
    student, teacher = pair()
    losses = {**LOSSES, "minus hint": lambda s, t: -3 * hint_loss(s, t), "nothing": lambda s, t: (0 * s).sum()}
    cosines = gradient_agreement(losses, student, teacher)
    names = list(losses)

    def between(first: str, second: str) -> float:
        return float(cosines[names.index(first), names.index(second)])

    assert cosines.shape == (8, 8)
    assert between("hint", "fourier") == pytest.approx(1, abs=1e-12)
    assert between("hint", "minus hint") == pytest.approx(-1, abs=1e-12)
    assert cosines[:-1, :-1].diagonal().tolist() == pytest.approx([1] * 7)
    assert torch.equal(cosines[:-1, :-1], cosines[:-1, :-1].T)
    assert cosines[:-1, :-1].abs().max() <= 1
    assert cosines[-1].isnan().all()
    # of hint and whitened by Parseval: sum of w p over the root of sum p times sum w^2 p
    power, weights = full_plane(student - teacher), weights_of(16, 16, 1.7)
    expected = (weights * power).sum() / math.sqrt(power.sum() * (weights**2 * power).sum())
    assert between("hint", "whitened") == pytest.approx(expected, rel=1e-10)


# --- figures -------------------------------------------------------------------------------------


def size_of(figure: CaptionedFigure) -> tuple[int, int]:
    return Image.open(io.BytesIO(figure.png())).size


def layout(figure: CaptionedFigure) -> list[tuple]:
    """Where each axis lies and what it spans."""
    return [(*axis.get_position().bounds, *axis.get_xlim(), *axis.get_ylim()) for axis in figure.figure.axes]


def features(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    teacher = fields(2.0, size)
    return teacher + 0.3 * fields(1.43, size, seed=1) + 0.1, teacher


@pytest.mark.parametrize("size", [32, 8, 4])
def test_weighted_errors_differ_in_captions_and_not_in_layout(size):
    student, teacher = features(size)
    states = [losses.weighted_error(student, teacher, beta, f"layer of {size} px") for beta in BETAS]
    captions = [state.caption for state in states]
    assert len(set(captions)) == len(BETAS)
    assert all(re.fullmatch(r"[^\n]+\.", caption) and len(caption) < 300 for caption in captions)
    assert all(layout(state) == layout(states[0]) for state in states)
    assert {size_of(state) for state in (states[0], states[-1])} == {(800, 320)}


def test_a_weighted_errors_figure_shows_what_the_loss_counts():
    student, teacher = features(16)
    student[0, 1] = teacher[0, 1] + 4 * fields(1.43, 16, seed=5)[0, 0]
    drawn = losses.weighted_error(student, teacher, 1.43, "layer2")
    octaves = octave_shares(student, teacher, 1.43)
    parts = [octaves.mean, *octaves.share.tolist(), octaves.corners]
    assert drawn.caption.startswith("layer2, weights f^1.43: ")
    caption = r": (.+) % of the loss in the mean, (.+) % in the octaves up to 1/16 \.\.\. 1/2, (.+) % beyond;"
    said = re.search(caption, drawn.caption)
    numbers = [float(number) for group in said.groups() for number in group.split(", ")]
    assert numbers == pytest.approx([100 * part for part in parts], abs=0.051)
    assert "in channel 1, has rms" in drawn.caption
    left, _, middle, right = drawn.figure.axes
    picture = torch.as_tensor(left.images[0].get_array().data)
    rms = float(re.search(r"has rms ([\d.]+) as", drawn.caption)[1])
    seen = weighted_maps((student - teacher)[0, 1], 1.43)
    assert rms == pytest.approx(float(seen.square().mean().sqrt()), rel=0.005)
    assert torch.allclose(picture.double() * rms, seen, rtol=0.01, atol=1e-3)
    assert [bar.get_height() for bar in right.patches] == pytest.approx([100 * part for part in parts])
    by_mode = right.lines[1].get_ydata()
    assert sum(by_mode) == pytest.approx(100)
    frequency, weight = middle.lines[1].get_data()
    slope = np.polyfit(np.log(frequency), np.log(weight), 1)[0]
    assert slope == pytest.approx(1.43)


def test_an_image_without_error_is_drawn_too():
    student, teacher = features(8)
    student[0] = teacher[0]
    assert "has rms 0 as weighted" in losses.weighted_error(student, teacher, 1.0, "layer3").caption


def test_the_pixel_loss_of_several_layers():
    errors = {f"{size} px": features(size) for size in (32, 16, 4)}
    drawn = losses.heard_by_frequency(errors, "a student")
    assert re.fullmatch(r"[^\n]+\.", drawn.caption)
    assert "4 px, no alpha can be fitted" in drawn.caption
    assert "32 px, alpha 1.4" in drawn.caption
    for name, maps_ in errors.items():
        octaves = octave_shares(*maps_)
        assert f"{', '.join(f'{100 * share:.1f}' for share in octaves.share)} % in the octaves up to" in drawn.caption
        assert f"{100 * octaves.mean:.1f} % of the loss in the mean" in drawn.caption.split(name)[1]
    left, right = drawn.figure.axes
    assert [tick.get_text() for tick in right.get_xticklabels()][:2] == ["mean", "1/32"]
    octaves = octave_shares(*errors["16 px"])
    assert right.lines[3].get_xdata().tolist() == [2, 3, 4, 5]  # its lowest octave is the second of the 32 pixels'
    assert right.lines[3].get_ydata().tolist() == pytest.approx((100 * octaves.share).tolist())
    assert right.lines[5].get_ydata()[0] == pytest.approx(100 * float(octaves.share.sum()) / 4)
    assert len(left.lines) == 3
    assert size_of(drawn)[0] == 800


def test_spectra_of_gradients_compare_in_shape_only():
    student, teacher = features(32)
    spectra = {name: gradient_spectrum(loss, student, teacher) for name, loss in LOSSES.items()}
    error = error_spectrum(student, teacher)
    drawn = losses.gradient_spectra(spectra, error, "layer1")
    reference, *curves = (line.get_ydata() for line in drawn.figure.axes[0].lines)
    assert np.average(reference, weights=error.modes) == pytest.approx(1)
    assert curves[0] == pytest.approx(reference)
    high = [float((s.power * s.modes)[8:].sum() / (s.power * s.modes).sum()) for s in (error, *spectra.values())]
    said = [float(number) for number in re.findall(r"(\d+) % of", drawn.caption)]
    assert said == pytest.approx([100 * share for share in high], abs=0.51)
    assert drawn.caption.startswith("layer1: in rings above f = 0.25 lie ")
    assert drawn.caption.endswith(" % of whitened.")
    assert drawn.figure.axes[0].get_ylim()[0] >= 1e-5  # the exponent's gradient is next to nothing outside its band
    assert size_of(drawn)[0] == 800
    with pytest.raises(ValueError, match="the gradient of hint has no power"):
        losses.gradient_spectra({"hint": gradient_spectrum(hint_loss, teacher, teacher)}, error, "layer1")


def spectrum_of(alpha: float, size: int = 16, seed: int = 0) -> RadialSpectrum:
    return radial_spectrum(fields(alpha, size, images=4, channels=8, seed=seed)).average()


def test_a_students_spectrum_moves_towards_its_teachers():
    teacher = spectrum_of(1.0)
    spectra = {epoch: spectrum_of(alpha, seed=epoch) for epoch, alpha in {0: 2.5, 1: 2.0, 2: 1.5, 8: 1.1}.items()}
    states = {epoch: losses.spectra_while_learning(spectra, teacher, epoch, "layer2") for epoch in spectra}
    captions = [state.caption for state in states.values()]
    assert len(set(captions)) == len(spectra)
    assert all(re.fullmatch(r"[^\n]+\.", caption) and len(caption) < 300 for caption in captions)
    assert captions[0].startswith("layer2, before training: alpha ")
    assert captions[-1].startswith("layer2, after epoch 8: alpha ")
    assert "(0.094 to 0.45 cycles a pixel)" in captions[0]
    for epoch, caption in zip(spectra, captions, strict=True):
        said = re.search(r": alpha (\S+), the teacher's (\S+) .* factor of (\S+)\.$", caption)
        alpha, goal, factor = map(float, said.groups())
        fitted = [float(fit_power_law(spectrum).alpha) for spectrum in (spectra[epoch], teacher)]
        assert (alpha, goal) == pytest.approx(fitted, abs=0.0051)
        assert math.log(factor) == pytest.approx(shape_distance(spectra[epoch], teacher), abs=0.01)
    assert all(layout(first) == layout(second) for first, second in combinations(states.values(), 2))
    assert {size_of(states[epoch]) for epoch in (0, 8)} == {(800, 360)}
    _, above, below = states[1].figure.axes
    alphas = [float(fit_power_law(spectrum).alpha) for spectrum in spectra.values()]
    assert above.lines[1].get_ydata().tolist() == pytest.approx(alphas)
    assert above.lines[2].get_xydata().tolist() == [pytest.approx([1, alphas[1]])]
    assert below.lines[2].get_xydata().tolist() == [pytest.approx([1, shape_distance(spectra[1], teacher)])]
    labels = [line.get_label() for line in states[1].figure.axes[0].lines]
    assert labels[-1] == "student after epoch 1"
    assert len(labels) == 5
    with pytest.raises(ValueError, match="no spectrum of epoch 3; the epochs are 0, 1, 2, 8"):
        losses.spectra_while_learning(spectra, teacher, 3, "layer2")


def test_maps_of_four_pixels_have_a_distance_and_no_exponent():
    spectra = {epoch: spectrum_of(alpha, 4) for epoch, alpha in {0: 2.5, 30: 1.5}.items()}
    drawn = losses.spectra_while_learning(spectra, spectrum_of(1.0, 4), 30, "layer4")
    assert "after epoch 30: no alpha can be fitted; relative" in drawn.caption
    assert size_of(drawn) == (800, 360)
