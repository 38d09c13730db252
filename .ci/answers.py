"""Makes the teacher's copy of each lesson: its exercises replaced by the answers, run from a fresh kernel.

python .ci/answers.py [FOLDER]      the copies go to build/answers, which git ignores

The answers are kept in one place, tests/answers/NAME.py, in blocks that begin with `# %% NUMBER`; the exercise of that
number is the cell of the lesson that begins with `# Exercise NUMBER`. A test runs every answer against its check.
"""

import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
EXERCISE = re.compile(r"# Exercise (\d+\.\d+)\b")


def answers(lesson: str) -> dict[str, str]:
    """Number to code of the answers to a lesson's exercises; empty if the lesson has no file of answers."""
    file = ROOT / "tests" / "answers" / f"{lesson}.py"
    if not file.exists():
        return {}
    blocks = re.split(r"^# %% (\S+)\n", file.read_text(), flags=re.MULTILINE)[1:]
    return {number: code.strip() for number, code in zip(blocks[::2], blocks[1::2], strict=True)}


def exercises(notebook: nbformat.NotebookNode) -> dict[str, nbformat.NotebookNode]:
    """Number to cell of a lesson's exercises."""
    found = ((EXERCISE.match(cell.source), cell) for cell in notebook.cells if cell.cell_type == "code")
    return {match.group(1): cell for match, cell in found if match}


def teachers_copy(path: Path) -> nbformat.NotebookNode:
    """The lesson with every exercise solved, not run yet."""
    notebook = nbformat.read(path, as_version=4)
    solved = answers(path.stem)
    for number, cell in exercises(notebook).items():
        cell.source = f"# Exercise {number}, answer\n{solved[number]}"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def main() -> None:
    from nbclient import NotebookClient

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        notebook = teachers_copy(path)
        NotebookClient(notebook, resources={"metadata": {"path": str(path.parent)}}, store_widget_state=False).execute()
        copy = folder / f"{path.stem}_answers.ipynb"
        nbformat.write(notebook, copy)
        print(f"{path.name} -> {copy}")


if __name__ == "__main__":
    main()
