"""The set-up cell: one text in every lesson, which installs the course on Colab; and `make badges`, which writes it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
SPEC = importlib.util.spec_from_file_location("badges", ROOT / ".ci" / "badges.py")
badges = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(badges)

GITHUB = "https://github.com/someone/course"
ELSEWHERE = "https://git.example.org/someone/course"


def test_every_lesson_has_the_set_up_cell_and_the_badge_of_the_projects_address(capsys):
    assert badges.main(["--check"]) == 0, capsys.readouterr().err


# --- the cell, run by a Python that has only its standard library ----------------------------------

COURSE = 'def start():\n    return "started"\n'


def run(source: str, folder: Path, prepare: str = "") -> subprocess.CompletedProcess:
    """Run a cell where no package is installed. Its input stays open and empty: what reads it would not come back."""
    (folder / "packages").mkdir(exist_ok=True)
    code = f"import sys\nsys.path.append({str(folder / 'packages')!r})\n{prepare}\n{source}\nprint(lesson)\n"
    command = [sys.executable, "-I", "-S", "-c", code]
    process = subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail("the cell waits for something")
        return subprocess.CompletedProcess(command, process.returncode, process.stdout.read(), process.stderr.read())


def pretended_pip(folder: Path, succeeds: bool = True) -> str:
    """Code that puts a program in Python's place: it writes down its arguments, reads its input, and "installs"."""
    package = folder / "packages" / "spectralkd_nb"
    program = folder / "python"
    lines = ["#!/bin/sh", f'printf "%s\\n" "$@" > {folder}/arguments', "cat"]
    if succeeds:
        lines += [f"mkdir -p {package}", f": > {package}/__init__.py", f"printf '{COURSE}' > {package}/course.py"]
    program.write_text("\n".join([*lines, f"exit {int(not succeeds)}"]))
    program.chmod(0o755)
    return f"sys.executable = {str(program)!r}"


def test_without_an_address_the_cell_says_what_to_fill_in(tmp_path):
    done = run(badges.setup_cell(""), tmp_path, pretended_pip(tmp_path))
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: No module named 'spectralkd_nb'. On Colab put the repository's address")
    assert "Elsewhere install the course first" in last
    assert done.stderr.count("Traceback") == 1
    assert not (tmp_path / "arguments").exists()


def test_with_an_address_the_cell_installs_from_it_and_leaves_what_is_there(tmp_path):
    done = run(badges.setup_cell(GITHUB), tmp_path, pretended_pip(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "started\n"
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments == ["-m", "pip", "install", "-q", "--no-deps", f"spectralkd_nb @ git+{GITHUB}"]


def test_where_the_course_is_installed_nothing_is(tmp_path):
    package = tmp_path / "packages" / "spectralkd_nb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "course.py").write_text(COURSE)
    done = run(badges.setup_cell(GITHUB), tmp_path, pretended_pip(tmp_path))
    assert done.stdout == "started\n"
    assert not (tmp_path / "arguments").exists()


def test_a_missing_dependency_is_named_and_the_course_not_installed_over(tmp_path):
    package = tmp_path / "packages" / "spectralkd_nb"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "course.py").write_text("import torch")
    done = run(badges.setup_cell(GITHUB), tmp_path, pretended_pip(tmp_path))
    assert "RuntimeError: No module named 'torch'." in done.stderr
    assert not (tmp_path / "arguments").exists()


def test_an_installation_that_fails_stops_the_cell(tmp_path):
    done = run(badges.setup_cell(GITHUB), tmp_path, pretended_pip(tmp_path, succeeds=False))
    assert done.returncode != 0
    assert "CalledProcessError" in done.stderr


def test_the_oldest_widgets_that_the_project_takes_are_colabs():
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / ".ci" / "colab.txt").read_text(), re.MULTILINE))
    assert f'"ipywidgets>={pins["ipywidgets"]}"' in (ROOT / "pyproject.toml").read_text()


# --- make badges -----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A project of two lessons, and a function that gives it an address."""
    (tmp_path / "notebooks").mkdir()
    for name in ("01_a", "02_b"):
        text = new_markdown_cell("# Waves – and α\n\n| box |\n\nText.", id="text")
        out = new_output("stream", name="stdout", text="device: cpu\n")
        code = new_code_cell(badges.setup_cell(""), id="code", execution_count=1, outputs=[out])
        code.metadata["tags"] = [badges.TAG]
        rest = new_code_cell("print(1)", id="rest", execution_count=2)
        nbformat.write(new_notebook(cells=[text, code, rest]), tmp_path / "notebooks" / f"{name}.ipynb")

    def give(address: str) -> None:
        urls = f'[project.urls]\nRepository = "{address}"\n' if address else ""
        (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "course"\n{urls}')

    give("")
    return tmp_path, give


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "notebooks").iterdir()}


