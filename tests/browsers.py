"""The system's browser, for tests of what a reader sees: the program that CHROMIUM names, or one on the path."""

from __future__ import annotations

import os
import shutil
import socket
from typing import NoReturn

import pytest

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")

QUIET = (  # as root, which containers run as, Chromium needs the first; the others keep it from calling home
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def cannot_be_tested(reason: str) -> NoReturn:
    """A skip where a person can read why, a failure where a machine would count it as passed."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} CI is set, so this is a failure and not a skip.", pytrace=False)
    pytest.skip(reason)


def chromium() -> str:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if found is None:
        cannot_be_tested(f"There is no browser: none of {', '.join(CHROMIUMS)} is installed, and CHROMIUM names none.")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
