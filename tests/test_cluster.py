"""A grid's runs as tasks on Ray: done by other processes, to the same results, with the same store."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from test_distillation import assert_equal
from test_experiments import outcomes
from test_targets import write_shades
from threads import one_thread as one_thread  # a fixture

from spectralkd_nb.__main__ import main
from spectralkd_nb.experiments import Plan, planned_runs, run_grid
from spectralkd_nb.experiments import cluster as on_ray
from spectralkd_nb.experiments.grid import run_plans
from spectralkd_nb.experiments.plan import planned_teachers
from spectralkd_nb.experiments.records import failure_file, grid_results
from spectralkd_nb.experiments.work import GridProgress

Grid = dict[str, Any]


@pytest.fixture(scope="module")
def ray() -> Iterator[ModuleType]:
    """Ray with a local cluster of two CPUs, which is there before the grids are and stays behind them."""
    ray = pytest.importorskip("ray", reason="optional: pip install -e '.[ray]'")
    with pytest.MonkeyPatch.context() as patched, tempfile.TemporaryDirectory(prefix="ray-") as short:
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Not pytest's own folder: the names of sockets may have about 100 characters.
        ray.init(address="local", num_cpus=2, num_gpus=0, include_dashboard=False, _temp_dir=short)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> Grid:
    """Two seeds of two methods, in two shades: four runs, and that of their teacher."""
    file = tmp_path_factory.mktemp("data") / "shades.npz"
    write_shades(file)
    return {
        "name": "shades",
        "seeds": [0, 1],
        "pairs": [{"student": "vgg8x0.0625", "teacher": "vgg8x0.125"}],
        "train_teachers": {"protocol": "quick", "seed": 7},
        "protocols": {"quick": {"data": str(file), "epochs": 2, "batch_size": 16, "augment": False}},
        "methods": {"alone": {"cross-entropy": 1.0}, "KD": {"cross-entropy": 0.1, "soft targets": 0.9}},
    }


@pytest.fixture(scope="module")
def done(grid, tmp_path_factory) -> Path:
    """A store in which this process has done all runs. Not to be written to."""
    store = tmp_path_factory.mktemp("done")
    run_grid(grid, store)
    return store


@pytest.fixture
def in_tasks(monkeypatch) -> Callable[[Callable[[Plan], None]], None]:
    """Gives tasks something to do before their run; a function within a test, which Ray sends whole."""

    def begin_with(first: Callable[[Plan], None]) -> None:
        def one_run(plan: Plan, *rest: Any) -> None:
            from spectralkd_nb.experiments.cluster import one_run

            first(plan)
            one_run(plan, *rest)

        monkeypatch.setattr(on_ray, "one_run", one_run)

    return begin_with


@pytest.fixture
def noted(in_tasks, tmp_path_factory) -> Path:
    """A folder in which every task leaves a file with its process's number, named as its run."""
    notes = tmp_path_factory.mktemp("notes")

    def note(plan: Plan) -> None:
        (notes / plan.folder).write_text(str(os.getpid()))

    in_tasks(note)
    return notes


# --- what is done --------------------------------------------------------------------------------


def test_two_workers_do_a_grid_as_one_process_does(ray, grid, done, tmp_path, in_tasks):
    notes, store = tmp_path / "notes", tmp_path / "new" / "store"
    notes.mkdir()

    def meet(plan: Plan) -> None:
        """Students' tasks wait for one another, so that two are at work at the same time."""
        (notes / plan.folder).write_text(f"{os.getpid()} {torch.get_num_threads()}")
        begun = time.monotonic()
        while plan.method != "trained alone" and time.monotonic() - begun < 60:
            if len({note.read_text() for note in notes.glob("vgg8x0.0625*")}) > 1:
                return
            time.sleep(0.02)

    in_tasks(meet)
    heard: list[GridProgress] = []
    table = run_grid(grid, store, workers="ray", callback=heard.append)
    assert table.drop(columns="seconds").equals(grid_results(grid, done).drop(columns="seconds"))
    assert_equal(outcomes(store), outcomes(done))
    (teacher,), plans = planned_teachers(grid), planned_runs(grid)
    assert {note.name for note in notes.iterdir()} == {teacher.folder, *(plan.folder for plan in plans)}
    processes = {note.read_text() for note in notes.iterdir()}
    assert str(os.getpid()) not in {process.split()[0] for process in processes}
    assert len({(notes / plan.folder).read_text() for plan in plans}) == 2
    assert {process.split()[1] for process in processes} == {"1"}

    names = [progress.name for progress in heard]
    assert names == sorted(names, key=["shades, its teachers", "shades"].index)  # teachers first
    students = [progress for progress in heard if progress.name == "shades"]
    assert students[0].states == ("to do",) * 4
    finished = [progress.states.count("finished") for progress in students]
    assert finished == sorted(finished)
    assert students[-1].states == ("finished",) * 4
    assert students[-1].details[0].endswith(" %")
    assert not [path for path in store.iterdir() if path.is_file()]
    assert not list(store.rglob(".lock"))
    assert ray.is_initialized()  # it was there before


