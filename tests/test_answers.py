"""Every exercise has an answer that its check accepts, and is handed out unsolved."""

import importlib.util
import math
import re
from functools import cache
from itertools import combinations
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from spectralkd_nb import course, pictures
from spectralkd_nb.activations import ActivationSpectra, activation_spectra
from spectralkd_nb.adaptation import pointwise_fit
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.depth_law import Setting
from spectralkd_nb.experiments import SweetSpot, Teacher
from spectralkd_nb.losses import nst_loss, spectral_shape_loss
from spectralkd_nb.networks import build
from spectralkd_nb.teacher_quality import permuted_by_image, smoothed_labels

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))

specification = importlib.util.spec_from_file_location("answers", ROOT / ".ci" / "answers.py")
answers = importlib.util.module_from_spec(specification)
specification.loader.exec_module(answers)


def last_value(code: str, names: dict) -> object:
    """Run code as a cell: everything, and the value of its last line."""
    import ast

    body = ast.parse(code).body
    exec(compile(ast.Module(body[:-1], []), "cell", "exec"), names)
    return eval(compile(ast.Expression(body[-1].value), "cell", "eval"), names)


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request) -> Path:
    return request.param


@pytest.fixture
def names(lesson) -> dict:
    """What the lesson's first two code cells define."""
    cells = [cell.source for cell in nbformat.read(lesson, as_version=4).cells if cell.cell_type == "code"]
    names = {}
    for code in cells[:2]:
        exec(code, names)
    return names


def test_every_exercise_is_open_as_handed_out_and_solved_by_its_answer(lesson, names):
    cells = answers.exercises(nbformat.read(lesson, as_version=4))
    solved = answers.answers(lesson.stem)
    assert 2 <= len(cells) <= 4
    assert cells.keys() == solved.keys()
    for number, cell in cells.items():
        handed_out = last_value(cell.source, dict(names))
        assert not handed_out.solved
        assert handed_out.text.startswith(f"Exercise {number} is open: ")
        verdict = last_value(solved[number], dict(names))
        assert verdict.solved, verdict.text
        assert verdict.text.startswith(f"Exercise {number} is solved: ")


def test_no_answer_stands_in_the_lesson(lesson):
    text = "\n".join(cell.source for cell in nbformat.read(lesson, as_version=4).cells)
    for code in answers.answers(lesson.stem).values():
        assert code.splitlines()[-2].strip() not in text


def test_the_teachers_copy_has_the_answers_and_no_outputs(lesson):
    copy = answers.teachers_copy(lesson)
    nbformat.validate(copy)
    sources = "\n".join(cell.source for cell in copy.cells)
    for number, code in answers.answers(lesson.stem).items():
        assert f"# Exercise {number}, answer\n{code}" in sources
    assert not any(cell.outputs for cell in copy.cells if cell.cell_type == "code")


def test_every_exercise_has_hints_by_degree(lesson):
    cells = nbformat.read(lesson, as_version=4).cells
    for number, cell in answers.exercises(nbformat.NotebookNode(cells=cells)).items():
        before = cells[cells.index(cell) - 1]
        assert before.cell_type == "markdown", number
        assert before.source.count("<details>") >= 2, number


@cache
def measured() -> ActivationSpectra:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return activation_spectra(build("resnet8", 10), images, progress=False)


