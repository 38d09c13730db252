"""What a teacher's response says, against definitions and on responses made to say it; and what controls take away."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import chisquare, entropy, kstest, spearmanr
from test_distillation import InterruptedAt, Tiny, same, stripes, tensors
from threads import one_thread as one_thread  # a fixture
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from spectralkd_nb import teacher_quality
from spectralkd_nb.datasets import LabelledImages, open_dataset, rotated
from spectralkd_nb.datasets.cifar import CIFAR100_CLASSES, SUPERCLASSES
from spectralkd_nb.distillation import Recipe, SoftTargets, evaluate, responses, train
from spectralkd_nb.experiments import method_step, planned_runs
from spectralkd_nb.experiments.bench import do_run
from spectralkd_nb.experiments.plan import Plan
from spectralkd_nb.losses import kd_loss
from spectralkd_nb.networks import build
from spectralkd_nb.teacher_quality import (
    calibration_error,
    centroid_similarity,
    class_similarity,
    describe_response,
    effective_classes,
    fidelity,
    non_target_mass,
    permuted_by_class,
    permuted_by_image,
    rank_correlation,
    reference_similarity,
    smoothed_labels,
    smoothing_at_entropy,
    soft_target_entropy,
    soft_targets,
)

CLASSES = 7
TEMPERATURES = (0.5, 1.0, 4.0)


def response(seed: int, images: int = 60, classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels of which every class has some and none as many as the next."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.standard_normal((images, classes))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, images - classes) ** 2 // classes])
    return torch.from_numpy(logits), torch.from_numpy(rng.permutation(labels))


def logits_of(*rows: list[float]) -> torch.Tensor:
    """Logits whose soft targets are the rows."""
    return torch.tensor(rows, dtype=torch.float64).log()


# --- how much is said of other classes -----------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_classes_that_are_all_alike_share_everything(classes, temperature):
    logits, labels = torch.full((3, classes), 2.5), torch.tensor([0, 1, classes - 1])
    assert_close(soft_targets(logits, temperature), torch.full((3, classes), 1 / classes))
    assert_close(soft_target_entropy(logits, temperature), torch.full((3,), math.log(classes)))
    assert_close(effective_classes(logits, temperature), torch.full((3,), float(classes)))
    assert_close(non_target_mass(logits, labels, temperature), torch.full((3,), (classes - 1) / classes))


def test_a_class_that_is_all_leaves_nothing_to_the_others():
    labels = torch.tensor([0, 2, 4])
    logits = 1e4 * F.one_hot(labels, 5).float()
    assert torch.equal(soft_targets(logits), F.one_hot(labels, 5).float())
    assert soft_target_entropy(logits).tolist() == [0, 0, 0]
    assert effective_classes(logits).tolist() == [1, 1, 1]
    assert non_target_mass(logits, labels).tolist() == [0, 0, 0]
    assert non_target_mass(logits, (labels + 1) % 5).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("alike", "classes"), [(1, 2), (2, 3), (3, 10), (10, 10), (37, 100)])
def test_so_many_equally_likely_classes_are_so_many_effective_ones(alike, classes):
    logits = torch.full((2, classes), -1e4, dtype=torch.float64)
    logits[0, :alike] = logits[1, classes - alike :] = 3
    assert effective_classes(logits).tolist() == pytest.approx([alike, alike], rel=1e-12)
    assert effective_classes(logits.float()).tolist() == pytest.approx([alike, alike], rel=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_entropy_and_mass_are_those_of_scipys_soft_targets(temperature):
    logits, labels = response(0)
    soft = softmax(logits.numpy() / temperature, axis=1)
    wanted = {
        soft_targets: soft,
        soft_target_entropy: entropy(soft, axis=1),
        effective_classes: np.exp(entropy(soft, axis=1)),
    }
    for measure, values in wanted.items():
        assert_close(measure(logits, temperature), torch.from_numpy(values), rtol=1e-12, atol=1e-15)
        assert_close(measure(logits.float(), temperature).double(), torch.from_numpy(values), rtol=1e-5, atol=5e-7)
    mass = np.delete(soft, labels.numpy() + np.arange(len(labels)) * CLASSES).reshape(len(labels), -1).sum(1)
    assert_close(non_target_mass(logits, labels, temperature), torch.from_numpy(mass), rtol=1e-12, atol=0)


def test_a_temperature_divides_the_logits_and_a_constant_of_an_image_plays_no_part():
    logits, labels = response(1)
    shifted = logits + torch.linspace(-40, 40, len(logits), dtype=torch.float64)[:, None]
    for measure in (
        soft_targets,
        soft_target_entropy,
        effective_classes,
        lambda logits, *given: non_target_mass(logits, labels, *given),
        lambda logits, *given: class_similarity(logits, labels, *given),
    ):
        for temperature in TEMPERATURES:
            assert torch.equal(measure(logits, temperature), measure(logits / temperature))
            assert_close(measure(shifted, temperature), measure(logits, temperature), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("gap", [20.0, 60.0, 80.0])
def test_next_to_no_mass_keeps_its_digits(classes, gap):
    labels = torch.tensor([1])
    logits = gap * F.one_hot(labels, classes).float()
    assert float(1 - soft_targets(logits)[0, 1]) == pytest.approx(0, abs=1e-6)
    assert float(non_target_mass(logits, labels)) == pytest.approx((classes - 1) * math.exp(-gap), rel=1e-5)
    assert float(non_target_mass(4 * logits, labels, 4.0)) == pytest.approx((classes - 1) * math.exp(-gap), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_reckoned_in_float32(dtype):
    logits, labels = response(2)
    half = logits.to(dtype)
    for measure in (
        soft_targets,
        soft_target_entropy,
        effective_classes,
        lambda logits: non_target_mass(logits, labels),
        lambda logits: class_similarity(logits, labels),
    ):
        assert measure(half).dtype == torch.float32
        assert measure(logits).dtype == torch.float64
        assert torch.equal(measure(half), measure(half.float()))


def test_entropy_rises_with_the_temperature():
    logits, _ = response(3)
    rising = torch.stack([soft_target_entropy(logits, t) for t in np.geomspace(0.2, 50, 25)])
    assert (rising.diff(dim=0) > 0).all()
    assert (rising < math.log(CLASSES)).all()


# --- what is said of them ------------------------------------------------------------------------


def said(seed: int, temperature: float, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits and labels of a network that says a matrix, image by image in other words and ever so sure of itself."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), np.arange(classes) + 2)
    shares = rng.dirichlet(np.ones(classes - 1), len(labels))
    rows = np.stack([np.insert(row, label, 0) for row, label in zip(shares, labels, strict=True)])
    matrix = np.stack([rows[labels == label].mean(0) for label in range(classes)])
    logits = temperature * np.log(np.where(rows > 0, rows, 1)) + rng.normal(0, 10, (len(labels), 1))
    logits[np.arange(len(labels)), labels] = rng.choice([-80, 0, 7, 80], len(labels))
    return torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(matrix)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_similarity_that_was_put_in_comes_out(temperature):
    logits, labels, matrix = said(0, temperature)
    found = class_similarity(logits, labels, temperature)
    assert_close(found, matrix, rtol=1e-10, atol=1e-13)
    assert_close(found.sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(found.diag(), torch.zeros(5, dtype=torch.float64))
    low = class_similarity(logits.float(), labels, temperature)
    assert_close(low.double(), matrix, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_similarity_is_the_mean_of_soft_targets_without_the_label(temperature):
    logits, labels = response(4)
    soft = softmax(logits.numpy() / temperature, axis=1)
    wanted = np.zeros((CLASSES, CLASSES))
    for row, label in zip(soft, labels.tolist(), strict=True):
        others = np.where(np.arange(CLASSES) == label, 0, row)
        wanted[label] += others / others.sum() / int((labels == label).sum())
    assert_close(class_similarity(logits, labels, temperature), torch.from_numpy(wanted), rtol=1e-11, atol=1e-15)


def test_the_labels_own_logit_and_the_order_of_images_play_no_part_in_similarity():
    logits, labels = response(5)
    found = class_similarity(logits, labels)
    for own in (-1e3, 0.0, 1e3, torch.randn(len(labels), 1, dtype=torch.float64)):
        changed = torch.where(F.one_hot(labels, CLASSES).bool(), own, logits)
        assert torch.equal(class_similarity(changed, labels), found)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert_close(class_similarity(logits[order], labels[order]), found, rtol=1e-12, atol=1e-15)


def test_an_image_of_which_a_network_is_sure_counts_like_any_other():
    logits = torch.tensor([[90.0, 30.0, 0.0, 0.0], [1.0, -30.0, 3.0, -30.0], *torch.eye(4)[1:].tolist()])
    found = class_similarity(logits, torch.tensor([0, 0, 1, 2, 3]))
    assert_close(found[0], torch.tensor([0, 0.5, 0.5, 0]), rtol=0, atol=1e-6)


# --- rank correlation ----------------------------------------------------------------------------


def draw(seed: int, classes: int = 10, levels: int | None = None) -> torch.Tensor:
    """A random similarity, asymmetric; of so many levels, or without ties."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((classes, classes)) if levels is None else rng.integers(0, levels, (classes, classes))
    return torch.from_numpy(np.asarray(values, dtype=np.float64))


