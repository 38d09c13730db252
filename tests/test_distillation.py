"""One training run: what is learned, what is kept, and what is left as it was."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import (
    CrossEntropy,
    Recipe,
    SoftTargets,
    TerminalProgress,
    evaluate,
    read_run,
    records,
    train,
)
from spectralkd_nb.distillation.progress import in_words
from spectralkd_nb.networks import load_weights

QUICK = Recipe(epochs=2, batch_size=16, learning_rate=0.05)


def stripes(train_images: int = 64, test_images: int = 40, size: int = 8) -> LabelledImages:
    """Two classes that a tiny network learns at once: noise with horizontal, and with vertical stripes."""
    generator = torch.Generator().manual_seed(0)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % 2
        wave = 90 * torch.cos(torch.pi * torch.arange(size)).sign()
        pattern = torch.stack([wave[:, None].expand(size, size), wave[None, :].expand(size, size)])[labels]
        noisy = 128 + pattern[:, None] / 2 + 20 * torch.randn(n, 3, size, size, generator=generator)
        return noisy.clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last), labels

    return LabelledImages("stripes", *images(train_images), *images(test_images), ("rows", "columns"), pad=1)


class Tiny(nn.Module):
    """Convolution, batch norm, dropout, linear: all that a run has to keep."""

    def __init__(self, width: int = 4, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(width, 2)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.features(x).mean((2, 3))))


class Hint(nn.Module):
    """Labels, and a 1 x 1 convolution that takes the student's map to the teacher's: a connector that is trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.connector = nn.Conv2d(4, 6, 1)

    def forward(self, student, teacher, images, labels):
        logits = student(images)
        hint = (self.connector(student.features(images)) - teacher.features(images)).square().mean()
        return logits, {"cross-entropy": nn.functional.cross_entropy(logits, labels), "hint": hint}


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return stripes()


def tensors(network: nn.Module) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- learning ------------------------------------------------------------------------------------


def test_a_student_learns(data):
    run = train(Tiny(8), data, replace(QUICK, epochs=12, learning_rate=0.2))
    assert run.accuracy_last > 95
    assert run.accuracy_best == max(run.curves["test accuracy"])
    assert run.curves["cross-entropy"][-1] < run.curves["cross-entropy"][0]
    assert not run.network.training


def test_a_name_builds_the_student_with_as_many_outputs_as_classes(data):
    run = train("resnet8", data, replace(QUICK, epochs=1), seed=3)
    assert run.network.fc.out_features == 2
    assert run.pair == {"student": "resnet8", "teacher": None}


def test_the_seed_decides_everything(data):
    first, again, other = (train(Tiny(), data, QUICK, seed=seed).network for seed in (5, 5, 6))
    assert same(tensors(first), tensors(again))
    assert not same(tensors(first), tensors(other))


