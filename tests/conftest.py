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


@pytest.fixture(scope="module")  # while Playwright is open, its event loop is this thread's, and tests need their own
def browser() -> Iterator[Browser]:
    if sync_playwright is None:
        cannot_be_tested("Playwright is not installed; it is in the extra `test`.")
    program = chromium()
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield opened
        opened.close()


# --- the order of tests --------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: the lessons in a browser, then in a kernel.

    Where two processes share the tests, one has the browser's and the other the kernels', which are soon ahead: what a
    lesson trains there is kept in notebooks/runs, and the browser's copy of that lesson reads it.
    """
    items.sort(key=lambda item: (item.path.name != "test_browser.py", item.path.suffix != ".ipynb"))
