"""Photographs, a person's own pictures, and fields whose law is known."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from spectralkd_nb.pictures import (
    Picture,
    dead_leaves,
    likeness,
    measure_exponents,
    measured_photographs,
    open_folder,
    open_picture,
    photograph_crops,
    photographs,
    power_law_field,
    white_noise,
)
from spectralkd_nb.spectra import fit_power_law, radial_spectrum


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- photographs ---------------------------------------------------------------------------------


def test_scenes_textures_and_the_unusual_come_apart_with_source_and_licence():
    kinds = {kind: photographs(kind) for kind in ("scene", "texture", "unusual")}
    assert set(kinds["scene"]) == {"astronaut", "camera", "chelsea", "coffee", "coins", "motorcycle", "rocket"}
    assert set(kinds["texture"]) == {"brick", "grass", "gravel"}
    for pictures in kinds.values():
        for name, picture in pictures.items():
            assert picture.name == name
            assert picture.source
            assert picture.licence
            assert min(picture.size) >= 170
            assert 0 <= picture.display.min() < picture.display.max() <= 1


def test_no_scene_is_there_twice():
    greys = [p.grey()[:200, :200].flatten() for p in photographs().values()]
    correlation = np.corrcoef(np.stack(greys)) - np.eye(len(greys))
    assert correlation.max() < 0.9


def test_half_size_is_half_the_size_and_as_bright():
    native, half = photographs()["motorcycle"], photographs(scale="half")["motorcycle"]
    assert half.size == (native.size[0] // 2, native.size[1] // 2)
    assert half.grey("linear").mean() == pytest.approx(float(native.grey("linear").mean()), abs=0.005)


def test_display_linear_and_log_values():
    steps = torch.tensor([0.0, 0.04, 0.5, 1.0]).expand(3, 4, 4)
    picture = Picture("steps", "own", "", "", steps)
    torch.testing.assert_close(picture.grey()[0], steps[0, 0])
    # IEC 61966-2-1: 0.5 on the screen is 21.4 % of the light
    torch.testing.assert_close(
        picture.grey("linear")[0], torch.tensor([0, 0.04 / 12.92, 0.21404, 1]), atol=1e-4, rtol=0
    )
    torch.testing.assert_close(picture.grey("log"), (picture.grey("linear") + 1 / 255).log())


def test_half_size_undoes_and_redoes_the_gamma_curve():
    grey = Picture("grey", "own", "", "", torch.full((1, 8, 8), 0.3))
    torch.testing.assert_close(grey.half().display, torch.full((1, 4, 4), 0.3))


def test_the_spread_of_the_scenes_is_the_lesson():
    alphas = [row["alpha"] for row in measure_exponents(photographs())]
    assert min(alphas) == pytest.approx(1.95, abs=0.1)
    assert max(alphas) == pytest.approx(3.2, abs=0.1)


def test_textures_differ_by_band():
    for row in measure_exponents(photographs("texture")):
        assert row["alpha_upper_half"] - row["alpha_lower_half"] > 1.5


def test_the_measured_table():
    table = measured_photographs()
    assert len(table) == 200
    assert table["name"].is_unique
    assert table["alpha"].mean() == pytest.approx(2.56, abs=0.06)
    assert table["alpha"].std() == pytest.approx(0.45, abs=0.04)
    assert set(table) == set(measure_exponents([photographs()["rocket"]])[0])


# --- a person's own ------------------------------------------------------------------------------


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_every_common_kind_of_picture_opens(tmp_path, values, mode):
    suffix = ".tif" if mode == "CMYK" else ".png"
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(values).convert(mode).save(path)
    picture = open_picture(path)
    assert picture.size == (20, 30)
    assert picture.kind == "own"
    assert picture.display.dtype == torch.float32
    if mode == "RGB":
        np.testing.assert_allclose(picture.display.permute(1, 2, 0) * 255, values, atol=1e-3)


def test_sixteen_bits_keep_their_range(tmp_path, values):
    Image.fromarray(values[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    np.testing.assert_allclose(open_picture(tmp_path / "deep.png").display[0] * 255, values[..., 0], atol=1e-3)


def test_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert open_picture(tmp_path / "clear.png").display.min() == 1


def test_a_camera_held_sideways(tmp_path, values):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.fromarray(values).save(tmp_path / "sideways.jpg", exif=exif)
    assert open_picture(tmp_path / "sideways.jpg").size == (30, 20)


def test_a_folder_opens_in_the_order_of_its_names(tmp_path, values):
    for name in ("b.png", "a.JPG"):
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture, and named like none")
    assert list(open_folder(tmp_path)) == ["a", "b"]


def test_names_that_differ_in_their_ending_alone_are_both_kept(tmp_path, values):
    for name in ("x.png", "x.jpg"):
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "._x.jpg").write_bytes(b"what one system leaves behind on another's disk")
    (tmp_path / "folder.png").mkdir()
    assert list(open_folder(tmp_path)) == ["x.jpg", "x.png"]


def test_values_without_a_scale_are_refused(tmp_path):
    Image.fromarray(np.ones((8, 8), np.int32)).save(tmp_path / "deep.tif")
    with pytest.raises(ValueError, match="no scale"):
        open_picture(tmp_path / "deep.tif")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "no picture that can be read"), (b"plain text", "no picture that can be read"), (None, "there is no file")],
)
def test_what_is_no_picture_is_said_clearly(tmp_path, content, sentence):
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        open_picture(path)
    assert "picture.png" in str(caught.value)


def test_a_truncated_picture_is_damaged(tmp_path, values):
    Image.fromarray(np.tile(values, (8, 8, 1))).save(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="damaged"):
        open_picture(tmp_path / "half.png")


def test_folders_and_unknown_names_are_said_clearly(tmp_path):
    with pytest.raises(ValueError, match="use open_folder"):
        open_picture(tmp_path)
    with pytest.raises(ValueError, match="holds no pictures"):
        open_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'scene', 'texture', 'unusual'"):
        photographs("scenery")
    with pytest.raises(ValueError, match="'native' or 'half'"):
        photographs(scale="double")
    with pytest.raises(ValueError, match="'display', 'linear', 'log'"):
        photographs()["rocket"].grey("raw")


# --- fields --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [33, (16, 40), (41, 16)])
@pytest.mark.parametrize("alpha", [0.0, 2.0, 5.0])
def test_power_law_fields_have_unit_variance_and_no_mean(size, alpha):
    fields = power_law_field(size, alpha, n=2000, generator=generator(), dtype=torch.float64)
    assert fields.shape[1:] == ((size, size) if isinstance(size, int) else size)
    assert fields.square().mean() == pytest.approx(1, rel=0.1)
    torch.testing.assert_close(fields.mean((-2, -1)), torch.zeros(2000, dtype=torch.float64))


def test_every_mode_of_a_field_has_its_power():
    """Mode by mode against f^-alpha, odd and even sides: no factor of two at the half plane's edges."""
    fields = power_law_field((9, 12), 2.0, n=20000, generator=generator(), dtype=torch.float64)
    power = np.mean(np.abs(np.fft.fft2(fields.numpy())) ** 2, axis=0)
    radius = np.hypot(np.fft.fftfreq(9)[:, None], np.fft.fftfreq(12)[None])
    relative = (power * radius**2).flatten()[1:]
    np.testing.assert_allclose(relative / relative.mean(), 1, atol=0.06)


