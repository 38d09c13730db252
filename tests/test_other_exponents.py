"""Two other exponents of a layer: recovered where they are known, and what moves one and not the other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from spectralkd_nb.depth_law.other_exponents import Tail, eigenspectrum_exponent, weight_tail_exponent
from spectralkd_nb.pictures import power_law_field, white_noise
from spectralkd_nb.spectra import spectral_exponent


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=drawn(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed)).Q


def with_eigenvalues(values: torch.Tensor, samples: int = 500) -> torch.Tensor:
    """(samples, neurons) whose covariance has exactly these eigenvalues."""
    noise = normal(samples, len(values))
    columns = torch.linalg.qr(noise - noise.mean(0)).Q  # orthonormal, and still without a mean
    return math.sqrt(samples) * columns * values.sqrt() @ rotation(len(values), seed=1)


def by_rank(exponent: float, channels: int = 64) -> torch.Tensor:
    return torch.arange(1, channels + 1, dtype=torch.float64) ** -exponent


def fields(alpha: float = 2.0, images: int = 12, channels: int = 16, size: int = 32) -> torch.Tensor:
    """(B, C, H, W), channels of one spectrum and eigenvalues that fall as n^-1."""
    maps = power_law_field(size, alpha, images * channels, drawn(), torch.float64)
    maps = maps.reshape(images, channels, size, size)
    return maps * by_rank(1.0, channels).sqrt()[:, None, None]


def mixed(maps: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    return torch.einsum("dc,bchw->bdhw", matrix, maps)


def shuffled(maps: torch.Tensor) -> torch.Tensor:
    """The pixels of every image in another order, the same one for all channels."""
    order = torch.randperm(maps.shape[2] * maps.shape[3], generator=drawn())
    return maps.flatten(2)[..., order].reshape(maps.shape)


def alpha(maps: torch.Tensor) -> float:
    return spectral_exponent(maps, "none", resamples=1).alpha


def pareto(exponent: float, count: int, seed: int = 0) -> torch.Tensor:
    """Draws of density x^-exponent from 1 on."""
    uniform = torch.rand(count, generator=drawn(seed), dtype=torch.float64)
    return (1 - uniform) ** (-1 / (exponent - 1))


def weights_of(eigenvalues: torch.Tensor) -> torch.Tensor:
    """A square matrix W with these eigenvalues of W^T W / N."""
    return (len(eigenvalues) * eigenvalues).sqrt().diag()


# --- the covariance of channels ------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.5])
def test_an_eigenspectrum_that_is_a_law_is_read_exactly(exponent):
    data = with_eigenvalues(by_rank(exponent))
    assert eigenspectrum_exponent(data) == pytest.approx(exponent, abs=1e-9)


def test_an_eigenspectrum_is_recovered_from_gaussian_samples():
    data = normal(20_000, 64) * by_rank(1.0).sqrt() @ rotation(64, seed=1)
    assert eigenspectrum_exponent(data) == pytest.approx(1, abs=0.02)


def test_few_samples_read_too_steep_and_most_at_late_ranks():
    data = normal(100, 64) * by_rank(1.0).sqrt()
    assert eigenspectrum_exponent(data) == pytest.approx(1.1, abs=0.05)
    assert eigenspectrum_exponent(data, (3, 60)) == pytest.approx(1.5, abs=0.1)


def test_every_pixel_of_every_image_is_a_sample():
    maps = fields()
    rows = maps.permute(0, 2, 3, 1).flatten(0, 2)
    values = torch.linalg.eigvalsh(torch.cov(rows.T)).flip(0)[1:8]
    line = np.polyfit(np.log(np.arange(2, 9)), np.log(values.numpy()), 1)
    assert eigenspectrum_exponent(maps) == pytest.approx(-line[0])
    assert eigenspectrum_exponent(rows) == pytest.approx(-line[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda data: 1e-6 * data,
        lambda data: data + torch.arange(64),
        lambda data: data[:, torch.randperm(64, generator=drawn())],
        lambda data: data @ rotation(64, seed=2),
        lambda data: data[torch.randperm(len(data), generator=drawn())],
    ],
    ids=["scale", "mean", "permutation", "rotation", "order of samples"],
)
def test_what_an_eigenspectrum_does_not_see(change):
    data = normal(500, 64) * by_rank(1.0).sqrt()
    assert eigenspectrum_exponent(change(data)) == pytest.approx(eigenspectrum_exponent(data), abs=1e-9)


def test_ranks_choose_a_part_of_an_eigenspectrum_that_bends():
    values = by_rank(1.0)
    values[15:] = values[15] * (torch.arange(16, 65) / 16.0) ** -3
    data = with_eigenvalues(values)
    assert eigenspectrum_exponent(data, (1, 16)) == pytest.approx(1, abs=1e-6)
    assert eigenspectrum_exponent(data, (16, 64)) == pytest.approx(3, abs=1e-6)
    assert eigenspectrum_exponent(data) == eigenspectrum_exponent(data, (3, 32))


def test_dead_channels_and_float32_do_no_harm():
    maps = fields().float()
    maps[:, 12:] = 0
    assert eigenspectrum_exponent(maps) == pytest.approx(eigenspectrum_exponent(fields()), abs=0.02)


# --- one moves and the other does not ------------------------------------------------------------


def test_shuffled_pixels_lose_our_exponent_and_keep_the_eigenspectrum():
    maps = fields(alpha=2.0)
    assert alpha(maps) == pytest.approx(2, abs=0.1)
    assert alpha(shuffled(maps)) == pytest.approx(0, abs=0.1)
    assert eigenspectrum_exponent(shuffled(maps)) == pytest.approx(eigenspectrum_exponent(maps), abs=1e-9)


def test_mixed_channels_keep_our_exponent_and_lose_the_eigenspectrum():
    maps = fields(alpha=2.0)
    flattened = mixed(maps, rotation(16) @ by_rank(-1.0, 16).sqrt().diag())  # takes the fall by rank away
    assert eigenspectrum_exponent(maps) > 0.8
    assert eigenspectrum_exponent(flattened) < 0.3
    assert alpha(flattened) == pytest.approx(alpha(maps), abs=0.1)


def test_rotated_channels_keep_both():
    # Pooled power is a sum over channels of squares, so whatever their spectra are.
    maps = torch.cat([fields(alpha=1.0), fields(alpha=3.0)], 1)
    turned = mixed(maps, rotation(32))
    assert alpha(turned) == pytest.approx(alpha(maps), abs=1e-9)
    assert eigenspectrum_exponent(turned) == pytest.approx(eigenspectrum_exponent(maps), abs=1e-9)


def test_loudness_of_channels_of_unlike_spectra_moves_our_exponent():
    maps = torch.cat([fields(alpha=0.0), fields(alpha=3.0)], 1)
    loud = torch.ones(32, dtype=torch.float64)
    loud[:16] = 10
    assert abs(alpha(mixed(maps, loud.diag())) - alpha(maps)) > 0.5


# --- what has no eigenspectrum -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("maps", "ranks", "sentence"),
    [
        (torch.rand(4, 7, 8, 8), None, "7 channels are too few for an eigenspectrum; take a layer with 8 or more"),
        (torch.zeros(4, 16, 8, 8), None, "the maps are constant"),
        (torch.full((4, 16, 8, 8), 1000.1), None, "the maps are constant"),
        (torch.rand(16, 8, 8), None, r"shape \(16, 8, 8\); \(B, C, H, W\) or \(samples, neurons\) is wanted"),
        (torch.zeros(0, 16, 8, 8), None, "so there are none"),
        (torch.full((4, 16, 8, 8), math.nan), None, "NaN or infinite"),
        (torch.rand(4, 16, 8, 8), (0, 8), r"ranks=\(0, 8\) are not .* <= 16, the channels"),
        (torch.rand(4, 16, 8, 8), (8, 8), r"ranks=\(8, 8\) are not"),
        (torch.rand(4, 16, 8, 8), (2, 17), r"ranks=\(2, 17\) are not"),
        (torch.rand(6, 16), None, "vary in 5 directions only, so there is no eigenvalue of rank 8; give ranks up to 5"),
    ],
)
def test_what_has_no_eigenspectrum_is_told_why(maps, ranks, sentence):
    with pytest.raises(ValueError, match=sentence):
        eigenspectrum_exponent(maps, ranks)


def test_directions_that_only_rounding_fills_are_not_counted():
    maps = mixed(fields().float(), torch.randn(64, 16, generator=drawn())) + 3
    with pytest.raises(ValueError, match="64 channels vary in 16 directions only"):
        eigenspectrum_exponent(maps)
    assert eigenspectrum_exponent(maps, (2, 16)) > 0


def test_whole_numbers_are_turned_away():
    with pytest.raises(TypeError, match=r"maps are torch\.int64"):
        eigenspectrum_exponent(torch.ones(4, 16, 8, 8, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"weights are torch\.complex64"):
        weight_tail_exponent(torch.ones(16, 16, dtype=torch.complex64))


# --- the eigenvalues of weights ------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [1.8, 2.5, 4.0])
def test_the_exponent_of_pareto_draws_is_recovered(exponent):
    tail = weight_tail_exponent(weights_of(pareto(exponent, 600)))
    assert tail.exponent == pytest.approx(exponent, abs=3 * tail.error)
    assert tail.count > 150


@pytest.mark.parametrize("seed", range(3))
def test_a_tail_is_the_one_that_scipy_finds(seed):
    eigenvalues = np.sort(pareto(2.5, 80, seed).numpy())
    found = []
    for smallest in eigenvalues[:-1]:
        values = eigenvalues[eigenvalues >= smallest]
        b, _, scale = stats.pareto.fit(values, floc=0, fscale=smallest)
        found.append((stats.kstest(values, stats.pareto(b, scale=scale).cdf).statistic, 1 + b, smallest, len(values)))
    distance, exponent, smallest, count = min(found)
    tail = weight_tail_exponent(weights_of(torch.from_numpy(eigenvalues)))
    assert tail.exponent == pytest.approx(exponent, rel=1e-6)
    assert (tail.smallest, tail.distance) == pytest.approx((smallest, distance), rel=1e-6)
    assert tail.count == count


def test_a_tail_begins_where_the_law_does():
    bulk = torch.rand(400, generator=drawn(1), dtype=torch.float64)
    tail = weight_tail_exponent(weights_of(torch.cat([bulk, pareto(3.0, 400)])))
    assert 0.9 < tail.smallest < 1.3
    assert tail.exponent == pytest.approx(3, abs=3 * tail.error)


def test_eigenvalues_are_those_of_the_matrix_over_its_longer_side():
    weights = normal(20, 50)
    tail = weight_tail_exponent(weights)
    values = torch.linalg.eigvalsh(weights @ weights.T / 50)
    assert float((values - tail.smallest).abs().min()) == pytest.approx(0, abs=1e-12)
    assert int((values >= tail.smallest * (1 - 1e-9)).sum()) == tail.count


def test_the_taps_of_a_convolution_are_pooled():
    eigenvalues = pareto(2.5, 9 * 32)
    kernels = torch.stack([weights_of(part) @ rotation(32, seed) for seed, part in enumerate(eigenvalues.split(32))])
    pooled = weight_tail_exponent(kernels.permute(1, 2, 0).reshape(32, 32, 3, 3))
    alone = weight_tail_exponent(weights_of(eigenvalues))
    assert (pooled.exponent, pooled.smallest) == pytest.approx((alone.exponent, alone.smallest), rel=1e-6)
    assert pooled.count == alone.count


@pytest.mark.parametrize(
    "change",
    [lambda w: 1000 * w, lambda w: w.T, lambda w: rotation(64) @ w @ rotation(64, 1), lambda w: w.float()],
    ids=["scale", "transpose", "rotation", "float32"],
)
def test_what_a_tail_does_not_see(change):
    weights = weights_of(pareto(2.5, 64))
    before, after = weight_tail_exponent(weights), weight_tail_exponent(change(weights))
    assert after.exponent == pytest.approx(before.exponent, rel=1e-4)
    assert after.count == before.count


def test_a_gaussian_random_matrix_has_no_heavy_tail():
    # How large is chance: the tail that is found has some 20 eigenvalues.
    gaussian = [weight_tail_exponent(normal(400, 200, seed=seed)).exponent for seed in range(7)]
    assert sorted(gaussian)[3] > 6
    assert min(gaussian) > 4
    heavy = pareto(3.0, 400 * 200).reshape(400, 200) * normal(400, 200).sign()
    assert weight_tail_exponent(heavy).exponent < 3


def test_few_eigenvalues_give_spuriously_large_exponents_and_say_how_few():
    tails = [weight_tail_exponent(weights_of(pareto(2.5, 12, seed))) for seed in range(40)]
    largest = max(tails, key=lambda tail: tail.exponent)
    assert largest.exponent > 4
    assert largest.count <= 12
    assert largest.error > 0.8
    many = [weight_tail_exponent(weights_of(pareto(2.5, 400, seed))) for seed in range(5)]
    assert all(abs(tail.exponent - 2.5) < 0.6 for tail in many)


def test_eigenvalues_that_are_zero_are_left_out():
    weights = weights_of(pareto(2.5, 64))
    larger = torch.nn.functional.pad(weights, (0, 36, 0, 36)) * math.sqrt(100 / 64)
    before, after = weight_tail_exponent(weights), weight_tail_exponent(larger)
    assert (after.exponent, after.smallest) == pytest.approx((before.exponent, before.smallest))
    assert after.count == before.count


def test_a_tail_says_what_it_is():
    tail = Tail(3.0, 0.1, 16, 0.2)
    assert tail.error == 0.5
    assert str(tail) == "exponent 3.00 ± 0.50 from 16 eigenvalues"
    assert weight_tail_exponent(normal(12, 12)).distance >= 1 / 12


def test_parameters_of_a_network_are_taken_as_they_are():
    layer = torch.nn.Conv2d(8, 16, 3)
    assert 2 <= weight_tail_exponent(layer.weight).count <= 72
    maps = layer(white_noise(16, 8, drawn())[None].expand(3, -1, -1, -1))
    assert isinstance(eigenspectrum_exponent(maps), float)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (torch.rand(7, 50), r"weights of shape \(7, 50\) have 7 eigenvalues that are not zero, too few for a tail"),
        (torch.zeros(16, 16), "have 0 eigenvalues that are not zero"),
        (torch.ones(16, 16), "have 1 eigenvalues that are not zero"),
        (torch.eye(16), "the eigenvalues are all alike"),
        (rotation(16), "these weights are a rotation"),
        (torch.rand(16), r"shape \(16,\); \(out, in\) or \(out, in, h, w\) is wanted"),
        (torch.full((16, 16), math.inf), "NaN or infinite"),
    ],
)
def test_weights_without_a_tail_are_told_why(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        weight_tail_exponent(weights)
