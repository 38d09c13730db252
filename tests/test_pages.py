"""The pages around the lessons: the README, the claims, the glossary, the teachers' page, and their pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
from notebook_guard import displayed_text, printed_text
from PIL import Image, ImageChops

from spectralkd_nb.__main__ import main

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
LESSONS = {int(path.stem[:2]): nbformat.read(path, as_version=4) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
README = (ROOT / "README.md").read_text("utf-8")
CLAIMS = (NOTEBOOKS / "claims.md").read_text("utf-8")
GLOSSARY = (NOTEBOOKS / "glossary.md").read_text("utf-8")
TEACHERS = (NOTEBOOKS / "teachers.md").read_text("utf-8")
PAGES = [*ROOT.glob("*.md"), *NOTEBOOKS.glob("*.md"), ROOT / "data" / "README.md"]


def texts(lesson: int) -> str:
    return "\n".join(cell.source for cell in LESSONS[lesson].cells if cell.cell_type == "markdown")


def rows(page: str) -> list[list[str]]:
    """The cells of every row of a page's tables, heads and rules left out."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rules = [i for i, line in enumerate(lines) if set(line) <= set("| -")]
    heads = {*rules, *(i - 1 for i in rules)}
    return [row for i, row in enumerate(cells) if i not in heads]


# --- links and pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_between_pages_leads_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link.split("#")[0]).exists()]
    assert missing == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_link_in_a_lesson_leads_somewhere(lesson):
    links = re.findall(r"\]\(([^)\s]+)\)", texts(lesson))
    assert [link for link in links if "://" not in link and not (NOTEBOOKS / link).exists()] == []


def frames(file: Path) -> list[Image.Image]:
    with Image.open(file) as picture:
        count = getattr(picture, "n_frames", 1)
        return [(picture.seek(i), picture.convert("RGB"))[1] for i in range(count)]


def test_the_readmes_pictures_come_again_by_their_command(tmp_path):
    subprocess.run([sys.executable, ROOT / ".ci" / "pictures.py", tmp_path], check=True, capture_output=True)
    names = re.findall(r"\]\(notebooks/pictures/(\S+)\)", README)
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        stored, drawn = frames(NOTEBOOKS / "pictures" / name), frames(tmp_path / name)
        assert len(stored) == len(drawn), name
        for old, new in zip(stored, drawn, strict=True):
            off = sum(ImageChops.difference(old.convert("L"), new.convert("L")).histogram()[64:])
            assert off < 0.01 * old.width * old.height, f"{name}: {off} pixels differ"


def test_the_readmes_pictures_have_alternative_text_and_one_moves():
    found = re.findall(r"!\[([^\]]*)\]\((\S+)\)", README)
    assert all(len(alt) > 40 for alt, _ in found)
    assert Counter(len(frames(ROOT / path)) > 1 for _, path in found) == {False: 1, True: 1}


# --- the README ----------------------------------------------------------------------------------


def test_the_readmes_table_of_results_is_what_its_command_prints(capsys, monkeypatch):
    ((command, table),) = re.findall(r"<!-- python -m spectralkd_nb (.+?) -->\n((?:\|.*\n)+)", README)
    monkeypatch.chdir(ROOT)
    main(command.split())
    assert table.strip() == capsys.readouterr().out.strip()


def test_the_readmes_loss_works_as_it_stands(capsys):
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    short = code.replace("Recipe.quick()", "Recipe.quick(epochs=1)")
    assert short != code
    exec(short, {})
    assert "1 epoch" in capsys.readouterr().out


def test_the_readmes_minutes_are_the_lessons():
    said = {int(row[0][1]): int(row[2]) for row in rows(README) if row[0].startswith("[")}
    assert said == {lesson: minutes(lesson) for lesson in LESSONS}


def minutes(lesson: int) -> int:
    return int(re.search(r"\*\*Minutes\*\*: (\d+)", texts(lesson))[1])


# --- claims --------------------------------------------------------------------------------------


def shown(lesson: int) -> str:
    """What a lesson's cells print, captions and tables among it."""
    cells = [cell for cell in LESSONS[lesson].cells if cell.cell_type == "code"]
    return "\n".join(f"{printed_text(cell)}\n{displayed_text(cell)}" for cell in cells)


NUMBER = re.compile(r"(?:(?<![\w.])[-+])?\d+\.\d+")  # 1-2.5 is a range, and has no sign


