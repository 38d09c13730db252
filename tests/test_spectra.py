"""Properties that hold exactly: of the power spectrum, the ring average, the fit and the accumulator."""

import math
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectralkd_nb import spectra
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import (
    EDGES,
    RadialSpectrum,
    SpectrumAccumulator,
    compare_laws,
    default_band,
    exchange_phase,
    fit_power_law,
    mode_weights,
    periodic_part,
    power_spectrum,
    radial_spectrum,
    spectral_exponent,
)

sides = st.integers(4, 33)
seeds = st.integers(0, 2**31)
quick = settings(max_examples=40, deadline=None)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def law(alpha: float, amplitude: float = 3.0, shape: tuple[int, int] = (64, 64)) -> RadialSpectrum:
    """A spectrum that obeys its law to the last digit."""
    spectrum = radial_spectrum(noise(*shape), edges="none")
    return RadialSpectrum(
        spectrum.frequency, amplitude * spectrum.frequency**-alpha, spectrum.modes, 1, spectrum.shape, "none"
    )


# --- the power spectrum --------------------------------------------------------------------------


@quick
@given(sides, sides, seeds)
def test_parseval_the_weighted_mean_over_modes_is_the_variance(height, width, seed):
    maps = 5 + noise(2, height, width, seed=seed)
    power = power_spectrum(maps, edges="none")
    mean = (power * mode_weights(width)).sum((-2, -1)) / (height * width)
    torch.testing.assert_close(mean, maps.var((-2, -1), unbiased=False))


