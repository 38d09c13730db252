"""Every figure is drawn from what the package measures, carries its numbers in words, and is a small PNG."""

import io
import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from PIL import Image
from test_plots_adaptation import every_figure
from test_profiles import some_profiles

from spectralkd_nb import losses, operations, pictures, plots, spectra
from spectralkd_nb.depth_law import ExponentProfile, fit_depth_law
from spectralkd_nb.experiments.predictors import ladder, predictors
from spectralkd_nb.experiments.sweet_spot import Teacher, sweet_spot, teachers_of
from spectralkd_nb.losses.selectivity import nst_loss
from spectralkd_nb.plots import style
from spectralkd_nb.teacher_quality import RankCorrelation, soft_targets

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
MEASURED = torch.tensor([[2.0, 1.5, 1.0, 0.9], [2.0, 1.7, 1.4, 1.1]], dtype=torch.float64)
PREDICTED = torch.tensor([2.0, 1.6, 1.3, 1.1], dtype=torch.float64)
BAND = (0.02, 0.35)
SLOPES = pd.DataFrame(
    {
        "network": ["plain20"] * 5 + ["resnet20"] * 2,
        "seed": [0, 0, 0, 1, 1, 0, 0],
        "epoch": [0, 1, 16, 0, 16, 0, 16],
        "slope": [-0.05, 0.02, 0.07, -0.07, 0.05, 0.01, -0.01],
    }
)

RUNS = pd.DataFrame(
    {
        "student": "a student",
        "teacher": [None] * 3 + ["a teacher"] * 3,
        "protocol": "quick",
        "method": ["alone"] * 3 + ["KD"] * 3,
        "seed": [0, 1, 2] * 2,
        "accuracy": [70.0, 71.0, 72.5, 73.0, 73.5, 76.0],
        "best": 77.0,
        "seconds": 1.0,
    }
)


GAINS = {"paper": {"KD": 1.5, "NST": 0.25}, "ours": {"NST": (-0.5, -1.0, 0.0), "both": (2.0, 1.25, 2.75)}}


LADDER = [Teacher(f"vgg8x{width}", 32, 36) for width in (0.0625, 0.125, 0.25, 0.5)]
SEARCH = {
    "coarse": [Teacher(f"vgg8x{w}", b, e) for w in (0.125, 0.25, 0.5) for b in (8, 32, 128) for e in (4, 12, 36, 108)],
    "refined 1": [Teacher("vgg8x0.25", b, e) for b in (16, 32, 64) for e in (21, 36, 62) if (b, e) != (32, 36)],
    "confirmation": [*LADDER, Teacher("vgg8x0.5", 8, 108), Teacher("vgg8x0.25", 64, 62)],
}
MEASURES = ("entropy", "effective_classes", "non_target_mass", "similarity", "calibration_error")
CLASSES = [f"alpha {alpha} at {angle}" for alpha in (1.0, 1.3, 1.6, 1.9) for angle in (0, 45, 90, 135)]
TRAINING = pd.DataFrame(
    [
        {
            "epoch": epoch,
            "images": images,
            "temperature": temperature,
            "accuracy": 100 - 60 / epoch,
            "effective_classes": 1 + temperature / epoch,
            "non_target_mass": temperature / 10 / epoch,
            "similarity": 0.5 - epoch / 200,
            "calibration_error": 0.1,
        }
        for epoch in (1, 2, 4, 36)
        for images in ("training", "test")
        for temperature in (1.0, 4.0)
    ]
)


def sweep() -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a sweep finds whose students are best where a teacher has learnt neither little nor much, and responses."""
    rng = np.random.default_rng(0)
    rows, responses = [], []
    for step, teachers in SEARCH.items():
        for seed in range(5) if step == "confirmation" else (100, 101, 102):
            if step != "refined 1":
                rows.append({"step": step, "seed": seed, "student_accuracy": 76.5 + 0.8 * rng.normal()})
            for teacher in teachers:
                learnt = np.log2(float(teacher.network[5:]) / 0.125 * 32 / teacher.batch_size * teacher.epochs / 12)
                told = {"step": step, **vars(teacher), "seed": seed}
                accuracy = 84 - 26 * np.exp(-0.55 * (learnt + 3.2)) + 0.5 * rng.normal()
                student = 79.5 - 0.1 * (learnt - 1.6) ** 2 + 0.4 * rng.normal()
                rows.append(told | {"learning_rate": 0.1, "teacher_accuracy": accuracy, "student_accuracy": student})
                for temperature in (1.0, 4.0):
                    mass = 1 / (1 + np.exp(1.2 * learnt + 3 - 1.5 * temperature))
                    said = (2.6 * mass, np.exp(2.6 * mass), mass, 0.4 + 0.05 * rng.normal(), mass / 3)
                    told |= {"temperature": temperature, **dict(zip(MEASURES, said, strict=True))}
                    responses += [told | {"images": images} for images in ("training", "test")]
    return pd.DataFrame(rows), pd.DataFrame(responses)


SWEEP, RESPONSES = sweep()


def similarities() -> tuple[torch.Tensor, torch.Tensor]:
    """Of 16 classes: one that has its highest mean of both directions at 4 and 7, and one with equal pairs."""
    similarity = torch.rand(16, 16, generator=generator())
    similarity[4, 7], similarity[7, 4], similarity[2, 2], similarity[1, 0] = 1.5, 1.4, 9.0, 1.6
    reference = torch.zeros(16, 16)
    reference[[0, 1, 5, 6], [1, 0, 6, 5]] = 1.0
    return similarity, reference


def profile(
    rise: float = 0.1, name: str = "a network", layers: int = 12, dead: tuple[int, ...] = ()
) -> ExponentProfile:
    """The image at alpha 2.5, and behind it a line that rises from 1.5 through two stages, with two layers a block."""
    depth = torch.arange(layers + 1, dtype=torch.float64)
    alpha = torch.where(depth == 0, 2.5, 1.4 + rise * depth + 0.01 * (-1) ** depth)
    alpha[list(dead)] = torch.nan
    draws = alpha + 0.02 * torch.randn(50, layers + 1, generator=generator(), dtype=torch.float64)
    return ExponentProfile(
        name=name,
        paths=("image", *(f"layer{i}" for i in range(1, layers + 1))),
        kinds=("image", *["BasicBlock"] * layers),
        depth=depth,
        blocks=(depth / 2).ceil(),
        stage=(None, *[1] * (layers // 2), *[2] * (layers - layers // 2)),
        grid=((32, 32),) * (1 + layers // 2) + ((16, 16),) * (layers - layers // 2),
        bands=((0.05, 0.45),) * (layers + 1),
        alpha=alpha,
        reasons=tuple(("few rings",) if i == 2 else () for i in range(layers + 1)),
        draws=draws,
        folds=alpha + torch.zeros(5, 2, layers + 1, dtype=torch.float64),
        images=50,
        groups=50,
    )


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def excited() -> tuple[torch.Tensor, torch.Tensor]:
    """Six pictures and maps whose channel 1 has the means 0, 4, 1, 5, 2, 3."""
    maps = torch.rand(6, 2, 4, 4, generator=generator())
    maps[:, 1] += torch.tensor([0.0, 4, 1, 5, 2, 3])[:, None, None] - maps[:, 1].mean((1, 2), keepdim=True)
    return torch.rand(6, 3, 8, 8, generator=generator()), maps


def features(dead: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A student of 3 and a teacher of 5 channels, of which some are dead, on 2 images of 4 x 5 pixels."""
    student, teacher = torch.randn(2, 8, 4, 5, generator=generator(), dtype=torch.float64).split((3, 5), 1)
    return student, teacher * (torch.arange(5) >= dead)[:, None, None]


