"""Spectra of activations: against maps that were captured by hand, and against fields whose law is known."""

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from test_layers import as_map, has_maps, outputs_of, small_convnext, small_maxvit, small_swin, small_vit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision import models
from torchvision.models.feature_extraction import get_graph_node_names

from spectralkd_nb.activations import AVERAGES, IMAGE, ActivationSpectra, activation_maps, activation_spectra
from spectralkd_nb.networks import build, list_layers
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.spectra import EDGES, default_band, radial_spectrum, spectral_exponent


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fields(alpha: float, n: int, channels: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    """(n, channels, side, side), periodic and float64, so that nothing but the sample is uncertain."""
    generator = torch.Generator().manual_seed(seed)
    return power_law_field(side, alpha, n * channels, generator, torch.float64).unflatten(0, (n, channels))


def measured(model: nn.Module, images, layers=None, **options) -> ActivationSpectra:
    return activation_spectra(model, images, layers, progress=False, **options)


def resnet8(dtype: torch.dtype = torch.float64) -> nn.Module:
    return build("resnet8", 10).to(dtype)


def small_densenet() -> nn.Module:
    return models.DenseNet(4, (2, 2), 8, num_classes=10)


def small_resnet() -> nn.Module:
    """torchvision's, with ReLUs that work in place and are called twice."""
    return models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)


class Chain(nn.Module):
    """Functions as modules, by name."""

    class Step(nn.Module):
        def __init__(self, function: Callable) -> None:
            super().__init__()
            self.function = function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(x)

    def __init__(self, **steps: Callable) -> None:
        super().__init__()
        for name, step in steps.items():
            self.add_module(name, step if isinstance(step, nn.Module) else self.Step(step))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def expected(maps: Tensor, edges: str = "periodic") -> dict[str, Tensor]:
    """Both averages of maps (B, C, H, W), (B, rings), by their definitions in float64."""
    power = radial_spectrum(maps.double(), edges).power
    variance = maps.double().var((-2, -1), correction=0)
    rows = []
    for image, own in zip(power, variance, strict=True):
        live = own > 1e-20
        rows.append((image[live] / own[live, None]).mean(0))
    return {"pooled": power.mean(1), "normalised": torch.stack(rows)}


# --- against maps captured by hand ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (small_resnet, 64),
        (small_densenet, 64),
        (lambda: models.inception_v3(weights=None, init_weights=False), 75),
        (small_convnext, 64),
        (small_swin, 64),
        (small_vit, 64),
        (small_maxvit, 64),
    ],
    ids=["resnet", "densenet", "inception", "convnext", "swin", "vit", "maxvit"],
)
def test_every_layer_of_torchvisions_families(make, size):
    torch.manual_seed(0)
    model = make()
    images = noise(2, 3, size, size)
    result = measured(model, images)
    assert [layer.path for layer in result.layers[:1]] == [IMAGE]
    wanted = {layer.path: layer for layer in list_layers(model, (3, size, size)) if has_maps(layer)}
    assert [layer.path for layer in result.layers[1:]] == list(wanted)
    assert len(wanted) > 15
    for path, output in outputs_of(model, images, wanted).items():
        for average, rows in expected(as_map(output, wanted[path])).items():
            spectrum = result.per_image(path, average)
            torch.testing.assert_close(spectrum.power, rows, rtol=2e-3, atol=1e-5 * float(rows.nan_to_num().max()))


@pytest.mark.parametrize("edges", EDGES)
def test_the_averages_are_those_of_maps_captured_by_hand(edges):
    model, images = resnet8().eval(), noise(5, 3, 32, 32, dtype=torch.float64)
    captured = {}
    for path in ("conv1", "layer2.0", "layer3"):
        model.get_submodule(path).register_forward_hook(lambda _, __, y, path=path: captured.update({path: y.clone()}))
    with torch.no_grad():
        model(images)
    result = measured(model, images, list(captured), edges=edges)
    for path, maps in captured.items():
        for average, rows in expected(maps, edges).items():
            torch.testing.assert_close(result.per_image(path, average).power, rows, equal_nan=True)
            torch.testing.assert_close(result.spectrum(path, average).power, rows.mean(0))
        variance = float(maps.var((-2, -1), correction=0).mean())
        assert result.variance(path) == pytest.approx(variance)
    whole = spectral_exponent(captured["conv1"], edges)
    assert result.exponent("conv1").alpha == pytest.approx(whole.alpha)
    assert result.exponent("conv1").interval == pytest.approx(whole.interval)