def pairs(matrix: torch.Tensor) -> np.ndarray:
    """Of both directions together, above the diagonal."""
    values = matrix.double().numpy()
    return (values + values.T)[np.triu_indices(len(values), 1)] / 2


@pytest.mark.parametrize("levels", [None, 2, 4])
@pytest.mark.parametrize("classes", [3, 4, 10, 25])
def test_it_is_scipys_over_pairs_of_classes(classes, levels):
    for seed in range(5):
        one, other = draw(seed, classes, levels), draw(100 + seed, classes)
        found = rank_correlation(one, other, permutations=9)
        assert found.rho == pytest.approx(spearmanr(pairs(one), pairs(other)).statistic, abs=1e-12)
        assert rank_correlation(other, one, permutations=9).rho == pytest.approx(found.rho, abs=1e-12)
        assert found.pairs == classes * (classes - 1) // 2


def test_whatever_keeps_the_order_of_pairs_agrees_fully():
    matrix = draw(0)
    symmetric = (matrix + matrix.T) / 2
    for like in (symmetric, symmetric.exp(), symmetric**3, 5 * symmetric - 2, symmetric.float()):
        found = rank_correlation(like, symmetric)
        assert found.rho == pytest.approx(1, abs=1e-12)
        assert found.rho <= 1
        assert found.p == 1 / 1000
    opposite = rank_correlation(-symmetric, symmetric)
    assert opposite.rho == pytest.approx(-1, abs=1e-12)
    assert opposite.p == 1


def test_both_directions_count_and_the_diagonal_does_not():
    one, other = draw(1), draw(2)
    found = rank_correlation(one, other)
    assert rank_correlation((one + one.T) / 2, other.T) == found
    assert rank_correlation(one.T, (other + other.T) / 2) == found
    for value in (math.nan, math.inf, 1e9):
        assert rank_correlation(one.clone().fill_diagonal_(value), other.clone().fill_diagonal_(-value)) == found


@pytest.mark.parametrize("levels", [None, 2, 4])
def test_the_highest_correlation_is_that_of_the_same_order_without_ties(levels):
    one, reference = draw(3), draw(4, levels=levels)
    by_place = pairs(reference) + 1e-6 * np.arange(45)
    highest = rank_correlation(one, reference, permutations=9).highest
    assert highest == pytest.approx(spearmanr(by_place, pairs(reference)).statistic, abs=1e-12)
    assert (highest > 1 - 1e-12) == (levels is None)


def test_random_namings_follow_the_seed():
    one, other = draw(1), draw(2)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - that it is left alone
    first, again, another = (rank_correlation(one, other, seed=seed) for seed in (3, 3, 4))
    assert first == again
    assert first.rho == another.rho
    assert first.p != another.p
    assert first.p == pytest.approx(another.p, abs=0.06)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


@pytest.mark.parametrize("seed", range(4))
def test_p_is_the_share_of_all_namings_that_agree_as_well(seed):
    one, other = draw(seed, 4), draw(50 + seed, 4)
    rho = spearmanr(pairs(one), pairs(other)).statistic
    names = [list(order) for order in permutations(range(4))]
    as_good = [spearmanr(pairs(one[order][:, order]), pairs(other)).statistic >= rho - 1e-9 for order in names]
    assert rank_correlation(one, other, permutations=4000).p == pytest.approx(np.mean(as_good), abs=0.03)


def test_p_is_uniform_where_there_is_nothing():
    p = [rank_correlation(draw(seed, 8), draw(1000 + seed, 8), permutations=99, seed=seed).p for seed in range(300)]
    assert kstest(p, "uniform").pvalue > 0.01
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_classes_that_are_like_all_others_make_no_agreement_where_a_formula_for_pairs_sees_one():
    # similarity_ij = a_i + a_j: pairs that share a class rise and fall together, so 45 pairs are not 45 witnesses.
    rng = np.random.default_rng(0)
    by_names, by_formula = [], []
    for seed in range(150):
        one, other = (torch.from_numpy(a[:, None] + a[None]) for a in rng.standard_normal((2, 10)))
        by_names.append(rank_correlation(one, other, permutations=99, seed=seed).p)
        by_formula.append(spearmanr(pairs(one), pairs(other), alternative="greater").pvalue)
    assert np.mean(np.array(by_names) <= 0.05) < 0.1
    assert np.mean(np.array(by_formula) <= 0.05) > 0.2


def test_a_structure_of_blocks_is_found_in_noise():
    blocks = torch.block_diag(*[torch.ones(5, 5, dtype=torch.float64)] * 4)
    found = rank_correlation(blocks + 0.3 * draw(3, 20), blocks)
    assert found.p == 1 / 1000
    assert 0.4 < found.rho < 1


# --- similarity from elsewhere -------------------------------------------------------------------


