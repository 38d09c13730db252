"""Builds the course as a web book in build/book/html: python .ci/book.py [FOLDER]

Sphinx and MyST-NB, of which Jupyter Book is made, build it from the committed notebooks with the outputs that they
hold; nothing is run. What a notebook says in the way that JupyterLab, Colab and GitHub can show is said here in the way
a book can: equations get labels and links, works that are named get links to the references, hints fold, new words lead
to the glossary. A warning of Sphinx ends the build.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat

import spectralkd_nb

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / ".ci" / "book"
NOTEBOOKS = ROOT / "notebooks"
PAGES = ("guide", "claims", "glossary", "teachers")  # of notebooks/, beside the lessons
MODULES = (  # of the API, in the order in which they import one another
    *("spectra", "pictures", "calibration", "operations", "networks", "datasets", "activations", "depth_law"),
    *("losses", "adaptation", "teacher_quality", "distillation", "experiments", "plots", "widgets", "course"),
)

FORMS = ("experiments.plan", "experiments.methods", "experiments.sweep")  # whose docstrings show files
PACKAGE = "spectralkd_nb."

BACKTICKED = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")
EQUATION = re.compile(r"\$\$(?P<formula>(?:(?!\$\$).)+?)\\tag\{(?P<number>\d+)\}\s*\$\$", re.DOTALL)
MENTION = re.compile(r"\b([Ee]quations?) (\d+)((?:, \d+)*(?:,? and \d+)?)\b(?! of lesson)")
HINT = re.compile(r"<details><summary>(?P<title>.*?)</summary>\s*(?P<text>.*?)\s*</details>", re.DOTALL)
REFERENCE = re.compile(r"(?P<before>^- |; )(?P<authors>[A-Z][^*;()\n]*?) \((?P<year>\d{4})\), (?=\*)", re.MULTILINE)
NEW_WORDS = re.compile(r"^New words: .*?\.(?= |$)", re.MULTILINE)
GLOSSARY_LINE = re.compile(r"^- \*\*(?P<word>.+?)\*\*: (?P<meaning>.+)$", re.MULTILINE)
BAR = re.compile(r"\d+%\|")  # tqdm's, which without a kernel stands still


# --- equations -----------------------------------------------------------------------------------


def numbered(text: str, lesson: str) -> str:
    """Equations with a \\tag as labelled ones. Sphinx counts them from 1 in each lesson, so the numbers stay."""
    return EQUATION.sub(lambda match: f"$$\n{match['formula'].strip()}\n$$ ({lesson}-{match['number']})", text)


def equation_links(text: str, lesson: str) -> str:
    """ "equation 3" with a link from the number; also "equations 1 and 2"."""

    def linked(match: re.Match) -> str:
        more = re.sub(r"\d+", lambda number: f"{{eq}}`{lesson}-{number[0]}`", match[3])
        return f"{match[1]} {{eq}}`{lesson}-{match[2]}`{more}"

    return MENTION.sub(linked, text)


# --- works that a lesson names -------------------------------------------------------------------


def surnames(authors: str) -> list[str]:
    """ "M. Rotman, L. Wolf" as ["Rotman", "Wolf"]; initials go, and so does "et al."."""
    people = authors.removesuffix(" et al.").split(", ")
    return [re.sub(r"^(?:\S*\.[ -]?)+", "", person) for person in people]


def references(text: str) -> dict[tuple[str, str], str]:
    """First author's surname and year of each work in a list of references, to the name of its place."""
    found = {}
    for match in REFERENCE.finditer(text):
        first = surnames(match["authors"])[0]
        plain = unicodedata.normalize("NFKD", first).encode("ascii", "ignore").decode()
        found[first, match["year"]] = f"{plain}-{match['year']}".lower()
    return found


def citation(surname: str, year: str) -> re.Pattern:
    """How a text names a work: "Huang & Wang (2017)", "Huang & Wang's (2017)", "Kass & Raftery 1995"."""
    others = r"(?:(?:,\s| &\s|, &\s)[A-Z][\w-]+)*(?:\sand\sothers|\set\sal\.)?(?:'s)?"
    return re.compile(rf"\b{re.escape(surname)}{others},?\s(?:\({year}\b\)?|{year}\b)(?:\))?")