def test_the_callers_generator_stays_where_it_was(data):
    student = Tiny()
    before = torch.get_rng_state()
    train(student, data, QUICK, seed=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_memory_layout_and_reduced_precision_change_rounding_only(data):
    losses = [
        train(Tiny(), data, replace(QUICK, epochs=1, channels_last=last, precision=precision)).curves["cross-entropy"]
        for last, precision in ((True, "float32"), (False, "float32"), (True, "bfloat16"))
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=0.03)
    assert losses[2] != losses[0]


def test_compiling_changes_rounding_only(data):
    pytest.importorskip("torch._inductor")
    plain, compiled = (
        train(Tiny(), data, replace(QUICK, epochs=1, compile=c), step=CrossEntropy(0.1)).curves["cross-entropy"]
        for c in (False, True)
    )
    # Dropout draws other numbers inside a compiled graph, so this is close and no closer.
    assert compiled == pytest.approx(plain, rel=0.2)


@pytest.mark.parametrize("clip", [None, 1e-4])
def test_clipping_holds_for_every_trained_parameter_the_connectors_too(data, clip):
    student, step = Tiny(), Hint()
    before = [p.clone() for p in (*student.parameters(), *step.parameters())]
    recipe = Recipe(
        epochs=1,
        batch_size=64,
        schedule="step",
        milestones=(1,),
        learning_rate=1.0,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        clip_norm=clip,
    )
    train(student, data, recipe, teacher=Tiny(6, seed=2), step=step)
    moved = [p - b for p, b in zip((*student.parameters(), *step.parameters()), before, strict=True)]
    length = float(torch.cat([m.detach().flatten() for m in moved]).norm())
    assert moved[-2].abs().max() > 0  # the connector learns
    if clip is None:
        assert length > 0.01
    else:
        assert length == pytest.approx(clip, rel=1e-3)


def test_named_weights_weigh_the_terms(data):
    step = SoftTargets(temperature=2.0)
    teacher = Tiny(6, seed=2)
    alone = train(Tiny(), data, QUICK).network
    unheard = train(Tiny(), data, QUICK, teacher=teacher, step=step, weights={"soft targets": 0.0}).network
    heard = train(Tiny(), data, QUICK, teacher=teacher, step=step, weights={"soft targets": 2.0})
    # The teacher has dropout, but in eval mode it draws nothing: unheard, it changes nothing.
    assert same(tensors(alone), tensors(unheard))
    assert not same(tensors(alone), tensors(heard.network))
    assert set(heard.curves) >= {"cross-entropy", "soft targets"}
    assert heard.weights == {"soft targets": 2.0}
    assert heard.method == "SoftTargets(temperature=2)"


def test_the_schedules(data):
    one_cycle = train(Tiny(), data, replace(QUICK, epochs=10)).curves["learning rate"]
    assert max(one_cycle) == pytest.approx(0.05, rel=0.05)
    assert one_cycle.index(max(one_cycle)) in (2, 3)  # 30 % of the way up
    assert one_cycle[-1] < 0.002
    steps = replace(QUICK, epochs=4, schedule="step", milestones=(1, 3))
    assert train(Tiny(), data, steps).curves["learning rate"] == pytest.approx([0.05, 0.005, 0.005, 0.0005])


# --- the teacher, and modes ----------------------------------------------------------------------


def test_the_teacher_is_asked_in_eval_mode_and_left_as_it_was(data):
    teacher = Tiny(6, seed=2)
    teacher.bn.eval()
    teacher.fc.bias.requires_grad_(False)
    before = tensors(teacher)
    seen = []

    def step(student, teacher, images, labels):
        seen.append((teacher.training, any(p.requires_grad for p in teacher.parameters())))
        return SoftTargets()(student, teacher, images, labels)

    run = train(Tiny(), data, QUICK, teacher=teacher, step=step)
    assert set(seen) == {(False, False)}
    assert same(tensors(teacher), before)
    assert teacher.training
    assert not teacher.bn.training
    assert [p.requires_grad for p in teacher.parameters()] == [True] * 5 + [False]
    assert all(p.grad is None for p in teacher.parameters())
    assert run.method.startswith("step, source ")


def test_a_teacher_uses_the_batchs_statistics_only_where_asked(data):
    teacher = Tiny(6, seed=2).eval()
    before = teacher.bn.running_mean.clone()
    train(Tiny(), data, QUICK, teacher=teacher, teacher_batch_statistics=True)
    assert not torch.equal(teacher.bn.running_mean, before)
    assert not teacher.training


def test_a_teacher_is_trained_only_where_asked(data):
    teacher = Tiny(6, seed=2)
    before = teacher.fc.weight.detach().clone()
    train(Tiny(), data, QUICK, teacher=teacher, train_teacher=True)
    assert not torch.equal(teacher.fc.weight, before)


def test_the_student_learns_in_train_mode_in_every_epoch(data):
    modes = []

    def step(student, teacher, images, labels):
        modes.append(student.training)
        return CrossEntropy()(student, teacher, images, labels)

    train(Tiny(), data, QUICK, step=step)
    assert modes == [True] * 8


def test_evaluating_leaves_each_module_in_its_mode(data):
    network = Tiny().train()
    network.bn.eval()
    before = tensors(network)
    accuracy = evaluate(network, data, batch_size=7)
    assert network.training
    assert not network.bn.training
    assert same(tensors(network), before)
    network.eval()
    right = (network(data.normalise(data.test_images)).argmax(1) == data.test_labels).double().mean()
    assert accuracy == pytest.approx(100 * float(right))


# --- bad input -----------------------------------------------------------------------------------


def test_what_is_wrong_is_said_in_a_sentence(data):
    with pytest.raises(ValueError, match="weights name hint, and the step's loss terms are cross-entropy"):
        train(Tiny(), data, QUICK, weights={"hint": 1.0})
    with pytest.raises(ValueError, match="lower the learning rate or set clip_norm"):
        train(Tiny(), data, replace(QUICK, learning_rate=1e20))
    with pytest.raises(ValueError, match="pass teacher="):
        train(Tiny(), data, QUICK, step=SoftTargets())
    with pytest.raises(ValueError, match="no images to train or to test with"):
        train(Tiny(), replace(data, test_images=data.test_images[:0], test_labels=data.test_labels[:0]), QUICK)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"schedule": "cosine"}, "schedule='cosine' is not known; choose one of ('one-cycle', 'step')"),
        ({"precision": "half"}, "precision='half' is not known; choose one of ('auto', 'float32', 'bfloat16')"),
        ({"precision": ["float32"]}, "precision=['float32'] is not known; choose one of"),
        *(({"epochs": n}, f"epochs={n!r} is not possible; give a whole number from 1 on") for n in (0, 2.5, "3", True)),
        ({"batch_size": -8}, "batch_size=-8 is not possible; give a whole number from 1 on"),
        *(
            ({"learning_rate": rate}, f"learning_rate={rate!r} is not possible; give a positive number")
            for rate in (-1, 0.0, "0.1", float("nan"), float("inf"), None, [0.1])
        ),
        *(({"warm_up": share}, f"warm_up={share} is not possible; give a share of 0 to 1") for share in (1.5, -0.1)),
        ({"decay": 0}, "decay=0 is not possible; give a positive number"),
        ({"momentum": 1.0}, "momentum=1.0 is not possible; give a number from 0 to below 1, above 0 with nesterov"),
        ({"momentum": 0}, "momentum=0 is not possible; give a number from 0 to below 1, above 0 with nesterov"),
        ({"weight_decay": -5e-4}, "weight_decay=-0.0005 is not possible; give 0 or a positive number"),
        ({"clip_norm": 0.0}, "clip_norm=0.0 is not possible; give a positive number, or None for no limit"),
        ({"augment": "no"}, "augment='no' is not possible; give True or False"),
        ({"schedule": "step"}, "milestones=() is not possible; list whole epochs from 1 on, one or more for schedule"),
        *(
            ({"milestones": given}, f"milestones={given!r} is not possible; list whole epochs from 1 on")
            for given in ("12", 3, (0,), (1.5,), None)
        ),
    ],
    ids=repr,
)
def test_a_recipe_that_nobody_can_follow_is_refused_in_a_sentence(settings, said):
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        Recipe(**settings)