def test_corners_of_a_square_look_at_right_angles_in_any_unit():
    corners = torch.tensor([[1, 1], [1, -1], [-1, -1], [-1, 1]], dtype=torch.float64)
    wanted = torch.tensor([[1, 0, -1, 0], [0, 1, 0, -1], [-1, 0, 1, 0], [0, -1, 0, 1]], dtype=torch.float64)
    labels = torch.arange(4).repeat_interleave(2)
    around = corners[labels] + torch.tensor([[0.5, 0.25], [-0.5, -0.25]], dtype=torch.float64).repeat(4, 1)
    for features in (around, around * torch.tensor([1e6, 1e-6]) + torch.tensor([3e6, -7.0]), around.float()):
        assert_close(centroid_similarity(features, labels), wanted, rtol=0, atol=1e-6)
    same_for_all = torch.cat([around, torch.full((8, 3), 4.0)], 1)
    assert_close(centroid_similarity(same_for_all, labels), wanted)


def test_centroids_are_seen_from_the_mean_over_classes_whatever_their_images():
    _, labels = response(6)
    rng = np.random.default_rng(0)
    features = rng.standard_normal((len(labels), 5)) + rng.standard_normal((CLASSES, 5))[labels]
    means = np.stack([features[labels.numpy() == label].mean(0) for label in range(CLASSES)])
    z = (means - means.mean(0)) / means.std(0)
    wanted = z @ z.T / np.outer(np.linalg.norm(z, axis=1), np.linalg.norm(z, axis=1))
    found = centroid_similarity(torch.from_numpy(features), labels)
    assert_close(found, torch.from_numpy(wanted), rtol=0, atol=1e-12)
    assert_close(found.diag(), torch.ones(CLASSES, dtype=torch.float64))
    scaled = features * 10.0 ** rng.integers(-6, 6, 5) * rng.choice([-1, 1], 5) + rng.standard_normal(5)
    assert_close(centroid_similarity(torch.from_numpy(scaled), labels), found, rtol=0, atol=1e-8)
    assert centroid_similarity(torch.from_numpy(features).half(), labels).dtype == torch.float64


def textures(
    *kinds: tuple[float, float], contrasts: tuple[float, ...] | None = None, images: int = 40, size: int = 32
) -> LabelledImages:
    """A class for each kind: grey fields of power frequency^-exponent, drawn out so many times along the rows."""
    rng = np.random.default_rng(0)

    def fields(exponent: float, drawn_out: float, contrast: float) -> np.ndarray:
        frequency = np.hypot(np.fft.fftfreq(size)[:, None], drawn_out * np.fft.fftfreq(size)[None])
        frequency[0, 0] = np.inf
        waves = np.fft.fft2(rng.standard_normal((images, size, size))) * frequency ** (-exponent / 2)
        values = np.fft.ifft2(waves).real
        return 128 + contrast * values / values.std()

    drawn = [fields(*kind, c) for kind, c in zip(kinds, contrasts or [30] * len(kinds), strict=True)]
    grey = torch.from_numpy(np.concatenate(drawn).round().clip(0, 255).astype(np.uint8))
    labels = torch.arange(len(kinds)).repeat_interleave(images)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    told = grey[order][:, None].expand(-1, 3, -1, -1), labels[order]
    return LabelledImages("textures", *told, *told, tuple(f"{number}: {kind}" for number, kind in enumerate(kinds)))


WHITE, STEEP, ROWS, COLUMNS = (0.0, 1.0), (2.0, 1.0), (2.0, 4.0), (2.0, 0.25)


@pytest.mark.parametrize("three", [(WHITE, STEEP, ROWS), (WHITE, ROWS, COLUMNS)])
def test_classes_of_one_spectrum_are_more_alike_than_others(three):
    data = textures(*three, *three, contrasts=(20, 30, 40, 35, 25, 20))
    found = reference_similarity(data)
    alike = torch.eye(3, dtype=torch.bool).repeat(2, 2)
    assert found[alike].min() > 0.7
    assert found[~alike].max() < 0.2
    blank = replace(data, test_images=torch.zeros_like(data.test_images))
    assert torch.equal(reference_similarity(blank), found)


def test_even_images_among_others_spoil_no_reference():
    three = ROWS, COLUMNS, WHITE
    found = reference_similarity(textures(*three, *three, contrasts=(30, 30, 0, 30, 30, 0)))
    alike = torch.eye(3, dtype=torch.bool).repeat(2, 2)
    assert found[alike].min() > 0.7
    assert found[~alike].max() < 0.2


def test_classes_of_one_spectrum_are_told_apart_by_colour():
    rng = np.random.default_rng(0)
    on = torch.from_numpy(255 * (rng.random((6, 16, 16)) < 0.4)).to(torch.uint8)
    red, blue = (torch.stack([on * share for share in shares], 1) for shares in ((1, 0, 0), (0, 0, 1)))
    labels = torch.arange(4).repeat_interleave(len(on))
    told = torch.cat([red, blue, red, blue]), labels
    found = reference_similarity(LabelledImages("signs", *told, *told, ("red", "blue", "Red", "Blue")))
    wanted = torch.tensor([[1.0, -1, 1, -1], [-1, 1, -1, 1]], dtype=torch.float64).repeat(2, 1)
    assert_close(found, wanted)


def test_how_many_images_are_looked_at_together_plays_no_part(monkeypatch):
    data = textures(WHITE, STEEP, ROWS)
    whole = reference_similarity(data)
    monkeypatch.setattr(teacher_quality, "FEW_IMAGES", 7)
    assert_close(reference_similarity(data), whole, rtol=0, atol=0.01)


def test_the_photographs_have_a_reference():
    data = open_dataset("photographs", size=16, train=20, test=1)
    found = reference_similarity(data)
    assert found.shape == (14, 14)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert found.abs().max() <= 1 + 1e-12
    assert_close(found, found.T)
    assert_close(found.diag(), torch.ones(14, dtype=torch.float64))
    assert rank_correlation(found, found).rho == pytest.approx(1)


def test_fields_are_seen_to_be_as_alike_as_their_laws_are():
    data = open_dataset("fields", train=30, test=1)
    known = reference_similarity(data)
    assert torch.equal(known, data.similarity.double())
    seen = rank_correlation(reference_similarity(replace(data, similarity=None)), known)
    assert seen.rho > 0.7
    assert seen.p == 1 / 1000


