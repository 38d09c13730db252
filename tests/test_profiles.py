"""alpha by depth of a grid's students beside their teachers': measured of what was kept, and how far apart."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_targets import write_shades
from threads import one_thread as one_thread  # a fixture

from spectralkd_nb import plots
from spectralkd_nb.__main__ import main
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.depth_law import exponent_profile
from spectralkd_nb.experiments import compare_profiles, finished_runs, paired_difference, profile_distances, run_grid
from spectralkd_nb.experiments.kept import TEACHER
from spectralkd_nb.experiments.profiles import OF_A_LAYER, STUDENT, curve_distance, grid_profiles
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.pictures import photograph_crops

PAIR = {"student": "small", "teacher": "large", "protocol": "quick"}
BLOCKS = ("layer1", "layer2", "layer3", "layer4")


def network(method: str, alphas: Mapping[str, float], seed: float = math.nan, **told: object) -> pd.DataFrame:
    """The rows of one network whose layers have one weight each; that of the method "teacher" is the teacher."""
    whose = {"role": TEACHER, "student": None} if method == TEACHER else {"role": STUDENT}
    depth = np.arange(len(alphas) + 1)
    layers = {"layer": ["image", *alphas], "alpha": [2.8, *alphas.values()], "depth": depth}
    layers |= {"relative_depth": depth / depth[-1], "trusted": True}
    return pd.DataFrame(PAIR | layers).assign(**{**whose, "method": method, "seed": seed, **told})


def blocks(*alphas: float) -> dict[str, float]:
    return dict(zip(BLOCKS, alphas, strict=False))


def some_profiles(gains: Mapping[str, float], seeds: int = 5) -> pd.DataFrame:
    """A teacher, and students whose every block is so far above it, but for what a seed draws."""
    rng = np.random.default_rng(0)
    goal = np.array([2.5, 2.2, 2.1, 3.0])
    tables = [network(TEACHER, blocks(*goal))]
    for seed in range(seeds):
        for method, gain in gains.items():
            tables.append(network(method, blocks(*(goal + gain + 0.02 * rng.normal())), seed))
    return pd.concat(tables, ignore_index=True)


# --- the distance --------------------------------------------------------------------------------


def curves(fewest: int = 2) -> st.SearchStrategy[np.ndarray]:
    """Depths from 0 to 1, and values."""
    inner = st.lists(st.integers(1, 99), min_size=fewest - 2, max_size=6, unique=True)
    depths = inner.map(lambda places: [0.0, *(place / 100 for place in sorted(places)), 1.0])
    alphas = st.floats(-4, 4)
    return depths.flatmap(
        lambda x: st.lists(alphas, min_size=len(x), max_size=len(x)).map(lambda y: np.array([x, y], dtype=float))
    )


@given(curves(), st.floats(-3, 3))
def test_a_curve_is_nothing_from_itself_and_a_shift_from_what_is_shifted(curve, shift):
    assert curve_distance(curve, curve) == 0
    moved = curve + np.array([[0.0], [shift]])
    assert curve_distance(curve, moved) == pytest.approx(abs(shift), abs=1e-12)


@given(curves(), curves(), curves())
def test_distances_are_those_of_a_space(first, second, third):
    one, two, three = (curve_distance(*pair) for pair in ((first, second), (second, third), (first, third)))
    assert curve_distance(second, first) == pytest.approx(one, abs=1e-12)
    assert three <= one + two + 1e-9


@given(curves(), st.lists(st.floats(0, 1), max_size=5))
def test_points_on_the_lines_change_nothing(curve, more):
    x = np.unique([*curve[0], *more])
    finer = np.array([x, np.interp(x, *curve)])
    other = np.array([[0.0, 1.0], [1.0, 2.0]])
    assert curve_distance(curve, finer) == pytest.approx(0, abs=1e-7)
    assert curve_distance(finer, other) == pytest.approx(curve_distance(curve, other), abs=1e-7)


@given(curves(), curves())
def test_it_is_the_integral_of_the_square(first, second):
    x = (np.arange(20_000) + 0.5) / 20_000
    sampled = np.sqrt(np.mean((np.interp(x, *first) - np.interp(x, *second)) ** 2))
    assert curve_distance(first, second) == pytest.approx(sampled, abs=1e-3)


def test_only_depths_that_both_cover_are_compared():
    first = np.array([[0.2, 1.0], [1.0, 1.0]])
    second = np.array([[0.1, 0.15, 0.6, 1.0], [9.0, 2.0, 2.0, 2.0]])
    assert curve_distance(first, second) == pytest.approx(1)
    assert curve_distance(np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 3.0]])) == pytest.approx(
        math.sqrt(3)
    )
    with pytest.raises(ValueError, match="no stretch of depth in common"):
        curve_distance(np.array([[0.0, 0.3], [1.0, 1.0]]), np.array([[0.3, 1.0], [1.0, 1.0]]))


def test_a_student_that_has_its_teachers_profile_is_nothing_from_it_and_a_shifted_one_the_shift():
    profiles = pd.concat(
        [
            network(TEACHER, blocks(2.5, 2.2, 2.1, 3.0)),
            network("KD", blocks(2.5, 2.2, 2.1, 3.0), 0),
            network("alone", blocks(2.9, 2.6, 2.5, 3.4), 0),
        ]
    )
    same, shifted = profile_distances(profiles).itertuples()
    assert (same.method, same.seed, same.stage_ends, same.all_depths) == ("KD", 0, 0, 0)
    assert (shifted.stage_ends, shifted.all_depths) == pytest.approx((0.4, 0.4))
    assert (shifted.student, shifted.teacher, shifted.protocol) == tuple(PAIR.values())


def test_the_image_is_not_compared():
    profiles = pd.concat([network(TEACHER, blocks(2.5, 2.2, 2.1)), network("KD", blocks(2.5, 2.2, 2.1), 0)])
    profiles.loc[(profiles.layer == "image") & (profiles.method == "KD"), "alpha"] = 9.0
    assert profile_distances(profiles)[["stage_ends", "all_depths"]].to_numpy().tolist() == [[0, 0]]


def test_only_the_ends_of_the_named_stages_count():
    profiles = pd.concat([network(TEACHER, blocks(2.0, 2.0, 2.0, 2.0)), network("KD", blocks(2.3, 1.6, 2.0, 9.0), 0)])
    (found,) = profile_distances(profiles).stage_ends
    assert found == pytest.approx(math.sqrt((0.3**2 + 0.4**2) / 3))
    (last,) = profile_distances(profiles, ["layer4"]).stage_ends
    assert last == pytest.approx(7)


def test_networks_of_different_depths_meet_at_the_ends_of_their_stages_and_at_relative_depths():
    """alpha = 3 - relative depth in both, whose stages end at other depths."""
    deep = {f"layer{stage}.{block}": 0.0 for stage in (1, 2, 3) for block in range(10 if stage == 1 else 4)}
    shallow = {f"layer{stage}.{block}": 0.0 for stage in (1, 2, 3) for block in range(2)}
    line = [{path: 3 - (i + 1) / len(paths) for i, path in enumerate(paths)} for paths in (deep, shallow)]
    profiles = pd.concat([network(TEACHER, line[0]), network("KD", line[1], 0)])
    (row,) = profile_distances(profiles).itertuples()
    assert row.all_depths == pytest.approx(0, abs=1e-12)
    ends = [line[0][f"layer{s}.{b}"] - line[1][f"layer{s}.1"] for s, b in ((1, 9), (2, 3), (3, 3))]
    assert row.stage_ends == pytest.approx(np.sqrt(np.mean(np.square(ends))))
    # A block's number is no order: layer1.9 comes before layer1.10, wherever the rows are.
    shuffled = profiles.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(profile_distances(shuffled), profile_distances(profiles))


# --- the comparison ------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", ["stage_ends", "all_depths"])
def test_methods_are_compared_with_the_plain_student_seed_by_seed(distance):
    profiles = some_profiles({"alone": 0.5, "hint": 0.51, "KD": 0.3, "NST": 0.9})
    table = compare_profiles(profiles, "alone", distance)
    assert table.method.tolist() == ["KD", "alone", "hint", "NST"]  # the nearest first
    assert table["mean"].is_monotonic_increasing
    by = table.set_index("method")
    assert by.verdict.drop("alone").tolist() == ["better", "inconclusive", "worse"]
    assert pd.isna(by.verdict["alone"])
    runs = profile_distances(profiles).pivot(index="seed", columns="method", values=distance)
    found = paired_difference(runs.KD, runs.alone)
    assert by.loc["KD", ["difference", "difference_lower", "difference_upper"]].tolist() == pytest.approx(
        [found.mean, *found.t_interval]
    )
    assert by.loc["KD", "mean"] == pytest.approx(runs.KD.mean())
    assert by.loc["KD", "upper"] - by.loc["KD", "mean"] == pytest.approx(
        2.776445 * runs.KD.std() / math.sqrt(5), rel=1e-5
    )


def test_other_stages_are_compared_if_they_are_asked_for():
    profiles = some_profiles({"alone": 0.5, "KD": 0.3})
    profiles.loc[(profiles.method == "KD") & (profiles.layer == "layer4"), "alpha"] += 5
    near, far = (compare_profiles(profiles, "alone", stages=[s]).set_index("method") for s in ("layer1", "layer4"))
    assert (near.verdict["KD"], far.verdict["KD"]) == ("better", "worse")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t[t.method != "alone"], "no method is called 'alone'"),
        (lambda t: t[t.role != TEACHER], "has the teacher 'large', of which there is no profile"),
        (lambda t: t[(t.layer != "layer2") | (t.method != "KD")], "'small' by 'KD' with seed 0 has no alpha at"),
        (lambda t: t[(t.layer != "layer3") | (t.role != TEACHER)], "the teacher 'large' has no alpha at the end"),
        (lambda t: t.assign(alpha=t.alpha.where(t.layer != "layer3")), "it has one in layer1, layer2, layer4"),
        (lambda t: pd.concat([t, t]), "the teacher 'large' has 'image' twice"),
        (lambda t: t.assign(teacher=t.teacher.where(t.method != "alone")), "by 'alone' with seed 0 has the teacher"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_told_in_one_sentence(change, told):
    with pytest.raises(ValueError, match=told) as error:
        compare_profiles(change(some_profiles({"alone": 0.5, "KD": 0.3})), "alone")
    assert "\n" not in str(error.value)


def test_options_that_there_are_not_are_refused():
    profiles = some_profiles({"alone": 0.5, "KD": 0.3})
    with pytest.raises(ValueError, match="the runs have no 'ends'; they have student"):
        compare_profiles(profiles, "alone", "ends")
    for stages in ("layer1", []):
        with pytest.raises(ValueError, match="has to be a list of dotted paths"):
            profile_distances(profiles, stages)
    one = profiles[profiles.layer.isin(["image", "layer1"])]
    with pytest.raises(ValueError, match="has an alpha in 1 blocks, and a curve takes 2"):
        profile_distances(one, ["layer1"])


# --- what a store kept ---------------------------------------------------------------------------


def grid_of(place: Path, name: str, keep: str = "[1, 2]", pairs: int = 1, methods: str = "alone hint") -> Path:
    """A grid of two shades of grey, whose students learn from one teacher or two."""
    told = {
        "alone": 'alone = { "cross-entropy" = 1 }',
        "hint": 'hint = { "cross-entropy" = 1, hint = { weight = 1, layers = ["layer2"] } }',
    }
    teachers = ["vgg8x0.125", "vgg8x0.25"][:pairs]
    file = place / f"{name}.toml"
    file.write_text(
        f"seeds = [0, 1]\nkeep_epochs = {keep}\n"
        f"protocols.quick = {{ data = '{place}/shades.npz', epochs = 2, batch_size = 16, augment = false }}\n"
        + "".join(
            f"[[pairs]]\nstudent = 'vgg8x0.0625'\nteacher = '{one}'\nteacher_weights = '{place}/{one}.pt'\n"
            for one in teachers
        )
        + "[methods]\n"
        + "\n".join(told[method] for method in methods.split())
    )
    return file


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("place")
    write_shades(place / "shades.npz")
    for seed, name in enumerate(("vgg8x0.125", "vgg8x0.25")):
        torch.save(build(name, 2, seed=seed).state_dict(), place / f"{name}.pt")
    return place


@pytest.fixture(scope="module")
def grid(place) -> Path:
    return grid_of(place, "grid")


@pytest.fixture(scope="module")
def store(grid, tmp_path_factory) -> Path:
    store = tmp_path_factory.mktemp("store")
    assert (run_grid(grid, store)["state"] == "finished").all()
    return store


@pytest.fixture(scope="module")
def table(grid, store) -> pd.DataFrame:
    return grid_profiles(grid, store)


def test_there_is_a_profile_of_every_run_and_one_of_the_teacher(table):
    assert table.columns.tolist()[-len(OF_A_LAYER) :] == OF_A_LAYER
    counts = table.groupby(["role", "method", "seed"], dropna=False).size().to_dict()
    assert list(counts.values()) == [6] * 5  # the image and five blocks
    assert (table.groupby("role").size() == [24, 6]).all()
    assert (table.teacher == "vgg8x0.125").all()  # those alone are compared with it too
    teacher = table[table.role == TEACHER]
    assert teacher.student.isna().all()
    assert teacher.seed.isna().all()
    assert (teacher.method == TEACHER).all()
    assert teacher.relative_depth.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    images = table[table.layer == "image"]
    assert images.alpha.nunique() == 1  # all see the same


def test_profiles_are_those_of_the_networks_as_they_were_kept(table, grid, store, place):
    data = open_dataset(place / "shades.npz")
    pictures = data.normalise(255 * photograph_crops(128, 4))
    networks = {(TEACHER, None): load_weights(build("vgg8x0.125", 2), place / "vgg8x0.125.pt")}
    for record in finished_runs(grid, store):
        kept = store / record.plan.folder / "epoch_002.safetensors"
        networks[record.plan.method, record.plan.seed] = load_weights(build("vgg8x0.0625", 2), kept)
    for (method, seed), network in networks.items():
        own = table[(table.method == method) & (table.seed.isna() if seed is None else table.seed == seed)]
        expected = exponent_profile(network, pictures, groups=4)
        assert own.layer.tolist() == list(expected.paths)
        assert own.alpha.to_numpy() == pytest.approx(expected.alpha.numpy(), rel=1e-5)
        assert own[["lower", "upper"]].to_numpy() == pytest.approx(expected.interval.numpy(), rel=1e-4)
        assert own.error.to_numpy() == pytest.approx(expected.draws.std(0).numpy(), rel=1e-4)
        assert own.trusted.tolist() == [not reasons for reasons in expected.reasons]
        assert own.reasons.tolist() == ["; ".join(reasons) for reasons in expected.reasons]


def test_the_command_writes_the_table_to_four_digits(table, grid, store, tmp_path, capsys):
    out = tmp_path / "results" / "profiles.csv"
    main(["grid-profiles", str(grid), str(store), str(out)])
    assert capsys.readouterr().out.splitlines() == ["4 of 4 runs are finished", f"30 layers measured -> {out}"]
    again = pd.read_csv(out, keep_default_na=True)
    assert again.columns.tolist() == table.columns.tolist()
    assert again.alpha.to_numpy() == pytest.approx(table.alpha.to_numpy(), rel=1e-3)
    assert all(len(cell.replace("-", "").replace(".", "").lstrip("0")) <= 4 for cell in again.alpha.map(str))
    here, there = (profile_distances(one)[["stage_ends", "all_depths"]].to_numpy() for one in (table, again))
    assert there == pytest.approx(here, abs=2e-3)
    assert compare_profiles(again, "alone").seeds.tolist() == [2, 2]


def test_a_student_alone_is_compared_with_each_teacher_of_its_pairs(place, store, table):
    """The runs are those of the other grid, for a student alone is the same run in both."""
    both = grid_profiles(grid_of(place, "two", pairs=2, methods="alone"), store)
    students = both[both.role == STUDENT]
    assert students.groupby(["teacher", "seed"]).size().tolist() == [6] * 4
    assert both[both.role == TEACHER].teacher.unique().tolist() == ["vgg8x0.125", "vgg8x0.25"]
    found = profile_distances(both)
    assert found.teacher.tolist() == ["vgg8x0.125", "vgg8x0.25"] * 2
    first = profile_distances(table).query("method == 'alone'")
    assert found.query("teacher == 'vgg8x0.125'").stage_ends.tolist() == first.stage_ends.tolist()
    assert found.stage_ends.nunique() == 4


def test_a_run_that_did_not_keep_its_last_epoch_is_told(place, grid, store, tmp_path):
    part = tmp_path / "store"
    shutil.copytree(store, part)
    for file in part.rglob("epoch_002.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match=r"kept epoch 1 last, of 2; have the grid keep 2"):
        grid_profiles(grid_of(place, "early", keep="[1]"), part)
    with pytest.raises(ValueError, match="did not keep epoch 2; delete it and run the grid again"):
        grid_profiles(grid, part)
    for file in part.rglob("epoch_*.safetensors"):
        file.unlink()
    with pytest.raises(ValueError, match="kept no epochs; train it again in another folder, with keep_epochs"):
        grid_profiles(grid_of(place, "nothing", keep="[]"), part)


def test_another_teacher_than_the_run_had_is_refused(place, grid, store):
    file = place / "vgg8x0.125.pt"
    own = file.read_bytes()
    torch.save(build("vgg8x0.125", 2, seed=6).state_dict(), file)
    try:
        with pytest.raises(ValueError, match=r"was trained from another vgg8x0\.125 than the one that is there now"):
            grid_profiles(grid, store)
    finally:
        file.write_bytes(own)


def test_a_store_without_finished_runs_is_one_sentence(grid, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["grid-profiles", str(grid), str(tmp_path / "stroe"), str(tmp_path / "out.csv")])
    said = capsys.readouterr().err
    assert "stroe holds no finished run of" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.csv").exists()


# --- the figure ----------------------------------------------------------------------------------


def test_there_is_a_panel_for_each_distilled_student_the_nearest_first():
    profiles = some_profiles({"alone": 0.5, "hint": 0.51, "KD": 0.3, "NST": 0.9})
    drawn = plots.student_profiles(profiles, "alone")
    table = compare_profiles(profiles, "alone", "all_depths").set_index("method")
    half = table.upper - table["mean"]
    assert [axis.get_title(loc="left").split("\n") for axis in drawn.figure.axes] == [
        ["KD", f"{table['mean'].KD:.2f} ± {half.KD:.2f}, nearer"],
        ["hint", f"{table['mean'].hint:.2f} ± {half.hint:.2f}, inconclusive"],
        ["NST", f"{table['mean'].NST:.2f} ± {half.NST:.2f}, farther"],
    ]
    assert drawn.caption.startswith(f"small from large, quick, 5 seeds: alone is {table['mean'].alone:.2f} from its ")
    row = table.loc["KD"]
    told = f"KD {row.difference:+.2f} ({row.difference_lower:+.2f} to {row.difference_upper:+.2f}, better)"
    assert told in drawn.caption
    with pytest.raises(ValueError, match="the profiles are of 'alone' only"):
        plots.student_profiles(some_profiles({"alone": 0.5}), "alone")
    other = some_profiles({"alone": 0.5, "KD": 0.3}).assign(teacher="huge")
    with pytest.raises(ValueError, match="one student, one teacher and one protocol, and these are"):
        plots.student_profiles(pd.concat([profiles, other]), "alone")


def test_each_panel_has_the_teacher_the_plain_student_and_the_mean_over_seeds_with_its_interval():
    profiles = some_profiles({"alone": 0.5, "KD": 0.3})
    profiles.loc[(profiles.layer == "layer2") & (profiles.method == "KD"), "trusted"] = False
    (axis,) = plots.student_profiles(profiles, "alone").figure.axes[:1]
    lines = {line.get_marker(): line for line in axis.lines if line.get_linestyle() != "None"}
    assert len(lines) == 3  # told apart by more than their colours
    means = profiles.groupby(["method", "relative_depth"]).alpha.mean()
    for marker, method in (("X", TEACHER), ("s", "alone"), ("o", "KD")):
        assert lines[marker].get_xdata() == pytest.approx([0, 0.25, 0.5, 0.75, 1])
        assert lines[marker].get_ydata() == pytest.approx(means[method].to_numpy())
    (band,) = axis.collections
    edges = band.get_paths()[0].vertices
    layer = profiles[(profiles.method == "KD") & (profiles.layer == "layer3")].alpha
    half = 2.776445 * layer.std() / math.sqrt(5)
    at = edges[np.isclose(edges[:, 0], 0.75), 1]
    assert (at.min(), at.max()) == pytest.approx((layer.mean() - half, layer.mean() + half), rel=1e-5)
    hollow = [line for line in axis.lines if line.get_linestyle() == "None" and len(line.get_xdata())]
    assert [(line.get_marker(), line.get_xdata().tolist()) for line in hollow] == [("o", [0.5])]


def test_one_seed_has_no_band_and_a_dead_layer_no_mark():
    profiles = some_profiles({"alone": 0.5, "KD": 0.3}, seeds=1)
    profiles.loc[(profiles.layer == "layer4") & (profiles.method == "KD"), "alpha"] = math.nan
    drawn = plots.student_profiles(profiles, "alone", "stage_ends")
    assert "±" not in drawn.figure.axes[0].get_title(loc="left")
    assert "(1 seed, inconclusive)" in drawn.caption
    own = next(line for line in drawn.figure.axes[0].lines if line.get_marker() == "o")
    assert own.get_xdata() == pytest.approx([0, 0.25, 0.5, 0.75])