def test_channels_last_maps_are_turned_by_hand():
    images = noise(2, 3, 32, 48)
    for model, path, grid in (
        (small_convnext(), "features.1.0.block.3", (8, 12)),
        (small_swin(), "features.1.1.attn", (16, 24)),
    ):
        seen = []
        handle = model.get_submodule(path).register_forward_hook(lambda _, __, y, seen=seen: seen.append(y.clone()))
        with torch.no_grad():
            model.eval()(images)
        handle.remove()
        assert seen[0].shape[1:3] == grid
        maps = torch.stack([seen[0][..., channel] for channel in range(seen[0].shape[-1])], 1)
        result = measured(model, images, path)
        torch.testing.assert_close(result.per_image(path).power, expected(maps)["pooled"], rtol=1e-3, atol=1e-6)
        assert result.spectrum(path).shape == grid


def test_the_class_token_is_dropped_and_the_grid_restored():
    model, images = small_vit().eval(), noise(2, 3, 64, 64)
    path = "encoder.layers.encoder_layer_0"
    seen = []
    model.get_submodule(path).register_forward_hook(lambda _, __, y: seen.append(y.clone()))
    with torch.no_grad():
        model(images)
    tokens = seen[0]
    maps = torch.stack([tokens[:, 1 + 8 * row : 9 + 8 * row] for row in range(8)], 1).movedim(-1, 1)
    assert maps.shape == (2, 32, 8, 8)
    result = measured(model, images, path)
    torch.testing.assert_close(result.per_image(path).power, expected(maps)["pooled"], rtol=1e-3, atol=1e-6)


def test_what_was_written_over_in_place_was_seen_before():
    model, images = small_resnet().eval(), noise(2, 3, 64, 64)
    result = measured(model, images, ["bn1", "relu"])
    with torch.no_grad():
        raw = model.bn1(model.conv1(images))
    torch.testing.assert_close(result.per_image("bn1").power, expected(raw)["pooled"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(result.per_image("relu").power, expected(raw.relu())["pooled"], rtol=1e-3, atol=1e-6)


def test_a_tuple_counts_by_its_first_floating_tensor():
    pair = Chain(pair=lambda x: (torch.arange(3), {"maps": [2 * x, x]}))
    images = noise(2, 3, 8, 8)
    torch.testing.assert_close(
        measured(pair, images).spectrum("pair").power, 4 * measured(pair, images).spectrum(IMAGE).power
    )


def test_a_module_that_is_called_twice_is_measured_at_its_last_call():
    model, images = small_resnet().eval(), noise(2, 3, 64, 64)
    result = measured(model, images, ["layer1.0.relu", "layer1.0"])
    layer = result.layer("layer1.0.relu")
    assert (layer.calls, layer.depth) == (2, 3)
    assert torch.equal(result.spectrum("layer1.0.relu").power, result.spectrum("layer1.0").power)
    assert result.images == 2


def test_a_module_called_with_two_shapes_is_measured_at_its_last_call():
    relu = nn.ReLU()
    model = Chain(first=lambda x: relu(x), second=lambda x: relu(x[..., ::2, ::2]))
    model.relu = relu
    model.forward = lambda x: model.second(model.first(x))
    result = measured(model, noise(2, 3, 16, 16), "relu")
    assert result.spectrum("relu").shape == (8, 8)


def test_fused_attention_does_not_pass_the_hooks_by():
    model = Chain(
        tokens=lambda x: x.flatten(2).transpose(1, 2),
        encoder=nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ).eval()
    result = measured(model, noise(2, 4, 8, 8))
    assert {"encoder.linear1", "encoder.norm2", "encoder"} <= {layer.path for layer in result.layers}
    assert torch.backends.mha.get_fastpath_enabled()


# --- what is no module ---------------------------------------------------------------------------


def test_residual_additions_are_reached_before_the_relu_that_overwrites_them():
    model, images = small_resnet().eval(), noise(2, 3, 64, 64)
    result = measured(model, images, ["layer2.0.add", "layer1", "layer2.0.relu_1"])
    add = result.layer("layer2.0.add")
    assert [layer.path for layer in result.layers] == ["layer2.0.add", "layer1", "layer2.0.relu_1"]
    assert (add.layout, add.grid, add.stage, add.depth) == ("BCHW", (8, 8), 3, 5)
    assert add.kind in ("add", "iadd")
    block = model.layer2[0]
    with torch.no_grad():
        x = model.layer1(model.maxpool(F.relu(model.bn1(model.conv1(images)))))
        torch.testing.assert_close(result.per_image("layer1").power, expected(x)["pooled"], rtol=1e-3, atol=1e-6)
        y = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x))))) + block.downsample(x)
    for path, maps in (("layer2.0.add", y), ("layer2.0.relu_1", y.relu())):
        torch.testing.assert_close(result.per_image(path).power, expected(maps)["pooled"], rtol=1e-3, atol=1e-6)