def smallest_gap(spectra: ActivationSpectra) -> str:
    pooled, normalised = (spectra.table(average) for average in ("pooled", "normalised"))
    gap = (pooled.alpha - normalised.alpha).abs()[pooled.kind == "Conv2d"]
    return pooled.path[gap.idxmin()]


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (lambda: course.check_band_exponents([2.6, 2.2]), "3 exponents are asked for"),
        (lambda: course.check_band_exponents([2.6, 2.6, 2.6]), "is not what the band from"),
        (lambda: course.check_band_exponents([2.6, "2.2", 2.6]), "is no list of exponents"),
        (lambda: course.check_band_exponents(1.9), "is no list of exponents"),
        (lambda: course.check_phase_noise([1]), "the cat has (300, 451) pixels, and this has (1,)"),
        (lambda: course.check_phase_noise("cat"), "a tensor of numbers is asked for"),
        (lambda: course.check_phase_noise(torch.ones(300, 451, dtype=torch.complex64)), "a tensor of numbers"),
        (lambda: course.check_phase_noise(torch.full((300, 451), math.nan)), "its numbers have to be finite"),
        (lambda: course.check_phase_noise(np.ones((300, 451), dtype=int)), "its power is not the cat's"),
        (lambda: course.check_phase_noise(torch.zeros(8, 8)), "the cat has"),
        (lambda: course.check_phase_noise(torch.rand(300, 451)), "its power is not the cat's"),
        (lambda: course.check_phase_noise(pictures.photographs()["chelsea"].grey()), "still looks like the cat"),
        (lambda: course.check_leaf_density(3.4), "and 2.4 is wanted"),
        (lambda: course.check_leaf_density("3"), "'3' is no exponent between -20 and 20"),
        (lambda: course.check_leaf_density(21), "21 is no exponent between -20 and 20"),
        (lambda: course.check_leaf_density(-20), "and 2.4 is wanted"),
        (lambda: course.check_relu_loss(3.0), "and another loses more"),
        (lambda: course.check_relu_loss("1.5"), "'1.5' is no exponent between 0 and 3"),
        (lambda: course.check_relu_loss(4), "4 is no exponent between 0 and 3"),
        (lambda: course.check_steep_kernel(torch.eye(3)), "it takes alpha from 2 to"),
        (lambda: course.check_steep_kernel([[1, 0, 0], [0, 1, 0], [0, 0, 1]]), "it takes alpha from 2 to"),
        (lambda: course.check_steep_kernel("3 x 3"), "a tensor of 3 x 3 numbers is asked for"),
        (lambda: course.check_steep_kernel(torch.full((3, 3), math.nan)), "its numbers have to be finite"),
        (lambda: course.check_steep_kernel(torch.zeros(3, 3)), "lets nothing pass"),
        (lambda: course.check_steep_kernel(torch.ones(2, 2)), "and 3 x 3 is wanted"),
        (lambda: course.check_average_gap("conv", measured()), "is no convolution of this network"),
        (lambda: course.check_average_gap(smallest_gap(measured()), measured()), "those of another by more"),
        (lambda: course.check_steps(30 * 43, open_dataset("photographs")), "does the last, smaller batch count?"),
        (lambda: course.check_steps(torch.tensor([1, 2]), open_dataset("photographs")), "is no whole number"),
        (lambda: course.check_confidence_step(lambda *_: 1), "a step returns a pair"),
        (lambda: course.check_confidence_step(lambda student: student), "it ends with TypeError"),
        (lambda: course.check_confidence_step(lambda student, *_: (student(0), {1: 2})), "'cross-entropy' among 1"),
        (
            lambda: course.check_confidence_step(lambda student, *_: (student(0), {"cross-entropy": 1.5})),
            "the term 'cross-entropy' is no finite number in a tensor",
        ),
        (
            lambda: course.check_confidence_step(lambda student, *_: (student(0), {"cross-entropy": student(0)})),
            "the term 'cross-entropy' is no finite number in a tensor",
        ),
        (
            lambda: course.check_confidence_step(lambda student, *_: (student(0), {})),
            "no term 'cross-entropy' among none",
        ),
        (lambda: course.check_confidence_step(lambda *_: (0, {})), "is not what the student answered"),
    ],
)
def test_wrong_answers_are_told_why(verdict, why):
    assert not verdict().solved
    assert why in repr(verdict())


def beside_the_answer(check: str) -> tuple[object, ...]:
    """What a lesson gives a check beside the answer."""
    teacher, images = build("vgg8x0.0625", 4), torch.zeros(4, 3, 32, 32)
    return {
        "check_average_gap": lambda: (measured(),),
        "check_equal_octaves": pair,
        "check_representatives": lambda: (torch.eye(6).view(1, 6, 2, 3),),
        "check_equal_doubt": two_teachers,
        "check_winners_luck": lambda: (SPOT,),
        "check_best_students": lambda: (mixed_target(), 3),
        "check_smaller_module": lambda: (teacher, "layer3", images),
        "check_seeds_an_hour": lambda: (pd.DataFrame({"method": ["a", "b"], "seconds": [30.0, 70.0]}),),
        "check_steps": lambda: (open_dataset("photographs"),),
    }.get(check, tuple)()


@pytest.mark.parametrize("answer", ["x", [1], object(), torch.zeros(2)], ids=lambda answer: type(answer).__name__)
@pytest.mark.parametrize("check", [name for name in course.__all__ if name.startswith("check_")])
def test_an_answer_of_a_wrong_kind_is_not_yet_right_and_no_error(check, answer):
    verdict = getattr(course, check)(answer, *beside_the_answer(check))
    assert isinstance(verdict, course.Verdict)
    assert not verdict.solved
    assert ", not yet: " in verdict.text


