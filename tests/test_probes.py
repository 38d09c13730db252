"""Learned features: the task of quarter turns, linear probes, and what a grid's students are found to have learned."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from threads import one_thread as one_thread  # a fixture
from torch import nn
from torch.testing import assert_close

from spectralkd_nb.__main__ import main
from spectralkd_nb.datasets import LabelledImages, open_dataset, rotated
from spectralkd_nb.distillation import linear_probe
from spectralkd_nb.distillation.probes import PENALTIES, Classifier, linear_probes
from spectralkd_nb.experiments import planned_runs, run_grid
from spectralkd_nb.experiments.features import COMPARED, PROBED, grid_discrepancies, grid_probes
from spectralkd_nb.experiments.kept import fewer
from spectralkd_nb.losses.selectivity import nst_loss
from spectralkd_nb.networks import build, load_weights, reestimate_batch_norm
from spectralkd_nb.networks.features import collected, in_eval_mode

Grid = dict[str, Any]
LAYERS = ["layer1", "layer3"]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noise_images(count: int, size: int = 4, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    return pixels.contiguous(memory_format=torch.channels_last)


def noise_data(train: int = 12, test: int = 6, size: int = 4, classes: int = 3) -> LabelledImages:
    return LabelledImages(
        *("noise", noise_images(train, size), torch.arange(train) % classes),
        *(noise_images(test, size, seed=1), torch.arange(test) % classes),
        tuple(map(str, range(classes))),
    )


def painted(train: torch.Tensor, test: torch.Tensor, labels: torch.Tensor, test_labels: torch.Tensor) -> LabelledImages:
    """Images of 4 x 4 pixels of one colour, (N, 3) bytes; so many classes as the labels have."""
    images = (colours.to(torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4) for colours in (train, test))
    train_images, test_images = (part.contiguous(memory_format=torch.channels_last) for part in images)
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return LabelledImages("painted", train_images, labels, test_images, test_labels, classes)


class Layers(nn.Module):
    """Whatever layers, one after the other, by name."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x = layer(x)
        return x


