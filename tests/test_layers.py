"""What each layer of a network returns, and what its dimensions mean."""

import math
import random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.maxvit import MaxVit

from spectralkd_nb.networks.families import family_of
from spectralkd_nb.networks.layers import Layer, list_layers
from spectralkd_nb.spectra import SMALLEST_SIDE


def by_path(model: nn.Module, size: int | tuple[int, int, int] = 32) -> dict[str, Layer]:
    shape = size if isinstance(size, tuple) else (3, size, size)
    return {layer.path: layer for layer in list_layers(model, shape)}


def has_maps(layer: Layer) -> bool:
    """Whether a layer has a grid that is known and large enough for a spectrum."""
    return layer.grid is not None and min(layer.grid) >= SMALLEST_SIDE


def small_maxvit() -> nn.Module:
    return MaxVit((64, 64), 8, 2, block_channels=[8, 16], block_layers=[1, 1], head_dim=4, stochastic_depth_prob=0.1)


def small_vit() -> nn.Module:
    return models.VisionTransformer(64, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


class Step(nn.Module):
    """A function as a module, so that its output is listed."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors)


def after(*functions, size: int | tuple[int, int, int] = (3, 8, 8)) -> list[Layer]:
    """The layers of a chain of functions and modules."""
    return list_layers(
        nn.Sequential(*(f if isinstance(f, nn.Module) else Step(f) for f in functions)),
        size if isinstance(size, tuple) else (3, size, size),
    )


# --- the families of this package ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sides", "depth"),
    [
        ("resnet20", (32, 16, 8), 20),
        ("plain20", (32, 16, 8), 20),
        # The stem, 6 blocks of 2 and the linear layer; the 16 of the name counts the three 1 x 1 shortcuts instead of
        # the linear layer, and they lie beside the longest path.
        ("wrn-16-2", (32, 16, 8), 14),
        ("vgg8", (32, 16, 8, 4), 6),  # the name counts two more linear layers than there are
    ],
)
def test_every_layer_of_the_families_is_known(name, sides, depth):
    layers = by_path(family_of(name)(10))
    fc, pooled = layers.pop("fc"), layers.pop("avgpool")
    assert (fc.layout, fc.grid, fc.stage, fc.depth, fc.shape) == ("BC", None, None, depth, (10,))
    assert (pooled.layout, pooled.grid, pooled.stage) == ("BCHW", (1, 1), None)
    for layer in layers.values():
        assert layer.layout == "BCHW"
        assert has_maps(layer)
        assert layer.grid == layer.shape[1:] == (sides[layer.stage - 1],) * 2
        assert layer.prefix == 0
        assert layer.calls == 1
    assert {layer.stage for layer in layers.values()} == set(range(1, len(sides) + 1))


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_depth_is_what_a_resnet_counts(shortcut):
    layers = by_path(family_of("resnet20", shortcut)(10))
    assert [layers[path].depth for path in ("conv1", "layer1", "layer2", "layer3")] == [1, 7, 13, 19]
    assert layers["layer2.0.downsample"].depth == (7 if shortcut == "padding" else 8)
    assert layers["layer2.0"].depth == layers["layer2.0.relu2"].depth == 9
    assert layers["layer2.0.downsample"].shape == (32, 16, 16)


def test_a_layer_in_words():
    layers = list_layers(family_of("resnet8")(10))
    assert [str(layer) for layer in layers[:3]] == [
        "conv1 (Conv2d, 16 x 32 x 32)",
        "bn1 (BatchNorm2d, 16 x 32 x 32)",
        "relu (ReLU, 16 x 32 x 32)",
    ]
    assert layers[-1].label == "fc (Linear, 10)"
    paths = [layer.path for layer in layers]
    assert paths.index("layer1.0.relu2") + 1 == paths.index("layer1.0") == paths.index("layer1") - 1
    assert "" not in paths


# --- torchvision ---------------------------------------------------------------------------------


def test_resnet18():
    layers = by_path(models.resnet18(weights=None), 64)
    assert {layer.layout for layer in layers.values()} == {"BCHW", "BC"}
    assert [layers[f"layer{n}"].stage for n in (1, 2, 3, 4)] == [2, 3, 4, 5]
    assert layers["conv1"].stage == 1
    assert layers["layer4"].depth == 17
    assert layers["layer1.0.relu"].calls == 2
    assert not has_maps(layers["layer4"])
    assert has_maps(layers["layer3"])


def test_a_map_of_one_pixel_is_a_stage_if_strides_led_there():
    layers = by_path(models.resnet18(weights=None), 32)
    assert (layers["layer4"].grid, layers["layer4"].stage) == ((1, 1), 5)


def test_densenet_concatenates():
    layers = by_path(models.densenet121(weights=None), 64)
    assert all(layer.layout == "BCHW" for path, layer in layers.items() if path != "classifier")
    assert layers["features.denseblock1"].shape == (256, 16, 16)
    assert layers["classifier"].depth == 121


def test_inception_branches():
    layers = by_path(models.inception_v3(weights=None, init_weights=False), 75)
    assert all(layer.layout == "BCHW" for path, layer in layers.items() if path != "fc")
    # Asymmetric convolutions; the longest of four branches counts.
    branches = [layers[f"Mixed_6b.{name}"].depth for name in ("branch1x1", "branch7x7_3", "branch7x7dbl_5")]
    assert [depth - branches[0] for depth in branches] == [0, 2, 4]
    assert layers["Mixed_6b"].depth == branches[2]
    assert layers["fc"].depth == 48


def test_convnext_permutes():
    layers = by_path(models.convnext_tiny(weights=None))
    block = [layers[f"features.1.0.block.{n}"].layout for n in range(7)]
    assert block == ["BCHW", "BHWC", "BHWC", "BHWC", "BHWC", "BHWC", "BCHW"]
    assert layers["features.1.0.block.3"].shape == (8, 8, 384)
    assert layers["features.1.0.block.3"].grid == (8, 8)
    assert layers["features.1.0"].layout == "BCHW"
    assert layers["features.1.0"].depth == layers["features.0"].depth + 3
    assert {layers["classifier.1"].layout, layers["classifier.2"].layout} == {"BC"}


@pytest.mark.parametrize("size", [32, 72])
def test_swin_windows(size):
    """At 72 pixels the windows are padded, shifted and cropped."""
    layers = by_path(models.swin_t(weights=None), size)
    assert "?" not in {layer.layout for layer in layers.values()}
    assert layers["features.1.1.attn"].layout == "BHWC"
    assert layers["features.1.1.attn"].depth == layers["features.1.1.norm1"].depth + 2
    side = size // 4
    for number, path in enumerate(("features.1", "features.3", "features.5", "features.7"), 1):
        assert (layers[path].layout, layers[path].grid, layers[path].stage) == ("BHWC", (side, side), number)
        side = -(-side // 2)
    assert (layers["permute"].layout, layers["flatten"].layout) == ("BCHW", "BC")


def test_vit_tokens():
    layers = by_path(models.vit_b_16(weights=None, image_size=32))
    tokens = [layer for path, layer in layers.items() if path.startswith("encoder")]
    assert {(layer.layout, layer.grid, layer.prefix) for layer in tokens} == {("BLC", (2, 2), 1)}
    assert layers["encoder"].shape == (5, 768)
    assert layers["encoder.layers.encoder_layer_0"].depth == 1 + 4  # in and out of attention, and two of the MLP
    assert layers["heads"].layout == "BC"


def test_maxvit_windows_are_no_map():
    layers = by_path(small_maxvit(), 64)
    for path, layer in layers.items():
        if "MBconv" in path or path.endswith(("_attention", "layers")) or path.startswith("stem"):
            assert layer.layout == "BCHW", path
        elif ("attention" in path) and not path.endswith("departition_op"):
            assert layer.layout == "?", path
            assert layer.grid is layer.stage is None
    assert {layer.layout for path, layer in layers.items() if path.startswith("classifier")} == {"BCHW", "BC"}


def test_mobilenet_squeezes_and_excites():
    layers = by_path(models.mobilenet_v3_small(weights=None), 64)
    assert {layer.layout for layer in layers.values()} == {"BCHW", "BC"}
    squeeze = layers["features.1.block.1.avgpool"]
    assert (squeeze.grid, squeeze.stage) == ((1, 1), None)
    assert layers["features.1.block.1.fc2"].stage is None
    assert layers["features.1.block.1"].grid == (16, 16)
    assert layers["features.1.block.1"].stage == 2


def test_channels_are_shuffled():
    layers = by_path(models.shufflenet_v2_x0_5(weights=None))
    assert {layer.layout for layer in layers.values()} == {"BCHW", "BC"}


# --- against the truth ---------------------------------------------------------------------------


def first(output: Tensor | tuple) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def outputs_of(model: nn.Module, images: Tensor, wanted: dict[str, Layer]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, output, path=path: found.update({path: first(output).clone()}))
        for path, module in model.named_modules()
        if path in wanted
    ]
    with torch.no_grad():
        model.eval()(images)
    for handle in handles:
        handle.remove()
    return found


def as_map(output: Tensor, layer: Layer) -> Tensor:
    """(B, C, H, W), by what the layer says of itself alone."""
    if layer.layout == "BLC":
        end = layer.prefix + math.prod(layer.grid)
        output = output[:, layer.prefix : end].unflatten(1, layer.grid)
        return output.permute(0, 3, 1, 2)
    return output if layer.layout == "BCHW" else output.permute(0, 3, 1, 2)


def alike_everywhere(model: nn.Module) -> nn.Module:
    """Without what tells one row from another: zeros beyond the border, and tables of positions."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = False
    for name, parameter in model.named_parameters():
        if name.endswith(("pos_embedding", "relative_position_bias_table")):
            nn.init.zeros_(parameter)
    return model


def small_convnext() -> nn.Module:
    return models.ConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, None, 2)])


