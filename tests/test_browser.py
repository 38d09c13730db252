"""Every lesson as a reader has it: in JupyterLab and a real browser, all cells run, every slider and menu moved.

They need Playwright for Python (the extra `test`) and Chromium or Chrome: the program that the variable CHROMIUM names,
or the first of CHROMIUMS that is on the path. Without them these tests are skipped; where the variable CI is set, they
fail.

How long each slider's pictures took to come is written to build/latencies.csv. No time is asserted: it depends on the
machine.

    SCREENSHOTS=folder pytest tests/test_browser.py

puts pictures of the lessons into the folder, at both widths of WIDTHS: every set of sliders (LESSON-WIDTH-NAME.png) and
the whole lesson, a screenful each (LESSON-WIDTH-00.png and so on).
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.client
import importlib.util
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

import nbformat
import numpy as np
import pytest
from browsers import cannot_be_tested, free_port
from PIL import Image

try:
    from playwright.sync_api import TimeoutError as GaveUp
except ImportError:  # the fixture `browser` says so
    GaveUp = TimeoutError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LATENCIES = ROOT / "build" / "latencies.csv"
STORE = NOTEBOOKS[0].parent / "runs"
WIDTHS = (1400, 800)  # of the window: a laptop's, and half of one
HEIGHT = 1000
STARTING, RUNNING, DRAWING = 60, 300, 60  # seconds before giving up; how long it took is printed, never asserted

# What the browser may complain of: a pattern, and why it is no fault of a lesson.
ALLOWED_IN_CONSOLE: dict[str, str] = {}

# Run in the kernel before the lesson. Left alone, sliders draw neighbours while nobody moves, and then nobody could
# tell a picture that was drawn for a move from one that lay ready.
NOTHING_AHEAD = """
from spectralkd_nb import widgets
widgets.Explorer._fill_when_idle = lambda self, *_: None
"""


# --- what runs in the page -----------------------------------------------------------------------

# `cells` are the model's, not the page's: they are complete even where JupyterLab draws only what is in view.
IN_THE_PAGE = """
window.lesson = {
    panel: () => window.jupyterapp?.shell.currentWidget,
    kernel: () => lesson.panel()?.context?.sessionContext.session?.kernel,
    codeCells: () => [...lesson.panel().context.model.cells].filter(cell => cell.type === 'code'),
    errors: () => lesson.codeCells().flatMap(cell => cell.toJSON().outputs)
        .filter(output => output.output_type === 'error').map(output => `${output.ename}: ${output.evalue}`),
    idle: () => lesson.kernel()?.status === 'idle',
    ran: () => lesson.errors().length > 0 || (lesson.idle() && lesson.codeCells().every(cell => cell.executionCount)),
    execute: async code => {
        const reply = await lesson.kernel().requestExecute({code, silent: true, store_history: false}).done;
        return reply.content.status === 'ok' ? '' : `${reply.content.ename}: ${reply.content.evalue}`;
    },

    named: (pattern, within = document) => [...new Set([...within.querySelectorAll('[class*="sk-"]')]
        .flatMap(element => [...element.classList]).map(name => name.match(pattern)?.[1]).filter(Boolean))],

    // textContent, not innerText: that is empty for what is out of view.
    shown: name => {
        const image = document.querySelector(`.sk-${name}-picture img`);
        const status = document.querySelector(`.sk-${name}-status`);
        return {picture: image?.src ?? '', alt: image?.alt ?? '', status: status?.textContent.trim() ?? '',
                alarm: status?.querySelector('[role=alert]') !== null};
    },
    state: (name, control) => {
        const slider = document.querySelector(`.sk-${name}-${control}`);
        return {...lesson.shown(name),
                slider: slider.querySelector('.widget-readout').textContent.trim(),
                menu: document.querySelector(`.sk-${name}-${control}-menu select`).selectedOptions[0].text
                    .replaceAll('\u00a0', ' ').trim()};  // ipywidgets' menus have spaces that do not break
    },

    // From here to stop(): when a key went down, when the new picture was in the page, and what each frame showed.
    watch: (name, control) => {
        const box = document.querySelector(`.sk-${name}`);
        const image = () => box.querySelector(`.sk-${name}-picture img`);
        const before = lesson.state(name, control);
        const seen = {asked: null, came: null, heights: [], empty: 0};
        let watching = true;
        const asked = event => { seen.asked ??= event.timeStamp; };
        const observer = new MutationObserver(() => {
            if (!image()) seen.empty += 1;
            else if (image().src !== before.picture) seen.came ??= performance.now();
        });
        const frame = () => {
            if (!watching) return;
            seen.heights.push(box.getBoundingClientRect().height);
            if (!image() || image().getBoundingClientRect().height < 2) seen.empty += 1;
            requestAnimationFrame(frame);
        };
        document.addEventListener('keydown', asked, true);
        document.addEventListener('change', asked, true);
        observer.observe(box, {subtree: true, childList: true, attributes: true});
        frame();
        lesson.followed = () => {
            const now = lesson.state(name, control);
            const parts = ['picture', 'alt', 'status', 'slider', 'menu'];
            return now.alarm || parts.every(part => now[part] !== before[part]);
        };
        lesson.stop = () => new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(() => {
            watching = false;
            observer.disconnect();
            document.removeEventListener('keydown', asked, true);
            document.removeEventListener('change', asked, true);
            resolve(seen);
        })));
    },
};
"""


# --- a lesson in a browser -----------------------------------------------------------------------


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/status")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def stop(server: subprocess.Popen) -> None:
    """End the server and what it started. Asked politely, it ends its kernels, which have groups of their own."""
    for ask in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if os.name == "posix":
            os.killpg(server.pid, ask)
        else:
            server.terminate()
        try:
            server.wait(timeout=20)
            return
        except subprocess.TimeoutExpired:
            continue


@pytest.fixture(scope="module")
def lessons_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jupyterlab") / "lessons"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def jupyterlab(lessons_folder: Path) -> Iterator[str]:
    """The address of a JupyterLab over copies of the notebooks; it neither reads nor writes the person's settings."""
    if importlib.util.find_spec("jupyterlab") is None:
        cannot_be_tested("There is no JupyterLab; install the extra `lab`.")
    folder = lessons_folder.parent
    for path in NOTEBOOKS:
        copy_without_outputs(path, lessons_folder / path.name)
    with contextlib.suppress(OSError):  # what the lessons have trained here before; without links they train again
        (lessons_folder / "runs").symlink_to(STORE, target_is_directory=True)
        STORE.mkdir(exist_ok=True)
    kept = {
        name: str(folder / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    settings = folder / "jupyter_config_dir" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    port = free_port()
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
        *("--IdentityProvider.token=", "--ServerApp.password=", "--LabApp.expose_app_in_browser=True"),
        *(f"--ServerApp.root_dir={lessons_folder}", f"--LabApp.workspaces_dir={folder / 'workspaces'}"),
        *("--LabApp.extension_manager=readonly",),  # the other one asks PyPI
    ]
    log = folder / "log"
    with log.open("w") as written:
        server = subprocess.Popen(
            command, env=os.environ | kept, stdout=written, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        give_up = time.monotonic() + STARTING
        while not answers(port):
            if server.poll() is not None or time.monotonic() > give_up:
                pytest.fail(f"JupyterLab does not start:\n{log.read_text()[-2000:]}", pytrace=False)
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(server)


def copy_without_outputs(path: Path, copy: Path) -> None:
    """So that an execution count says that the cell ran now."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    copy.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, copy)


@dataclass
class Lesson:
    """A lesson that was opened and run."""

    name: str
    page: Page
    complaints: list[str] = field(default_factory=list)  # of the browser's console

    def calls(self, call: str) -> int:
        """How often the lesson's cells say this, outside what only the full profile does."""
        cells = nbformat.read(ROOT / "notebooks" / f"{self.name}.ipynb", as_version=4).cells
        lines = [line for cell in cells if cell.cell_type == "code" for line in cell.source.splitlines()]
        return sum(line.count(call) for line in lines if not line.startswith(" "))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest, browser: Browser, jupyterlab: str) -> Iterator[Lesson]:
    opened = open_notebook(browser, f"{jupyterlab}/lab/tree/{request.param.name}?reset")
    page = opened.page
    assert page.evaluate("code => lesson.execute(code)", NOTHING_AHEAD) == ""
    started = time.monotonic()
    run_all_cells(opened)
    print(f"\n{opened.name}: all cells ran in {time.monotonic() - started:.0f} s")
    if folder := os.environ.get("SCREENSHOTS"):
        take_screenshots(opened, Path(folder))
    yield opened
    page.close()


def open_notebook(browser: Browser, address: str) -> Lesson:
    """A notebook in a window of its own, with a kernel that waits."""
    page = browser.new_page(viewport={"width": WIDTHS[0], "height": HEIGHT})
    opened = Lesson(Path(urlsplit(address).path).stem, page)
    loud = ("error", "warning")
    page.on("console", lambda message: message.type in loud and opened.complaints.append(message.text))
    page.on("pageerror", lambda error: opened.complaints.append(str(error)))
    page.add_init_script(IN_THE_PAGE)
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=STARTING * 1000)
    page.wait_for_function("lesson.idle()", timeout=STARTING * 1000)
    page.evaluate("jupyterapp.shell.collapseLeft()")  # the list of files, which would take a third of the narrow window
    return opened


