"""Controls: each is the profile that one measures by hand with that one thing changed, and the network stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from spectralkd_nb.activations import ActivationSpectra, activation_spectra
from spectralkd_nb.depth_law import controls
from spectralkd_nb.depth_law.controls import control_profiles, twin_spectra
from spectralkd_nb.depth_law.profiles import ExponentProfile, exponent_profile
from spectralkd_nb.networks import (
    build,
    reestimate_batch_norm,
    untrained_twin,
    with_circular_padding,
    without_batch_norm,
)
from spectralkd_nb.pictures import dead_leaves

NETWORKS = ("resnet8", "vgg8x0.0625")
SMALL = {"groups": 2, "made_up": 4, "resamples": 20}
ON_NOISE = ("white noise", "noise, circular")
MADE_UP = (*ON_NOISE, "dead leaves")


def pictures(n: int = 6, height: int = 64, width: int = 64) -> Tensor:
    """Values 0..1, in three channels that are not alike."""
    grey = dead_leaves((height, width), n, generator=torch.Generator().manual_seed(5))
    return grey[:, None] * torch.tensor([1.0, 0.8, 0.6])[:, None, None]


def lived_in(name: str) -> nn.Module:
    """Not as it was made: weights that are not its twin's, batch norms that have seen images, its own colours."""
    network = build(name, 10, seed=3).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
    network.info = replace(network.info, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), seed=0)
    return network.eval()


def normalised(network: nn.Module) -> Tensor:
    return network.info.normalise(pictures())


def same(first: ExponentProfile, second: ExponentProfile) -> bool:
    """In every attribute, tensors bit by bit, NaN where the other has it."""

    def equal(a: object, b: object) -> bool:
        return torch.equal(a.nan_to_num(99), b.nan_to_num(99)) if isinstance(a, Tensor) else a == b

    return all(equal(value, getattr(second, name)) for name, value in vars(first).items())


