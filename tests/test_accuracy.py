"""What the estimators read where the truth is known: bias, sampling error, coverage, and a reference implementation."""

import math

import numpy as np
import pytest
import torch

from spectralkd_nb.calibration import correct_exponent, cut_outs, simulated_exponents
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import fit_power_law, mode_weights, power_spectrum, radial_spectrum, spectral_exponent


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# True alpha 2, 3, 4 on cut-outs, weighted fit from ring 2 (from ring 1 under 16 pixels) to 0.45: measured beforehand
# with another implementation.
BIAS = {
    "none": {14: (2.03, 2.79, 2.80), 28: (2.03, 2.74, 2.63), 56: (2.02, 2.77, 2.66), 112: (2.03, 2.78, 2.66)},
    "periodic": {14: (1.93, 2.96, 3.85), 28: (1.96, 2.96, 3.92), 56: (1.97, 2.98, 3.97), 112: (1.99, 2.99, 3.99)},
}


@pytest.fixture(scope="module")
def large_cut_outs() -> dict[float, torch.Tensor]:
    return {alpha: cut_outs((112, 112), alpha) for alpha in (0.0, 2.0, 3.0, 4.0)}


@pytest.mark.parametrize("edges", list(BIAS))
@pytest.mark.parametrize("side", [14, 28, 56, 112])
def test_bias_on_cut_outs(large_cut_outs, edges, side):
    for alpha, expected in zip((2.0, 3.0, 4.0), BIAS[edges][side], strict=True):
        maps = large_cut_outs[alpha][:, :side, :side]
        fit = fit_power_law(
            radial_spectrum(maps, edges).average(), (0.5 / side if side < 16 else 1.5 / side, 0.4501), "weighted"
        )
        assert fit.alpha == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("side", "expected"), [(8, 0.31), (16, 0.12), (32, 0.10), (112, 0.06)])
def test_flat_spectra_read_too_steep_with_periodic_edges(large_cut_outs, side, expected):
    maps = large_cut_outs[0.0][:, :side, :side]
    band = (0.5 / side if side < 16 else 1.5 / side, 0.4501)
    fit = fit_power_law(radial_spectrum(maps).average(), band, "weighted")
    assert fit.alpha == pytest.approx(expected, abs=0.05)
    untreated = fit_power_law(radial_spectrum(maps, "none").average(), band, "weighted")
    assert untreated.alpha == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(("alpha", "share"), [(0.0, 0.97), (2.0, 0.78), (3.0, 0.46), (4.0, 0.19)])
def test_periodic_edges_keep_the_share_of_variance_that_the_docstring_says(large_cut_outs, alpha, share):
    maps = large_cut_outs[alpha][:, :32, :32]
    kept, whole = ((power_spectrum(maps, edges) * mode_weights(32)).sum((-2, -1)) for edges in ("periodic", "none"))
    assert (kept / whole).mean() == pytest.approx(share, abs=0.03)


def test_hann_reads_alpha_5_on_large_maps():
    (read,) = simulated_exponents([5.0], (112, 112), "hann", n=100)
    assert read == pytest.approx(5.22, abs=0.1)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [(0, 0), (1, 0.86), (1.5, 1.36), (2, 1.89), (2.5, 2.43), (3, 2.98), (4, 4.03), (5, 4.98), (6, 5.02), (8, 4.96)],
)
def test_what_a_relu_does_to_alpha(alpha, expected):
    """Unit Gaussian fields through a ReLU: flat ones flatten, and the kink caps alpha at 5."""
    fields = power_law_field(512, alpha, n=12, generator=generator(int(10 * alpha)), dtype=torch.float64)
    fit = fit_power_law(radial_spectrum(fields.relu(), "none").average(), (0.01, 0.4), "weighted")
    assert fit.alpha == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("alpha", [0, 1, 2, 3, 4, 6, 8])
def test_periodic_fields_have_the_exponent_that_was_put_in(alpha):
    fields = power_law_field(128, alpha, n=20, generator=generator(), dtype=torch.float64)
    fit = fit_power_law(radial_spectrum(fields, "none").average())
    assert fit.alpha == pytest.approx(alpha, abs=0.03)