def run_all_cells(opened: Lesson) -> None:
    opened.page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    try:
        opened.page.wait_for_function("lesson.ran()", timeout=RUNNING * 1000)
    except GaveUp:
        waiting = opened.page.evaluate("lesson.codeCells().findIndex(cell => !cell.executionCount) + 1")
        pytest.fail(f"{opened.name}: after {RUNNING} s code cell {waiting} has not run", pytrace=False)


def take_screenshots(lesson: Lesson, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        lesson.page.set_viewport_size({"width": width, "height": HEIGHT})
        for name in explorers(lesson.page):
            box = lesson.page.locator(f".sk-{name}")
            for _ in range(2):  # cells that come into view are drawn then, and push the box away
                box.evaluate("box => box.scrollIntoView({block: 'center'})")
                time.sleep(0.5)
            box.screenshot(path=folder / f"{lesson.name}-{width}-{name}.png")
        scrolled = lesson.page.locator(".jp-WindowedPanel-outer").first
        scrolled.evaluate("element => { element.scrollTop = 0; }")
        for number in range(100):
            time.sleep(0.5)
            lesson.page.screenshot(path=folder / f"{lesson.name}-{width}-{number:02d}.png")
            if scrolled.evaluate(
                """element => {
                    element.scrollTop += 0.9 * element.clientHeight;
                    return element.scrollTop + element.clientHeight >= element.scrollHeight - 1;
                }"""
            ):
                break
    lesson.page.set_viewport_size({"width": WIDTHS[0], "height": HEIGHT})


# --- sliders -------------------------------------------------------------------------------------


class State(NamedTuple):
    """What a person sees of a set of sliders and of one of them."""

    picture: str
    alt: str
    status: str
    slider: str
    menu: str

    def __repr__(self) -> str:
        return f"State({self.slider!r} on the slider, {self.menu!r} on the menu, status {self.status[:80]!r})"


class Move(NamedTuple):
    before: State
    after: State
    milliseconds: float
    heights: list[float]
    empty_frames: int


def explorers(page: Page) -> list[str]:
    """Sets of sliders: a picture, a status line and a box around both."""
    names = page.evaluate("lesson.named(/^sk-(.+)-picture$/)")
    return [name for name in names if page.locator(f".sk-{name}").count() == 1]


def controls(page: Page, name: str) -> list[str]:
    menus = "(box, name) => lesson.named(new RegExp(`^sk-${name}-(.+)-menu$`), box)"
    return page.locator(f".sk-{name}").evaluate(menus, name)


def uploads(page: Page) -> list[str]:
    return page.evaluate("lesson.named(/^sk-(.+)-button$/)")


def state(page: Page, name: str, control: str) -> State:
    seen = page.evaluate("([name, control]) => lesson.state(name, control)", [name, control])
    alarm = seen.pop("alarm")
    assert not alarm, f"{name}, {control}: {seen['status']}"
    return State(**seen | {"picture": hashlib.sha256(seen["picture"].encode()).hexdigest()})


def move(page: Page, name: str, control: str, how: Callable[[], Any]) -> Move:
    """Do something to a control, wait until all that belongs to it has followed, and say what was seen meanwhile."""
    before = state(page, name, control)
    page.evaluate("([name, control]) => lesson.watch(name, control)", [name, control])
    how()
    with contextlib.suppress(GaveUp):  # what stayed behind is told by check
        page.wait_for_function("lesson.followed()", timeout=DRAWING * 1000)
    seen = page.evaluate("lesson.stop()")
    taken = (seen["came"] or float("nan")) - (seen["asked"] or float("nan"))
    return Move(before, state(page, name, control), taken, seen["heights"], seen["empty"])


def check(moved: Move, what: str) -> None:
    same = [part for part in State._fields if getattr(moved.before, part) == getattr(moved.after, part)]
    assert same == [], f"{what}: these stayed as they were: {', '.join(same)}; {moved.after}"
    assert moved.after.slider == moved.after.menu, f"{what}: slider and menu differ; {moved.after}"
    assert moved.empty_frames == 0, f"{what}: {moved.empty_frames} frames showed no picture"
    jump = max(moved.heights) - min(moved.heights)
    assert jump <= 1, f"{what}: the lesson below jumped by {jump:.0f} pixels"


def tour(page: Page, name: str, control: str) -> Iterator[tuple[str, Move]]:
    """Forth and back twice on the slider, then to the far end and back on the menu, all by keyboard but the last."""
    handle = page.locator(f".sk-{name}-{control} :is(.noUi-handle, .ui-slider-handle)")
    menu = page.locator(f".sk-{name}-{control}-menu select")
    options = menu.locator("option").count()
    at_first = menu.evaluate("menu => menu.selectedIndex")
    assert options > 1, f"{name}, {control}: one value is no choice"
    forth, back = ("ArrowRight", "ArrowLeft") if at_first + 1 < options else ("ArrowLeft", "ArrowRight")
    for key in (forth, back) * 2:
        handle.focus()
        yield f"{key} on the slider", move(page, name, control, lambda key=key: page.keyboard.press(key))
    far = "End" if at_first + 1 < options else "Home"
    menu.focus()
    yield f"{far} on the menu", move(page, name, control, lambda: page.keyboard.press(far))
    yield "a choice from the menu", move(page, name, control, lambda: menu.select_option(index=at_first))


# --- the tests -----------------------------------------------------------------------------------


def test_every_cell_of_a_lesson_runs(lesson: Lesson) -> None:
    assert lesson.page.evaluate("lesson.errors()") == []


def test_whatever_a_lesson_calls_for_is_there(lesson: Lesson) -> None:
    page = lesson.page
    there = {
        "widgets.explore(": sum(bool(controls(page, name)) for name in explorers(page)),
        "widgets.upload_picture(": len(uploads(page)),
        "widgets.GridForm(": page.locator(".jp-Notebook .sk-form").count(),
        "lesson.train(": page.locator(".jp-Notebook .sk-training").count(),
        "lesson.run_grid(": page.locator(".jp-Notebook .sk-grid").count(),
    }
    assert there == {call: lesson.calls(call) for call in there}


@pytest.fixture(scope="module")
def latencies() -> Iterator[Any]:
    LATENCIES.parent.mkdir(exist_ok=True)
    with LATENCIES.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["lesson", "sliders", "control", "window", "visit", "moves", "median_ms", "least_ms", "most_ms"])
        yield rows