# The coarse label of each class in the order of CIFAR-100's files.
COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18
10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0
17 8 14 13
"""


def test_cifar_100_has_twenty_superclasses_of_five():
    names = CIFAR100_CLASSES.split()
    assert set(SUPERCLASSES) == set(names)
    assert set(Counter(SUPERCLASSES.values()).values()) == {5}
    coarse = [int(number) for number in COARSE.split()]
    assert len({(SUPERCLASSES[name], number) for name, number in zip(names, coarse, strict=True)}) == 20


@pytest.mark.parametrize("seed", [None, 0])
def test_classes_of_one_superclass_are_alike_in_whatever_order(seed):
    names, coarse = np.array(CIFAR100_CLASSES.split()), np.array(COARSE.split())
    order = np.arange(100) if seed is None else np.random.default_rng(seed).permutation(100)
    nothing = torch.zeros(100, 3, 32, 32, dtype=torch.uint8), torch.arange(100)
    data = LabelledImages("cifar100", *nothing, *nothing, tuple(names[order].tolist()))
    found = reference_similarity(data)
    assert torch.equal(found, torch.from_numpy(coarse[order][:, None] == coarse[order][None]).double())
    assert set(found.sum(1).tolist()) == {5}
    assert len(found.unique(dim=0)) == 20
    assert rank_correlation(draw(0, 100), found, permutations=1).highest == pytest.approx(0.34, abs=0.005)
    known = torch.eye(100)
    assert torch.equal(reference_similarity(replace(data, similarity=known)), known.double())


def test_what_a_data_set_knows_itself_comes_first_and_stays_with_it():
    known = torch.tensor([[1, 0], [0, 1]])
    data = replace(stripes(), similarity=known)
    for kept in (data, data.to("cpu"), data.held_out(4)):
        assert torch.equal(reference_similarity(kept), known.double())
    assert reference_similarity(data).dtype == torch.float64
    assert stripes().similarity is None
    assert rotated(data).similarity is None


# --- how far it can be believed, and how far a student follows -----------------------------------


def test_calibration_by_hand():
    logits = logits_of([0.9, 0.06, 0.04], [0.03, 0.9, 0.07], [0.62, 0.3, 0.08], [0.3, 0.42, 0.28])
    labels = torch.tensor([0, 0, 0, 0])  # right, wrong, right, wrong
    assert calibration_error(logits, labels) == pytest.approx((0.8 + 0.38 + 0.42) / 4)
    assert calibration_error(logits, labels, bins=2) == pytest.approx((0.42 + 0.42) / 4)
    assert calibration_error(logits, labels, bins=1) == pytest.approx(abs((0.9 + 0.9 + 0.62 + 0.42) - 2) / 4)
    assert calibration_error(4 * logits, labels, temperature=4.0) == pytest.approx((0.8 + 0.38 + 0.42) / 4)


def test_a_confidence_on_a_border_is_of_the_bin_below():
    steps = math.log(2) + torch.arange(-40, 41, dtype=torch.float64) * 2**-54
    tried = torch.stack([steps, torch.zeros(81), torch.zeros(81)], 1)
    on_border = tried[soft_targets(tried)[:, 0] == 0.5][:1]
    assert len(on_border) == 1
    logits = torch.cat([on_border, logits_of([0.45, 0.3, 0.25], [0.8, 0.1, 0.1])])
    labels = torch.tensor([0, 1, 1])  # right, wrong, wrong
    assert calibration_error(logits, labels, bins=2) == pytest.approx((abs(0.5 + 0.45 - 1) + 0.8) / 3)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_calibration_is_the_mean_gap_over_bins(bins):
    logits, labels = response(7, images=300)
    soft = softmax(logits.numpy() / 2, axis=1)
    confidence, right = soft.max(1), soft.argmax(1) == labels.numpy()
    gaps = []
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins, strict=True):
        inside = (confidence > low) & (confidence <= high)
        gaps.append(inside.mean() * abs(confidence[inside].mean() - right[inside].mean()) if inside.any() else 0)
    assert calibration_error(logits, labels, 2.0, bins) == pytest.approx(sum(gaps), rel=1e-12)
    assert (calibration_error(logits, labels, 2.0) == calibration_error(logits, labels, 2.0, bins)) == (bins == 15)


def test_labels_drawn_from_a_networks_own_soft_targets_are_believed_the_more_the_more_there_are():
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(200_000, 5, generator=generator)
    labels = soft_targets(logits).multinomial(1, generator=generator)[:, 0]
    few, many = calibration_error(logits[:500], labels[:500]), calibration_error(logits, labels)
    assert many < 0.005
    assert few > 5 * many
    assert calibration_error(3 * logits, labels) > 0.1  # too sure
    assert calibration_error(logits / 3, labels) > 0.1  # not sure enough


def test_always_sure_and_half_the_time_right():
    logits = torch.tensor([[1e3, 0, 0]]).repeat(10, 1)
    assert calibration_error(logits, torch.tensor([0, 1] * 5)) == 0.5
    assert calibration_error(logits, torch.zeros(10, dtype=torch.int64)) == 0
    assert calibration_error(logits, torch.ones(10, dtype=torch.int64)) == 1


def test_of_classes_that_are_equally_likely_one_is_the_answer():
    labels = torch.arange(1000) % 10
    assert calibration_error(torch.zeros(1000, 10), labels) == pytest.approx(0, abs=1e-6)
    tied = torch.tensor([[1e3, 1e3, 0, 0]]).repeat(1000, 1)
    assert calibration_error(tied, labels % 2) == pytest.approx(0, abs=1e-6)


def test_fidelity_by_hand():
    teacher = logits_of([0.8, 0.2], [0.6, 0.4], [0.1, 0.9], [0.3, 0.7])
    student = logits_of([0.5001, 0.4999], [0.4, 0.6], [0.01, 0.99], [0.25, 0.75])
    found = fidelity(student, teacher)
    divergence = 0.0
    for row in ([0.8, 0.5001], [0.6, 0.4], [0.1, 0.01], [0.3, 0.25]):
        divergence += row[0] * math.log(row[0] / row[1]) + (1 - row[0]) * math.log((1 - row[0]) / (1 - row[1]))
    assert found.agreement == 75
    assert found.divergence == pytest.approx(divergence / 4, rel=1e-12)
    assert fidelity(4 * student, 4 * teacher, 4.0).divergence == pytest.approx(divergence / 4, rel=1e-12)
    backwards = fidelity(teacher, student)
    assert backwards.agreement == 75
    assert abs(backwards.divergence - found.divergence) > 0.01


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_divergence_is_scipys_relative_entropy(temperature):
    student, teacher = response(8)[0], response(9)[0]
    soft = [softmax(logits.numpy() / temperature, axis=1) for logits in (teacher, student)]
    found = fidelity(student, teacher, temperature)
    assert found.divergence == pytest.approx(rel_entr(*soft).sum(1).mean(), rel=1e-12)
    assert found.agreement == pytest.approx(100 * np.mean(soft[0].argmax(1) == soft[1].argmax(1)))
    rounded = fidelity(student.half(), teacher.half(), temperature)
    assert rounded == fidelity(student.half().double(), teacher.half().double(), temperature)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_student_that_says_the_same_up_to_a_constant_follows_fully(dtype):
    teacher = response(10)[0].to(dtype)
    for student in (teacher, teacher.double() + torch.linspace(-9, 9, len(teacher), dtype=torch.float64)[:, None]):
        found = fidelity(student, teacher)
        assert found.agreement == 100
        assert 0 <= found.divergence < 1e-14


@pytest.mark.parametrize("given", [(), (2.0,)])
def test_a_description_is_all_measures_at_one_temperature(given):
    logits, labels = response(11)
    reference, temperature = draw(0, CLASSES), *(given or (4.0,))
    found = describe_response(logits, labels, reference, *given)
    assert found.temperature == temperature
    assert found.accuracy == pytest.approx(100 * np.mean(logits.numpy().argmax(1) == labels.numpy()))
    assert found.entropy == pytest.approx(float(soft_target_entropy(logits, temperature).mean()))
    assert found.effective_classes == pytest.approx(float(effective_classes(logits, temperature).mean()))
    assert found.non_target_mass == pytest.approx(float(non_target_mass(logits, labels, temperature).mean()))
    assert found.calibration_error == calibration_error(logits, labels, temperature)
    assert found.similarity == rank_correlation(class_similarity(logits, labels, temperature), reference)


# --- what it would be without similarity ---------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_smoothing_is_found_from_its_entropy(classes):
    for smoothing in (1e-9, 1e-4, 0.01, 0.3, 0.5, 0.9, 0.999):
        target = np.full(classes, smoothing / classes)
        target[0] += 1 - smoothing
        assert smoothing_at_entropy(entropy(target), classes) == pytest.approx(smoothing, rel=1e-6)
    assert smoothing_at_entropy(0.0, classes) == pytest.approx(0, abs=1e-15)
    assert smoothing_at_entropy(math.log(classes), classes) == pytest.approx(1, abs=1e-5)
    assert smoothing_at_entropy(math.log(classes) + 5e-7, classes) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("smoothing", [1e-6, 0.1, 0.7, 1.0])
def test_smoothed_labels_are_taught_as_they_are_written(smoothing, temperature):
    logits, labels = response(12)
    target = np.full((len(labels), CLASSES), smoothing / CLASSES)
    target[np.arange(len(labels)), labels] += 1 - smoothing
    control = smoothed_labels(logits, labels, smoothing, temperature)
    assert_close(soft_targets(control, temperature), torch.from_numpy(target), rtol=1e-11, atol=0)
    assert torch.equal(smoothed_labels(torch.zeros_like(logits), labels, smoothing, temperature), control)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):  # as autocast makes the teacher's
        assert_close(smoothed_labels(logits.to(dtype), labels, smoothing, temperature), control.float())


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_smoothed_labels_can_have_the_mean_entropy_of_a_response(temperature):
    logits, labels = response(13)
    mean = float(soft_target_entropy(logits, temperature).mean())
    control = smoothed_labels(logits, labels, smoothing_at_entropy(mean, CLASSES), temperature)
    assert soft_target_entropy(control, temperature).tolist() == pytest.approx([mean] * len(labels), rel=1e-9)
    flat = class_similarity(control, labels, temperature)
    assert_close(flat, (1 - torch.eye(CLASSES, dtype=torch.float64)) / (CLASSES - 1))


PERMUTED = {
    "by image": permuted_by_image,
    "by class": permuted_by_class,
    "by class, seed": partial(permuted_by_class, seed=5),
}
every_permutation = pytest.mark.parametrize("control", [pytest.param(c, id=name) for name, c in PERMUTED.items()])


@every_permutation
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("classes", [3, CLASSES])
def test_only_other_classes_change_places(control, dtype, classes):
    logits, labels = response(14, classes=classes)
    logits = logits.to(dtype)
    given = logits.clone()
    changed = control(logits, labels)
    assert torch.equal(logits, given)
    assert changed.dtype == dtype
    own = labels[:, None]
    assert torch.equal(changed.gather(1, own), logits.gather(1, own))
    assert torch.equal(changed.sort(1).values, logits.sort(1).values)
    assert not torch.equal(changed, logits)
    for temperature in TEMPERATURES:
        assert_close(soft_target_entropy(changed, temperature), soft_target_entropy(logits, temperature))
        before, after = (non_target_mass(each, labels, temperature) for each in (logits, changed))
        assert_close(after, before)


@every_permutation
def test_a_gradient_goes_back_to_the_place_where_a_logit_was(control):
    logits, labels = response(15, images=10)
    logits.requires_grad_()
    torch.manual_seed(0)
    changed = control(logits, labels)
    (changed * changed.detach().exp()).sum().backward()
    assert torch.equal(logits.grad, logits.detach().exp())


def test_places_are_drawn_anew_for_each_call_and_image_by_torchs_generator():
    logits = torch.arange(8.0).repeat(50, 1)
    labels = torch.full((50,), 3)
    torch.manual_seed(4)
    first, second = permuted_by_image(logits, labels), permuted_by_image(logits, labels)
    torch.manual_seed(4)
    assert torch.equal(permuted_by_image(logits, labels), first)
    assert not torch.equal(second, first)
    assert len(first.unique(dim=0)) > 40
    torch.manual_seed(5)
    assert not torch.equal(permuted_by_image(logits, labels), first)


@pytest.mark.parametrize("label", [0, 2, 4])
def test_all_orders_of_the_other_classes_are_equally_likely(label):
    logits = torch.arange(5.0).repeat(24_000, 1)
    torch.manual_seed(0)
    changed = permuted_by_image(logits, torch.full((24_000,), label))
    counts = Counter(map(tuple, changed.int().tolist()))
    assert len(counts) == 24
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_on_average_over_draws_the_other_classes_share_evenly():
    logits, labels = response(16)
    torch.manual_seed(0)
    mean = torch.stack([soft_targets(permuted_by_image(logits, labels)) for _ in range(2000)]).mean(0)
    even = (non_target_mass(logits, labels) / (CLASSES - 1))[:, None].expand(-1, CLASSES)
    is_label = F.one_hot(labels, CLASSES).bool()
    assert_close(mean[is_label], soft_targets(logits)[is_label])
    assert_close(mean[~is_label], even[~is_label], rtol=0.25, atol=0)
    labels = torch.arange(5).repeat_interleave(2000)
    told = class_similarity(draw(0, 5)[labels], labels)
    lost = class_similarity(permuted_by_image(draw(0, 5)[labels], labels), labels)
    flat = (1 - torch.eye(5, dtype=torch.float64)) / 4
    assert (told - flat).abs().max() > 0.2
    assert_close(lost, flat, rtol=0, atol=0.02)


def moves(classes: int, seed: int) -> list[dict[int, int]]:
    """Of each class: where the logit of each other class goes."""
    labels = torch.arange(classes)
    changed = permuted_by_class(torch.arange(float(classes)).repeat(classes, 1), labels, seed).int().tolist()
    return [
        {was: now for now, was in enumerate(row) if now != label} for row, label in zip(changed, labels, strict=True)
    ]


@pytest.mark.parametrize("classes", [3, 4, 10, 100])
def test_the_other_classes_of_a_class_move_around_one_cycle(classes):
    for label, move in enumerate(moves(classes, seed=1)):
        around = [next(iter(move))]
        while move[around[-1]] != around[0]:
            around.append(move[around[-1]])
        assert sorted(around) == [other for other in range(classes) if other != label]


def test_cycles_follow_the_seed_and_nothing_else():
    assert moves(10, seed=0) == moves(10, seed=0) != moves(10, seed=1)
    drawn = [[tuple(sorted(move.items())) for move in moves(5, seed)] for seed in range(600)]
    assert len(set(map(tuple, drawn))) > 500
    for label in range(5):  # six ways around four classes
        counts = Counter(each[label] for each in drawn)
        assert len(counts) == 6
        assert chisquare(list(counts.values())).pvalue > 0.001
    logits, labels = response(17)
    usual = permuted_by_class(logits, labels)
    assert torch.equal(usual, permuted_by_class(logits, labels, seed=0))
    torch.manual_seed(9)
    state = torch.get_rng_state()
    assert torch.equal(permuted_by_class(logits, labels), usual)
    assert torch.equal(torch.get_rng_state(), state)


def test_all_images_of_a_class_are_changed_alike_in_whatever_batch():
    logits, labels = response(18)
    changed = permuted_by_class(logits, labels, seed=2)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    assert torch.equal(permuted_by_class(logits[order], labels[order], seed=2), changed[order])
    assert torch.equal(permuted_by_class(logits[:3], labels[:3], seed=2), changed[:3])
    by_move = logits.clone()
    for image, label in enumerate(labels.tolist()):
        for was, now in moves(CLASSES, seed=2)[label].items():
            by_move[image, now] = logits[image, was]
    assert torch.equal(changed, by_move)
    told, wrong = (class_similarity(each, labels) for each in (logits, changed))
    assert_close(wrong.sort(1).values, told.sort(1).values)
    assert ((wrong - told).abs() > 1e-9).sum() == CLASSES * (CLASSES - 1)


# --- soft targets with a control -----------------------------------------------------------------

CONTROLS = {
    "permuted by image": permuted_by_image,
    "permuted by class": partial(permuted_by_class, seed=3),
    "smoothed": partial(smoothed_labels, smoothing=0.3, temperature=2.0),
    "hard": partial(smoothed_labels, smoothing=1e-4, temperature=2.0),
}
every_control = pytest.mark.parametrize("control", [pytest.param(c, id=name) for name, c in CONTROLS.items()])


def linear(seed: int, classes: int = 4) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))


@every_control
def test_the_loss_is_that_of_the_controls_logits(control):
    student, teacher = linear(0), linear(1)
    images, labels = torch.randn(12, 3, 4, 4), torch.arange(12) % 4
    torch.manual_seed(0)
    logits, terms = SoftTargets(2.0, control=control)(student, teacher, images, labels)
    torch.manual_seed(0)
    taught = control(teacher(images), labels)
    assert torch.equal(logits, student(images))
    assert torch.equal(terms["soft targets"], kd_loss(logits, taught, 2.0))
    assert torch.equal(terms["cross-entropy"], F.cross_entropy(logits, labels))
    assert not torch.equal(terms["soft targets"], kd_loss(logits, teacher(images), 2.0))


def test_without_a_control_soft_targets_are_what_they_were():
    student, teacher, images, labels = linear(0), linear(1), torch.randn(12, 3, 4, 4), torch.arange(12) % 4
    _, terms = SoftTargets()(student, teacher, images, labels)
    assert torch.equal(terms["soft targets"], kd_loss(student(images), teacher(images), 4.0))
    assert repr(SoftTargets()) == "SoftTargets(temperature=4)"
    assert repr(SoftTargets(2.5)) == "SoftTargets(temperature=2.5)"
    with pytest.raises(ValueError, match="soft targets come from a teacher"):
        SoftTargets(control=permuted_by_image)(student, None, images, labels)


def test_a_step_names_its_control():
    named = {name: repr(SoftTargets(2.0, control)) for name, control in CONTROLS.items()}
    assert named == {
        "permuted by image": "SoftTargets(temperature=2, control=permuted_by_image)",
        "permuted by class": "SoftTargets(temperature=2, control=permuted_by_class with seed=3)",
        "smoothed": "SoftTargets(temperature=2, control=smoothed_labels with smoothing=0.3, temperature=2.0)",
        "hard": "SoftTargets(temperature=2, control=smoothed_labels with smoothing=0.0001, temperature=2.0)",
    }


@every_control
def test_a_control_leaves_the_teacher_as_it_was(control):
    data, teacher = textures(WHITE, WHITE, STEEP, STEEP, images=4, size=4), linear(1)
    before = tensors(teacher)
    recipe = Recipe(epochs=1, batch_size=8, augment=False, learning_rate=0.05)
    train(linear(0), data, recipe, teacher=teacher, step=SoftTargets(2.0, control))
    assert same(tensors(teacher), before)
    assert all(p.grad is None and p.requires_grad for p in teacher.parameters())


# --- controls as plain data ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with four shades in noise, and the weights of a teacher that has learned nothing but is rather sure."""
    place = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {"classes": np.array(["black", "dark", "light", "white"])}
    for part, count, noise in (("train", 32, 30), ("test", 16, 60)):
        labels = np.arange(count) % 4
        shade = 50 + 50 * labels[:, None, None, None] + noise * rng.standard_normal((count, 16, 16, 3))
        arrays |= {f"{part}_images": shade.clip(0, 255).astype(np.uint8), f"{part}_labels": labels}
    np.savez(place / "shades.npz", **arrays)
    torch.save(sure_teacher().state_dict(), place / "teacher.pt")
    return place


