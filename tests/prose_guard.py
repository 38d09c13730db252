"""Does each decimal in a lesson's text come from somewhere? A scan of text cells against what stands near them.

A decimal is in order if a code cell near it printed it or sets it, if a constant or function of the package that its
sentence names holds it, if a stored record that its cell names does, if its sentence cites the paper it is from, or if
it is arithmetic that can be done again. Near are two code cells above, two below, and the sections that the sentence
names: somewhere in a whole lesson nearly every short decimal stands. For the same reason a rounded one counts only if
it keeps three digits (0.13, 28.4) and few of its neighbours could be found as well.
"""

from __future__ import annotations

import ast
import csv
import itertools
import json
import math
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode
from notebook_guard import displayed_text, printed_text

NEAR = 2  # code cells above a text, and as many below it
DIGITS = 3  # that rounding leaves, as written: 0.13, 28.4
REACH = 10  # neighbours on either side of a rounded decimal, in steps of its last digit
CROWD = 5  # so many of these 20 may be found too

Numbers = Collection[Decimal]  # a list where 2.5 and 2.50 differ, and else a set

# Not a part of a name (layer1.2, vgg8x0.5) or of a version (0.1.0); the dash of 0.1-0.2 is no sign.
DECIMAL = re.compile(
    r"(?:(?<![^\W_])(?<![-.)\]}])[-+−])?(?<![^\W_])(?<!\.)(?:\d{1,3}(?:,\d{3})+|\d+)\.\d+(?:e[-+]?\d+)?(?!\d|\.\d)"
)
NUMBERED = r"\(?\d{1,2}\.\d{1,2}\b\)?"  # as sections, equations and exercises are
NOT_COUNTED = [
    re.compile(pattern, re.IGNORECASE | re.MULTILINE | re.DOTALL)
    for pattern in (
        r"^ *(```|~~~).*?(?:^ *\1|\Z)",  # fenced code
        r"<code>.*?</code>",
        r"(?<!`)(`+)(?!`)(?:(?!\n\s*\n).)+?(?<!`)\1(?!`)",  # a code span
        r"</?[a-z!][^<>]*>",  # a tag with its attributes
        r"\]\((?:[^()\s]|\([^()]*\))*\)",  # the target of a link
        r"\bhttps?://\S+",
        r"\b10\.\d{4,9}/\S+",  # a DOI
        r"\barxiv\W*\d{4}\.\d{4,5}",
        r"(?:\b(?:exercise|section|figure|equation|table|lesson|chapter|fig|eq)s?\b\.?|§)\s*"
        rf"{NUMBERED}(?:(?:,| and| to|–|-)\s*{NUMBERED})*",
        r"^#+\s+\d+(?:\.\d+)+",  # the number of a heading
        r"\\[a-z]+",  # a command of TeX: \times0.5 is not a name
    )
]
EXERCISE = re.compile(r"^# Exercise (\d+\.\d+)", re.MULTILINE)
CHECK = re.compile(r"\bcourse\.(check_\w+)")
SECTION = re.compile(r"\bsections?\s+(\d+(?:(?:,| and| to)\s+\d+)*)", re.IGNORECASE)
RECORD = re.compile(r"\bdata/(?:[\w-]+/)*[\w-][\w.-]*\.(?:csv|jsonl|json|toml)\b")
CODE_SPAN = re.compile(r"`([^`]+)`|<code>(.*?)</code>")
ITEM = re.compile(r"^[> ]*(?:[-*+]|\d+\.) |^\|", re.MULTILINE)
BLOCK_END = re.compile(r"\n[> ]*\n|^#.*\n", re.MULTILINE)
SENTENCE_END = re.compile(r"[.!?][\"')*_\]]*\s+(?:> *)?(?=[^\W\d_a-z]|[\"'(*_$\[\d])")
ABBREVIATION = re.compile(r"\b(?:al|e\.g|i\.e|cf|vs|ca|figs?|eqs?|[a-z])\.$", re.IGNORECASE)
WORK = re.compile(r"(?:^[*-] |; )([^;()\n]+?)\((\d{4})[a-z]?\)", re.MULTILINE)  # authors, year
MATHS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$", re.DOTALL)