def test_every_slider_moves_all_that_belongs_to_it(lesson: Lesson, latencies: Any) -> None:
    page = lesson.page
    visited: set[str] = set()
    moved = 0
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": HEIGHT})
        for name in explorers(page):
            for control in controls(page, name):
                moved += 1
                where = f"{lesson.name}, {name}, {control}, window {width} wide"
                times: dict[str, list[float]] = {"first visit": [], "later": []}
                page.locator(f".sk-{name}-{control}").scroll_into_view_if_needed()
                home = state(page, name, control)
                visited.add(home.picture)
                for step, made in tour(page, name, control):
                    check(made, f"{where}: {step}")
                    times["later" if made.after.picture in visited else "first visit"].append(made.milliseconds)
                    visited.add(made.after.picture)
                assert made.after == home, f"{where}: back where it was, something else is shown"
                for visit, taken in times.items():
                    if taken:
                        measured = (round(take(taken)) for take in (statistics.median, min, max))
                        latencies.writerow([lesson.name, name, control, width, visit, len(taken), *measured])
    handles = page.locator(".jp-Notebook :is(.noUi-handle, .ui-slider-handle)").count()
    assert moved == len(WIDTHS) * handles, f"{lesson.name}: a slider has no menu beside it, or other classes"


def test_a_picture_of_ones_own_is_taken_in(lesson: Lesson, tmp_path: Path) -> None:
    page = lesson.page
    assert page.locator(".jp-Notebook .widget-upload").count() == len(uploads(page)), "a button has other classes"
    picture, dot, no_picture = (tmp_path / name for name in ("mine.png", "dot.png", "text.png"))
    noise = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(picture)
    Image.fromarray(noise[:1, :3]).save(dot)
    no_picture.write_text("I am no picture.\n")
    for name in uploads(page):
        shown = upload(page, name, picture)
        assert shown["picture"], f"{name}: no figure came; status {shown['status']!r}"
        assert shown["alt"], f"{name}: the figure has no alt text"
        assert shown["status"], f"{name}: the status line is empty"
        assert not shown["alarm"], f"{name}: {shown['status']}"
        refused = upload(page, name, no_picture)
        assert refused["alarm"], f"{name}: a text file was taken for a picture; status {refused['status']!r}"
        assert re.match(r"text\.png is no picture\b", refused["status"]), f"{name}: {refused['status']!r}"
        assert upload(page, name, picture)["picture"] == shown["picture"], f"{name}: it does not go on"
        small = upload(page, name, dot)
        assert small["alarm"], f"{name}: three pixels have no spectrum; status {small['status']!r}"
        assert "at least 4 pixels a side are needed" in small["status"], f"{name}: {small['status']!r}"


