"""One training run by two processes, as torchrun starts them: real ones, on the CPU.

    torchrun --nproc-per-node 2 tests/test_distributed.py SCENARIO,SCENARIO FOLDER

is what the tests run: scenarios below, of which each process writes what it has seen.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_distillation import QUICK, Tiny, same, stripes, tensors
from torch import nn

from spectralkd_nb.distillation import (
    Connector,
    CrossEntropy,
    FeatureMatching,
    Match,
    Recipe,
    SoftTargets,
    distributed,
    read_run,
    train,
)
from spectralkd_nb.distillation.training import Training, train_together
from spectralkd_nb.experiments import run_grid, sweep_teachers
from spectralkd_nb.experiments.records import grid_results
from spectralkd_nb.losses import hint_loss
from spectralkd_nb.networks import build

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="this build of torch has no processes that train together",
)
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120  # seconds


# --- scenarios: what each process does -----------------------------------------------------------


class Plain(nn.Module):
    """In double precision and without batch norm: images do not depend on one another. One part of it is not used."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc, self.unused = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Linear(2, 2)
        self.double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(images.double())).mean((2, 3)))


def plain_run(images: int) -> dict[str, Any]:
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.1, clip_norm=0.2)
    run = train(Plain(), stripes(images), recipe)
    return {"weights": tensors(run.network), "curves": run.curves, "accuracy": run.accuracy_last}


def exact(_: Path) -> dict[str, Any]:
    """The last batches have 13 images, which divide unequally, and 1, of which one process has none."""
    return {"odd": plain_run(45), "one": plain_run(33)}


def hint(folder: Path) -> dict[str, Any]:
    """Soft targets, and a hint behind a connector, on networks with batch norm; a finished run is read again."""
    student, teacher = build("vgg8x0.0625", 2, seed=1), build("vgg8x0.125", 2, seed=2)
    data = stripes(40, size=32)
    wanted = torch.zeros(1, 4, 16, 16), torch.zeros(1, 8, 16, 16)
    step = FeatureMatching(SoftTargets(), [Match("hint", hint_loss, "layer1", "layer1", Connector.between(*wanted))])
    calls: list[int] = []
    how = {"teacher": teacher, "step": step, "weights": {"hint": 2.0}, "keep_epochs": [1]}
    told = {"folder": folder / "run", "callback": lambda progress: calls.append(progress.epoch)}
    before = tensors(step)
    run = train(student, data, replace(QUICK, batch_size=15), **how, **told)
    again = train(student, data, replace(QUICK, batch_size=15), **how, **told)
    return {
        "student": tensors(run.network),
        "step": tensors(step),
        "moved": not same(before, tensors(step)),
        "calls": len(calls),
        "record": run.as_json(),
        "again": again.as_json(),
        "student again": tensors(again.network),
    }


class Stopping(CrossEntropy):
    """Cross-entropy, and in one process something happens at one of the steps."""

    def __init__(self, happens: Any, process: int, at: int) -> None:
        super().__init__()
        self.happens, self.process, self.left = happens, process, at

    def forward(self, *given: Any) -> Any:
        self.left -= 1
        if self.left == 0 and distributed.rank() == self.process:
            self.happens()
        return super().forward(*given)


def interrupted(folder: Path) -> dict[str, Any]:
    """Process 1 is interrupted in the second epoch, in which both stop; the same call goes on from there."""

    def press() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    student, data = Tiny(), stripes(60)
    before, words = tensors(student), ""
    try:
        train(student, data, QUICK, step=Stopping(press, 1, 6), folder=folder / "run", seed=3)
    except KeyboardInterrupt as stop:
        words = str(stop)
    kept = (folder / "run" / "checkpoint.pt").exists()
    restored = same(before, tensors(student))
    run = train(student, data, QUICK, step=Stopping(press, 1, 0), folder=folder / "run", seed=3)
    unbroken = train(Tiny(), data, QUICK, step=Stopping(press, 1, 0), seed=3)
    return {
        "words": words,
        "kept": kept,
        "restored": restored,
        "same": same(tensors(run.network), tensors(unbroken.network)),
        "curves": [{k: v for k, v in each.curves.items() if k != "seconds"} for each in (run, unbroken)],
        "weights": tensors(run.network),
    }


