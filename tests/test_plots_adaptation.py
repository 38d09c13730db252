"""Figures of a teacher that adapts: they show what was measured, and say it."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from spectralkd_nb import plots
from spectralkd_nb.adaptation import AdaptedTeacher
from spectralkd_nb.distillation import Match
from spectralkd_nb.experiments import compare_methods
from spectralkd_nb.losses import hint_loss
from spectralkd_nb.networks import build
from spectralkd_nb.plots.adaptation import ADAPTED, FROZEN, LEARNS
from spectralkd_nb.spectra import radial_spectrum

NAMES = ("the teacher's own", "target", "student, connected")


def boxes(drawn: plots.CaptionedFigure) -> list[str]:
    axis = drawn.figure.axes[0]
    return [to_hex(patch.get_facecolor()) for patch in axis.patches if isinstance(patch, FancyBboxPatch)]


@pytest.mark.parametrize(("teacher", "replace", "blocks"), [("vgg8x0.125", "layer3", 6), ("resnet8", "layer2.0", 6)])
def test_the_network_before_and_after_has_a_box_a_block(teacher, replace, blocks):
    teacher, student = build(teacher, 4).eval(), build("vgg8x0.0625", 4)
    adapted = AdaptedTeacher(teacher, [replace], torch.randn(4, 3, 32, 32))
    drawn = plots.adapted_network(teacher, adapted, student, [Match("hint", hint_loss, "layer3", replace)])
    colours = boxes(drawn)
    frozen, module, learns = (to_hex(colour) for colour in (FROZEN, ADAPTED, LEARNS))
    assert colours.count(module) == 1 + 1  # and one in the legend
    assert colours.count(frozen) == len([*teacher.named_children()]) * 2 - colours.count(module) - drop(teacher) * 2 + 2
    assert colours.count(learns) == 6 + 1
    assert colours.count(frozen) + 1 >= blocks
    weights = sum(p.numel() for p in adapted.parameters())
    replaced = sum(p.numel() for p in teacher.get_submodule(replace).parameters())
    told = f"In place of {replace} with {replaced:,} weights a module with {weights:,}"
    assert drawn.caption.startswith(told)
    texts = " ".join(text.get_text() for text in drawn.figure.axes[0].texts)
    assert "hint:\nteaches the student" in texts
    assert "approach:\nteaches the module" in texts


def drop(network: torch.nn.Module) -> int:
    """Outermost modules without weights, which get no box."""
    return sum(not any(True for _ in module.parameters()) for module in network.children())


@pytest.fixture(scope="module")
def parts():
    return parts_of_a_meeting()


def parts_of_a_meeting() -> tuple:
    generator = torch.Generator().manual_seed(0)
    layers = {name: torch.rand(3, 4, 32, 32, generator=generator) for name in NAMES}
    spectra = {name: radial_spectrum(maps).average() for name, maps in layers.items()}
    return torch.rand(3, 64, 64, generator=generator), {name: maps[0, 0] for name, maps in layers.items()}, spectra


def test_a_meeting_tells_three_alphas_and_what_cannot_be_matched(parts):
    course = {0: 0.7, 1: 0.6, 8: 0.4}
    drawn = plots.meeting(*parts, course, 1, "layer3, channel 0")
    assert drawn.caption.startswith("layer3, channel 0, after epoch 1: alpha of the layer, the teacher's own ")
    assert drawn.caption.endswith("the student cannot match 60.0 % of the target.")
    titles = [axis.get_title() for axis in drawn.figure.axes]
    assert titles[:4] == ["picture", *NAMES]
    assert [line.get_ydata()[0] for line in drawn.figure.axes[5].lines[-1:]] == [60.0]
    first = plots.meeting(*parts, course, 0, "layer3, channel 0")
    assert "before training" in first.caption
    places = [[axis.get_position().bounds for axis in one.figure.axes] for one in (drawn, first)]
    assert places[0] == places[1]  # nothing moves with the slider
    assert drawn.png() != first.png()
    roomy = plots.meeting(*parts, course, 0, "layer3", power=(1e-6, 1e3))
    assert roomy.figure.axes[4].get_ylim() == (1e-6, 1e3)
    with pytest.raises(ValueError, match="there is no epoch 3; the epochs are 0, 1, 8"):
        plots.meeting(*parts, course, 3, "layer3")


def targets() -> pd.DataFrame:
    rows = []
    for method, gap in (("hint", 1.0), ("AMA", 0.5)):
        for seed in (0, 1):
            for epoch in (0, 1, 30) if seed == 0 else (30,):
                told = {"method": method, "seed": seed, "epoch": epoch, "mismatch": 0.1 * gap + 0.01 * seed}
                rows.append(told | {"moved": gap, "target_alpha": 2 + gap, "student_alpha": 2.0})
    return pd.DataFrame(rows)


def test_targets_are_drawn_through_a_training_and_told_as_means():
    drawn = plots.targets_through_training(targets(), seed=0)
    assert drawn.caption == (
        "After epoch 30, means: hint (2 seeds) 10.5 % unmatched, moved by 1.00, gap of alphas 1.00; AMA (2 seeds) "
        "5.5 % unmatched, moved by 0.50, gap of alphas 0.50. Lines are seed 0."
    )
    for axis in drawn.figure.axes:
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "1", "30"]
        courses = [line for line in axis.lines if len(line.get_xdata()) == 3]
        assert len(courses) == 2
    assert drawn.figure.axes[0].lines[0].get_ydata() == pytest.approx([10, 10, 10])


def comparisons() -> dict[str, pd.DataFrame]:
    runs = pd.DataFrame(
        {
            "student": "s", "teacher": "t", "protocol": "quick", "seed": [0, 1, 2] * 3,
            "method": ["KD"] * 3 + ["hint"] * 3 + ["AMA"] * 3,
            "accuracy": [70.0, 71, 72, 69, 70, 70.5, 73, 74.2, 75.1],
            "loss": [1.0, 1.1, 0.9, 1.2, 1.3, 1.1, 0.8, 0.85, 0.71],
        }
    )  # fmt: skip
    tables = {}
    for measure, value in (("points of accuracy", "accuracy"), ("test loss, nats", "loss")):
        rows = [compare_methods(runs, rival, value=value, lower_is_better=value == "loss") for rival in ("KD", "hint")]
        whole = pd.concat(rows)
        tables[measure] = whole[whole["method"] == "AMA"]
    return tables


def test_claims_are_drawn_one_measure_a_panel():
    tables = comparisons()
    drawn = plots.claims(tables, "does it help?")
    assert [axis.get_xlabel() for axis in drawn.figure.axes] == list(tables)
    first = tables["points of accuracy"].iloc[0]
    told = f"AMA less KD {first.difference:+.2f} ({first.lower:+.2f} to {first.upper:+.2f}, {first.verdict})"
    assert told in drawn.caption
    assert drawn.caption.count("better") == 4  # higher accuracy, lower loss
    for axis, rows in zip(drawn.figure.axes, tables.values(), strict=True):
        means = [line.get_xdata()[0] for line in axis.lines if line.get_marker() in ("s", "o")]
        assert means == pytest.approx(rows.difference.tolist())


def record(method: str, curve: list[float]) -> SimpleNamespace:
    return SimpleNamespace(plan=SimpleNamespace(method=method), run=SimpleNamespace(curves={"test accuracy": curve}))


def test_accuracy_by_epoch_is_the_mean_over_seeds():
    records = [record("KD", [40.0, 60, 70]), record("KD", [50.0, 70, 80]), record("alone", [30.0, 40, 50])]
    drawn = plots.accuracy_by_epoch(records, ["KD", "alone"], goal=65)
    assert drawn.caption == "Accuracy after the last epoch: KD 75.0 %, 65 % after 2; alone 50.0 %, 65 % never."
    (axis,) = drawn.figure.axes
    assert axis.lines[0].get_ydata() == pytest.approx([45, 65, 75])
    assert len(axis.collections) == 2
    with pytest.raises(ValueError, match="'hint' has no finished run"):
        plots.accuracy_by_epoch(records, ["hint"])
    with pytest.raises(ValueError, match="'KD' has runs of several lengths"):
        plots.accuracy_by_epoch([*records, record("KD", [1.0])], ["KD"])


def every_figure() -> dict[str, plots.CaptionedFigure]:
    """One of each of this module, for the checks that hold for all figures."""
    teacher, student = build("vgg8x0.125", 4).eval(), build("vgg8x0.0625", 4)
    adapted = AdaptedTeacher(teacher, ["layer3"], torch.randn(4, 3, 32, 32))
    matches = [Match("hint", hint_loss, "layer3", "layer3")]
    return {
        "accuracy_by_epoch": plots.accuracy_by_epoch([record("KD", [40.0, 60, 70])], ["KD"]),
        "adapted_network": plots.adapted_network(teacher, adapted, student, matches),
        "claims": plots.claims(comparisons()),
        "meeting": plots.meeting(*parts_of_a_meeting(), {0: 0.7, 1: 0.6}, 1, "layer3, channel 0"),
        "targets_through_training": plots.targets_through_training(targets(), seed=0),
    }