def upload(page: Page, name: str, path: Path) -> dict[str, Any]:
    """Choose a file with the button, by keyboard, and say what is shown once the status line has changed."""
    before = page.evaluate("name => lesson.shown(name)", name)["status"]
    with page.expect_file_chooser() as chooser:
        page.locator(f".sk-{name}-button").press("Enter")
    chooser.value.set_files(path)
    changed = "([name, before]) => lesson.shown(name).status !== before"
    page.wait_for_function(changed, arg=[name, before], timeout=DRAWING * 1000)
    return page.evaluate("name => lesson.shown(name)", name)


# A key for each kind of control of a form, after which it has another value.
KEYS = {"select": ("End",), "select[multiple]": ("Home",), "input": ("End", "x", "Enter")}


def test_every_control_of_a_form_is_changed_by_keyboard(lesson: Lesson) -> None:
    page = lesson.page
    for form in page.locator(".jp-Notebook [class*='sk-form-status']").all():
        for name in page.evaluate("lesson.named(/^sk-form-(.+)$/)"):
            control = page.locator(f".sk-form-{name} :is(select, input)")
            if name == "status" or control.count() == 0 or control.locator("option").count() == 1:
                continue
            kind = control.evaluate(
                "element => element.tagName === 'INPUT' ? 'input' : element.multiple ? 'select[multiple]' : 'select'"
            )
            value = "element => element.multiple ? [...element.selectedOptions].map(o => o.text).join() : element.value"
            before, told = control.evaluate(value), form.text_content()
            # A menu that stands at its last value goes to its first.
            at_end = kind == "select" and control.evaluate("menu => menu.selectedIndex === menu.options.length - 1")
            control.focus()
            for key in ("Home",) if at_end else KEYS[kind]:
                page.keyboard.press(key)
            page.wait_for_function(
                f"([name, before]) => (({value})(document.querySelector(`.sk-form-${{name}}`)"
                ".querySelector('select, input'))) !== before",
                arg=[name, before],
                timeout=DRAWING * 1000,
            )
            with contextlib.suppress(GaveUp):
                followed = "told => document.querySelector('.jp-Notebook [class*=sk-form-status]').textContent !== told"
                page.wait_for_function(followed, arg=told, timeout=DRAWING * 1000)
            assert form.text_content(), f"{name}: the line below says nothing; before it was {told!r}"
            assert form.text_content() != told, f"{name}: the line below does not follow; it says {told!r}"