# --- lesson 3 -----------------------------------------------------------------------------------

NO_NUMBERS = ["0.1", "", [], [0.1], {}, 1j, math.nan, math.inf, -math.inf, float, Setting(), np.ones(2), torch.ones(2)]


def kind_of(answer: object) -> str:
    return type(answer).__name__


def refused(verdict: course.Verdict, exercise: str) -> str:
    """What is said of an answer that is none: one sentence, whatever the answer."""
    assert not verdict.solved
    assert repr(verdict) == verdict.text
    assert verdict.text.startswith(f"Exercise {exercise}, not yet: ")
    assert verdict.text.endswith(".")
    return verdict.text


@pytest.mark.parametrize("check", [course.check_still_point, course.check_halved, course.check_straight_fall])
def test_no_answer_at_all_leaves_an_exercise_of_lesson_3_open(check):
    assert not check(None).solved
    assert " is open: replace None by " in check(None).text


@pytest.mark.parametrize("answer", [*NO_NUMBERS, 1, -1, 1.5, 13, 10**400, True, False], ids=kind_of)
def test_what_is_no_correlation_is_told_so(answer):
    said = refused(course.check_still_point(answer), "3.1")
    assert said.endswith(f"{answer!r} is no correlation; it lies between 0 and 0.5.")


@pytest.mark.parametrize(
    ("answer", "way"),
    [(0, "falls"), (0.1, "falls"), (np.float64(0.1), "falls"), (torch.tensor(0.1), "falls"), (0.2, "rises"),
     (0.5, "rises"), (1 - 1e-12, "rises"), (1 - 2**-53, "rises"), (5e-324, "falls")],
)  # fmt: skip
def test_a_correlation_at_which_alpha_moves_is_told_where_to(answer, way):
    said = refused(course.check_still_point(answer), "3.1")
    assert re.search(rf" alpha {way} from 1\.00 to -?\d\.\d\d\.$", said)


@pytest.mark.parametrize("answer", [-0.5, -0.999999, 2**-53 - 1])
def test_a_correlation_below_0_has_an_answer_too(answer):
    refused(course.check_still_point(answer), "3.1")


def test_alpha_stays_at_a_single_correlation_between_0_and_a_half():
    solved = [correlation / 100 for correlation in range(51) if course.check_still_point(correlation / 100).solved]
    assert solved
    assert max(solved) - min(solved) < 0.03
    assert re.search(r"alpha is 1\.00 at first and \d\.\d\d after 12", course.check_still_point(solved[0]).text)


@pytest.mark.parametrize("answer", [*NO_NUMBERS, 8.5], ids=kind_of)
def test_what_is_no_whole_number_of_layers_is_told_so(answer):
    assert refused(course.check_halved(answer), "3.2").endswith(f"{answer!r} is no whole number.")


@pytest.mark.parametrize("answer", [-(10**400), -3, -1, 21, 10**400], ids=kind_of)
def test_layers_beyond_the_network_are_told_where_to_look(answer):
    assert refused(course.check_halved(answer), "3.2").endswith("; try 1 to 20.")


def test_one_number_of_layers_is_right_and_of_the_others_alpha_is_told():
    verdicts = {layers: course.check_halved(layers) for layers in range(21)}
    (right,) = [layers for layers, verdict in verdicts.items() if verdict.solved]
    for layers in verdicts.keys() - {right}:
        said = refused(verdicts[layers], "3.2")
        alpha = float(re.search(r"below 1\.30; it is (\d\.\d\d) there\.$", said)[1])
        assert (alpha >= 1.3) == (layers < right)
    for answer in (float(right), np.int64(right), torch.tensor(right), torch.tensor(float(right))):
        assert course.check_halved(answer).text == verdicts[right].text


@pytest.mark.parametrize("answer", [True, False])
def test_a_yes_or_a_no_is_no_number_of_layers(answer):
    refused(course.check_halved(answer), "3.2")


@pytest.mark.parametrize(
    "answer", [*NO_NUMBERS[:10], 12, True, Setting, {"depth": 12}, np.ones(2), torch.ones(2)], ids=kind_of
)
def test_what_is_no_setting_is_told_so(answer):
    assert refused(course.check_straight_fall(answer), "3.3").endswith("a Setting(...) is asked for.")