def sure_teacher(scale: float = 60) -> nn.Module:
    teacher = build("vgg8x0.125", 4, seed=5)
    with torch.no_grad():
        [*teacher.parameters()][-2].mul_(scale)  # of the last layer, which comes with logits near 0
    return teacher.eval()


@pytest.fixture(scope="module")
def shades(place) -> LabelledImages:
    return open_dataset(place / "shades.npz")


def plan(place: Path, control: str, seed: int = 0, **settings: Any) -> Plan:
    soft = {"weight": 0.9, "control": control, **settings}
    told = {
        "seeds": [seed],
        "pairs": [
            {"student": "vgg8x0.0625", "teacher": "vgg8x0.125", "teacher_weights": str(place / "teacher.pt")},
        ],
        "protocols": {"quick": {"data": str(place / "shades.npz"), "epochs": 2, "batch_size": 8, "augment": False}},
        "methods": {"control": {"cross-entropy": 0.1, "soft targets": soft}},
    }
    return planned_runs(told)[0]


def step_of(
    control: str, shades: LabelledImages, seed: int = 0, teacher: nn.Module | None = None, **settings: Any
) -> SoftTargets:
    method = {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "control": control, **settings}}
    step, weights = method_step(method, build("vgg8x0.0625", 4), teacher or sure_teacher(), shades, seed)
    assert weights == {"cross-entropy": 0.1, "soft targets": 0.9}
    return step


