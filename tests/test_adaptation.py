"""Adapted teachers: what stands in for a block, who learns from which term, what is kept, and what came of it."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from test_distillation import QUICK, InterruptedAt, Tiny, same, stripes, tensors
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from spectralkd_nb.adaptation import (
    AdaptedTeacher,
    AdaptiveModule,
    describe_target,
    effective_channels,
    mismatch,
    pointwise_fit,
)
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import AdaptiveMatching, CrossEntropy, Match, Recipe, SoftTargets, read_run, train
from spectralkd_nb.distillation.features import Connector
from spectralkd_nb.losses import attention_loss, hint_loss, nst_loss, spectral_shape_loss, whitened_spectral_loss
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.networks.features import features_of

LAYERS = ("layer1", "layer2", "layer3")


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return stripes()


@pytest.fixture(scope="module")
def batch(data) -> tuple[torch.Tensor, torch.Tensor]:
    return data.normalise(data.train_images[:16]), data.train_labels[:16]


class Blocks(nn.Module):
    """Three blocks between a stem and an answer; the second is a pointwise map, the third the identity."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.pointwise = nn.Conv2d(6, 8, 1)
        self.same = nn.Identity()
        self.narrow = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.fc = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.narrow(self.same(self.pointwise(self.stem(x)))).mean((2, 3)))


@pytest.fixture
def teacher(batch) -> Blocks:
    """Its batch norms know the images, as those of a trained network do."""
    network = Blocks()
    for _ in range(20):
        network(batch[0])
    return network.eval()


def step_for(teacher: nn.Module, images: torch.Tensor, base: nn.Module | None = None, loss=hint_loss):
    """A step with a hint on the layer behind the replaced block, and the student it is for."""
    torch.manual_seed(1)
    student = Tiny(4, seed=3)
    mine = features_of(student, images, ["bn"])["bn"]
    adapted = AdaptedTeacher(teacher, ["narrow"], images)
    its = adapted.targets(images)["narrow"]
    connector = Connector.between(mine, its)
    return student, AdaptiveMatching(base or CrossEntropy(), [Match("hint", loss, "bn", "narrow", connector)], adapted)


# --- the module ----------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_without_training_a_module_that_can_be_the_block_leaves_the_teacher_its_function(teacher, batch, training):
    adapted = AdaptedTeacher(teacher, ["pointwise", "same"], batch[0]).train(training)
    fresh = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    assert_close(adapted(fresh), teacher(fresh), atol=1e-4, rtol=1e-4)


def test_an_identity_in_the_place_of_a_block_that_does_nothing_changes_nothing_at_all(batch):
    teacher = build("resnet8", 10, seed=1).eval()
    block = teacher.layer1[0]
    nn.init.zeros_(block.bn2.weight)  # relu(x + 0) of an x that is never negative
    adapted = AdaptedTeacher(teacher, ["layer1.0"], batch[0], module=lambda inputs, outputs, seed: nn.Identity())
    assert_close(adapted(batch[0]), teacher(batch[0]), atol=1e-6, rtol=1e-5)  # in another memory layout


def test_what_no_pointwise_map_can_do_is_fitted_by_least_squares(teacher, batch):
    inputs = features_of(teacher, batch[0], ["stem"])["stem"]
    outputs = features_of(teacher, batch[0], ["narrow"])["narrow"]
    module = AdaptiveModule.fitted(inputs, outputs)
    pooled = F.avg_pool2d(inputs, 2)
    weight, bias = pointwise_fit(pooled, outputs)
    columns = torch.cat([pooled, torch.ones_like(pooled[:, :1])], 1).movedim(1, -1).flatten(0, 2).double()
    by_normal_equations = torch.linalg.solve(
        columns.T @ columns, columns.T @ outputs.movedim(1, -1).flatten(0, 2).double()
    )
    assert_close(torch.cat([weight, bias[:, None]], 1), by_normal_equations.T, atol=1e-9, rtol=1e-7)
    expected = F.relu(F.conv2d(pooled.double(), weight[:, :, None, None], bias)).float()
    assert_close(module(inputs), expected, atol=1e-5, rtol=1e-5)
    assert module.shrink == 2
    assert module.rectified  # the block's outputs are