@pytest.mark.parametrize("depth", [-5, 0, 1, 11])
def test_a_network_of_fewer_than_12_layers_is_told_so(depth):
    said = refused(course.check_straight_fall(Setting(correlation=0.05, depth=depth)), "3.3")
    assert said.endswith(f"{depth} layers are not 12.")


@pytest.mark.parametrize(
    "setting",
    [
        Setting(depth=12),
        Setting(correlation=0.2, depth=12),
        Setting(batch_norm=False, depth=12),
        Setting(skip=True, depth=12),
        Setting(alpha=0.0, depth=12),
        Setting(relu=False, depth=12),
        Setting(correlation=0.99999, depth=12),
        Setting(correlation=0.05, depth=60),
    ],
)
def test_a_network_whose_alpha_does_not_fall_along_a_line_is_told_how_it_moves(setting):
    said = refused(course.check_straight_fall(setting), "3.3")
    assert re.search(r"alpha moves by [+-]\d\.\d{3} a layer, R2 \d\.\d{4}\.$", said)


@pytest.mark.parametrize(
    "options",
    [
        {"correlation": 2},
        {"correlation": math.nan},
        {"shared": math.nan},
        {"alpha": math.inf},
        {"post_activation": True},
        {"post_activation": True, "skip": True, "inputs": 3},
        {"depth": 12.5},
        {"depth": "12"},
        {"correlation": "0.1"},
    ],
    ids=repr,
)
def test_a_setting_that_theory_has_nothing_to_say_of_is_told_so(options):
    refused(course.check_straight_fall(Setting(**{"depth": 12, **options})), "3.3")


# --- lesson 4 -----------------------------------------------------------------------------------


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return pictures.power_law_field(16, 1.0, 8, torch.Generator().manual_seed(0))[None], torch.zeros(1, 8, 16, 16)


@pytest.mark.parametrize("answer", [*NO_NUMBERS, 10**400, 10, True], ids=kind_of)
def test_what_is_no_beta_is_told_so(answer):
    assert refused(course.check_equal_octaves(answer, *pair()), "4.1").endswith("is no number between -10 and 10.")


def test_two_octaves_are_equal_at_one_beta_only():
    verdicts = {beta: course.check_equal_octaves(beta / 10, *pair()) for beta in range(-30, 30)}
    solved = [beta for beta, verdict in verdicts.items() if verdict.solved]
    assert solved
    assert max(solved) - min(solved) <= 4
    assert min(abs(beta / 10 - (1.0 - 2)) for beta in solved) < 0.3  # beta = alpha - 2
    for beta in verdicts.keys() - set(solved):
        coarser, finest = map(float, re.search(r"they have ([\d.]+) and ([\d.]+) %", verdicts[beta].text).groups())
        assert (finest > coarser) == (beta > solved[0])
    assert course.check_equal_octaves(torch.tensor(solved[0] / 10), *pair()).solved


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (3, "is no function"),
        (lambda student: student, "it ends with TypeError"),
        (lambda student, teacher: "a", "it ends with "),
        (lambda student, teacher: (student - teacher).square().mean(), "of shifted features it says"),
        (lambda student, teacher: student.square().mean(), "of equal features it says"),
        (lambda student, teacher: (0 * student).sum(), "and more than 0 is wanted"),
        (lambda student, teacher: (student.mean() - teacher.mean()).abs() * math.nan, "and more than 0 is wanted"),
        (lambda student, teacher: (student.std() - teacher.std()).abs().detach(), "no gradient to learn from"),
    ],
)
def test_a_loss_that_is_none_or_sees_shifts_is_told_why(loss, why):
    assert why in refused(course.check_shift_blind_loss(loss), "4.2")


def test_any_loss_without_phases_is_right():
    assert course.check_shift_blind_loss(spectral_shape_loss).solved
    assert course.check_shift_blind_loss(lambda student, teacher: (student.std() - teacher.std()).square()).solved


@pytest.mark.parametrize("answer", [*NO_NUMBERS, 8.5, True], ids=kind_of)
def test_what_is_no_number_of_seeds_is_told_so(answer):
    assert refused(course.check_planned_seeds(answer), "4.3").endswith(f"{answer!r} is no whole number.")


