"""Random networks measured and kept: what one simulation is, and a table that can be stopped, gone on with and read."""

from __future__ import annotations

import itertools
from dataclasses import asdict, fields, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from spectralkd_nb.depth_law import simulations
from spectralkd_nb.depth_law.fits import Line, line_through
from spectralkd_nb.depth_law.profiles import exponent_profile
from spectralkd_nb.depth_law.simulations import (
    BAND,
    GRID,
    Setting,
    predict,
    simulate,
    stored_simulations,
    write_simulations,
)
from spectralkd_nb.depth_law.theory import depth_recursion, random_kernel_transfer
from spectralkd_nb.networks import RandomNetwork, reestimate_batch_norm
from spectralkd_nb.operations import power_law_power

TINY = Setting(inputs=4, width=4, depth=2, images=3)
NAMES = [field.name for field in fields(Setting)]


@pytest.fixture
def small_maps(monkeypatch):
    monkeypatch.setattr(simulations, "SIZE", 32)


def settings_in(file: Path) -> list[Setting]:
    return [Setting(**row) for row in pd.read_csv(file)[NAMES].drop_duplicates().to_dict("records")]


# --- one simulation -----------------------------------------------------------------------------


def test_a_simulation_is_the_profile_of_a_random_network_on_fields():
    found = simulate(TINY, resamples=20)
    assert found.kinds == ("image", "RandomLayer", "RandomLayer")
    assert found.depth.tolist() == found.blocks.tolist() == [0, 1, 2]
    assert found.grid == ((128, 128),) * 3
    assert found.bands == (BAND,) * 3
    assert (found.images, found.groups, found.name) == (3, 3, "random network of width 4")
    assert found.draws.shape == (20, 3)
    assert float(found.alpha[0]) == pytest.approx(2, abs=0.1)
    assert found.alpha.isfinite().all()


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.usefixtures("small_maps")
def test_a_simulation_is_what_its_parts_make_of_the_setting(batch_norm):
    setting = replace(
        TINY, correlation=0.3, shared=0.2, batch_norm=batch_norm, skip=True, relu=False, alpha=1.0, seed=7
    )
    options = {"correlation": 0.3, "shared": 0.2, "batch_norm": batch_norm, "skip": True, "relu": False, "seed": 7}
    network, images = RandomNetwork(4, 4, 2, **options), simulations._input_fields(setting)
    assert images.shape == (3, 4, 32, 32)
    if batch_norm:
        network = reestimate_batch_norm(network, images)
    expected = exponent_profile(network, images, edges="none", band=BAND, resamples=20, seed=7)
    found = simulate(setting, resamples=20)
    torch.testing.assert_close(found.alpha, expected.alpha, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.draws, expected.draws, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("small_maps")
def test_every_attribute_of_a_setting_makes_a_difference():
    base = replace(TINY, skip=True)
    others = {
        "inputs": 5, "width": 5, "depth": 3, "correlation": 0.5, "shared": 0.5, "batch_norm": False, "skip": False,
        "post_activation": True, "relu": False, "alpha": 1.0, "images": 4, "seed": 1,
    }  # fmt: skip
    assert others.keys() == set(NAMES)
    settings = [base, *(replace(base, **{name: value}) for name, value in others.items())]
    last = [float(simulate(setting, resamples=1).alpha[-1]) for setting in settings]
    assert min(abs(a - b) for a, b in itertools.combinations(last, 2)) > 1e-4
    assert last[0] == float(simulate(Setting(**asdict(base)), resamples=1).alpha[-1])


def test_the_prediction_is_the_recursions_of_the_same_setting():
    for setting in (
        TINY,
        replace(TINY, correlation=0.3, shared=0.2, batch_norm=False, skip=True, relu=False, alpha=1.0),
        replace(TINY, skip=True, post_activation=True),
    ):
        found = predict(setting)
        assert found.shape == (3,)
        transfers = [random_kernel_transfer(128, setting.correlation, setting.shared)] * 2
        options = {name: getattr(setting, name) for name in ("batch_norm", "skip", "post_activation", "relu")}
        expected = depth_recursion(power_law_power(128, setting.alpha), transfers, band=BAND, **options)
        assert torch.equal(found, expected)
    # Neither width nor images nor seed is anything to the theory of wide layers.
    assert torch.equal(predict(TINY), predict(replace(TINY, inputs=9, width=9, images=9, seed=9)))


@pytest.mark.parametrize("sizes", [{"inputs": 3}, {"inputs": 256}, {"inputs": 4, "width": 5}])
def test_there_is_no_prediction_where_the_first_layer_has_no_skip_and_the_others_do(sizes):
    for skip in (True, False):
        with pytest.raises(ValueError, match="with post_activation the recursion wants as many inputs as channels"):
            predict(Setting(skip=skip, post_activation=True, **sizes))
    # Of skips that end before the ReLU the first layer has none, whatever the sizes.
    assert torch.equal(predict(Setting(skip=True, **sizes)), predict(Setting(skip=True)))


def test_a_wide_network_goes_where_the_prediction_says():
    setting = Setting(width=64, depth=2, images=2, correlation=0.2)
    assert simulate(setting, resamples=1).alpha.tolist() == pytest.approx(predict(setting).tolist(), abs=0.06)


# --- the table ----------------------------------------------------------------------------------

PAIR = (TINY, replace(TINY, depth=1, correlation=0.05, batch_norm=False, skip=True, seed=1))


@pytest.mark.usefixtures("small_maps")
def test_the_table_has_a_row_for_each_layer(tmp_path):
    file = tmp_path / "results" / "table.csv"  # the folder is made
    write_simulations(file, PAIR)
    table = pd.read_csv(file)
    assert list(table.columns) == [*NAMES, "layer", "measured"]
    assert table.layer.tolist() == [0, 1, 2, 0, 1]
    assert settings_in(file) == list(PAIR)
    for setting, rows in zip(PAIR, (table[:3], table[3:]), strict=True):
        assert rows.measured.tolist() == pytest.approx(simulate(setting, resamples=1).alpha.tolist(), abs=5e-5)
        assert {Setting(**row) for row in rows[NAMES].to_dict("records")} == {setting}
    assert [path.name for path in file.parent.iterdir()] == ["table.csv"]


@pytest.mark.usefixtures("small_maps")
def test_what_the_table_holds_is_not_simulated_again(tmp_path, monkeypatch):
    file = tmp_path / "table.csv"
    write_simulations(file, PAIR)
    before = file.read_bytes(), file.stat().st_mtime_ns
    simulated = []
    monkeypatch.setattr(simulations, "simulate", lambda setting, resamples: simulated.append(setting))
    write_simulations(file, PAIR)
    write_simulations(file, PAIR[:1])
    assert simulated == []
    assert before == (file.read_bytes(), file.stat().st_mtime_ns)


@pytest.mark.usefixtures("small_maps")
def test_what_is_new_in_the_grid_is_added_once(tmp_path):
    file = tmp_path / "table.csv"
    new = replace(TINY, relu=False)
    write_simulations(file, PAIR)
    before = file.read_text()
    write_simulations(file, (new, *PAIR, new))
    assert settings_in(file) == [*PAIR, new]
    assert file.read_text().startswith(before)
    assert len(pd.read_csv(file)) == 3 + 2 + 3


@pytest.mark.usefixtures("small_maps")
def test_a_run_that_was_stopped_leaves_a_whole_table_and_goes_on(tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.csv", tmp_path / "stopped.csv"
    write_simulations(whole, PAIR)

    def interrupted(setting, resamples):
        if setting == PAIR[1]:
            raise KeyboardInterrupt
        return simulate(setting, resamples)

    with monkeypatch.context() as patched:
        patched.setattr(simulations, "simulate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_simulations(stopped, PAIR)
    assert settings_in(stopped) == [PAIR[0]]
    assert len(pd.read_csv(stopped)) == 3
    simulated = []
    monkeypatch.setattr(simulations, "simulate", lambda s, resamples: simulated.append(s) or simulate(s, resamples))
    write_simulations(stopped, PAIR)
    assert simulated == [PAIR[1]]
    assert stopped.read_bytes() == whole.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.csv", "stopped.csv"}


# --- what is stored -----------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path, monkeypatch) -> tuple[Setting, ...]:
    """A table in which measured is 100 seed + layer, and 1000 more of a network without batch norm."""
    grid = (
        *(Setting(depth=5, seed=seed) for seed in (2, 0, 1)),
        *(Setting(depth=3, seed=seed) for seed in (0, 1)),
        *(Setting(depth=4, batch_norm=False, correlation=0.05, seed=seed) for seed in (0, 1)),
    )
    rows = [
        {**asdict(s), "layer": layer, "measured": 100.0 * s.seed + layer + 1000 * (not s.batch_norm)}
        for s in grid
        for layer in range(s.depth + 1)
    ]
    (tmp_path / "results").mkdir()
    pd.DataFrame(rows).to_csv(tmp_path / "results" / "depth_simulations.csv", index=False)
    monkeypatch.setattr(simulations, "data_path", lambda name: tmp_path / name)
    return grid


def test_stored_simulations_have_a_row_for_each_seed(stored):
    assert settings_in(simulations.data_path("results/depth_simulations.csv")) == list(stored)
    found = stored_simulations(Setting(depth=5))
    assert found.shape == (3, 6)
    assert found.dtype == torch.float64
    assert found.tolist() == [[100.0 * seed + layer for layer in range(6)] for seed in range(3)]
    assert torch.equal(found, stored_simulations(Setting(depth=5, seed=8)))
    other = stored_simulations(Setting(depth=4, batch_norm=False, correlation=0.05))
    assert other.tolist() == [[1000.0 + 100 * seed + layer for layer in range(5)] for seed in range(2)]


@pytest.mark.usefixtures("stored")
def test_a_shallower_network_is_the_beginning_of_the_deepest():
    for depth in (1, 2, 3, 4):
        found = stored_simulations(Setting(depth=depth))
        assert torch.equal(found, stored_simulations(Setting(depth=5))[:, : depth + 1])


@pytest.mark.usefixtures("stored")
def test_what_is_not_stored_is_said_and_what_to_do():
    for other in ({"depth": 6}, {"depth": 5, "skip": True}, {"depth": 4, "batch_norm": False}, {"width": 65}):
        with pytest.raises(
            ValueError, match=r"Setting\(.*\) is not among the stored .*; simulate\(setting\) measures it"
        ):
            stored_simulations(Setting(**other))


@pytest.mark.usefixtures("small_maps")
def test_the_beginning_of_a_deep_network_is_measured_as_a_shallow_one_is():
    deep, shallow = (simulate(replace(TINY, depth=depth), resamples=1).alpha for depth in (4, 2))
    torch.testing.assert_close(deep[:3], shallow)


def test_all_of_the_grid_is_stored_and_is_what_a_simulation_gives():
    table = simulations._stored()
    assert {Setting(**row) for row in table[NAMES].drop_duplicates().to_dict("records")} == set(GRID)
    assert len(table) == sum(setting.depth + 1 for setting in set(GRID))
    assert table.measured.notna().all()
    setting = Setting(inputs=3, width=16, depth=12, seed=1)
    again = simulate(setting, resamples=1).alpha
    torch.testing.assert_close(again, stored_simulations(setting)[1], rtol=0, atol=0.01)


def test_stored_wide_networks_went_where_the_prediction_says():
    for setting in (Setting(width=256, depth=12), Setting(skip=True), Setting(correlation=0.2)):
        gap = stored_simulations(setting).mean(0) - predict(setting)
        assert gap.abs().max() < 0.12


# What lesson 3 says of the stored networks. The bounds leave room for a table that is made again on another machine.
WIDE = Setting(width=256, depth=12)


def through(alphas: torch.Tensor) -> Line:
    """The line through alpha over layers 0, 1, 2, ..."""
    return line_through(torch.arange(len(alphas)), alphas)


def gap(setting: Setting) -> float:
    """How far from the prediction the mean over seeds is, where it is farthest."""
    return float((stored_simulations(setting).mean(0) - predict(setting)).abs().max())


def test_in_a_wide_network_of_white_kernels_alpha_falls_along_a_line():
    found = stored_simulations(WIDE)
    assert found.shape == (3, 13)
    for alphas in found:
        line = through(alphas)
        assert line.r_squared >= 0.97
        assert -0.14 < line.slope < -0.12
        assert float(alphas[0]) == pytest.approx(2, abs=0.02)
        assert 0.4 < float(alphas[-1]) < 0.65


def test_the_wide_network_is_where_the_recursion_says_at_every_depth():
    assert gap(WIDE) < 0.07


def test_the_wider_a_network_and_the_more_its_inputs_the_nearer_it_is_to_the_recursion():
    gaps = [gap(replace(WIDE, width=width)) for width in (16, 64, 256)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gap(replace(WIDE, inputs=3)) > 2 * gap(WIDE)


@pytest.mark.parametrize("correlation", [0.2, 0.3])
def test_with_skips_that_end_before_the_relu_low_passes_make_alpha_rise_along_a_line(correlation):
    found = stored_simulations(Setting(correlation=correlation, depth=12, skip=True, post_activation=True))
    assert len(found) == 3
    assert (found[:, -1] - found[:, 0] > 0.2).all()
    mean = through(found.mean(0))
    assert mean.slope > 0.02
    assert mean.r_squared >= 0.95


def test_between_a_correlation_of_a_tenth_and_of_a_fifth_alpha_turns_from_falling_to_rising():
    def change(correlation: float) -> torch.Tensor:
        found = stored_simulations(Setting(correlation=correlation, depth=12))
        assert len(found) == 3
        return found[:, -1] - found[:, 0]

    assert (change(0.1) < 0).all()
    assert (change(0.2) > 0).all()
    means = [float(change(correlation).mean()) for correlation in simulations.CORRELATIONS]
    assert means == sorted(means)
