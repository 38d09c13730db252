"""Every exercise has an answer that its check accepts, and is handed out unsolved."""

import importlib.util
from functools import cache
from pathlib import Path

import nbformat
import pytest
import torch

from spectralkd_nb import course, pictures
from spectralkd_nb.activations import ActivationSpectra, activation_spectra
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.networks import build

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
    text = lesson.read_text()
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
        (lambda: course.check_phase_noise(torch.zeros(8, 8)), "the cat has"),
        (lambda: course.check_phase_noise(torch.rand(300, 451)), "its power is not the cat's"),
        (lambda: course.check_phase_noise(pictures.photographs()["chelsea"].grey()), "still looks like the cat"),
        (lambda: course.check_leaf_density(3.4), "and 2.4 is wanted"),
        (lambda: course.check_relu_loss(3.0), "and another loses more"),
        (lambda: course.check_steep_kernel(torch.eye(3)), "it takes alpha from 2 to"),
        (lambda: course.check_steep_kernel(torch.zeros(3, 3)), "lets nothing pass"),
        (lambda: course.check_steep_kernel(torch.ones(2, 2)), "and 3 x 3 is wanted"),
        (lambda: course.check_average_gap("conv", measured()), "is no convolution of this network"),
        (lambda: course.check_average_gap(smallest_gap(measured()), measured()), "those of another by more"),
        (lambda: course.check_steps(30 * 43, open_dataset("photographs")), "does the last, smaller batch count?"),
        (lambda: course.check_confidence_step(lambda *_: 1), "a step returns a pair"),
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


def test_a_progress_bar_goes_through_everything():
    assert list(course.progress(range(3), "counting")) == [0, 1, 2]