def test_every_training_was_shown_to_its_end(lesson: Lesson) -> None:
    page = lesson.page
    for shown in page.locator("[class*='sk-training-status']").all():
        assert ", finished." in shown.text_content()
    for curves in page.locator("[class*='sk-training-picture'] img").all():
        assert " of the test images are right" in curves.get_attribute("alt")


# The last one, so that it hears of all that the others did.
def test_the_browser_has_nothing_to_complain_of(lesson: Lesson) -> None:
    unknown = [text for text in lesson.complaints if not any(re.search(known, text) for known in ALLOWED_IN_CONSOLE)]
    assert unknown == []


# --- a training that is stopped ------------------------------------------------------------------

TRAINING = (
    "from spectralkd_nb import course\nfrom spectralkd_nb.datasets import open_dataset\n"
    "from spectralkd_nb.distillation import Recipe\nlesson = course.start()",
    "run = lesson.train('vgg8x0.0625', open_dataset('photographs'), Recipe.quick(epochs=25), folder='stopped')",
)
EPOCH = "Number(document.querySelector('.sk-training-status')?.textContent.match(/epoch (\\d+) of/)?.[1] ?? 0)"
COLLECT_EPOCHS = f"""() => {{
    window.epochs = [];
    setInterval(() => {{ const epoch = {EPOCH}; if (epoch) epochs.push(epoch); }}, 20);
}}"""