def citation_links(text: str, works: dict[tuple[str, str], str], lesson: str) -> str:
    """Works named in a text, each with a link to the lesson's references."""
    for (surname, year), place in works.items():

        def linked(match: re.Match, place: str = place) -> str:
            said = match[0]
            outer = said.endswith(")") and said.count("(") < said.count(")")  # the bracket of a whole remark
            return f"[{said.removesuffix(')') if outer else said}](#{lesson}-{place}){')' if outer else ''}"

        text = citation(surname, year).sub(linked, text)
    return text


def reference_places(text: str, works: dict[tuple[str, str], str], lesson: str) -> str:
    """The list of references, each work with the place that the links lead to."""

    def placed(match: re.Match) -> str:
        place = works[surnames(match["authors"])[0], match["year"]]
        return f"{match['before']}[{match['authors']} ({match['year']})]{{#{lesson}-{place}}}, "

    return REFERENCE.sub(placed, text)


# --- a lesson ------------------------------------------------------------------------------------


def folded_hints(text: str) -> str:
    """A notebook's <details> as the book's own."""
    return HINT.sub(r"\n:::{dropdown} \g<title>\n\g<text>\n:::\n", text)


def word_links(text: str, words: set[str]) -> str:
    """The line of new words with links to the glossary."""
    link = lambda match: f"{{term}}`{match[1]}`" if match[1].lower() in words else match[0]  # noqa: E731
    return NEW_WORDS.sub(lambda line: re.sub(r"\*(.+?)\*", link, line[0]), text)


def words_of(glossary: str) -> set[str]:
    return {match["word"].lower() for match in GLOSSARY_LINE.finditer(glossary)}


def for_the_book(notebook: nbformat.NotebookNode, lesson: str, words: set[str]) -> nbformat.NotebookNode:
    """A committed lesson as the book shows it.

    Args:
        notebook: as committed; it is changed. lesson: a short name, unique in the book, for labels.
        words: the glossary's.
    """
    texts = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    works = {}
    for cell in texts:
        works |= references(cell.source)
    for cell in texts:
        body, heading, listed = cell.source.partition("## References")
        body = equation_links(numbered(body, lesson), lesson)
        body = citation_links(word_links(folded_hints(body), words), works, lesson)
        listed = reference_places(equation_links(listed, lesson), works, lesson)
        cell.source = body + heading + listed
    set_up, *codes = (cell for cell in notebook.cells if cell.cell_type == "code")
    set_up.metadata["tags"] = [*set_up.metadata.get("tags", []), "hide-input"]
    for cell in codes:
        cell.outputs = [out for out in cell.outputs if not BAR.search(out.get("data", {}).get("text/plain", ""))]
        for output in cell.outputs:
            if alt := output.get("metadata", {}).get("image/png", {}).get("alt"):
                cell.metadata["mystnb"] = {"image": {"alt": alt}}
    return notebook


# --- the other pages -----------------------------------------------------------------------------


def book_links(text: str) -> str:
    """A page of the repository with links that hold in the book, where all pages lie in one folder."""
    text = re.sub(r"\]\((?:notebooks/|\.\./)?(?:data/)?README\.md\)", "](data.md)", text)
    text = re.sub(r"\]\(data/(?:README\.md)?\)", "](data.md)", text)
    text = re.sub(r"\]\((?:\.\./)?CONTRIBUTING\.md\)", "](contributing.md)", text)
    text = re.sub(r"\]\(LICENSE\)", "](https://opensource.org/license/mit)", text)
    return re.sub(r"\]\((?:\.\./)?(?:notebooks/)?([\w./-]+\.(?:ipynb|md|png|gif)(?:#[\w-]+)?)\)", r"](\1)", text)


def glossary_page(text: str) -> str:
    """notebooks/glossary.md with its list as Sphinx's glossary, to whose words lessons can link."""
    lines = list(GLOSSARY_LINE.finditer(text))
    entries = "\n\n".join(f"{match['word']}\n  {match['meaning']}" for match in lines)
    return f"{text[: lines[0].start()]}```{{glossary}}\n{entries}\n```\n{text[lines[-1].end() :]}"


def public_objects(module: ModuleType) -> dict[str, Any]:
    """A module's public functions and classes, in the order of its __all__; without one, those that it defines."""
    names = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    own = {name: getattr(module, name) for name in names}
    return {
        name: value
        for name, value in own.items()
        if callable(value) and (hasattr(module, "__all__") or value.__module__ == module.__name__)
    }