@quick
@given(sides, sides, seeds)
def test_power_is_that_of_numpy(height, width, seed):
    maps = noise(height, width, seed=seed)
    reference = np.abs(np.fft.fft2(maps.numpy() - maps.numpy().mean())) ** 2 / (height * width)
    ours = power_spectrum(maps, edges="none").numpy()
    np.testing.assert_allclose(ours, reference[:, : width // 2 + 1], rtol=1e-9, atol=1e-12)


@quick
@given(sides, sides, seeds)
def test_the_periodic_part_is_moisans(height, width, seed):
    """Against the definition: solve the Poisson equation for the smooth part with dense 2-D transforms."""
    u = noise(height, width, seed=seed).numpy()
    jump = np.zeros_like(u)
    jump[0] += u[-1] - u[0]
    jump[-1] -= u[-1] - u[0]
    jump[:, 0] += u[:, -1] - u[:, 0]
    jump[:, -1] -= u[:, -1] - u[:, 0]
    rows, columns = np.meshgrid(np.arange(height) / height, np.arange(width) / width, indexing="ij")
    laplacian = 2 * np.cos(2 * np.pi * rows) + 2 * np.cos(2 * np.pi * columns) - 4
    laplacian[0, 0] = 1
    smooth = np.fft.fft2(jump) / laplacian
    smooth[0, 0] = 0
    periodic = np.fft.fft2(u) - smooth
    periodic[0, 0] = 0
    reference = np.abs(periodic[:, : width // 2 + 1]) ** 2 / (height * width)
    np.testing.assert_allclose(power_spectrum(torch.from_numpy(u)).numpy(), reference, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("shape", [(24, 31), (31, 24)])
def test_picture_is_periodic_part_plus_smooth_part(shape):
    maps = 3 + noise(2, *shape).cumsum(-1)
    periodic = periodic_part(maps)
    smooth = maps - periodic
    torch.testing.assert_close(power_spectrum(periodic, "none"), power_spectrum(maps, "periodic"))
    torch.testing.assert_close(periodic.mean((-2, -1)), maps.mean((-2, -1)))

    def roughness(m):
        return (
            m[..., 1:-1, 1:-1] - (m[..., 2:, 1:-1] + m[..., :-2, 1:-1] + m[..., 1:-1, 2:] + m[..., 1:-1, :-2]) / 4
        ).square()

    assert roughness(smooth).max() < 1e-12  # harmonic inside: all of its curvature lies on the border


def test_the_periodic_part_has_less_of_a_jump_than_the_map():
    """The opposite sign of the border term doubles the jump and looks plausible."""
    ramp = torch.arange(32.0, dtype=torch.float64).expand(32, 32)
    kept = {edges: float((power_spectrum(ramp, edges) * mode_weights(32)).mean()) for edges in ("none", "periodic")}
    assert kept["periodic"] < 0.05 * kept["none"]


@quick
@given(sides, sides, st.integers(0, 40), st.integers(0, 40), seeds)
def test_a_circular_shift_changes_nothing_without_edge_treatment(height, width, down, right, seed):
    maps = noise(height, width, seed=seed)
    shifted = maps.roll((down, right), (0, 1))
    torch.testing.assert_close(power_spectrum(shifted, "none"), power_spectrum(maps, "none"))


@pytest.mark.parametrize("edges", EDGES)
@quick
@given(sides, sides, seeds)
def test_transposed_maps_have_the_same_rings(edges, height, width, seed):
    maps = noise(height, width, seed=seed)
    upright, turned = radial_spectrum(maps, edges), radial_spectrum(maps.T, edges)
    torch.testing.assert_close(turned.power, upright.power)
    torch.testing.assert_close(turned.frequency, upright.frequency)
    assert torch.equal(turned.modes, upright.modes)


@pytest.mark.parametrize("edges", EDGES)
@quick
@given(sides, sides, seeds, st.floats(0.01, 100), st.floats(-100, 100))
def test_power_grows_with_the_square_of_scale_and_ignores_the_mean(edges, height, width, seed, scale, offset):
    maps = noise(height, width, seed=seed)
    expected = scale**2 * power_spectrum(maps, edges)
    torch.testing.assert_close(power_spectrum(scale * maps + offset, edges), expected, rtol=1e-6, atol=1e-8 * scale**2)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 32), (32, 31), (24, 60), (60, 24), (9, 40)])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_cosine_is_one_ring_on_either_axis(height, width, axis):
    """A wave of whole periods; on a non-square map its ring follows from its frequency, not from its index."""
    n = (height, width)[axis]
    for periods in range(1, n // 2):
        wave = torch.cos(2 * math.pi * periods * torch.arange(n, dtype=torch.float64) / n)
        maps = wave[:, None].expand(height, width) if axis == 0 else wave.expand(height, width)
        spectrum = radial_spectrum(maps, edges="none")
        energy = spectrum.power * spectrum.modes
        ring = math.floor(periods / n * min(height, width) + 0.5)
        if 1 <= ring <= len(energy):
            assert energy[ring - 1] == pytest.approx(height * width / 2)
            assert energy.sum() == pytest.approx(height * width / 2)


@pytest.mark.parametrize("shape", [(16, 16), (17, 17), (16, 25), (25, 16), (130, 140)])
def test_rings_are_averages_over_physical_frequency(shape):
    """Mode counts, radii and averages against a loop over the full plane."""
    maps = noise(*shape)
    power = (torch.fft.fft2(maps - maps.mean()).abs() ** 2 / math.prod(shape)).numpy()
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None])
    ring = np.floor(radius * min(shape) + 0.5).astype(int)
    spectrum = radial_spectrum(maps, edges="none")
    assert len(spectrum.power) == min(shape) // 2
    for k in range(1, min(shape) // 2 + 1):
        inside = (ring == k) & (radius <= 0.5)
        assert spectrum.modes[k - 1] == inside.sum()
        assert spectrum.frequency[k - 1] == pytest.approx(radius[inside].mean())
        assert spectrum.power[k - 1] == pytest.approx(power[inside].mean())


@pytest.mark.parametrize("sectors", [None, 5])
@pytest.mark.parametrize("shape", [(40, 40), (33, 50)])
def test_rings_by_matrix_and_rings_by_index_agree(monkeypatch, shape, sectors):
    maps = noise(3, *shape)
    by_matrix = radial_spectrum(maps, sectors=sectors).power
    monkeypatch.setattr(spectra, "DENSE_MATRIX", 0)
    torch.testing.assert_close(radial_spectrum(maps, sectors=sectors).power, by_matrix)


def test_windows_are_those_of_scipy():
    """Sampled at pixel centres, so scipy's symmetric windows of twice the points, every other one."""
    from scipy.signal import windows

    maps = noise(20, 26)
    for edges, make in (("hann", windows.hann), ("tukey", lambda n: windows.tukey(n, 0.5))):
        down, across = (make(2 * n + 1)[1::2] for n in maps.shape)
        window = np.outer(down, across)
        tapered = (maps.numpy() - (maps.numpy() * window).sum() / window.sum()) * window
        reference = np.abs(np.fft.rfft2(tapered)) ** 2 / (window**2).sum()
        np.testing.assert_allclose(power_spectrum(maps, edges).numpy(), reference, rtol=1e-9, atol=1e-12)


def test_sectors_split_the_rings_and_nothing_is_lost():
    maps = noise(2, 30, 41)
    whole, split = radial_spectrum(maps), radial_spectrum(maps, sectors=6)
    assert split.power.shape == (2, 6, 15)
    assert torch.equal(split.modes.sum(0), whole.modes)
    torch.testing.assert_close((split.power * split.modes).sum(1) / whole.modes, whole.power)


@pytest.mark.parametrize(("axis", "degrees"), [(0, 90.0), (1, 0.0)])
def test_a_wave_lies_in_the_sector_of_its_direction(axis, degrees):
    wave = torch.cos(2 * math.pi * 6 * torch.arange(48, dtype=torch.float64) / 48)
    maps = wave[:, None].expand(48, 48) if axis == 0 else wave.expand(48, 48)
    spectrum = radial_spectrum(maps, "none", sectors=8)
    strongest = int((spectrum.power * spectrum.modes).sum(1).argmax())
    assert spectrum.orientation[strongest] == degrees


@pytest.mark.parametrize(("down", "across", "degrees"), [(6, 6, 45.0), (6, -6, 135.0)])
def test_slanted_waves_are_measured_clockwise(down, across, degrees):
    """Rows count downward: a wave that runs right and down lies at 45 degrees."""
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    spectrum = radial_spectrum(torch.cos(2 * math.pi * (down * y + across * x) / 48), "none", sectors=4)
    strongest = int((spectrum.power * spectrum.modes).sum(1).argmax())
    assert spectrum.orientation[strongest] == degrees


def test_crop_leaves_the_border_out():
    maps = noise(2, 20, 24)
    touched = maps.clone()
    touched[:, :2] = touched[:, -2:] = 99
    touched[:, :, :2] = touched[:, :, -2:] = 99
    torch.testing.assert_close(radial_spectrum(touched, crop=2).power, radial_spectrum(maps[:, 2:-2, 2:-2]).power)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    maps = noise(3, 16, 16).to(dtype)
    power = radial_spectrum(maps).power
    assert power.dtype == torch.float32
    torch.testing.assert_close(power, radial_spectrum(maps.float()).power)


def test_autocast_does_not_round_the_rings():
    maps = noise(3, 32, 32).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = radial_spectrum(maps).power
    torch.testing.assert_close(inside, radial_spectrum(maps).power)


def test_many_maps_are_computed_in_stacks_and_single_maps_alike():
    maps = noise(700, 3, 40, 40).float()
    together = radial_spectrum(maps).power
    assert together.shape == (700, 3, 20)
    torch.testing.assert_close(together[699, 2], radial_spectrum(maps[699, 2]).power)
    assert radial_spectrum(maps[:0]).power.shape == (0, 3, 20)


def test_numpy_maps_are_welcome():
    maps = noise(16, 16)
    torch.testing.assert_close(radial_spectrum(maps.numpy()).power, radial_spectrum(maps).power)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("shape", [(2, 6, 7), (2, 7, 6)])
def test_gradients_of_power_and_rings(edges, shape):
    maps = noise(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: power_spectrum(m, edges), maps)
    assert torch.autograd.gradcheck(lambda m: radial_spectrum(m, edges).power, maps)


@pytest.mark.parametrize("method", ["whittle", "weighted", "least_squares"])
def test_gradients_of_the_fit(method):
    maps = noise(2, 12, 12).requires_grad_()

    def alpha_and_amplitude(m):
        fit = fit_power_law(radial_spectrum(m), method=method)
        return fit.alpha, fit.amplitude

    assert torch.autograd.gradcheck(alpha_and_amplitude, maps, atol=1e-4)


@pytest.mark.parametrize("method", ["whittle", "weighted", "least_squares"])
def test_second_derivatives_of_the_fit(method):
    maps = noise(1, 8, 8).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda m: fit_power_law(radial_spectrum(m), method=method).alpha, maps, atol=1e-4
    )


@pytest.mark.parametrize("side", [20, 160])
def test_measuring_in_inference_mode_does_not_spoil_training_later(side):
    spectra._rings.cache_clear(), spectra._ring_matrix.cache_clear(), spectra._smooth_factors.cache_clear()
    with torch.inference_mode():
        radial_spectrum(noise(1, side, side))
    maps = noise(1, side, side).requires_grad_()
    radial_spectrum(maps).power.sum().backward()
    assert maps.grad.abs().sum() > 0


def test_phase_exchange_has_gradients():
    first, second = noise(8, 9).requires_grad_(), noise(8, 9, seed=1).requires_grad_()
    sum(mixed.square().sum() for mixed in exchange_phase(first, second)).backward()
    assert first.grad.isfinite().all()


# --- the fit -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["whittle", "weighted", "least_squares"])
@quick
@given(st.floats(-2, 8), st.floats(1e-6, 1e6))
def test_a_perfect_law_is_found_exactly(method, alpha, amplitude):
    fit = fit_power_law(law(alpha, amplitude), method=method)
    assert fit.alpha == pytest.approx(alpha, abs=1e-8)
    assert fit.amplitude == pytest.approx(amplitude, rel=1e-6)
    assert fit.deviance == pytest.approx(0, abs=1e-8)
    torch.testing.assert_close(fit.predict(law(alpha).frequency), law(alpha, amplitude).power, rtol=1e-6, atol=0)


def test_whittle_is_the_minimum_of_the_likelihood():
    """Against scipy on the two-parameter problem."""
    from scipy.optimize import minimize

    spectrum = radial_spectrum(power_law_field(48, 2.0, generator=torch.Generator().manual_seed(1))[0].double(), "none")
    low, high = default_band((48, 48))
    inside = (spectrum.frequency >= low) & (spectrum.frequency <= high)
    f, p, nu = (t[inside].numpy() for t in (spectrum.frequency, spectrum.power, spectrum.modes))

    def likelihood(x):
        model = np.exp(x[0]) * f ** -x[1]
        return (nu / 2 * (p / model + np.log(model))).sum()

    best = minimize(
        likelihood, (0.0, 1.0), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9999}
    )
    fit = fit_power_law(spectrum)
    assert fit.alpha == pytest.approx(best.x[1], abs=1e-5)
    assert fit.amplitude == pytest.approx(math.exp(best.x[0]), rel=1e-5)