def test_a_recipe_may_warm_up_to_its_end_and_know_milestones_beyond_it(data):
    run = train(Tiny(), data, replace(QUICK, warm_up=1.0, milestones=[150]))
    rates = run.curves["learning rate"]
    assert rates[0] < rates[1] <= 0.05
    assert Recipe(momentum=0, nesterov=False).momentum == 0
    for milestones in ([1, 3], np.array([1, 3]), (np.int64(1), 3)):
        assert Recipe(milestones=milestones).milestones == (1, 3)


# --- progress ------------------------------------------------------------------------------------


def test_a_callback_hears_of_losses_accuracy_and_time(data, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)
    heard = []
    run = train(Tiny(), data, QUICK, teacher=Tiny(6, seed=2), callback=heard.append)
    assert [(p.epoch, p.step) for p in heard[:5]] == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]
    assert {p.title for p in heard} == {"Tiny from Tiny"}
    assert set(heard[0].losses) == {"cross-entropy", "soft targets"}
    assert all(0 <= p.accuracy <= 100 and p.seconds_left >= 0 for p in heard)
    assert [p.done for p in heard] == [False] * (len(heard) - 1) + [True]
    assert heard[-1].curves == run.curves


def test_the_terminals_progress_says_each_epoch_once(data, capsys):
    with TerminalProgress() as progress:
        train(Tiny(), data, QUICK, callback=progress)
    said = capsys.readouterr().out
    assert said.count("Tiny, epoch 1 of 2:") == said.count("Tiny, epoch 2 of 2:") == 1
    assert "cross-entropy" in said


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (9000, "2.5 h")])
def test_durations_in_words(seconds, words):
    assert in_words(seconds) == words