@pytest.fixture(scope="module")
def field() -> torch.Tensor:
    return pictures.power_law_field((96, 120), 2.0, generator=generator())[0]


@pytest.fixture(scope="module")
def figures(field) -> dict[str, plots.CaptionedFigure]:
    spectrum = spectra.radial_spectrum(field, "none")
    table = pictures.measured_photographs()
    pair = {"trained": profile(), "untrained": profile(-0.05)}
    law = fit_depth_law(pair["trained"])
    maps = (field[None, None, :64, :64], torch.zeros(1, 1, 64, 64))
    error = losses.error_spectrum(*maps)
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
        "depth_profile": plots.depth_profile(pair, {"trained": law}, "a network"),
        "profile_gallery": plots.profile_gallery({"first": pair, "second": pair, "third": pair}, {"first": law}),
        "recursion": plots.recursion(MEASURED, PREDICTED, "white kernels", BAND),
        "gains_by_depth": plots.gains_by_depth({"trained": [1.0, -0.5, 0.75], "untrained": [0.0, 0.1, -0.1]}),
        "slopes_by_epoch": plots.slopes_by_epoch(SLOPES, "slopes"),
        "heard_by_frequency": plots.heard_by_frequency({"a layer": maps}),
        "weighted_error": plots.weighted_error(*maps, 1.5, "a layer"),
        "gradient_spectra": plots.gradient_spectra({"a loss": error}, error, "gradients"),
        "spectra_while_learning": plots.spectra_while_learning({0: error, 8: error}, error, 8, "a layer"),
        "method_comparison": plots.method_comparison(RUNS, "alone"),
        "ranking": plots.ranking(RUNS, "alone"),
        "student_profiles": plots.student_profiles(some_profiles({"alone": 0.5, "KD": 0.3}), "alone"),
        "depth_summary": plots.depth_summary({"white kernels": (MEASURED, PREDICTED)}, pair, law),
        "most_excited": plots.most_excited(*excited(), 1, "a layer", list("abcdef"), shown=4),
        "two_pixel_sets": plots.two_pixel_sets([20, 70], [40, 150, 300], "gaussian", 0.5, "a toy"),
        "kernels_by_sigma": plots.kernels_by_sigma(*features(), 0.5, [0.1, 0.5, 2.0], "a layer"),
        "what_a_gram_keeps": plots.what_a_gram_keeps(
            torch.rand(3, 16, 20), *(maps[0] for maps in features()), (1, 2), "a layer"
        ),
        "cosines_between_channels": plots.cosines_between_channels({"a": features()[0], "b": features()[1]}, "layers"),
        "gains": plots.gains(GAINS, "two sources"),
        "soft_targets_of": plots.soft_targets_of(
            torch.rand(3, 32, 32, generator=generator()), torch.arange(16.0), 14, CLASSES, 4, "a teacher, picture 1"
        ),
        "response_through_training": plots.response_through_training(TRAINING, 4),
        "similarity_matrices": plots.similarity_matrices(
            *similarities(), CLASSES, RankCorrelation(0.25, 0.012, 120, 1.0)
        ),
        "teacher_heat_maps": plots.teacher_heat_maps(SWEEP, RESPONSES, 4),
        "what_predicts": plots.what_predicts(SWEEP, RESPONSES, 4),
        "capacity_gap": plots.capacity_gap(SWEEP, LADDER),
        **every_figure(),
    }


def test_every_figure_of_the_module_is_tried(figures):
    assert set(figures) == set(plots.__all__) - {"PALETTE", "CaptionedFigure", "use_style"}


def test_figures_are_small_pngs_with_a_sentence(figures):
    for figure in figures.values():
        png = figure.png()
        picture = Image.open(io.BytesIO(png))
        assert picture.format == "PNG"
        assert picture.width == style.WIDTH * style.DPI
        assert len(figure.png(colours=256)) < min(200_000, len(png))
        assert re.fullmatch(r"[^\n]+\.", figure.caption)


def test_captions_tell_the_numbers(figures, field):
    alpha = spectra.fit_power_law(spectra.radial_spectrum(field, "none")).alpha
    assert f"f^-{alpha:.2f}" in figures["spectra_and_laws"].caption
    assert "200 photographs" in figures["exponent_spread"].caption
    assert f"{pictures.measured_photographs()['alpha'].mean():.2f}" in figures["exponent_spread"].caption
    assert "the best law by BIC is: power law;" in figures["rival_laws"].caption


def test_octaves_share_all_of_the_power_below_nyquist(field):
    shares = plots.spectra._octave_shares(spectra.power_spectrum(field, "none"), field.shape)
    assert list(shares) == ["<1/64", "1/32", "1/16", "1/8", "1/4", "1/2"]
    assert 0.95 < sum(shares.values()) <= 1 + 1e-6


@pytest.mark.parametrize("shape", [(8, 8), (8, 9), (9, 8), (9, 9)])
def test_the_plane_is_the_whole_plane(shape):
    """The drawn plane, mirrored from the half that is stored, is fftshift of the full transform."""
    maps = torch.randn(*shape, generator=generator(), dtype=torch.float64)
    full = torch.fft.fftshift(torch.fft.fft2(maps - maps.mean()).abs() ** 2 / maps.numel())
    drawn = plots.spectra._full_plane(spectra.power_spectrum(maps, "none"), shape[1]).numpy()
    middle = shape[0] // 2, shape[1] // 2
    expected = full.numpy()
    drawn[middle] = expected[middle] = 0  # the mean, removed
    np.testing.assert_allclose(drawn, expected, rtol=1e-6, atol=1e-12)


def test_a_cross_is_seen_and_its_absence_too():
    ramp = torch.linspace(0, 9, 64).expand(64, 64) + pictures.power_law_field(64, 1.0, generator=generator())[0]
    assert plots.spectra._axis_excess(spectra.power_spectrum(ramp, "none")) > 3
    assert plots.spectra._axis_excess(spectra.power_spectrum(ramp, "periodic")) < 2


def test_direction_of_power():
    wave = torch.cos(2 * torch.pi * 10 * torch.arange(64.0) / 64).expand(64, 64)
    noise = pictures.white_noise(64, generator=generator())[0]
    relative = plots.spectra._power_by_direction(spectra.radial_spectrum(noise + 3 * wave, "none", sectors=6))
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


# --- alpha by depth -----------------------------------------------------------------------------