def cells(root: Path, name: str = "01_a.ipynb") -> list[nbformat.NotebookNode]:
    notebook = nbformat.read(root / "notebooks" / name, as_version=4)
    nbformat.validate(notebook)
    return notebook.cells


def test_without_an_address_nothing_changes(project, capsys):
    root, _ = project
    before = contents(root)
    assert badges.main([], root) == badges.main(["--check"], root) == 0
    assert contents(root) == before
    assert "address: none" in capsys.readouterr().out


def test_an_address_goes_into_cell_and_badge_and_a_second_time_changes_nothing(project, capsys):
    root, give = project
    give(GITHUB)
    assert badges.main([], root) == 0
    assert "01_a.ipynb: set-up cell, badge\n02_b.ipynb: set-up cell, badge\n" in capsys.readouterr().out
    text, code, rest = cells(root)
    link = "https://colab.research.google.com/github/someone/course/blob/main/notebooks/01_a.ipynb"
    line = f"[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]({link})"
    assert text.source == f"# Waves – and α\n\n{line}\n\n| box |\n\nText."
    assert f'ADDRESS = "{GITHUB}"' in code.source
    assert (code.outputs, code.execution_count) == ([], None)
    assert (rest.source, rest.execution_count) == ("print(1)", 2)

    first = contents(root)
    for path in (root / "notebooks").iterdir():  # the form is nbformat's
        assert nbformat.writes(nbformat.read(path, as_version=4)) + "\n" == path.read_text("utf-8")
    assert badges.main([], root) == badges.main(["--check"], root) == 0
    assert contents(root) == first


def test_only_what_belongs_to_the_address_changes_in_the_file(project):
    root, give = project
    path = root / "notebooks" / "01_a.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    reordered = {key: notebook[key] for key in sorted(notebook, reverse=True)}
    path.write_text(json.dumps(reordered, indent=1, ensure_ascii=False) + "\n", "utf-8")
    before = path.read_text("utf-8")
    give(GITHUB)
    badges.main([], root)
    assert list(json.loads(path.read_text("utf-8"))) == list(reordered)
    give("")
    badges.main([], root)
    after = path.read_text("utf-8")
    assert after.splitlines()[-5:] == before.splitlines()[-5:]
    assert cells(root)[0].source == "# Waves – and α\n\n| box |\n\nText."


@pytest.mark.parametrize("address", [GITHUB + "/", GITHUB + ".git", GITHUB + ".git/"])
def test_every_spelling_of_an_address_on_github_gives_the_same_badge(address):
    assert badges.badge(address, "01_a.ipynb") == badges.badge(GITHUB, "01_a.ipynb") != ""


def test_an_address_elsewhere_goes_into_the_cell_and_takes_the_badge_out(project, capsys):
    root, give = project
    before = cells(root)[0].source
    give(GITHUB)
    badges.main([], root)
    give(ELSEWHERE)
    assert badges.main(["--check"], root) == 1
    assert "02_b.ipynb is not up to date (set-up cell, badge taken out): run `make badges`" in capsys.readouterr().err
    assert badges.main([], root) == 0
    text, code, _ = cells(root)
    assert text.source == before
    assert f'ADDRESS = "{ELSEWHERE}"' in code.source


def test_outputs_stay_where_the_cell_does(project):
    root, give = project
    give(GITHUB)
    path = root / "notebooks" / "01_a.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].source = badges.setup_cell(GITHUB)
    nbformat.write(notebook, path)
    badges.main([], root)
    assert [out.text for out in cells(root)[1].outputs] == ["device: cpu\n"]


def test_a_first_cell_that_is_no_set_up_cell_is_left_alone_and_named(project, capsys):
    root, give = project
    path = root / "notebooks" / "02_b.ipynb"
    notebook = nbformat.read(path, as_version=4)
    del notebook.cells[1]
    nbformat.write(notebook, path)
    before = contents(root)
    give(GITHUB)
    assert badges.main([], root) == 1
    assert capsys.readouterr().err.startswith("02_b.ipynb: the first code cell has no tag")
    assert contents(root) == before


@pytest.mark.parametrize("address", ["github.com/someone/course", "https://a b", "git@github.com:someone/course"])
def test_what_is_no_address_is_refused_in_one_sentence(project, capsys, address):
    root, give = project
    give(address)
    assert badges.main([], root) == 1
    assert capsys.readouterr().err.count("\n") == 1
