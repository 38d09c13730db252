"""Docstrings of public functions: every argument is named, and every error that is raised."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Iterator

import pytest

import spectralkd_nb


def public_callables() -> Iterator[tuple[str, object, str]]:
    """Each public function and method once: its name, itself, and the docstrings that speak of it."""
    seen: set[int] = set()
    for found in pkgutil.walk_packages(spectralkd_nb.__path__, "spectralkd_nb."):
        module = importlib.import_module(found.name)
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if id(value) in seen:
                continue
            seen.add(id(value))
            if inspect.isclass(value):
                yield from methods_of(value)
            elif inspect.isfunction(inspect.unwrap(value)):
                yield f"{module.__name__}.{name}", inspect.unwrap(value), inspect.getdoc(value) or ""


def methods_of(kind: type) -> Iterator[tuple[str, object, str]]:
    of_class = inspect.getdoc(kind) or ""
    for name, method in vars(kind).items():
        written = name == "__init__" and not dataclasses.is_dataclass(kind)
        if inspect.isfunction(method) and (written or not name.startswith("_")):
            yield f"{kind.__module__}.{kind.__name__}.{name}", method, f"{inspect.getdoc(method)}\n{of_class}"


CALLABLES = {name: (function, text) for name, function, text in public_callables()}


def test_they_are_found():
    assert len(CALLABLES) > 250
    assert "spectralkd_nb.spectra.fit_power_law" in CALLABLES
    assert "spectralkd_nb.activations.ActivationSpectra.exponent" in CALLABLES


@pytest.mark.parametrize("name", CALLABLES)
def test_every_argument_is_named(name):
    function, text = CALLABLES[name]
    arguments = [argument for argument in inspect.signature(function).parameters if argument not in ("self", "cls")]
    assert [argument for argument in arguments if not re.search(rf"\b{argument}\b", text)] == []


@pytest.mark.parametrize("name", CALLABLES)
def test_every_error_that_it_raises_itself_is_named(name):
    function, text = CALLABLES[name]
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = {
        node.exc.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
    }
    assert sorted(error for error in raised if error not in text) == []