def test_least_squares_is_numpys_polyfit():
    spectrum = radial_spectrum(noise(40, 40), "none")
    band = (0.1, 0.4)
    inside = (spectrum.frequency >= band[0]) & (spectrum.frequency <= band[1])
    x, y = spectrum.frequency[inside].log().numpy(), spectrum.power[inside].log().numpy()
    slope, _ = np.polyfit(x, y, 1)
    fit = fit_power_law(spectrum, band, "least_squares")
    assert fit.alpha == pytest.approx(-slope)
    assert fit.r_squared == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)


@pytest.mark.parametrize("method", ["whittle", "weighted", "least_squares"])
def test_many_fits_are_single_fits(method):
    spectrum = radial_spectrum(noise(2, 3, 32, 32))
    together = fit_power_law(spectrum, method=method)
    assert together.alpha.shape == (2, 3)
    assert together.interval.shape == (2, 3, 2)
    alone = fit_power_law(radial_spectrum(noise(2, 3, 32, 32)[1, 2]), method=method)
    for name in ("alpha", "standard_error", "amplitude", "r_squared", "deviance"):
        torch.testing.assert_close(getattr(together, name)[1, 2], getattr(alone, name))


def test_the_default_band():
    assert default_band((64, 80)) == (1.5 / 64, 0.45)
    assert default_band((14, 14)) == (0.5 / 14, 0.45)
    assert default_band((64, 64), strided=True)[1] == 0.35
    fit = fit_power_law(law(2.0))
    assert fit.rings == 64 * 0.45 // 1 - 1  # rings 2 to 28


