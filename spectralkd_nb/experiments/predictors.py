"""What teachers' responses say beside what their students learn: a sweep's teachers, and a ladder of networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from spectralkd_nb import networks
from spectralkd_nb.experiments.comparison import CONFIDENCE, over_seeds
from spectralkd_nb.experiments.sweet_spot import COARSE, CONFIRMED, OF_A_TEACHER, Teacher, teachers_of

if TYPE_CHECKING:
    import pandas

MEASURES = ("entropy", "effective_classes", "non_target_mass", "similarity", "calibration_error")  # of a response
PREDICTORS = ("teacher_accuracy", "effective_classes", "non_target_mass", "similarity")
FEWEST_TEACHERS = 3  # of whom ranks can agree more or less
RESAMPLES = 2_000


def teachers_and_responses(
    table: pandas.DataFrame, responses: pandas.DataFrame, temperature: float, images: str = "training"
) -> pandas.DataFrame:
    """Each teacher of a search with its own accuracy, its students' and what its responses say; means over seeds.

    As in `sweet_spot`, teachers without a student for every seed of the search are left out. So is the confirmation.

    Args:
        table: of `sweep_results`.
        responses: one row a teacher's run, images and temperature: step, network, batch_size, epochs, images,
            temperature and the `MEASURES`. Teachers that are not in it have missing values.
        temperature: of the soft targets.
        images: those of the responses, "training" or "test".

    Returns:
        network, batch_size, epochs; teacher_accuracy, student_accuracy, percent; the `MEASURES`.

    Raises:
        ValueError: no teacher has a student for every seed; there are no responses to these images at this temperature.
    """
    search = table[(table.step != CONFIRMED) & table.network.notna()]
    found = teachers_of(search)
    whole = found[found.seeds == search.seed.nunique()].astype({"batch_size": int, "epochs": int})
    if whole.empty:
        raise ValueError("no teacher of the search has a student for every seed, so there is nothing to show")
    own = responses[(responses.step != CONFIRMED) & (responses.images == images)]
    measured = own[np.isclose(own.temperature.astype(float), temperature)]
    if measured.empty:
        known = ", ".join(f"{value:g}" for value in sorted(own.temperature.unique())) or "none"
        raise ValueError(
            f"no responses to {images} images at temperature {temperature:g}; of the search there are {known}"
        )
    means = measured.astype({"batch_size": int, "epochs": int}).groupby(OF_A_TEACHER)[list(MEASURES)].mean()
    columns = [*OF_A_TEACHER, "teacher_accuracy", "student_accuracy"]
    return whole[columns].join(means, on=OF_A_TEACHER).reset_index(drop=True)


def predictors(table: pandas.DataFrame, responses: pandas.DataFrame, temperature: float) -> pandas.DataFrame:
    """How well teachers' accuracy, and what they say to training images, rank their students: Spearman's rho.

    Over the teachers of the coarse step: those of later ones were chosen for their students.

    Ranks see what only rises or only falls: a measure of which a middle value is best has a rho near 0, however well it
    predicts. The interval is that of the percentile bootstrap over teachers: of independent pairs of Gaussian numbers,
    12 or 44, with a correlation of 0, 0.5 or 0.9, it held the true rho in 94.8 to 98.2 % of 2 000 simulations.
    Neighbours in a search are less than independent, and how the students' means vary with the seeds is not in it.

    Args:
        table, responses, temperature: as for `teachers_and_responses`.

    Returns:
        One row for each of `PREDICTORS`: measure; rho, with the students' accuracy, over teachers; lower, upper of its
        95 % interval; teachers, how many have the measure. All three are NaN where every teacher has the same.

    Raises:
        ValueError: fewer than 3 teachers with a measure, and what `teachers_and_responses` refuses.
    """
    import pandas as pd

    found = teachers_and_responses(table[table.step == COARSE], responses, temperature)
    rows = []
    for measure in PREDICTORS:
        known = found[[measure, "student_accuracy"]].dropna().to_numpy(float)
        if len(known) < FEWEST_TEACHERS:
            raise ValueError(
                f"{len(known)} teachers have the measure {measure!r}; ranks take {FEWEST_TEACHERS} or more"
            )
        rows.append((measure, float(_rank_correlation(*known.T)), *_interval(*known.T), len(known)))
    return pd.DataFrame(rows, columns=["measure", "rho", "lower", "upper", "teachers"])


def _interval(first: np.ndarray, second: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Of the rank correlation, by the percentiles of resampled pairs."""
    count = len(first)
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLES, count))
    resampled = _rank_correlation(first[drawn], second[drawn])
    known = resampled[~np.isnan(resampled)]  # a resample may hold one pair again and again
    if not len(known):
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last dimension, equal values with the mean of their ranks; NaN where all are equal."""
    from scipy.stats import rankdata

    middle = (first.shape[-1] + 1) / 2
    x, y = (rankdata(values, axis=-1) - middle for values in (first, second))
    scale = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.where(scale > 0, (x * y).sum(-1) / np.where(scale > 0, scale, 1), np.nan)


def ladder(table: pandas.DataFrame, teachers: Sequence[Teacher], classes: int = 10) -> pandas.DataFrame:
    """Teachers that differ in capacity alone, with their own and their students' accuracy in the confirmation.

    Args:
        table: of `sweep_results`.
        teachers: of different networks, trained alike.
        classes: outputs of the networks, whose parameters are counted.

    Returns:
        One row a teacher, the smallest first: network, parameters; seeds, how many; teacher_accuracy, percent, mean,
        with teacher_lower and teacher_upper, its 95 % t interval; student_accuracy with student_lower and
        student_upper. Last, where there are students alone, a row of these without network and teacher.

    Raises:
        ValueError: no teachers, one network twice, different batch sizes or epochs, a teacher without confirmation.
    """
    import pandas as pd

    _check_ladder(teachers)
    confirmed = table[table.step == CONFIRMED]
    rows = []
    for teacher in teachers:
        own = confirmed[confirmed.network == teacher.network]
        own = own[(own.batch_size == teacher.batch_size) & (own.epochs == teacher.epochs)]
        if own.empty:
            raise ValueError(f"the confirmation has no row of {teacher}")
        row = {"network": teacher.network, "parameters": _parameters(teacher.network, classes), "seeds": len(own)}
        rows.append(row | _over_seeds(own, "teacher") | _over_seeds(own, "student"))
    rows.sort(key=lambda row: row["parameters"])
    alone = confirmed[confirmed.network.isna()]
    if len(alone):
        rows.append({"network": None, "seeds": len(alone)} | _over_seeds(alone, "student"))
    return pd.DataFrame(rows).astype({"parameters": "Int64"})


def _check_ladder(teachers: Sequence[Teacher]) -> None:
    if not teachers:
        raise ValueError("there are no teachers to show")
    if len({teacher.network for teacher in teachers}) < len(teachers):
        raise ValueError("one network is there twice; a ladder has each once")
    if len({(teacher.batch_size, teacher.epochs) for teacher in teachers}) > 1:
        told = "; ".join(map(str, teachers))
        raise ValueError(f"the teachers of a ladder are trained alike, and these are {told}")


def _parameters(network: str, classes: int) -> int:
    with torch.device("meta"):  # nothing is drawn and nothing stored
        return sum(parameter.numel() for parameter in networks.build(network, classes).parameters())


def _over_seeds(rows: pandas.DataFrame, who: str) -> dict[str, float]:
    """Mean accuracy of "teacher" or "student" with its t interval, NaN with one seed."""
    accuracy = f"{who}_accuracy"
    found = over_seeds(rows[accuracy])
    return {accuracy: found.mean, f"{who}_lower": found.lower, f"{who}_upper": found.upper}
