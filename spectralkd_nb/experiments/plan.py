"""A grid of runs as plain data.

A grid is every pair of networks, by every method, by every protocol, by every seed. As TOML (or the same as a dict): ::

    name = "photographs"
    seeds = [0, 1, 2, 3, 4]
    keep_epochs = [1, 4, 30]  # also keep the students' weights after these; may be left out

    [[pairs]]
    student = "vgg8x0.0625"
    teacher = "vgg8x0.5"

    [protocols.quick]
    data = "photographs"
    epochs = 30
    batch_size = 32
    augment = false

    [protocols.crd]
    data = "cifar100"
    recipe = "crd"  # "quick", "fast" or "crd": the settings of `Recipe.crd`, but for those that are given here
    precision = "float32"

    [methods.alone]
    "cross-entropy" = 1.0

    [methods.KD]
    "cross-entropy" = 0.1
    "soft targets" = 0.9

Teachers whose weights are neither shipped nor in a file are trained first, alone, by a protocol of the grid: ::

    train_teachers = { protocol = "crd", seed = 1000 }  # for all pairs that name no teacher_weights
    train_teachers = { protocol = "crd", seed = 1000, epochs = 60 }  # or with changes to the protocol

A run is known by what it is, not by what the grid calls it: its folder's name ends with a hash of student, teacher,
method, protocol and seed. So grids share runs in one store, and a method may be renamed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import nn

from spectralkd_nb.adaptation import checked_paths
from spectralkd_nb.distillation import Recipe
from spectralkd_nb.distillation.records import plain
from spectralkd_nb.distillation.store import kept_name
from spectralkd_nb.experiments.methods import ANCHOR, LABELS, checked_method, needs_teacher, on_both_sides
from spectralkd_nb.networks import build
from spectralkd_nb.networks.features import modules_at

KEYS = {"pairs", "methods", "protocols", "seeds"}
OPTIONAL = {"name", "keep_epochs", "train_teachers"}
TRAINED = "trained alone"  # the method of a teacher that a grid trains itself
NAMES = ("method", "protocol", "keep_epochs")  # of a plan, that do not change what is trained
OF_A_PAIR = {"student", "teacher", "teacher_weights"}
OF_A_RUN = ("student", "teacher", "protocol", "method", "seed")  # by which tables know it
USUAL = asdict(Recipe())
OF_A_PROTOCOL = {"data", "held_out", "recipe", *USUAL}
KINDS = {  # by the type of a setting's usual value
    bool: (bool, "true or false"),
    int: (int, "a whole number"),
    float: (int | float, "a number"),
    NoneType: (int | float | None, "a number"),
    str: (str, "a word"),
    tuple: (list | tuple, "a list of whole numbers"),
}


@dataclass(frozen=True)
class Plan:
    """One run of a grid, as plain data.

    Attributes:
        student: name for `build`.
        teacher: name, or None for a student alone.
        teacher_weights: file of the teacher's weights; None for those that are shipped for the data.
        method: its name in the grid.
        terms: what it is; see `methods`.
        protocol: its name.
        setting: data and recipe.
        seed: of the run.
        keep_epochs: after which the student's weights are kept too, see `train`.
    """

    student: str
    teacher: str | None
    teacher_weights: str | None
    method: str
    terms: dict[str, Any]
    protocol: str
    setting: dict[str, Any]
    seed: int
    keep_epochs: list[int] = field(default_factory=list)

    @cached_property
    def folder(self) -> str:
        """The name of the run's folder in a store. What does not change the training plays no part in it."""
        told = {key: value for key, value in asdict(self).items() if key not in NAMES}
        told["setting"] = {**self.setting, "data": self.data_name}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
        words = [self.student, *(["from", self.teacher] if self.teacher else []), self.data_name]
        return re.sub(r"[^\w.]+", "-", "-".join([*words, f"seed{self.seed}", digest]))

    @property
    def names(self) -> dict[str, Any]:
        """By which tables know the run, a column each."""
        return {column: getattr(self, column) for column in OF_A_RUN}

    @property
    def taught_by(self) -> tuple[str | None, str | None, str]:
        """The teacher with its weights, and the protocol, whose images it is asked about."""
        return self.teacher, self.teacher_weights, self.protocol

    @property
    def data_name(self) -> str:
        """The name of the data set, wherever its file or folder lies."""
        return _name_of_data(self.setting["data"])

    @property
    def recipe(self) -> Recipe:
        """How the run is optimised, from the setting."""
        return Recipe(**{key: value for key, value in self.setting.items() if key not in ("data", "held_out")})


def read_grid(grid: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """A grid from its TOML file, or a dict as it is.

    Raises:
        ValueError: the file is no TOML.
        OSError: it cannot be read.
    """
    if isinstance(grid, Mapping):
        return dict(grid)
    path = Path(grid).expanduser()
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))  # some editors begin a file with a byte order mark
    except ValueError as error:  # of TOML, or of UTF-8
        raise ValueError(f"{path} is no TOML: {error}") from None