def test_a_dead_row_is_nan_and_spoils_no_other():
    maps = noise(3, 16, 16)
    maps[1] = 0
    alpha = fit_power_law(radial_spectrum(maps)).alpha
    assert alpha.isnan().tolist() == [False, True, False]


def test_a_sector_with_one_ring_has_no_exponent():
    spectrum = radial_spectrum(noise(48, 48), "none", sectors=12)
    band = (0.02, 0.05)
    rings = ((spectrum.modes > 0) & (spectrum.frequency >= band[0]) & (spectrum.frequency <= band[1])).sum(1)
    assert set(rings.tolist()) == {0, 1, 2}
    assert torch.equal(fit_power_law(spectrum, band).alpha.isnan(), rings < 2)


@pytest.mark.parametrize("peak", [1e6, 1e20, 1e30])
def test_a_ring_that_outshines_all_others_is_fitted_or_given_up(peak):
    spectrum = law(0.0, shape=(256, 256))
    spectrum.power[100] = peak
    fit = fit_power_law(spectrum)
    if not fit.alpha.isnan():
        inside = (spectrum.frequency >= fit.band[0]) & (spectrum.frequency <= fit.band[1])
        x = spectrum.frequency[inside].log()
        share = torch.softmax((spectrum.modes * spectrum.power)[inside].log() + fit.alpha * x, 0)
        mean = (spectrum.modes[inside] * x).sum() / spectrum.modes[inside].sum()
        assert (share * x).sum() == pytest.approx(float(mean), abs=1e-6)