def test_the_stop_button_ends_a_training_and_the_same_cell_goes_on(
    browser: Browser, jupyterlab: str, lessons_folder: Path
) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(code) for code in TRAINING],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, lessons_folder / "training.ipynb")
    opened = open_notebook(browser, f"{jupyterlab}/lab/tree/training.ipynb?reset")
    page = opened.page
    page.evaluate("void jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(f"{EPOCH} >= 4", timeout=RUNNING * 1000)
    page.locator("[data-jp-item-name='interrupt'] :is(jp-button, button)").first.press("Enter")
    page.wait_for_function("lesson.errors().length > 0 && lesson.idle()", timeout=STARTING * 1000)
    (said,) = page.evaluate("lesson.errors()")
    stopped = re.fullmatch(
        r"KeyboardInterrupt: the run was stopped in epoch (\d+); the same call goes on from here", said
    )
    assert stopped, said

    # For a moment after an error a kernel sends back what it is asked: it clears the queue of "run all".
    page.wait_for_function("async () => (await lesson.execute('pass')) === ''", timeout=STARTING * 1000)
    page.evaluate("lesson.panel().content.activeCellIndex = 1")
    page.evaluate("jupyterapp.commands.execute('notebook:clear-cell-output')")
    page.wait_for_function(f"{EPOCH} === 0", timeout=STARTING * 1000)
    page.evaluate(COLLECT_EPOCHS)
    page.locator(".jp-Cell .cm-content").nth(1).press("Shift+Enter")
    finished = "document.querySelector('.sk-training-status')?.textContent.includes(', finished.')"
    page.wait_for_function(finished, timeout=RUNNING * 1000)
    assert page.evaluate("lesson.errors()") == []
    assert page.evaluate("epochs[0]") >= int(stopped[1]), "it began anew"
    assert page.evaluate("code => lesson.execute(code)", "assert run.curves['epoch'] == list(range(1, 26))") == ""
    assert opened.complaints == []
    page.close()
