"""Has a student its teacher's alpha by depth? Profiles of a grid's networks, and how far they are from each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from spectralkd_nb.activations import IMAGE
from spectralkd_nb.depth_law import exponent_profile
from spectralkd_nb.distillation.history import EACH, SIZE
from spectralkd_nb.experiments.bench import Bench
from spectralkd_nb.experiments.comparison import RUN, OverSeeds, compare_methods, over_seeds
from spectralkd_nb.experiments.kept import TEACHER, finished_students, with_teachers
from spectralkd_nb.experiments.plan import OF_A_RUN, pairs_of, read_grid
from spectralkd_nb.experiments.tables import OF_COMPARISON
from spectralkd_nb.pictures import photograph_crops

if TYPE_CHECKING:
    import pandas

STUDENT = "student"  # beside TEACHER, in the column of roles
STAGES = ("layer1", "layer2", "layer3")  # whose ends are compared unless told otherwise
DISTANCES = ("stage_ends", "all_depths")
OF_A_LAYER = [
    *("layer", "kind", "depth", "relative_depth"),
    *("alpha", "error", "lower", "upper", "trusted", "reasons"),
]


# --- measured ------------------------------------------------------------------------------------


def grid_profiles(grid: Mapping[str, Any] | str | Path, store: str | Path) -> pandas.DataFrame:
    """alpha by depth of every student in a store after its last epoch, and of the teachers.

    Measured as in lesson 3: the image and each block, of four cut-outs of 128 pixels of each photograph in
    `pictures.photographs`, in the colours that the protocol's data is normalised with. The protocol's own test images
    would leave too few rings behind two strides. All networks see the same cut-outs, and the same resampled ones.

    Args:
        grid, store: as for `run_grid`; runs that are not finished are left out.

    Returns:
        one row a network and layer: role ("teacher" or "student"), student (None for a teacher), teacher (of a student
        alone: that of its pair, with rows for each if there are several), protocol, method ("teacher" for one), seed
        (None for a teacher), layer, kind, depth (layers with weights up to it), relative_depth (depth over that of the
        last layer: 0 is the image, 1 the last block), alpha, error (its standard error, bootstrapped over
        photographs), lower, upper (the 95 % interval), trusted, and reasons why it is not, such as that the spectrum
        bends.

    Raises:
        ValueError: a finished run did not keep its last epoch, or was trained on other data or from another teacher
            than are there now; a student that has no teacher anywhere in the grid.
    """
    import pandas as pd

    grid, bench, rows = read_grid(grid), Bench(store=Path(store).expanduser()), []
    crops, pairs = 255 * photograph_crops(SIZE, EACH), pairs_of(grid)
    teachers: dict[tuple, list[dict[str, Any]]] = {}
    for record, epoch, student, data in finished_students(bench, grid):
        if epoch != (epochs := record.run.recipe["epochs"]):
            folder = bench.store / record.plan.folder
            raise ValueError(f"the run in {folder} kept epoch {epoch} last, of {epochs}; have the grid keep {epochs}")
        pictures = data.normalise(crops)
        mine = _profile(student, pictures)
        for plan in with_teachers(record.plan, pairs):
            told = {"role": STUDENT} | plan.names
            if plan.taught_by not in teachers:
                own = told | {"role": TEACHER, "student": None, "method": TEACHER, "seed": None}
                teachers[plan.taught_by] = [own | layer for layer in _profile(bench.teacher_of(plan), pictures)]
            rows += [told | layer for layer in mine]
    return pd.DataFrame(
        [row for found in teachers.values() for row in found] + rows, columns=["role", *OF_A_RUN, *OF_A_LAYER]
    )


def _profile(network: nn.Module, pictures: Tensor) -> list[dict[str, Any]]:
    """The columns of a layer, one row each."""
    profile = exponent_profile(network, pictures, groups=EACH)
    table = profile.table().rename(columns={"path": "layer"})
    table = table.assign(error=profile.draws.std(0).numpy(), relative_depth=table["depth"] / table["depth"].max())
    return table[OF_A_LAYER].to_dict("records")


# --- compared ------------------------------------------------------------------------------------


def profile_distances(profiles: pandas.DataFrame, stages: Sequence[str] = STAGES) -> pandas.DataFrame:
    """How far each student's alpha by depth is from its teacher's.

    Both distances are root mean squares of the difference of alpha. The image is in neither: all networks have it.

    Args:
        profiles: of `grid_profiles`.
        stages: dotted paths that students and teachers share; a stage ends with its last measured layer, be it the
            stage itself or a block inside.

    Returns:
        one row a student: student, teacher, protocol, method, seed; stage_ends, over the ends of the stages;
        all_depths, over relative depth between the first and the last blocks, with straight lines from layer to layer,
        so that networks of different depth can be compared.

    Raises:
        ValueError: a student whose teacher has no profile, a network without an alpha at the end of a stage or with
            fewer than two layers that have one, a network with a layer twice, no stages.
    """
    import pandas as pd

    if isinstance(stages, str) or not len(stages):
        raise ValueError(f"stages={stages!r} has to be a list of dotted paths, one or more")
    again = profiles[profiles.duplicated(["role", *OF_A_RUN, "layer"])]
    if len(again):
        raise ValueError(f"{_named(again.iloc[0])} has {again.iloc[0].layer!r} twice; compare one grid's networks")
    layers = profiles[profiles["layer"] != IMAGE]
    teachers = dict(iter(layers[layers["role"] == TEACHER].groupby(["teacher", "protocol"])))
    rows = []
    for run, own in layers[layers["role"] == STUDENT].groupby(list(OF_A_RUN), sort=False, dropna=False):
        goal = teachers.get((run[1], run[2]))
        if goal is None:
            raise ValueError(f"{_named(own.iloc[0])} has the teacher {run[1]!r}, of which there is no profile")
        ends = _stage_ends(own, stages) - _stage_ends(goal, stages)
        apart = math.sqrt(np.mean(ends**2)), curve_distance(_by_depth(own), _by_depth(goal))
        rows.append((*run[:-1], int(run[-1]), *apart))
    return pd.DataFrame(rows, columns=[*OF_A_RUN, *DISTANCES])


def compare_profiles(
    profiles: pandas.DataFrame, baseline: str, distance: str = "stage_ends", stages: Sequence[str] = STAGES
) -> pandas.DataFrame:
    """Does a method bring a student's alpha by depth nearer to its teacher's than the baseline's?

    Args:
        profiles, stages: as for `profile_distances`.
        baseline: a method, that of the plain student.
        distance: "stage_ends" or "all_depths" of `profile_distances`.

    Returns:
        one row a method, the nearest of a pair and protocol first: student, teacher, protocol, method; seeds, mean,
        deviation, lower, upper of the distance, as of `summary`; difference from the baseline over common seeds,
        difference_lower, difference_upper, p_holm, detectable and verdict as of `compare_methods`, where "better" is
        nearer; empty for the baseline.

    Raises:
        ValueError: what `profile_distances` and `compare_methods` refuse.
    """
    import pandas as pd

    runs = profile_distances(profiles, stages)
    compared = compare_methods(runs, baseline, value=distance, lower_is_better=True).rename(columns=OF_COMPARISON)
    means = [(*run, *over_seeds(own[distance])) for run, own in runs.groupby(RUN, sort=False, dropna=False)]
    whole = pd.DataFrame(means, columns=[*RUN, *OverSeeds._fields]).merge(
        compared[[*RUN, *OF_COMPARISON.values()]], "left", RUN
    )
    return whole.sort_values([*RUN[:3], "mean"], kind="stable", ignore_index=True)


def curve_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square of the difference of two curves over the depths that both cover; lines from point to point.

    Args:
        first, second: (2, points), depths in rising order and values there; points may differ.

    Raises:
        ValueError: they share no stretch of depth.
    """
    low, high = max(first[0, 0], second[0, 0]), min(first[0, -1], second[0, -1])
    if not low < high:
        raise ValueError("the two networks have no stretch of depth in common")
    knots = np.unique([*first[0], *second[0]])
    knots = knots[(knots >= low) & (knots <= high)]
    gap = np.interp(knots, *first) - np.interp(knots, *second)
    # The difference is straight between knots, so the integral of its square is exact.
    squares = (gap[:-1] ** 2 + gap[:-1] * gap[1:] + gap[1:] ** 2) / 3
    return math.sqrt(np.diff(knots) @ squares / (high - low))


