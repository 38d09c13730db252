"""The web book: it builds without a warning, its links lead somewhere, and everybody can read it.

    SCREENSHOTS=folder pytest tests/test_book.py

puts pictures of its pages into the folder, for every view of VIEWS.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

import nbformat
import pytest

import spectralkd_nb

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Shown

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PAGES = ["index", *LESSONS, "guide", "claims", "glossary", "teachers", "data", "api", "contributing", "search"]


class View(NamedTuple):
    """A window, and how a reader has set it up."""

    width: int
    height: int
    colours: str


LAPTOP = View(1400, 900, "light")
VIEWS = {
    "laptop": LAPTOP,
    "dark": View(1400, 900, "dark"),
    "phone": View(360, 740, "light"),
    "twice as large": View(640, 450, "light"),  # what is left of 1280 x 900 at 200 %
}
ALLOWED_IN_CONSOLE = "about:blank"  # MathJax asks for a font of blanks, for what is not set yet


specification = importlib.util.spec_from_file_location("book", ROOT / ".ci" / "book.py")
book = importlib.util.module_from_spec(specification)
specification.loader.exec_module(book)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The book's folder, built from the notebooks as they are here."""
    for needed in ("sphinx", "myst_nb", "sphinx_book_theme", "jupyter_server_mathjax"):
        if importlib.util.find_spec(needed) is None:
            reason = f"{needed} is not installed; it is in the extra `book`."
            pytest.fail(reason, pytrace=False) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("book")
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "book.py", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr  # a warning of Sphinx is an error
    return folder / "html"


# --- what a page holds ---------------------------------------------------------------------------