def state_of(network: nn.Module) -> list:
    """Parameters, buffers, modes, and all that else a module says of itself, such as its padding."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    gradients = [(parameter.requires_grad, parameter.grad) for parameter in network.parameters()]
    return [state, gradients, [(path, repr(module), module.training) for path, module in network.named_modules()]]


@pytest.fixture
def measured(monkeypatch) -> list[tuple[nn.Module, Tensor, dict]]:
    """What control_profiles measures, call by call: network, images and options."""
    calls = []

    def noted(network: nn.Module, images: Tensor, **options) -> ExponentProfile:
        calls.append((network, images, options))
        return exponent_profile(network, images, **options)

    monkeypatch.setattr(controls, "exponent_profile", noted)
    return calls


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> nn.Module:
    return lived_in(request.param)


@pytest.fixture(scope="module")
def found(network) -> dict[str, ExponentProfile]:
    return control_profiles(network, pictures(), **SMALL)


# --- each control -------------------------------------------------------------------------------


def test_what_is_different_is_in_the_names(found, network):
    assert list(found) == [
        *("as measured", "white noise", "noise, circular", "dead leaves", "re-estimated", "normalised"),
        *("edges none", "crop", "band", "untrained", "no norm"),
    ]
    assert {profile.name for profile in found.values()} == {network.info.name}


def test_as_measured_is_the_profile_itself(found, network):
    assert same(found["as measured"], exponent_profile(network, normalised(network), groups=2, resamples=20))
    assert (found["as measured"].images, found["as measured"].groups) == (6, 3)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("edges none", {"edges": "none"}),
        ("crop", {"crop": 3}),
        ("band", {"band": (0.1, 0.35)}),
        ("normalised", {"average": "normalised"}),
    ],
)
def test_a_control_of_the_measurement_is_measured_otherwise_and_nothing_else(found, network, name, changed):
    assert same(found[name], exponent_profile(network, normalised(network), groups=2, resamples=20, **changed))


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("re-estimated", reestimate_batch_norm),
        ("untrained", untrained_twin),
        ("untrained", lambda network, images: reestimate_batch_norm(build(network.info.name, 10), images)),
        ("no norm", lambda network, _: without_batch_norm(build(network.info.name, 10))),
    ],
    ids=["re-estimated", "untrained", "untrained, step by step", "no norm"],
)
def test_a_control_of_the_network_is_another_network_on_the_same_pictures(found, network, name, other):
    images = normalised(network)
    assert same(found[name], exponent_profile(other(network, images), images, groups=2, resamples=20))


def test_every_control_changes_something(found):
    profiles = list(found.values())
    assert not any(same(a, b) for i, a in enumerate(profiles) for b in profiles[:i])
    for name in ("re-estimated", "untrained", "no norm"):  # none of which touches the pictures
        assert found[name].alpha[0] == found["as measured"].alpha[0]
        assert not torch.equal(found[name].alpha[1:], found["as measured"].alpha[1:])


def test_white_noise_goes_in_flat(found):
    for name in ON_NOISE:
        assert found[name].paths[0] == "image"
        assert float(found[name].alpha[0]) == pytest.approx(0, abs=0.2)
    assert found["white noise"].alpha[0] == found["noise, circular"].alpha[0]
    assert float(found["dead leaves"].alpha[0]) > 1.5


def test_noise_shows_the_frame_that_zeros_draw_around_a_map(found):
    # A random network has no more to offer to noise than its kernels' own slopes, and they lie on either side of 0.
    zeros, circular = (found[name].alpha[1:].nanmean() for name in ON_NOISE)
    assert zeros > circular + 0.2


def test_made_up_pictures_are_of_the_same_size_and_each_a_group_of_its_own(measured):
    network = lived_in("resnet8")
    found = control_profiles(network, pictures(height=48, width=64), **SMALL)
    for (name, profile), (_, images, _) in zip(found.items(), measured, strict=True):
        number, groups = (4, 4) if name in MADE_UP else (6, 3)
        assert images.shape == (number, 3, 48, 64)
        assert (profile.images, profile.groups) == (number, groups)
        assert profile.grid[0] == (48, 64)


def test_made_up_pictures_are_prepared_as_the_networks_own(measured):
    network = lived_in("resnet8")
    found = control_profiles(network, pictures(), **SMALL | {"made_up": 12})
    given = {name: images for name, (_, images, _) in zip(found, measured, strict=True)}
    mean, std = (torch.tensor(v)[:, None, None] for v in (network.info.mean, network.info.std))
    noise, leaves = (given[name] * std + mean for name in ("white noise", "dead leaves"))
    for images in (noise, leaves):
        assert -1e-6 < float(images.min()) < float(images.max()) < 1 + 1e-6
        assert float(images.max() - images.min()) > 0.9
    assert float(torch.corrcoef(noise.transpose(0, 1).flatten(1)).sub(torch.eye(3)).abs().max()) < 0.02
    torch.testing.assert_close(leaves, leaves[:, :1].expand(-1, 3, -1, -1))  # grey
    assert torch.equal(given["white noise"], given["noise, circular"])


def test_a_control_of_the_pictures_is_the_network_on_those(network, measured):
    found = control_profiles(network, pictures(), **SMALL)
    given = {name: images for name, (_, images, _) in zip(found, measured, strict=True)}
    for name in MADE_UP:
        other = with_circular_padding(network) if name == "noise, circular" else network
        assert same(found[name], exponent_profile(other, given[name], resamples=20))


# --- what goes in and what stays ----------------------------------------------------------------


@pytest.mark.parametrize("call", [control_profiles, twin_spectra])
@pytest.mark.parametrize("training", [True, False])
def test_network_and_pictures_stay_as_they_were(call, training):
    network, given = lived_in("resnet8").train(training), pictures()
    network.bn1.eval()  # some of its modules may be in another mode than the rest
    before, copied, random = state_of(network), given.clone(), torch.get_rng_state()
    call(network, given, **({"made_up": 2, "resamples": 2} if call is control_profiles else {}))
    after = state_of(network)
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]
    assert {module.padding_mode for module in network.modules() if isinstance(module, nn.Conv2d)} == {"zeros"}
    assert torch.equal(given, copied)
    assert torch.equal(torch.get_rng_state(), random)


def test_options_are_those_of_every_profile():
    network = lived_in("resnet8")
    options = {"layers": ["image", "layer1.0"], "edges": "hann", "band": (0.05, 0.4), "seed": 3, "resamples": 7}
    of_profiles = {name: value for name, value in options.items() if name != "seed"}  # which is of the pictures here
    found = control_profiles(network, pictures(), 2, 4, **of_profiles, name="mine")
    for name, profile in found.items():
        assert profile.paths == ("image", "layer1.0")
        assert profile.draws.shape == (7, 2)
        assert profile.name == "mine"
        assert set(profile.bands) == {(0.1, 0.35) if name == "band" else (0.05, 0.4)}
    images = normalised(network)
    settings = {**of_profiles, "groups": 2, "name": "mine"}
    assert same(found["as measured"], exponent_profile(network, images, **settings))
    assert same(found["crop"], exponent_profile(network, images, **settings, crop=3))
    # What a control is about is not overruled.
    assert same(found["edges none"], exponent_profile(network, images, **settings | {"edges": "none"}))
    assert same(found["band"], exponent_profile(network, images, **settings | {"band": (0.1, 0.35)}))


def test_groups_may_be_named_picture_by_picture():
    network = lived_in("resnet8")
    options = {"made_up": 3, "resamples": 10, "layers": ["image", "layer1.0"]}
    named, in_a_row = (control_profiles(network, pictures(), g, **options) for g in ([0, 0, 1, 1, 2, 2], 2))
    assert all(same(profile, in_a_row[name]) for name, profile in named.items())


def test_the_seed_is_that_of_the_made_up_pictures_alone():
    network = lived_in("resnet8")
    options = {**SMALL, "layers": ["image", "layer1.0", "layer2.0"]}
    first, again, other = (control_profiles(network, pictures(), seed=seed, **options) for seed in (4, 4, 5))
    assert all(same(profile, again[name]) for name, profile in first.items())
    for name, profile in first.items():
        assert same(profile, other[name]) == (name not in MADE_UP)


# --- a network and its twin ---------------------------------------------------------------------


def measured_alike(first: ActivationSpectra, second: ActivationSpectra) -> bool:
    if (first.layers, first.edges, first.crops, first.images) != (
        second.layers, second.edges, second.crops, second.images
    ):  # fmt: skip
        return False
    paths = [layer.path for layer in first.layers]
    return all(torch.equal(first.sums[path].total, second.sums[path].total) for path in paths) and all(
        torch.equal(first.sums[path].rows.nan_to_num(-1), second.sums[path].rows.nan_to_num(-1)) for path in paths
    )


def test_the_spectra_of_a_pair_are_those_of_each(network):
    images = normalised(network)
    found = twin_spectra(network, pictures())
    assert list(found) == ["trained", "untrained"]
    options = {"layers": ["image", "blocks"], "progress": False}
    for label, one in (("trained", network), ("untrained", untrained_twin(network, images))):
        assert measured_alike(found[label], activation_spectra(one, images, **options))
    assert not measured_alike(*found.values())
    assert torch.equal(*(spectra.spectrum("image").power for spectra in found.values()))


def test_the_spectra_of_a_pair_are_measured_as_asked():
    network = lived_in("resnet8")
    options = {"layers": "convolutions", "edges": "none", "crop": 2, "per_channel": True, "batch_size": 4}
    found = twin_spectra(network, pictures(), **options)
    images = normalised(network)
    for label, one in (("trained", network), ("untrained", untrained_twin(network, images))):
        expected = activation_spectra(one, images, **options, progress=False)
        assert measured_alike(found[label], expected)
        assert torch.equal(found[label].sums["conv1"].channels, expected.sums["conv1"].channels)


def test_the_profiles_of_a_pair_are_those_among_the_controls():
    network = lived_in("resnet8")
    pair, found = twin_spectra(network, pictures()), control_profiles(network, pictures(), **SMALL)
    for label, name in (("trained", "as measured"), ("untrained", "untrained")):
        alphas = [pair[label].exponent(path, resamples=1).alpha for path in found[name].paths]
        assert found[name].alpha.tolist() == pytest.approx(alphas, rel=1e-6)


@pytest.mark.parametrize("call", [control_profiles, twin_spectra])
def test_a_network_that_cannot_be_made_again_has_no_controls(call):
    odd = build("resnet8", 10, shortcut="padding")
    with pytest.raises(ValueError, match="other parameters than resnet8 as build makes it; build its twin as you"):
        call(odd, pictures())
