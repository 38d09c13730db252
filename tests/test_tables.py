"""Protocols by name, and the results of a grid as text, LaTeX and CSV."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from spectralkd_nb import data_path
from spectralkd_nb.__main__ import main
from spectralkd_nb.distillation import Recipe
from spectralkd_nb.experiments import compare_methods, planned_runs, read_records, results_of, summary
from spectralkd_nb.experiments.tables import FORMATS, results_table, table_as

GRID = data_path("results/controls_photographs.toml")


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return results_of(read_records(data_path("results/controls_photographs.jsonl")))


@pytest.fixture(scope="module")
def table(runs) -> pd.DataFrame:
    return results_table(runs, "alone")


# --- protocols by name ---------------------------------------------------------------------------


def test_the_recipe_of_the_benchmark_is_the_published_one():
    recipe = Recipe.crd()
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (240, 64, 0.05, 5e-4)
    assert (recipe.schedule, recipe.milestones, recipe.decay) == ("step", (150, 180, 210), 0.1)
    assert (recipe.momentum, recipe.nesterov, recipe.augment) == (0.9, False, True)


def test_recipes_are_known_by_name():
    assert Recipe.named("quick") == Recipe.quick()
    assert Recipe.named("crd", epochs=3) == replace(Recipe.crd(), epochs=3)
    assert Recipe.named("fast").schedule == "one-cycle"
    with pytest.raises(ValueError, match="there is no recipe 'slow'; there are 'quick', 'fast', 'crd'"):
        Recipe.named("slow")


def grid(**protocol: object) -> dict:
    return {
        "pairs": [{"student": "vgg8x0.0625"}],
        "methods": {"alone": {"cross-entropy": 1.0}},
        "protocols": {"named": {"data": "photographs", **protocol}},
        "seeds": [0],
    }


def test_a_protocol_may_begin_with_a_recipe_of_a_name():
    (plan,) = planned_runs(grid(recipe="crd", precision="float32"))
    assert plan.recipe == Recipe.crd(precision="float32")
    (written_out,) = planned_runs(
        grid(
            epochs=240, batch_size=64, learning_rate=0.05, schedule="step", milestones=[150, 180, 210], nesterov=False,
            precision="float32",
        )
    )  # fmt: skip
    assert plan.folder == written_out.folder  # the same run, however it is written
    (quick,) = planned_runs(grid(recipe="quick"))
    assert quick.recipe == Recipe.quick()


def test_a_recipe_that_there_is_not_is_told_before_anything_is_trained():
    with pytest.raises(ValueError, match="protocol 'named': there is no recipe 'crdd'"):
        planned_runs(grid(recipe="crdd"))


# --- tables --------------------------------------------------------------------------------------


def test_a_table_has_what_summary_and_comparison_found(runs, table):
    means, compared = summary(runs).set_index("method"), compare_methods(runs, "alone").set_index("method")
    assert table.method.tolist() == list(means.index)
    for row in table.itertuples():
        assert (row.mean, row.best, row.seeds) == tuple(means.loc[row.method, ["mean", "best", "seeds"]])
        if row.method == "alone":
            assert math.isnan(row.difference)
            continue
        assert (row.difference, row.difference_lower) == tuple(compared.loc[row.method, ["difference", "lower"]])
        assert row.verdict == compared.loc[row.method, "verdict"]


def test_csv_keeps_every_number(table):
    again = pd.read_csv(io.StringIO(table_as(table, "csv")))
    assert list(again.columns) == list(table.columns)
    assert again["mean"].to_numpy() == pytest.approx(table["mean"].to_numpy(), rel=1e-5)


def test_text_and_latex_tell_mean_interval_best_and_verdict(table):
    row = table.set_index("method").loc["KD"]
    accuracy = f"{row['mean']:.2f} ± {(row.upper - row.lower) / 2:.2f} ({row.best:.2f})"
    difference = f"{row.difference:+.2f} ({row.difference_lower:+.2f} to {row.difference_upper:+.2f}) +"
    text = table_as(table, "text")
    assert accuracy in text
    assert difference in text
    assert "vgg8x0.0625 from vgg8x0.5, quick" in text
    latex = table_as(table, "latex")
    assert accuracy in latex
    assert difference in latex
    assert latex.startswith("\\begin{tabular}{lrr}")
    assert latex.count("\\\\") == len(table) + 2
    with pytest.raises(ValueError, match="there is no form 'html'; there are 'text', 'latex', 'markdown', 'csv'"):
        table_as(table, "html")


def test_markdown_has_a_row_a_method_the_best_first_with_the_verdict_in_words(runs, table):
    head, rule, *rows = table_as(table, "markdown").splitlines()
    assert head.split(" | ")[1:3] == ["seeds", "accuracy, % (best epoch)"]
    assert set(rule) == set("| -")
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(
        table.sort_values("mean", ascending=False).method
    )
    kd = table.set_index("method").loc["KD"]
    interval = f"{kd.difference:+.2f} ({kd.difference_lower:+.2f} to {kd.difference_upper:+.2f})"
    assert sum(row.startswith("| KD | ") and row.endswith(f" | {interval} | {kd.verdict} |") for row in rows) == 1
    renamed = runs.replace({"method": {"KD": "a|b"}})
    assert "| a\\|b |" in table_as(results_table(renamed, "alone"), "markdown")


def test_markdown_names_the_pairs_where_there_are_several(runs):
    other = runs[runs.method == "KD"].assign(teacher="resnet8")
    text = table_as(results_table(pd.concat([runs, other]), "alone"), "markdown")
    assert text.startswith("| pair | method |")
    assert "| vgg8x0.0625 from resnet8, quick | KD |" in text


def test_names_with_signs_of_latex_are_escaped(runs):
    renamed = runs.replace({"method": {"KD": "50 % of KD_2"}})
    assert "50 \\% of KD\\_2" in table_as(results_table(renamed, "alone"), "latex")


def test_every_teacher_has_its_students_alone_beside_it(runs):
    other = runs[runs.method == "KD"].assign(teacher="resnet8")
    table = results_table(pd.concat([runs, other]), "alone")
    assert table[table.teacher == "resnet8"].method.tolist() == ["alone", "KD"]
    assert "vgg8x0.0625 from resnet8, quick" in table_as(table, "text")


def test_one_seed_and_one_method_make_a_table_too(runs):
    one = runs[(runs.seed == 0) & (runs.method == "alone")]
    table = results_table(one, "alone")
    assert table_as(table, "text").split()[-2:] == [f"{one.accuracy.item():.2f}", f"({one.best.item():.2f})"]
    for form in FORMATS:
        assert table_as(table, form)


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(
        """