# Sampling error of alpha from one map, true alpha 2, periodic edges, rings 2 to 0.45; measured beforehand.
SPREAD = {14: (0.48, 0.47, 0.45), 28: (0.20, 0.165, 0.16), 56: (0.092, 0.071, 0.069), 112: (0.050, 0.033, 0.033)}


@pytest.mark.parametrize("side", list(SPREAD))
def test_sampling_error_of_one_map(large_cut_outs, side):
    spectra = radial_spectrum(large_cut_outs[2.0][:, :side, :side])
    for method, expected in zip(("least_squares", "weighted", "whittle"), SPREAD[side], strict=True):
        fit = fit_power_law(spectra, (1.5 / side, 0.4501), method)
        # 400 maps give a standard deviation to 3.5 %; 20 % leaves room for the overlap of cut-outs.
        assert fit.alpha.std() == pytest.approx(expected, rel=0.2)
        assert fit.standard_error.mean() == pytest.approx(float(fit.alpha.std()), rel=0.25)


def test_the_fits_interval_covers_the_truth():
    fields = power_law_field(48, 2.0, n=2000, generator=generator(), dtype=torch.float64)
    for method in ("whittle", "weighted", "least_squares"):
        low, high = fit_power_law(radial_spectrum(fields, "none"), method=method).interval.unbind(-1)
        assert 0.93 < float(((low <= 2) & (high >= 2)).double().mean()) < 0.97


def test_the_deviance_is_chi_squared_where_the_law_holds():
    fields = power_law_field(48, 2.0, n=2000, generator=generator(), dtype=torch.float64)
    fit = fit_power_law(radial_spectrum(fields, "none"))
    assert fit.deviance.mean() == pytest.approx(fit.rings - 2, rel=0.1)


@pytest.mark.parametrize(("images", "alpha"), [(50, 2.0), (60, 1.0)])
def test_the_bootstraps_interval_covers_the_truth(images, alpha):
    trials, hits = 300, 0
    fields = power_law_field(24, alpha, n=images * trials, generator=generator(), dtype=torch.float64)
    for seed, sample in enumerate(fields.split(images)):
        low, high = spectral_exponent(sample, "none", resamples=300, seed=seed).interval
        hits += low <= alpha <= high
    assert 0.90 <= hits / trials <= 0.98


def test_the_correction_undoes_the_bias():
    shape = (20, 26)
    for truth in (0.0, 2.0, 3.3):
        (read,) = simulated_exponents([truth], shape, n=64, seed=5)
        assert correct_exponent(read, shape, n=64) == pytest.approx(truth, abs=0.06)


def test_the_correction_gives_up_on_a_plateau():
    assert math.isnan(correct_exponent(2.72, (16, 16), edges="none", n=16))
    assert math.isnan(correct_exponent(4.5, (16, 16), n=16))


def test_cut_outs_are_not_periodic_and_repeat_with_their_seed():
    maps = cut_outs((24, 30), 3.0, n=40)
    assert maps.shape == (40, 24, 30)
    assert torch.equal(maps, cut_outs((24, 30), 3.0, n=40))
    across, inside = (maps[:, 0] - maps[:, -1]).square().mean(), maps.diff(dim=1).square().mean()
    assert across > 5 * inside


def test_against_pysteps_on_square_maps_and_where_its_index_radius_goes_wrong():
    """rapsd measures the radius in indices of the longer side, so on other shapes its rings are ellipses."""
    rapsd = pytest.importorskip("pysteps.utils.spectral", reason="optional: pip install -e '.[compare]'").rapsd

    def theirs(field, band):
        power, frequency = rapsd(field - field.mean(), fft_method=np.fft, return_freq=True)
        inside = (frequency >= band[0]) & (frequency <= band[1])
        return -np.polyfit(np.log(frequency[inside]), np.log(power[inside]), 1)[0]

    def both(shape, n=40):
        fields = power_law_field(shape, 2.0, n=n, generator=generator(), dtype=torch.float64)
        band = (1.5 / min(shape), 0.45)
        ours = fit_power_law(radial_spectrum(fields, "none"), band, "least_squares").alpha.mean()
        return float(ours), float(np.mean([theirs(field, band) for field in fields.numpy()]))

    ours, reference = both((128, 128), 10)
    assert ours == pytest.approx(reference, abs=0.05)
    ours, reference = both((64, 256))
    assert ours == pytest.approx(2.0, abs=0.06)
    assert reference < 1.8
