"""A grid's results as one table: numbers for a file, text for a terminal, LaTeX for a paper, Markdown for a page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from spectralkd_nb.experiments.comparison import RUN, compare_methods, summary

if TYPE_CHECKING:
    import pandas

FORMATS = ("text", "latex", "markdown", "csv")
OF_COMPARISON = {
    "difference": "difference",
    "lower": "difference_lower",
    "upper": "difference_upper",
    "p_holm": "p_holm",
    "detectable": "detectable",
    "verdict": "verdict",
}


def results_table(runs: pandas.DataFrame, baseline: str) -> pandas.DataFrame:
    """Every method of every pair and protocol: accuracy over seeds, and the difference from a baseline.

    A student trained alone stands in the rows of each teacher that it is compared with.

    Args:
        runs: as for `summary`.
        baseline: a method.

    Returns:
        student, teacher, protocol, method; seeds, mean, deviation, lower, upper and best as of `summary`; difference,
        difference_lower, difference_upper, p_holm, detectable and verdict as of `compare_methods`, empty for the
        baseline. The last epoch is the headline; best is that of the epoch that the test images chose.

    Raises:
        ValueError: what `summary` and `compare_methods` refuse.
    """
    import pandas as pd

    compared = compare_methods(runs, baseline).rename(columns=OF_COMPARISON)
    means = summary(runs).drop(columns="seconds")
    groups = list(dict.fromkeys((row.student, row.teacher, row.protocol) for row in compared.itertuples()))
    rows = []
    for student, teacher, protocol in groups or [tuple(means.iloc[0][RUN[:3]])]:
        own = means[(means.student == student) & (means.protocol == protocol)]
        own = own[own.teacher.isna() | (own.teacher == teacher)].assign(teacher=teacher)
        rows.append(own)
    return pd.concat(rows).merge(compared[[*RUN, *OF_COMPARISON.values()]], "left", RUN).reset_index(drop=True)


def table_as(table: pandas.DataFrame, form: str) -> str:
    """A table of `results_table` as "text", "latex" (booktabs), "markdown" or "csv".

    Text and LaTeX have a row a method and two columns a pair: accuracy with the half width of its 95 % interval and, in
    brackets, the mean of the best epochs; and the difference from the baseline with its interval, marked + or - where
    Holm's correction leaves it better or worse. Markdown has the same and the verdict in words, and CSV every number;
    both have a row a method and pair.

    Raises:
        ValueError: an unknown form.
    """
    if form not in FORMATS:
        raise ValueError(f"there is no form {form!r}; there are {', '.join(map(repr, FORMATS))}")
    if form == "csv":
        return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    if form == "markdown":
        return _markdown(table)
    wide = _wide(table)
    if form == "text":
        return wide.to_string(na_rep="")
    return wide.to_latex(na_rep="", escape=True, multicolumn_format="c", column_format="l" + "r" * wide.shape[1])


def _wide(table: pandas.DataFrame) -> pandas.DataFrame:
    import pandas as pd

    columns = {}
    for (student, teacher, protocol), own in table.groupby(RUN[:3], sort=False, dropna=False):
        pair = _pair(student, teacher, protocol)
        own = own.set_index("method")
        columns[pair, "accuracy, % (best)"] = own.apply(_accuracy, axis=1)
        columns[pair, "difference (95 %)"] = own.apply(_marked_difference, axis=1)
    wide = pd.DataFrame(columns).reindex(table["method"].unique())
    return wide.rename_axis(index=None)


def _markdown(table: pandas.DataFrame) -> str:
    """The best mean of a pair first; the column of pairs only where there are several."""
    several = len(table[RUN[:3]].drop_duplicates()) > 1
    head = [
        *(["pair"] if several else []),
        "method",
        "seeds",
        "accuracy, % (best epoch)",
        "difference (95 %)",
        "verdict",
    ]
    rows = [head, ["---"] * len(head)]
    for (student, teacher, protocol), own in table.groupby(RUN[:3], sort=False, dropna=False):
        pair = [_pair(student, teacher, protocol)] if several else []
        for _, row in own.sort_values("mean", ascending=False, kind="stable").iterrows():
            verdict = row.verdict if isinstance(row.verdict, str) else ""
            rows.append([*pair, row.method, str(row.seeds), _accuracy(row), _difference(row), verdict])
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def _pair(student: str, teacher: object, protocol: str) -> str:
    return f"{student} from {teacher}, {protocol}" if isinstance(teacher, str) else f"{student}, {protocol}"


def _accuracy(row: pandas.Series) -> str:
    half = (row.upper - row.lower) / 2
    return f"{row['mean']:.2f}{'' if math.isnan(half) else f' ± {half:.2f}'} ({row.best:.2f})"


def _difference(row: pandas.Series) -> str:
    if not isinstance(row.verdict, str) or math.isnan(row.difference):
        return ""
    interval = (
        "" if math.isnan(row.difference_lower) else f" ({row.difference_lower:+.2f} to {row.difference_upper:+.2f})"
    )
    return f"{row.difference:+.2f}{interval}"


def _marked_difference(row: pandas.Series) -> str:
    return _difference(row) + {"better": " +", "worse": " -"}.get(row.verdict, "")