def small_swin() -> nn.Module:
    return models.SwinTransformer([2, 2], 16, [2, 2], [2, 4], [4, 4])


@pytest.mark.parametrize(
    ("make", "layouts"),
    [
        (lambda: family_of("resnet20")(10), {"BCHW"}),
        (lambda: models.shufflenet_v2_x0_5(weights=None), {"BCHW"}),
        (small_convnext, {"BCHW", "BHWC"}),
        (small_swin, {"BCHW", "BHWC"}),
        (small_vit, {"BCHW", "BLC"}),
        (small_maxvit, {"BCHW"}),
    ],
)
def test_bright_columns_are_seen_along_width(make, layouts):
    """Two images whose rows are all the same: every map differs along W alone, and from image to image."""
    torch.manual_seed(0)
    model = alike_everywhere(make())
    wanted = {path: layer for path, layer in by_path(model, 64).items() if has_maps(layer)}
    assert {layer.layout for layer in wanted.values()} == layouts
    assert len(wanted) > 15
    columns = torch.randn(2, 3, 1, 64).expand(-1, -1, 64, -1)
    for path, output in outputs_of(model, columns, wanted).items():
        maps = as_map(output, wanted[path])
        assert maps.shape[2:] == wanted[path].grid
        largest = maps.abs().max()
        assert (maps - maps[:, :, :1]).abs().max() < 1e-4 * largest, path
        assert (maps - maps[:, :, :, :1]).abs().max() > 0.01 * largest, path
        assert (maps[0] - maps[1]).abs().max() > 0.01 * largest, path