# --- rivals --------------------------------------------------------------------------------------


def drawn_from(model: torch.Tensor, spectrum: RadialSpectrum) -> RadialSpectrum:
    """Ring powers as Gaussian fields with this spectrum would have them: Gamma distributed around the model."""
    rng = np.random.default_rng(0)
    shape = spectrum.modes.numpy() / 2
    power = torch.from_numpy(model.numpy() * rng.gamma(shape, 1 / shape))
    return RadialSpectrum(spectrum.frequency, power, spectrum.modes, 1, spectrum.shape, "none")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("power law", lambda f: f**-2.0),
        ("bent", lambda f: torch.exp(-2.5 * f.log() - 0.5 * f.log() ** 2)),
        ("broken", lambda f: torch.where(f < 0.1, f**-1.0, 0.1**2 * f**-3.0)),
        ("knee", lambda f: 1 / (0.08**4 + f**4)),
        ("exponential", lambda f: torch.exp(-f / 0.05)),
    ],
)
def test_each_law_wins_on_its_own_ground(name, model):
    clean = law(2.0, shape=(256, 256))
    laws = compare_laws(drawn_from(model(clean.frequency), clean))
    assert laws[0].name == name
    assert [fit.bic for fit in laws] == sorted(fit.bic for fit in laws)