def test_the_number_of_seeds_may_be_a_float_or_a_tensor():
    (right,) = [seeds for seeds in range(1, 100) if course.check_planned_seeds(seeds).solved]
    for answer in (float(right), np.int64(right), torch.tensor(right)):
        assert course.check_planned_seeds(answer).solved


@pytest.mark.parametrize(("answer", "why"), [(1, "1 are too few"), (10**6, "1000000 are too many")])
def test_too_few_or_too_many_seeds_are_told_so(answer, why):
    assert why in refused(course.check_planned_seeds(answer), "4.3")


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: course.check_equal_octaves(None, *pair()),
        lambda: course.check_shift_blind_loss(None),
        lambda: course.check_planned_seeds(None),
    ],
)
def test_no_answer_at_all_leaves_an_exercise_of_lesson_4_open(verdict):
    assert not verdict().solved
    assert " is open: replace None by " in verdict().text


# --- lesson 5 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "why"),
    [
        ("abc", "is no list of angles"),
        ([None], "is no list of angles"),
        ({}, "is no list of angles"),
        ([10**400], "is no list of angles"),
        (60, "one to a hundred finite angles"),
        ([], "one to a hundred finite angles"),
        ([[60, 180, 300]], "one to a hundred finite angles"),
        ([60, 180, math.inf], "one to a hundred finite angles"),
        ([60.0] * 101, "one to a hundred finite angles"),
        ([0, 120, 240], "the neuron at 0 degrees is one of the teacher's"),
        ([30, 150, 270, 480.5], "the neuron at 480.5 degrees is one of the teacher's"),
        ([60, 180], "linear is off, so the mean is"),
        ([60, 240.0 - 180, 180 + 60], "is one of the teacher's"),
        ([45, 225], "the means agree, and poly's Grams do not"),
        ([3, 123, 243], "the neurons are too near"),
    ],
)
def test_a_student_that_does_not_fool_both_kernels_is_told_why(degrees, why):
    assert why in refused(course.check_fooled_kernels(degrees), "5.1")


@pytest.mark.parametrize(
    "degrees",
    [[60, 180, 300], (45, 135, 225, 315), np.array([420.0, 180, -60]), torch.tensor([20.0, 92, 164, 236, 308])],
)
def test_neurons_spread_evenly_fool_linear_and_poly(degrees):
    assert course.check_fooled_kernels(degrees).solved


def exchanged(*features: torch.Tensor) -> list[torch.Tensor]:
    return [maps.flatten(2).mT[..., None] for maps in features]


def written_out(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    grams = []
    for maps in (student, teacher):
        units = maps.flatten(2) / maps.flatten(2).norm(dim=1, keepdim=True)
        grams.append(torch.einsum("bcp,bdp->bcd", units, units) / units.shape[2])
    return (grams[0] - grams[1]).square().sum() / len(student)


@pytest.mark.parametrize(
    ("loss", "why"),
    [
        (3, "a function is asked for"),
        (torch.ones(1), "a function is asked for"),
        (lambda student: student, "it ends with TypeError"),
        (lambda student, teacher: None, "it has to return the loss as a tensor"),
        (lambda student, teacher: 0.1, "it has to return the loss as a tensor"),
        (lambda student, teacher: student, "it ends with "),
        (lambda student, teacher: 1 + written_out(student, teacher), "of equal features it says 1"),
        (nst_loss, "style has no place"),
        (lambda student, teacher: nst_loss(*exchanged(student, teacher), "linear"), "mind the kernel"),
        (lambda student, teacher: written_out(student, teacher) / 2, "where the Grams' distance is"),
        (lambda student, teacher: written_out(student, teacher).detach(), "no gradient to learn from"),
        (
            lambda student, teacher: written_out(student, teacher).detach() + student.sum() - student.sum().detach(),
            "its gradient is that of something else",
        ),
    ],
)
def test_a_loss_that_is_none_of_style_is_told_why(loss, why):
    assert why in refused(course.check_style_loss(loss), "5.2")


@pytest.mark.parametrize(
    "loss",
    [
        written_out,
        lambda student, teacher: nst_loss(*exchanged(student, teacher), "poly"),
        lambda student, teacher: nst_loss(*exchanged(student.float(), teacher.float())),
    ],
)
def test_style_may_be_written_in_any_way(loss):
    assert course.check_style_loss(loss).solved


@pytest.mark.parametrize(
    ("channels", "why"),
    [
        (7, "is no list of channels"),
        ("abcd", "four different channels of 0 to 5"),
        ([0, 1, 2, 3.5], "four different channels of 0 to 5"),
        ([0, 1, 2, 3, 4], "four different channels of 0 to 5"),
        ([0, 1, 2, math.inf], "four different channels of 0 to 5"),
        ([0, 1, 2, 10**400], "four different channels of 0 to 5"),
        ([0, 1, 2], "four different channels of 0 to 5"),
        ([0, 1, 2, 2], "four different channels of 0 to 5"),
        ([0, 1, 2, 6], "four different channels of 0 to 5"),
        ([0, 1, 2, -1], "four different channels of 0 to 5"),
    ],
)
def test_what_are_no_four_channels_is_told_so(channels, why):
    assert why in refused(course.check_representatives(channels, torch.eye(6).view(1, 6, 2, 3)), "5.3")


def test_four_channels_are_judged_by_their_discrepancy_and_told_the_least():
    maps = torch.rand(3, 7, 4, 4, generator=torch.Generator().manual_seed(0))
    found = {four: float(nst_loss(maps[:, four], maps)) for four in combinations(range(7), 4)}
    best, worst = min(found, key=found.get), max(found, key=found.get)
    between = sum(found.values()) / len(found)
    assert f"is {found[worst]:.4f}, and" in refused(course.check_representatives(worst, maps, between), "5.3")
    for channels in (best, list(best), set(best), torch.tensor(best), np.array(best), np.array(best, dtype=float)):
        verdict = course.check_representatives(channels, maps, between)
        assert verdict.solved
        assert verdict.text.endswith(f"the nearest of all 35 sets of four has {found[best]:.4f}.")


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: course.check_fooled_kernels(None),
        lambda: course.check_style_loss(None),
        lambda: course.check_representatives(None, torch.ones(1, 6, 2, 2)),
    ],
)
def test_no_answer_at_all_leaves_an_exercise_of_lesson_5_open(verdict):
    assert not verdict().solved
    assert " is open: replace None by " in verdict().text