class Stated(NamedTuple):
    """A decimal in a text cell."""

    cell: int  # its place among the cells, from 0
    start: int  # and in the cell's source
    text: str  # as written
    sentence: str  # the sentence, list item or table row around it

    @property
    def value(self) -> Decimal:
        return value(self.text)

    @property
    def places(self) -> int:
        return -int(self.value.as_tuple().exponent)


class Evidence(NamedTuple):
    """What a decimal could come from."""

    printed: Numbers  # by code cells near it
    parameters: Numbers  # in the source of these, and of what the sentence names
    records: dict[str, Numbers]
    cited: bool
    arithmetic: bool


class Lesson:
    """What the cells of a notebook hold, read once.

    Args:
        notebook: the lesson.
        root: the folder that data/ lies in.
        package: the numbers in the source of each name of the package, of `package_numbers`.
    """

    def __init__(self, notebook: NotebookNode, root: Path, package: Mapping[str, Numbers]) -> None:
        self.cells, self.root, self.package = notebook.cells, root, package
        self.code = [i for i, cell in enumerate(self.cells) if cell.cell_type == "code"]
        self.printed = {i: printed_numbers(self.cells[i]) for i in self.code}
        self.literals = {i: literals(self.cells[i].source) for i in self.code}
        self.sections = sections(notebook)
        self.works = [
            (re.compile(rf"\b{re.escape(author)}\b"), re.compile(rf"\b{year}[a-z]?\b"))
            for author, year in works(notebook)
        ]

    def complaint(self, stated: Stated) -> str:
        """What is wrong with a decimal, or nothing."""
        evidence = self.evidence(stated)
        if evidence.cited or evidence.arithmetic or abs(stated.value) in evidence.parameters:
            return ""
        if any(is_written(stated, number) for number in evidence.printed):
            return ""
        crowds = []
        for source, numbers in {"what is printed near it": evidence.printed, **evidence.records}.items():
            if any(rounds_to(stated, number) for number in numbers):
                if is_telling(stated, numbers):
                    return ""
                crowds.append(f"many numbers as short as this could be rounded from {source}, so give it as printed")
        what = " and ".join(crowds) or "no cell near it prints or sets it, and it names no record or paper to hold it"
        return f"cell {stated.cell + 1} says {stated.text}; {what}: {stated.sentence!r}"

    def evidence(self, stated: Stated) -> Evidence:
        above = [i for i in self.code if i < stated.cell][-NEAR:]
        below = [i for i in self.code if i > stated.cell][:NEAR]
        named = {int(n) for match in SECTION.finditer(stated.sentence) for n in re.findall(r"\d+", match[1])}
        near = {*above, *below, *(i for i in self.code if self.sections[i] in named)}
        names = {name for span in CODE_SPAN.findall(stated.sentence) for name in re.findall(r"\w+", "".join(span))}
        if below:
            names.update(CHECK.findall(self.cells[below[0]].source))
        source = self.cells[stated.cell].source
        records = [name for name in dict.fromkeys(RECORD.findall(source)) if (self.root / name).is_file()]
        return Evidence(
            [number for i in sorted(near) for number in self.printed[i]],
            {number for i in near for number in self.literals[i]}.union(*(self.package.get(n, ()) for n in names)),
            {name: record_numbers(self.root / name) for name in records},
            any(author.search(stated.sentence) and year.search(stated.sentence) for author, year in self.works),
            is_arithmetic(stated, source),
        )


def complaints(notebook: NotebookNode, root: Path, package: Mapping[str, Numbers]) -> Iterator[str]:
    """A sentence for each decimal in a lesson's text that comes from nowhere."""
    lesson = Lesson(notebook, root, package)
    yield from filter(None, map(lesson.complaint, decimals(notebook)))


# --- the decimals of a text -------------------------------------------------------------------------


def value(text: str) -> Decimal:
    return Decimal(text.replace("−", "-").replace(",", ""))