def test_each_control_trains_another_student_and_is_recorded(place):
    outcomes = {}
    for control in CONTROLS:
        one = plan(place, control, temperature=2)
        outcomes[control] = do_run(one, None)
        assert set(outcomes[control].curves) >= {"cross-entropy", "soft targets"}
        assert outcomes[control].method == repr(step_of(control, open_dataset(place / "shades.npz"), temperature=2))
    assert len({run.method for run in outcomes.values()}) == 4
    assert len({plan(place, control).folder for control in CONTROLS}) == 4
    networks = [tensors(run.network) for run in outcomes.values()]
    assert not any(same(*two) for two in combinations(networks, 2))


@pytest.mark.parametrize("settings", [{}, {"temperature": 1}, {"temperature": 10.0}])
def test_smoothed_labels_have_the_entropy_of_what_the_teacher_says_of_training_images(shades, settings):
    teacher, step, temperature = sure_teacher(), step_of("smoothed", shades, **settings), settings.get("temperature", 4)
    means = []
    for images in (shades.train_images, shades.test_images):
        with torch.no_grad():
            logits = teacher(shades.normalise(images)).double().numpy()
        means.append(entropy(softmax(logits / temperature, axis=1), axis=1).mean())
    assert abs(means[0] - means[1]) > 0.003  # so that it can be told which images were asked
    assert step.temperature == temperature
    control = step.control(torch.zeros(4, 4, dtype=torch.float64), torch.arange(4))
    assert soft_target_entropy(control, temperature).tolist() == pytest.approx([means[0]] * 4, abs=5e-4)


