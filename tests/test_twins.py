"""Networks as they would be otherwise: other statistics, no batch norm, no frame, untrained; the original stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.networks import (
    build,
    list_layers,
    reestimate_batch_norm,
    shipped_networks,
    untrained_twin,
    with_circular_padding,
    without_batch_norm,
)
from spectralkd_nb.networks.twins import NORMS


def pictures(n: int = 8, size: int = 32, seed: int = 0) -> Tensor:
    """Brighter and louder than any batch norm begins with."""
    return 3 + 2 * torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def norms(network: nn.Module) -> dict[str, nn.Module]:
    return {path: module for path, module in network.named_modules() if isinstance(module, NORMS)}


def outputs_of_norms(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    seen = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, path=path: seen.update({path: output.clone()}))
        for path, module in norms(network).items()
    ]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return seen


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


# --- other statistics ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "vgg8x0.125"])
def test_every_batch_norm_is_settled_on_the_images(name):
    network, images = build(name, 10), pictures()
    settled = outputs_of_norms(reestimate_batch_norm(network, images), images)
    assert settled.keys() == norms(network).keys()
    for output in settled.values():
        # Not exactly: torch keeps n / (n - 1) of the variance that it divides by in training, and n is 128 at least.
        assert output.mean((0, 2, 3)).abs().max() < 0.01
        assert (output.var((0, 2, 3)) - 1).abs().max() < 0.02
    first = next(iter(settled.values()))
    assert first.mean((0, 2, 3)).abs().max() < 1e-5
    assert (first.var((0, 2, 3)) - 1).abs().max() < 1e-4
    unsettled = outputs_of_norms(copy.deepcopy(network).eval(), images)
    assert max(float(output.mean((0, 2, 3)).abs().max()) for output in unsettled.values()) > 1


def test_statistics_are_those_of_training_averaged_over_batches():
    network, images = build("resnet8", 10), pictures(12)
    # One pass in training mode at momentum 1 leaves the statistics of a batch, 3 passes the mean of 3 batches.
    found = reestimate_batch_norm(network, images, batch_size=4)
    each = []
    for batch in images.split(4):
        passed = copy.deepcopy(network).train()
        for norm in norms(passed).values():
            norm.momentum = 1.0
        passed(batch)
        each.append(norms(passed))
    for path, norm in norms(found).items():
        for buffer in ("running_mean", "running_var"):
            expected = torch.stack([getattr(own[path], buffer) for own in each]).mean(0)
            torch.testing.assert_close(getattr(norm, buffer), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_that_is_settled_stays_as_it_was(training):
    network, images = build("resnet8", 10).train(training), pictures()
    before, modes = copy.deepcopy(network), [module.training for module in network.modules()]
    settled = reestimate_batch_norm(network, images)
    assert same(network, before)
    assert [module.training for module in network.modules()] == modes
    assert {norm.momentum for norm in norms(network).values()} == {norm.momentum for norm in norms(settled).values()}
    assert not any(module.training for module in settled.modules())
    assert settled.info == network.info
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), settled.parameters(), strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in settled.parameters())


def test_what_a_network_has_seen_before_is_forgotten():
    network, images = build("resnet8", 10), pictures()
    seasoned = copy.deepcopy(network).train()
    seasoned(pictures(seed=1))
    norms(seasoned)["bn1"].momentum = 0.5
    settled = reestimate_batch_norm(seasoned, images)
    assert same(settled, reestimate_batch_norm(network, images))
    assert norms(settled)["bn1"].momentum == 0.5


def test_dropout_takes_no_part_and_the_callers_generator_stays():
    network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
    images, before = pictures(), torch.get_rng_state()
    settled = [reestimate_batch_norm(network, images) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert same(*settled)
    expected = network[1](images).mean((0, 2, 3))
    torch.testing.assert_close(settled[0][2].running_mean, expected, rtol=1e-4, atol=1e-5)


def test_no_image_is_left_over_in_a_batch_of_its_own():
    """Of maps of one pixel, batch norm knows no variance in a batch of one."""
    settled = reestimate_batch_norm(build("vgg8x0.0625", 10), pictures(9, size=8), batch_size=4)
    assert all(norm.running_var.isfinite().all() for norm in norms(settled).values())
    assert {int(norm.num_batches_tracked) for norm in norms(settled).values()} == {3}


def test_statistics_of_no_images_are_refused():
    with pytest.raises(ValueError, match="statistics of no images are none; pass at least one"):
        reestimate_batch_norm(build("resnet8", 10), torch.zeros(0, 3, 32, 32))


# --- without batch norm -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "vgg8x0.125"])
def test_without_batch_norm_there_is_none_left_and_the_original_keeps_its_own(name):
    network = build(name, 10)
    before = copy.deepcopy(network)
    bare = without_batch_norm(network)
    assert not norms(bare)
    assert same(network, before)
    assert norms(network)
    idle = [path for path, module in bare.named_modules() if isinstance(module, nn.Identity)]
    assert idle == list(norms(network))
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    for path in convolutions:
        assert torch.equal(bare.get_submodule(path).weight, network.get_submodule(path).weight)
    assert [layer.path for layer in list_layers(bare)] == [layer.path for layer in list_layers(network)]
    assert [layer.depth for layer in list_layers(bare)] == [layer.depth for layer in list_layers(network)]


def test_without_batch_norm_a_block_is_its_convolutions():
    block = build("resnet8", 10).layer1[0]
    x = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        bare = without_batch_norm(block)(x)
        assert torch.equal(bare, torch.relu(block.conv2(torch.relu(block.conv1(x))) + x))


def test_a_batch_norm_that_is_used_twice_goes_twice():
    shared = nn.BatchNorm2d(3)
    network = nn.Sequential(shared, nn.ReLU(), nn.Sequential(shared), shared)
    assert not norms(without_batch_norm(network))


# --- without a frame ----------------------------------------------------------------------------


def whole_numbers(*shape: int, seed: int = 0) -> Tensor:
    """So that every sum of products is exact, in whatever order it is taken."""
    return torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(seed)).double()


def stack_of_convolutions() -> nn.Module:
    """Stride 1, one size throughout, and 6 pixels in sight to either side.

    With a dilation, groups, a kernel that is not square, one tap, and padding by name.
    """
    options = {"dtype": torch.float64}
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, **options),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, **options),
        nn.Sequential(nn.Conv2d(4, 4, (1, 5), padding=(0, 2), **options), nn.ReLU()),
        nn.Conv2d(4, 4, 3, padding="same", **options),
        nn.Conv2d(4, 2, 1, **options),
    )
    for seed, parameter in enumerate(network.parameters()):
        parameter.data = whole_numbers(*parameter.shape, seed=seed)
    return network


def modes_of_padding(network: nn.Module) -> set[str]:
    return {module.padding_mode for module in network.modules() if isinstance(module, nn.Conv2d)}


@pytest.mark.parametrize("shift", [(1, 0), (0, -3), (5, 7)])
def test_with_circular_padding_what_is_rolled_in_comes_out_rolled(shift):
    network, images = stack_of_convolutions(), whole_numbers(2, 3, 12, 16, seed=9)
    circular = with_circular_padding(network)
    with torch.no_grad():
        rolled = circular(images.roll(shift, (-2, -1)))
        assert torch.equal(rolled, circular(images).roll(shift, (-2, -1)))
        framed = network(images.roll(shift, (-2, -1)))
        assert not torch.equal(framed, network(images).roll(shift, (-2, -1)))  # zeros stay where they are


def test_circular_padding_is_that_of_a_picture_that_goes_on_all_around():
    network, images = stack_of_convolutions(), whole_numbers(2, 3, 16, 16, seed=9)
    with torch.no_grad():
        found, framed, tiled = (
            with_circular_padding(network)(images),
            network(images),
            network(images.repeat(1, 1, 3, 3)),
        )
    assert torch.equal(found, tiled[..., 16:32, 16:32])
    assert torch.equal(found[..., 6:10, 6:10], framed[..., 6:10, 6:10])  # far from the border nothing is different


def test_circular_padding_stays_with_strides_and_takes_the_place_of_other_kinds():
    images = whole_numbers(1, 3, 8, 8)
    for kind in ("zeros", "reflect", "replicate", "circular"):
        convolution = nn.Conv2d(3, 2, 3, stride=2, padding=1, bias=False, padding_mode=kind, dtype=torch.float64)
        convolution.weight.data = whole_numbers(2, 3, 3, 3)
        expected = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="circular"), convolution.weight, stride=2)
        assert torch.equal(with_circular_padding(convolution)(images), expected)
    bare = nn.Conv2d(3, 2, 3, dtype=torch.float64)  # pads nothing, in whatever way
    assert torch.equal(with_circular_padding(bare)(images), bare(images))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["resnet8", "wrn-10-1", "vgg8x0.125"])
def test_with_circular_padding_there_is_a_copy_and_the_original_still_pads_with_zeros(name, training):
    network, images = build(name, 10).train(training), pictures(2)
    before, modes = copy.deepcopy(network), [module.training for module in network.modules()]
    circular = with_circular_padding(network)
    assert modes_of_padding(network) == {"zeros"}
    assert modes_of_padding(circular) == {"circular"}
    assert same(network, before)
    assert same(circular, network)
    assert [module.training for module in network.modules()] == modes
    assert [module.training for module in circular.modules()] == modes
    assert circular.info == network.info
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in circular.parameters())
    with torch.no_grad():
        expected, framed, wrapped = (one.eval()(images) for one in (before, network, circular))
    assert torch.equal(framed, expected)
    assert not torch.equal(framed, wrapped)


def test_with_circular_padding_maps_of_one_pixel_are_no_error():
    network = with_circular_padding(build("vgg8x0.0625", 10).eval())
    with torch.no_grad():
        assert network(pictures(2, size=8)).isfinite().all()


# --- before training ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 3])
def test_the_untrained_twin_is_what_build_makes_and_settled(seed):
    network, images = build("resnet8", 7, seed=11), pictures()
    twin = untrained_twin(network, images, seed)
    made = build("resnet8", 7, seed=seed)
    names = [name for name, _ in twin.named_parameters()]
    assert names == [name for name, _ in network.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), made.parameters(), strict=True))
    assert same(twin, reestimate_batch_norm(made, images))
    assert not same(twin, network)
    assert not twin.training
    assert twin.info == made.info


@pytest.mark.parametrize(("name", "classes"), [("resnet8", 7), ("vgg8x0.25", 14)])  # the second one is shipped
def test_without_a_seed_the_twin_begins_as_the_network_did(name, classes):
    network = build(name, classes, seed=11)
    twin = untrained_twin(network, pictures())
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), network.parameters(), strict=True))


def test_the_twin_of_a_shipped_network_is_what_its_training_began_with():
    card = min(shipped_networks(), key=lambda card: card["parameters"])
    trained = build(card["network"], card["classes"], pretrained=True)
    before = copy.deepcopy(trained)
    twin = untrained_twin(trained, pictures(), card["seed"])
    began = build(card["network"], card["classes"], seed=card["seed"])
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), began.parameters(), strict=True))
    assert same(trained, before)
    assert twin.info == trained.info


def test_a_network_that_cannot_be_made_again_has_no_twin():
    with pytest.raises(ValueError, match="only a network made by build says how to make it again; build your twin"):
        untrained_twin(nn.Conv2d(3, 4, 3), pictures())
    with pytest.raises(ValueError, match="other parameters than resnet8 as build makes it; build its twin as you"):
        untrained_twin(build("resnet8", 10, shortcut="padding"), pictures())
    with pytest.raises(ValueError, match="pass at least one"):
        untrained_twin(build("resnet8", 10), torch.zeros(0, 3, 32, 32))
