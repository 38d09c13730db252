"""Profiles of alpha by depth: the alpha of each layer as it is measured alone, and draws that all layers share."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from spectralkd_nb import activations
from spectralkd_nb.activations import ActivationSpectra, activation_spectra
from spectralkd_nb.depth_law.fits import fit_depth_law
from spectralkd_nb.depth_law.profiles import ExponentProfile, exponent_profile, profile_of
from spectralkd_nb.networks import build
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import fit_power_law

BAND = (0.05, 0.4)


def fields(alphas: list[float], size: int = 32, channels: int = 3, seed: int = 0) -> Tensor:
    """(images, channels, size, size), each image of an exponent of its own and one variance."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([power_law_field(size, alpha, channels, generator) for alpha in alphas])


def alike(n: int, **options) -> Tensor:
    return fields([2.0] * n, **options)


def resnet8() -> nn.Module:
    return build("resnet8", 10).eval()


def with_copies() -> nn.Module:
    """Two convolutions, one of them with two layers behind it that change nothing."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        first, second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(first, nn.Identity(), nn.Dropout(), second)


def profile(model: nn.Module, images: Tensor, layers=None, **options) -> ExponentProfile:
    return exponent_profile(model, images, layers, **{"edges": "none", "resamples": 100, **options})


def spectra_of(model: nn.Module, images: Tensor, layers=None, **options) -> ActivationSpectra:
    return activation_spectra(model, images, layers, **{"edges": "none", "progress": False, **options})


def alpha_over(spectra: ActivationSpectra, path: str, images: tuple[int, ...], average: str = "pooled") -> float:
    """alpha of the average of these images, by its definition; an image that is named twice counts twice."""
    rows = spectra.per_image(path, average)
    mean = rows.power[list(images)].mean(0)
    return float(fit_power_law(replace(rows, power=mean), BAND).alpha)


class Chain(nn.Module):
    """Modules by name, one after the other."""

    def __init__(self, **steps: nn.Module) -> None:
        super().__init__()
        for name, step in steps.items():
            self.add_module(name, step)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.children():
            x = step(x)
        return x


class Times(nn.Module):
    def __init__(self, factor: float, plus: float = 0.0) -> None:
        super().__init__()
        self.factor, self.plus = factor, plus

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor + self.plus


# --- alpha --------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["pooled", "normalised"])
@pytest.mark.parametrize("band", [None, (0.05, 0.3)])
def test_alpha_of_each_layer_is_that_which_it_has_alone(average, band):
    images = alike(12)
    found = profile(resnet8(), images, average=average, band=band)
    spectra = spectra_of(resnet8(), images)
    assert found.paths == tuple(layer.path for layer in spectra.layers)
    for place, path in enumerate(found.paths):
        alone = spectra.exponent(path, average, band, resamples=1)
        assert float(found.alpha[place]) == pytest.approx(alone.alpha, abs=1e-12)
        assert found.reasons[place] == alone.reasons
        assert found.bands[place] == (band or spectra.band(path))
        assert found.grid[place] == spectra.layer(path).grid
    assert found.alpha.dtype == found.depth.dtype == found.blocks.dtype == torch.float64
    assert (found.images, found.groups) == (12, 12)


def test_edges_crop_and_layers_are_those_of_the_spectra():
    images = alike(4)
    for options in ({"edges": "hann"}, {"crop": 2}, {"edges": "periodic", "crop": 3}):
        found = profile(resnet8(), images, ["layer2", "image"], **options)
        spectra = spectra_of(resnet8(), images, ["layer2", "image"], **options)
        assert found.paths == ("layer2", "image")
        expected = [spectra.exponent(path, resamples=1).alpha for path in found.paths]
        assert found.alpha.tolist() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="there is no layer 'layer4'"):
        profile(resnet8(), images, "layer4")


def test_by_default_the_image_and_the_blocks_are_measured():
    found = exponent_profile(resnet8(), alike(3), resamples=3)
    assert found.paths == ("image", "layer1.0", "layer2.0", "layer3.0")
    assert found.kinds == ("image", "BasicBlock", "BasicBlock", "BasicBlock")
    assert found.stage == (None, 1, 2, 3)
    assert found.depth.tolist() == [0, 3, 5, 7]
    assert found.blocks.tolist() == [0, 1, 2, 3]
    assert found.grid == ((32, 32), (32, 32), (16, 16), (8, 8))


def test_the_spectra_of_one_pass_have_profiles_in_other_bands():
    images, options = alike(6), {"resamples": 50, "seed": 3}
    spectra = spectra_of(resnet8(), images, ["image", "blocks"])
    for band in (None, (0.1, 0.4)):
        again = profile_of(spectra, "resnet8", (0, 1, 2, 3), band=band, groups=2, average="normalised", **options)
        whole = profile(resnet8(), images, ["image", "blocks"], band=band, groups=2, average="normalised", **options)
        for name in ("alpha", "draws", "folds", "depth", "blocks"):
            assert torch.equal(getattr(again, name), getattr(whole, name))
        for name in ("name", "paths", "kinds", "stage", "grid", "bands", "reasons", "images", "groups"):
            assert getattr(again, name) == getattr(whole, name)
    unknown = profile_of(spectra, "resnet8", resamples=1)
    assert unknown.blocks.isnan().all()
    assert unknown.table().block.isna().all()
    with pytest.raises(ValueError, match="'resnet8' does not know its blocks"):
        fit_depth_law(unknown, unit="blocks", with_image=True)


def test_a_profile_bears_the_name_of_its_network():
    images = alike(1)
    assert profile(resnet8(), images, "image").name == "resnet8"
    assert profile(with_copies(), images, "image").name == "Sequential"
    assert profile(resnet8(), images, "image", name="mine").name == "mine"
    assert str(profile(resnet8(), alike(4), ["image", "layer3"], groups=2)).startswith(
        "resnet8: 2 layers, 4 images in 2 groups, alpha 2.0"
    )


# --- blocks -------------------------------------------------------------------------------------


def test_a_layer_counts_to_the_block_that_it_lies_in():
    found = profile(resnet8(), alike(1))
    blocks = dict(zip(found.paths, found.blocks.tolist(), strict=True))
    for path, block in blocks.items():
        outside = path in ("image", "conv1", "bn1", "relu")
        assert block == (0 if outside else int(path[5]))
    assert {"layer2.0.conv1", "layer2.0.relu2", "layer3"} <= blocks.keys()


def test_a_layer_between_blocks_counts_those_before_it():
    found = profile(build("wrn-10-1", 10), alike(1), ["conv1", "layer1.0", "layer2.0.bn1", "bn1", "relu"])
    assert found.blocks.tolist() == [0, 1, 2, 3, 3]


def test_the_blocks_of_a_network_without_residual_ones_are_its_stages():
    found = profile(build("vgg8x0.125", 10), alike(1), ["image", "layer1.0", "pool1", "layer2.2", "pool3", "layer5"])
    assert found.blocks.tolist() == [0, 1, 1, 2, 3, 5]
    assert found.stage == (None, 1, 2, 2, 4, 4)


def test_what_is_no_module_counts_to_its_block_too():
    found = profile(resnet8(), alike(1), ["relu", "layer1.0.add", "layer2.0.add", "layer3.0.conv1"])
    assert found.blocks.tolist() == [0, 1, 2, 3]
    assert found.depth.tolist() == [1, 3, 5, 6]


class Functional(nn.Module):
    """Two blocks in a row with a function before, between and behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(
            *(Chain(conv=nn.Conv2d(4, 4, 3, padding=1), bn=nn.BatchNorm2d(4)) for _ in range(2))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = torch.relu(block(x))
        return x


def test_what_is_no_module_and_in_no_block_counts_those_before_it():
    found = profile(Functional().eval(), alike(1), ["relu", "blocks.0", "relu_1", "blocks.1", "relu_2"])
    assert found.blocks.tolist() == [0, 1, 1, 2, 2]


# --- draws --------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["pooled", "normalised"])
def test_every_draw_is_a_whole_profile_of_some_images(average):
    """Of 3 images there are 10 samples with replacement: each row has to be that of one of them, in all layers."""
    images = fields([1.0, 2.0, 3.0])
    found = profile(with_copies(), images, band=BAND, average=average, resamples=200)
    spectra = spectra_of(with_copies(), images)
    samples = torch.tensor(
        [
            [alpha_over(spectra, path, sample, average) for path in found.paths]
            for sample in itertools.combinations_with_replacement(range(3), 3)
        ],
        dtype=torch.float64,
    )
    distance = (found.draws[:, None] - samples).abs().amax(-1)
    assert distance.min(1).values.max() < 1e-10
    # All three occur in 6 of 27 draws, one alone in 1 of 27 each.
    share = distance.argmin(1).bincount(minlength=10) / 200
    alone = [i for i, s in enumerate(itertools.combinations_with_replacement(range(3), 3)) if len(set(s)) == 1]
    assert float(share[alone].sum()) == pytest.approx(3 / 27, abs=0.07)


def test_layers_that_are_copies_of_each_other_move_as_one():
    found = profile(with_copies(), fields([1.0, 1.5, 2.0, 2.5, 3.0]), band=BAND)
    layers = dict(zip(found.paths, found.draws.T, strict=True))
    assert torch.equal(layers["0"], layers["1"])
    assert torch.equal(layers["0"], layers["2"])
    assert torch.corrcoef(found.draws.T)[1:4, 1:4].sub(1).abs().max() < 1e-12
    assert torch.corrcoef(torch.stack([layers["image"], layers["3"]]))[0, 1] > 0.9
    assert torch.equal(found.folds[..., 1], found.folds[..., 2])


def test_the_interval_is_the_bootstraps():
    images = fields(torch.linspace(1.5, 2.5, 16).tolist())
    found = profile(resnet8(), images, ["image", "blocks"], resamples=1000)
    spectra = spectra_of(resnet8(), images, ["image", "blocks"])
    for path, interval in zip(found.paths, found.interval, strict=True):
        alone = torch.tensor(spectra.exponent(path, resamples=1000, seed=1).interval)
        assert (interval - alone).abs().max() < 0.15 * (alone[1] - alone[0])
    low, high = torch.quantile(found.draws[:, 1], torch.tensor([0.025, 0.975], dtype=torch.float64))
    assert found.interval[1].tolist() == [float(low), float(high)]


def test_the_seed_decides_the_draws_and_the_callers_generator_stays():
    before = torch.get_rng_state()
    first, again, other = (profile(with_copies(), alike(5), "image", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.draws, again.draws)
    assert torch.equal(first.folds, again.folds)
    assert not torch.equal(first.draws, other.draws)
    assert not torch.equal(first.folds, other.folds)
    assert len(profile(with_copies(), alike(5), "image", resamples=300).draws) == 300  # more than one block of draws


# --- groups -------------------------------------------------------------------------------------


def test_copies_of_a_photograph_that_are_drawn_together_tell_nothing_more():
    images = fields(torch.linspace(1.5, 2.5, 10).tolist())
    once = profile(with_copies(), images, resamples=400)
    grouped = profile(with_copies(), images.repeat_interleave(4, 0), groups=4, resamples=400)
    apart = profile(with_copies(), images.repeat_interleave(4, 0), resamples=400)
    torch.testing.assert_close(grouped.draws, once.draws, rtol=0, atol=1e-6)
    torch.testing.assert_close(grouped.folds, once.folds, rtol=0, atol=1e-6)
    torch.testing.assert_close(grouped.alpha, once.alpha, rtol=0, atol=1e-6)
    assert (grouped.images, grouped.groups, apart.groups) == (40, 10, 40)
    ratio = apart.interval.diff().flatten() / once.interval.diff().flatten()
    assert ratio.tolist() == pytest.approx([0.5] * len(ratio), abs=0.1)


def test_groups_may_be_named_in_any_order():
    images = fields([1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    in_a_row = profile(with_copies(), images, groups=2)
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    named = profile(with_copies(), images[order], groups=[30, 10, 10, 30, 20, 20])
    torch.testing.assert_close(named.draws, in_a_row.draws, rtol=0, atol=1e-6)
    torch.testing.assert_close(named.folds, in_a_row.folds, rtol=0, atol=1e-6)
    assert named.groups == 3


def test_groups_of_several_sizes_count_by_their_images():
    images = fields([1.0, 2.0, 2.5, 3.0])
    members = ((0,), (1, 2), (3,))
    found = profile(with_copies(), images, "image", groups=[0, 1, 1, 2], band=BAND)
    spectra = spectra_of(with_copies(), images, "image")
    samples = [
        alpha_over(spectra, "image", tuple(itertools.chain(*(members[group] for group in sample))))
        for sample in itertools.combinations_with_replacement(range(3), 3)
    ]
    distance = (found.draws - torch.tensor(samples, dtype=torch.float64)).abs()
    assert distance.min(1).values.max() < 1e-6


def test_a_profile_says_that_its_groups_are_few():
    images = alike(12)
    few = "10 groups would make the intervals wide enough"
    assert few not in str(profile(with_copies(), images, "image"))
    assert few in str(profile(with_copies(), images, "image", groups=3))


@pytest.mark.parametrize(("images", "groups"), [(1, 1), (2, 1), (8, 4), (3, 3)])
def test_of_fewer_than_three_groups_nothing_is_drawn(images, groups):
    found = profile(with_copies(), alike(images), groups=groups)
    assert found.draws.shape == (0, 5)
    assert found.folds.shape == (0, 2, 5)
    assert found.interval.shape == (5, 2)
    assert found.interval.isnan().all()
    assert found.alpha.isfinite().all()
    assert found.table()[["lower", "upper"]].isna().all(axis=None)


def test_groups_that_do_not_fit_the_images_are_refused():
    for groups in (3, 0, -1):
        with pytest.raises(ValueError, match=f"4 images cannot be parted into groups of {groups}"):
            profile(with_copies(), alike(4), groups=groups)
    with pytest.raises(ValueError, match="names the group of 3 images, and there are 4"):
        profile(with_copies(), alike(4), groups=[0, 0, 1])


def test_of_very_many_images_the_first_are_drawn_from_and_all_of_them_fitted(monkeypatch):
    images = fields([1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
    whole = profile(with_copies(), images, groups=2)
    monkeypatch.setattr(activations, "KEPT", 4)
    for groups in (2, [0, 0, 2, 1, 1, 1]):
        found = profile(with_copies(), images, groups=groups)
        torch.testing.assert_close(found.alpha, whole.alpha)
        assert (found.images, found.groups) == (6, 3)
    first = profile(with_copies(), images[:4], groups=[0, 0, 1, 2])
    found = profile(with_copies(), images, groups=[0, 0, 3, 4, 1, 2])
    torch.testing.assert_close(found.draws, first.draws)


# --- folds --------------------------------------------------------------------------------------


def test_folds_part_the_images():
    """Images differ so much that the alpha of a fold says which two of the ten are in it."""
    images = fields([0.2 * i for i in range(1, 11)])
    found = profile(with_copies(), images, ["image", "3"], band=BAND)
    spectra = spectra_of(with_copies(), images, ["image", "3"])
    assert found.folds.shape == (5, 2, 2)
    over = {
        pair: torch.tensor([alpha_over(spectra, path, pair) for path in found.paths], dtype=torch.float64)
        for pair in itertools.combinations(range(10), 2)
    }
    members = []
    for outside, inside in found.folds:
        pair = min(over, key=lambda pair: (over[pair] - inside).abs().max())
        assert torch.allclose(over[pair], inside, rtol=0, atol=1e-6)
        rest = tuple(set(range(10)) - set(pair))
        expected = [alpha_over(spectra, path, rest) for path in found.paths]
        assert outside.tolist() == pytest.approx(expected, abs=1e-6)
        members += pair
    assert sorted(members) == list(range(10))


@pytest.mark.parametrize(("images", "folds"), [(3, 3), (4, 4), (5, 5), (13, 5)])
def test_there_are_five_folds_or_as_many_as_groups(images, folds):
    found = profile(with_copies(), alike(images), "image")
    assert found.folds.shape == (folds, 2, 1)
    assert found.folds.isfinite().all()


# --- layers that have no alpha ------------------------------------------------------------------


def test_a_dead_layer_has_no_alpha_no_draws_and_no_error():
    # Of a constant of 0.1 on 63 pixels the transform leaves a little power in every ring, which is rounding.
    model = Chain(conv=nn.Conv2d(3, 4, 3, padding=1), dead=Times(0.0, 0.1), alive=nn.Conv2d(4, 4, 1))
    for average in ("pooled", "normalised"):
        found = profile(model, alike(4, size=63), ["image", "conv", "dead"], average=average)
        assert found.alpha.isnan().tolist() == [False, False, True]
        assert found.reasons[2] == ("all maps are constant, and a constant has no exponent",)
        for drawn in (found.draws, found.folds, found.interval.T):
            assert drawn[..., 2].isnan().all()
            assert drawn[..., :2].isfinite().all()
        assert str(found).startswith("Chain: 3 layers, 4 images, alpha ")
    assert str(profile(model, alike(4), ["dead"])).startswith("Chain: 1 layers, 4 images; 10 groups")


def test_images_without_a_live_map_are_left_out_of_the_normalised_average():
    images = fields([1.0, 1.5, 2.0, 2.5, 3.0])
    with_empty = torch.cat([images, torch.zeros(2, 3, 32, 32)])
    # Behind a second convolution, which pads, an empty image is a frame.
    options = {"layers": ["image", "0"], "average": "normalised", "resamples": 300}
    found, whole = (profile(with_copies(), x, **options) for x in (with_empty, images))
    torch.testing.assert_close(found.alpha, whole.alpha)
    assert found.draws.isfinite().float().mean() > 0.98  # a draw of them alone has no alpha
    spread = found.draws.nan_to_num(2.0).std(0) / whole.draws.std(0)
    assert spread.min() > 0.8


def test_a_map_with_a_single_ring_in_the_band_has_no_alpha_and_no_error():
    found = profile(resnet8(), alike(4), ["image", "layer3"], band=(0.1, 0.2))
    assert found.alpha.isnan().tolist() == [False, True]
    assert found.reasons[1][0].startswith("a single ring lies between 0.100 and 0.200 cycles a pixel")
    assert found.draws[:, 1].isnan().all()


# --- the table ----------------------------------------------------------------------------------


def test_the_table_has_a_row_for_each_layer():
    found = exponent_profile(resnet8(), alike(12), resamples=50)
    table = found.table()
    assert list(table.columns) == [
        *("path", "kind", "depth", "block", "stage", "height", "width", "alpha", "lower", "upper", "low", "high"),
        *("trusted", "reasons"),
    ]
    assert table.path.tolist() == list(found.paths)
    assert table.stage.isna().tolist() == [True, False, False, False]
    assert table.stage.tolist()[1:] == [1, 2, 3]
    assert table.depth.tolist() == [0, 3, 5, 7]
    assert table.block.tolist() == [0, 1, 2, 3]
    assert table.height.tolist() == table.width.tolist() == [32, 32, 16, 8]
    assert table.alpha.tolist() == found.alpha.tolist()
    assert table[["lower", "upper"]].to_numpy().tolist() == found.interval.tolist()
    assert (table.low[1], table.high[1]) == found.bands[1] == (1.5 / 32, 0.45)
    assert found.bands[3] == (0.5 / 8, 0.35)
    assert table.trusted.tolist() == [not reasons for reasons in found.reasons]
    assert table.reasons[3].startswith("only 2 rings lie")