# --- what is kept --------------------------------------------------------------------------------


def test_the_record_is_one_json_that_reads_back(data, tmp_path):
    run = train(Tiny(), data, QUICK, teacher=Tiny(6, seed=2), folder=tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "run.json").read_text())
    wanted = "pair method seed protocol recipe accuracy_last accuracy_best curves seconds device versions commit"
    assert set(wanted.split()) <= set(kept)
    assert kept["protocol"]["reported"] == "last epoch"
    assert read_run(tmp_path / "run" / "run.json") == run
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.json", "trained.pt"]


def git(folder: Path, *words: str) -> str:
    somebody = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", *somebody, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_the_checkout_which_tracks_the_package(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert records.commit(package) is None  # no checkout at all
    git(tmp_path, "init", "--quiet")
    (tmp_path / "thesis.txt").write_text("somebody else's")
    git(tmp_path, "add", "thesis.txt")
    git(tmp_path, "commit", "--quiet", "-m", "mine")
    records.commit.cache_clear()
    assert records.commit(package) is None  # installed into somebody's project
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "with the package")
    records.commit.cache_clear()
    assert records.commit(package) == git(tmp_path, "rev-parse", "--short=12", "HEAD")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "a later one, of which this process knows nothing")
    assert records.commit(package) == git(tmp_path, "rev-parse", "--short=12", "HEAD~")


def test_the_commit_is_asked_for_when_the_run_begins(data, monkeypatch):
    said = ["at first"]
    monkeypatch.setattr("spectralkd_nb.distillation.loop.commit", lambda: said[-1])
    run = train(Tiny(), data, QUICK, callback=lambda _: said.append("later"))
    assert len(said) > 1
    assert run.commit == "at first"


def test_a_finished_run_is_read_and_not_trained_again(data, tmp_path):
    run = train(Tiny(), data, QUICK, folder=tmp_path)
    heard = []
    again = train(Tiny(), data, QUICK, folder=tmp_path, callback=heard.append)
    assert again == run
    assert train(again.network, data, QUICK, folder=tmp_path, callback=heard.append) == run  # a cell that is run twice
    with pytest.raises(ValueError, match="differs in protocol"):
        train(Tiny(seed=9), data, QUICK, folder=tmp_path)
    assert heard == []
    assert same(tensors(again.network), tensors(run.network))


def test_a_folder_with_another_run_is_refused(data, tmp_path):
    train(Tiny(), data, QUICK, folder=tmp_path)
    before = (tmp_path / "run.json").read_bytes()
    with pytest.raises(ValueError, match="holds another run, which differs in recipe"):
        train(Tiny(), data, replace(QUICK, epochs=3), folder=tmp_path)
    with pytest.raises(ValueError, match="differs in seed"):
        train(Tiny(), data, QUICK, seed=1, folder=tmp_path)
    assert (tmp_path / "run.json").read_bytes() == before


def test_another_teacher_of_the_same_name_makes_another_run(data, tmp_path):
    run = train(Tiny(), data, QUICK, teacher=Tiny(6, seed=2), folder=tmp_path)
    assert train(Tiny(), data, QUICK, teacher=Tiny(6, seed=2), folder=tmp_path) == run
    with pytest.raises(ValueError, match="differs in protocol"):
        train(Tiny(), data, QUICK, teacher=Tiny(6, seed=3), folder=tmp_path)


class InterruptedAt:
    """Presses the kernel's stop button after a number of calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self, _) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupt_leaves_a_run_that_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)
    unbroken = train(Tiny(), data, QUICK, folder=tmp_path / "unbroken")
    usual = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="in epoch 2; the same call goes on from here"):
        train(Tiny(), data, QUICK, folder=tmp_path / "broken", callback=InterruptedAt(7))
    assert signal.getsignal(signal.SIGINT) == usual
    heard = []
    again = train(Tiny(), data, QUICK, folder=tmp_path / "broken", callback=heard.append)
    assert (heard[0].epoch, heard[0].step) == (2, 4)
    assert same(tensors(again.network), tensors(unbroken.network))


KILLED = """
import os, random, signal, sys, time
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_distillation import Hint, Tiny, stripes
from spectralkd_nb.distillation import Recipe, train
from spectralkd_nb.distillation.store import RunStore