def test_channels_that_are_alike_but_for_rounding_get_no_huge_weights():
    few = torch.randn(8, 3, 16, 16)
    inputs = F.conv2d(few, torch.randn(6, 3, 1, 1))
    outputs = torch.randn(8, 2, 16, 16)
    weight, _ = pointwise_fit(inputs, outputs)
    assert weight.abs().max() < 10
    assert mismatch(inputs, few) < 1e-10


@pytest.mark.parametrize(
    ("before", "after", "shrink", "enlarge"),
    [(8, 8, 1, 1), (8, 4, 2, 1), (9, 5, 2, 1), (7, 4, 2, 1), (8, 2, 4, 1), (4, 8, 1, 2), (8, 1, 8, 1)],
)
def test_shapes_are_inferred(before, after, shrink, enlarge):
    inputs, outputs = torch.randn(2, 3, before, before), torch.randn(2, 5, after, after)
    module = AdaptiveModule.between(inputs, outputs)
    resized = module.resized(inputs)
    if enlarge > 1:  # pixels are repeated
        assert torch.equal(resized[..., ::2, ::2], inputs)
        assert torch.equal(resized[..., 1::2, 1::2], inputs)
    else:  # means of those pixels that there are
        assert_close(resized[0, 0, -1, -1], inputs[0, 0, shrink * (after - 1) :, shrink * (after - 1) :].mean())
    assert (module.shrink, module.enlarge) == (shrink, enlarge)
    assert module(inputs).shape == outputs.shape
    assert not module.rectified


@pytest.mark.parametrize(
    ("inputs", "outputs", "told"),
    [
        ((2, 3, 8, 8), (2, 3, 5, 5), "one side must be a whole number of times the other"),
        ((2, 3, 8, 4), (2, 3, 4, 4), "one side must be a whole number of times the other"),
        ((2, 3), (2, 3), r"a module stands in for a block from maps \(B, C, H, W\) to maps"),
        ((2, 3, 8, 8), (2, 3), r"a module stands in for a block from maps \(B, C, H, W\) to maps"),
    ],
)
def test_blocks_that_no_module_joins_are_refused(inputs, outputs, told):
    with pytest.raises(ValueError, match=told):
        AdaptiveModule.between(torch.randn(inputs), torch.randn(outputs))