# --- lesson 6 -----------------------------------------------------------------------------------

SPOT = SweetSpot(
    best=Teacher("vgg8", 8, 4), accuracy=70.0, candidates=(), margin=1.0, deviation=1.2, teachers=40, seeds=3,
    most_accurate=Teacher("vgg8", 8, 4), gain=None, over_alone=None, confidence=0.95,
)  # fmt: skip


def two_teachers() -> tuple[torch.Tensor, torch.Tensor]:
    late = 8 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    return late, late / 3


def equal_doubt(temperature: object) -> course.Verdict:
    return course.check_equal_doubt(temperature, *two_teachers())


@pytest.mark.parametrize("answer", ["4", "", [], [4.0], {}, 1j, math.nan, math.inf, 0, -1, True, 10**400, np.ones(2)])
def test_what_is_no_temperature_is_told_so(answer):
    assert refused(equal_doubt(answer), "6.1").endswith(f"{answer!r} is no temperature between 0 and 1000.")


@pytest.mark.parametrize("answer", [3, 3.0, np.float32(3), torch.tensor(3.0), np.int64(3)])
def test_the_temperature_that_undoes_a_division_is_right(answer):
    assert equal_doubt(answer).solved


@pytest.mark.parametrize("answer", [1, 2.5, 3.5, 900])
def test_another_temperature_is_told_what_it_makes(answer):
    assert re.search(r"names \d\.\d\d classes an image, and the early one \d\.\d\d at T = 1", equal_doubt(answer).text)
    refused(equal_doubt(answer), "6.1")