@pytest.mark.parametrize("scale", [8_000, 20_000, 10**6])
def test_a_teacher_that_is_ever_so_sure_has_smoothed_labels_too(shades, scale):
    teacher = sure_teacher(scale)
    mean = float(soft_target_entropy(responses(teacher, shades, shades.train_images)).mean())
    step = step_of("smoothed", shades, teacher=teacher, temperature=1)
    assert mean < 0.01
    control = step.control(torch.zeros(4, 4, dtype=torch.float64), torch.arange(4))
    assert soft_target_entropy(control).tolist() == pytest.approx([mean] * 4, rel=1e-3, abs=1e-12)


def test_hard_labels_are_nearly_all_the_labels(shades):
    images, labels = torch.randn(12, 3, 4, 4), torch.arange(12) % 4
    student = linear(0)
    for temperature in (1, 4):
        step = step_of("hard", shades, temperature=temperature)
        control = step.control(torch.randn(4, 4, dtype=torch.float64), torch.arange(4))
        assert_close(soft_targets(control, temperature), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-4)
        soft = step(student, linear(1), images, labels)[1]["soft targets"]
        hard = temperature**2 * F.cross_entropy(student(images) / temperature, labels)
        assert_close(soft, hard, rtol=0.01, atol=0)


def test_the_entropy_of_many_images_is_that_of_some_all_over_them(shades, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.experiments.methods.ENTROPY_OF", 4)
    step = step_of("smoothed", shades)
    logits = responses(sure_teacher(), shades, shades.train_images[[0, 8, 16, 24]])
    mean = float(soft_target_entropy(logits, 4.0).mean())
    assert step.control.keywords["smoothing"] == pytest.approx(smoothing_at_entropy(mean, 4), abs=1e-4)


def test_cycles_of_a_run_are_drawn_by_its_seed(shades):
    logits, labels = response(19, classes=4)
    for seed in (0, 3):
        step = step_of("permuted by class", shades, seed)
        assert torch.equal(step.control(logits, labels), permuted_by_class(logits, labels, seed))
        assert repr(step) == f"SoftTargets(temperature=4, control=permuted_by_class with seed={seed})"
    assert step_of("permuted by image", shades).control is permuted_by_image


def test_making_a_control_leaves_the_teacher_and_the_callers_randomness(shades):
    teacher = sure_teacher().train()
    before, state = tensors(teacher), torch.get_rng_state()
    for control in CONTROLS:
        method = {"cross-entropy": 0.1, "soft targets": {"weight": 0.9, "control": control}}
        method_step(method, build("vgg8x0.0625", 4), teacher, shades)
    assert teacher.training
    assert same(tensors(teacher), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_control_that_is_not_known_is_answered_with_those_that_are(place, shades):
    known = "there are 'hard', 'permuted by class', 'permuted by image', 'smoothed'"
    for wrong, answer in [
        ("xyz", known),
        (None, known),
        (3, known),
        ("permuted by classes", "did you mean 'permuted by class'"),
        ("smooth", "did you mean 'smoothed'"),
    ]:
        sentence = f"method 'control', term 'soft targets': no control {wrong!r}; {answer}"
        with pytest.raises(ValueError, match=sentence):
            plan(place, wrong)
        with pytest.raises(ValueError, match=f"no control {wrong!r}"):
            step_of(wrong, shades)
    with pytest.raises(ValueError, match="no setting 'controls'; did you mean 'control'"):
        step_of("smoothed", shades, controls="smoothed")
    with pytest.raises(ValueError, match="needs a teacher"):
        method_step({"cross-entropy": 1, "soft targets": {"weight": 1, "control": "smoothed"}}, linear(0), None, shades)


def test_a_run_that_was_stopped_draws_on_as_an_unbroken_one(place, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)
    one = plan(place, "permuted by image", temperature=2)
    unbroken = do_run(one, None)
    with pytest.raises(KeyboardInterrupt, match="in epoch 1; the same call goes on from here"):
        do_run(one, tmp_path, callback=InterruptedAt(1))
    torch.manual_seed(77)
    heard = []
    again = do_run(one, tmp_path, callback=heard.append)
    assert (heard[0].epoch, heard[0].step) == (1, 3)
    assert same(tensors(again.network), tensors(unbroken.network))
    other = do_run(plan(place, "permuted by image", seed=1, temperature=2), None)
    assert other.curves["soft targets"] != unbroken.curves["soft targets"]


# --- asking a network ----------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 40, 500])
def test_a_response_is_what_the_network_says_in_eval_mode(batch_size):
    data, network = stripes(), Tiny(seed=3).train()
    network.bn.eval()
    before = tensors(network)
    found = responses(network, data, data.test_images, batch_size=batch_size)
    assert network.training
    assert network.dropout.training
    assert not network.bn.training
    assert same(tensors(network), before)
    assert not found.requires_grad
    with torch.no_grad():
        wanted = network.eval()(data.normalise(data.test_images))
    assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    right = (wanted.argmax(1) == data.test_labels).double().mean()
    assert evaluate(network, data, batch_size) == pytest.approx(100 * float(right))


def test_a_response_of_reduced_precision_is_rounded_only():
    data, network = stripes(), Tiny(seed=3)
    full, low = (responses(network, data, data.train_images, precision=p) for p in ("float32", "bfloat16"))
    assert (full.dtype, low.dtype) == (torch.float32, torch.bfloat16)
    assert_close(low.float(), full, rtol=0.05, atol=0.02)
    assert not torch.equal(low.float(), full)


def test_a_network_that_fails_is_left_in_its_modes_too():
    data, network = stripes(), Tiny().train()
    network.bn.eval()
    network.fc.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        responses(network, data, data.test_images)
    assert network.training
    assert not network.bn.training


# --- what is refused -----------------------------------------------------------------------------

OF_LOGITS = (
    lambda logits, labels, *given: soft_targets(logits, *given),
    lambda logits, labels, *given: soft_target_entropy(logits, *given),
    lambda logits, labels, *given: effective_classes(logits, *given),
    lambda logits, labels, *given: fidelity(logits, logits, *given),
)
OF_BOTH = non_target_mass, class_similarity, calibration_error
OF_LABELS = *OF_BOTH, partial(smoothed_labels, smoothing=0.1), permuted_by_image


def test_logits_that_say_nothing_are_refused():
    _, labels = response(20)
    shape = "logits of shape .*; give \\(images, classes\\), of two classes or more"
    for measure in (*OF_LOGITS, *OF_BOTH):
        for wrong in (torch.zeros(5), torch.zeros(0, 5), torch.zeros(5, 1), torch.zeros(5, 5, 5)):
            with pytest.raises(ValueError, match=shape):
                measure(wrong, labels)
        for value in (math.nan, math.inf, -math.inf):
            logits = response(20)[0].index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(value).double())
            with pytest.raises(ValueError, match="logits have to be finite"):
                measure(logits, labels)
        for temperature in (0, -1.0, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"temperature={temperature} softens nothing; give a positive number"):
                measure(response(20)[0], labels, temperature)


def test_labels_that_are_none_are_refused():
    logits, labels = response(21)
    kinds = labels[:-1], labels.double(), labels.bool(), labels[:, None], F.one_hot(labels, CLASSES)
    for measure, wrong in product(OF_LABELS, kinds):
        with pytest.raises(ValueError, match=r"labels are torch.*; give 60 whole numbers, one an image"):
            measure(logits, wrong)
    for measure, wrong in product(OF_LABELS, (-1, CLASSES)):
        strange = labels.clone()
        strange[5] = wrong
        with pytest.raises(ValueError, match=f"labels go from {strange.min()} to {strange.max()}, and there are 7"):
            measure(logits, strange)


def test_classes_without_images_are_refused():
    logits, labels = response(22)
    with pytest.raises(ValueError, match="of 7 classes, 6 have images; each needs one"):
        class_similarity(logits, labels.masked_fill(labels == 2, 0))
    with pytest.raises(ValueError, match="of 7 classes, 6 have images; each needs one"):
        centroid_similarity(logits, labels.masked_fill(labels == 2, 0))


def test_similarities_that_cannot_be_compared_are_refused():
    good = draw(0, 5)
    for wrong, sentence in [
        (draw(0, 6), r"similarities of \d and of \d classes cannot be compared"),
        (good[:4], r"a similarity of shape \(4, 5\); give \(classes, classes\), of 3 or more"),
        (good[0], r"a similarity of shape \(5,\)"),
        (good[:2, :2], r"a similarity of shape \(2, 2\)"),
        (torch.ones(5, 5), "in one of the similarities all pairs of classes are alike, so there is nothing to rank"),
        (torch.eye(5), "all pairs of classes are alike"),
        (good.index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(math.nan).double()), "has to be finite"),
        (good.index_put((torch.tensor(3), torch.tensor(1)), torch.tensor(math.inf).double()), "has to be finite"),
    ]:
        for both in ((wrong, good), (good, wrong)):
            with pytest.raises(ValueError, match=sentence):
                rank_correlation(*both)