class Functional(nn.Module):
    """A functional ReLU in place whose result nobody takes, so that a graph may drop it for idle."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        F.relu(x, inplace=True)
        return x * 2


def test_functions_that_work_in_place_are_not_dropped():
    model, images = Functional(), noise(2, 3, 16, 16)
    result = measured(model, images, ["conv", "relu", "mul"])
    with torch.no_grad():
        raw = model.conv(images)
    for path, maps in (("conv", raw), ("relu", raw.relu()), ("mul", 2 * raw.relu())):
        torch.testing.assert_close(result.per_image(path).power, expected(maps)["pooled"], rtol=1e-4, atol=1e-6)


def test_the_names_of_nodes_are_torchvisions():
    """Stochastic depth is not traced through, and the count of equal names goes on over modules."""
    model = small_convnext()
    names = [name for name in get_graph_node_names(model, suppress_diff_warning=True)[1] if name.endswith("add")]
    assert len(names) == 4
    layers = measured(model, noise(2, 3, 64, 64), names).layers
    assert [layer.path for layer in layers] == names
    assert [layer.grid for layer in layers] == [(16, 16), (16, 16), (8, 8), (8, 8)]


def test_a_network_that_cannot_be_traced_says_so():
    model = Chain(branch=lambda x: x if x.sum() > 0 else -x)
    with pytest.raises(ValueError, match=r"no layer 'brunch', and torch.fx cannot trace .* did you mean branch\?"):
        measured(model, noise(2, 3, 8, 8), "brunch")


def test_a_node_that_is_no_map_is_refused():
    with pytest.raises(ValueError, match=r"flatten .* cannot be measured: its output does not lie on a grid"):
        measured(small_resnet(), noise(2, 3, 64, 64), "flatten")


# --- fields whose law is known -------------------------------------------------------------------


def test_white_noise_is_flat():
    result = measured(Chain(same=nn.Identity()), noise(200, 3, 32, 32, dtype=torch.float64), edges="none")
    for average in AVERAGES:
        found = result.exponent("same", average)
        assert abs(found.alpha) < 0.02
        assert found.interval[0] < 0 < found.interval[1]
        assert found.trusted
        torch.testing.assert_close(result.spectrum("same", average).power, torch.ones(16).double(), rtol=0.03, atol=0)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_a_pointwise_convolution_keeps_the_law_and_adds_the_variances(alpha):
    """Channels are independent, so power behind a 1 x 1 convolution is the sum of squared weights times power."""
    conv = nn.Conv2d(3, 5, 1, bias=False).double()
    result = measured(Chain(conv=conv), fields(alpha, 150), edges="none")
    for average in AVERAGES:
        assert result.exponent(IMAGE, average).alpha == pytest.approx(alpha, abs=0.03)
        assert result.exponent("conv", average).alpha == pytest.approx(alpha, abs=0.03)
    gain = float(conv.weight.detach().square().sum((1, 2, 3)).mean())
    assert result.variance("conv") == pytest.approx(gain * result.variance(IMAGE), rel=0.1)
    ratio = result.spectrum("conv").power / result.spectrum(IMAGE).power
    torch.testing.assert_close(ratio, torch.full_like(ratio, gain), rtol=0.2, atol=0)


def test_loud_channels_weigh_in_the_pooled_average_only():
    steep, flat = fields(3.0, 40, 1), fields(0.0, 40, 1, seed=1)
    images = torch.cat([steep, flat], 1)
    loud = measured(nn.Identity(), images * torch.tensor([10.0, 1.0])[:, None, None], edges="none")
    even = measured(nn.Identity(), images, edges="none")
    assert loud.exponent(IMAGE).alpha > even.exponent(IMAGE).alpha + 0.3
    torch.testing.assert_close(*(r.spectrum(IMAGE, "normalised").power for r in (loud, even)))


def test_normalised_power_without_edge_treatment_has_unit_variance():
    """Parseval. White noise has the same power beyond the Nyquist circle as below it."""
    result = measured(nn.Identity(), 7 * noise(300, 2, 16, 16, dtype=torch.float64), edges="none")
    spectrum = result.spectrum(IMAGE, "normalised")
    assert float((spectrum.power * spectrum.modes).sum() / spectrum.modes.sum()) == pytest.approx(256 / 255, rel=0.01)


def test_dead_maps_are_left_out_and_counted():
    images = fields(2.0, 12)
    images[:, 1] = 1e6 / 3  # constant to rounding
    images[4] = 0  # and an image that is dead altogether
    result = measured(Chain(scaled=lambda x: x * 1.1), images, edges="none")
    clean = measured(nn.Identity(), images[[i for i in range(12) if i != 4]][:, [0, 2]], edges="none")
    for path in (IMAGE, "scaled"):
        assert result.dead_share(path) == pytest.approx((11 + 3) / 36)
        spectrum = result.spectrum(path, "normalised")
        assert spectrum.maps == 22
        torch.testing.assert_close(spectrum.power, clean.spectrum(IMAGE, "normalised").power)
        assert result.per_image(path, "normalised").power[4].isnan().all()
        found = result.exponent(path, "normalised")
        assert found.images == 11
        assert found.interval == pytest.approx(clean.exponent(IMAGE, "normalised").interval)


def test_a_layer_that_is_dead_throughout_has_no_exponent():
    result = measured(Chain(dead=lambda x: 0 * x), noise(3, 3, 16, 16))
    for average in AVERAGES:
        found = result.exponent("dead", average)
        assert math.isnan(found.alpha)
        assert "constant" in found.reasons[0]
    assert result.dead_share("dead") == 1
    assert not result.table().trusted[1]


def test_the_bootstrap_covers_the_truth():
    """Images of very different loudness, as photographs are."""
    covered = 0
    for seed in range(60):
        images = fields(2.0, 25, 2, 16, seed) * noise(25, 1, 1, 1, seed=seed).exp()
        low, high = measured(nn.Identity(), images, edges="none").exponent(IMAGE, resamples=200, seed=seed).interval
        covered += low < 2 < high
    assert 50 <= covered <= 60


def test_exponents_of_channels():
    images = torch.cat([fields(a, 100, 1, seed=i) for i, a in enumerate((1.0, 2.0, 3.0))], 1)
    images[:, 2] *= 100
    images = torch.cat([images, torch.zeros_like(images[:, :1])], 1)
    result = measured(nn.Identity(), images, edges="none", per_channel=True, batch_size=30)
    alpha = result.channel_exponents(IMAGE).alpha
    torch.testing.assert_close(alpha[:3], torch.tensor([1.0, 2.0, 3.0]).double(), atol=0.06, rtol=0)
    assert alpha[3].isnan()
    with pytest.raises(ValueError, match="measure with per_channel=True"):
        measured(nn.Identity(), images).channel_exponents(IMAGE)


# --- streaming -----------------------------------------------------------------------------------


def assert_same(first: ActivationSpectra, second: ActivationSpectra, rtol: float = 1e-12) -> None:
    assert first.layers == second.layers
    assert first.images == second.images
    for path in first.sums:
        for average in AVERAGES:
            mine, theirs = first.spectrum(path, average), second.spectrum(path, average)
            torch.testing.assert_close(mine.power, theirs.power, rtol=rtol, atol=0)
            assert mine.maps == theirs.maps
        assert first.variance(path) == pytest.approx(second.variance(path), rel=rtol)


def test_streamed_is_batched():
    model, images = resnet8(), noise(23, 3, 16, 16, dtype=torch.float64)
    whole = measured(model, images, per_channel=True)
    streamed = measured(model, images, batch_size=5, per_channel=True)
    assert_same(whole, streamed)
    torch.testing.assert_close(whole.per_image("conv1").power, streamed.per_image("conv1").power)
    torch.testing.assert_close(whole.channel_exponents("conv1").alpha, streamed.channel_exponents("conv1").alpha)


def test_images_come_as_tensor_generator_or_loader():
    model, images = resnet8(), noise(10, 3, 16, 16, dtype=torch.float64)
    reference = measured(model, images, "blocks")
    begun = []

    def batches() -> Iterator[Tensor]:
        for batch in images.split(4):
            begun.append(len(batch))
            yield batch

    assert_same(reference, measured(model, batches(), "blocks"))
    assert begun == [4, 4, 2]
    loader = DataLoader(TensorDataset(images, torch.arange(10)), batch_size=3)
    assert_same(reference, measured(model, loader, "blocks"))
    assert_same(reference, measured(model, [images, images[:0]], "blocks"))


def test_all_images_are_summed_and_2048_are_kept():
    images = noise(2100, 1, 8, 8, dtype=torch.float64)
    images[2048:] *= 10
    result = measured(nn.Identity(), images, batch_size=500)
    assert result.images == result.exponent(IMAGE).images == 2100
    assert result.per_image(IMAGE).power.shape == (2048, 4)
    assert_same(result, measured(nn.Identity(), images, batch_size=2100))
    assert result.variance(IMAGE) == pytest.approx(float(images.var((-2, -1), correction=0).mean()))
    merged = measured(nn.Identity(), images[:1500]).merge(measured(nn.Identity(), images[1500:]))
    assert_same(result, merged)
    assert torch.equal(result.per_image(IMAGE).power, merged.per_image(IMAGE).power)


def test_images_in_order_are_found_out():
    images = torch.cat([fields(3.0, 2048, 1, 16), fields(0.0, 500, 1, 16)])
    assert "shuffle them" in measured(nn.Identity(), images, edges="none").exponent(IMAGE).reasons[-1]


def test_results_merge_by_hand():
    model, images = resnet8(), noise(9, 3, 16, 16, dtype=torch.float64)
    parts = [measured(model, part, crop=1) for part in (images[:4], images[4:])]
    whole = measured(model, images, crop=1)
    merged = parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
    assert_same(whole, merged)
    assert merged.exponent("layer1.0").interval == pytest.approx(whole.exponent("layer1.0").interval)
    with pytest.raises(ValueError, match="differ in their crops"):
        parts[0].merge(measured(model, images, [layer.path for layer in parts[0].layers]))
    with pytest.raises(ValueError, match="differ in their edges"):
        parts[0].merge(measured(model, images, crop=1, edges="hann"))
    with pytest.raises(ValueError, match="differ in their layers"):
        parts[0].merge(measured(model, images, "conv1", crop=1))


SCRIPT = """
import sys
import torch
from torch import distributed
from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.networks import build