def test_the_branch_learns_although_it_begins_at_nothing():
    module = AdaptiveModule.between(torch.randn(8, 4, 6, 6), torch.rand(8, 4, 6, 6))
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    inputs = torch.randn(8, 4, 6, 6)
    for _ in range(3):
        optimiser.zero_grad()
        (module(inputs) - 1).square().mean().backward()
        optimiser.step()
    assert module.branch[-1].weight.abs().min() > 0
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_weights_follow_from_the_seed_and_the_callers_generator_stays_where_it_is():
    inputs, outputs = torch.randn(2, 3, 8, 8), torch.rand(2, 5, 8, 8)
    torch.manual_seed(9)
    state = torch.get_rng_state()
    first, again, other = (AdaptiveModule.between(inputs, outputs, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same(tensors(first), tensors(again))
    assert not same(tensors(first), tensors(other))


# --- the teacher ---------------------------------------------------------------------------------


def test_the_teacher_that_is_adapted_stays_as_it_is(teacher, batch):
    before, names = tensors(teacher), [name for name, _ in teacher.named_modules()]
    adapted = AdaptedTeacher(teacher, ["narrow"], batch[0])
    adapted.train()
    adapted(batch[0]).sum().backward()
    assert same(tensors(teacher), before)
    assert [name for name, _ in teacher.named_modules()] == names
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_frozen_and_adapted_parts_are_apart(teacher, batch):
    adapted = AdaptedTeacher(teacher, ["pointwise", "narrow"], batch[0])
    own = {id(p) for module in adapted.stand_ins for p in module.parameters()}
    assert {id(p) for p in adapted.parameters()} == own
    whole = dict(adapted.network.named_parameters())
    assert all(parameter.requires_grad == (id(parameter) in own) for parameter in whole.values())
    assert all(name.startswith("stand_ins.") for name in adapted.state_dict())
    assert adapted.network.get_submodule("narrow") is adapted.stand_ins[1]


def test_only_the_modules_batch_norms_follow_the_mode(teacher, batch):
    adapted = AdaptedTeacher(teacher, ["narrow"], batch[0])
    assert not adapted.training  # as its teacher
    adapted.train()
    frozen, own = adapted.network.stem[1], adapted.stand_ins[0].branch[1]
    before = frozen.running_mean.clone(), own.running_mean.clone()
    adapted(batch[0] + 1)
    assert torch.equal(frozen.running_mean, before[0])
    assert not torch.equal(own.running_mean, before[1])
    assert (frozen.training, own.training) == (False, True)
    adapted.eval()
    assert not own.training


def test_a_move_takes_the_frozen_part_along(teacher, batch):
    adapted = AdaptedTeacher(teacher, ["narrow"], batch[0]).double()
    assert {tensor.dtype for tensor in adapted.network.state_dict().values()} == {torch.float64, torch.int64}
    assert adapted(batch[0].double()).dtype == torch.float64
    assert adapted.stand_ins[0].pointwise.weight.dtype == torch.float64


def test_a_copy_is_a_whole_one(teacher, batch):
    adapted = AdaptedTeacher(teacher, ["narrow"], batch[0])
    twin = copy.deepcopy(adapted)
    assert twin.network.get_submodule("narrow") is twin.stand_ins[0]
    assert twin.stand_ins[0] is not adapted.stand_ins[0]
    assert torch.equal(twin(batch[0]), adapted(batch[0]))


def test_a_later_module_makes_up_for_an_earlier_one(teacher, batch):
    """It is fitted to the teacher's outputs, given what the modules before it do."""
    both = AdaptedTeacher(teacher, ["stem", "pointwise"], batch[0])
    stem = AdaptedTeacher(teacher, ["stem"], batch[0])
    truth = features_of(teacher, batch[0], ["pointwise"])["pointwise"]
    error = [(network(batch[0])["pointwise"] - truth).square().mean() for network in map(_pointwise_of, (both, stem))]
    assert error[0] < error[1]


def _pointwise_of(adapted: AdaptedTeacher):
    return partial(adapted.targets, paths=["pointwise"])


def test_targets_are_what_the_modules_return_and_carry_their_gradient(teacher, batch):
    adapted = AdaptedTeacher(teacher, ["narrow"], batch[0])
    (target,) = adapted.targets(batch[0]).values()
    assert torch.equal(target, features_of(adapted.network, batch[0], ["narrow"])["narrow"])
    target.sum().backward()
    assert adapted.stand_ins[0].pointwise.weight.grad is not None
    assert list(adapted.targets(batch[0], ["stem", "same"])) == ["stem", "same"]


def test_blocks_are_replaced_in_the_order_of_their_calls(teacher, batch):
    one, other = (AdaptedTeacher(teacher, paths, batch[0]) for paths in (["narrow", "stem"], ["stem", "narrow"]))
    assert one.paths == other.paths == ("stem", "narrow")
    assert same(tensors(one), tensors(other))


def test_a_teacher_in_train_mode_is_frozen_all_the_same(teacher, batch):
    adapted = AdaptedTeacher(teacher.train(), ["narrow"], batch[0])
    assert adapted.training
    before = adapted.network.stem[1].running_mean.clone()
    adapted(batch[0] + 1)
    assert torch.equal(adapted.network.stem[1].running_mean, before)
    teacher.eval()


def test_inputs_of_blocks_that_write_over_them_are_taken_before(batch):
    class InPlace(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.same = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1))

    teacher = InPlace().eval()
    adapted = AdaptedTeacher(teacher, ["same"], batch[0])
    inputs = features_of(teacher, batch[0], ["pointwise"])["pointwise"]
    assert (inputs < 0).any()
    expected = AdaptiveModule.fitted(inputs, teacher.same(inputs.clone()).detach())
    assert_close(adapted.stand_ins[0].pointwise.weight, expected.pointwise.weight, atol=1e-5, rtol=1e-4)


def test_modules_are_brought_to_the_teachers_precision(teacher, batch):
    adapted = AdaptedTeacher(copy.deepcopy(teacher).double(), ["narrow"], batch[0].double())
    assert adapted(batch[0].double()).dtype == torch.float64


def test_maps_of_other_layouts_are_refused():
    class Swapped(Blocks):
        def __init__(self) -> None:
            super().__init__()
            self.same = Permuted()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.narrow(self.same(self.pointwise(self.stem(x))).movedim(-1, 1)).mean((2, 3)))

    class Permuted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.movedim(1, -1)

    with pytest.raises(ValueError, match="block 'same' returns BHWC; a module stands in for a block from maps"):
        AdaptedTeacher(Swapped().eval(), ["same"], torch.randn(2, 3, 16, 16))