def test_fields_repeat_with_their_generator():
    for make in (
        lambda g: power_law_field(16, 2.0, 2, g),
        lambda g: white_noise(16, 2, g),
        lambda g: dead_leaves(16, 2, generator=g),
    ):
        assert torch.equal(make(generator(3)), make(generator(3)))
        assert not torch.equal(make(generator(3)), make(generator(4)))


def test_white_noise_is_white():
    noise = white_noise((64, 48), n=40, generator=generator())
    assert fit_power_law(radial_spectrum(noise, "none").average()).alpha == pytest.approx(0, abs=0.02)


# --- dead leaves ---------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [2.5, 3.0, 3.5])
def test_dead_leaves_follow_five_minus_p(exponent):
    """alpha = 5 - p, over 256 pixels and leaves of 1 to 256 (measured beforehand: 2.52, 2.12, 1.67)."""
    leaves = dead_leaves(256, n=8, exponent=exponent, generator=generator())
    fit = fit_power_law(radial_spectrum(leaves).average(), (4 / 256, 0.3), "weighted")
    assert fit.alpha == pytest.approx(5 - exponent, abs=0.2)


def test_no_fields_at_all():
    assert dead_leaves(8, n=0).shape == power_law_field(8, 2.0, n=0).shape == white_noise(8, n=0).shape == (0, 8, 8)