def test_bic_is_what_its_definition_says():
    """Twice the negative log-likelihood of Gamma distributed rings, less what all laws share, plus the price."""
    spectrum = radial_spectrum(noise(40, 40), "none")
    low, high = default_band((40, 40))
    inside = (spectrum.frequency >= low) & (spectrum.frequency <= high)
    p, nu = spectrum.power[inside], spectrum.modes[inside]
    for fit, parameters in (
        (law_fit, {"power law": 2, "broken": 4}.get(law_fit.name)) for law_fit in compare_laws(spectrum)
    ):
        if parameters:
            likelihood = (nu * (p / fit.log_model.exp() + fit.log_model)).sum()
            assert fit.bic == pytest.approx(float(likelihood) + parameters * math.log(float(nu.sum()) / 2))


def test_rivals_report_their_frequencies():
    clean = law(2.0, shape=(256, 256))
    laws = compare_laws(
        drawn_from(torch.where(clean.frequency < 0.1, clean.frequency**-1.0, 0.01 * clean.frequency**-3), clean)
    )
    broken = laws[0].parameters
    assert broken["break frequency"] == pytest.approx(0.1, rel=0.1)
    assert broken["alpha below"] == pytest.approx(1.0, abs=0.15)
    assert broken["alpha above"] == pytest.approx(3.0, abs=0.1)


def test_the_power_law_among_the_rivals_is_the_whittle_fit():
    spectrum = radial_spectrum(noise(64, 64), "none")
    power_law = next(fit for fit in compare_laws(spectrum) if fit.name == "power law")
    fit = fit_power_law(spectrum)
    assert power_law.parameters["alpha"] == pytest.approx(float(fit.alpha), abs=1e-3)
    assert power_law.deviance == pytest.approx(float(fit.deviance), rel=1e-4)


# --- one call ------------------------------------------------------------------------------------


def test_one_map_has_the_fits_own_interval():
    result = spectral_exponent(power_law_field(64, 2.0)[0], edges="none")
    assert result.images == 1
    assert result.interval == pytest.approx(result.fit.interval.tolist())


def test_channels_of_an_image_are_not_images():
    """Copies of one channel must not narrow the interval."""
    maps = power_law_field(32, 2.0, n=20, generator=torch.Generator().manual_seed(0))
    once = spectral_exponent(maps[:, None], edges="none")
    often = spectral_exponent(maps[:, None].expand(-1, 16, -1, -1), edges="none")
    assert often.interval == pytest.approx(once.interval, abs=1e-6)


def test_the_same_seed_gives_the_same_interval_and_the_global_generator_is_left_alone():
    maps = power_law_field(32, 2.0, n=8)
    state = torch.get_rng_state()
    assert spectral_exponent(maps).interval == spectral_exponent(maps).interval
    assert torch.equal(torch.get_rng_state(), state)


def test_a_good_measurement_is_trusted():
    maps = power_law_field(64, 2.0, n=30, generator=torch.Generator().manual_seed(0))
    result = spectral_exponent(maps, edges="none")
    assert result.trusted
    assert str(result).startswith(f"alpha = {result.alpha:.2f} [")


def test_few_images_are_flagged():
    maps = power_law_field(64, 2.0, n=12, generator=torch.Generator().manual_seed(0))
    assert "3 images" in spectral_exponent(maps[:3], "none").reasons[0]
    assert spectral_exponent(maps, "none").trusted
    assert spectral_exponent(maps[0], "none").trusted


@pytest.mark.parametrize(
    ("maps", "reason"),
    [
        (torch.tensor([1.0, -1.0]).repeat(8).expand(3, 16, 16), "no power"),
        (1.0 - 2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2), "no power"),
        (noise(3, 4, 4), "single ring"),
    ],
)
def test_maps_without_an_exponent_say_why(maps, reason):
    result = spectral_exponent(maps, "none")
    assert math.isnan(result.alpha)
    assert reason in str(result)


def test_one_dead_channel_does_not_hide_the_others():
    maps = torch.cat([torch.full((5, 1, 32, 32), 1e5), 0.01 * noise(5, 1, 32, 32).float()], 1)
    assert abs(spectral_exponent(maps, "none").alpha) < 0.3


def test_measuring_keeps_no_graph(recwarn):
    result = spectral_exponent(noise(3, 16, 16).requires_grad_())
    assert not result.spectrum.power.requires_grad
    assert not recwarn.list