def failing(folder: Path) -> dict[str, Any]:
    """Errors of one process are raised in both, which can then train again."""

    def fail() -> None:
        raise ZeroDivisionError("only here")

    def error_of(**how: Any) -> str:
        try:
            train(Tiny(), stripes(), QUICK, **how)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return "none"

    errors = {
        "second's step": error_of(step=Stopping(fail, 1, 3)),
        "first's step": error_of(step=Stopping(fail, 0, 3)),
        "callback": error_of(callback=lambda _: fail()),
        "last callback": error_of(callback=lambda progress: fail() if progress.done else None),
        "weights": error_of(weights={"hint": 1.0}),
        "folder": error_of(folder=folder / "file"),
        "one process": error_of(folder=folder / "alone", seed=4),
    }
    return {"errors": errors, "then": tensors(train(Tiny(), stripes(), QUICK).network)}


def refused(folder: Path) -> dict[str, str]:
    """What one process alone can do."""
    grid = json.loads((folder / "grid.json").read_text())

    def words(function: Any, *given: Any, **how: Any) -> str:
        try:
            function(*given, **how)
        except ValueError as error:
            return str(error)
        return "none"

    several = [Training(Tiny(), stripes(), QUICK) for _ in range(2)]
    return {
        "trainings": words(train_together, several),
        "together": words(run_grid, grid, folder / "store", together=2),
        "ray": words(run_grid, grid, folder / "store", workers="ray"),
        "sweep": words(sweep_teachers, {}, folder / "store"),
        "device": words(train, Tiny(), stripes(), QUICK, device="meta"),
    }


def long(folder: Path) -> None:
    """A run that a signal ends long before its end, which comes in a minute or two if none does."""

    def begun(_: Any) -> None:
        (folder / "begun").touch()

    train(Tiny(), stripes(), replace(QUICK, epochs=2000), folder=folder / "run", callback=begun)


def main(scenarios: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for scenario in scenarios.split(","):
        own = folder / scenario
        seen = globals()[scenario](own)
        torch.save(seen, own / f"{distributed.rank()}.pt")


# --- tests ---------------------------------------------------------------------------------------


def torchrun(*arguments: str | Path) -> list[str]:
    started = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return [*started, *map(str, arguments)]


def environment() -> dict[str, str]:
    """Without what another torchrun, or a person, has set."""
    own = {name: value for name, value in os.environ.items() if name not in distributed.STARTED_BY_TORCHRUN}
    return own | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def grid(tmp_path_factory) -> dict[str, Any]:
    """Two methods and a teacher that the grid trains; one asks for larger maps than its student has there."""
    file = tmp_path_factory.mktemp("data") / "shades.npz"
    rng, labels = np.random.default_rng(0), np.arange(40) % 2
    pixels = (100 + 60 * labels[:, None, None, None] + rng.integers(0, 40, (40, 16, 16, 3))).astype(np.uint8)
    test = {"test_images": pixels[:20], "test_labels": labels[:20]}
    np.savez(file, train_images=pixels, train_labels=labels, classes=["dark", "bright"], **test)
    quick = {"data": str(file), "epochs": 1, "batch_size": 16, "augment": False}
    hint = {"weight": 1.0, "layers": [["layer3", "layer1"]]}
    return {
        "seeds": [0],
        "train_teachers": {"protocol": "quick", "seed": 7},
        "pairs": [{"student": "vgg8x0.0625", "teacher": "vgg8x0.125"}],
        "protocols": {"quick": quick},
        "methods": {
            "KD": {"cross-entropy": 0.1, "soft targets": 0.9},
            "too small": {"cross-entropy": 1.0, "hint": hint},
        },
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory, grid) -> dict[str, Any]:
    """By scenario, what each of the two processes has seen; what torchrun said, and whether a checkpoint is there."""
    folder = tmp_path_factory.mktemp("distributed")
    names = [scenario.__name__ for scenario in (exact, hint, interrupted, failing, refused, long)]
    for name in names:
        (folder / name).mkdir()
    (folder / "refused" / "grid.json").write_text(json.dumps(grid))
    (folder / "failing" / "file").touch()

    def stop(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), stripes(), QUICK, folder=folder / "failing" / "alone", callback=stop, seed=4)
    found = {"said": terminated(torchrun(Path(__file__), ",".join(names), folder), folder / "long")}
    assert (folder / "long" / "begun").exists(), found["said"]
    for name in names[:-1]:
        found[name] = [torch.load(folder / name / f"{process}.pt") for process in range(2)]
    return found | {"checkpoint": (folder / "long" / "run" / "checkpoint.pt").exists()}


def terminated(command: list[str], folder: Path) -> str:
    """What torchrun said, which was sent SIGTERM once the run in the folder had begun."""
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until = time.monotonic() + PATIENCE
        while not (folder / "begun").exists() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=25)  # torchrun ends its processes by force after 30 seconds
    finally:
        process.kill()
    return said