@pytest.mark.parametrize(("size", "alpha"), [(16, math.nan), (512, 400.0), (1, 2.0)])
def test_impossible_fields_are_said_clearly(size, alpha):
    with pytest.raises(ValueError, match="makes no field"):
        power_law_field(size, alpha)


def test_sizes_may_come_from_numpy():
    assert white_noise(np.int64(6)).shape == (1, 6, 6)


def test_likeness_is_of_detail_and_knows_no_border():
    first, second = (0.5 + 0.03 * white_noise(64, generator=generator(seed))[0] for seed in (1, 2))
    assert likeness(first, first) == pytest.approx(1)
    assert likeness(first, -first) == pytest.approx(-1)
    assert abs(likeness(first, second)) < 0.05


def test_sharp_edges_alone_fall_as_f_to_the_minus_three():
    discs = dead_leaves(512, n=4, r_min=32, r_max=32, generator=generator())
    fit = fit_power_law(radial_spectrum(discs).average(), (0.04, 0.2))
    assert fit.alpha == pytest.approx(3, abs=0.1)


def test_leaves_cover_everything_with_uniform_greys():
    leaves = dead_leaves((40, 300), n=30, r_max=60, generator=generator())
    assert leaves.shape == (30, 40, 300)
    assert leaves.dtype == torch.float32
    assert leaves.mean() == pytest.approx(0.5, abs=0.05)
    assert leaves.std() == pytest.approx(1 / math.sqrt(12), abs=0.03)


def test_the_collage_looks_the_same_everywhere():
    """No border effect: pixels at the rim differ from their neighbours as often as pixels in the middle."""
    leaves = dead_leaves(48, n=150, r_max=48, generator=generator())
    changes = (leaves[:, 1:] != leaves[:, :-1]).double().mean((0, 2))
    assert changes[:8].mean() == pytest.approx(float(changes[20:28].mean()), rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"r_min": 0}, "r_min <= r_max"),
        ({"r_min": 9, "r_max": 3}, "no collage"),
        ({"r_max": math.inf}, "no collage"),
        ({"exponent": math.nan}, "no collage"),
        ({"exponent": -400}, "no collage"),
        ({"size": 0}, "no pixels"),
    ],
)
def test_impossible_leaves_are_said_clearly(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        dead_leaves(**{"size": 16, **arguments})


def test_crops_are_cut_from_the_photographs_at_places_that_the_seed_draws():
    crops = photograph_crops(64, each=2)
    assert crops.shape == (14, 3, 64, 64)
    assert torch.equal(crops, photograph_crops(64, each=2))
    assert not torch.equal(crops, photograph_crops(64, each=2, seed=1))
    camera = list(photographs()).index("camera")
    assert torch.equal(crops[2 * camera, 0], crops[2 * camera, 2])  # grey
    whole = photographs()["camera"].display[0].unfold(0, 64, 1).unfold(1, 64, 1)
    assert (whole == crops[2 * camera, 0]).flatten(2).all(-1).any()
    with pytest.raises(ValueError, match="pixels, fewer than 5000 a side"):
        photograph_crops(5000)