def evenly(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Written out: where others are equal, their common logit is what leaves the label its probability."""
    others = logits.masked_fill(torch.nn.functional.one_hot(labels, logits.shape[1]).bool(), -torch.inf)
    common = 4 * (torch.logsumexp(others / 4, 1, keepdim=True) - math.log(logits.shape[1] - 1))
    return torch.where(others == -torch.inf, logits, common)


def test_an_even_spread_may_be_written_in_any_way():
    assert course.check_even_spread(evenly).solved
    assert course.check_even_spread(lambda logits, labels: evenly(logits, labels) - 7).solved


@pytest.mark.parametrize(
    ("control", "why"),
    [
        (4, "is no function"),
        (lambda logits: logits, "it ends with TypeError"),
        (lambda logits, labels: None, "it has to return logits of shape (40, 7)"),
        (lambda logits, labels: logits[:, :3], "it has to return logits of shape (40, 7)"),
        (lambda logits, labels: logits * math.nan, "it returns no logits"),
        (lambda logits, labels: logits, "two other classes of one image differ"),
        (permuted_by_image, "two other classes of one image differ"),
        (lambda logits, labels: smoothed_labels(logits, labels, 0.3, 4), "has lost or won"),
        (lambda logits, labels: evenly(logits / 2, labels), "has lost or won"),
    ],
)
def test_a_control_that_is_no_even_spread_is_told_why(control, why):
    assert why in refused(course.check_even_spread(control), "6.2")


@pytest.mark.parametrize("answer", ["1", [], {}, math.nan, math.inf, True, 1j, np.ones(2)])
def test_what_are_no_points_is_told_so(answer):
    assert refused(course.check_winners_luck(answer, SPOT), "6.3").endswith(f"{answer!r} is no number of points.")


def test_the_winners_luck_is_that_of_a_simulation():
    draws = np.random.default_rng(0).normal(0, 1.2 / np.sqrt(3), (40_000, 40)).max(1).mean()
    assert course.check_winners_luck(draws, SPOT).solved
    assert "too few" in refused(course.check_winners_luck(0.9 * draws, SPOT), "6.3")
    assert "too many" in refused(course.check_winners_luck(1.1 * draws, SPOT), "6.3")


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: equal_doubt(None),
        lambda: course.check_even_spread(None),
        lambda: course.check_winners_luck(None, SPOT),
    ],
)
def test_no_answer_at_all_leaves_an_exercise_of_lesson_6_open(verdict):
    assert not verdict().solved
    assert " is open: replace None by " in verdict().text


# --- lesson 7 -----------------------------------------------------------------------------------


def mixed_target() -> torch.Tensor:
    """Six channels of variances 32, 16, 8, 4, 2, 1, mixed by a rotation."""
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(64 * 16 * 16, 6, generator=generator, dtype=torch.float64)
    samples = torch.linalg.qr(samples - samples.mean(0)).Q * torch.tensor([32.0, 16, 8, 4, 2, 1]).sqrt()
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    return (samples @ rotation).view(64, 16, 16, 6).movedim(-1, 1)


@pytest.mark.parametrize("answer", [7 / 63, np.float64(7 / 63), torch.tensor(7 / 63), 0.112])
def test_the_best_students_leave_the_smallest_components(answer):
    verdict = course.check_best_students(answer, mixed_target(), 3)
    assert verdict.solved
    assert "the best 3 channels leave 11.1 % of the target" in verdict.text


@pytest.mark.parametrize(
    ("answer", "why"),
    [(0.1, "too little"), (0.2, "too much"), ("1", "is no share"), (-0.1, "is no share"), (1.5, "is no share"),
     (math.nan, "is no share"), (True, "is no share"), ([], "is no share")],
)  # fmt: skip
def test_another_share_is_told_why(answer, why):
    assert why in refused(course.check_best_students(answer, mixed_target(), 3), "7.1")


def test_a_third_of_the_hints_weight_is_a_quarter_of_the_way():
    assert course.check_quarter_way(1 / 3).solved
    assert course.check_quarter_way(2 / 3, hint=2.0).solved
    assert "goes 50.0 % of the way" in refused(course.check_quarter_way(1), "7.2")
    assert "goes 0.0 % of the way" in refused(course.check_quarter_way(0), "7.2")
    for answer in ("1", -1, math.inf, True, [1]):
        assert "is no weight between 0 and 100" in refused(course.check_quarter_way(answer), "7.2")


@pytest.fixture(scope="module")
def small_teacher() -> tuple[nn.Module, torch.Tensor]:
    return build("vgg8x0.125", 4).eval(), torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Pointwise(nn.Module):
    def __init__(self, inputs, outputs, _, scale=1.0):
        super().__init__()
        weight, bias = pointwise_fit(inputs, outputs)
        self.conv = nn.Conv2d(inputs.shape[1], outputs.shape[1], 1)
        with torch.no_grad():
            self.conv.weight.copy_(scale * weight[:, :, None, None])
            self.conv.bias.copy_(bias)

    def forward(self, x):
        return self.conv(x).relu()


def test_a_module_without_a_branch_is_smaller_and_begins_alike(small_teacher):
    teacher, images = small_teacher
    verdict = course.check_smaller_module(Pointwise, teacher, "layer3", images)
    assert verdict.solved
    assert re.search(r"[\d,]+ weights instead of [\d,]+, error 0\.\d+ instead of 0\.\d+", verdict.text)


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (3, "is no function"),
        (lambda inputs, outputs: None, "it ends with TypeError"),
        (lambda *_: nn.Conv2d(16, 5, 1), "it ends with ValueError"),
        (lambda *_: nn.Conv2d(16, 32, 3, padding=1), "weights, and ours"),
        (lambda *given: Pointwise(*given, scale=0.0), "it begins with an error"),
        (lambda *_: nn.ReflectionPad2d(0), "it ends with ValueError"),
    ],
)
def test_a_module_that_is_no_better_is_told_why(small_teacher, module, why):
    teacher, images = small_teacher
    assert why in refused(course.check_smaller_module(module, teacher, "layer3", images), "7.3")


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: course.check_best_students(None, torch.ones(1, 6, 2, 2), 3),
        lambda: course.check_quarter_way(None),
        lambda: course.check_smaller_module(None, nn.Identity(), "layer3", torch.ones(1)),
    ],
)
def test_no_answer_at_all_leaves_an_exercise_of_lesson_7_open(verdict):
    assert not verdict().solved
    assert " is open: replace None by " in verdict().text


# --- lesson 8 ---


def a_grid(**changes) -> dict:
    kd = {"cross-entropy": 0.1, "soft targets": 0.9}
    return {
        "seeds": [0, 1, 2],
        "pairs": [{"student": "vgg8x0.0625", "teacher": "vgg8x0.125"}],
        "protocols": {"quick": {"data": "photographs", "epochs": 1}},
        "methods": {"KD": kd, "more": {**kd, "shape": {"weight": 1, "layers": ["layer1"]}}},
        **changes,
    }


@pytest.mark.parametrize(
    ("answer", "why"), [("ten", "is no whole number"), (7.5, "is no whole number"), (9, "take 15")]
)
def test_another_number_of_seeds_an_hour_is_told_why(answer, why):
    runs = pd.DataFrame({"method": ["a", "b", "a", "b"], "seconds": [30.0, 70.0, 30.0, 70.0]})
    assert why in refused(course.check_seeds_an_hour(answer, runs), "8.1")
    assert course.check_seeds_an_hour(36, runs).solved


KD, HINT = {"cross-entropy": 0.1, "soft targets": 0.9}, {"hint": {"weight": 1, "layers": ["layer1"]}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"seeds": [0]}, "one seed has no interval"),
        ({"seeds": [0, 1, 2, 3]}, "8 runs, more than 6"),
        ({"methods": {"KD": KD}}, "it takes two methods"),
        (
            {"methods": {"alone": {"cross-entropy": 1}, "hint": {"cross-entropy": 1, **HINT}}},
            "neither of the two is KD",
        ),
        ({"methods": {"KD": KD, "more": {**KD, **HINT, "attention": HINT["hint"]}}}, "more than one added term"),
        ({"methods": {"KD": KD, "more": {"cross-entropy": 1, "soft targets": 0.9, **HINT}}}, "more than one added"),
        ({"methods": {"KD": KD, "more": {**KD, "hnit": 1}}}, "it cannot be planned"),
        ({"methods": {"KD": KD, "more": {**KD, **HINT}}}, "what 'hint' adds to KD, and not 'shape'"),
    ],
)
def test_a_grid_that_is_not_fair_is_told_why(changes, why):
    assert why in refused(course.check_fair_grid(a_grid(**changes)), "8.2")


def test_a_fair_grid_tells_what_it_adds():
    assert "'shape' adds to KD" in course.check_fair_grid(a_grid()).text
    assert "cannot be planned" in refused(course.check_fair_grid("grid"), "8.2")


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("holm", "is no function"),
        (lambda p: [min(1, x * len(p)) for x in p], "become"),
        (lambda p: p[:1], "become"),
        (lambda p: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_what_is_not_holms_correction_is_told_why(function, why):
    assert why in refused(course.check_holm(function), "8.3")


@pytest.mark.parametrize(
    "verdict",
    [
        lambda: course.check_seeds_an_hour(None, None),
        lambda: course.check_fair_grid(None),
        lambda: course.check_holm(None),
    ],
)
def test_no_answer_at_all_leaves_an_exercise_of_lesson_8_open(verdict):
    assert "open" in str(verdict())


def test_a_progress_bar_goes_through_everything():
    assert list(course.progress(range(3), "counting")) == [0, 1, 2]