seeds = [0, 1]
pairs = [{ student = "vgg8x0.0625" }]
[protocols.one]
data = "photographs"
recipe = "quick"
epochs = 1
batch_size = 700
[methods]
alone = { "cross-entropy" = 1 }
smoothed = { "cross-entropy" = { weight = 1, smoothing = 0.1 } }
"""
    )
    return Path("small.toml")


def test_two_commands_do_it_without_a_notebook(small, capsys):
    main(["run", str(small)])
    assert Path("runs/small").is_dir()
    capsys.readouterr()
    main(["table", str(small)])
    printed = capsys.readouterr().out
    assert "vgg8x0.0625, one" in printed
    assert "smoothed" in printed
    main(["table", str(small), "--format", "csv", "--out", "table.csv", "--baseline", "smoothed"])
    assert "4 runs -> table.csv" in capsys.readouterr().out
    table = pd.read_csv("table.csv").set_index("method")
    assert math.isnan(table.loc["smoothed", "difference"])
    assert table.loc["alone", "seeds"] == 2


def test_a_file_of_records_stands_for_a_store(capsys):
    records = data_path("results/controls_photographs.jsonl")
    main(["table", str(GRID), str(records), "--format", "markdown"])
    expected = table_as(results_table(results_of(read_records(records)), "alone"), "markdown")
    assert capsys.readouterr().out.strip() == expected


def test_a_table_of_nothing_is_told(small, capsys):
    with pytest.raises(SystemExit):
        main(["table", str(small)])
    assert f"{Path('runs/small')} holds no finished run of small.toml" in capsys.readouterr().err