distributed.init_process_group("gloo")
rank = distributed.get_rank()
images = torch.load(sys.argv[1])
measure = lambda mine: activation_spectra(build("resnet8", 10), mine, progress=False)
torch.save([measure(images[rank::2]), measure(images[: 11 * (rank == 0)])], f"{sys.argv[1]}.{rank}")
"""


def test_two_processes_give_the_answer_of_one(tmp_path):
    images = noise(11, 3, 16, 16)
    file = tmp_path / "images.pt"
    torch.save(images, file)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*torchrun, script, file], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    alone = measured(build("resnet8", 10), images)
    in_order = measured(build("resnet8", 10), torch.cat([images[::2], images[1::2]]))
    for rank in (0, 1):
        shared, uneven = torch.load(f"{file}.{rank}", weights_only=False)
        assert_same(shared, alone, rtol=1e-6)
        assert_same(uneven, alone, rtol=1e-6)
        for path in ("conv1", "layer2"):
            assert shared.exponent(path).alpha == pytest.approx(alone.exponent(path).alpha, rel=1e-5)
            torch.testing.assert_close(shared.per_image(path).power, in_order.per_image(path).power, rtol=1e-4, atol=0)


# --- the network is left as it was ---------------------------------------------------------------


def state_of(model: nn.Module) -> dict:
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_hooks) for module in model.modules()],
        "tensors": {name: (t, t.clone(), t._version) for name, t in model.state_dict(keep_vars=True).items()},
        "grads": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "wanted": [p.requires_grad for p in model.parameters()],
        "rng": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
        "fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def assert_untouched(model: nn.Module, before: dict) -> None:
    after = state_of(model)
    for name in ("modes", "hooks", "wanted", "grad mode", "fast path"):
        assert after[name] == before[name], name
    assert torch.equal(after["rng"], before["rng"])
    for name, (tensor, value, version) in before["tensors"].items():
        now, new_value, new_version = after["tensors"][name]
        assert now is tensor, name
        assert torch.equal(new_value, value), name
        assert new_version == version, name
    for old, new in zip(before["grads"], after["grads"], strict=True):
        assert (old is None and new is None) or torch.equal(old, new)


def odd_network() -> nn.Module:
    """Modes that differ from module to module, a frozen weight, gradients, dropout, and a hook of its own."""
    model = small_resnet().train()
    model.layer1.eval()
    model.layer2[0].bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model(noise(2, 3, 64, 64)).sum().backward()
    model.bn1.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("layers", [None, ["layer1.0.add", "conv1"], ["layr1"], ["layer1.0.ad"], ["fc"]])
def test_nothing_stays_behind(layers):
    model, images = odd_network(), noise(2, 3, 64, 64).requires_grad_()
    before = state_of(model)
    try:
        result = measured(model, images, layers)
    except ValueError:
        pass
    else:
        assert not any(sums.rows.requires_grad for sums in result.sums.values())
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_behind_when_the_images_fail(error):
    model = odd_network()
    before = state_of(model)

    def batches() -> Iterator[Tensor]:
        yield noise(2, 3, 64, 64)
        raise error("no more")

    with pytest.raises(error, match="no more"):
        measured(model, batches())
    assert_untouched(model, before)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("layers", [None, ["layer1.0.add"]])
def test_nothing_stays_behind_when_the_network_fails(error, layers):
    model = odd_network()
    passes = []

    def fail(*_) -> None:
        passes.append(1)
        if len(passes) > 2:  # not in the pass that lists the layers
            raise error("stop")

    model.layer4[0].bn2.register_forward_hook(fail)
    before = state_of(model)
    with pytest.raises(error, match="stop"):
        measured(model, noise(12, 3, 64, 64), layers, batch_size=2)
    assert_untouched(model, before)


def test_a_backward_pass_may_wait():
    model = small_resnet().train()
    loss = model(noise(2, 3, 64, 64)).sum()
    measured(model, noise(2, 3, 64, 64), "blocks")
    loss.backward()
    assert model.conv1.weight.grad is not None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_and_back():
    model, images = small_swin().eval(), noise(4, 3, 64, 64)
    before = state_of(model)
    on_cpu, on_gpu = measured(model, images), measured(model, images, device="cuda")
    assert_untouched(model, before)
    assert_same(on_cpu, on_gpu, rtol=1e-2)
    moved = measured(model.cuda(), images)
    assert next(model.parameters()).is_cuda
    assert_same(moved, on_gpu, rtol=1e-6)


# --- precision -----------------------------------------------------------------------------------


def test_bfloat16_weights():
    images = noise(6, 3, 32, 32)
    exact = measured(resnet8(torch.float32), images, ["image", "conv1", "layer3"])
    rough = measured(resnet8(torch.bfloat16), images, ["image", "conv1", "layer3"])
    for path in ("conv1", "layer3"):
        assert rough.per_image(path).power.dtype == torch.float64
        torch.testing.assert_close(rough.spectrum(path).power, exact.spectrum(path).power, rtol=0.05, atol=0)
    assert torch.equal(rough.spectrum(IMAGE).power, exact.spectrum(IMAGE).power)


def test_autocast():
    model, images = resnet8(torch.float32), noise(6, 3, 32, 32)
    exact = measured(model, images, ["conv1", "layer3"])
    with torch.autocast("cpu", torch.bfloat16):
        rough = measured(model, images, ["conv1", "layer3"])
    for path in ("conv1", "layer3"):
        torch.testing.assert_close(rough.spectrum(path).power, exact.spectrum(path).power, rtol=0.05, atol=0)
        assert not torch.equal(rough.spectrum(path).power, exact.spectrum(path).power)


# --- crop, bands, groups -------------------------------------------------------------------------


def test_crop_leaves_out_the_border_of_every_layer_or_of_some():
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()), noise(3, 3, 16, 16)
    with torch.no_grad():
        inner = model[0](images)[..., 2:-2, 2:-2]
    everywhere = measured(model, images, crop=2)
    once = measured(model, images, crop={"0": 2})
    for result in (everywhere, once):
        assert result.spectrum("0").shape == (12, 12)
        torch.testing.assert_close(result.per_image("0").power, expected(inner)["pooled"], rtol=1e-4, atol=1e-6)
    assert everywhere.spectrum(IMAGE).shape == everywhere.spectrum("1").shape == (12, 12)
    assert once.spectrum(IMAGE).shape == once.spectrum("1").shape == (16, 16)


def test_crop_that_leaves_too_little():
    model, images = resnet8(torch.float32), noise(2, 3, 32, 32)
    assert {layer.stage for layer in measured(model, images, crop=3).layers} == {None, 1, 2}
    with pytest.raises(ValueError, match=r"layer3 .* cannot be measured: crop=3 leaves less than 4 pixels"):
        measured(model, images, "layer3", crop=3)
    with pytest.raises(ValueError, match=r"crop names 'layer3', which is not measured; did you mean layer1\?"):
        measured(model, images, "layer1", crop={"layer3": 1})
    with pytest.raises(ValueError, match="crop=-1 is no number of pixels"):
        measured(model, images, crop=-1)


def test_bands_end_lower_behind_a_stride():
    result = measured(resnet8(torch.float32), noise(2, 3, 32, 32))
    assert result.band(IMAGE) == result.band("layer1.0") == default_band((32, 32))
    assert result.band("layer2.0") == default_band((16, 16), strided=True)
    assert result.exponent("layer2.0").fit.band == result.band("layer2.0")
    found = result.exponent("layer3.0")
    assert [part in "; ".join(found.reasons) for part in ("2 images is too narrow", "only 2 rings")] == [True, True]
    assert result.exponent("layer3.0", band=(0.1, 0.45)).fit.rings == 3
    assert math.isnan(result.exponent("layer3.0", band=(0.2, 0.3)).alpha)


def test_maps_of_4_pixels_are_measured_and_have_no_exponent():
    result = measured(Chain(small=lambda x: x[..., ::4, ::4]), noise(2, 3, 16, 16))
    assert result.spectrum("small").power.shape == (2,)
    found = result.exponent("small")
    assert math.isnan(found.alpha)
    assert "a single ring lies between" in found.reasons[0]


def paths(model: nn.Module, layers: str, size: int = 64) -> list[str]:
    return [layer.path for layer in measured(model, noise(2, 3, size, size), layers).layers]


def test_groups():
    resnet = small_resnet()
    assert paths(resnet, "blocks") == ["layer1.0", "layer2.0", "layer3.0"]
    assert paths(resnet, "relus") == ["relu", "layer1.0.relu", "layer2.0.relu", "layer3.0.relu"]
    convolutions = paths(resnet, "convolutions")
    assert convolutions[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]
    assert "layer2.0.downsample.0" in convolutions
    assert paths(small_vit(), "blocks") == [f"encoder.layers.encoder_layer_{n}" for n in (0, 1)]
    assert paths(small_convnext(), "blocks") == ["features.1.0", "features.1.1", "features.3.0", "features.3.1"]
    maxvit = [path.rpartition(".")[2] for path in paths(small_maxvit(), "blocks")]
    assert maxvit == ["MBconv", "window_attention", "grid_attention"] * 2
    assert paths(build("vgg8", 10), "blocks", 32) == [f"layer{n}" for n in range(1, 6)]
    mixed = measured(resnet, noise(2, 3, 64, 64), ["image", "blocks", "layer1.0", "conv1"])
    assert [layer.path for layer in mixed.layers] == ["image", "layer1.0", "layer2.0", "layer3.0", "conv1"]
    with pytest.raises(ValueError, match="the network has no relus"):
        paths(nn.Sequential(nn.Conv2d(3, 3, 1)), "relus")


def test_a_module_called_image_takes_the_name():
    result = measured(Chain(image=lambda x: 2 * x), noise(2, 3, 8, 8))
    assert [layer.kind for layer in result.layers] == ["Step"]


# --- the table -----------------------------------------------------------------------------------


@cache
def example() -> ActivationSpectra:
    return measured(build("resnet8", 10), noise(12, 3, 32, 32))


def test_the_table_has_one_row_a_layer():
    result = example()
    table = result.table("normalised", resamples=50)
    assert list(table.path) == [layer.path for layer in result.layers]
    assert table.path[0] == IMAGE
    assert table.depth[0] == 0
    assert pd.isna(table.stage[0])
    row = table.set_index("path").loc["layer2.0"]
    found = result.exponent("layer2.0", "normalised", resamples=50)
    assert (row.alpha, row.lower, row.upper) == (found.alpha, *found.interval)
    assert (row.kind, row.stage, row.channels, row.height, row.width) == ("BasicBlock", 2, 32, 16, 16)
    assert (row.images, row.average, row.trusted) == (12, "normalised", found.trusted)
    assert 0 <= row.dead <= 1


def test_the_table_survives_a_file(tmp_path):
    result = example()
    result.to_csv(tmp_path / "spectra.csv", resamples=20)
    read = pd.read_csv(tmp_path / "spectra.csv", dtype={"stage": "Int64"}, keep_default_na=True)
    assert len(read) == 2 * len(result.layers)
    for average in AVERAGES:
        part = read[read.average == average].reset_index(drop=True)
        table = result.table(average, resamples=20)
        pd.testing.assert_frame_equal(
            part.drop(columns=["reasons", "average"]), table.drop(columns=["reasons", "average"]), check_dtype=False
        )
        assert list(part.reasons.fillna("")) == list(table.reasons)


def test_the_interval_is_the_same_every_time():
    result = example()
    assert result.exponent("conv1").interval == result.exponent("conv1").interval
    assert result.exponent("conv1", seed=1).interval != result.exponent("conv1").interval


def test_in_words():
    assert str(example()) == f"spectra of {len(example().layers)} layers over 12 images, edges 'periodic'"
    assert "sums" not in repr(example())


# --- what does not work --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        (["layer1.0.conv3"], r"no layer 'layer1.0.conv3'; did you mean layer1.0.conv"),
        ("block", r"no layer 'block'; did you mean blocks"),
        ("xyzzy", r"no layer 'xyzzy'; list_layers\(network, shape\) shows the names"),
        (["conv1", "fc"], r"fc \(Linear, 10\) cannot be measured: its output does not lie on a grid"),
        ("layer4", r"layer4 .* cannot be measured: at least 4 pixels a side"),
        ("layer1.0.downsample", r"no layer 'layer1.0.downsample'; did you mean"),
        ([], "there is no layer to measure"),
    ],
)
def test_wrong_names_are_answered_with_right_ones(layers, sentence):
    with pytest.raises(ValueError, match=sentence):
        measured(small_resnet(), noise(2, 3, 64, 64), layers)


def test_a_layout_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match=r"partition_op .*: what its dimensions mean is not known"):
        measured(small_maxvit(), noise(2, 3, 64, 64), "blocks.0.layers.0.layers.window_attention.partition_op")


def test_a_module_that_is_never_called():
    model = Chain(first=nn.ReLU())
    model.forward = lambda x: model.first(x)
    model.idle = nn.ReLU()
    with pytest.raises(ValueError, match="does not call 'idle'"):
        measured(model, noise(2, 3, 8, 8), "idle")


def test_a_network_that_changes_its_mind():
    model = Chain(a=nn.ReLU())
    model.forward = lambda x: model.a(x) if len(x) < 4 else x
    with pytest.raises(ValueError, match="a was called 0 times for one batch and 1 times for another"):
        measured(model, noise(5, 3, 8, 8), "a")
    model = Chain(b=lambda x: x if len(x) < 4 else x[..., :5])
    with pytest.raises(ValueError, match=r"b returned \(5, 3, 8, 5\) for 5 images where \(5, 3, 8, 8\) was expected"):
        measured(model, noise(5, 3, 8, 8), "b")


def test_nan_names_its_layer():
    model = resnet8()
    with torch.no_grad():
        model.layer2[0].bn1.weight[3] = torch.nan
    with pytest.raises(ValueError, match=r"layer2.0.bn1 \(BatchNorm2d, 32 x 8 x 8\): 2 of 64 maps hold NaN"):
        measured(model, noise(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("images", "error", "sentence"),
    [
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), TypeError, "images are torch.uint8; normalise them first"),
        (torch.zeros(3, 8, 8), ValueError, r"shape \(3, 8, 8\), and \(B, C, H, W\)"),
        ([torch.zeros(3, 8, 8)], ValueError, r"shape \(3, 8, 8\)"),
        (["picture.png"], TypeError, "a batch is str; give tensors"),
        ([], ValueError, "there are no images"),
        (torch.zeros(0, 3, 8, 8), ValueError, "there are no images"),
        ([torch.ones(1, 3, 8, 8), torch.ones(1, 3, 9, 8)], ValueError, "3 x 9 x 8 cannot join those of 3 x 8 x 8"),
    ],
)
def test_images_that_are_none(images, error, sentence):
    with pytest.raises(error, match=sentence):
        measured(nn.Sequential(nn.ReLU()), images)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"edges": "moisan"}, "edges='moisan' is not known"), ({"batch_size": 0}, "batch_size=0 is no size")],
)
def test_options_that_are_not_known(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        measured(nn.Sequential(nn.ReLU()), noise(2, 3, 8, 8), **options)


def test_questions_about_what_was_not_measured():
    result = example()
    for ask in (result.spectrum, result.exponent, result.per_image, result.band, result.dead_share, result.variance):
        with pytest.raises(ValueError, match=r"'layer2.O' was not measured; did you mean layer2"):
            ask("layer2.O")
    with pytest.raises(ValueError, match="average='mean' is not known; choose one of 'pooled', 'normalised'"):
        result.spectrum("conv1", "mean")
    with pytest.raises(ValueError, match="resamples=0 draws nothing"):
        result.exponent("conv1", resamples=0)
    with pytest.raises(ValueError, match="method='best' is not known"):
        result.exponent("conv1", method="best")


# --- maps to look at -----------------------------------------------------------------------------


def test_maps_of_a_layer_are_those_that_were_measured():
    network, images = small_resnet(), noise(2, 3, 32, 32)
    maps = activation_maps(network, images, "layer1.0.conv1")
    alone = activation_spectra(network, images, ["layer1.0.conv1"], progress=False)
    expected = radial_spectrum(maps, "periodic").power.double().mean((0, 1))
    assert torch.allclose(alone.spectrum("layer1.0.conv1").power, expected, rtol=1e-5)
    assert torch.equal(activation_maps(network, images, "image"), images)
    with pytest.raises(ValueError, match=r"did you mean layer1\.0\.conv"):
        activation_maps(network, images, "layer1.0.conv9")