def test_a_profile_is_told_by_its_law_or_by_its_ends(figures):
    law = fit_depth_law(profile())
    assert law.decided == "linear"
    trained = f"linear, {law.slope:+.3f} a layer, R2 {law.r_squared:.2f}"
    assert figures["depth_profile"].caption == f"trained: {trained}; untrained: alpha goes from 2.50 to 0.81."
    assert plots.depth_profile({"a": profile()}).caption == "a: alpha goes from 2.50 to 2.61."
    assert plots.depth_profile({"a": profile(dead=tuple(range(13)))}).caption == "a: no layer has an alpha."


def test_a_gallery_tells_of_every_network_and_leaves_no_axis_empty(figures):
    law = fit_depth_law(profile())
    drawn = figures["profile_gallery"]
    first = f"first: {law.decided}, {law.slope:+.3f} a layer, R2 {law.r_squared:.2f}"
    told = f"{first}; second: alpha goes from 2.50 to 2.61; third: alpha goes from 2.50 to 2.61."
    assert drawn.caption == f"Dashed, one line; solid, the best other law that stands. {told}"
    assert [axis.get_title() for axis in drawn.figure.axes if axis.axison] == ["first", "second", "third"]
    assert [text.get_text() for text in drawn.figure.legends[0].get_texts()] == ["trained", "untrained"]


def test_layers_that_are_not_to_be_trusted_are_hollow_and_those_without_an_alpha_missing():
    (axis,) = plots.depth_profile({"a": profile(dead=(5,))}).figure.axes
    marks = [line for line in axis.lines if line.get_marker() == "o"]
    filled, hollow = (
        next(m for m in marks if (m.get_markerfacecolor() == "white") == empty) for empty in (False, True)
    )
    assert hollow.get_xdata().tolist() == [2]
    assert filled.get_xdata().tolist() == [0, 1, *range(3, 13)]
    assert np.isnan(filled.get_ydata()).sum() == 1


def test_stages_are_named_with_the_size_of_their_maps():
    (axis,) = plots.depth_profile({"a": profile()}).figure.axes
    assert [text.get_text() for text in axis.texts] == ["stage 1\n32 px", "stage 2\n16 px"]
    (shade,) = [patch for patch in axis.patches if patch.get_zorder() == 0]
    assert shade.get_x() == 6.5


def test_the_drawn_law_is_the_line_and_the_best_of_its_rivals():
    straight = profile()
    bend = 2 * torch.exp(-straight.depth / 2) - 0.1 * straight.depth
    bent = replace(straight, **{name: getattr(straight, name) + bend for name in ("alpha", "draws", "folds")})
    for made, name in ((straight, "linear"), (bent, "saturating")):
        law = fit_depth_law(made)
        assert law.decided == name
        (axis,) = plots.depth_profile({"a": made}, {"a": law}).figure.axes
        dashed, *solid = [line for line in axis.lines if line.get_marker() in ("", "None")]
        assert dashed.get_linestyle() == "--"
        assert dashed.get_ydata()[-1] == pytest.approx(law.intercept + 12 * law.slope)
        assert len(solid) == (name != "linear")
        for line in solid:
            assert line.get_linestyle() == "-"
            assert line.get_ydata()[-1] == pytest.approx(float(law.rival(name).fitted[-1]))


def test_a_random_network_is_told_beside_the_recursion(figures):
    assert figures["recursion"].caption == (
        "white kernels: alpha falls from 2.00 to 1.00 in 3 layers, -0.333 a layer; the recursion says 1.10 and is "
        "never more than 0.10 from their mean; band 0.02 to 0.35 cycles a pixel."
    )
    rising = plots.recursion(MEASURED.flip(1), PREDICTED.flip(0), "low passes", BAND)
    assert rising.caption.startswith("low passes: alpha rises from 1.00 to 2.00 in 3 layers, +0.333 a layer;")


@pytest.mark.parametrize("shift", [-3.0, 0.0, 8.0])
def test_every_alpha_of_a_random_network_lies_on_the_axis(shift):
    low, high = plots.recursion(MEASURED + shift, PREDICTED + shift, "", BAND).figure.axes[0].get_ylim()
    assert low <= float((MEASURED + shift).min())
    assert high >= float((MEASURED + shift).max())
    if not shift:
        assert plots.recursion(MEASURED, PREDICTED, "", BAND, limits=(0, 7)).figure.axes[0].get_ylim() == (0, 7)


def test_gains_are_counted_and_summed(figures):
    assert figures["gains_by_depth"].caption == (
        "What the kernels add to alpha. trained: 2 of 3 convolutions have a positive kappa, from -0.50 to "
        "+1.00, and the sum is +1.2; untrained: 1 of 3 convolutions have a positive kappa, from "
        "-0.10 to +0.10, and the sum is +0.0."
    )
    summed = figures["gains_by_depth"].figure.axes[1].lines[0]
    assert summed.get_ydata().tolist() == [1.0, 0.5, 1.25]


def test_slopes_stand_at_their_epochs_whoever_has_them(figures):
    drawn = figures["slopes_by_epoch"]
    assert drawn.caption == (
        "The slope of alpha over depth while networks learn: plain20 from -0.060 to +0.060 a layer (2 seeds); "
        "resnet20 from +0.010 to -0.010 a layer (1 seed)."
    )
    (axis,) = drawn.figure.axes
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "16"]
    first, second = (container.lines[0].get_xdata().tolist() for container in axis.containers)
    assert first == [0, 1, 2]
    assert second == [0, 2]


def test_the_summary_tells_of_random_networks_and_of_the_law(figures):
    law = fit_depth_law(profile())
    drawn = [name for name in law.standing if name not in ("constant", "linear")]
    lines = "dashed, one line" + (f"; solid, {drawn[0]}" if drawn else "")
    assert figures["depth_summary"].caption == (
        f"Depth moves alpha. white kernels: from 2.00 to 1.00, predicted 1.10. a network ({lines}): {law}"
    )
    assert [axis.get_title() for axis in figures["depth_summary"].figure.axes] == ["white kernels", "a network"]


# --- neuron selectivity transfer -----------------------------------------------------------------


def unit(maps: torch.Tensor) -> torch.Tensor:
    """(B, C, H W), zeros where a channel is dead; by another way than the package's."""
    return torch.nn.functional.normalize(maps.flatten(2), dim=2, eps=1e-12)


def on_circle(degrees: torch.Tensor) -> torch.Tensor:
    return torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], -1)[None, :, None]


def arrow_patches(drawn: plots.CaptionedFigure) -> list[FancyArrowPatch]:
    drawn.png()
    return [patch for patch in drawn.figure.axes[0].patches if isinstance(patch, FancyArrowPatch)]


def arrows(drawn: plots.CaptionedFigure) -> list[np.ndarray]:
    """The points of each arrow along the circle."""
    return [patch._path_original.vertices for patch in arrow_patches(drawn)]


def turns(drawn: plots.CaptionedFigure) -> dict[float, float]:
    """Where each arrow starts, and how far it turns; degrees."""
    angles = [np.rad2deg(np.unwrap(np.arctan2(*points.T[::-1]))) for points in arrows(drawn)]
    return {round(float(turned[0]) % 360, 3): float(turned[-1] - turned[0]) for turned in angles}