class Shuffled(nn.Module):
    """Splits, permutes and joins the dimensions of an image at random."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def forward(self, x: Tensor) -> Tensor:
        rng = random.Random(self.seed)
        for _ in range(rng.randint(1, 3)):
            sides = [side for n in x.shape for side in ((2, n // 2) if n > 2 and rng.random() < 0.3 else (n,))]
            x = x.reshape(sides)
            if rng.random() < 0.5:
                x = x.movedim(rng.randrange(x.ndim), rng.randrange(x.ndim))
            while x.ndim > 3 and rng.random() < 0.5:
                first = rng.randrange(x.ndim - 1)
                x = x.flatten(first, first + 1)
        return x


def along(dim: int, size: int) -> Tensor:
    """0, 1, ... along one of four dimensions."""
    return torch.arange(size).view([size if place == dim else 1 for place in range(4)])


def test_views_of_equal_sides_are_followed_by_their_numbers():
    """Sides of 4 everywhere, so that sizes tell nothing. The numbers say of each pixel where it was."""
    model = nn.ModuleList(Shuffled(seed) for seed in range(4000))
    model.forward = lambda x: [module(x) for module in model]
    layers = list_layers(model, (4, 4, 4))
    known = [layer for layer in layers if layer.layout != "?"]
    assert {"BCHW", "BHWC", "BLC"} <= {layer.layout for layer in known}
    assert len(known) > 100
    places = torch.stack(torch.meshgrid(*map(torch.arange, (2, 4, 4, 4)), indexing="ij"))
    for layer in known:
        # Four pictures whose pixels hold the number of their image, channel, row and column.
        image, _, row, column = (model.get_submodule(layer.path)(place.clone()) for place in places)
        assert (image.flatten(1) == image.flatten(1)[:, :1]).all(), layer
        if layer.grid is None:
            continue
        height, width = layer.grid
        rows, columns = as_map(row, layer) * height // 4, as_map(column, layer) * width // 4
        assert (rows == torch.arange(height)[:, None]).all(), layer
        assert (columns == torch.arange(width)).all(), layer
    # And none is missed: where image, row and column each follow a dimension of their own, the layout is known.
    missed = [layer for layer in layers if layer.layout == "?" and layer.shape == (4, 4, 4)]
    for layer in missed:
        image, _, row, column = (model.get_submodule(layer.path)(place.clone()) for place in places)
        for h, w in ((2, 3), (1, 2)):
            straight = image.shape[0] == 2 and (image == along(0, 2)) & (row == along(h, 4)) & (column == along(w, 4))
            assert not torch.as_tensor(straight).all(), layer


# --- by hand -------------------------------------------------------------------------------------


class Toy(nn.Module):
    """In-place and functional ReLUs, a module that is called twice, and one that returns several things."""

    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple:
            return torch.arange(3), {"maps": [x[:, :2], x]}, "text"

    class Numbers(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1).argmax(1)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.never = nn.Conv2d(4, 4, 3)
        self.several = self.Several()
        self.numbers = self.Numbers()
        self.body = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(x)))
        y = F.relu(self.twice(x), inplace=True)
        y += x
        self.numbers(y)
        self.several(y)
        x = 1 - F.relu(self.twice(y)) * 2
        return self.body(x + y)


def test_a_toy():
    layers = by_path(Toy(), 8)
    assert list(layers) == ["conv", "bn", "relu", "several", "twice", "body"]
    assert {layer.layout for layer in layers.values()} == {"BCHW"}
    assert [layer.depth for layer in layers.values()] == [1, 1, 1, 2, 3, 3]
    assert [layer.calls for layer in layers.values()] == [1, 1, 1, 1, 2, 1]
    assert layers["several"].shape == (2, 8, 8)
    assert layers["several"].kind == "Several"


@pytest.mark.parametrize(
    "wild",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x + x.transpose(2, 3),
        lambda x: torch.fft.fft2(x).real,
        lambda x: x.view(2, 4, 3, 4, 4),
        lambda x: x.view(2, 4, -1)[:, :3].reshape(2, 3, 4, -1),
        lambda x: x.reshape(2, 8, 3, 8),
        lambda x: x[:, :, torch.randperm(8)],
        lambda x: torch.einsum("bchw,bcwk->bchk", x, x),
        lambda x: x.repeat(1, 1, 1, 2),
        lambda x: x.mean(1),
        lambda x: x.flatten(2),
        lambda x: x[0],
        lambda x: x.view(1, 2, 3, 8, 8),
        lambda x: F.unfold(x, 2),
        lambda x: x.permute(1, 0, 2, 3),
        lambda x: F.linear(x, torch.ones(8, 8)),
        lambda x: x @ x.transpose(2, 3),
        lambda x: x.sum(),
        lambda x: torch.zeros(2, 3, 8, 8),
        lambda x: x.view(torch.bfloat16),
        lambda x: F.conv1d(torch.fft.fft(x[0, :, 0]).real, torch.ones(2, 3, 1)),
        lambda x: torch.cat([x, x]).view(2, 6, 8, 8),
        lambda x: x.view(2, 3, 2, 2, 2, 8).transpose(3, 4).reshape(2, 3, 8, 8),
        lambda x: x.unflatten(2, (2, 4)).permute(0, 1, 3, 2, 4).flatten(2, 3),
    ],
)
def test_what_is_none_of_the_layouts_is_not_guessed(wild):
    (layer,) = after(wild)
    assert (layer.layout, layer.grid, layer.prefix, layer.stage) == ("?", None, 0, None)


def test_a_convolution_knows_again_and_depth_goes_on():
    layers = after(nn.Conv2d(3, 3, 1), lambda x: torch.fft.fft2(x).real, nn.Conv2d(3, 5, 3), size=(3, 8, 12))
    assert [layer.layout for layer in layers] == ["BCHW", "?", "BCHW"]
    assert [layer.depth for layer in layers] == [1, 1, 2]
    assert layers[-1].grid == (6, 10)


def test_a_convolution_over_another_dimension_is_no_map():
    layers = after(lambda x: x.transpose(0, 1), nn.Conv2d(2, 3, 3), size=(2, 8, 8))
    assert [layer.layout for layer in layers] == ["?", "?"]


def test_windows_in_the_batch_stay_unknown_to_a_convolution():
    windows = lambda x: x.view(2, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(8, 3, 4, 4)  # noqa: E731
    back = lambda x: x.view(2, 2, 2, 3, 4, 4).permute(0, 3, 1, 4, 2, 5).reshape(2, 3, 8, 8)  # noqa: E731
    layers = after(windows, nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), back)
    assert [layer.layout for layer in layers] == ["?", "?", "?", "BCHW"]


def test_depth_passes_code_that_is_not_seen():
    layers = after(nn.Conv2d(3, 3, 1), lambda x: torch.tensor(x.tolist()), nn.Linear(8, 8))
    assert [layer.depth for layer in layers] == [1, 1, 2]
    assert layers[1].layout == "?"


def test_depth_of_what_is_written_into_a_tensor():
    def written(x: Tensor) -> Tensor:
        into = torch.zeros_like(x)
        into[:, 1] = F.conv2d(x, torch.ones(1, 3, 1, 1))[:, 0]
        return into

    (layer,) = after(written)
    assert layer.depth == 1


@pytest.mark.parametrize(
    ("function", "stage"),
    [
        (lambda x: x.mean((2, 3), keepdim=True), None),
        (lambda x: F.avg_pool2d(x, 8), None),
        (lambda x: F.conv2d(F.adaptive_max_pool2d(x, 1), torch.ones(3, 3, 1, 1)), None),
        (lambda x: x.mean((2, 3), keepdim=True) * F.conv2d(x, torch.ones(3, 3, 8, 8)), 2),
        (lambda x: F.interpolate(F.adaptive_avg_pool2d(x, 1), size=8), 1),
        (lambda x: x.mean(1, keepdim=True), 1),
    ],
)
def test_what_was_averaged_away_is_no_stage(function, stage):
    _, layer = after(nn.Conv2d(3, 3, 1), function)
    assert (layer.layout, layer.stage) == ("BCHW", stage)


@pytest.mark.parametrize(
    ("function", "shape", "grid"),
    [
        (lambda x: x[:, 1:, ::2, 2:-1], (2, 4, 5), (4, 5)),
        (lambda x: x[..., :4], (3, 8, 4), (8, 4)),
        (lambda x: F.pad(x, (1, 2, 0, 0, 3, 0)), (6, 8, 11), (8, 11)),
        (lambda x: F.max_pool2d(x, 2, return_indices=True), (3, 4, 4), (4, 4)),
        (lambda x: F.interpolate(x, scale_factor=2), (3, 16, 16), (16, 16)),
        (lambda x: F.conv_transpose2d(x, torch.ones(3, 5, 2, 2), stride=2), (5, 16, 16), (16, 16)),
        (lambda x: x.chunk(3, 1), (1, 8, 8), (8, 8)),
        (lambda x: x.split([1, 2], dim=1)[1], (2, 8, 8), (8, 8)),
        (lambda x: x.narrow(2, 1, 4), (3, 4, 8), (4, 8)),
        (lambda x: torch.cat([x, torch.ones(2, 1, 8, 8)], dim=1), (4, 8, 8), (8, 8)),
        (lambda x: torch.cat([x, x], -1), (3, 8, 16), (8, 16)),
        (lambda x: x * torch.ones(3, 1, 1) + torch.ones(8, 8), (3, 8, 8), (8, 8)),
        (lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 8), (3, 8, 8), (8, 8)),
        (lambda x: x.mean(1, keepdim=True), (1, 8, 8), (8, 8)),
        (lambda x: F.pixel_unshuffle(x, 2), (12, 4, 4), (4, 4)),
        (lambda x: x.view(2, 3, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 4, 4), (12, 4, 4), (4, 4)),
        (lambda x: torch.maximum(x.clamp(0, 1), -x).to(torch.float64).contiguous(), (3, 8, 8), (8, 8)),
        (lambda x: torch.roll(x, 3, 2).flip(3), (3, 8, 8), (8, 8)),
        (lambda x: x.flatten(2).softmax(-1).view_as(x), (3, 8, 8), (8, 8)),
        (lambda x: torch.empty_like(x).copy_(x), (3, 8, 8), (8, 8)),
        (lambda x: x.unbind(1)[0].unsqueeze(1) + x, (3, 8, 8), (8, 8)),
    ],
)
def test_maps_stay_maps(function, shape, grid):
    (layer,) = after(function)
    assert (layer.layout, layer.shape, layer.grid) == ("BCHW", shape, grid)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.amax(dim=(-1, -2)),
        lambda x: x.flatten(1),
        lambda x: F.adaptive_avg_pool2d(x, 1).view(2, -1),
        lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1),
        lambda x: F.linear(x.flatten(1), torch.ones(5, 192)),
        lambda x: x.flatten(2).transpose(1, 2)[:, 0],
        lambda x: x.flatten(2).mean(-1),
        lambda x: x.flatten(2).max(dim=2),
        lambda x: x[:, :, 3, -1],
    ],
)
def test_features(function):
    (layer,) = after(function)
    assert (layer.layout, layer.grid, layer.stage) == ("BC", None, None)


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def test_tokens_know_their_grid_wherever_the_class_token_goes():
    def with_registers(x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], torch.zeros(2, 4, 3), x[:, 1:], torch.zeros(2, 2, 3)], dim=1)

    layers = after(
        tokens,
        with_class,
        nn.LayerNorm(3),
        with_registers,
        lambda x: x + torch.zeros(1, 39, 3),
        lambda x: x[:, 5:-2],
        lambda x: x.transpose(1, 2).reshape(2, 3, 4, 8),
        nn.Conv2d(3, 3, 1),
        size=(3, 4, 8),
    )
    assert [layer.layout for layer in layers] == ["BLC"] * 6 + ["BCHW"] * 2
    assert {layer.grid for layer in layers} == {(4, 8)}
    assert [layer.prefix for layer in layers] == [0, 1, 1, 5, 5, 0, 0, 0]


def with_class(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros(1, 1, 3).expand(2, -1, -1), x], dim=1)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, ::2],
        lambda x: x[:, 1:],
        lambda x: with_class(x)[:, 2:],
        lambda x: with_class(x)[:, :-1],
        lambda x: torch.cat([x, x], 1),
        lambda x: torch.cat([with_class(x), x], 1),
        lambda x: with_class(x) + torch.cat([x, torch.zeros(2, 1, 3)], 1),
        lambda x: torch.cat([with_class(x), torch.zeros(2, 2, 3)], 1)[:, 1:][:, 2:],
    ],
)
def test_tokens_without_their_grid(function):
    (layer,) = after(lambda x: function(tokens(x)))
    assert (layer.layout, layer.grid, layer.prefix) == ("BLC", None, 0)


def test_tokens_of_one_pixel():
    (layer,) = after(lambda x: tokens(F.adaptive_avg_pool2d(x, 1)))
    assert (layer.layout, layer.grid) == ("BLC", (1, 1))


def test_tokens_with_a_prefix_do_not_split():
    (layer,) = after(lambda x: with_class(tokens(x)).view(2, 5, 13, 3)[:, :, 0])
    assert layer.layout == "?"


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_of_torch(batch_first):
    """In evaluation mode these layers have a fused way that would not be seen."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        Step(tokens if batch_first else lambda x: x.flatten(2).permute(2, 0, 1)),
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        Step(lambda x: x if batch_first else x.transpose(0, 1)),
    )
    layers = by_path(model, 8)
    assert (layers["3"].layout, layers["3"].grid, layers["3"].depth) == ("BLC", (8, 8), 1 + 2 * 4)
    assert layers["2.layers.0.self_attn"].depth == 3
    assert layers["2.layers.0.linear1"].shape[-1] == 16
    assert layers["2"].layout == ("BLC" if batch_first else "?")
    assert torch.backends.mha.get_fastpath_enabled()


