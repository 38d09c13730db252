"""Which functions of the package do the notebooks check? A small data-flow analysis over the source of code cells.

nbval compares the text that a cell printed. A number in that text checks a function only where it was computed from
that function's result, so the result of each call carries the function's mark, and the marks are followed through the
cell into what it prints. Where the analysis cannot follow a value it loses the mark: it may miss a check, and seldom
sees one that is not there.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from nbval.plugin import find_comment_markers, find_metadata_tags

RECORDS = (BaseException, enum.Enum, tuple)  # classes that hold something and, like dataclasses, compute nothing
APPLIES = {"map", "starmap", "apply"}  # these call the functions that they are given

Definition = ast.FunctionDef | ast.Lambda


class Flow(NamedTuple):
    """What an expression's value was computed from."""

    marks: frozenset[str] = frozenset()  # functions of the package whose results are in it
    functions: frozenset[str | Definition] = frozenset()  # functions that it is or holds, not called so far
    path: str = ""  # its dotted path, if it was imported


NOTHING = Flow()


def union(flows: Iterable[Flow]) -> Flow:
    marks, functions, _ = zip(NOTHING, *flows, strict=True)
    return Flow(frozenset().union(*marks), frozenset().union(*functions))


def public_functions(package: ModuleType) -> dict[str, str]:
    """Each dotted path where a public function of the package is found, to its one name: "spectra.radial_spectrum"."""
    found = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
    modules = [package, *(importlib.import_module(m.name) for m in found if not m.name.endswith("__main__"))]
    names: dict[int, str] = {}
    for module in modules:
        for name in getattr(module, "__all__", ()):
            if _computes(getattr(module, name)):
                full_name = f"{module.__name__}.{name}".removeprefix(package.__name__ + ".")
                names.setdefault(id(getattr(module, name)), full_name)
    # A module also holds what it imports from the others, and a cell may reach a function there.
    places = [(f"{module.__name__}.{name}", id(value)) for module in modules for name, value in vars(module).items()]
    return {path: names[value] for path, value in places if value in names}


def _computes(value: Any) -> bool:
    if inspect.isclass(value):
        return not (dataclasses.is_dataclass(value) or issubclass(value, RECORDS))
    return inspect.isroutine(inspect.unwrap(value)) if callable(value) else False


def is_compared(cell: NotebookNode) -> bool:
    """Does nbval compare this cell's outputs? Its own functions read the comments and tags."""
    options = {"check": True, "skip": False, **dict(find_metadata_tags(cell.metadata))}
    options |= dict(find_comment_markers(cell.source))
    return bool(options["check"]) and not options["skip"] and cell.execution_count is not None


def printed_text(cell: NotebookNode) -> str:
    return "".join(o.text for o in cell.outputs if o.output_type == "stream" and o.name == "stdout")


def displayed_text(cell: NotebookNode) -> str:
    """The text of displayed values: a table, a number, the caption that a figure prints under itself."""
    text, after_picture = [], False
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout" and after_picture:
            text.append(output.text)
        elif "data" in output:
            # nbval compares no picture and no widget; the text beside one only stands in for it.
            # Of a stored widget that text is all that is left (.ci/tidy.py).
            stands_in = any(kind.startswith("image/") or "widget-view" in kind for kind in output.data)
            stands_in = stands_in or output.metadata.get("widget", False)
            after_picture = after_picture or stands_in
            text.append("" if stands_in else output.data.get("text/plain", ""))
    return re.sub(r"<[^<>]*>", "", "\n".join(text))  # the digits of an object's address say nothing


def validated(cells: Iterable[NotebookNode], names: dict[str, str]) -> set[str]:
    """The functions called in a cell that prints a number from their result, where nbval compares it."""
    follower, found = _Follower(names), set()
    for cell in cells:
        if cell.cell_type != "code":
            continue
        follower.run(TransformerManager().transform_cell(cell.source))  # turns magics into Python
        if is_compared(cell):
            found |= follower.printed if re.search(r"\d", printed_text(cell)) else set()
            found |= follower.displayed if re.search(r"\d", displayed_text(cell)) else set()
    return found