def places(drawn: plots.CaptionedFigure) -> list[tuple[float, ...]]:
    return [axis.get_position(original=True).bounds for axis in drawn.figure.axes]


def test_the_most_excited_pictures_come_first():
    images, maps = excited()
    drawn = plots.most_excited(images, maps, 1, "a layer", ["x", "hat", "x", "hat", "x", "cat"], shown=3)
    assert drawn.caption == (
        "a layer, channel 1: hat is 2 of the 3 pictures that excite it most; its mean response is 4 to these and 2.5 "
        "over all 6 pictures."
    )
    below, above, *_ = drawn.figure.axes
    assert [text.get_text() for text in above.texts] == ["hat", "hat", "cat"]
    assert [text.get_text() for text in below.texts] == ["5.00", "4.00", "3.00"]
    for axis, shown in ((above, images.permute(0, 2, 3, 1)), (below, maps[:, 1])):
        for picture, n in zip(axis.images, (3, 1, 5), strict=True):
            np.testing.assert_allclose(picture.get_array(), shown[n], rtol=1e-6)
    assert len({picture.get_clim() for picture in below.images}) == 1
    assert places(drawn) == places(plots.most_excited(images, maps, 0, "a layer", shown=3))


def test_a_channel_that_nothing_excites_more_is_told_so_and_nothing_else_is_taken():
    images, maps = excited()
    drawn = plots.most_excited(images, 0 * maps, 0, "dead")
    assert drawn.caption == "dead, channel 0: all 6 pictures excite it alike, with a mean response of 0."
    with pytest.raises(ValueError, match="no channel 2; the maps have 2"):
        plots.most_excited(images, maps, 2, "a layer")
    with pytest.raises(ValueError, match="6 images, 6 maps and 1 names"):
        plots.most_excited(images, maps, 1, "a layer", ["x"])


@pytest.mark.parametrize("kernel", ["linear", "poly", "gaussian"])
def test_neurons_are_pulled_the_way_the_loss_falls(kernel):
    """The pull by finite differences, its direction along the circle, and the loss by its definition."""
    student, teacher = torch.tensor([20.0, 70, 95], dtype=torch.float64), torch.tensor([40.0, 150]).double()

    def loss(angles: torch.Tensor) -> float:
        return float(nst_loss(on_circle(angles), on_circle(teacher), kernel, sigma=0.6))

    step = 1e-4
    slopes = [(loss(student + step * one) - loss(student - step * one)) / (2 * step) for one in torch.eye(3).double()]
    steepest = np.abs(slopes).argmax()
    drawn = plots.two_pixel_sets(student.tolist(), teacher.tolist(), kernel, 0.6)
    pull = np.rad2deg(np.abs(slopes[steepest]))
    assert f"loss {loss(student):.3g}; the steepest pull is {pull:.3g} per radian" in drawn.caption
    assert f"on the student's neuron at {student[steepest]:g} degrees." in drawn.caption
    lengths = -35 / 0.5 * np.rad2deg(slopes)  # 35 degrees for half a unit per radian
    drawn_ones = {float(angle): length for angle, length in zip(student, lengths, strict=True) if abs(length) >= 1.5}
    assert turns(drawn) == pytest.approx(drawn_ones, rel=1e-3)
    assert drawn_ones


@pytest.mark.parametrize(
    ("kernel", "sigma", "pull"),
    [
        *(("gaussian", 0.1, 0.496), ("gaussian", 0.5, 0.157), ("gaussian", 1, 0.0812), ("gaussian", None, 0.0798)),
        *(("poly", 0.5, 0.131), ("linear", 0.5, 0.17)),
    ],
)
def test_arrows_compare_across_kernels_and_sigmas(kernel, sigma, pull):
    drawn = plots.two_pixel_sets([20, 80, 140], [0, 30, 60, 90, 120], kernel, sigma)
    assert f"the steepest pull is {pull:.3g} per radian, on the student's neuron at " in drawn.caption
    assert drawn.caption.endswith(" degrees.")
    assert max(map(abs, turns(drawn).values())) == pytest.approx(70 * pull, rel=5e-3)
    assert [text.get_text() for text in drawn.figure.axes[0].get_legend().texts][-1] == "pull, downhill"


@pytest.mark.parametrize(("sigma", "pull"), [(0.05, 0.0213), (4, 0.0102)])
def test_no_arrow_is_drawn_for_a_faint_pull_and_the_caption_says_so(sigma, pull):
    drawn = plots.two_pixel_sets([20, 80, 140], [0, 30, 60, 90, 120], "gaussian", sigma)
    assert arrows(drawn) == []
    told = f"steepest pull is {pull} per radian, on the student's neuron at 80 degrees, too little for an arrow."
    assert told in drawn.caption


def test_steep_arrows_are_cut_and_the_caption_tells_their_pull():
    drawn = plots.two_pixel_sets([20, 100], [25, 95], "gaussian", 0.1)
    assert turns(drawn) == pytest.approx({20: 42.0, 100: -42.0})
    assert float(re.search(r"steepest pull is (\S+) per", drawn.caption)[1]) > 0.6


def test_short_arrows_have_small_heads():
    """No head is longer than its arrow, nor than that of a longer one."""
    states = [plots.two_pixel_sets([20, 80, 140], [0, 30, 60, 90, 120], "gaussian", s) for s in (0.1, 0.2, 0.5, 1, 2)]
    unit = 72 / 2.6 * 2.95  # of the axis, in points
    pairs = []
    for patch in (patch for state in states for patch in arrow_patches(state)):
        steps = np.diff(patch._path_original.vertices, axis=0)
        head = patch.get_arrowstyle().head_length * patch.get_mutation_scale()
        pairs.append((unit * np.hypot(*steps.T).sum(), head))
    assert min(pairs)[0] < 4 < 40 < max(pairs)[0]
    assert all(head <= length for length, head in pairs)
    heads = [head for _, head in sorted(pairs)]
    assert heads == sorted(heads)
    assert heads[0] < 0.5 * heads[-1]


def test_each_neuron_goes_downhill_on_the_drawn_witness():
    """The gradient of the loss is 2 / C times the witness's slope at each of the student's neurons."""
    student = [20.0, 70.0, 200.0]
    angles = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    goal = on_circle(torch.tensor([40.0, 150.0]).double())
    (gradient,) = torch.autograd.grad(nst_loss(on_circle(angles), goal, "gaussian", sigma=0.5), angles)
    axis = plots.two_pixel_sets(student, [40, 150], "gaussian", 0.5).figure.axes[1]
    turn, height = next(np.array(line.get_data()) for line in axis.lines if len(line.get_xdata()) > 100)
    slopes = np.interp(student, turn, np.gradient(height, turn))
    np.testing.assert_allclose(2 / 3 * slopes, gradient, rtol=1e-3)
    marked = [np.array(line.get_data()) for line in axis.lines if line.get_marker() in ("o", "s")]
    for x, y in marked:
        np.testing.assert_allclose(np.interp(x, turn, height), y, atol=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "poly", "gaussian"])
