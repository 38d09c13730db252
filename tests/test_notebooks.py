"""The lessons keep their form, and nbval checks the package by the numbers that they print."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebook_guard import displayed_text, is_compared, printed_text, public_functions, validated

import spectralkd_nb

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Public functions that no notebook can check, each with the test that does. Ten at the most.
EXEMPT = {
    "experiments.sweep_teachers": "tests/test_sweep.py::test_a_sweep_is_trained_step_by_step",  # it trains for an hour
    "course.start": "tests/test_course.py::test_start_says_what_it_settled",  # its output differs by machine
    "widgets.explore": "tests/test_widgets.py::test_slider_and_menu_move_picture_words_and_each_other",  # a widget
    "widgets.GridForm": "tests/test_estimate.py::test_a_form_gives_the_grid_that_it_was_given",  # a widget
    "experiments.estimate_grid": "tests/test_estimate.py::test_each_method_and_the_teacher_have_a_row",  # seconds
    "experiments.describe_estimate": "tests/test_estimate.py::test_a_sentence_with_memory",  # minutes
    "widgets.upload_picture": "tests/test_widgets.py::test_uploads_of_both_generations_of_widgets",  # a widget
    "widgets.TrainingView": "tests/test_widgets.py::test_a_training_view_draws_once_an_epoch",
    "distillation.TerminalProgress": "tests/test_distillation.py::test_the_terminals_progress_says_each_epoch_once",
    "plots.use_style": "tests/test_plots.py::test_the_style_sets_palette_and_spines",  # it returns nothing
}

LARGEST_FILE = 1_500_000  # bytes
FEWEST_COMPARED = 8
LONGEST_CELL = 25  # lines; aim at 10
MACHINE_PATH = re.compile(
    r"(?<![\w.:/~])/(?:root|home|work|tmp|usr|var|opt|mnt|private|Users)\b"
    r"|\bfile:///|\b[A-Z]:\\[\w .-]{2,}\\"  # the other slash: C:\Users\
)
IMAGE_WITHOUT_ALT = re.compile(r"!\[\s*\][(\[]|<img(?![^>]*\balt=[\"']?[^\"'\s>])[^>]*>")
REFERENCE = re.compile(r"\b10\.\d{4,9}/\S|arxiv\S*\s*\d{4}\.\d{4,5}|arxiv\S*\s*[a-z-]+/\d{7}", re.IGNORECASE)


# --- the form of a lesson: each check yields a sentence for each thing that is wrong ----------------


def execution_counts_run_from_1(notebook: NotebookNode) -> Iterator[str]:
    counts = [cell.execution_count for cell in code_cells(notebook)]
    if counts != list(range(1, len(counts) + 1)):
        yield f"execution counts are {counts}; run the notebook from a fresh kernel, and delete empty cells"


def no_errors_or_warnings_are_stored(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), 1):
        for output in cell.outputs:
            if output.output_type == "error":
                yield f"code cell {number} stores an error: {output.ename}: {output.evalue}"
            if output.output_type == "stream" and output.name == "stderr":
                yield f"code cell {number} stores a warning: {output.text[:200]}"


def no_widget_state_is_stored(notebook: NotebookNode) -> Iterator[str]:
    if "widgets" in notebook.metadata:
        yield "metadata.widgets is stored; GitHub does not show such a notebook"


def kernel_is_python3(notebook: NotebookNode) -> Iterator[str]:
    name = notebook.metadata.get("kernelspec", {}).get("name")
    if name != "python3":
        yield f"the kernel is {name!r}; every installation has 'python3'"


def enough_output_is_compared(notebook: NotebookNode) -> Iterator[str]:
    cells = [cell for cell in code_cells(notebook) if is_compared(cell)]
    count = sum(bool((printed_text(cell) + displayed_text(cell)).strip()) for cell in cells)
    if count < FEWEST_COMPARED:
        yield f"nbval compares the printed output of {count} cells; at least {FEWEST_COMPARED} are wanted"


def no_paths_of_a_machine(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells, 1):
        for text in [cell.source, *output_texts(cell)]:
            if match := MACHINE_PATH.search(text):
                yield f"cell {number} holds a path of one machine: {text[match.start() :][:60]!r}"


def code_cells_are_short(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(code_cells(notebook), 1):
        lines = len(cell.source.splitlines())
        if lines > LONGEST_CELL:
            yield f"code cell {number} has {lines} lines; {LONGEST_CELL} is the limit, 10 the aim"


def pictures_in_the_text_have_alt_text(notebook: NotebookNode) -> Iterator[str]:
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown" and IMAGE_WITHOUT_ALT.search(cell.source):
            yield f"cell {number} shows a picture without alt text"


def opens_with_title_and_box(notebook: NotebookNode) -> Iterator[str]:
    first = notebook.cells[0] if notebook.cells else new_markdown_cell()
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the first cell is not a text that starts with the title"
    for word in ("goal", "prerequisites", "minute"):
        if word not in first.source.lower():
            yield f"the box in the first cell says nothing of {word!r}"


def ends_with_recap_and_references(notebook: NotebookNode) -> Iterator[str]:
    ending: list[str] = []
    for cell in notebook.cells:
        ending = [] if cell.cell_type == "code" else [*ending, cell.source]
    text = "\n".join(ending)
    recap = re.search(r"^#+ .*\brecap\b", text, re.IGNORECASE | re.MULTILINE)
    references = re.search(r"^#+ .*\breferences\b", text, re.IGNORECASE | re.MULTILINE)
    if not (recap and references and recap.start() < references.start()):
        yield "after its last code the lesson wants a heading 'Recap', then a heading 'References'"
    elif not REFERENCE.search(text[references.start() :]):
        yield "the references hold no DOI and no arXiv id"


FORM: list[Callable[[NotebookNode], Iterator[str]]] = [
    execution_counts_run_from_1,
    no_errors_or_warnings_are_stored,
    no_widget_state_is_stored,
    kernel_is_python3,
    enough_output_is_compared,
    no_paths_of_a_machine,
    code_cells_are_short,
    pictures_in_the_text_have_alt_text,
    opens_with_title_and_box,
    ends_with_recap_and_references,
]


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def output_texts(cell: NotebookNode) -> Iterator[str]:
    for output in cell.get("outputs", ()):
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", ()))
        yield from (str(text) for kind, text in output.get("data", {}).items() if not kind.startswith("image/"))


def test_there_are_notebooks():
    assert NOTEBOOKS, "notebooks/ holds no .ipynb, so nothing below checks a lesson"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
@pytest.mark.parametrize("check", FORM, ids=lambda check: check.__name__)
def test_lesson_keeps_its_form(path, check):
    complaints = list(check(nbformat.read(path, as_version=4)))
    assert not complaints, "\n".join([path.name, *complaints])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_lesson_is_small_enough_for_git(path):
    assert path.stat().st_size < LARGEST_FILE, f"{path.name} has {path.stat().st_size / 1e6:.2f} MB; shrink its figures"


# --- nbval checks the package ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    return public_functions(spectralkd_nb)


@pytest.fixture(scope="module")
def checked_by_nbval(names) -> set[str]:
    return set().union(*(validated(nbformat.read(path, as_version=4).cells, names) for path in NOTEBOOKS))


def test_nbval_checks_every_public_function(names, checked_by_nbval):
    missing = sorted(set(names.values()) - checked_by_nbval - EXEMPT.keys())
    assert not missing, (
        f"{len(missing)} public functions are in no cell that calls them and prints a number from their result for "
        f"nbval to compare: {', '.join(missing)}"
    )


def test_exemptions_are_few_and_still_needed(names, checked_by_nbval):
    assert len(EXEMPT) <= 10
    unknown = EXEMPT.keys() - set(names.values())
    assert not unknown, f"exempt, but not a public function: {sorted(unknown)}"
    stale = EXEMPT.keys() & checked_by_nbval
    assert not stale, f"a notebook checks these now; take them off the list: {sorted(stale)}"


@pytest.mark.parametrize(("function", "test"), EXEMPT.items())
def test_the_test_that_covers_an_exempt_function_exists(function, test):
    file, *_, name = test.split("::")
    path = ROOT / file
    assert path.is_file(), f"{function} is exempt because of {file}, which does not exist"
    defined = {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}
    assert name in defined, f"{function} is exempt because of {name}, which {file} does not define"


def test_every_public_function_of_the_package_is_found(names):
    found = set(names.values())
    assert {"spectra.fit_power_law", "spectra.SpectrumAccumulator", "pictures.photographs", "course.start"} <= found
    assert not found & {"spectra.EDGES", "spectra.PowerLawFit", "plots.CaptionedFigure"}
    # A function that a module imports from another one is still that one function.
    assert names["spectralkd_nb.plots.spectra.fit_power_law"] == "spectra.fit_power_law"


# --- the analysis itself, on small made-up notebooks -----------------------------------------------

MADE_UP = {"kit.spectra.fit": "spectra.fit", "kit.spectra.Sum": "spectra.Sum", "kit.plots.draw": "plots.draw"}
IMPORT = "from kit.spectra import Sum, fit\nfrom kit.plots import draw\n"


def cell(source: str, printed: str = "", *more: NotebookNode, count: int | None = 1) -> NotebookNode:
    outputs = [new_output("stream", name="stdout", text=printed)] if printed else []
    return new_code_cell(source, execution_count=count, outputs=[*outputs, *more])


def found(*cells: NotebookNode) -> set[str]:
    return validated(cells, MADE_UP)


def picture() -> NotebookNode:
    return new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure size 640x480 with 1 Axes>"})


def result(text: str) -> NotebookNode:
    return new_output("execute_result", {"text/plain": text}, execution_count=1)


def test_a_number_printed_from_the_result_counts():
    assert found(cell(IMPORT + "print(fit(x))", "2.03")) == {"spectra.fit"}


@pytest.mark.parametrize(
    "source",
    [
        "import kit.spectra\nprint(kit.spectra.fit(x))",
        "import kit.spectra as s\nprint(s.fit(x))",
        "from kit import spectra\nprint(spectra.fit(x))",
        "from kit import spectra as s\nprint(s.fit(x))",
        "from kit.spectra import fit as measure\nprint(measure(x))",
        "from kit.spectra import fit\nmeasure = fit\nprint(measure(x))",
    ],
)
def test_a_function_is_known_by_every_name_that_it_is_imported_under(source):
    assert found(cell(source, "2.03")) == {"spectra.fit"}


@pytest.mark.parametrize(
    "source",
    [
        "a = fit(x)\nprint(f'alpha {a.alpha:.2f} +- {a.error:.2f}')",
        "a, b = fit(x)\nprint(b)",
        "a, *rest = fit(x)\nprint(rest)",
        "a, b = 1, fit(x)\nprint(b)",
        "a = 0\na += fit(x).alpha\nprint(a)",
        "print(a := fit(x))",
        "if (a := fit(x)).alpha > 2:\n    print(a.alpha)",
        "for a in fit(x):\n    print(a)",
        "for i, a in enumerate(fit(x)):\n    print(i, a)",
        "last = 0\nfor x in xs:\n    print(last)\n    last = fit(x)",
        "print([a.alpha for a in fit(x)])",
        "print({name: fit(x) for name, x in xs.items()})",
        "print(', '.join(f'{fit(x).alpha:.2f}' for x in xs))",
        "with fit(x) as a:\n    print(a)",
        "a = []\nfor x in xs:\n    a.append(fit(x))\nprint(sum(a) / len(a))",
        "a = {}\na['one'] = fit(x)\nprint(max(a.values()))",
        "table.alpha = fit(x)\nprint(table.describe())",
        "print(round(float(fit(x).alpha.mean()), 2))",
        "print(list(map(fit, xs)))",
        "law = {'one': fit}\nprint(law['one'](x))",
        "for law in (fit, max):\n    print(law(x))",
        "def twice(x):\n    return 2 * fit(x)\nprint(twice(x))",
        "twice = lambda x: 2 * fit(x)\nprint(twice(x))",
        "def show(a):\n    print(a)\nshow(fit(x))",
        "%matplotlib inline\nprint(fit(x))",
    ],
)
def test_marks_are_followed_from_the_call_to_the_print(source):
    assert found(cell(IMPORT + source, "2.03")) == {"spectra.fit"}


@pytest.mark.parametrize(
    "source",
    [
        "fit(x)\nprint(len(x))",
        "a = fit(x)\na = 3\nprint(a)",
        "a, b = fit(x), 3\nprint(b)",
        "print(fit)",
        "print(max(xs, key=fit))",
        "axis.plot(fit(x))\nprint(3)",
        "torch.manual_seed(fit(x))\nimport torch\nprint(torch.ones(3))",
        "laws = {'one': fit}\nprint(laws.keys())",
        "[a for a in fit(x)]\na = 3\nprint(a)",
        "a = 3\n[a for a in fit(x)]\nprint(a)",
        "def never_called(x):\n    print(fit(x))\nprint(3)",
        "def constant(x):\n    fit(x)\n    return 3\nprint(constant(x))",
        "def endless(x):\n    return endless(x)\nprint(endless(x))",
    ],
)
def test_a_print_of_an_unrelated_number_does_not_count(source):
    assert found(cell(IMPORT + source, "3")) == set()


def test_a_result_that_is_only_plotted_does_not_count():
    plotted = IMPORT + "print(len(x))\naxis.plot(fit(x))"
    assert found(cell(plotted, "64", result("[<Line2D at 0x7f01>]"), picture())) == set()


def test_text_without_a_digit_does_not_count():
    assert found(cell(IMPORT + "print(fit(x))", "a straight line")) == set()


def test_the_value_of_the_last_line_counts():
    assert found(cell(IMPORT + "fit(x).alpha", "", result("2.03"))) == {"spectra.fit"}
    assert found(cell(IMPORT + "print(3)\nfit(x)", "3")) == set()  # that line showed nothing


def test_a_figure_counts_by_the_caption_under_it():
    caption = new_output("stream", name="stdout", text="The slope is 2.03.")
    assert found(cell(IMPORT + "draw(fit(x))", "", picture(), caption)) == {"plots.draw", "spectra.fit"}
    assert found(cell(IMPORT + "display(draw(x))", "", picture(), caption)) == {"plots.draw"}
    assert found(cell(IMPORT + "print(3)\ndraw(x)", "3", picture())) == set()


def test_an_object_that_gathers_counts_with_what_it_gathered():
    gathered = "s = Sum()\nfor x in xs:\n    s.update(fit(x))\nprint(s.result())"
    assert found(cell(IMPORT + gathered, "2.03")) == {"spectra.Sum", "spectra.fit"}


def test_a_cell_that_nbval_does_not_compare_does_not_count():
    source = IMPORT + "print(fit(x))"
    tagged = cell(source, "2.03")
    tagged.metadata["tags"] = ["nbval-ignore-output"]
    assert found(tagged) == set()
    assert found(cell("# NBVAL_IGNORE_OUTPUT\n" + source, "2.03")) == set()
    assert found(cell("# NBVAL_SKIP\n" + source, "2.03")) == set()
    assert found(cell(source, "2.03", count=None)) == set()


def test_a_call_in_an_earlier_cell_than_the_print_does_not_count():
    assert found(cell(IMPORT + "a = fit(x)"), cell("print(a)", "2.03")) == set()
    assert found(cell(IMPORT + "a = fit(x)"), cell("b = fit(y)\nprint(a)", "2.03")) == set()


def test_imports_and_functions_of_earlier_cells_are_known():
    assert found(cell(IMPORT), cell("print(fit(x))", "2.03")) == {"spectra.fit"}
    assert found(cell(IMPORT + "half = lambda x: fit(x) / 2"), cell("print(half(x))", "1.01")) == {"spectra.fit"}


# --- the checks of form, on a lesson with one thing wrong ------------------------------------------


def lesson() -> NotebookNode:
    box = "# Spectra\n\n> **Goal**: see. **Prerequisites**: none. **Time**: 2 minutes.\n\n![badge](badge.svg)"
    end = "## Recap\n\nPower falls.\n\n## References\n\nField 1987, doi:10.1364/JOSAA.4.002379"
    runs = [cell(f"print({n})", f"{n}\n", count=n) for n in range(1, 9)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    return new_notebook(metadata=kernel, cells=[new_markdown_cell(box), *runs, new_markdown_cell(end)])


def complaining(notebook: NotebookNode) -> set[str]:
    return {check.__name__ for check in FORM if list(check(notebook))}


def test_a_lesson_in_good_form_passes():
    assert complaining(lesson()) == set()


def broken_by(change: Callable[[NotebookNode], object]) -> set[str]:
    notebook = lesson()
    change(notebook)
    return complaining(notebook)


BREAKS = {
    "a cell run twice": (lambda n: n.cells[8].update(execution_count=9), "execution_counts_run_from_1"),
    "an empty cell": (lambda n: n.cells.insert(9, new_code_cell()), "execution_counts_run_from_1"),
    "an error": (
        lambda n: n.cells[1].outputs.append(new_output("error", ename="E", evalue="no", traceback=[])),
        "no_errors_or_warnings_are_stored",
    ),
    "a warning": (
        lambda n: n.cells[1].outputs.append(new_output("stream", name="stderr", text="old")),
        "no_errors_or_warnings_are_stored",
    ),
    "widget state": (lambda n: n.metadata.update(widgets={}), "no_widget_state_is_stored"),
    "another kernel": (lambda n: n.metadata.kernelspec.update(name="mine"), "kernel_is_python3"),
    "no kernel": (lambda n: n.metadata.pop("kernelspec"), "kernel_is_python3"),
    "an ignored cell": (
        lambda n: n.cells[1].metadata.update(tags=["nbval-ignore-output"]),
        "enough_output_is_compared",
    ),
    "a picture for a print": (lambda n: n.cells[1].update(outputs=[picture()]), "enough_output_is_compared"),
    "a path printed": (lambda n: n.cells[1].outputs[0].update(text="in /home/ada/x"), "no_paths_of_a_machine"),
    "a path in code": (lambda n: n.cells[1].update(source="open('/tmp')"), "no_paths_of_a_machine"),
    "a Windows path": (lambda n: n.cells[1].update(source=r"open('C:\Users\ada')"), "no_paths_of_a_machine"),
    "a long cell": (lambda n: n.cells[1].update(source="x = 1\n" * 26), "code_cells_are_short"),
    "an image": (
        lambda n: n.cells[0].update(source=n.cells[0].source + "![](a.png)"),
        "pictures_in_the_text_have_alt_text",
    ),
    "an img tag": (
        lambda n: n.cells[0].update(source=n.cells[0].source + '<img src="a.png" alt="">'),
        "pictures_in_the_text_have_alt_text",
    ),
    "no goal": (lambda n: n.cells[0].update(source="# Prerequisites, minutes"), "opens_with_title_and_box"),
    "code first": (lambda n: n.cells.pop(0), "opens_with_title_and_box"),
    "no recap": (lambda n: n.cells[-1].update(source="## References\n10.1364/J"), "ends_with_recap_and_references"),
    "no ids": (lambda n: n.cells[-1].update(source="## Recap\n## References"), "ends_with_recap_and_references"),
    "code at the end": (lambda n: n.cells.append(cell("x = 1", count=9)), "ends_with_recap_and_references"),
}


@pytest.mark.parametrize(("change", "complaint"), BREAKS.values(), ids=BREAKS.keys())
def test_a_lesson_with_one_thing_wrong_fails_the_check_of_it(change, complaint):
    assert broken_by(change) == {complaint}


@pytest.mark.parametrize(
    "text", ["https://a.org/home/x", "f / N", "print('N:\\n')", "and/or", '<img src="a" alt="A map">']
)
def test_harmless_text_is_not_taken_for_a_path_or_a_bare_image(text):
    assert broken_by(lambda n: n.cells[0].update(source=n.cells[0].source + " " + text)) == set()
