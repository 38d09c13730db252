"""What several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from browsers import QUIET, cannot_be_tested, chromium

try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if sync_playwright is None:
        cannot_be_tested("Playwright is not installed; it is in the extra `test`.")
    program = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield opened
        opened.close()


# --- the order of tests, and which go together where several processes share them ----------------


def lesson_of(item: pytest.Item) -> str | None:
    """The lesson that a test runs as a whole: in a kernel (nbval) or in a browser."""
    if item.path.suffix == ".ipynb":
        return item.path.stem
    if item.path.name != "test_browser.py" or not hasattr(item, "callspec"):
        return None
    return item.callspec.params["lesson"].stem


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Lessons first, since they take longest; what nbval has trained for one lies there when the browser comes to it.

    All tests of a lesson, and else all of a file, go to one process: they share what is expensive to make.
    """
    groups = {item: lesson_of(item) or "" for item in items}
    items.sort(key=lambda item: (groups[item] == "", groups[item], groups[item] != "" and item.path.suffix != ".ipynb"))
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(groups[item] or item.path.name))