@pytest.mark.parametrize("sigma", [None, 0.3])
def test_nothing_pulls_where_both_sets_are_equal(kernel, sigma):
    drawn = plots.two_pixel_sets([20, 70, 100], [70, 100, 20], kernel, sigma)
    assert "loss 0; nothing pulls at any neuron." in drawn.caption
    assert arrows(drawn) == []


def test_nothing_pulls_at_a_narrow_kernel_though_the_loss_is_large():
    drawn = plots.two_pixel_sets([10, 40], [200], "gaussian", 0.01)
    assert "sigma 0.01: loss 1.5; nothing pulls" in drawn.caption
    assert arrows(drawn) == []


def test_the_toy_tells_the_sigma_that_is_taken_and_says_so_at_every_move():
    student, teacher = [20.0, 70.0], [40.0, 150.0]
    apart = [2 * np.sin(np.deg2rad(a - b) / 2) for a in student for b in teacher]
    drawn = plots.two_pixel_sets(student, teacher, "gaussian")
    assert f"gaussian kernel, sigma of nst_loss, {np.sqrt(np.mean(np.square(apart))):.3g}: " in drawn.caption
    states = [plots.two_pixel_sets(student, teacher, k, s) for k in ("linear", "poly", "gaussian") for s in (0.3, 1.0)]
    assert len({state.caption for state in states}) == len(states)
    assert all(places(state) == places(drawn) for state in states)


@pytest.mark.parametrize("dead", [0, 2, 5])
@pytest.mark.parametrize("sigma", [1e-3, 0.5, 20.0])
def test_the_loss_by_sigma_is_the_loss(dead, sigma):
    """Of living and dead channels; the curve, the marked sigma, about the one of `nst_loss`, and the linear line."""
    student, teacher = features(dead)
    sigmas = [0.1, 0.5, 2.0]
    drawn = plots.kernels_by_sigma(student, teacher, sigma, sigmas, "a layer")
    losses = [float(nst_loss(student, teacher, "gaussian", sigma=at)) for at in (*sigmas, sigma)]
    linear = float(nst_loss(student, teacher, "linear")) / sigma**2
    usual = float(torch.cdist(unit(student), unit(teacher)).square().mean().sqrt())
    there = float(nst_loss(student, teacher, "gaussian", sigma=usual))
    assert drawn.caption == (
        f"a layer: with sigma {sigma:.3g} the loss over 2 images is {losses[-1]:.3g}, and linear / sigma^2 is "
        f"{linear:.3g}; the sigma of nst_loss is about {usual:.3g}, where the loss is {there:.3g}."
    )
    assert len(drawn.caption) <= 200
    assert drawn.figure.axes[-1].get_title() == "squared discrepancy, mean over 2 images"
    lines = {line.get_label(): line for line in drawn.figure.axes[-1].lines}
    np.testing.assert_allclose(lines[f"σ of nst_loss: {usual:.3g}"].get_xdata(), usual, rtol=1e-6)
    np.testing.assert_allclose(lines["loss"].get_ydata(), losses[:-1], rtol=1e-9)
    falling = linear * sigma**2 / np.square(sigmas)
    np.testing.assert_allclose(lines["linear loss / σ²"].get_ydata(), falling, rtol=1e-9)
    np.testing.assert_allclose(lines[f"σ = {sigma:.3g}"].get_ydata(), losses[-1], rtol=1e-9)
    if sigma > 10:
        assert losses[-1] == pytest.approx(linear, rel=5e-3)


def test_kernels_are_those_of_the_first_image_and_stand_still():
    student, teacher = features(dead=1)
    drawn = plots.kernels_by_sigma(student, teacher, 0.5, [0.1, 1.0], "a layer")
    pairs = [(student, student), (teacher, teacher), (student, teacher)]
    for axis, (x, y) in zip(drawn.figure.axes, pairs, strict=False):
        expected = (-torch.cdist(unit(x)[0], unit(y)[0]).square() / 0.5).exp()
        np.testing.assert_allclose(axis.images[0].get_array(), expected, rtol=1e-6)
        assert axis.images[0].get_clim() == (0, 1)
    other = plots.kernels_by_sigma(student, teacher, 2.0, [0.1, 1.0], "a layer")
    assert places(drawn) == places(other)
    assert drawn.figure.axes[-1].axis() == other.figure.axes[-1].axis()


def test_single_and_equal_channels_have_their_kernels_too():
    student = features()[0][:1, :1]
    drawn = plots.kernels_by_sigma(student, student, 0.01, [0.01, 1.0], "one")
    assert drawn.caption.startswith("one: with sigma 0.01 the loss over 1 image is 0, and linear / sigma^2 is 0;")
    assert drawn.figure.axes[-1].get_title() == "squared discrepancy, 1 image"
    assert "the loss is 0 at every σ" in [text.get_text() for text in drawn.figure.axes[-1].texts]


def test_a_gram_is_looked_at_in_three_ways():
    """By the definition: the diagonal, a row, and the autocorrelation by the Fourier transform of each unit map."""
    student, teacher = (maps[0] for maps in features(dead=1))
    drawn = plots.what_a_gram_keeps(torch.rand(3, 16, 20), student, teacher, (1, 2), "a layer")
    grams, expected = [], []
    for maps in (teacher, student):
        channels = unit(maps[None])[0]
        grams.append(channels.T @ channels / len(channels))
        power = torch.fft.fft2(channels.reshape(-1, 4, 5)).abs().square().mean(0)
        shifts = torch.fft.fftshift(torch.fft.ifft2(power).real)
        expected.append((20 * grams[-1].diagonal().reshape(4, 5), 20 * grams[-1][7].reshape(4, 5), shifts))
    maps = [axis for axis in drawn.figure.axes[1:] if axis.images]
    for column, pair in enumerate(zip(*expected, strict=True)):
        own = maps[2 * column : 2 * column + 2]
        for axis, values in zip(own, pair, strict=True):
            np.testing.assert_allclose(axis.images[0].get_array(), values, atol=1e-12)
        assert own[0].images[0].get_clim() == own[1].images[0].get_clim()
    distance = float((grams[0] - grams[1]).square().sum())
    alike = [np.corrcoef(t.flatten(), s.flatten())[0, 1] for t, s in zip(*expected, strict=True)]
    assert drawn.caption == (
        f"a layer, pixel 1, 2: the squared distance of the Grams is {distance:.3g}. Correlation of student and "
        f"teacher: response {alike[0]:.2f}, what goes with the pixel {alike[1]:.2f}, autocorrelation {alike[2]:.2f}."
    )
    assert [maps[i].images[0].get_array().mean() for i in (0, 1)] == pytest.approx([0.8, 1])  # one of 5 is dead
    assert any("mean over pixels\nis 1 in the first column" in text.get_text() for text in drawn.figure.texts)
    marked = drawn.figure.axes[0].lines[0].get_data()
    assert tuple(float(at[0]) for at in marked) == (9.5, 5.5)  # the middle of 4 x 4 pixels of the image