class Function(nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


def small() -> Layers:
    torch.manual_seed(0)
    return Layers(conv=nn.Conv2d(3, 6, 3, padding=1), norm=nn.BatchNorm2d(6), relu=nn.ReLU(), drop=nn.Dropout(0.5))


# --- which way is up -----------------------------------------------------------------------------


def test_every_image_is_turned_by_each_quarter_counter_clockwise():
    data = noise_data()
    turned = rotated(data)
    for images, labels, before in (
        (turned.train_images, turned.train_labels, data.train_images),
        (turned.test_images, turned.test_labels, data.test_images),
    ):
        assert len(images) == len(labels) == 4 * len(before)
        assert labels.bincount().tolist() == [len(before)] * 4
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        for place, (image, turns) in enumerate(zip(images, labels.tolist(), strict=True)):
            expected = np.rot90(before[place % len(before)].numpy(), turns, (1, 2))
            assert np.array_equal(image.numpy(), expected)
    assert turned.classes == ("0", "90", "180", "270")
    assert (turned.name, turned.flip, turned.pad) == ("noise, rotated", False, data.pad)
    corner = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    corner[..., 0, 1] = 9  # top right; a quarter turn counter-clockwise brings it to the top left
    assert rotated(replace(data, test_images=corner, test_labels=torch.zeros(1))).test_images[1, 0].tolist() == [
        [9, 0],
        [0, 0],
    ]


@pytest.mark.parametrize("groups", [None, torch.arange(12) // 3 + 7])
def test_turned_copies_of_images_that_share_pixels_stay_together(groups):
    data = replace(noise_data(), groups=groups)
    turned = rotated(data)
    own = torch.arange(12) if groups is None else groups
    assert turned.groups.tolist() == own.tolist() * 4
    part = turned.held_out(4)
    held = set(turned.groups.tolist()) - set(part.groups.tolist())
    assert len(part.test_labels) == 4 * sum(int(group) in held for group in own)
    assert part.test_labels.bincount().unique().numel() == 1


def test_images_that_are_not_square_cannot_be_turned():
    data = noise_data()
    wide = torch.zeros(6, 3, 4, 5, dtype=torch.uint8)
    for changed in ({"test_images": wide}, {"train_images": wide, "train_labels": torch.zeros(6)}):
        with pytest.raises(ValueError, match="of noise have 4 x 5 pixels, and a quarter turn makes them 5 x 4; give"):
            rotated(replace(data, **changed))


# --- the classifier ------------------------------------------------------------------------------


def objective(flat: np.ndarray, rows: np.ndarray, labels: np.ndarray, classes: int, penalty: float) -> float:
    """The penalised loss by its definition."""
    weight = flat.reshape(-1, classes)
    chances = log_softmax(rows @ weight[:-1] + weight[-1], 1)
    return -chances[np.arange(len(labels)), labels].mean() + penalty / 2 * (weight[:-1] ** 2).sum()


@pytest.mark.parametrize("penalty", [1e-3, 0.1])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_classifier_is_where_another_solver_finds_the_least_loss(penalty, classes):
    features = drawn(80, 5) @ drawn(5, 5, seed=1) + 10  # correlated
    labels = ((features - 10) @ drawn(5, classes, seed=2) + drawn(80, classes, seed=3)).argmax(1)
    assert labels.bincount().min() > 5
    found = Classifier.fitted(features, labels, classes, penalty)
    values = features.numpy()
    rows = (values - values.mean(0)) / values.std(0)
    told = rows, labels.numpy(), classes, penalty
    other = minimize(objective, np.zeros(6 * classes), told, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-8})
    mine = found.weight.numpy()
    assert objective(mine, *told) == pytest.approx(other.fun, abs=1e-8)
    weights = other.x.reshape(-1, classes)
    assert np.abs(mine[:-1] - weights[:-1]).max() < 0.01
    assert np.abs(mine[-1] - weights[-1]).max() < 0.01  # both begin at zeros, where constants add up to 0
    right = ((rows @ weights[:-1] + weights[-1]).argmax(1) == labels.numpy()).mean()
    assert found.accuracy(features, labels) == pytest.approx(100 * right)


def test_the_constant_is_not_shrunk():
    labels = torch.tensor([0] * 90 + [1] * 10)
    found = Classifier.fitted(drawn(100, 2), labels, 2, penalty=1e6)
    assert found.weight[:-1].abs().max() < 1e-6
    chances = found.weight[-1].softmax(0)
    assert_close(chances, torch.tensor([0.9, 0.1], dtype=torch.float64), atol=1e-4, rtol=0)


def test_constant_features_are_0_and_change_nothing():
    features, labels = drawn(60, 3), torch.arange(60) % 3
    features[:, 0] += labels
    rounding = 5 + 1e-7 * drawn(60, 1, seed=1)  # what float32 leaves of a constant
    dead = torch.cat([torch.zeros(60, 1), features, torch.full((60, 1), 3.0), rounding], 1).double()
    less, more = (Classifier.fitted(these, labels, 3, 1e-2) for these in (features, dead))
    assert more.scale[[0, 4, 5]].tolist() == [0, 0, 0]
    assert_close(more.weight[[1, 2, 3, 6]], less.weight, atol=1e-3, rtol=0)
    assert more.weight[[0, 4, 5]].abs().max() < 1e-9
    assert more.accuracy(dead, labels) == less.accuracy(features, labels)
    faint = Classifier.fitted(1e-9 * features, labels, 3, 1e-2)  # not constant, however small
    assert_close(faint.weight, less.weight, atol=1e-3, rtol=0)


# --- linear probes -------------------------------------------------------------------------------


def test_classes_that_a_line_divides_are_all_told():
    labels = torch.arange(80) % 2
    colours = torch.randint(50, (80, 3), generator=torch.Generator().manual_seed(0))
    colours[:, 1] += 150 * labels
    data = painted(colours[:48], colours[48:], labels[:48], labels[48:])
    probe = linear_probe(small(), data, "norm")
    assert (probe.layer, probe.features) == ("norm", 6)
    assert (probe.accuracy, probe.train_accuracy) == (100, 100)
    assert probe.penalty == max(PENALTIES)  # all of them tell all: the largest


def test_labels_that_follow_from_nothing_are_told_by_chance():
    data = noise_data(400, 1000, classes=4)
    labels = torch.randint(4, (1400,), generator=torch.Generator().manual_seed(3))
    probe = linear_probe(small(), replace(data, train_labels=labels[:400], test_labels=labels[400:]), "relu")
    assert probe.accuracy == pytest.approx(25, abs=4)


def test_features_that_tell_nothing_leave_the_most_frequent_class():
    data = replace(noise_data(), train_labels=torch.tensor([1] * 8 + [0] * 4), classes=("a", "b", "c"))
    probe = linear_probe(Layers(dead=Function(torch.zeros_like)), data, "dead", penalties=[0.1])
    assert probe.train_accuracy == pytest.approx(100 * 8 / 12)
    assert probe.accuracy == pytest.approx(100 * 2 / 6)


def test_a_probe_reads_the_mean_over_space_as_it_is_and_vectors_too():
    data = noise_data(40, 40)
    network = Layers(maps=nn.Identity(), mean=Function(lambda x: x.mean((2, 3))))
    maps, vectors = linear_probes(network, data, ["maps", "mean"])
    assert maps == replace(vectors, layer="maps")
    assert maps.features == 3
    features = data.normalise(data.train_images).double().mean((2, 3))
    found = Classifier.fitted(features, data.train_labels, 3, maps.penalty)
    tested = data.normalise(data.test_images).double().mean((2, 3))
    assert maps.train_accuracy == pytest.approx(found.accuracy(features, data.train_labels))
    assert maps.accuracy == pytest.approx(found.accuracy(tested, data.test_labels))


def test_images_are_normalised_as_the_network_is_used_to():
    data, other = noise_data(40, 40), noise_data(40, 40)
    network = Layers(rectified=Function(lambda x: (x - 0.5).relu()))
    assert linear_probe(network, data, "rectified") == linear_probe(
        network, data, "rectified", normalise=data.normalise
    )
    dark = replace(other, train_images=other.train_images // 8)
    for task, mine in ((data, dark.normalise), (data, lambda images: 0 * images.float())):
        images = mine(task.train_images)
        found = Classifier.fitted((images - 0.5).relu().double().mean((2, 3)), task.train_labels, 3, 1e-3)
        probe = linear_probe(network, task, "rectified", penalties=[1e-3], normalise=mine)
        tested = (mine(task.test_images) - 0.5).relu().double().mean((2, 3))
        assert probe.accuracy == pytest.approx(found.accuracy(tested, task.test_labels))


def test_the_penalty_is_chosen_on_images_that_share_no_pixels_with_the_others():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (80,), generator=generator)
    each = torch.randint(200, (80, 3), generator=generator)
    each[:, 0] = each[:, 0] // 2 + 50 * labels  # red tells something; green and blue tell images apart
    each, labels = each.repeat_interleave(2, 0), labels.repeat_interleave(2)  # every image twice
    data = painted(each, each, labels, labels)
    weight = torch.randn(2, 60, generator=generator)
    network = Layers(many=Function(lambda x: torch.cat([x[:, :1, 0, 0], (3 * x[:, 1:, 0, 0] @ weight).sin()], 1)))
    penalties = (1e-4, 1.0)
    apart = linear_probe(network, data, "many", penalties=penalties)
    together = linear_probe(network, replace(data, groups=torch.arange(160) // 2), "many", penalties=penalties)
    assert apart.penalty == 1e-4  # learning by heart serves the twins
    assert together.penalty == 1.0
    assert apart.train_accuracy > together.train_accuracy


def test_a_single_penalty_is_taken_and_nothing_held_out():
    data = noise_data(6, 6)  # two of each class: nothing to hold out one in four of
    assert linear_probe(small(), data, "norm", penalties=[0.5]).penalty == 0.5
    with pytest.raises(ValueError, match="no class has 4 training images, so none would be held out"):
        linear_probe(small(), data, "norm")


def test_a_network_is_left_as_it_was():
    network, data = small().train(), noise_data(40, 20)
    network.norm.eval()
    network.conv.weight.grad = torch.ones_like(network.conv.weight)
    network.norm.weight.requires_grad_(False)
    network.add_module("random", Function(lambda x: x + torch.rand(x.shape)))  # also in eval mode
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(7)
    linear_probe(network, data, "norm")
    draw = torch.rand(4)
    torch.manual_seed(7)
    assert torch.equal(draw, torch.rand(4))
    assert [module.training for module in (network, *network.children())] == [True, True, False, True, True, True]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(network.conv.weight.grad, torch.ones_like(network.conv.weight))
    assert [p.requires_grad for p in network.parameters()] == [True, True, False, True]
    assert network.norm.weight.grad is None
    assert not network.norm._forward_hooks


def test_the_network_is_asked_in_eval_mode():
    network, data = small().train(), noise_data(40, 20)
    assert linear_probe(network, data, "drop") == linear_probe(network.eval(), data, "drop")


def test_batches_and_the_callers_mode_do_not_matter_and_a_probe_is_the_same_every_time():
    network, data = small(), noise_data(40, 21)
    usual = linear_probe(network, data, "relu")
    assert linear_probe(network, data, "relu") == usual
    assert linear_probe(network, data, "relu", batch_size=7) == usual
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert linear_probe(network, data, "relu") == usual


def test_of_several_layers_each_has_the_probe_that_it_has_alone():
    network, data = small(), noise_data(40, 20)
    together = linear_probes(network, data, ["relu", "conv"])
    assert together == [linear_probe(network, data, layer) for layer in ("relu", "conv")]


@pytest.mark.parametrize(
    ("layer", "options", "sentence"),
    [
        ("layer9", {}, "the network has no layer 'layer9'; the nearest are"),
        ("tokens", {}, r"layer 'tokens' returns \(12, 3, 16\), and features are \(B, C\) or maps"),
        ("broken", {}, "layer 'broken' returns numbers that are not finite"),
        ("maps", {"penalties": []}, r"penalties=\[\]; give one or more finite numbers above 0"),
        *(("maps", {"penalties": [1.0, bad]}, "finite numbers above 0") for bad in (0, -1, float("inf"), float("nan"))),
    ],
)
def test_what_cannot_be_probed_is_refused_in_a_sentence(layer, options, sentence):
    network = Layers(
        maps=nn.Identity(),
        broken=Function(lambda x: x / 0 if x.ndim == 4 else x),
        tokens=Function(lambda x: x.flatten(2)),
    )
    with pytest.raises(ValueError, match=sentence):
        linear_probe(network, noise_data(), layer, **options)


# --- grids ---------------------------------------------------------------------------------------

TOML = """
seeds = [0, 1]
keep_epochs = [1]

[[pairs]]
student = "vgg8x0.0625"
teacher = "vgg8x0.125"
teacher_weights = "{place}/teacher.pt"

[protocols.quick]
data = "{place}/shades.npz"
epochs = 1
batch_size = 16
augment = false

[methods.alone]
"cross-entropy" = 1

[methods.KD]
"soft targets" = {{ temperature = 2.0, weight = 0.9 }}
"cross-entropy" = 0.1
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A data set of two shades in much noise, another of four, two teachers that have learned nothing, and a grid."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    for name, classes, steps in (("shades", 2, 12), ("tones", 4, 30)):
        arrays: dict[str, np.ndarray] = {"classes": np.array([f"shade {number}" for number in range(classes)])}
        for part, count in (("train", 40), ("test", 24)):
            labels = np.arange(count) % classes
            shade = 90 + steps * labels[:, None, None, None] + 40 * rng.standard_normal((count, 16, 16, 3))
            arrays |= {f"{part}_images": shade.clip(0, 255).astype(np.uint8), f"{part}_labels": labels}
        np.savez(place / f"{name}.npz", **arrays)
    for name, seed in (("teacher", 5), ("other", 6)):
        torch.save(build("vgg8x0.125", 2, seed=seed).state_dict(), place / f"{name}.pt")
    (place / "grid.toml").write_text(TOML.format(place=place))
    return place


@pytest.fixture(scope="module")
def grid(place) -> Path:
    return place / "grid.toml"


@pytest.fixture(scope="module")
def store(grid, tmp_path_factory) -> Path:
    """Four finished runs. Not to be written to."""
    store = tmp_path_factory.mktemp("store")
    assert (run_grid(grid, store)["state"] == "finished").all()
    return store


@pytest.fixture(scope="module")
def shades(place) -> LabelledImages:
    return open_dataset(place / "shades.npz")


@pytest.fixture(scope="module")
def tones(place) -> LabelledImages:
    return open_dataset(place / "tones.npz")


@pytest.fixture(scope="module")
def networks(place, grid, store, shades) -> dict[tuple[str, int | None], nn.Module]:
    """By method and seed, each network that is measured."""
    found: dict[tuple[str, int | None], nn.Module] = {
        ("teacher", None): load_weights(build("vgg8x0.125", 2), place / "teacher.pt")
    }
    for plan in planned_runs(grid):
        file = store / plan.folder / "epoch_001.safetensors"
        found[plan.method, plan.seed] = load_weights(build("vgg8x0.0625", 2), file)
        untrained = build("vgg8x0.0625", 2, seed=plan.seed)
        found["untrained", plan.seed] = reestimate_batch_norm(untrained, shades.normalise(shades.test_images))
    return found


def two_pairs(place: Path) -> Grid:
    """The grid, with a second teacher from whom no run is finished, and the first pair twice."""
    given = {"student": "vgg8x0.0625"}
    first = {**given, "teacher": "vgg8x0.125", "teacher_weights": f"{place}/teacher.pt"}
    second = {**given, "teacher": "vgg8x0.5", "teacher_weights": f"{place}/wide.pt"}
    torch.save(build("vgg8x0.5", 2, seed=6).state_dict(), place / "wide.pt")
    protocol = {"data": f"{place}/shades.npz", "epochs": 1, "batch_size": 16, "augment": False}
    methods = {
        "alone": {"cross-entropy": 1},
        "KD": {"soft targets": {"temperature": 2.0, "weight": 0.9}, "cross-entropy": 0.1},
    }
    return {
        "seeds": [0, 1],
        "keep_epochs": [1],
        "pairs": [first, second, first],
        "protocols": {"quick": protocol},
        "methods": methods,
    }


def whose(row: Any) -> tuple[str, int | None]:
    return row.method, None if pd.isna(row.seed) else int(row.seed)


ORDER = [
    ("teacher", None),
    *(("untrained", 0), ("alone", 0), ("KD", 0)),
    *(("untrained", 1), ("alone", 1), ("KD", 1)),
]


def test_students_untrained_ones_and_teachers_are_probed_on_which_way_is_up(grid, store, shades, networks):
    table = grid_probes(grid, store, LAYERS)
    assert list(table.columns) == PROBED
    assert [(whose(row), row.layer) for row in table.itertuples()] == [(one, lay) for one in ORDER for lay in LAYERS]
    for row in table.itertuples():
        probe = linear_probe(networks[whose(row)], rotated(shades), row.layer, normalise=shades.normalise)
        told = (row.features, row.accuracy, row.train_accuracy)
        assert told == (probe.features, probe.accuracy, probe.train_accuracy)
        names = {"teacher": (None, "vgg8x0.125"), "KD": ("vgg8x0.0625", "vgg8x0.125")}
        named = tuple(None if pd.isna(name) else name for name in (row.student, row.teacher))
        assert named == names.get(row.method, ("vgg8x0.0625", None))
        assert (row.protocol, row.task) == ("quick", "shades, rotated")
    assert table["accuracy"].nunique() > 3


def test_another_task_is_normalised_as_the_students_are_used_to(grid, store, shades, tones, networks):
    table = grid_probes(grid, store, ["layer3"], data=tones, train_images=30)
    assert [whose(row) for row in table.itertuples()] == ORDER
    task, otherwise = fewer(tones, 30), 0
    assert len(task.train_labels) == 30
    for row in table.itertuples():
        probe = linear_probe(networks[whose(row)], task, "layer3", normalise=shades.normalise)
        assert (row.task, row.accuracy, row.train_accuracy) == ("tones", probe.accuracy, probe.train_accuracy)
        own = linear_probe(networks[whose(row)], task, "layer3")
        otherwise += (own.accuracy, own.train_accuracy) != (row.accuracy, row.train_accuracy)
    assert otherwise > 0


def test_what_methods_share_is_measured_once(grid, store, monkeypatch):
    probed = []

    def noted(network: nn.Module, *arguments: Any, **options: Any) -> Any:
        probed.append(network)
        return linear_probes(network, *arguments, **options)

    monkeypatch.setattr("spectralkd_nb.experiments.features.linear_probes", noted)
    grid_probes(grid, store, ["layer1", "layer2"], train_images=40)
    assert len(probed) == 1 + 2 + 4


def maps_of(network: nn.Module, images: torch.Tensor, layer: str) -> torch.Tensor:
    with torch.no_grad(), in_eval_mode(network), collected(network, [layer]) as seen:
        network(images)
    return seen[layer]


def test_channels_are_compared_with_those_of_the_teacher(grid, store, shades, networks):
    table = grid_discrepancies(grid, store, LAYERS)
    assert list(table.columns) == COMPARED
    kernels = ("linear", "poly", "gaussian")
    told = [(whose(row), row.layer, row.kernel) for row in table.itertuples()]
    assert told == [(one, layer, kernel) for one in ORDER[1:] for layer in LAYERS for kernel in kernels]
    images = shades.normalise(shades.test_images)
    for row in table.itertuples():
        maps = (maps_of(networks[one], images, row.layer) for one in (whose(row), ORDER[0]))
        assert row.discrepancy == pytest.approx(float(nst_loss(*maps, row.kernel)), rel=1e-4)
        assert (row.student, row.teacher, row.protocol) == ("vgg8x0.0625", "vgg8x0.125", "quick")
    assert (table["discrepancy"] > 0).all()
    assert table["discrepancy"].nunique() == len(table)


def test_students_alone_are_compared_with_every_teacher_of_theirs(place, store):
    grid = two_pairs(place)
    grid["methods"] = dict(reversed(grid["methods"].items()))  # before the first KD they are untrained all the same
    table = grid_discrepancies(grid, store, ["layer1"])
    told = table.groupby("method")["teacher"].agg(lambda names: sorted(set(names)))
    both = ["vgg8x0.125", "vgg8x0.5"]
    assert told.to_dict() == {"KD": both[:1], "alone": both, "untrained": both}
    assert not table.duplicated(["teacher", "method", "seed", "kernel"]).any()
    assert len(table) == 2 * 3 * (1 + 2 + 2)
    linear = table[table["kernel"] == "linear"]
    assert linear["discrepancy"].nunique() == len(linear)
    probes = grid_probes(grid, store, ["layer1"], train_images=40)
    assert probes[probes["method"] == "teacher"]["teacher"].tolist() == both
    assert len(probes) == 2 + 2 * 3


def test_each_protocol_has_its_own_images(place, shades, tmp_path):
    grid = two_pairs(place) | {"seeds": [0]}
    grid["pairs"] = grid["pairs"][:1]
    del grid["methods"]["alone"]
    grid["protocols"]["held"] = {**grid["protocols"]["quick"], "held_out": 5}
    run_grid(grid, tmp_path)
    probes, distances = grid_probes(grid, tmp_path, ["layer1"]), grid_discrepancies(grid, tmp_path, ["layer1"])
    assert len(probes) == 2 * 3
    assert len(distances) == 2 * 2 * 3
    teacher = load_weights(build("vgg8x0.125", 2), place / "teacher.pt")
    for protocol, own in (("quick", shades), ("held", shades.held_out(5))):
        (found,) = probes[(probes["protocol"] == protocol) & (probes["method"] == "teacher")].itertuples()
        probe = linear_probe(teacher, rotated(own), "layer1", normalise=own.normalise)
        assert (found.task, found.accuracy) == (f"{own.name}, rotated", probe.accuracy)
        (plan,) = (plan for plan in planned_runs(grid) if plan.protocol == protocol)
        student = load_weights(build("vgg8x0.0625", 2), tmp_path / plan.folder / "epoch_001.safetensors")
        rows = distances[(distances["protocol"] == protocol) & (distances["method"] == "KD")]
        maps = (maps_of(network, own.normalise(own.test_images), "layer1") for network in (student, teacher))
        assert rows["discrepancy"].iloc[0] == pytest.approx(float(nst_loss(*maps, "linear")), rel=1e-4)


@pytest.mark.parametrize("measure", [grid_probes, grid_discrepancies])
def test_a_student_without_any_teacher_is_refused(place, store, measure):
    grid = two_pairs(place)
    del grid["methods"]["KD"]
    grid["pairs"] = [{"student": "vgg8x0.0625"}, {"student": "resnet8", "teacher": "vgg8x0.125"}]
    with pytest.raises(ValueError, match=r"no pair of the grid has a teacher for 'vgg8x0\.0625'; name one to compare"):
        measure(grid, store, ["layer1"])


@pytest.mark.parametrize("measure", [grid_probes, grid_discrepancies])
def test_runs_without_their_epochs_are_refused(place, store, tmp_path, measure):
    copied, grid = shutil.copytree(store, tmp_path / "store"), two_pairs(place)
    plan = next(plan for plan in planned_runs(place / "grid.toml") if (plan.method, plan.seed) == ("KD", 1))
    (copied / plan.folder / "epoch_001.safetensors").unlink()
    sentence = f"the run in .*{plan.folder} did not keep epoch 1; delete it and run the grid again"
    with pytest.raises(ValueError, match=sentence):
        measure(place / "grid.toml", copied, ["layer1"])
    del grid["keep_epochs"]
    with pytest.raises(ValueError, match=f"the run in .*{plan.folder} kept no epochs; train it again"):
        measure(grid, copied, ["layer1"])


@pytest.mark.parametrize("measure", [grid_probes, grid_discrepancies])
def test_a_layer_that_the_networks_lack_is_named(grid, store, measure):
    with pytest.raises(ValueError, match="the network has no layer 'layer9'; the nearest are"):
        measure(grid, store, ["layer9"])


@pytest.mark.parametrize(("measure", "columns"), [(grid_probes, PROBED), (grid_discrepancies, COMPARED)])
def test_a_store_without_finished_runs_has_an_empty_table(grid, tmp_path, measure, columns):
    table = measure(grid, tmp_path, ["layer1"])
    assert (len(table), list(table.columns)) == (0, columns)


@pytest.mark.parametrize("labels", [torch.arange(12) % 3, torch.arange(12) // 4])
def test_fewer_images_are_spread_evenly_over_classes_and_over_each(labels):
    data = replace(noise_data(), train_labels=labels, groups=torch.arange(12) + 5)
    part = fewer(data, 6)
    assert part.train_labels.bincount().tolist() == [2, 2, 2]
    numbers = part.groups - 5
    assert numbers.tolist() == sorted(numbers.tolist())
    assert torch.equal(part.train_images, data.train_images[numbers])
    assert torch.equal(part.train_labels, data.train_labels[numbers])
    assert part.train_images.is_contiguous(memory_format=torch.channels_last)
    for label in range(3):  # the first and the third of each four
        assert numbers[part.train_labels == label].tolist() == (labels == label).nonzero()[[0, 2], 0].tolist()
    assert fewer(data, 12) is fewer(data, 99) is fewer(data, None) is data
    assert fewer(replace(data, groups=None), 5).groups is None
    with pytest.raises(ValueError, match="train_images=0 would leave nothing to fit to; give 1 or more"):
        fewer(data, 0)


# --- commands ------------------------------------------------------------------------------------


def test_probes_are_written_by_a_command(place, grid, store, tones, tmp_path, capsys):
    out = tmp_path / "results" / "probes.csv"
    command = ["grid-probes", str(grid), str(store), str(out), "--layers", *LAYERS]
    main([*command, "--data", str(place / "tones.npz"), "--train-images", "30"])
    assert f"14 probes fitted -> {out}" in capsys.readouterr().out
    expected = grid_probes(grid, store, LAYERS, tones, 30)
    written = pd.read_csv(out)
    pd.testing.assert_frame_equal(written, expected, check_dtype=False, rtol=1e-5)
    assert {len(line.split(",")[4]) for line in out.read_text().splitlines()[1:]} == {0, 1}  # seeds are whole
    main([*command[:-1], "--train-images", "40"])
    assert set(pd.read_csv(out)["task"]) == {"shades, rotated"}


def test_discrepancies_are_written_by_a_command(grid, store, tmp_path, capsys):
    out = tmp_path / "results" / "distances.csv"
    main(["grid-discrepancies", str(grid), str(store), str(out), "--layers", "layer1"])
    assert f"18 discrepancies measured -> {out}" in capsys.readouterr().out
    expected = grid_discrepancies(grid, store, ["layer1"])
    pd.testing.assert_frame_equal(pd.read_csv(out), expected, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize("command", ["grid-probes", "grid-discrepancies", "grid-spectra"])
@pytest.mark.parametrize("out", ["taken", "file/out.csv"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    grid, store, tmp_path, monkeypatch, capsys, command, out
):
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("grid_probes", "grid_discrepancies", "grid_spectra"):
        monkeypatch.setattr(f"spectralkd_nb.__main__.{name}", None)
    with pytest.raises(SystemExit) as exit_code:
        main([command, str(grid), str(store), str(tmp_path / out), "--layers", "layer1"])
    assert exit_code.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("python -m spectralkd_nb: ")
    assert said.count("\n") == 1
    assert str(tmp_path / out.split("/")[0]) in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layers", "layer9"], "the network has no layer 'layer9'"),
        (["--layers", "layer1", "--data", "imagenet"], "there is no data set 'imagenet'"),
        (["--layers", "layer1", "--train-images", "0"], "train_images=0 would leave nothing to fit to"),
    ],
)
def test_a_wrong_command_is_one_sentence_and_leaves_the_old_file(grid, store, tmp_path, capsys, options, sentence):
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(SystemExit) as exit_code:
        main(["grid-probes", str(grid), str(store), str(out), *options])
    assert exit_code.value.code == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1
    assert out.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv"]


@pytest.mark.parametrize("command", ["grid-probes", "grid-discrepancies", "grid-spectra"])
def test_a_store_without_finished_runs_overwrites_nothing_and_missing_runs_are_told(
    grid, store, tmp_path, capsys, command
):
    out = tmp_path / "out.csv"
    out.write_text("old")
    with pytest.raises(SystemExit) as exit_code:
        main([command, str(grid), str(tmp_path / "stroe"), str(out), "--layers", "layer1"])
    assert exit_code.value.code == 1
    assert "stroe holds no finished run of" in capsys.readouterr().err
    assert out.read_text() == "old"
    part = tmp_path / "part"
    first = planned_runs(grid)[0].folder
    shutil.copytree(store / first, part / first)
    main([command, str(grid), str(part), str(out), "--layers", "layer1"])
    assert "1 of 4 runs are finished" in capsys.readouterr().out
    assert out.read_text() != "old"