class Page(HTMLParser):
    """The links, places, pictures and numbered equations of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.pictures: list[dict[str, str | None]] = []
        self.equations = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.places |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if found.get(key)]
        if tag == "img":
            self.pictures.append(found)
        self.equations += found.get("class") == "eqno"


@pytest.fixture(scope="module")
def pages(built) -> dict[str, Page]:
    return {path.name: Page(path.read_text("utf-8")) for path in built.glob("*.html")}


def test_the_book_has_all_pages(pages):
    assert {f"{page}.html" for page in PAGES} <= pages.keys()


def test_no_link_within_the_book_is_broken(built, pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = unquote(parts.path) or name
            if not (built / target).exists():
                broken.append(f"{name}: {link}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].places:
                broken.append(f"{name}: {link}, no such place")
    assert broken == []


def test_every_picture_has_alternative_text(pages):
    assert sum(len(page.pictures) for page in pages.values()) > 60
    bare = [(name, p.get("src")) for name, page in pages.items() for p in page.pictures if not p.get("alt", "").strip()]
    assert bare == []


@pytest.mark.parametrize("lesson", LESSONS)
def test_alternative_text_is_the_figures_caption(lesson, pages):
    captions = [
        output.metadata["image/png"]["alt"]
        for cell in notebook_of(lesson).cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("metadata", {})
    ]
    assert captions
    shown = [picture["alt"] for picture in pages[f"{lesson}.html"].pictures]
    assert [alt for alt in shown if alt in captions] == captions


@pytest.mark.parametrize("lesson", LESSONS)
def test_equations_keep_their_numbers_and_mentions_link_to_them(lesson, built, pages):
    texts = [c.source for c in notebook_of(lesson).cells if c.cell_type == "markdown"]
    numbers = [int(number) for text in texts for number in re.findall(r"\\tag\{(\d+)\}", text)]
    assert numbers == list(range(1, len(numbers) + 1))  # the book counts; the lesson says
    assert pages[f"{lesson}.html"].equations == len(numbers)
    html = (built / f"{lesson}.html").read_text("utf-8")
    short = f"l{int(lesson[:2])}"
    for linked, said in re.findall(rf'href="[^"]*#equation-{short}-(\d+)"[^>]*>(?:<[^>]*>)*([^<]+)<', html):
        assert said in {linked, "#"}  # the link beside an equation is #
    prose = [book.HINT.sub("", text).partition("## References")[0] for text in texts]
    mentioned = sum(1 + len(re.findall(r"\d+", m[3])) for text in prose for m in book.MENTION.finditer(text))
    linked = re.findall(rf'class="[^"]*reference[^"]*" href="[^"]*#equation-{short}-\d+"', html)
    assert len(linked) >= mentioned


def notebook_of(lesson: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", as_version=4)


YEAR = re.compile(r"[A-Z][\w-]+(?:\set\sal\.|(?:,\s[A-Z][\w-]+)*\s&\s[A-Z][\w-]+)?(?:'s)?,?\s\(?(?:19|20)\d\d\b")


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_work_that_a_lesson_names_is_linked_to_its_reference(lesson, built):
    texts = [cell.source for cell in notebook_of(lesson).cells if cell.cell_type == "markdown"]
    works = {key: place for text in texts for key, place in book.references(text).items()}
    assert works
    html = (built / f"{lesson}.html").read_text("utf-8")
    for text in texts:
        body = text.partition("## References")[0]
        left = book.citation_links(body, works, "l")
        named = YEAR.findall(re.sub(r"\[[^\]]*\]\(#l-[^)]*\)", "", left))
        assert named == [], f"not in the references, or not by its first author: {named}"
    for place in works.values():
        assert f'id="l{int(lesson[:2])}-{place}"' in html


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_reference_has_an_address(lesson):
    listed = "\n".join(
        cell.source.partition("## References")[2] for cell in notebook_of(lesson).cells if cell.cell_type == "markdown"
    )
    items = re.findall(r"^- .+$", listed, re.MULTILINE)
    assert items
    assert [item for item in items if "](https://" not in item] == []


def test_the_package_is_on_one_page_whole(pages):
    places = pages["api.html"].places
    for name in book.MODULES:
        module = importlib.import_module(f"spectralkd_nb.{name}")
        for public in book.public_objects(module):
            assert f"spectralkd_nb.{name}.{public}" in places
    rooms = {path.stem for path in Path(spectralkd_nb.__file__).parent.iterdir() if not path.name.startswith("__")}
    assert rooms - {"storage", "py"} - set(book.MODULES) <= INNER


INNER = {"names"}  # rooms that a reader of the API needs nothing from


def test_whatever_the_packages_page_names_in_code_is_on_it_too(built, pages):
    html = (built / "api.html").read_text("utf-8")
    said = set(re.findall(r'<code class="[^"]*literal[^"]*">(?:<span class="pre">)?([A-Za-z_][\w.]*)<', html))
    names = {place.rsplit(".", 1)[1]: place for place in book.all_objects()}
    there = {place.rsplit(".", 1)[-1] for place in pages["api.html"].places if place.startswith("spectralkd_nb.")}
    asked = {word for word in said if word.rsplit(".", 1)[-1] in names}
    assert len(asked) > 50
    assert sorted(word for word in asked if word.rsplit(".", 1)[-1] not in there) == []


def test_hints_fold_and_bars_that_stand_still_are_left_out(built):
    html = (built / f"{LESSONS[0]}.html").read_text("utf-8")
    assert html.count('<details class="sd-') >= 6
    assert "0%|" not in html


def test_new_words_lead_to_the_glossary(built):
    for lesson in LESSONS:
        html = (built / f"{lesson}.html").read_text("utf-8")
        assert 'href="glossary.html#term-' in html, lesson


# --- the pieces ----------------------------------------------------------------------------------


def test_equations_get_labels_and_mentions_links():
    text = "As\n\n$$a = b \\tag{1}$$\n\nsays, by equations 1 and 2, and Equation 3."
    assert book.numbered(text, "l9").startswith("As\n\n$$\na = b\n$$ (l9-1)\n")
    linked = book.equation_links("by equations 1, 2 and 3, and Equation 4.", "l9")
    assert linked == "by equations {eq}`l9-1`, {eq}`l9-2` and {eq}`l9-3`, and Equation {eq}`l9-4`."
    assert book.equation_links("equation 5 of lesson 3", "l9") == "equation 5 of lesson 3"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("(Cho & Saul 2009; lesson 2)", "([Cho & Saul 2009](#l3-cho-2009); lesson 2)"),
        ("Cho & Saul (2009) say", "[Cho & Saul (2009)](#l3-cho-2009) say"),
        ("Cho & Saul's (2009).", "[Cho & Saul's (2009)](#l3-cho-2009)."),
        ("as known (Cho et al. 2009)", "as known ([Cho et al. 2009](#l3-cho-2009))"),
        ("Chomsky 2009", "Chomsky 2009"),
    ],
)
def test_works_are_linked_however_they_are_named(said, expected):
    works = book.references("- Y. Cho, L. Saul (2009), *Kernels*, NeurIPS.")
    assert book.citation_links(said, works, "l3") == expected


def test_a_reference_gets_a_place():
    line = "- Z.-Q. Xu, H. Zhou (2020), *Deep*, [x](https://x.org)."
    works = book.references(line)
    assert works == {("Xu", "2020"): "xu-2020"}
    assert book.reference_places(line, works, "l3") == (
        "- [Z.-Q. Xu, H. Zhou (2020)]{#l3-xu-2020}, *Deep*, [x](https://x.org)."
    )


# --- in a browser --------------------------------------------------------------------------------


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(built) -> Iterator[str]:
    handler = functools.partial(Silent, directory=str(built))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def opened(browser: Browser, url: str, view: View) -> Iterator[tuple]:
    """A page as a reader has it, with what its console says and what it asked other machines for."""
    context = browser.new_context(
        viewport={"width": view.width, "height": view.height}, color_scheme=view.colours, reduced_motion="reduce"
    )
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: said.type == "error" and complaints.append(f"{said.text} {said.location['url']}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("response", lambda reply: reply.status >= 400 and complaints.append(f"{reply.status}: {reply.url}"))
    page.on("request", lambda request: request.url.startswith(("http", "ws")) and asked(request.url))

    def asked(where: str) -> None:
        if not where.startswith("http://127.0.0.1:"):
            complaints.append(f"asked for {where}")

    page.goto(url)
    settle(page)
    yield page, complaints
    context.close()


def settle(page: Shown) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_function("!window.MathJax || !MathJax.Hub || MathJax.Hub.queue.pending === 0")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_by_everybody(name, browser, address):
    with opened(browser, f"{address}/{name}.html", LAPTOP) as (page, complaints):
        written = page.locator("span.math.notranslate, div.math.notranslate").count()
        assert not written or page.locator(".MathJax").count() >= written, "equations are not set"
        for title, view in VIEWS.items():
            page.set_viewport_size({"width": view.width, "height": view.height})
            page.emulate_media(color_scheme=view.colours)
            if title == "phone":  # the theme looks once what scrolls and wants the keyboard
                page.reload()
                settle(page)
            page.wait_for_function("colours => document.documentElement.dataset.theme === colours", arg=view.colours)
            if folder := os.environ.get("SCREENSHOTS"):
                Path(folder).mkdir(parents=True, exist_ok=True)
                page.screenshot(path=Path(folder) / f"book-{name}-{title.replace(' ', '-')}.png")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= view.width, f"{title}: {wide} pixels wide in a window of {view.width}"
            if title in LOOKED_AT_BY_AXE:
                assert serious_faults(page) == [], title
        assert [said for said in complaints if not re.search(ALLOWED_IN_CONSOLE, said)] == []


LOOKED_AT_BY_AXE = ("laptop", "dark", "phone")


def serious_faults(page: Shown) -> list[str]:
    """What axe finds and calls serious or critical, with the first place of each."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False}).response["violations"]
    return [
        f"{fault['id']}: {fault['nodes'][0]['html'][:150]} ({len(fault['nodes'])} places)"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


def test_a_word_is_found(browser, address):
    with opened(browser, f"{address}/search.html?q=Parseval", LAPTOP) as (page, complaints):
        page.wait_for_selector("#search-results li a")
        found = page.locator("#search-results li a").all_text_contents()
        assert any("Lesson 4" in title for title in found)
        assert complaints == []


def test_light_and_dark_are_chosen_from_a_menu_by_keyboard(browser, address):
    with opened(browser, f"{address}/{LESSONS[0]}.html", LAPTOP) as (page, _):
        menu = page.locator(".theme-switch-container:visible").first
        seen = []
        for colours in ("Dark", "Light"):
            menu.locator("button.theme-switch-button").press("Enter")
            menu.locator(".dropdown-item", has_text=colours).press("Enter")
            seen.append(page.evaluate("document.documentElement.dataset.theme"))
        assert seen == ["dark", "light"]