@pytest.mark.parametrize("row", rows(CLAIMS), ids=lambda row: row[0][:40])
def test_every_number_of_a_claim_is_printed_in_the_lessons_that_it_names(row):
    claim, paper, where, measured, verdict = row
    assert verdict in {"hit", "partly", "miss", "undecided", "not comparable"}
    lessons = {int(number) for number in re.findall(r"\[(\d), section", where)}
    assert lessons
    printed = set(NUMBER.findall("\n".join(map(shown, lessons))))
    # 2.5 may be printed as 2.50, and a text says 0.91 of what is printed as +0.9104
    unknown = [n for n in NUMBER.findall(measured) if not any(same(n, other) for other in printed)]
    assert unknown == [], f"{claim} ({paper}): not printed in lessons {sorted(lessons)}"


def same(said: str, printed: str) -> bool:
    digits = len(said.split(".")[1])
    return len(printed.split(".")[1]) >= digits and f"{float(printed):.{digits}f}" == said.lstrip("+")


@pytest.mark.parametrize("row", rows(CLAIMS), ids=lambda row: row[0][:40])
def test_every_section_that_a_claim_names_exists(row):
    for lesson, sections in re.findall(r"\[(\d), sections? ([\d a-z]+?)\]", row[2]):
        for section in re.findall(r"\d+", sections):
            assert re.search(rf"^## {section}\. ", texts(int(lesson)), re.MULTILINE), f"lesson {lesson}, {section}"


def test_every_paper_with_a_claim_is_in_the_references_of_its_lesson():
    for _, papers, where, *_ in rows(CLAIMS):
        lessons = re.findall(r"\[(\d), section", where)
        for surname, year in re.findall(r"([A-Z][a-z]+)[^;]*? (\d{4})", papers):
            listed = any(re.search(rf"^- .*{surname}.*\({year}\)", texts(int(n)), re.MULTILINE) for n in lessons)
            assert listed, f"{surname} {year} in none of lessons {lessons}"


# --- glossary ------------------------------------------------------------------------------------


def glossary() -> list[str]:
    return re.findall(r"^- \*\*(.+?)\*\*: ", GLOSSARY, re.MULTILINE)


def new_words(lesson: int) -> list[str]:
    line = re.search(r"^New words: (.*?)\. Next|^New words: (.*?)\. This", texts(lesson), re.MULTILINE)
    return re.findall(r"\*(.+?)\*", line[0]) if line else []


def test_the_glossary_is_in_order_and_has_each_word_once():
    assert glossary() == sorted(set(glossary()), key=str.lower)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_glossary_has_the_new_words_of_every_lesson(lesson):
    words = new_words(lesson)
    assert words
    known = {word.lower() for word in glossary()}
    assert [word for word in words if word.lower() not in known] == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_uses_the_words_that_it_calls_new(lesson):
    used = texts(lesson).replace(re.search(r"^New words: .*", texts(lesson), re.MULTILINE)[0], "").lower()
    assert [word for word in new_words(lesson) if word.lower() not in used] == []


# --- for teachers --------------------------------------------------------------------------------


def test_the_two_hours_are_two_hours():
    plan = TEACHERS.partition("## Two hours")[2].partition("## Minutes")[0]
    assert sum(int(row[0]) for row in rows(plan)) == 120


def test_the_minutes_of_a_lessons_sections_add_up_to_those_in_its_box():
    spent: Counter[int] = Counter()
    for lesson, section, taken in rows(TEACHERS.partition("## Minutes a section")[2]):
        assert f"## {section}\n" in texts(int(lesson)) + "\n", f"lesson {lesson} has no section {section!r}"
        spent[int(lesson)] += int(taken)
    assert spent == {lesson: minutes(lesson) for lesson in LESSONS}


def test_a_section_that_says_its_minutes_says_the_teachers():
    listed = {(int(row[0]), row[1]): int(row[2]) for row in rows(TEACHERS.partition("## Minutes a section")[2])}
    for lesson in LESSONS:
        for title, taken in re.findall(r"^## (.+)\n\n\*(\d+) minutes?\*", texts(lesson), re.MULTILINE):
            assert listed[lesson, title] == int(taken), f"lesson {lesson}, {title}"


def test_every_section_of_every_lesson_has_its_minutes():
    listed = {(int(row[0]), row[1]) for row in rows(TEACHERS.partition("## Minutes a section")[2])}
    sections = {
        (lesson, title)
        for lesson in LESSONS
        for title in re.findall(r"^## (\d+\. .+|Exercises.*)$", texts(lesson), re.MULTILINE)
    }
    assert listed == sections


def test_the_exercises_take_as_long_as_they_say():
    for lesson, section, taken in rows(TEACHERS.partition("## Minutes a section")[2]):
        if section.startswith("Exercises"):
            said = re.findall(r"^\*\*\d\.\d\*\* \((\d+) minutes\)", texts(int(lesson)), re.MULTILINE)
            assert int(taken) == sum(map(int, said)), f"lesson {lesson}"