def test_grams_without_a_difference_between_pixels_or_of_two_sizes():
    student, teacher = (maps[0] for maps in features())
    image = torch.rand(3, 16, 20)
    dead = plots.what_a_gram_keeps(image, 0 * student, teacher, (3, 4), "dead").caption
    assert "response not defined, what goes with the pixel not defined, autocorrelation not defined." in dead
    same = plots.what_a_gram_keeps(image, teacher, teacher, (0, 0), "same").caption
    assert "distance of the Grams is 0." in same
    assert "response 1.00, what goes with the pixel 1.00, autocorrelation 1.00." in same
    with pytest.raises(ValueError, match=r"pixel \(4, 0\) is not on maps of 4 x 5"):
        plots.what_a_gram_keeps(image, student, teacher, (4, 0), "outside")
    with pytest.raises(ValueError, match=r"maps of \(2, 5\) and \(4, 5\) pixels"):
        plots.what_a_gram_keeps(image, student[:, :2], teacher, (0, 0), "sizes")


def test_cosines_are_those_of_pairs_of_living_channels():
    student, teacher = features(dead=2)
    drawn = plots.cosines_between_channels({"a": student, "b": teacher, "one": student[:, :1]}, "layers")
    said = []
    for name, alive in (("a", student), ("b", teacher[:, 2:])):
        pairs = [(i, j) for i in range(3) for j in range(i)]
        cosines = torch.stack([torch.cosine_similarity(*alive[:, p].flatten(2).unbind(1), dim=-1) for p in pairs])
        said.append(f"{name}: mean {cosines.mean():.3f}, {100 * (cosines < 0).double().mean():.1f} % below 0")
        (line,) = [line for line in drawn.figure.axes[0].lines if line.get_label().startswith(f"{name}: ")]
        counts, _ = np.histogram(cosines, 80, (-1, 1))
        np.testing.assert_allclose(np.asarray(line.get_ydata()) * 2 / 80 * cosines.numel(), counts, atol=1e-9)
    assert drawn.caption == f"Cosines between channels, layers: {'; '.join(said)}; one: no two channels alive."


def test_gains_stand_in_one_order_and_leave_what_is_missing_empty(figures):
    drawn = figures["gains"]
    assert drawn.caption == "two sources. paper: +0.25 (NST) to +1.50 (KD); ours: -0.50 (NST) to +2.00 (both)."
    assert [[text.get_text() for text in axis.texts] for axis in drawn.figure.axes] == [
        ["+1.50", "+0.25"],
        ["-0.50", "+2.00"],
    ]
    paper, ours = drawn.figure.axes
    assert [label.get_text() for label in paper.get_yticklabels()] == ["KD", "NST", "both"]
    dots = [[line.get_data() for line in axis.lines if line.get_marker() in ("o", "s")] for axis in (paper, ours)]
    assert [[(x[0], y[0]) for x, y in own] for own in dots] == [[(1.5, 0), (0.25, 1)], [(-0.5, 1), (2.0, 2)]]
    intervals = [line.get_data() for line in ours.lines if line.get_marker() == "|"]
    assert [(list(x), list(y)) for x, y in intervals] == [([-1.0, 0.0], [1, 1]), ([1.25, 2.75], [2, 2])]
    taller = plots.gains({"paper": {str(i): 1.0 for i in range(9)}})
    assert taller.figure.get_figheight() > drawn.figure.get_figheight() + 2


NEAR = {"up": 0.03, "down": -0.04, "zero": 0.0, "a point": (1.0, -2.83, 1.8), "most": 4.15}


@pytest.mark.parametrize(
    "table",
    [
        {f"a source, number {i}": NEAR for i in range(4)},
        {f"source {i}": {**NEAR, "up": -1.91} for i in range(5)},
        {"ours": NEAR},
        {"all above": {"least": -0.01, "most": 9.0}, "all below": {"least": -9.0, "most": 0.01}},
        {"no room on its side": {"down": -0.01, "most": 9.0}},
        {f"{i}": {"down": -0.01, "a method with a long name of two lines": 9.0} for i in range(4)},
    ],
)
def test_numbers_stand_beside_the_line_at_zero_and_inside_their_panel(table):
    figure = plots.gains(table).figure
    figure.draw_without_rendering()
    for axis in figure.axes:
        zero = axis.transData.transform((0, 0))[0]
        assert len(axis.texts) == len(table[axis.get_title().replace("\n", " ")])
        for number in axis.texts:
            box, at = number.get_window_extent(), axis.transData.transform(number.xy)[0]
            assert not box.x0 - 2 < zero < box.x1 + 2
            assert axis.bbox.x0 + 2 < box.x0 <= at + 4
            assert at - 4 <= box.x1 < axis.bbox.x1 - 2


def test_titles_of_sources_stand_apart_and_that_of_the_figure_only_where_there_is_one(figures):
    names = ["paper, CIFAR-10", "RepDistiller, 5 pairs", "paper, CIFAR-100", "twenty letters, long"]
    drawn = plots.gains(dict.fromkeys(names, NEAR))
    titles = [axis.title for axis in drawn.figure.axes]
    told = ["paper, CIFAR-10", "RepDistiller,\n5 pairs", "paper,\nCIFAR-100", "twenty\nletters, long"]
    assert [title.get_text() for title in titles] == told
    boxes = [title.get_window_extent() for title in titles]
    assert all(left.x1 + 5 < right.x0 for left, right in itertools.pairwise(boxes))
    words = [text.get_text() for text in drawn.figure.texts]
    assert words == ["points of accuracy above the student alone"]
    assert "two sources" in [text.get_text() for text in figures["gains"].figure.texts]
    assert drawn.caption.startswith("Points of accuracy above the student alone. paper, CIFAR-10: -0.04 (down) to ")
    assert plots.gains({"one": {"KD": 1.0}}).caption.endswith("alone. one: +1.00 (KD).")


def test_arrows_of_neighbours_lie_one_inside_the_other():
    drawn = plots.two_pixel_sets([355, 5, 15, 150], [60, 100, 240], "gaussian", 1.0)
    radii = {round(float(np.rad2deg(np.arctan2(y, x))) % 360): np.hypot(x, y) for x, y in (a[0] for a in arrows(drawn))}
    assert len({round(radii[angle], 6) for angle in (5, 15, 355)}) == 3
    assert radii[150] == pytest.approx(max(radii.values()))


# --- which teacher teaches best ------------------------------------------------------------------