def test_no_images_are_no_fit(teacher, batch):
    with pytest.raises(ValueError, match="there are no images to fit the modules to"):
        AdaptedTeacher(teacher, ["narrow"], batch[0][:0])


@pytest.mark.parametrize(
    ("replace", "told"),
    [
        (["narow"], "the network has no layer 'narow'; the nearest are 'narrow'"),
        (["layer3"], "the network has no layer 'layer3'; the nearest are"),
        ([], "replace is empty"),
        ("narrow", r"is a word; give a list of dotted paths, \['narrow'\]"),
        (["same", "same"], "names 'same' twice"),
        (["narrow", "narrow.0"], "'narrow.0' lies inside 'narrow'"),
        (["fc"], r"a module stands in for a block from maps \(B, C, H, W\) to maps"),
    ],
)
def test_what_cannot_be_replaced_is_said(teacher, batch, replace, told):
    with pytest.raises(ValueError, match=told):
        AdaptedTeacher(teacher, replace, batch[0])


def test_blocks_that_are_not_called_once_with_one_tensor_are_refused(batch):
    class Twice(Blocks):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(self.same(x))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add, self.conv = Add(), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.add(self.conv(x), self.conv(x))

    class Add(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(ValueError, match="'same' is called 2 times"):
        AdaptedTeacher(Twice().eval(), ["same"], batch[0])
    with pytest.raises(ValueError, match="'add' is called with other things than one tensor"):
        AdaptedTeacher(Two().eval(), ["add"], batch[0])


def test_a_module_of_somebodys_own_has_to_fit(teacher, batch):
    def too_wide(inputs: torch.Tensor, *_: object) -> nn.Module:
        return nn.Conv2d(inputs.shape[1], 9, 3, 2, padding=1)

    with pytest.raises(ValueError, match=r"'narrow' returns \(9, 4, 4\) for an image, and the block \(8, 4, 4\)"):
        AdaptedTeacher(teacher, ["narrow"], batch[0], module=too_wide)


# --- the step ------------------------------------------------------------------------------------


def gradients(*modules: nn.Module) -> list[bool]:
    """Of each module, whether anything in it has a gradient that is not 0."""
    return [any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters()) for module in modules]


@pytest.mark.parametrize(
    ("term", "learns"),
    [
        ("cross-entropy", [True, False, False]),
        ("hint", [True, True, False]),
        ("approach", [False, False, True]),
        ("anchor", [False, False, True]),
    ],
)
def test_each_term_has_one_learner(teacher, batch, term, learns):
    """Student, connector, modules; the teacher and the frozen rest of the adapted one never."""
    student, step = step_for(teacher, batch[0])
    step.train()
    teacher.requires_grad_(False)  # as `train` has it
    _, terms = step(student, teacher, *batch)
    assert list(terms) == ["cross-entropy", "hint", "approach", "anchor"]
    terms[term].backward()
    assert gradients(student, step.matches, step.adapted) == learns
    frozen = [p for p in step.adapted.network.parameters() if not p.requires_grad]
    assert len(frozen) == len(list(teacher.parameters())) - len(list(teacher.narrow.parameters()))
    assert all(p.grad is None for p in [*frozen, *teacher.parameters()])