def all_objects() -> dict[str, Any]:
    """Every function and class of the package that is not private, by the dotted path where it is defined."""
    found = {}
    for part in pkgutil.walk_packages(spectralkd_nb.__path__, PACKAGE):
        module = importlib.import_module(part.name)
        for name, value in vars(module).items():
            if not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__:
                found[f"{module.__name__}.{name}"] = value
    return found


def texts_of(value: Any) -> str:
    """The docstring of a module, function or class; of a class also those of its methods."""
    parts = vars(value).values() if isinstance(value, type) else ()
    methods = [part for part in parts if callable(part) or isinstance(part, property | classmethod)]
    return "\n".join(inspect.getdoc(part) or "" for part in (value, *methods))


def named_beside(shown: list[Any], objects: dict[str, Any]) -> dict[str, Any]:
    """What the docstrings of `shown` name in backticks, by its last name or more of its path, and is not among them."""
    found: dict[str, Any] = {}
    for name in sorted(set(BACKTICKED.findall("\n".join(map(texts_of, shown))))):
        meant = {path: value for path, value in objects.items() if path.endswith(f".{name}")}
        if not any(value is known for value in meant.values() for known in shown):
            found |= meant
    return found


def api_page() -> str:
    """Every public name of the package on one page, by module, and what their docstrings name besides."""
    sections: dict[str, dict[str, Any]] = {}
    for name in MODULES:
        module = importlib.import_module(PACKAGE + name)
        public = {f"{PACKAGE}{name}.{key}": value for key, value in public_objects(module).items()}
        sections[name] = {PACKAGE + name: module, **public}
    sections["The form of grids and sweeps"] = {
        PACKAGE + name: importlib.import_module(PACKAGE + name) for name in FORMS
    }
    shown = [value for section in sections.values() for value in section.values()]
    objects, more = all_objects(), {}
    while fresh := named_beside(shown, objects):
        more |= fresh
        shown += fresh.values()
    sections["Named above"] = more
    head = "# The package\n\nEvery public name, in the order in which the modules import one another.\n"
    return head + "".join(f"\n## {title}\n\n{directives(objects)}" for title, objects in sections.items())


def directives(objects: dict[str, Any]) -> str:
    """What makes Sphinx set the docstrings of these objects."""
    lines = []
    for path, value in objects.items():
        if isinstance(value, ModuleType):
            lines.append(f".. automodule:: {path}\n   :no-members:\n")
        else:
            lines.append(f".. {'autoclass' if isinstance(value, type) else 'autofunction'}:: {path}\n")
    return "```{eval-rst}\n" + "\n".join(lines) + "```\n"


def contents(lessons: list[str]) -> str:
    def part(caption: str, pages: list[str]) -> str:
        return "\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""])

    return part("Lessons", lessons) + part("Around them", [*PAGES, "data", "api", "contributing"])


# --- the book ------------------------------------------------------------------------------------


def write_sources(folder: Path) -> None:
    """Everything that Sphinx reads."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copytree(SETTINGS, folder, dirs_exist_ok=True)
    shutil.copytree(NOTEBOOKS / "pictures", folder / "pictures")
    glossary = (NOTEBOOKS / "glossary.md").read_text("utf-8")
    words = words_of(glossary)
    paths = sorted(NOTEBOOKS.glob("*.ipynb"))
    for path in paths:
        lesson = for_the_book(nbformat.read(path, as_version=4), f"l{int(path.stem[:2])}", words)
        nbformat.write(lesson, folder / path.name)
    readme = (ROOT / "README.md").read_text("utf-8")
    written = {name: (NOTEBOOKS / f"{name}.md").read_text("utf-8") for name in PAGES}
    written["index"] = readme + contents([path.stem for path in paths])
    written["glossary"] = glossary_page(glossary)
    written["contributing"] = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    written["data"] = (ROOT / "data" / "README.md").read_text("utf-8")
    for name, text in written.items():
        (folder / f"{name}.md").write_text(book_links(text), "utf-8")
    (folder / "api.md").write_text(api_page(), "utf-8")


def build(folder: Path) -> int:
    """Put the sources into FOLDER/source and the book into FOLDER/html; Sphinx's exit status."""
    from sphinx.cmd.build import main as sphinx

    write_sources(folder / "source")
    shutil.rmtree(folder / "html", ignore_errors=True)
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", "auto", "-d", str(folder / "doctrees")]
    return sphinx([*options, str(folder / "source"), str(folder / "html")])


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "book"
    status = build(where)
    if status == 0:
        print(f"The book is in {where / 'html' / 'index.html'}")
    sys.exit(status)