def test_few_rings_are_flagged():
    result = spectral_exponent(noise(5, 8, 8))
    assert not result.trusted
    assert "only 3 rings" in str(result)


def test_edge_treatments_that_disagree_are_flagged():
    result = spectral_exponent(noise(10, 32, 32).cumsum(-1).cumsum(-2), edges="none")
    assert any("edge treatments disagree" in reason for reason in result.reasons)


def test_a_bent_spectrum_is_flagged():
    maps = torch.nn.functional.avg_pool2d(noise(20, 1, 128, 128), 5, stride=1)
    (reason,) = [reason for reason in spectral_exponent(maps).reasons if "bends" in reason]
    lower, upper = map(float, re.findall(r"\d+\.\d", reason))
    halves = [float(fit_power_law(radial_spectrum(maps).average(), b).alpha) for b in ((0.0125, 0.075), (0.075, 0.45))]
    assert lower < upper - 0.5
    assert (halves[1] > halves[0]) == (upper > lower)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0, 1e6, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 16, 16), (3, 15, 21), (12, 12)])
def test_a_constant_map_has_no_exponent_and_no_exception(value, dtype, shape):
    result = spectral_exponent(torch.full(shape, value, dtype=dtype))
    assert math.isnan(result.alpha)
    assert all(math.isnan(bound) for bound in result.interval)
    assert "constant" in result.reasons[0]