@pytest.mark.parametrize(
    "loss",
    [hint_loss, attention_loss, nst_loss, spectral_shape_loss, partial(whitened_spectral_loss, alpha=2.0)],
)
def test_any_loss_may_meet(teacher, batch, loss):
    student, step = step_for(teacher, batch[0], loss=loss)
    _, terms = step(student, teacher, *batch)
    assert terms["approach"].item() > 0
    terms["approach"].backward()
    assert gradients(student, step.adapted) == [False, True]


def test_terms_are_those_that_a_loop_would_find(teacher, batch):
    student, step = step_for(teacher, batch[0], SoftTargets())
    student.eval()  # no dropout
    step.eval()
    logits, terms = step(student, teacher, *batch)
    target = step.adapted.targets(batch[0])["narrow"]
    mine = step.matches[0].connector(features_of(student, batch[0], ["bn"])["bn"])
    assert_close(terms["anchor"], F.cross_entropy(step.adapted(batch[0]), batch[1]))
    assert_close(terms["hint"], (mine - target).square().mean())
    assert_close(terms["approach"], terms["hint"])
    again, base = SoftTargets()(student, teacher, *batch)
    assert_close(logits, again)
    assert_close({name: terms[name] for name in base}, base)


def test_names_of_terms_are_not_taken_twice(teacher, batch):
    student, step = step_for(teacher, batch[0])
    step.matches[0].name = "anchor"
    with pytest.raises(ValueError, match="has a term 'anchor' of its own"):
        step(student, teacher, *batch)
    with pytest.raises(ValueError, match="nothing would adapt"):
        AdaptiveMatching(CrossEntropy(), [], step.adapted)


def test_the_step_says_what_it_is(teacher, batch):
    _, step = step_for(teacher, batch[0])
    told = "CrossEntropy(smoothing=0) + [hint: hint_loss on bn through Connector(4, 8, stride=2) and narrow], teacher "
    told += f"adapted: Blocks {step.adapted.frozen_fingerprint} with narrow by AdaptiveModule(8, 8, shrink=2), "
    assert repr(step) == told + "made by AdaptiveModule.fitted, seed 0 from 16 images"


def test_adapted_teachers_that_begin_otherwise_say_something_else(teacher, batch):
    """What tells one run from another in a folder."""
    told = {
        repr(AdaptedTeacher(network, ["narrow"], images, **options))
        for network, images, options in [
            (teacher, batch[0], {}),
            (teacher, batch[0], {"seed": 1}),
            (teacher, batch[0], {"module": AdaptiveModule.between}),
            (teacher, batch[0][:8], {}),
            (Blocks(seed=7).eval(), batch[0], {}),
        ]
    }
    assert len(told) == 5
    again = AdaptedTeacher(copy.deepcopy(teacher).to(memory_format=torch.channels_last), ["narrow"], batch[0])
    assert repr(again) in told


def test_the_teacher_itself_has_to_be_at_hand_and_not_the_adapted_one(teacher, batch):
    student, step = step_for(teacher, batch[0])
    with pytest.raises(ValueError, match=r"pass the teacher, of which the step has an adapted copy, as teacher=\.\.\."):
        step(student, None, *batch)
    for other in (step.adapted, step.adapted.network):
        with pytest.raises(ValueError, match="pass the teacher as it is"):
            step(student, other, *batch)