def planned_runs(grid: Mapping[str, Any] | str | Path) -> list[Plan]:
    """Every run of a grid, seed by seed, so that whenever it is stopped the methods have nearly the same seeds.

    A method that asks no teacher is planned once a student, not once a pair.

    Raises:
        ValueError: unknown or missing keys, settings, methods, networks, layers; before anything is trained.
    """
    grid = read_grid(grid)
    require_keys(grid, KEYS | OPTIONAL, KEYS, "a grid")
    for key, kind in (("pairs", list | tuple), ("methods", Mapping), ("protocols", Mapping), ("seeds", Sequence)):
        if not isinstance(grid[key], kind) or isinstance(grid[key], str):
            raise ValueError(f"the grid's {key} are {grid[key]!r}; give a {'table' if kind is Mapping else 'list'}")
        if not grid[key]:
            raise ValueError(f"the grid's {key} are empty, so there is nothing to run")
        if isinstance(grid[key], Mapping) and (strange := [name for name in grid[key] if not isinstance(name, str)]):
            raise ValueError(f"one of the grid's {key} is called {strange[0]!r}, which is no name")
    methods = {name: checked_method(name, method) for name, method in grid["methods"].items()}
    protocols = {name: _checked_protocol(name, setting) for name, setting in grid["protocols"].items()}
    pairs = pairs_of(grid)
    for pair, (name, terms) in itertools.product(pairs, methods.items()):
        _check_meeting(pair, name, terms)
    seeds = [_checked_seed(seed) for seed in grid["seeds"]]
    kept = _checked_kept(grid.get("keep_epochs", []), protocols)
    plans: dict[str, Plan] = {}
    for seed, protocol, pair, method in itertools.product(seeds, protocols, pairs, methods):
        asked = needs_teacher(methods[method])
        both = pair if asked else {**pair, "teacher": None, "teacher_weights": None}
        told = {"method": method, "terms": methods[method], "protocol": protocol, "setting": protocols[protocol]}
        plan = Plan(**both, **told, seed=seed, keep_epochs=kept)
        same = plans.setdefault(plan.folder, plan)
        if (same.method, same.protocol) != (method, protocol):
            names = f"{same.method!r} by {same.protocol!r} and {method!r} by {protocol!r}"
            raise ValueError(f"{names} are the same run under two names; drop one")
    return list(plans.values())