def decimals(notebook: NotebookNode) -> Iterator[Stated]:
    """The decimals in the text cells, without those that number sections, papers and versions."""
    exercises = {number for cell in notebook.cells for number in EXERCISE.findall(cell.source)}
    inside = False
    for place, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text, _, inside = split_references(cell.source, inside)
            text = masked(text, exercises)
            spans = list(sentences(text))
            for match in DECIMAL.finditer(text):
                around = next(cell.source[start:end] for start, end in spans if start <= match.start() < end)
                yield Stated(place, match.start(), match[0], " ".join(around.split()))


def split_references(text: str, inside: bool = False) -> tuple[str, str, bool]:
    """A text, and what stands below its heading 'References', each with the other blanked; does it end there?"""
    lesson, references = "", ""
    for part in re.split(r"^(?=#{1,6} )", text, flags=re.MULTILINE):
        if part.startswith("#"):
            inside = bool(re.match(r"#+ .*\breferences\b", part, re.IGNORECASE))
        lesson += blank(part) if inside else part
        references += part if inside else blank(part)
    return lesson, references, inside


def masked(text: str, exercises: Collection[str] = ()) -> str:
    """A text with all that does not count blanked; every other character keeps its place."""
    for pattern in NOT_COUNTED:
        text = pattern.sub(lambda match: blank(match[0]), text)
    return re.sub(
        r"^\*\*(\d+\.\d+)\*\*", lambda m: blank(m[0]) if m[1] in exercises else m[0], text, flags=re.MULTILINE
    )


def blank(text: str) -> str:
    return re.sub(r"\S", " ", text)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """From where to where the sentences, list items and table rows of a text go; together they are all of it."""
    blocks = [0, *(match.end() for match in BLOCK_END.finditer(text)), len(text)]
    for start, end in itertools.pairwise(sorted(set(blocks))):
        items = [match.start() for match in ITEM.finditer(text, start, end)]
        last = min([end, *items])  # in a list whole items count
        stops = SENTENCE_END.finditer(text, start, last)
        ends = [match.end() for match in stops if not ABBREVIATION.search(text[start : match.start() + 1])]
        yield from itertools.pairwise(sorted({start, *ends, *items, end}))


# --- what they could come from ----------------------------------------------------------------------


def printed_numbers(cell: NotebookNode) -> list[Decimal]:
    return [value(text) for text in DECIMAL.findall(printed_text(cell) + "\n" + displayed_text(cell))]


def literals(code: str) -> Numbers:
    """The numbers that stand in the source of a cell, without their signs."""
    return numbers_of(ast.parse(TransformerManager().transform_cell(code)))


def numbers_of(tree: ast.AST) -> Numbers:
    constants = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return frozenset(Decimal(repr(number)) for number in constants if type(number) in (int, float))


def package_numbers(folder: Path) -> dict[str, Numbers]:
    """The numbers in the source of each function, class and constant of a package, and in constants that it uses."""
    found: dict[str, Numbers] = {}
    for path in folder.rglob("*.py"):
        sources: dict[str, ast.AST] = {}
        for node in ast.parse(path.read_text("utf-8")).body:
            match node:
                case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                    sources[name] = node
                case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                    sources[name] = node
        numbers = {name: numbers_of(node) for name, node in sources.items()}
        for name, node in sources.items():
            used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and n.id.isupper()} & numbers.keys()
            found[name] = frozenset().union(found.get(name, ()), numbers[name], *(numbers[n] for n in used))
    return found