def _named(row: pandas.Series) -> str:
    if row.role == TEACHER:
        return f"the teacher {row.teacher!r}"
    return f"{row.student!r} by {row.method!r} with seed {row.seed:.0f}"


def _stage_ends(layers: pandas.DataFrame, stages: Sequence[str]) -> np.ndarray:
    """(stages,) alpha of the last layer of each."""
    ends = []
    for stage in stages:
        inside = layers["layer"].map(lambda path, stage=stage: f"{path}.".startswith(f"{stage}."))
        end = layers[inside].sort_values("depth")["alpha"].tail(1)
        if end.isna().all():  # also where there is none
            there = ", ".join(layers["layer"][layers["alpha"].notna()])
            raise ValueError(f"{_named(layers.iloc[0])} has no alpha at the end of {stage!r}; it has one in {there}")
        ends.append(end.item())
    return np.array(ends)


def _by_depth(layers: pandas.DataFrame) -> np.ndarray:
    """(2, layers), relative depth and alpha."""
    known = layers[layers["alpha"].notna()].sort_values("depth")
    if len(known) < 2:
        raise ValueError(f"{_named(layers.iloc[0])} has an alpha in {len(known)} blocks, and a curve takes 2")
    return known[["relative_depth", "alpha"]].to_numpy(float).T