RunStore.finish = lambda self, run, trained: None  # the last checkpoint stays, to be compared
data = stripes(train_images=256)
recipe = Recipe(epochs=6, batch_size=16, learning_rate=0.05, clip_norm=1.0)

def go(folder):
    train(Tiny(), data, recipe, teacher=Tiny(6, seed=2), step=Hint(), folder=folder, checkpoint_seconds=0)

folder, kills = sys.argv[1], int(sys.argv[2])
moments = random.Random(0)
killed = 0
while killed < kills:
    child = os.fork()
    if not child:
        go(folder)
        os._exit(0)
    time.sleep(moments.uniform(0.05, 0.25))
    os.kill(child, signal.SIGKILL)
    killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    kept = folder + "/checkpoint.pt"
    if os.path.exists(kept) and torch.load(kept, weights_only=True)["epoch"] == recipe.epochs:
        sys.exit("the run ended before all kills were done")
go(folder)
"""


def test_a_run_that_is_killed_ten_times_ends_as_an_unbroken_one(tmp_path):
    code = KILLED.format(tests=str(Path(__file__).parent))
    for name, kills in (("unbroken", 0), ("killed", 10)):
        command = [sys.executable, "-c", code, str(tmp_path / name), str(kills)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
    unbroken, killed = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("unbroken", "killed")
    )
    assert unbroken["epoch"] == 6
    assert_equal(without_times(killed), without_times(unbroken))


def without_times(state: dict) -> dict:
    curves = {name: values for name, values in state["curves"].items() if name != "seconds"}
    return {**state, "curves": curves, "seconds": None}


def assert_equal(first, second) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, list | tuple):
        for a, b in zip(first, second, strict=True):
            assert_equal(a, b)
    else:
        assert first == second


def test_a_full_disk_in_mid_run_loses_nothing(data, tmp_path, monkeypatch):
    unbroken = train(Tiny(), data, QUICK)
    write = os.fsync
    writes = []

    def full_the_third_time(descriptor):
        writes.append(1)
        if len(writes) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(descriptor)

    monkeypatch.setattr(os, "fsync", full_the_third_time)
    with pytest.raises(OSError, match="No space left"):
        train(Tiny(), data, QUICK, folder=tmp_path, checkpoint_seconds=0)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.pt", ".lock"}
    run = train(Tiny(), data, QUICK, folder=tmp_path)
    assert same(tensors(run.network), tensors(unbroken.network))


LIMITED = """
import resource, sys
sys.path.insert(0, {tests!r})
from test_distillation import QUICK, Tiny, stripes
from spectralkd_nb.distillation import train
resource.setrlimit(resource.RLIMIT_FSIZE, (2**19, 2**19))
data = stripes()
steps = []
try:
    train(Tiny(), data, QUICK, folder={folder!r}, callback=lambda progress: steps.append(1))
except OSError as error:
    print("said before training:", not steps, error)