@pytest.mark.parametrize(("case", "images"), [("odd", 45), ("one", 33)])
def test_two_processes_come_to_what_one_comes_to(seen, case, images):
    expected = plain_run(images)
    for found in (process[case] for process in seen["exact"]):
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-9, atol=1e-12)
        for name in ("cross-entropy", "train accuracy", "test accuracy", "learning rate"):
            assert found["curves"][name] == pytest.approx(expected["curves"][name], rel=1e-5), name
        assert found["accuracy"] == expected["accuracy"]
    assert same(*(process[case]["weights"] for process in seen["exact"]))


def test_connectors_are_trained_alike_in_both_and_there_is_one_record(seen):
    first, second = seen["hint"]
    for what in ("student", "step", "student again"):
        assert same(first[what], second[what]), what
    assert same(first["student"], first["student again"])
    assert first["moved"]
    assert first["record"] == second["record"] == first["again"] == second["again"]
    assert json.loads(first["record"])["processes"] == 2
    assert set(json.loads(first["record"])["curves"]) >= {"cross-entropy", "soft targets", "hint"}
    assert first["calls"] >= 2
    assert second["calls"] == 0


def test_a_record_without_processes_is_of_one(tmp_path):
    run = train(Tiny(), stripes(), QUICK, folder=tmp_path)
    assert run.processes == 1
    old = json.loads((tmp_path / "run.json").read_text())
    del old["processes"]
    (tmp_path / "run.json").write_text(json.dumps(old))
    assert read_run(tmp_path / "run.json").processes == 1


def test_an_interrupt_in_one_stops_both_and_the_same_call_goes_on(seen):
    for found in seen["interrupted"]:
        assert found["words"] == "the run was stopped in epoch 2; the same call goes on from here"
        assert found["kept"]
        assert found["restored"]
        assert found["same"]
        assert found["curves"][0] == found["curves"][1]
    assert same(*(found["weights"] for found in seen["interrupted"]))


def test_an_error_in_one_is_raised_in_both_which_can_train_on(seen):
    first, second = seen["failing"]
    assert first["errors"] == second["errors"]
    errors = first["errors"]
    for where in ("second's step", "first's step", "callback", "last callback"):
        assert errors[where] == "ZeroDivisionError: only here", where
    assert errors["weights"] == "ValueError: weights name hint, and the step's loss terms are cross-entropy"
    assert "cannot be kept" in errors["folder"]
    assert "was begun by 1 processes and cannot go on with 2; start as many again" in errors["one process"]
    assert same(first["then"], second["then"])


def test_what_only_one_process_can_do_is_refused_in_a_sentence(seen):
    for found in seen["refused"]:
        rest = " is for one process, and torchrun has started 2; leave it out, or leave torchrun out"
        assert found["trainings"] == f"training several runs at once{rest}"
        assert found["together"] == f"together=2{rest}"
        assert found["ray"] == f'workers="ray"{rest}'
        assert found["sweep"] == f"a sweep of teachers{rest}"
        assert found["device"] == "several processes can share a run on cuda or cpu, and not on meta"


def test_a_grid_goes_on_behind_a_run_that_fails(grid, tmp_path):
    file, store = tmp_path / "grid.toml", tmp_path / "store"
    file.write_text(as_toml(grid))
    run = subprocess.run(
        torchrun("-m", "spectralkd_nb", "run", file, store),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert run.returncode == 1
    assert "1 of 2 runs failed; the reasons are above" in run.stderr
    assert "the student's maps must be as large as the teacher's" in run.stdout
    results = grid_results(grid, store).set_index("method")["state"]
    assert results.to_dict() == {"KD": "finished", "too small": "failed"}
    assert len(list(store.glob("*.failed.json"))) == 1
    records = [read_run(record) for record in store.glob("*/run.json")]
    assert [record.processes for record in records] == [2, 2]  # a teacher and a student


def as_toml(grid: dict[str, Any]) -> str:
    """The grid as a file; JSON's lists and strings are TOML's too."""
    lines = [f"seeds = {grid['seeds']}", 'train_teachers = { protocol = "quick", seed = 7 }', "[[pairs]]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in grid["pairs"][0].items()]
    lines += ["[protocols.quick]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in grid["protocols"]["quick"].items()]
    lines += ["[methods.KD]", '"cross-entropy" = 0.1', '"soft targets" = 0.9']
    lines += [
        '[methods."too small"]',
        '"cross-entropy" = 1.0',
        'hint = { weight = 1.0, layers = [["layer3", "layer1"]] }',
    ]
    return "\n".join(lines)


def test_a_signal_to_torchrun_ends_both_behind_a_checkpoint(seen):
    assert seen["checkpoint"], seen["said"]
    assert seen["said"].count("the same call goes on from here") >= 2, seen["said"]
    assert "Warning" not in seen["said"]


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
