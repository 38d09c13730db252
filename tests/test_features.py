"""Features from networks as they are, connectors, and the step for both: what is taken, what learns, what is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from test_distillation import QUICK, InterruptedAt, Tiny, same, stripes, tensors
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import CrossEntropy, SoftTargets, train
from spectralkd_nb.distillation.features import Connector, FeatureMatching, Match
from spectralkd_nb.distillation.steps import described
from spectralkd_nb.losses import hint_loss, spectral_shape_loss, whitened_spectral_loss
from spectralkd_nb.networks import build
from spectralkd_nb.networks.features import collected, device_of, features_of


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return stripes()


@pytest.fixture(scope="module")
def batch(data) -> tuple[torch.Tensor, torch.Tensor]:
    return data.normalise(data.train_images[:16]), data.train_labels[:16]


class Odd(Tiny):
    """A spare layer that nobody calls, one that returns two tensors, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Conv2d(3, 4, 1)
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.twice = nn.BatchNorm2d(4)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.twice(self.twice(self.pool(self.conv(x))[0]))


class Overwriting(Tiny):
    """Its rectifier writes over what the batch norm has returned."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu_(self.bn(self.conv(x)))


class Asked(Tiny):
    """Notes of each question whether gradients were recorded."""

    def __init__(self) -> None:
        super().__init__(6, seed=2)
        self.recorded: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.recorded.append(torch.is_grad_enabled())
        return super().forward(x)


def hooks_of(network: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in network.modules())


# --- features ------------------------------------------------------------------------------------


def test_features_are_what_the_layers_return(batch):
    network = Tiny().eval()
    with collected(network, ["bn", "conv", "fc"]) as seen:
        network(batch[0])
    conv = F.conv2d(batch[0], network.conv.weight, network.conv.bias, padding=1)
    assert list(seen) == ["conv", "bn", "fc"]  # in the order in which they were called
    assert torch.equal(seen["conv"], conv)
    assert torch.equal(seen["bn"], network.bn(conv))
    assert torch.equal(seen["fc"], network(batch[0]))


def test_a_network_without_parameters_has_features_too():
    network = nn.Sequential(nn.ReLU(), nn.AvgPool2d(2))
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(features_of(network, images, ["0"])["0"], images.relu())
    assert device_of(network) == torch.device("cpu")
    assert device_of(nn.BatchNorm2d(3, affine=False, device="meta")) == torch.device("meta")  # buffers alone


def test_of_several_calls_the_last_counts(batch):
    network = Odd().eval()
    with collected(network, ["twice"]) as seen:
        network(batch[0])
        network(batch[0] + 1)
    assert torch.equal(seen["twice"], network.features(batch[0] + 1))


def test_a_network_is_afterwards_as_it_was(batch):
    network = Tiny().eval()
    network.bn.train()
    network.bn.momentum = 0.0
    before, answer = tensors(network), network(batch[0])
    for paths in (["bn"], ["conv", "fc"]):
        with collected(network, paths):
            assert hooks_of(network) == len(paths)
            assert torch.equal(network(batch[0]), answer)
        assert hooks_of(network) == 0
    before[-3] += 3  # the count of batches, the only tensor that a forward pass moves here
    assert same(tensors(network), before)
    assert (network.training, network.bn.training) == (False, True)


def test_hooks_are_gone_after_whatever_went_wrong(batch):
    network = Odd().eval()

    def using(*paths: str, images: torch.Tensor = batch[0]) -> None:
        with collected(network, paths):
            network(images)

    with pytest.raises(ValueError, match="layer 'spare' was not called, so it has no features; name another"):
        using("conv", "spare")
    assert hooks_of(network) == 0
    with pytest.raises(ValueError, match="layer 'pool' returns a tuple, and features are a tensor"):
        using("conv", "pool")
    assert hooks_of(network) == 0
    with pytest.raises(RuntimeError, match="channels"):
        using("conv", images=batch[0][:, :2])
    assert hooks_of(network) == 0


def test_a_wrong_path_names_the_nearest_and_hooks_nothing():
    network = build("resnet8", 2)
    with pytest.raises(ValueError, match=r"no layer 'layer1\.0\.bn3'; the nearest are .*'layer1\.0\.bn[12]'"):
        collected(network, ["layer1", "layer1.0.bn3"]).__enter__()
    with pytest.raises(ValueError, match="no layer ''; the nearest are 'conv1', 'bn1', 'relu'"):
        collected(network, [""]).__enter__()
    assert hooks_of(network) == 0


def test_modules_that_work_in_place_do_not_reach_the_features(batch):
    network = build("torchvision/resnet18", 10).eval()
    assert network.layer1[0].relu.inplace
    # The same network, whose rectifiers and additions leave their inputs alone.
    block, names = network.layer1[0], ["bn1", "layer1.0.bn1", "layer1.0.bn2", "layer1.0"]
    with torch.no_grad():
        first = network.bn1(network.conv1(batch[0]))
        x = network.maxpool(F.relu(first))
        inner = block.bn1(block.conv1(x))
        last = block.bn2(block.conv2(F.relu(inner)))
    with collected(network, names) as seen:
        network(batch[0])
    for name, wanted in zip(names, (first, inner, last, F.relu(last + x)), strict=True):
        torch.testing.assert_close(seen[name], wanted)
    assert seen["layer1.0.bn2"].requires_grad  # a copy that passes gradients on
    seen["layer1.0.bn2"].square().sum().backward()
    assert network.conv1.weight.grad.abs().sum() > 0


def test_what_is_written_over_by_a_function_is_found(batch):
    network = Overwriting().eval()
    with (
        pytest.raises(ValueError, match="what layer 'bn' returned was written over in place; name the layer behind"),
        collected(network, ["conv", "bn"]),
    ):
        network(batch[0])
    with collected(network, ["conv"]) as seen:
        network(batch[0])
    assert torch.equal(seen["conv"], network.conv(batch[0]))


@pytest.mark.parametrize("kind", [Tiny, Overwriting])
def test_in_inference_mode_features_are_copies(batch, kind):
    with torch.inference_mode():
        network = kind().eval()
        with collected(network, ["bn"]) as seen:
            network(batch[0])
        assert torch.equal(seen["bn"], network.bn(network.conv(batch[0])))


def test_a_compiled_network_is_refused():
    compiled = Tiny()
    compiled._orig_mod = Tiny()  # what torch.compile leaves
    with pytest.raises(ValueError, match=r"a compiled network hands out no features; train with Recipe\(compile=False"):
        collected(compiled, ["bn"]).__enter__()


# --- connectors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "stride"),
    [((4, 8, 8), (6, 8, 8), 1), ((4, 8, 8), (4, 8, 8), 1), ((5, 8, 8), (3, 4, 4), 2), ((2, 12, 9), (3, 4, 3), 3)],
)
def test_a_connector_brings_features_to_the_teachers_shape(student, teacher, stride):
    student, teacher = torch.randn(2, *student), torch.randn(2, *teacher)
    connector = Connector.between(student, teacher)
    assert connector(student).shape == teacher.shape
    assert connector.kernel_size == (1, 1)
    assert connector.stride == (stride, stride)
    told = f"Connector({student.shape[1]}, {teacher.shape[1]}{f', stride={stride}' if stride > 1 else ''})"
    assert repr(connector) == told


@pytest.mark.parametrize(
    ("student", "teacher"),
    [((4, 4, 4), (4, 8, 8)), ((4, 8, 8), (4, 3, 3)), ((4, 8, 8), (4, 4, 2)), ((4, 8, 4), (4, 4, 4))],
)
def test_maps_that_do_not_fit_are_refused(student, teacher):
    with pytest.raises(ValueError, match="as large as the teacher's or a whole number of times larger; pair other"):
        Connector.between(torch.zeros(1, *student), torch.zeros(1, *teacher))


def test_features_without_maps_are_refused():
    with pytest.raises(ValueError, match=r"student \(1, 4\), teacher \(1, 4, 2, 2\): a connector joins features"):
        Connector.between(torch.zeros(1, 4), torch.zeros(1, 4, 2, 2))


def test_a_connectors_weights_follow_from_the_seed_and_the_caller_draws_on():
    maps = torch.zeros(1, 4, 8, 8)
    state = torch.get_rng_state()
    first, again, other = (tensors(Connector.between(maps, maps, seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, tensors(Connector.between(maps, maps)))


# --- the step ------------------------------------------------------------------------------------


def matching(base: nn.Module | None = None, seed: int = 0, **changes) -> FeatureMatching:
    """Labels or soft targets, and a hint through a connector."""
    connector = Connector.between(torch.zeros(1, 4, 8, 8), torch.zeros(1, 6, 8, 8), seed)
    told = {"loss": hint_loss, "student": "bn", "teacher": "bn", "connector": connector} | changes
    return FeatureMatching(base or CrossEntropy(), [Match("hint", **told)])


@pytest.mark.parametrize("stride", [1, 2])
def test_a_fitted_connector_recovers_a_linear_map(stride):
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 3, 8, 8, generator=generator)
    true = nn.Conv2d(3, 5, 1, stride)
    fitted = Connector.fitted(student, true(student))
    assert fitted.stride == (stride, stride)
    assert_close(fitted.weight, true.weight, atol=1e-5, rtol=0)
    assert_close(fitted.bias, true.bias, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3, 4, 5, 16])
def test_a_connector_with_a_stride_has_the_gradients_of_a_strided_convolution(channels):
    """In the layout that training uses, against float64 in the other."""
    maps = torch.randn(16, channels, 8, 8)
    connector = Connector(channels, 8, 2)
    connector(maps.contiguous(memory_format=torch.channels_last)).square().mean().backward()
    exact = nn.Conv2d(channels, 8, 1, 2).double()
    exact.load_state_dict(connector.state_dict())
    exact(maps.double()).square().mean().backward()
    assert_close(connector.weight.grad.double(), exact.weight.grad, atol=1e-6, rtol=1e-5)


def test_a_connector_is_fitted_to_features_of_the_same_images():
    with pytest.raises(ValueError, match="features are of 4 images and the teacher's of 3; give both of the same"):
        Connector.fitted(torch.zeros(4, 2, 6, 6), torch.zeros(3, 2, 6, 6))


def test_a_connector_is_fitted_on_the_cpu_where_there_is_double_precision(monkeypatch):
    done = []
    for name in ("cpu", "double"):
        usual = getattr(torch.Tensor, name)
        noted = lambda x, name=name, usual=usual: done.append(name) or usual(x)  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, noted)
    Connector.fitted(torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4))
    assert done == ["cpu", "double"] * 2


def test_no_connector_is_better_than_the_fitted_one():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(4, channels, 6, 6, generator=generator) + 2 for channels in (3, 5))
    student[:, 1] = 0  # a dead channel
    fitted = Connector.fitted(student, teacher)
    least = hint_loss(fitted(student), teacher)
    (slope,) = torch.autograd.grad(least, fitted.weight)
    assert slope.abs().max() < 1e-6
    for parameter in fitted.parameters():
        for step in (-0.01, 0.01):
            with torch.no_grad():
                parameter.add_(step)
                assert hint_loss(fitted(student), teacher) >= least
                parameter.sub_(step)


def test_the_terms_are_those_of_the_base_and_the_matches(batch):
    student, teacher = Tiny().eval(), Tiny(6, seed=2).eval()
    step = matching(SoftTargets(2.0))
    logits, terms = step(student, teacher, *batch)
    assert list(terms) == ["cross-entropy", "soft targets", "hint"]
    assert torch.equal(logits, student(batch[0]))
    wanted = SoftTargets(2.0)(student, teacher, *batch)[1]
    assert all(torch.equal(terms[name], wanted[name]) for name in wanted)
    mine, its = (network.bn(network.conv(batch[0])) for network in (student, teacher))
    torch.testing.assert_close(terms["hint"], (step.matches[0].connector(mine) - its).square().mean())


def test_matches_of_one_name_are_added_up(batch):
    student, teacher = Tiny().eval(), Tiny(6, seed=2).eval()
    layers = ("conv", "bn")
    each = [Match("shape", spectral_shape_loss, layer, layer) for layer in layers]
    wanted = [
        spectral_shape_loss(*(network.conv(batch[0]) for network in (student, teacher))),
        spectral_shape_loss(*(network.bn(network.conv(batch[0])) for network in (student, teacher))),
    ]
    terms = FeatureMatching(CrossEntropy(), each)(student, teacher, *batch)[1]
    torch.testing.assert_close(terms["shape"], sum(wanted))
    each[1].name = "other"
    apart = FeatureMatching(CrossEntropy(), each)(student, teacher, *batch)[1]
    torch.testing.assert_close([apart["shape"], apart["other"]], wanted)


@pytest.mark.parametrize(("base", "recorded"), [(CrossEntropy(), False), (SoftTargets(), True)])
def test_a_teacher_is_asked_once(batch, base, recorded):
    student, teacher = Tiny(), Asked()
    matching(base)(student, teacher, *batch)
    # What learns from labels alone does not ask it, so the step does, and records nothing.
    assert teacher.recorded == [recorded]


@pytest.mark.parametrize("base", [CrossEntropy(), SoftTargets()])
def test_the_gradient_reaches_student_and_connector_and_never_the_teacher(batch, base):
    student, teacher = Tiny(), Tiny(6, seed=2)
    step = matching(base)
    step(student, teacher, *batch)[1]["hint"].backward()
    assert all(p.grad.abs().sum() > 0 for p in (*step.parameters(), student.conv.weight, student.bn.weight))
    assert all(p.grad is None for p in (*teacher.parameters(), *student.fc.parameters()))


def test_what_cannot_be_matched_is_said_in_a_sentence(data, batch):
    student, teacher = Tiny(), Tiny(6, seed=2)
    with pytest.raises(ValueError, match="there is nothing to match; use the base step alone"):
        FeatureMatching(CrossEntropy(), [])
    with pytest.raises(ValueError, match=r"features to match come from a teacher; pass teacher="):
        matching()(student, None, *batch)
    clash = FeatureMatching(SoftTargets(), [Match("soft targets", spectral_shape_loss, "bn", "bn")])
    with pytest.raises(ValueError, match="the base step has a term 'soft targets' of its own; name the matches other"):
        clash(student, teacher, *batch)
    with pytest.raises(ValueError, match="no layer 'layer1'"):
        train(student, data, QUICK, teacher=teacher, step=matching(student="layer1"))
    with pytest.raises(ValueError, match="no layer 'layer2'"):
        train(student, data, QUICK, teacher=teacher, step=matching(teacher="layer2"))
    assert hooks_of(student) == hooks_of(teacher) == 0


def warm(student, teacher, images, labels):
    return SoftTargets(8.0)(student, teacher, images, labels)


def test_a_step_tells_losses_with_settings_layers_and_connector():
    whitened = partial(whitened_spectral_loss, alpha=1.5, balance="octave")
    step = FeatureMatching(
        SoftTargets(), [Match("shape", spectral_shape_loss, "layer1", "layer2"), *matching(loss=whitened).matches]
    )
    assert (
        repr(step)
        == described(step)
        == (
            "SoftTargets(temperature=4) + [shape: spectral_shape_loss on layer1 and layer2] + [hint: "
            "whitened_spectral_loss with alpha=1.5, balance='octave' on bn through Connector(4, 6) and bn]"
        )
    )
    # A base that is a function is told by its source, and not by where it lies in memory.
    assert repr(matching(warm)).startswith(f"{described(warm)} + [hint")
    assert "0x" not in repr(matching(warm))


def test_what_is_no_function_of_python_is_told_by_its_name():
    assert described(torch.ones(1).sub) == "sub"
    assert described(F.mse_loss).startswith("mse_loss, source ")
    assert described(hint_loss) == "hint_loss"


# --- through a training --------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_connector_is_trained_with_the_student(data, precision):
    step = matching(SoftTargets())
    before = tensors(step)
    recipe = replace(QUICK, epochs=6, precision=precision)
    run = train(Tiny(), data, recipe, teacher=Tiny(6, seed=2), step=step, weights={"hint": 2.0})
    assert not same(tensors(step), before)
    assert run.curves["hint"][-1] < 0.8 * run.curves["hint"][0]
    assert run.method == repr(step)


def test_a_connector_is_checkpointed_and_the_run_goes_on_to_the_very_tensors(data, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)

    def go(name: str, callback: Callable | None = None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        step = matching(SoftTargets())
        options = {"teacher": Tiny(6, seed=2), "step": step, "weights": {"hint": 0.5}, "folder": tmp_path / name}
        run = train(Tiny(), data, QUICK, callback=callback, **options)
        return tensors(run.network), tensors(step)

    student, connector = go("unbroken")
    with pytest.raises(KeyboardInterrupt, match="in epoch 2"):
        go("broken", InterruptedAt(7))
    kept = torch.load(tmp_path / "broken" / "checkpoint.pt", weights_only=True)["trained"]
    halfway = [kept[f"1.matches.0.connector.{name}"] for name in ("weight", "bias")]
    assert not same(halfway, tensors(matching()))
    assert not same(halfway, connector)
    again = go("broken")
    assert same(again[0], student)
    assert same(again[1], connector)
    assert same(go("broken")[1], connector)  # read from the folder of a finished run


@pytest.mark.parametrize(
    ("differs", "changes", "weights"),
    [
        ("method", {"loss": partial(whitened_spectral_loss, alpha=1.25)}, {"hint": 1.0}),
        ("method", {"loss": hint_loss}, {"hint": 1.0}),
        ("method", {"student": "conv"}, {"hint": 1.0}),
        ("method", {"teacher": "conv"}, {"hint": 1.0}),
        ("method", {"connector": nn.Conv2d(4, 6, 1)}, {"hint": 1.0}),
        ("weights", {}, {"hint": 2.0}),
    ],
)
def test_another_alpha_weight_or_layer_makes_another_run(data, tmp_path, differs, changes, weights):
    usual = {"loss": partial(whitened_spectral_loss, alpha=1.5)}
    teacher = Tiny(6, seed=2)
    options = {"teacher": teacher, "folder": tmp_path}
    run = train(Tiny(), data, QUICK, step=matching(**usual), weights={"hint": 1.0}, **options)
    assert train(Tiny(), data, QUICK, step=matching(**usual), weights={"hint": 1.0}, **options) == run
    with pytest.raises(ValueError, match=f"holds another run, which differs in {differs};"):
        train(Tiny(), data, QUICK, step=matching(**usual | changes), weights=weights, **options)