def test_matches_that_no_module_could_learn_from_are_refused(teacher, batch):
    student, step = step_for(teacher, batch[0])
    early = Match("hint", attention_loss, "bn", "stem")
    with pytest.raises(ValueError, match=r"no match lies behind a replaced block \('narrow'\)"):
        AdaptiveMatching(CrossEntropy(), [early], step.adapted)(student, teacher, *batch)
    with pytest.raises(ValueError, match=r"the network has no layer 'narrow\.0'; the nearest are 'narrow'"):
        AdaptiveMatching(CrossEntropy(), [Match("hint", hint_loss, "bn", "narrow.0")], step.adapted)


def test_all_matches_count_on_both_sides(teacher, batch):
    student, step = step_for(teacher, batch[0])
    _, one = step(student.eval(), teacher, *batch)
    selective = Match("nst", nst_loss, "bn", "narrow")
    both = AdaptiveMatching(CrossEntropy(), [*step.matches, selective], step.adapted)
    _, terms = both(student, teacher, *batch)
    target = step.adapted.targets(batch[0])["narrow"]
    mine = features_of(student, batch[0], ["bn"])["bn"]
    assert_close(terms["nst"], nst_loss(mine, target))
    assert_close(terms["approach"], one["approach"] + nst_loss(target, mine))
    twice = AdaptiveMatching(CrossEntropy(), [*step.matches, *step.matches], step.adapted)
    assert_close(twice(student, teacher, *batch)[1]["hint"], 2 * one["hint"])


# --- a run ---------------------------------------------------------------------------------------

WEIGHTS = {"hint": 1.0, "approach": 1.0, "anchor": 1.0}


def test_a_run_trains_the_modules_and_leaves_the_teacher(data, teacher, batch):
    student, step = step_for(teacher, batch[0])
    before, frozen = tensors(teacher), copy.deepcopy(step.adapted.network.stem)
    adapted = copy.deepcopy(step.adapted)
    run = train(student, data, QUICK, teacher=teacher, step=step, weights=WEIGHTS)
    assert same(tensors(teacher), before)
    assert same(tensors(step.adapted.network.stem), tensors(frozen))
    assert not same(tensors(step.adapted), tensors(adapted))
    assert {"hint", "approach", "anchor"} <= run.curves.keys()


def test_without_an_anchor_both_sides_may_meet_at_a_poor_target(data, teacher, batch):
    """Why the anchor is there: with the approach alone the target loses what it said."""
    varies = {}
    for anchor in (0.0, 1.0):
        student, step = step_for(teacher, batch[0])
        recipe = Recipe(epochs=30, batch_size=16, augment=False, learning_rate=0.2)
        train(student, data, recipe, teacher=teacher, step=step, weights={"approach": 3.0, "anchor": anchor})
        step.eval()
        varies[anchor] = step.adapted.targets(batch[0])["narrow"].var().item()
    assert varies[0.0] < 0.5 * varies[1.0]


def test_a_run_that_was_stopped_goes_on_to_the_same_student_and_modules(data, teacher, batch, tmp_path):
    def begin():
        return step_for(teacher, batch[0])

    def go(folder, callback=None):
        student, step = begin()
        told = {"teacher": teacher, "step": step, "weights": WEIGHTS, "folder": folder, "keep_epochs": [1, 2]}
        train(student, data, QUICK, callback=callback, checkpoint_seconds=0, **told)
        return student, step

    whole = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped", InterruptedAt(1))
    resumed = go(tmp_path / "stopped")
    assert same(tensors(resumed[0]), tensors(whole[0]))
    assert same(tensors(resumed[1]), tensors(whole[1]))
    assert read_run(tmp_path / "stopped" / "run.json").method == repr(whole[1])
    read_again = go(tmp_path / "whole")  # a finished run gives its modules back too
    assert same(tensors(read_again[1]), tensors(whole[1]))
    names = sorted(path.name for path in (tmp_path / "stopped").glob("epoch_*"))
    kept = [f"epoch_00{epoch}{what}.safetensors" for epoch in (1, 2) for what in ("", "_step")]
    assert names == sorted(kept)