@cache
def record_numbers(path: Path) -> Numbers:
    """All numbers of a file of CSV, JSON, JSON lines or TOML."""
    text = path.read_text("utf-8")
    if path.suffix == ".csv":
        fields = itertools.chain.from_iterable(csv.reader(text.splitlines()))
        return [Decimal(field) for field in fields if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", field)]
    if path.suffix == ".toml":
        return list(numbers_in(tomllib.loads(text, parse_float=Decimal)))
    parts = [line for line in text.splitlines() if line.strip()] if path.suffix == ".jsonl" else [text]
    return list(numbers_in([json.loads(part, parse_float=Decimal) for part in parts]))


def numbers_in(record: Any) -> Iterator[Decimal]:
    if isinstance(record, dict | list):
        for part in record.values() if isinstance(record, dict) else record:
            yield from numbers_in(part)
    elif isinstance(record, int | Decimal) and not isinstance(record, bool):
        yield Decimal(record)


def sections(notebook: NotebookNode) -> list[int | None]:
    """For each cell the number of the section at its end."""
    found, section = [], None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for heading in re.finditer(r"^## +(\d+)?", cell.source, re.MULTILINE):
                section = int(heading[1]) if heading[1] else None
        found.append(section)
    return found


def works(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    """First author and year of each work below the heading 'References'."""
    inside = False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            _, listed, inside = split_references(cell.source, inside)
            for match in WORK.finditer(listed):
                if first := re.split(r",| and | & | et al", match[1])[0].split():
                    yield first[-1], match[2]


# --- does it come from there? -----------------------------------------------------------------------


def roundings(number: Decimal, places: int) -> frozenset[Decimal]:
    """What a number of as many digits or more after the point may read when it is rounded."""
    if not number.is_finite() or -int(number.as_tuple().exponent) < places:
        return frozenset()
    try:
        return frozenset(number.quantize(Decimal(1).scaleb(-places), way) for way in (ROUND_HALF_UP, ROUND_HALF_EVEN))
    except InvalidOperation:  # it has more digits than a Decimal takes
        return frozenset()


def equals(stated: Stated, number: Decimal) -> bool:
    """Without a sign it may stand for either: "alpha falls by 0.13"."""
    return stated.value == (number if stated.text[0] in "-+−" else abs(number))


def rounds_to(stated: Stated, number: Decimal) -> bool:
    return any(equals(stated, rounded) for rounded in roundings(number, stated.places))


def is_written(stated: Stated, number: Decimal) -> bool:
    """Is it the number with the same digits, or without zeros at the end?"""
    return equals(stated, number) and rounds_to(stated, number)


def is_telling(stated: Stated, numbers: Iterable[Decimal]) -> bool:
    """Does it keep enough digits, and could few of its neighbours have been rounded from these numbers?"""
    found = {abs(rounded) for number in numbers for rounded in roundings(number, stated.places)}
    neighbours = [abs(stated.value) + Decimal(i).scaleb(-stated.places) for i in range(-REACH, REACH + 1) if i]
    digits = len(re.findall(r"\d", stated.text))
    return digits >= DIGITS and sum(neighbour in found for neighbour in neighbours) <= CROWD


def is_arithmetic(stated: Stated, source: str) -> bool:
    r"""Is it one side of an equation in maths whose other side can be worked out, as in $\ln 14 = 2.64$?"""
    for maths in MATHS.finditer(source):
        if maths.start() <= stated.start < maths.end():
            sides = [side.strip(" \n.,;") for side in re.split(r"=|\\approx\b", maths[1] or maths[2])]
            return stated.text in sides and any(rounds_to(stated, number) for number in map(worked_out, sides))
    return False


def worked_out(side: str) -> Decimal:
    """The value of a sum in TeX, of numbers alone and of more than one; else no number."""
    code = re.sub(r"\\frac\{([^{}]*)\}\{([^{}]*)\}", r"((\1)/(\2))", side)
    code = re.sub(r"\\(ln|sqrt)\b\s*(?:\{([^{}]*)\}|([\d.]+))", r"\1(\2\3)", code)
    code = re.sub(r"\\cdot|\\times", "*", code).replace("^", "**").replace("{", "(").replace("}", ")")
    try:
        tree = ast.parse(code.strip(), mode="eval").body
        if isinstance(tree, ast.BinOp | ast.Call):
            return Decimal(f"{_evaluated(tree):.12f}")
    except (SyntaxError, ValueError, ArithmeticError):
        pass
    return Decimal("NaN")


def _evaluated(node: ast.expr) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand)
        case ast.BinOp(left=left, op=operator, right=right):
            a, b = _evaluated(left), _evaluated(right)
            match operator:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
                case ast.Pow():
                    return math.pow(a, b)
        case ast.Call(func=ast.Name(id="ln" | "sqrt" as name), args=[argument]):
            return (math.log if name == "ln" else math.sqrt)(_evaluated(argument))
    raise ValueError("more than arithmetic")