def test_features_that_tell_nothing_are_refused():
    labels = torch.tensor([0, 1, 2, 0])
    with pytest.raises(ValueError, match="the classes' mean features are all the same"):
        centroid_similarity(torch.ones(4, 3), labels)
    for wrong in (torch.ones(4), torch.ones(5, 3), torch.ones(4, 3, 3)):
        with pytest.raises(ValueError, match=r"features .* and labels .*; give \(N, D\) and \(N,\)"):
            centroid_similarity(wrong, labels)


def test_what_else_cannot_be_is_refused():
    logits, labels = response(23)
    for bins in (0, -3):
        with pytest.raises(ValueError, match=f"bins={bins}; give 1 or more"):
            calibration_error(logits, labels, bins=bins)
    for student in (logits[:-1], logits[:, :-1], logits[0]):
        with pytest.raises(ValueError, match="both must be for the same images and classes"):
            fidelity(student, logits)
    for value, classes in ((-0.1, 10), (2.4, 10), (math.nan, 10), (math.inf, 10), (0.7, 2), (0.1, 1)):
        with pytest.raises(ValueError, match=f"targets of {classes} classes have entropies from 0 to .*, not {value}"):
            smoothing_at_entropy(value, classes)
    for smoothing in (0.0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=f"smoothing={smoothing} gives no finite logits"):
            smoothed_labels(logits, labels, smoothing)
    with pytest.raises(ValueError, match="temperature=0 softens nothing"):
        smoothed_labels(logits, labels, 0.1, 0)
    with pytest.raises(ValueError, match="of 2 classes one is the label and one the other, which has no other place"):
        permuted_by_class(logits[:, :2], labels.clamp(max=1))


# --- rounding, order, and what cannot be measured ------------------------------------------------


def test_the_order_of_images_plays_no_part_in_a_reference():
    three = ROWS, COLUMNS, WHITE
    data = textures(*three, *three, contrasts=(30, 30, 0, 30, 30, 0), images=300)
    pixels = data.train_images * (data.train_images != 128)  # the even ones are black
    order = data.train_labels.argsort(descending=True, stable=True)
    order = torch.cat([order[data.train_labels[order] % 3 == 2], order[data.train_labels[order] % 3 != 2]])
    mixed = reference_similarity(replace(data, train_images=pixels))
    by_class = reference_similarity(replace(data, train_images=pixels[order], train_labels=data.train_labels[order]))
    assert_close(by_class, mixed, rtol=0, atol=0.05)


def test_a_feature_that_is_the_same_for_all_plays_no_part_whatever_its_value():
    labels = torch.tensor([0] * 7 + [1] * 23 + [2] * 30)
    told = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant = torch.full((60, 1), 0.1, dtype=torch.float64)
    assert_close(centroid_similarity(torch.cat([told, constant], 1), labels), centroid_similarity(told, labels))
    with pytest.raises(ValueError, match="all the same"):
        centroid_similarity(constant, labels)


def test_features_that_are_not_finite_are_refused():
    features = torch.randn(6, 3)
    features[0, 1] = math.nan
    with pytest.raises(ValueError, match="finite"):
        centroid_similarity(features, torch.arange(6) % 3)


def test_a_class_in_the_middle_of_all_is_like_itself():
    features = torch.tensor([[-1.0], [0.0], [1.0]])
    assert_close(centroid_similarity(features, torch.arange(3)).diag(), torch.ones(3, dtype=torch.float64))


def test_a_description_refuses_in_sentences():
    logits, labels = response(0)
    for wrong in ((logits[0], labels), (logits, labels[:-1])):
        with pytest.raises(ValueError, match="give"):
            describe_response(*wrong, draw(0, 7))


def test_two_classes_cannot_be_permuted_by_image_either():
    with pytest.raises(ValueError, match="2 classes"):
        permuted_by_image(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))


def test_a_strange_label_is_answered_alike_everywhere():
    with pytest.raises(ValueError, match="labels go from"):
        permuted_by_class(torch.randn(2, 4), torch.tensor([0, 4]))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8])
def test_labels_may_be_any_whole_numbers(dtype):
    logits, labels = response(0)
    assert torch.equal(permuted_by_class(logits, labels.to(dtype)), permuted_by_class(logits, labels))


@pytest.mark.parametrize("permutations", [0, -1])
def test_a_p_needs_a_naming(permutations):
    with pytest.raises(ValueError, match="permutations"):
        rank_correlation(draw(0), draw(1), permutations=permutations)


@pytest.mark.parametrize("classes", [10, 5000, 21841])
def test_the_largest_entropy_in_float32_has_a_smoothing(classes):
    mean = float(soft_target_entropy(torch.zeros(3, classes)).mean())
    assert smoothing_at_entropy(mean, classes) == pytest.approx(1, abs=1e-3)


def test_colours_on_equal_spectra_are_all_that_is_seen():
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(40, 216, (8, 1, 16, 16), generator=generator)
    red, blue = (grey + 20 * torch.tensor(cast)[:, None, None] for cast in ((1, 0, -1), (-1, 0, 1)))
    labels = torch.arange(4).repeat_interleave(8)
    told = torch.cat([red, blue, red, blue]).to(torch.uint8), labels
    found = reference_similarity(LabelledImages("casts", *told, *told, ("red", "blue", "Red", "Blue")))
    assert_close(found, torch.tensor([[1.0, -1, 1, -1], [-1, 1, -1, 1]], dtype=torch.float64).repeat(2, 1))