"""


def test_no_room_is_found_before_training(tmp_path):
    code = LIMITED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "said before training: True" in done.stdout, done.stderr
    assert "checkpoints of 1 MB cannot be kept (File too large)" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_file_in_the_folders_place_is_found_before_training(data, tmp_path):
    (tmp_path / "run").write_text("mine")
    heard = []
    with pytest.raises(OSError, match="a run cannot be kept"):
        train(Tiny(), data, QUICK, folder=tmp_path / "run", callback=heard.append)
    assert heard == []
    assert (tmp_path / "run").read_text() == "mine"


def test_what_is_trained_beside_the_student_comes_back_too(data, tmp_path):
    step, teacher = Hint(), Tiny(6, seed=2)
    options = {"weights": {"hint": 0.5}, "train_teacher": True, "folder": tmp_path}
    train(Tiny(), data, QUICK, teacher=teacher, step=step, **options)
    later, other = Hint(), Tiny(6, seed=2)
    train(Tiny(), data, QUICK, teacher=other, step=later, **options)
    assert same(tensors(later), tensors(step))
    assert same(tensors(other), tensors(teacher))
    with pytest.raises(ValueError, match="differs in protocol"):
        train(Tiny(), data, QUICK, teacher=Tiny(6, seed=2), step=Hint(), weights={"hint": 0.5}, folder=tmp_path)


def test_numbers_of_numpy_do_not_spoil_a_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)
    recipe = Recipe(epochs=np.int64(2), batch_size=16, learning_rate=np.float64(0.05), clip_norm=np.float32(1.0))
    options = {"weights": {"cross-entropy": np.float32(0.5)}, "seed": np.int64(3), "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), data, recipe, callback=InterruptedAt(3), **options)
    run = train(Tiny(), data, recipe, **options)
    assert read_run(tmp_path / "run.json") == run


def test_steps_are_told_apart_by_what_they_do(data, tmp_path):
    def warm(student, teacher, images, labels, temperature):
        return SoftTargets(temperature)(student, teacher, images, labels)

    teacher = Tiny(6, seed=2)
    train(Tiny(), data, QUICK, teacher=teacher, step=partial(warm, temperature=1.0), folder=tmp_path)
    with pytest.raises(ValueError, match="differs in method"):
        train(Tiny(), data, QUICK, teacher=teacher, step=partial(warm, temperature=8.0), folder=tmp_path)


def test_what_ends_early_leaves_the_student_as_it_came(data, tmp_path, monkeypatch):
    monkeypatch.setattr("spectralkd_nb.distillation.training.PROGRESS_SECONDS", 0.0)
    student = Tiny()
    before = tensors(student)

    def fails(_):
        raise RuntimeError("the view is gone")

    with pytest.raises(RuntimeError, match="the view is gone"):
        train(student, data, QUICK, folder=tmp_path, callback=fails)
    assert same(tensors(student), before)
    with pytest.raises(KeyboardInterrupt):
        train(student, data, QUICK, folder=tmp_path, callback=InterruptedAt(3))
    again = train(student, data, QUICK, folder=tmp_path)
    assert same(tensors(again.network), tensors(train(Tiny(), data, QUICK).network))


def test_a_disk_that_is_full_at_the_very_end_leaves_a_run_that_goes_on(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    student = Tiny()
    with monkeypatch.context() as patched:
        patched.setattr("spectralkd_nb.distillation.store.RunStore.finish", full)
        with pytest.raises(OSError, match="No space left"):
            train(student, data, QUICK, folder=tmp_path, checkpoint_seconds=0)
    again = train(student, data, QUICK, folder=tmp_path)
    assert same(tensors(again.network), tensors(train(Tiny(), data, QUICK).network))


def test_an_interrupt_at_the_very_end_is_not_lost(data, tmp_path):
    def at_the_end(progress):
        if progress.done:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="it is finished"):
        train(Tiny(), data, QUICK, folder=tmp_path, callback=at_the_end)
    assert read_run(tmp_path / "run.json").accuracy_last >= 0


def test_a_step_that_holds_the_teacher_leaves_it_in_eval_mode(data):
    teacher = Tiny(6, seed=2).eval()
    before = tensors(teacher)
    step = SoftTargets()
    step.teacher = teacher.requires_grad_(False)
    train(Tiny(), data, QUICK, teacher=teacher, step=step)
    assert same(tensors(teacher), before)


def test_a_warm_up_of_one_step_is_one():
    tiny = stripes(train_images=8)
    train(Tiny(), tiny, Recipe(epochs=1, batch_size=8, warm_up=0.5))


def test_leftovers_of_a_killed_process_are_swept_away(data, tmp_path):
    (tmp_path / ".checkpoint.pt-abc.part").write_bytes(b"half")
    train(Tiny(), data, QUICK, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "trained.pt"]


# --- weights of single epochs --------------------------------------------------------------------


def test_the_weights_of_single_epochs_are_kept(tmp_path):
    run = train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=(1, 2))
    first, last = (load_weights(Tiny(seed=5), tmp_path / f"epoch_00{epoch}.safetensors") for epoch in (1, 2))
    assert same(tensors(last.half()), tensors(run.network.half()))
    assert not same(tensors(first.half()), tensors(last))


def test_a_run_that_was_stopped_keeps_the_epochs_that_are_left(tmp_path):
    def stop(progress):
        if progress.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=(1, 2), callback=stop, checkpoint_seconds=0)
    train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=(1, 2), checkpoint_seconds=0)
    assert sorted(path.name for path in tmp_path.glob("epoch_*")) == ["epoch_001.safetensors", "epoch_002.safetensors"]


def test_a_run_that_was_stopped_behind_an_epoch_cannot_keep_it_any_more(data, tmp_path):
    with pytest.raises(RuntimeError, match="the view is gone"):
        train(Tiny(), data, QUICK, folder=tmp_path, checkpoint_seconds=0, callback=gone_after_the_first_epoch)
    with pytest.raises(ValueError, match="is past epoch 1 and did not keep epoch 1; train it again in another folder"):
        train(Tiny(), data, QUICK, folder=tmp_path, keep_epochs=(1, 2))
    train(Tiny(), data, QUICK, folder=tmp_path, keep_epochs=np.array([2]))
    assert [path.name for path in tmp_path.glob("epoch_*")] == ["epoch_002.safetensors"]


def gone_after_the_first_epoch(progress) -> None:
    if progress.epoch == 2:
        raise RuntimeError("the view is gone")


def test_a_run_goes_on_in_the_precision_in_which_it_began(data, tmp_path, monkeypatch):
    began = {"folder": tmp_path, "checkpoint_seconds": 0}
    with monkeypatch.context() as patched:  # as on a device that has bfloat16
        patched.setattr("spectralkd_nb.distillation.loop.precision_of", lambda _: "bfloat16")
        unbroken = train(Tiny(), data, QUICK)
        with pytest.raises(RuntimeError, match="the view is gone"):
            train(Tiny(), data, QUICK, callback=gone_after_the_first_epoch, **began)
    kept = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    run = train(Tiny(), data, QUICK, folder=tmp_path)
    assert run.precision == unbroken.precision == "bfloat16"
    assert same(tensors(run.network), tensors(unbroken.network))
    # A checkpoint of earlier days does not tell it.
    del kept["precision"]
    (tmp_path / "old").mkdir()
    torch.save(kept, tmp_path / "old" / "checkpoint.pt")
    assert train(Tiny(), data, QUICK, folder=tmp_path / "old").precision == "float32"


def test_a_folder_that_is_deleted_meanwhile_is_made_again(data, tmp_path):
    def delete(_) -> None:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)

    run = train(Tiny(), data, QUICK, folder=tmp_path / "run", keep_epochs=(2,), checkpoint_seconds=0, callback=delete)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.json", "trained.pt"]
    assert read_run(tmp_path / "run" / "run.json") == run


def test_a_damaged_file_of_a_run_is_named(data, tmp_path):
    train(Tiny(), data, QUICK, folder=tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in ("run.json", "trained.pt")}
    for name, content in whole.items():
        for damage in (b"", b"[]", content[: len(content) // 2], b"\xff" + content):
            (tmp_path / name).write_bytes(damage)
            with pytest.raises(ValueError, match=f"{name} is damaged and cannot be read; delete it"):
                train(Tiny(), data, QUICK, folder=tmp_path)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "trained.pt").unlink()
    with pytest.raises(ValueError, match=r"run\.json has no trained\.pt beside it; delete it"):
        train(Tiny(), data, QUICK, folder=tmp_path)
    (tmp_path / "run.json").unlink()
    for damage in (b"", whole["trained.pt"], whole["trained.pt"][:500]):  # that of weights is no checkpoint
        (tmp_path / "checkpoint.pt").write_bytes(damage)
        with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged and cannot be read; delete it"):
            train(Tiny(), data, QUICK, folder=tmp_path)


def test_epochs_that_cannot_be_kept_are_refused(tmp_path):
    for epochs in (1, "1", None):
        with pytest.raises(ValueError, match=r"keep_epochs=.* is no list; name epochs, for example"):
            train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=epochs)
    for epoch in (1.0, True, "1"):
        with pytest.raises(ValueError, match=f"names epoch {epoch}, and the run has epochs 1 to 2"):
            train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=[epoch])
    with pytest.raises(ValueError, match="name one"):
        train(Tiny(), stripes(), QUICK, keep_epochs=(1,))
    with pytest.raises(ValueError, match="names epoch 3, and the run has epochs 1 to 2"):
        train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=(1, 3))
    train(Tiny(), stripes(), QUICK, folder=tmp_path)
    with pytest.raises(ValueError, match="is finished and did not keep epoch 2"):
        train(Tiny(), stripes(), QUICK, folder=tmp_path, keep_epochs=(2,))