@pytest.mark.usefixtures("ray")
def test_what_is_finished_is_not_done_again_and_a_failure_is_its_runs_alone(grid, done, tmp_path, noted):
    store, alone = tmp_path / "store", tmp_path / "alone"
    lost = {"cross-entropy": 1.0, "hint": {"weight": 1.0, "layers": [["layer3", "layer1"]]}}
    grid = grid | {"methods": {"alone": grid["methods"]["alone"], "lost": lost}}
    plans, (teacher,) = planned_runs(grid), planned_teachers(grid)
    for folder in (teacher.folder, plans[0].folder):
        shutil.copytree(done / folder, store / folder)
    table = run_grid(grid, store, workers="ray")
    assert table.state.tolist() == ["finished", "failed"] * 2
    assert table.reason[1].startswith("ValueError: student (2, 16, 4, 4), teacher (2, 8, 16, 16): ")
    assert {note.name for note in noted.iterdir()} == {plan.folder for plan in plans[1:]}
    assert_equal(outcomes(store)[plans[2].folder], outcomes(done)[plans[2].folder])

    shutil.copytree(done / teacher.folder, alone / teacher.folder)
    run_plans("one process", [plans[1]], alone)
    theirs, mine = (json.loads(failure_file(plans[1], place).read_text()) for place in (store, alone))
    assert {key: theirs[key] for key in ("plan", "reason")} == {key: mine[key] for key in ("plan", "reason")}
    assert theirs.keys() == mine.keys()
    assert theirs["where"][-1] == mine["where"][-1]

    for note in noted.iterdir():
        note.unlink()
    assert run_grid(grid, store, workers="ray").state.tolist() == ["finished", "failed"] * 2
    assert not list(noted.iterdir())
    run_grid(grid, store, workers="ray", retry=True)
    assert {note.name for note in noted.iterdir()} == {plans[1].folder, plans[3].folder}


@pytest.mark.usefixtures("ray")
def test_an_error_of_the_disk_stops_the_grid_in_its_own_words(grid, done, tmp_path, in_tasks):
    (teacher,) = planned_teachers(grid)
    shutil.copytree(done / teacher.folder, tmp_path / teacher.folder)

    def full(plan: Plan) -> None:
        if (plan.method, plan.seed) == ("KD", 0):
            raise OSError(errno.ENOSPC, "No space left on device")

    in_tasks(full)
    with pytest.raises(OSError, match=r"^\[Errno \d+\] No space left on device$"):
        run_grid(grid, tmp_path, workers="ray")
    assert not list(tmp_path.glob("*.json"))
    in_tasks(lambda _: None)
    run_grid(grid, tmp_path, workers="ray")
    assert_equal(outcomes(tmp_path), outcomes(done))


@pytest.mark.usefixtures("ray")
def test_an_interrupt_cancels_the_tasks_and_the_same_call_goes_on(grid, tmp_path):
    long = {"quick": grid["protocols"]["quick"] | {"epochs": 60}}
    grid = grid | {"methods": {"alone": {"cross-entropy": 1.0}}, "protocols": grid["protocols"] | long}
    plans, store, alone = planned_runs(grid), tmp_path / "store", tmp_path / "alone"

    def press(progress: GridProgress) -> None:
        if "elsewhere" in progress.states:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_plans("long", plans, store, workers="ray", callback=press)
    states = grid_results(grid, store).state.tolist()
    assert "cut off" in states  # a checkpoint was written, and no task is left that goes on
    assert set(states) <= {"cut off", "to do", "finished"}
    assert not list(store.glob("*.json"))
    heard: list[GridProgress] = []
    run_plans("long", plans, store, workers="ray", callback=heard.append)
    assert heard[0].states == tuple(states)
    run_plans("long", plans, alone)
    assert_equal(outcomes(store), outcomes(alone))


@pytest.mark.usefixtures("ray")
def test_a_callback_that_fails_is_told_of(grid, tmp_path):
    def gone(progress: GridProgress) -> None:
        if progress.states[0] != "to do":
            raise RuntimeError("the view is gone")

    with pytest.raises(RuntimeError, match="the view is gone"):
        run_grid(grid, tmp_path, workers="ray", callback=gone)
    assert not list(tmp_path.glob("*.json"))