class _Follower(ast.NodeVisitor):
    """Runs through a notebook's cells in order, with a Flow in place of each value."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names
        self.variables: dict[str, Flow] = {}
        self.printed: set[str] = set()  # marks that this cell printed
        self.displayed: set[str] = set()  # marks that this cell displayed
        self.returned: list[Flow] = []
        self.running: list[Definition] = []

    def run(self, source: str) -> None:
        # A call counts in its own cell only: what earlier cells computed loses its marks.
        self.variables = {name: flow._replace(marks=frozenset()) for name, flow in self.variables.items()}
        self.printed, self.displayed = set(), set()
        statements = ast.parse(source).body
        self._visit_all(statements)
        if statements and isinstance(statements[-1], ast.Expr):
            self.displayed |= self.flow(statements[-1].value).marks

    # --- statements: where marks go ---

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            self.flow(node)
        else:
            super().visit(node)

    def _visit_all(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            path = alias.name if alias.asname else alias.name.split(".")[0]
            self.variables[alias.asname or path] = self._imported(path)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.variables[alias.asname or alias.name] = self._imported(f"{node.module}.{alias.name}")

    def _imported(self, path: str) -> Flow:
        return Flow(functions=frozenset({self.names[path]} if path in self.names else ()), path=path)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.variables[node.name] = Flow(functions=frozenset({node}))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """The methods of a class in a cell are not followed."""

    def visit_Return(self, node: ast.Return) -> None:
        self.returned.append(self.flow(node.value) if node.value else NOTHING)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            self._put(target, self.flow(node.value), node.value)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self._put(node.target, self.flow(node.value), keep=True)

    def visit_For(self, node: ast.For) -> None:
        for _ in range(2):  # the second time with what the first left for it
            self._put(node.target, self.flow(node.iter))
            self._visit_all(node.body)

    def visit_withitem(self, node: ast.withitem) -> None:
        flow = self.flow(node.context_expr)
        if node.optional_vars:
            self._put(node.optional_vars, flow)

    def visit_Expr(self, node: ast.Expr) -> None:
        flow = self.flow(node.value)
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            self._put(node.value.func, flow, keep=True)  # results.append(fit(x)) marks results

    def _put(self, target: ast.expr, flow: Flow, value: ast.expr | None = None, keep: bool = False) -> None:
        """Give a target a flow; keep what it had where only a part of it changes."""
        match target:
            case ast.Tuple() | ast.List():
                pairs = isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts)  # a, b = f(x), y
                flows = [self.flow(v) for v in value.elts] if pairs else [flow] * len(target.elts)
                for element, part in zip(target.elts, flows, strict=True):
                    self._put(element, part)
            case ast.Name(id=name):
                had = self.variables.get(name, NOTHING)
                if not keep:
                    self.variables[name] = flow
                elif not had.path:  # torch.manual_seed(f(x)) must not mark all that torch computes
                    self.variables[name] = union([had, flow])
            case ast.Attribute() | ast.Subscript():
                self._put(target.value, flow, keep=True)
            case ast.Starred():
                self._put(target.value, flow)
            case ast.Call():  # accumulator.update(x).update(y)
                self._put(target.func, flow, keep=True)

    # --- expressions: where marks come from ---

    def flow(self, node: ast.expr) -> Flow:
        match node:
            case ast.Name():
                return self.variables.get(node.id, NOTHING)
            case ast.Attribute():
                value = self.flow(node.value)
                return self._imported(f"{value.path}.{node.attr}") if value.path else value
            case ast.Call():
                return self._call(node)
            case ast.Lambda():
                return Flow(functions=frozenset({node}))
            case ast.NamedExpr():
                self._put(node.target, self.flow(node.value))
                return self.flow(node.target)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                outside = dict(self.variables)
                for loop in node.generators:
                    self._put(loop.target, self.flow(loop.iter))
                    for condition in loop.ifs:
                        self.flow(condition)  # for the sake of a := in it
                made = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                flow = union([self.flow(part) for part in made])
                self.variables = outside
                return flow
        return union([self.flow(child) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)])

    def _call(self, node: ast.Call) -> Flow:
        callee = self.flow(node.func)
        given = union([self.flow(argument) for argument in (*node.args, *(k.value for k in node.keywords))])
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("print", "display"):
            (self.printed if name == "print" else self.displayed).update(given.marks)
            return NOTHING

        # laws["bent"](x) calls what laws holds; laws.items() does not.
        is_method = isinstance(node.func, ast.Attribute) and not callee.path
        called = frozenset() if is_method else callee.functions
        if name in APPLIES:
            called |= given.functions
        marks = callee.marks | {function for function in called if isinstance(function, str)}
        bodies = [self._run_body(f, given) for f in called if isinstance(f, Definition) and f not in self.running]
        if bodies:
            return union([*bodies, Flow(marks)])  # what the function returns, not all that it was given
        return Flow(marks | given.marks, given.functions | (callee.functions if is_method else frozenset()))

    def _run_body(self, function: Definition, given: Flow) -> Flow:
        """Call a function that a cell defines: what it prints, the calling cell prints."""
        outside = self.variables, self.returned
        parameters = [node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)]
        self.variables, self.returned = self.variables | dict.fromkeys(parameters, given), []
        self.running.append(function)
        if isinstance(function, ast.Lambda):
            self.returned.append(self.flow(function.body))
        else:
            self._visit_all(function.body)
        flow = union(self.returned)
        self.running.pop()
        self.variables, self.returned = outside
        return flow
