"""The exercises of lesson 8, full distillation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spectralkd_nb.course.verdicts import Verdict, left_open, number_of, right, wrong
from spectralkd_nb.experiments import planned_runs
from spectralkd_nb.experiments.comparison import holm

if TYPE_CHECKING:
    import pandas

HOUR = 3600.0  # seconds
MOST_RUNS = 6
ASKED = "shape"


def check_seeds_an_hour(seeds: int | None, runs: pandas.DataFrame) -> Verdict:
    """Lesson 8, exercise 1: how many whole seeds of all methods an hour of the same GPU allows.

    Args:
        seeds: their number, or None while unsolved.
        runs: with columns method and seconds, of several seeds.
    """
    if seeds is None:
        return left_open("8.1", "replace None by a whole number")
    asked = number_of(seeds)
    if asked is None or asked != int(asked):
        return wrong("8.1", f"{seeds!r} is no whole number")
    one = float(runs.groupby("method")["seconds"].mean().sum())
    if int(asked) != int(HOUR // one):
        return wrong("8.1", f"{int(asked)} seeds of all methods take {asked * one / 60:.0f} minutes")
    return right("8.1", f"one seed of all methods takes {one:.0f} s, so {int(asked)} fit into an hour")


def check_fair_grid(grid: Mapping[str, Any] | None) -> Verdict:
    """Lesson 8, exercise 2: a grid that asks, seed by seed, what the shape loss adds to KD, in six runs at the most.

    Args:
        grid: as `run_grid` takes it, or None while unsolved.
    """
    if grid is None:
        return left_open("8.2", "replace None by a grid")
    try:
        plans = planned_runs(grid)
    except (ValueError, TypeError, KeyError, OSError) as error:
        return wrong("8.2", f"it cannot be planned: {error}")
    methods = {plan.method: plan.terms for plan in plans}
    if len(plans) > MOST_RUNS:
        return wrong("8.2", f"it has {len(plans)} runs, more than {MOST_RUNS}")
    if len(methods) != 2 or len(plans) != 2 * len({plan.seed for plan in plans}):
        return wrong("8.2", "it takes two methods, of one pair by one protocol, each with the same seeds")
    if len({plan.seed for plan in plans}) < 2:
        return wrong("8.2", "one seed has no interval")
    fewer, more = sorted(methods.values(), key=len)
    if "soft targets" not in fewer:
        return wrong("8.2", "neither of the two is KD alone, or has KD less than the other")
    if len(more) != len(fewer) + 1 or any(more.get(term) != settings for term, settings in fewer.items()):
        return wrong("8.2", "the methods differ in more than one added term, so nobody could say which of them did it")
    (added,) = more.keys() - fewer.keys()
    if added != ASKED:
        return wrong("8.2", f"it asks what {added!r} adds to KD, and not {ASKED!r}")
    return right("8.2", f"{len(plans)} runs ask what {added!r} adds to KD, and nothing else differs")


def check_holm(adjusted: Callable[[Sequence[float]], Sequence[float]] | None) -> Verdict:
    """Lesson 8, exercise 3: Holm's correction of p values (Holm 1979).

    Args:
        adjusted: takes p values in any order, returns the adjusted ones in the same; or None while unsolved.
    """
    if adjusted is None:
        return left_open("8.3", "replace None by a function of a list of p values")
    if not callable(adjusted):
        return wrong("8.3", f"{adjusted!r} is no function")
    for values in ([0.01, 0.04, 0.03], [0.2, 0.001, 0.9, 0.02], [0.5, 0.6], [0.01, 0.011, 0.012, 0.013], [0.3]):
        wanted = holm(values)
        try:
            found = np.asarray(adjusted(list(values)), dtype=float)
        except Exception as error:  # whatever a function of somebody else's may raise
            return wrong("8.3", f"for {values} it ends with {type(error).__name__}: {error}")
        if found.shape != wanted.shape or not np.allclose(found, wanted, atol=1e-9):
            return wrong(
                "8.3", f"{values} become {np.round(wanted, 4).tolist()}, and yours {np.round(found, 4).tolist()}"
            )
    return right("8.3", "any number of comparisons has a false one in at most 5 % of studies")
