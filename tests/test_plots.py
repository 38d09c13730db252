"""Every figure is drawn from what the package measures, carries its numbers in words, and is a small PNG."""

import io
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from spectralkd_nb import operations, pictures, plots, spectra

LAYERS = pd.DataFrame(
    {
        "depth": [0, 1, 2, 3],
        "stage": pd.array([None, 1, 1, 2], dtype="Int64"),
        "alpha": [2.0, 1.5, float("nan"), 3.0],
        "lower": [1.9, 1.4, float("nan"), float("nan")],
        "upper": [2.1, 1.6, float("nan"), float("nan")],
        "trusted": [True, True, False, False],
    }
)
CURVES = {
    "epoch": [1, 2],
    "learning rate": [0.1, 0.05],
    "cross-entropy": [2.0, 1.5],
    "soft targets": [3.0, 2.25],
    "train accuracy": [30.0, 45.0],
    "test accuracy": [25.0, 41.25],
    "seconds": [1.0, 2.0],
}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def field() -> torch.Tensor:
    return pictures.power_law_field((96, 120), 2.0, generator=generator())[0]


@pytest.fixture(scope="module")
def figures(field) -> dict[str, plots.CaptionedFigure]:
    spectrum = spectra.radial_spectrum(field, "none")
    table = pictures.measured_photographs()
    return {
        "gallery": plots.gallery({"a": field, "b": torch.rand(3, 20, 30, generator=generator())}, "Two pictures."),
        "picture_and_power": plots.picture_and_power(field, "a field"),
        "from_picture_to_law": plots.from_picture_to_law(field, "a field"),
        "law_by_band": plots.law_by_band(spectrum, [(0.02, 0.1), (0.1, 0.4)], "a field"),
        "edge_treatments": plots.edge_treatments(field, "a field"),
        "spectra_and_laws": plots.spectra_and_laws({"a field": spectrum}),
        "rival_laws": plots.rival_laws(spectrum, spectra.compare_laws(spectrum), "a field"),
        "exponent_spread": plots.exponent_spread(table, {"a field": 2.0}),
        "orientations": plots.orientations({"a field": spectra.radial_spectrum(field, sectors=6)}),
        "layer": plots.layer(torch.stack([field, 2 * field]), spectra.spectral_exponent(field, "none"), "a layer"),
        "exponents_by_depth": plots.exponents_by_depth({"a": LAYERS, "b": LAYERS.assign(alpha=1.0)}, "networks"),
        "channel_exponents": plots.channel_exponents({"a layer": torch.tensor([1.0, 2.0, 4.0, float("nan")])}),
        "operation": plots.operation(operations.try_operation("ReLU", 2.0, size=64)),
        "training_curves": plots.training_curves(CURVES, "a student"),
    }


def test_every_figure_of_the_module_is_tried(figures):
    assert set(figures) == set(plots.__all__) - {"PALETTE", "CaptionedFigure", "use_style"}


def test_figures_are_small_pngs_with_a_sentence(figures):
    for figure in figures.values():
        picture = Image.open(io.BytesIO(figure.png()))
        assert picture.format == "PNG"
        assert picture.width == plots.WIDTH * plots.DPI
        assert len(figure.png(colours=256)) < min(200_000, len(figure.png()))
        assert re.fullmatch(r"[^\n]+\.", figure.caption)


def test_captions_tell_the_numbers(figures, field):
    alpha = spectra.fit_power_law(spectra.radial_spectrum(field, "none")).alpha
    assert f"f^-{alpha:.2f}" in figures["spectra_and_laws"].caption
    assert "200 photographs" in figures["exponent_spread"].caption
    assert f"{pictures.measured_photographs()['alpha'].mean():.2f}" in figures["exponent_spread"].caption
    assert "the best law by BIC is: power law;" in figures["rival_laws"].caption


