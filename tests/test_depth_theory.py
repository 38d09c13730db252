"""What kernels should do to alpha: against convolutions as torch does them, and against the recursion written again."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.depth_law.theory import (
    ESTIMATORS,
    depth_recursion,
    filter_gains,
    kernel_transfer,
    linear_filter_gain,
    random_kernel_transfer,
    transfer_gain,
)
from spectralkd_nb.networks import RandomNetwork, build, draw_kernels, list_layers, reestimate_batch_norm
from spectralkd_nb.operations import BINOMIAL, BOX, after_filter, after_relu, power_law_power, predicted_exponent
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import mode_frequencies, mode_weights, power_spectrum, rings_of

SIZE = 128
BAND = (3 / 128, 0.35)
DELTA = F.pad(torch.ones(1, 1), (1, 1, 1, 1))
ALONG_ROWS = torch.tensor([[1.0, 2.0, 1.0]])


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fields(n: int, channels: int, alpha: float = 2.0, size: int = SIZE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return power_law_field(size, alpha, n * channels, generator).unflatten(0, (n, channels))


def convolved(maps: Tensor, weights: Tensor) -> Tensor:
    """Circular, by torch: (B, C, H, W) and (outputs, C, 3, 3)."""
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="circular"), weights)


def full_plane_mean(transfer: Tensor) -> float:
    return float((transfer * mode_weights(2 * (transfer.shape[1] - 1))).mean(0).sum() / transfer.shape[0])


def drawn_kernels(outputs: int, inputs: int, *of_taps: float, seed: int = 0) -> Tensor:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return draw_kernels(outputs, inputs, *of_taps)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# --- what a kernel lets through -----------------------------------------------------------------


def test_the_transfer_of_one_input_is_the_measured_ratio_of_power_mode_by_mode():
    weights, maps = noise(5, 1, 3, 3), noise(1, 1, 16, 16, seed=1)
    ratio = power_spectrum(convolved(maps, weights), "none").mean(1) / power_spectrum(maps, "none")[:, 0]
    inside = torch.arange(16 * 9).reshape(16, 9) > 0  # the mean is taken off, and has no ratio
    torch.testing.assert_close(ratio[0][inside], kernel_transfer(weights, 16)[inside], rtol=1e-9, atol=0)


def test_the_transfer_of_incoherent_inputs_is_the_measured_ratio_mode_by_mode():
    """Inputs that are never there together, and of one power, have no cross spectra in the average over images."""
    weights, field = noise(5, 4, 3, 3), noise(16, 16, seed=1)
    maps = torch.eye(4, dtype=torch.float64)[:, :, None, None] * field
    ratio = power_spectrum(convolved(maps, weights), "none").mean((0, 1)) / power_spectrum(maps, "none").mean((0, 1))
    transfer = kernel_transfer(weights, 16)
    torch.testing.assert_close(ratio.flatten()[1:], transfer.flatten()[1:], rtol=1e-9, atol=0)


@pytest.mark.parametrize("side", [1, 2, 3, 5])
@pytest.mark.parametrize("channels", [(3, 2), (1, 1), (6, 8)])
def test_the_transfer_is_the_sum_over_taps_by_its_definition(channels, side):
    weights = noise(*channels, side, side).numpy()
    fy, fx = np.fft.fftfreq(12)[:, None], np.fft.rfftfreq(12)[None]
    h = sum(
        weights[:, :, y, x, None, None] * np.exp(-2j * np.pi * (fy * y + fx * x))
        for y in range(side)
        for x in range(side)
    )
    expected = (np.abs(h) ** 2).sum(1).mean(0)
    np.testing.assert_allclose(kernel_transfer(torch.tensor(weights), 12).numpy(), expected, rtol=1e-11)


def test_one_kernel_is_that_of_a_filter():
    power = power_law_power(32, 1.0)
    torch.testing.assert_close(power * kernel_transfer(BINOMIAL, 32), after_filter(power, BINOMIAL))
    assert torch.equal(kernel_transfer(BINOMIAL, 32), kernel_transfer(BINOMIAL[None, None], 32))
    assert kernel_transfer(nn.Parameter(BINOMIAL), 32).requires_grad is False


@pytest.mark.parametrize(("correlation", "shared"), [(0.0, 0.0), (0.3, 0.0), (-0.4, 0.0), (0.0, 0.7), (0.5, 0.5)])
def test_the_transfer_of_random_kernels_is_the_mean_over_drawn_ones(correlation, shared):
    drawn = drawn_kernels(2000, 20, correlation, shared)
    expected = random_kernel_transfer(16, correlation, shared)
    # Of 40000 kernels: |h|^2 has a deviation of 1 to 1.4 of its mean, and this is 4 of the mean's.
    torch.testing.assert_close(kernel_transfer(drawn, 16), expected, rtol=0.03, atol=0)
    assert full_plane_mean(expected) == pytest.approx(2, abs=1e-12)


def test_white_kernels_are_flat():
    torch.testing.assert_close(random_kernel_transfer(16), torch.full((16, 9), 2.0, dtype=torch.float64))


@pytest.mark.parametrize(("correlation", "shared"), [(0.0, 0.0), (0.4, 0.0), (0.3, 0.6)])
def test_taps_vary_together_as_asked(correlation, shared):
    inputs = 50
    taps = drawn_kernels(800, inputs, correlation, shared).flatten(2).flatten(0, 1).double()
    y, x = np.divmod(np.arange(9), 3)
    distance = np.abs(y[:, None] - y) + np.abs(x[:, None] - x)
    expected = 2 / (9 * inputs) * (correlation**distance + shared**2) / (1 + shared**2)
    found = (taps.T @ taps / len(taps)).numpy()
    assert np.abs(found - expected).max() < 0.03 * expected[0, 0]
    assert taps.mean().abs() < 0.01 * expected[0, 0] ** 0.5
    assert found.diagonal() == pytest.approx(2 / (9 * inputs), rel=0.03)


def test_kernels_that_cannot_be_are_refused():
    for draw in (lambda *taps: draw_kernels(2, 2, *taps), lambda *taps: random_kernel_transfer(16, *taps)):
        for correlation in (1, -1, 1.5, math.nan):
            with pytest.raises(ValueError, match=r"correlation=\S+ is none that taps can have; give more than -1"):
                draw(correlation)
    with pytest.raises(ValueError, match="shared=-1 is a deviation; give 0 or more"):
        draw_kernels(2, 2, 0.0, -1)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 3\); \(outputs, inputs, h, w\) or \(h, w\) is wanted"):
        kernel_transfer(torch.ones(2, 3, 3))
    for size in (15, 4):
        with pytest.raises(ValueError, match=f"size={size} must be even and no smaller than the kernel"):
            kernel_transfer(torch.ones(5, 5), size)


@pytest.mark.parametrize("shape", [(0, 3, 3, 3), (3, 0, 3, 3), (0, 3), (2, 2, 3, 0)])
def test_kernels_without_a_tap_are_refused(shape):
    with pytest.raises(ValueError, match=rf"weights of shape {re.escape(str(shape))} are empty, or hold NaN"):
        kernel_transfer(torch.ones(shape), 16)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_single_tap_that_is_no_number_is_refused(value):
    weights = noise(4, 3, 3, 3)
    weights[2, 1, 0, 2] = value
    for asked in (kernel_transfer, linear_filter_gain):
        with pytest.raises(ValueError, match=r"shape \(4, 3, 3, 3\) are empty, or hold NaN or infinite values"):
            asked(weights, 16)
    network = build("resnet8", 10)
    network.layer2[0].conv1.weight.data[0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="hold NaN or infinite values"):
        filter_gains(network, 16)


# --- kappa --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "gain"),
    [
        (torch.ones(3, 3), 3.11),
        (BINOMIAL, 1.56),
        (BOX, 0.78),
        (DELTA, 0.0),
        (DELTA + 0.1 * BINOMIAL, 0.08),
        (DELTA + 0.3 * BINOMIAL, 0.22),
        (DELTA + BINOMIAL, 0.55),
    ],
    ids=["3 x 3 box", "binomial", "2 x 2 box", "nothing", "residual 0.1", "residual 0.3", "residual 1"],
)
def test_the_gain_of_well_known_filters(kernel, gain):
    assert linear_filter_gain(kernel, SIZE, BAND) == pytest.approx(gain, abs=0.005)


@pytest.mark.parametrize(
    ("correlation", "shared", "gain"),
    [(0, 0, 0), (0.1, 0, 0.14), (0.2, 0, 0.28), (0.3, 0, 0.44), (0.5, 0, 0.78), (0, 0.2, 0.18)],
)
def test_the_gain_of_random_kernels(correlation, shared, gain):
    assert transfer_gain(random_kernel_transfer(SIZE, correlation, shared), BAND) == pytest.approx(gain, abs=0.005)


def test_the_gain_is_the_slope_of_a_weighted_line_through_all_modes():
    power = kernel_transfer(noise(3, 2, 3, 3), 32).numpy()
    fy, fx = np.fft.fftfreq(32)[:, None], np.fft.fftfreq(32)[None]
    full = np.concatenate([power, np.roll(power[::-1, 15:0:-1], 1, 0)], 1)  # the mirror of the half plane
    radius = np.hypot(fy, fx)
    inside = (radius >= 0.1) & (radius <= 0.4)
    slope = np.polyfit(np.log(radius[inside]), np.log(full[inside]), 1)[0]
    assert transfer_gain(torch.tensor(power), (0.1, 0.4)) == pytest.approx(-slope, abs=1e-12)


def test_the_gain_on_rings_is_the_slope_of_a_line_through_their_averages():
    transfer = kernel_transfer(noise(3, 2, 3, 3), 32)
    rings = rings_of(transfer, (32, 32))
    inside = (rings.frequency >= 0.1) & (rings.frequency <= 0.4)
    x, y, modes = (values[inside].numpy() for values in (rings.frequency.log(), rings.power.log(), rings.modes))
    slope = np.polyfit(x, y, 1, w=modes**0.5)[0]
    assert transfer_gain(transfer, (0.1, 0.4), "rings") == pytest.approx(-slope, abs=1e-12)


def test_gains_add_up_on_modes_whatever_the_spectrum():
    first, second = noise(3, 3), noise(3, 3, seed=1)
    alone = [linear_filter_gain(kernel, SIZE, BAND) for kernel in (first, second)]
    for seed in (2, 3):
        power = power_law_power(SIZE, 2.0) * noise(SIZE, SIZE // 2 + 1, seed=seed).exp()
        together = transfer_gain(after_filter(after_filter(power, first), second), BAND)
        assert together - transfer_gain(power, BAND) == pytest.approx(sum(alone), abs=1e-10)
        of_rings = predicted_exponent(after_filter(power, first), BAND).alpha - predicted_exponent(power, BAND).alpha
        assert abs(float(of_rings) - alone[0]) > 1e-3


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gain_does_not_ask_for_scale(estimator):
    kernels = noise(4, 3, 3, 3)
    gain = linear_filter_gain(kernels, SIZE, BAND, estimator)
    assert linear_filter_gain(-7 * kernels, SIZE, BAND, estimator) == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_gain_of_a_power_law_is_its_exponent(estimator):
    assert transfer_gain(power_law_power(SIZE, 2.5), BAND, estimator) == pytest.approx(2.5, abs=0.01)


def test_modes_and_rings_agree_where_power_depends_on_the_radius_alone():
    radius = torch.hypot(*mode_frequencies(SIZE, SIZE))
    for transfer in (1 / (1 + 5 * radius), torch.exp(-4 * radius.square())):
        on_modes, on_rings = (transfer_gain(transfer, BAND, name) for name in ESTIMATORS)
        assert on_modes == pytest.approx(on_rings, abs=0.01)  # rings have a width
    on_modes, on_rings = (linear_filter_gain(ALONG_ROWS, SIZE, BAND, name) for name in ESTIMATORS)
    assert on_modes > on_rings + 0.2


def test_without_a_band_the_gain_takes_that_of_the_fits():
    assert linear_filter_gain(BINOMIAL, 64) == linear_filter_gain(BINOMIAL, 64, (1.5 / 64, 0.45))


def test_a_filter_that_stops_a_mode_has_a_gain_on_rings_alone():
    box = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r'nothing of 0\.333 cycles a pixel through; take estimator="rings"'):
        linear_filter_gain(box, 96, BAND)
    with pytest.raises(ValueError, match="lets nothing of"):
        linear_filter_gain(noise(8, 8, 1, 1) * box, 96, BAND)
    assert linear_filter_gain(box, 96, BAND, "rings") > 2
    assert linear_filter_gain(box, 96, (0.02, 0.3)) > 1.5


def test_a_gain_that_cannot_be_found_says_why():
    with pytest.raises(ValueError, match="estimator='whittle' is not known; choose one of 'modes', 'rings'"):
        linear_filter_gain(BINOMIAL, SIZE, BAND, "whittle")
    for band in ((0.3, 0.1), (0.2, 0.2), (0.6, 0.7 - 0.1)):
        with pytest.raises(ValueError, match=r"no 2 frequencies lie between 0\.\d and 0\.\d cycles a pixel; widen"):
            linear_filter_gain(BINOMIAL, SIZE, band)
    # The mean of a map has no place on a logarithmic axis.
    assert linear_filter_gain(BINOMIAL, SIZE, (0, 0.35)) == linear_filter_gain(BINOMIAL, SIZE, (1e-9, 0.35))


@pytest.mark.parametrize("options", [{}, {"size": 64, "band": (0.05, 0.3)}, {"estimator": "rings"}])
@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "vgg8x0.0625", "plain20"])
def test_the_gains_of_a_network_are_those_of_its_kernels_in_its_order(name, options):
    network = build(name, 10)
    found = filter_gains(network, **options)
    kernels = {
        layer.path: network.get_submodule(layer.path) for layer in list_layers(network) if layer.kind == "Conv2d"
    }
    assert list(found) == [path for path, module in kernels.items() if module.kernel_size != (1, 1)]
    for path, gain in found.items():
        assert gain == linear_filter_gain(kernels[path].weight, **options)


def test_the_gains_of_a_network_leave_out_what_has_one_tap_or_is_no_convolution():
    one_tap, row, square = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, (1, 3)), nn.Conv2d(4, 4, 3, groups=2)
    along_time, dense, norm = nn.Conv1d(4, 4, 3), nn.Linear(4, 4), nn.BatchNorm2d(4)
    network = nn.Sequential(one_tap, norm, nn.Sequential(row, nn.ReLU()), square, along_time, dense)
    found = filter_gains(network, 32)
    assert list(found) == ["2.0", "3"]
    assert found["3"] == linear_filter_gain(square.weight, 32)
    resnet = build("resnet8", 10)
    assert resnet.layer2[0].downsample[0].kernel_size == (1, 1)
    assert "layer2.0.downsample.0" not in filter_gains(resnet, 32)
    assert filter_gains(one_tap) == filter_gains(dense) == {}


def test_the_gains_of_a_network_neither_change_it_nor_ask_for_its_mode():
    network = build("resnet8", 10).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = filter_gains(network, 32)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert found == filter_gains(network.eval(), 32)
    assert all(type(gain) is float for gain in found.values())
    with torch.no_grad():
        network.conv1.weight.mul_(-3)
    assert filter_gains(network, 32) == pytest.approx(found, abs=1e-6)


# --- the recursion ------------------------------------------------------------------------------


def test_white_kernels_flatten_a_field_as_in_a_table_made_otherwise():
    table = [2.00, 1.87, 1.73, 1.59, 1.44, 1.30, 1.15, 1.01, 0.87, 0.74, 0.62, 0.52, 0.42]
    power = power_law_power(SIZE, 2.0)
    assert depth_recursion(power, 12, band=BAND).tolist() == pytest.approx(table, abs=0.015)
    larger = depth_recursion(power_law_power(512, 2.0), 12, band=(3 / 512, 0.35))
    assert 0.49 < larger[-1] < 0.60


def test_the_first_step_is_that_of_a_relu_alone():
    power = power_law_power(64, 1.5)
    first = float(predicted_exponent(after_relu(power), (0.05, 0.4)).alpha)
    for batch_norm in (True, False):
        found = depth_recursion(power, 1, batch_norm=batch_norm, band=(0.05, 0.4))
        assert found.dtype == torch.float64
        assert found[1] == pytest.approx(first, abs=1e-10)
    torch.testing.assert_close(depth_recursion(power, 0), predicted_exponent(power).alpha[None])


@pytest.mark.parametrize("skip", [True, False])
def test_a_number_of_layers_stands_for_white_kernels(skip):
    power = power_law_power(32, 1.5)
    white = [random_kernel_transfer(32)] * 3
    torch.testing.assert_close(depth_recursion(power, 3, skip=skip), depth_recursion(power, white, skip=skip))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_without_relus_a_layer_multiplies_power(batch_norm):
    power, transfer = power_law_power(SIZE, 2.0), random_kernel_transfer(SIZE, 0.1)
    found = depth_recursion(power, [transfer] * 5, batch_norm=batch_norm, relu=False, band=BAND)
    expected = [float(predicted_exponent(power * transfer**layers, BAND).alpha) for layers in range(6)]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)
    gain = transfer_gain(transfer, BAND)
    # Exactly by kappa on modes, and on rings about so, as long as what is passed is nearly isotropic.
    assert transfer_gain(power * transfer**5, BAND) == pytest.approx(transfer_gain(power, BAND) + 5 * gain, abs=1e-10)
    assert found.diff().tolist() == pytest.approx([gain] * 5, abs=0.05)


def rewritten(power: Tensor, transfers: list[Tensor], batch_norm: bool, skip: str, relu: bool) -> list[float]:
    """The recursion and its fits again, in numpy, on the whole plane, with other routines throughout."""
    size = power.shape[0]
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None]

    def whole(half: Tensor) -> np.ndarray:
        row, column = np.indices((size, size))
        mirrored = column > size // 2
        return half.numpy()[np.where(mirrored, -row % size, row), np.where(mirrored, size - column, column)]

    def alpha(covariance: np.ndarray) -> float:
        spectrum, radius = np.fft.fft2(covariance).real, np.hypot(fy, fx)
        low, high = BAND
        rings = []
        for k in range(1, size // 2):
            ring = (radius >= (k - 0.5) / size) & (radius < (k + 0.5) / size)
            if low <= radius[ring].mean() <= high:
                rings.append((math.log(radius[ring].mean()), spectrum[ring].mean(), ring.sum()))
        x, mean, weight = (np.array(column) for column in zip(*rings, strict=True))
        x = x - (x * weight).sum() / weight.sum()
        # Where the derivative of the Whittle likelihood, its amplitude profiled out, is 0.
        return brentq(lambda a: (weight * mean * np.exp(a * x) * x).sum(), -5, 15, xtol=1e-13)

    def activated(c: np.ndarray) -> np.ndarray:
        if batch_norm:
            c = c - c.mean()
            c = c / c[0, 0]
        if not relu:
            return c
        angle = np.arccos(np.clip(c / c[0, 0], -1, 1))
        return c[0, 0] * (np.sin(angle) + (math.pi - angle) * np.cos(angle)) / (2 * math.pi)

    def filtered(c: np.ndarray, transfer: Tensor) -> np.ndarray:
        return np.fft.ifft2(np.fft.fft2(c) * whole(transfer)).real

    c = np.fft.ifft2(whole(power)).real
    found = [alpha(c)]
    for number, transfer in enumerate(transfers):
        if skip == "before the ReLU":
            c = c + filtered(activated(c), transfer) if number else filtered(c, transfer)
        elif skip == "behind it":
            c = activated(c + filtered(c, transfer))
        else:
            c = activated(filtered(c, transfer))
        found.append(alpha(c))
    return found


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("skip", ["none", "before the ReLU", "behind it"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_recursion_is_that_of_an_independent_program(batch_norm, skip, relu):
    power = power_law_power(64, 2.0)
    transfers = [random_kernel_transfer(64, 0.3), kernel_transfer(noise(4, 4, 3, 3), 64)] * 3
    options = {"skip": skip != "none", "post_activation": skip == "behind it"}
    found = depth_recursion(power, transfers, batch_norm=batch_norm, relu=relu, band=BAND, **options)
    assert found.tolist() == pytest.approx(rewritten(power, transfers, batch_norm, skip, relu), abs=1e-9)


def test_the_order_of_layers_and_their_skips_make_a_difference():
    power = power_law_power(64, 2.0)
    steep, flat = random_kernel_transfer(64, 0.5), random_kernel_transfer(64)
    runs = [
        depth_recursion(power, transfers, batch_norm=batch_norm, skip=skip, band=BAND)[-1]
        for transfers in ([steep, flat, flat], [flat, flat, steep])
        for batch_norm in (True, False)
        for skip in (True, False)
    ]
    assert torch.stack(runs).sort().values.diff().min() > 1e-3


@pytest.mark.parametrize(("batch_norm", "skip"), [(True, False), (False, False), (False, True)])
def test_the_scale_of_power_is_nothing(batch_norm, skip):
    power, transfers = power_law_power(64, 2.0), [random_kernel_transfer(64, 0.2)] * 4
    options = {"batch_norm": batch_norm, "skip": skip, "band": BAND}
    expected = depth_recursion(power, transfers, **options)
    torch.testing.assert_close(depth_recursion(1e4 * power, transfers, **options), expected, rtol=0, atol=1e-9)
    if not skip:
        louder = [10.0**i * transfer for i, transfer in enumerate(transfers)]
        torch.testing.assert_close(depth_recursion(power, louder, **options), expected, rtol=0, atol=1e-9)


def test_a_branch_behind_batch_norm_is_as_loud_as_it_is_whatever_is_added_to_it():
    power, transfers = power_law_power(64, 2.0), [random_kernel_transfer(64)] * 4
    quiet, loud = (depth_recursion(scale * power, transfers, skip=True, band=BAND) for scale in (1, 100))
    assert quiet[-1] < loud[-1] < loud[0]
    assert loud[-1] == pytest.approx(float(loud[0]), abs=0.05)


def test_the_mean_that_batch_norm_takes_off_makes_relus_linear_where_it_stays():
    power = power_law_power(64, 2.0)
    with_norm, without = (depth_recursion(power, 12, batch_norm=b, band=BAND).diff().abs() for b in (True, False))
    assert without[0] == pytest.approx(float(with_norm[0]), abs=1e-9)
    assert (without[1:] < with_norm[1:]).all()
    assert (without.diff() < 0).all()


def test_power_and_transfers_are_to_be_of_one_grid():
    with pytest.raises(ValueError, match=r"T has shape \(32, 17\) and power \(64, 33\); take one grid for both"):
        depth_recursion(power_law_power(64, 2.0), [random_kernel_transfer(32)])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [(0, 0), (5, 7)])
def test_power_that_is_no_number_is_refused(value, place):
    power = power_law_power(32, 2.0)
    power[place] = value
    for transfers in (0, 3, [random_kernel_transfer(32)]):
        with pytest.raises(ValueError, match="power holds NaN or infinite values"):
            depth_recursion(power, transfers)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_recursion_without_a_skip_has_no_place_where_it_ends(layers):
    with pytest.raises(ValueError, match="post_activation says where a skip ends; set skip=True too"):
        depth_recursion(power_law_power(32, 2.0), layers, post_activation=True)
    assert len(depth_recursion(power_law_power(32, 2.0), layers, skip=True, post_activation=True)) == layers + 1


# --- networks that the theory is about ----------------------------------------------------------


def test_the_seed_decides_the_weights_and_the_callers_generator_stays():
    before = torch.get_rng_state()
    first, again, other = (RandomNetwork(3, 4, 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, again)
    assert not same(first, other)
    assert not first.training


@pytest.mark.parametrize("kind", [{}, {"skip": True}, {"skip": True, "post_activation": True}])
def test_a_deeper_network_begins_with_the_shallower_one(kind):
    deep, shallow = (RandomNetwork(3, 4, depth, **kind) for depth in (5, 2))
    assert same(deep[:2], shallow)


def test_kernels_are_those_that_are_drawn():
    network = RandomNetwork(3, 4, 2, correlation=0.3, shared=0.2, seed=5)
    assert torch.equal(network[0].conv.weight, drawn_kernels(4, 3, 0.3, 0.2, seed=5))
    assert network[0].conv.bias is None
    assert network[1].conv.weight.shape == (4, 4, 3, 3)


@pytest.mark.parametrize("kind", [{}, {"skip": True}, {"skip": True, "post_activation": True}])
def test_what_is_rolled_in_comes_out_rolled(kind):
    network, images = RandomNetwork(3, 4, 3, **kind), noise(2, 3, 16, 16, dtype=torch.float32)
    shift = {"shifts": (3, -5), "dims": (-2, -1)}
    with torch.no_grad():
        torch.testing.assert_close(network(images.roll(**shift)), network(images).roll(**shift))


def test_layers_are_made_as_told():
    images = noise(2, 4, 16, 16, dtype=torch.float32)
    with torch.no_grad():
        plain = RandomNetwork(4, 4, 2)
        layer = plain[1]
        assert torch.equal(layer(images), layer.bn(layer.conv(images)).relu())
        skipping = RandomNetwork(4, 4, 2, skip=True)
        first, layer = skipping
        assert torch.equal(first(images), first.conv(images))
        assert torch.equal(layer(images), images + layer.conv(layer.bn(images).relu()))
        for layer in RandomNetwork(4, 4, 2, skip=True, post_activation=True):
            assert torch.equal(layer(images), layer.bn(images + layer.conv(images)).relu())
        first = RandomNetwork(3, 4, 2, skip=True, post_activation=True)[0]  # has nothing of 4 channels to add to
        assert torch.equal(first(images[:, :3]), first.bn(first.conv(images[:, :3])).relu())
        bare = RandomNetwork(4, 4, 2, batch_norm=False, relu=False)
        assert torch.equal(bare[1](images), bare[1].conv(images))
    assert [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (plain, skipping, bare)] == [2, 1, 0]


def test_a_network_of_nothing_is_refused():
    for sizes in ((0, 4, 2), (3, 0, 2), (3, 4, 0)):
        said = "inputs={}, width={} and depth={} must be 1 or more".format(*sizes)
        with pytest.raises(ValueError, match=said):
            RandomNetwork(*sizes)
    with pytest.raises(ValueError, match="post_activation says where a skip ends; set skip=True too"):
        RandomNetwork(4, 4, 2, post_activation=True)


def test_a_convolution_multiplies_the_power_of_independent_fields_by_its_transfer():
    network = RandomNetwork(32, 32, 1, correlation=0.3, batch_norm=False, relu=False)
    images = fields(24, 32, alpha=0.0, size=32)
    with torch.no_grad():
        after = power_spectrum(network(images), "none").mean((0, 1)).double()
    ratio = after / power_spectrum(images, "none").mean((0, 1)).double()
    expected = kernel_transfer(network[0].conv.weight, 32)
    # What cross spectra leave of 24 images and 32 x 32 pairs of channels is a few percent of each mode.
    error = (ratio / expected - 1).flatten()[1:]
    assert error.abs().mean() < 0.05
    assert abs(float(error.mean())) < 0.01
    assert abs(float((after / expected).flatten()[1:].mean()) - 1) < 0.02


@pytest.mark.parametrize(
    ("correlation", "batch_norm", "skip"),
    [(0.0, True, False), (0.3, True, False), (0.3, False, False), (0.5, True, True), (0.5, False, True)],
)
def test_a_random_network_goes_where_the_recursion_says(correlation, batch_norm, skip):
    """One of width 64, over 2 images: after 2 layers single networks scatter by 0.02."""
    images = fields(2, 64)
    network = RandomNetwork(64, 64, 2, correlation=correlation, batch_norm=batch_norm, skip=skip)
    if batch_norm:
        network = reestimate_batch_norm(network, images, 2)
    spectra = activation_spectra(network, images, ["image", "blocks"], "none", progress=False)
    measured = [spectra.exponent(layer.path, band=BAND, resamples=1).alpha for layer in spectra.layers]
    transfers = [random_kernel_transfer(SIZE, correlation)] * 2
    predicted = depth_recursion(power_law_power(SIZE, 2.0), transfers, batch_norm=batch_norm, skip=skip, band=BAND)
    assert measured == pytest.approx(predicted.tolist(), abs=0.06)
    assert abs(predicted[-1] - predicted[0]) > 0.25