class Attention(nn.Module):
    """As timm writes it."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.proj = nn.Linear(8, 8)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(2, -1, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v)
        else:
            x = (q @ k.transpose(-2, -1) * 0.5).softmax(dim=-1) @ v
        return self.proj(x.transpose(1, 2).reshape(2, -1, 8))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_by_hand(fused):
    layers = after(nn.Conv2d(3, 8, 1), tokens, Attention(fused))
    assert (layers[-1].layout, layers[-1].grid, layers[-1].depth) == ("BLC", (8, 8), 3)


def test_mixing_tokens_is_not_features():
    mix = nn.Linear(64, 64)
    layers = after(tokens, lambda x: x.transpose(1, 2), mix, lambda x: x.transpose(1, 2), lambda x: x)
    assert [layer.layout for layer in layers] == ["BLC", "?", "?", "?", "?"]
    (layer,) = after(lambda x: tokens(x) + mix(tokens(x).transpose(1, 2)).transpose(1, 2))
    assert (layer.layout, layer.grid) == ("BLC", (8, 8))


class Hourglass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.normalise = nn.InstanceNorm2d(3)
        self.down = nn.Conv2d(3, 4, 3, 2, 1)
        self.again = nn.Conv2d(4, 4, 3, 2, 1)
        self.up = nn.ConvTranspose2d(4, 4, 2, 2)
        self.end = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.normalise(x))
        return self.end(torch.cat([x, self.up(self.again(x))], 1))


def test_stages_are_grids():
    layers = list_layers(Hourglass())
    assert [(layer.path, layer.stage) for layer in layers] == [
        ("normalise", None),
        ("down", 1),
        ("again", 2),
        ("up", 1),
        ("end", 1),
    ]
    assert [layer.depth for layer in layers] == [0, 1, 2, 3, 4]


def test_images_of_any_shape_and_networks_of_any_dtype():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).double()
    assert [layer.grid for layer in list_layers(model, (1, 28, 20))] == [(26, 18)] * 2
    assert list_layers(nn.Conv2d(3, 2, 3)) == []
    assert [layer.depth for layer in list_layers(nn.Sequential(nn.ReLU()))] == [0]


def test_a_module_with_two_names():
    shared = nn.Conv2d(3, 3, 1)
    (layer,) = list_layers(nn.Sequential(shared, shared))
    assert (layer.path, layer.calls, layer.depth) == ("0", 2, 2)


# --- the network is left alone -------------------------------------------------------------------


class Restless(nn.Module):
    """Does in every pass what a network may do: draws numbers, counts, and moves statistics even in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4).eval()
        self.drop = nn.Dropout()
        self.register_buffer("calls", torch.zeros(()))
        self.conv.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.drop(self.frozen(self.bn(self.conv(x))))
        x = F.batch_norm(x, self.bn.running_mean, self.bn.running_var, training=True)
        if x.shape[-1] < 10:
            raise RuntimeError("too small")
        return x + torch.rand(())

    def eval(self):
        raise AssertionError("not called")