def test_octaves_share_all_of_the_power_below_nyquist(field):
    shares = plots._octave_shares(spectra.power_spectrum(field, "none"), field.shape)
    assert list(shares) == ["< 1/64", "1/32", "1/16", "1/8", "1/4", "1/2"]
    assert 0.95 < sum(shares.values()) <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(8, 8), (8, 9), (9, 8), (9, 9)])
def test_the_plane_is_the_whole_plane(shape):
    """The drawn plane, mirrored from the half that is stored, is fftshift of the full transform."""
    maps = torch.randn(*shape, generator=generator(), dtype=torch.float64)
    full = torch.fft.fftshift(torch.fft.fft2(maps - maps.mean()).abs() ** 2 / maps.numel())
    drawn = plots._full_plane(spectra.power_spectrum(maps, "none"), shape[1]).numpy()
    middle = shape[0] // 2, shape[1] // 2
    expected = full.numpy()
    drawn[middle] = expected[middle] = 0  # the mean, removed
    np.testing.assert_allclose(drawn, expected, rtol=1e-6, atol=1e-12)


def test_a_cross_is_seen_and_its_absence_too():
    ramp = torch.linspace(0, 9, 64).expand(64, 64) + pictures.power_law_field(64, 1.0, generator=generator())[0]
    assert plots._axis_excess(spectra.power_spectrum(ramp, "none")) > 3
    assert plots._axis_excess(spectra.power_spectrum(ramp, "periodic")) < 2


def test_direction_of_power():
    wave = torch.cos(2 * torch.pi * 10 * torch.arange(64.0) / 64).expand(64, 64)
    noise = pictures.white_noise(64, generator=generator())[0]
    relative = plots._power_by_direction(spectra.radial_spectrum(noise + 3 * wave, "none", sectors=6))
    assert int(relative.argmax()) == 0


def test_a_figure_shows_itself_with_alternative_text_and_prints_its_caption(figures, capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    figures["gallery"]._ipython_display_()
    assert capsys.readouterr().out == "Two pictures.\n"
    data, options = shown[0]
    assert data["image/png"]
    assert options["metadata"]["image/png"]["alt"] == "Two pictures."


def test_the_style_sets_palette_and_spines():
    import matplotlib

    with matplotlib.rc_context():
        plots.use_style()
        colours = [matplotlib.colors.to_hex(c) for c in matplotlib.rcParams["axes.prop_cycle"].by_key()["color"]]
        assert colours == [c.lower() for c in plots.PALETTE]
        assert not matplotlib.rcParams["axes.spines.top"]


def test_the_palette_is_told_apart_by_lightness_or_hue():
    """No two colours of the palette coincide for a reader without red or green cones (Machado et al. 2009)."""
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in plots.PALETTE])
    seen = (rgb**2.2) @ deuteranopia.T
    distance = np.linalg.norm(seen[:, None] - seen[None], axis=-1) + 9 * np.eye(len(seen))
    assert distance.min() > 0.05


def test_training_curves_read_the_last_epoch_and_wait_for_the_first():
    drawn = plots.training_curves(CURVES, "student from teacher", epochs=5)
    assert "student from teacher after 2 epochs: 41.2 % of the test images" in drawn.caption
    assert "cross-entropy 1.500, soft targets 2.250" in drawn.caption
    assert [len(axis.lines) for axis in drawn.figure.axes] == [2, 2]
    assert all(axis.get_xlim() == (0.5, 5.5) for axis in drawn.figure.axes)
    assert "not finished yet" in plots.training_curves({}, "student", epochs=5).caption


def test_layers_are_told_with_their_numbers(figures):
    assert "a goes from 2.00 to 3.00 at depth 3; b goes from 1.00 to 1.00" in figures["exponents_by_depth"].caption
    assert "a layer: 3 channels, median 2.00, 1.00 to 4.00" in figures["channel_exponents"].caption
    assert re.match(r"a layer: alpha = \d\.\d\d \[", figures["layer"].caption)
    assert "ReLU takes alpha from" in figures["operation"].caption