def overlapping(drawn: plots.CaptionedFigure) -> list[tuple[str, str]]:
    """Pairs of texts that touch, and texts that the figure's edge cuts."""
    drawn.figure.draw_without_rendering()
    unseen = set()  # labels of ticks beyond the ends of their axis, which are not drawn
    for axis in (one for axes in drawn.figure.axes for one in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        unseen |= {id(label) for tick in beyond for label in (tick.label1, tick.label2)}
    texts = [text for text in drawn.figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if id(text) not in unseen]
    canvas = drawn.figure.bbox
    cut = [
        (name, "edge")
        for name, box in boxes
        if not (canvas.x0 <= box.x0 and box.x1 <= canvas.x1 and canvas.y0 <= box.y0 and box.y1 <= canvas.y1)
    ]
    pairs = itertools.combinations(boxes, 2)
    return cut + [(one, other) for (one, box), (other, that) in pairs if box.padded(-1).overlaps(that.padded(-1))]


def panel_values(axis) -> np.ndarray:
    return np.ma.filled(axis.images[0].get_array().astype(float), np.nan)


@pytest.mark.parametrize(
    "name",
    [
        *("soft_targets_of", "response_through_training", "similarity_matrices"),
        *("teacher_heat_maps", "what_predicts", "capacity_gap"),
    ],
)
def test_figures_of_teachers_have_no_texts_that_touch_and_short_captions(figures, name):
    assert overlapping(figures[name]) == []
    assert len(figures[name].caption) <= 235


@pytest.mark.parametrize("methods", [7, 20])
def test_many_methods_with_long_names_touch_nothing(methods):
    names = ["alone", *(f"KD + a term and another one, {i}" for i in range(1, methods))]
    rng = np.random.default_rng(0)
    told = {"student": "a student", "teacher": "a teacher", "protocol": "quick", "seconds": 1.0}
    runs = pd.DataFrame([told | {"method": name, "seed": seed} for name in names for seed in range(5)])
    runs["accuracy"] = 70 + rng.normal(size=len(runs))
    drawn = plots.ranking(runs.assign(best=runs.accuracy + 0.5), "alone")
    assert overlapping(drawn) == []
    gains = dict(zip(names, rng.normal(size=methods), strict=True))
    drawn = plots.student_profiles(some_profiles(gains), "alone")
    assert overlapping(drawn) == []
    assert drawn.figure.get_size_inches()[1] < 11


def test_long_names_of_classes_are_cut_and_touch_nothing():
    names = [f"a class whose name is long, {i}" for i in range(16)]
    image, logits = torch.rand(3, 32, 32, generator=generator()), torch.linspace(0, 40, 16)
    drawn = [
        plots.soft_targets_of(image, logits, 0, names, 1, "a teacher"),
        plots.similarity_matrices(*similarities(), names, RankCorrelation(0.25, 0.012, 120, 1.0), "a network"),
    ]
    assert [overlapping(one) for one in drawn] == [[], []]


def test_soft_targets_are_bars_and_faint_ones_dots():
    image, logits = torch.rand(3, 8, 8, generator=generator()), torch.tensor([0.0, 30.0, 2.0, 27.0])
    states = [plots.soft_targets_of(image, logits, 2, list("abcd"), t, "it") for t in (1, 4)]
    for drawn, temperature in zip(states, (1, 4), strict=True):
        shares = soft_targets(logits[None].double(), temperature)[0].numpy()
        bars = drawn.figure.axes[1].patches
        ends = [bar.get_x() + bar.get_width() for bar in bars]
        np.testing.assert_allclose(ends, shares.clip(1e-6), rtol=1e-6)
        assert [bool(bar.get_hatch()) for bar in bars] == [False, False, True, False]
        assert len({bar.get_facecolor() for bar in bars}) == 2
        dots = drawn.figure.axes[1].lines[0]
        assert dots.get_ydata().tolist() == np.flatnonzero(shares <= 1e-6).tolist()
        assert f"it, T = {temperature}: c, the label, " in drawn.caption
        assert f"most likely of the others b {shares[1]:.3f} and d {shares[3]:.3f}; " in drawn.caption
        counted = np.exp(-(shares * np.log(shares)).sum())
        assert drawn.caption.endswith(f"; {counted:.2f} effective classes of 4.")
    assert states[0].caption.startswith("it, T = 1: c, the label, 7e-13; ")
    assert places(states[0]) == places(states[1])
    with pytest.raises(ValueError, match="there is no class 4; there are 4"):
        plots.soft_targets_of(image, logits, 4, list("abcd"), 1, "it")
    with pytest.raises(ValueError, match=r"logits \(4,\) and 3 names"):
        plots.soft_targets_of(image, logits, 0, list("abc"), 1, "it")


def test_a_response_is_followed_through_a_training(figures):
    drawn = figures["response_through_training"]
    assert drawn.caption == (
        "Training images at T = 4, epoch 1 to 36: accuracy 40.0 to 98.3 %, effective classes 5.00 to 1.11, "
        "non-target mass 0.400 to 0.011, similarity 0.49 to 0.32."
    )
    assert [len(axis.lines) for axis in drawn.figure.axes] == [2, 2, 2, 2]
    assert [label.get_text() for label in drawn.figure.axes[2].get_xticklabels()] == ["1", "2", "4", "36"]
    other = plots.response_through_training(TRAINING, 1)
    assert places(drawn) == places(other)
    assert [axis.axis() for axis in drawn.figure.axes] == [axis.axis() for axis in other.figure.axes]
    assert drawn.caption != other.caption
    before = pd.concat([TRAINING[TRAINING.epoch == 1].assign(epoch=0), TRAINING])
    assert "epoch 0 to 36" in plots.response_through_training(before, 4).caption
    with pytest.raises(ValueError, match="nothing of temperature 2; there are 1, 4"):
        plots.response_through_training(TRAINING, 2)
    with pytest.raises(ValueError, match="nothing of training images"):
        plots.response_through_training(TRAINING[TRAINING.images == "test"], 4)
    with pytest.raises(ValueError, match="takes one network, and these are a, b"):
        plots.response_through_training(pd.concat([TRAINING.assign(network=name) for name in "ab"]), 4)


def test_similarities_are_drawn_without_their_diagonal_and_told_by_their_closest_pairs(figures):
    drawn = figures["similarity_matrices"]
    assert drawn.caption == (
        "Similarity of 16 classes: rho 0.25 with the reference, p = 0.012; most alike: alpha 1.3 at 0 and alpha 1.3 at "
        "135 to the network, alpha 1.0 at 0 and alpha 1.0 at 45 (one of 2 pairs) in the reference."
    )
    for axis, matrix in zip([axis for axis in drawn.figure.axes if axis.images], similarities(), strict=True):
        values = panel_values(axis)
        assert np.isnan(values.diagonal()).all()
        off = ~np.eye(16, dtype=bool)
        np.testing.assert_allclose(values[off], matrix.numpy()[off], rtol=1e-6)
        assert [label.get_text() for label in axis.get_xticklabels()] == CLASSES
    with pytest.raises(ValueError, match=r"shape \(16, 16\) for 2 names"):
        plots.similarity_matrices(*similarities(), ["a", "b"], RankCorrelation(0, 1, 1, 1))


def test_heat_maps_hold_the_means_of_the_search_and_mark_what_it_found(figures):
    drawn, spot, means = figures["teacher_heat_maps"], sweet_spot(SWEEP), teachers_of(SWEEP)
    left, measure, right = (axis for axis in drawn.figure.axes if axis.images)
    rows = [label.get_text() for label in left.get_yticklabels()]
    assert rows[:4] == ["x0.125 · 8", "x0.125 · 32", "x0.125 · 128", "x0.25 · 8"]
    assert rows[4:8] == ["x0.25 · 16", "x0.25 · 32", "x0.25 · 64", "x0.25 · 128"]
    columns = [int(label.get_text()) for label in left.get_xticklabels()]
    assert columns == [4, 12, 21, 36, 62, 108]
    searched = means[(means.step != "confirmation") & means.network.notna()]
    said = RESPONSES[(RESPONSES.images == "training") & (RESPONSES.temperature == 4)]
    said = said[said.step != "confirmation"].groupby(["network", "batch_size", "epochs"]).effective_classes.mean()
    for one in searched.itertuples():
        cell = rows.index(f"{one.network[4:]} · {one.batch_size}"), columns.index(one.epochs)
        assert panel_values(left)[cell] == pytest.approx(one.teacher_accuracy)
        assert panel_values(right)[cell] == pytest.approx(one.student_accuracy)
        assert panel_values(measure)[cell] == pytest.approx(said[one.network, one.batch_size, one.epochs])
    assert all(
        np.isfinite(panel_values(axis)).sum() == 44 == len(axis.texts) - (axis is left)
        for axis in (left, measure, right)
    )
    marks = {marker: sum(line.get_marker() == marker for line in right.lines) for marker in "*oD"}
    assert marks == {"*": 1, "o": len(spot.candidates) - 1, "D": 0}
    (star,) = (line for line in right.lines if line.get_marker() == "*")
    row, column = round(float(star.get_ydata()[0]) + 0.27), round(float(star.get_xdata()[0]) - 0.34)
    assert (rows[row], columns[column]) == (f"{spot.best.network[4:]} · {spot.best.batch_size}", spot.best.epochs)
    assert [line.get_marker() for line in left.lines if line.get_marker() in "*oD"] == ["D"]
    assert drawn.caption.startswith(
        f"44 teachers: best is {spot.best} (students {spot.accuracy:.1f} %), most accurate "
    )
    assert f"{spot.most_accurate} (" in drawn.caption
    assert drawn.caption.endswith(f"effective classes at T = 4 from {said.min():.2f} to {said.max():.2f}.")


def test_heat_maps_stand_still_and_tell_of_each_state():
    states = [plots.teacher_heat_maps(SWEEP, RESPONSES, 4, measure) for measure in MEASURES]
    states.append(plots.teacher_heat_maps(SWEEP, RESPONSES, 1, MEASURES[0]))
    assert len({state.caption for state in states}) == len(states)
    assert len({str(places(state)) for state in states}) == 1
    named = SWEEP.assign(network=SWEEP.network.replace({"vgg8x0.5": "wrn-16-2"}))
    responses = RESPONSES.assign(network=RESPONSES.network.replace({"vgg8x0.5": "wrn-16-2"}))
    labels = plots.teacher_heat_maps(named, responses, 4).figure.axes[0].get_yticklabels()
    assert (labels[0].get_text(), labels[-1].get_text()) == ("vgg8x0.125 · 8", "wrn-16-2 · 128")


def test_heat_maps_refuse_what_they_cannot_draw():
    with pytest.raises(ValueError, match="no measure 'accuracy'; choose one of entropy, effective_classes"):
        plots.teacher_heat_maps(SWEEP, RESPONSES, 4, "accuracy")
    with pytest.raises(
        ValueError, match="no responses to training images at temperature 3; of the search there are 1, 4"
    ):
        plots.teacher_heat_maps(SWEEP, RESPONSES, 3)
    with pytest.raises(ValueError, match="no teacher of the search has a value of entropy at temperature 4"):
        plots.teacher_heat_maps(SWEEP, RESPONSES.assign(entropy=np.nan), 4, "entropy")
    with pytest.raises(ValueError, match="there is nothing to show"):
        plots.teacher_heat_maps(SWEEP[SWEEP.step == "confirmation"], RESPONSES, 4)


def test_predictors_are_drawn_against_what_students_learnt(figures):
    drawn, ranked = figures["what_predicts"], predictors(SWEEP, RESPONSES, 4).set_index("measure")
    assert [axis.get_title().replace("−", "-") for axis in drawn.figure.axes] == [
        f"ρ = {rho:+.2f}" for rho in ranked.rho
    ]
    for axis in drawn.figure.axes:
        assert len({line.get_marker() for line in axis.lines}) == 3
        assert sum(len(line.get_xdata()) for line in axis.lines) == 36  # of the coarse step
        assert axis.get_ylim() == drawn.figure.axes[0].get_ylim()
    order = ranked.rho.abs().sort_values(ascending=False).index
    names = {name: name.replace("_", " ") for name in ranked.index}
    names |= {"teacher_accuracy": "teacher's accuracy", "non_target_mass": "non-target mass"}
    for told, name in zip(("most closely", "least"), (order[0], order[-1]), strict=True):
        one = ranked.loc[name]
        assert f"{told} {names[name]} (rho {one.rho:+.2f}, {one.lower:+.2f} to {one.upper:+.2f})" in drawn.caption
    other = plots.what_predicts(SWEEP, RESPONSES, 1)
    assert places(drawn) == places(other)
    assert drawn.caption != other.caption
    assert overlapping(other) == []
    same = {"effective_classes": 2.0, "non_target_mass": 0.5, "similarity": 0.1}
    told = plots.what_predicts(SWEEP, RESPONSES.assign(**same), 4)
    assert [axis.get_title() for axis in told.figure.axes[1:]] == ["ρ is not defined"] * 3


def test_a_ladder_shows_teachers_by_their_parameters_beside_students_alone(figures):
    drawn, steps = figures["capacity_gap"], ladder(SWEEP, LADDER)
    assert drawn.caption.startswith(
        "vgg8 teachers, batches of 32, 36 epochs, 5 seeds, accuracy and that of their students"
    )
    for one in steps.itertuples():
        students = f"{one.student_accuracy:.1f} ± {(one.student_upper - one.student_lower) / 2:.1f}"
        whose = f"{one.network[4:]} {one.teacher_accuracy:.1f}," if isinstance(one.network, str) else "students alone"
        assert f"{whose} {students}" in drawn.caption
    left, right = drawn.figure.axes
    assert [label.get_text() for label in left.get_xticklabels()] == [
        "x0.0625\n16",
        "x0.125\n62",
        "x0.25\n247",
        "x0.5\n983",
    ]
    assert right.lines[0].get_ydata() == pytest.approx(steps.student_accuracy[:4])
    assert len(right.patches) == 1
    others = dict(zip([one.network for one in LADDER], ("resnet8", "resnet14", "wrn-16-2", "resnet20"), strict=True))
    slanted = plots.capacity_gap(
        SWEEP.assign(network=SWEEP.network.replace(others)), [Teacher(name, 32, 36) for name in others.values()]
    )
    assert slanted.figure.axes[0].get_xticklabels()[0].get_rotation() == 30
    assert slanted.caption.startswith("Teachers, batches of 32, 36 epochs, 5 seeds, ")
    without = plots.capacity_gap(SWEEP[SWEEP.network.notna()], LADDER)
    assert "alone" not in without.caption
    assert not without.figure.axes[1].patches