def test_a_run_that_takes_its_worker_with_it_is_a_failure_of_that_run(grid, done, tmp_path, ray, monkeypatch):
    shutil.copytree(done, tmp_path / "store")
    (lost, *_), get = planned_runs(grid), ray.get
    shutil.rmtree(tmp_path / "store" / lost.folder)

    def dies(task: Any) -> None:
        get(task)
        shutil.rmtree(tmp_path / "store" / lost.folder)  # as if the worker had not come so far
        raise ray.exceptions.WorkerCrashedError

    monkeypatch.setattr(ray, "get", dies)
    table = run_grid(grid, tmp_path / "store", workers="ray")
    assert table.state.tolist() == ["failed", *["finished"] * 3]
    assert table.reason[0].startswith("WorkerCrashedError: ")


@pytest.mark.usefixtures("ray")
def test_the_command_gives_its_runs_to_ray(grid, done, tmp_path, noted, capsys, monkeypatch):
    protocol = "\n".join(f"{key} = {json.dumps(value)}" for key, value in grid["protocols"]["quick"].items())
    text = 'seeds = [0]\n[[pairs]]\nstudent = "vgg8x0.0625"\n[methods.alone]\n"cross-entropy" = 1.0\n'
    (tmp_path / "small.toml").write_text(f"{text}[protocols.quick]\n{protocol}\n")
    monkeypatch.chdir(tmp_path)
    main(["run", "small.toml", "--workers", "ray"])  # into a relative folder, and tasks have another working folder
    (plan,) = planned_runs("small.toml")
    assert [note.name for note in noted.iterdir()] == [plan.folder]
    assert "1 of 1 runs are finished" in capsys.readouterr().out
    assert_equal(outcomes(tmp_path / "runs" / "small")[plan.folder], outcomes(done)[plan.folder])


# --- what is asked of Ray ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus", "resources", "device", "asked"),
    [
        (0, None, None, {"num_cpus": 1, "num_gpus": 0}),
        (4, None, None, {"num_cpus": 1, "num_gpus": 1}),
        (4, None, "cuda", {"num_cpus": 1, "num_gpus": 1}),
        (4, None, torch.device("cpu"), {"num_cpus": 1, "num_gpus": 0}),
        (4, {"num_gpus": 0.25}, None, {"num_cpus": 1, "num_gpus": 0.25}),
        (0, {"num_cpus": 2}, "cpu", {"num_cpus": 2, "num_gpus": 0}),
    ],
)
def test_a_run_gets_a_gpu_where_there_are_some(gpus, resources, device, asked):
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 8.0, **({"GPU": float(gpus)} if gpus else {})})
    assert on_ray.asked_of(ray, resources, device) == asked


@pytest.mark.parametrize("connected", [True, False])
def test_only_a_connection_of_its_own_is_closed(monkeypatch, connected):
    called: list[str] = []
    pretended = ModuleType("ray")
    pretended.is_initialized = lambda: connected
    pretended.init = lambda: called.append("init")
    pretended.shutdown = lambda: called.append("shutdown")
    monkeypatch.setitem(sys.modules, "ray", pretended)
    with pytest.raises(RuntimeError, match="within"), on_ray.connected():
        raise RuntimeError("within")
    assert called == ([] if connected else ["init", "shutdown"])


def test_a_machine_that_does_not_see_the_store_says_so(grid, tmp_path):
    (plan, *_) = planned_runs(grid)
    with pytest.raises(FileNotFoundError, match="needs a file system that all machines share"):
        on_ray.one_run(plan, tmp_path / ".ray-gone", None, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"workers": "dask"}, "workers='dask' is unknown; give \"ray\", or None for this process"),
        ({"workers": 2}, "workers=2 is unknown"),
        ({"resources": {"num_gpus": 0.5}}, 'resources are those of a task on Ray; give workers="ray" too'),
        ({"workers": "ray", "resources": {"gpu": 1}}, "resources has no 'gpu'; it has num_cpus, num_gpus"),
    ],
)
def test_what_is_asked_wrongly_is_said_before_anything_is_done(grid, tmp_path, options, sentence):
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        run_grid(grid, tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_a_missing_ray_is_one_sentence(grid, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    sentence = 'workers="ray" needs Ray, which is not installed here: pip install "spectralkd_nb[ray]"'
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        run_grid(grid, tmp_path / "store", workers="ray")
    assert not (tmp_path / "store").exists()
    (tmp_path / "grid.toml").write_text(
        'seeds = [0]\n[[pairs]]\nstudent = "vgg8x0.0625"\n[protocols.quick]\ndata = "photographs"\n'
        '[methods.alone]\n"cross-entropy" = 1.0\n'
    )
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "grid.toml"), str(tmp_path / "store"), "--workers", "ray"])
    assert capsys.readouterr().err == f"python -m spectralkd_nb: {sentence}\n"