def pairs_of(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A grid's pairs, each with its teacher's weights where these are in a file or trained by the grid itself."""
    return [_with_trained_teacher(pair, grid) for pair in _checked_pairs(grid["pairs"])]


def planned_teachers(grid: Mapping[str, Any] | str | Path) -> list[Plan]:
    """The runs that train a grid's teachers, as far as the grid says that it trains them; see the module.

    Raises:
        ValueError: as `planned_runs`.
    """
    grid = read_grid(grid)
    planned_runs(grid)  # raises for whatever is wrong with the grid
    if "train_teachers" not in grid:
        return []
    pairs = [pair for pair in _checked_pairs(grid["pairs"]) if pair["teacher"] and not pair["teacher_weights"]]
    plans = [_teacher_plan(pair["teacher"], grid) for pair in pairs]
    return list({plan.folder: plan for plan in plans}.values())


def _with_trained_teacher(pair: dict[str, Any], grid: Mapping[str, Any]) -> dict[str, Any]:
    if "train_teachers" not in grid or not pair["teacher"] or pair["teacher_weights"]:
        return pair
    plan = _teacher_plan(pair["teacher"], grid)
    return {**pair, "teacher_weights": f"{plan.folder}/{kept_name(plan.recipe.epochs)}"}


def _teacher_plan(teacher: str, grid: Mapping[str, Any]) -> Plan:
    given, protocols = grid["train_teachers"], grid["protocols"]
    require_keys(given, {"protocol", "seed", *OF_A_PROTOCOL}, {"protocol", "seed"}, "train_teachers")
    name = given["protocol"]
    if name not in protocols:
        raise ValueError(f"the teachers' protocol {name!r} is none of {', '.join(map(repr, protocols))}")
    changes = {key: value for key, value in given.items() if key not in ("protocol", "seed")}
    setting = _checked_protocol(name, {**protocols[name], **changes})
    told = {"method": TRAINED, "terms": checked_method(TRAINED, {LABELS: 1}), "protocol": name, "setting": setting}
    return Plan(teacher, None, None, **told, seed=_checked_seed(given["seed"]), keep_epochs=[setting["epochs"]])


def require_keys(given: Mapping[str, Any], known: set[str], wanted: set[str], what: str) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"{what} is {given!r}; give a table with {', '.join(sorted(wanted))}")
    if strange := sorted(given.keys() - known, key=str):
        raise ValueError(f"{what} has no {strange[0]!r}; it has {', '.join(sorted(known))}")
    if missing := sorted(wanted - given.keys()):
        raise ValueError(f"{what} needs {missing[0]!r}")


def _checked_pairs(pairs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    checked = [_checked_pair(pair) for pair in pairs]
    weights: dict[tuple[str, str | None], str | None] = {}
    for pair in checked:
        names = pair["student"], pair["teacher"]
        if weights.setdefault(names, pair["teacher_weights"]) != pair["teacher_weights"]:
            raise ValueError(
                f"two pairs of {names[0]!r} and {names[1]!r} with different weights cannot be told apart in a table; "
                "give each a grid of its own"
            )
    return checked


def _checked_pair(pair: Mapping[str, Any]) -> dict[str, Any]:
    require_keys(pair, OF_A_PAIR, {"student"}, "a pair")
    pair = {"teacher": None, "teacher_weights": None, **pair}
    for key, name in pair.items():
        if not isinstance(name, str) and (key == "student" or name is not None):
            raise ValueError(f"a pair's {key} is {name!r}, which is no name")
    for name in (pair["student"], *([pair["teacher"]] if pair["teacher"] else [])):
        _network(name)  # raises for a name that no network has
    return pair


@cache
def _network(name: str) -> nn.Module:
    """A network without its numbers. A sweep asks for hundreds of runs of a few networks."""
    with torch.device("meta"):
        return build(name)


def _check_meeting(pair: Mapping[str, Any], name: str, terms: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a method that asks for a teacher, or for layers, that a pair does not have."""
    if not needs_teacher(terms):
        return
    if not pair["teacher"]:
        raise ValueError(f"method {name!r} needs a teacher, and the pair of {pair['student']!r} names none")
    replaced = terms.get(ANCHOR, {}).get("replace", [])
    inner = tuple(f"{path}." for path in replaced)  # of what stands in, and of no teacher as it is
    for term, settings in terms.items():
        where, both = f"method {name!r}, term {term!r}", [on_both_sides(layer) for layer in settings.get("layers", [])]
        _require_layers(f"{where}, student", pair["student"], [mine for mine, _ in both])
        _require_layers(f"{where}, teacher", pair["teacher"], [its for _, its in both if not its.startswith(inner)])
    if replaced:
        _require_layers(f"method {name!r}, term {ANCHOR!r}, teacher", pair["teacher"], replaced, checked_paths)


def _require_layers(
    where: str, network: str, paths: Sequence[str], check: Callable[[nn.Module, Sequence[str]], object] = modules_at
) -> None:
    try:
        check(_network(network), paths)
    except ValueError as error:
        raise ValueError(f"{where} {network}: {error}") from None


def _checked_protocol(name: str, setting: Mapping[str, Any]) -> dict[str, Any]:
    require_keys(setting, OF_A_PROTOCOL, {"data"}, f"protocol {name!r}")
    data = str(setting["data"])
    if not data.strip() or not _name_of_data(data):
        raise ValueError(f"protocol {name!r}: data={data!r} is no name; name a data set, an .npz file or a folder")
    held = plain(setting.get("held_out", 0))
    if isinstance(held, bool) or not isinstance(held, int) or held == 1 or held < 0:
        raise ValueError(
            f"protocol {name!r}: held_out={held!r}; one training image in 2, 3, ... is held out, or 0 none"
        )
    given = {key: value for key, value in setting.items() if key not in ("data", "held_out", "recipe")}
    try:
        changes = {key: _checked_setting(key, value) for key, value in given.items()}
        recipe = Recipe.named(setting["recipe"], **changes) if "recipe" in setting else Recipe(**changes)
    except ValueError as error:
        raise ValueError(f"protocol {name!r}: {error}") from None
    return {"data": data, "held_out": held, **json.loads(json.dumps(asdict(recipe)))}


def _checked_setting(key: str, value: Any) -> Any:
    value = plain(value)
    kind, words = KINDS[type(USUAL[key])]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key}={value!r} is not {words}")
    return float(value) if isinstance(value, int) and isinstance(USUAL[key], float | None) else value


def _checked_kept(epochs: Any, protocols: Mapping[str, Mapping[str, Any]]) -> list[int]:
    if not isinstance(epochs, list | tuple):
        raise ValueError(f"keep_epochs={epochs!r} is no list; name epochs, for example keep_epochs = [1, 4]")
    epochs = [plain(epoch) for epoch in epochs]
    for name, setting in protocols.items():
        for epoch in epochs:
            if isinstance(epoch, bool) or not isinstance(epoch, int) or not 1 <= epoch <= setting["epochs"]:
                raise ValueError(f"keep_epochs={epochs!r}: protocol {name!r} has epochs 1 to {setting['epochs']}")
    return epochs


def _checked_seed(seed: Any) -> int:
    seed = plain(seed)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed {seed!r} is no whole number from 0 on")
    return seed


def _name_of_data(data: str) -> str:
    path = Path(data)
    if path.suffix == ".npz":
        return path.stem
    return path.name or path.expanduser().resolve().name  # "." has a name only where it lies