def state_of(model: nn.Module) -> list:
    return [
        [(name, module.training, len(module._forward_hooks)) for name, module in model.named_modules()],
        [(name, value.tolist()) for name, value in model.state_dict().items()],
        [(name, value.requires_grad, value.grad) for name, value in model.named_parameters()],
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        torch.backends.mha.get_fastpath_enabled(),
    ]


def test_the_network_is_left_as_it_was():
    model = Restless()
    model.conv.register_forward_hook(lambda *_: None)
    before = state_of(model)
    assert [layer.path for layer in list_layers(model)] == ["conv", "bn", "frozen", "drop"]
    assert state_of(model) == before
    with pytest.raises(ValueError, match="does not take"):
        list_layers(model, (3, 11, 11))
    assert state_of(model) == before


def test_nothing_of_the_pass_stays_on_its_tensors():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    list_layers(model)
    assert all(vars(tensor) == {} for tensor in (*model.parameters(), *model.buffers()))


def test_a_backward_pass_may_wait():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    loss = model(torch.ones(2, 3, 8, 8)).sum()
    list_layers(model)
    loss.backward()
    assert model[0].weight.grad is not None


def test_the_same_every_time():
    model = family_of("resnet8")(10)
    assert list_layers(model) == list_layers(model)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    model = models.swin_t(weights=None).cuda()
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state()
    on_gpu = list_layers(model)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    assert on_gpu == list_layers(model.cpu())


# --- what does not work --------------------------------------------------------------------------


def test_an_image_that_does_not_fit_is_said_clearly():
    with pytest.raises(ValueError, match=r"not take an image of shape 1 x 28 x 28; pass shape=") as caught:
        list_layers(family_of("resnet8")(10), (1, 28, 28))
    assert "channels" in str(caught.value.__cause__)


@pytest.mark.parametrize("shape", [(32, 32), (3, 0, 32), (2, 3, 32, 32)])
def test_a_shape_that_is_no_image(shape):
    with pytest.raises(ValueError, match="is no image"):
        list_layers(nn.Sequential(nn.ReLU()), shape)


def test_lazy_layers_are_refused():
    with pytest.raises(ValueError, match="lazy"):
        list_layers(nn.Sequential(nn.LazyConv2d(3, 3)))