def test_what_a_step_had_learned_by_an_epoch_is_read_back(data, teacher, batch, tmp_path):
    student, step = step_for(teacher, batch[0])
    told = {"teacher": teacher, "step": step, "weights": WEIGHTS, "folder": tmp_path, "keep_epochs": [2]}
    run = train(student, data, QUICK, **told)
    assert run.recipe["epochs"] == 2
    _, again = step_for(teacher, batch[0])
    load_weights(again, tmp_path / "epoch_002_step.safetensors")
    assert_close(again.adapted(batch[0]), step.eval().adapted(batch[0]), atol=1e-2, rtol=1e-2)  # half precision


# --- what came of it -----------------------------------------------------------------------------


def test_a_target_that_is_a_pointwise_map_of_the_features_mismatches_by_nothing():
    student = torch.randn(6, 4, 8, 8, dtype=torch.float64)
    target = F.conv2d(student, torch.randn(7, 4, 1, 1, dtype=torch.float64), torch.randn(7, dtype=torch.float64))
    assert mismatch(student, target) < 1e-20
    assert mismatch(student, torch.ones_like(target)) == 0


def test_a_mixture_mismatches_by_the_share_that_is_new():
    """target = s + sqrt(r) n with independent s, n of variance 1: the share r / (1 + r) is left."""
    generator = torch.Generator().manual_seed(0)
    s, n = (torch.randn(40, 5, 32, 32, generator=generator) for _ in range(2))
    for r in (0.25, 1.0, 4.0):
        assert mismatch(s, s + r**0.5 * n) == pytest.approx(r / (1 + r), abs=0.005)
    assert mismatch(s, n) == pytest.approx(1, abs=0.001)


def test_of_larger_maps_of_the_student_every_second_pixel_counts_and_smaller_ones_are_refused():
    student = torch.randn(4, 3, 8, 8)
    target = torch.randn(4, 5, 4, 4)
    assert mismatch(student, student[..., ::2, ::2]) < 1e-10
    left = (Connector.fitted(student, target)(student) - target).square().sum()
    whole = (target - target.mean((0, 2, 3), keepdim=True)).square().sum()
    assert mismatch(student, target) == pytest.approx((left / whole).item(), rel=1e-4)  # what a connector leaves
    with pytest.raises(ValueError, match="name an earlier layer of the student"):
        mismatch(F.avg_pool2d(student, 2), student)
    with pytest.raises(ValueError, match="give both of the same images"):
        mismatch(student, student[:2])


def test_effective_channels_count_directions():
    generator = torch.Generator().manual_seed(0)
    independent = torch.randn(50, 6, 32, 32, generator=generator, dtype=torch.float64)
    assert effective_channels(independent) == pytest.approx(6, abs=0.01)
    assert effective_channels(independent[:, :1] * torch.arange(1.0, 7)[:, None, None] + 3) == pytest.approx(1)
    loud = independent * torch.tensor([3.0, 1, 1, 1, 1, 1])[:, None, None]
    assert effective_channels(loud) == pytest.approx(14**2 / (81 + 5), abs=0.05)
    assert effective_channels(torch.ones(2, 3, 4, 4)) == 0
    with pytest.raises(ValueError, match=r"\(B, C, H, W\) is needed"):
        effective_channels(torch.ones(2, 3))


def test_a_target_is_described_by_what_is_known_of_it():
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(50, 6, 16, 16, generator=generator, dtype=torch.float64)
    student = original[:, :3]
    stayed = describe_target(student, original, original)
    assert stayed.moved == 0
    assert stayed.mismatch == pytest.approx(0.5, abs=0.01)  # three of six channels
    assert stayed.channels == stayed.channels_before
    poor = describe_target(student, original * torch.tensor([1.0, 0, 0, 0, 0, 0])[:, None, None], original)
    assert poor.mismatch < 1e-10
    assert poor.moved == pytest.approx(5 / 6, abs=0.01)
    assert (poor.channels, poor.channels_before) == (pytest.approx(1), pytest.approx(6, abs=0.01))
    with pytest.raises(ValueError, match="differ in shape"):
        describe_target(student, original[:, :2], original)