def test_phase_exchange_keeps_power_and_moves_the_picture():
    first, second = noise(32, 33), noise(32, 33, seed=1).cumsum(0)
    mixed, other = exchange_phase(first, second)
    torch.testing.assert_close(power_spectrum(mixed, "none"), power_spectrum(first, "none"), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(power_spectrum(other, "none"), power_spectrum(second, "none"), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(mixed.mean(), first.mean())
    same, _ = exchange_phase(first, first)
    torch.testing.assert_close(same, first)


# --- the accumulator -----------------------------------------------------------------------------


@pytest.mark.parametrize("sectors", [None, 4])
@pytest.mark.parametrize("edges", EDGES)
def test_streamed_equals_batched(edges, sectors):
    maps = noise(50, 3, 20, 23).float()
    accumulator = SpectrumAccumulator(edges, crop=1, sectors=sectors)
    for batch in maps.split(7):
        accumulator.update(batch)
    batched = radial_spectrum(maps, edges, crop=1, sectors=sectors).average()
    streamed = accumulator.result()
    assert streamed.maps == batched.maps == 150
    torch.testing.assert_close(streamed.power, batched.power, rtol=1e-5, atol=1e-9)
    assert streamed.power.dtype == torch.float64


def test_merged_equals_whole_and_survives_a_process_boundary():
    maps = noise(12, 16, 16)
    first, second = SpectrumAccumulator().update(maps[:5]), SpectrumAccumulator().update(maps[5:])
    merged = SpectrumAccumulator().merge(pickle.loads(pickle.dumps(first))).merge(second).merge(SpectrumAccumulator())
    torch.testing.assert_close(merged.result().power, SpectrumAccumulator().update(maps).result().power)
    assert merged.maps == 12


def test_a_small_number_added_to_a_large_sum_is_not_lost():
    accumulator = SpectrumAccumulator("none").update(noise(1, 8, 8).float() * 1e4)
    for _ in range(1000):
        accumulator.update(noise(1, 8, 8, seed=1).float())
    expected = (
        radial_spectrum(noise(8, 8) * 1e4, "none").power + 1000 * radial_spectrum(noise(8, 8, seed=1), "none").power
    )
    torch.testing.assert_close(accumulator.result().power * 1001, expected, rtol=1e-6, atol=0)


def test_an_empty_batch_decides_nothing():
    accumulator = SpectrumAccumulator().update(noise(0, 16, 16)).update(noise(2, 32, 32))
    assert accumulator.maps == 2


def test_a_refused_batch_leaves_the_sum_as_it_was():
    accumulator = SpectrumAccumulator().update(noise(2, 16, 16))
    before = accumulator.result().power
    with pytest.raises(ValueError, match="left out"):
        accumulator.update(torch.full((1, 16, 16), math.nan))
    with pytest.raises(ValueError, match="one accumulator for each size"):
        accumulator.update(noise(2, 18, 16))
    assert torch.equal(accumulator.result().power, before)
    assert accumulator.maps == 2


# --- bad input: one sentence that says what was wrong and what to do -----------------------------


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda: radial_spectrum(noise(8, 8).to(torch.complex64)), TypeError, "pass real maps"),
        (lambda: radial_spectrum(torch.zeros(8, 8, dtype=torch.uint8)), TypeError, r"maps\.float\(\) / 255"),
        (lambda: radial_spectrum(noise(3, 8)), ValueError, "at least 4 pixels a side"),
        (lambda: radial_spectrum(noise(8)), ValueError, "two spatial dimensions"),
        (lambda: radial_spectrum(noise(8, 8), edges="hanning"), ValueError, "choose one of 'periodic'"),
        (lambda: radial_spectrum(noise(8, 8), crop=3), ValueError, "crop less"),
        (lambda: radial_spectrum(noise(8, 8), crop=-1), ValueError, "negative"),
        (lambda: radial_spectrum(noise(8, 8), sectors=1), ValueError, "2 or more"),
        (lambda: radial_spectrum(noise(5, 8, 8) / torch.tensor([1, 1, 0, 1, 1.0])[:, None, None]), ValueError, "map 2"),
        (lambda: radial_spectrum(torch.full((8, 8), 1e30) * noise(8, 8).float()), ValueError, "overflowing"),
        (lambda: fit_power_law(law(2.0), band=(0.2, 0.21)), ValueError, "widen the band"),
        (lambda: fit_power_law(law(2.0), band=(0.6, 0.9)), ValueError, "0 rings lie between"),
        (lambda: fit_power_law(law(2.0), method="wittle"), ValueError, "choose one of 'whittle'"),
        (lambda: fit_power_law(law(2.0), band=(0.4, 0.1)), ValueError, "lowest < highest"),
        (lambda: fit_power_law(law(2.0), band=(-0.3, 0.3)), ValueError, "0 <= lowest"),
        (lambda: fit_power_law(law(2.0), band=(math.nan, 0.3)), ValueError, "no band"),
        (lambda: fit_power_law(law(2.0), band=(0.1,)), ValueError, "no pair of frequencies"),
        (lambda: fit_power_law(law(2.0), band=()), ValueError, "no pair of frequencies"),
        (lambda: spectral_exponent(torch.ones(8, 8), method="wittle"), ValueError, "one of"),
        (lambda: spectral_exponent(noise(0, 8, 8)), ValueError, "at least one image"),
        (lambda: SpectrumAccumulator("hanning"), ValueError, "choose one of 'periodic'"),
        (lambda: SpectrumAccumulator(crop=-1), ValueError, "negative"),
        (lambda: SpectrumAccumulator(sectors=1), ValueError, "2 or more"),
        (lambda: compare_laws(radial_spectrum(noise(3, 32, 32))), ValueError, "one spectrum at a time"),
        (lambda: compare_laws(radial_spectrum(noise(8, 8))), ValueError, "5 are needed"),
        (lambda: compare_laws(radial_spectrum(torch.zeros(32, 32))), ValueError, "no power"),
        (lambda: exchange_phase(noise(8, 8), noise(8, 9)), ValueError, "crop both"),
        (lambda: SpectrumAccumulator().result(), ValueError, r"call update\(maps\) first"),
        (lambda: SpectrumAccumulator("none").merge(SpectrumAccumulator("hann")), ValueError, "cannot be merged"),
        (lambda: radial_spectrum(noise(0, 8, 8)).average(), ValueError, "at least one"),
        (lambda: spectral_exponent(noise(3, 3, 3)), ValueError, "larger picture"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
