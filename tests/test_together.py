"""Runs that are trained together come to what they come to one by one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Connector, CrossEntropy, FeatureMatching, Match, Recipe, SoftTargets, train
from spectralkd_nb.distillation.together import SharedTeacher, layers_asked
from spectralkd_nb.distillation.training import Training, train_together
from spectralkd_nb.experiments.methods import method_step
from spectralkd_nb.losses import hint_loss, nst_loss, spectral_shape_loss
from spectralkd_nb.networks import build
from spectralkd_nb.networks.features import collected

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.05)
LAYERS = ["layer1", "layer2"]


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    generator = torch.Generator().manual_seed(0)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(n) % 4
        pixels = torch.randint(200, (n, 3, 32, 32), generator=generator) + 14 * labels[:, None, None, None]
        return pixels.to(torch.uint8).contiguous(memory_format=torch.channels_last), labels

    return LabelledImages("noise", *images(40), *images(20), tuple("abcd"))


class Dropping(nn.Module):
    """A student that draws random numbers while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.dropout = build("vgg8x0.0625", 4, seed=7), nn.Dropout(0.3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(self.dropout(images))


def asked(data: LabelledImages, folder: Path | None = None, seeds: tuple[int, ...] = (0,)) -> list[dict[str, Any]]:
    """Trainings of every kind that shares a teacher, and of some that do not; all afresh."""

    def teacher() -> nn.Module:
        return build("vgg8x0.125", 4, seed=9)

    def one(number: int, seed: int) -> dict[str, Any]:
        student = Dropping() if number == 1 else build("vgg8x0.0625", 4, seed=seed)
        wanted = (torch.zeros(1, 4, 16, 16), torch.zeros(1, 8, 16, 16))
        step, weights = {
            0: lambda: (CrossEntropy(), {}),
            1: lambda: (SoftTargets(3.0), {"soft targets": 0.9}),
            2: lambda: (FeatureMatching(SoftTargets(), [Match("shape", spectral_shape_loss, *LAYERS)]), {}),
            3: lambda: (
                FeatureMatching(
                    CrossEntropy(), [Match("hint", hint_loss, "layer1", "layer1", Connector.between(*wanted))]
                ),
                {"hint": 2.0},
            ),
            4: lambda: (FeatureMatching(SoftTargets(), [Match("nst", nst_loss, x, x) for x in LAYERS]), {}),
            5: lambda: (taught_by_hand, {}),
            6: lambda: method_step(
                {
                    "cross-entropy": 1,
                    "soft targets": 1,
                    "hint": {"weight": 1, "layers": ["layer3"]},
                    "anchor": {"weight": 1, "replace": ["layer3"]},
                    "approach": 1,
                },
                student,
                teacher(),
                data,
            ),
        }[number]()
        taught = teacher() if number else None
        kept = {"folder": folder / f"{number}-{seed}"} if folder else {}
        return {"student": student, "teacher": taught, "step": step, "weights": weights, "seed": seed, **kept}

    return [one(number, seed) for seed in seeds for number in range(7)]


def taught_by_hand(student, teacher, images, labels):
    """A step of somebody's own, that nobody can look into."""
    logits = student(images)
    return logits, {"mine": (logits - teacher(images)).square().mean() + labels.float().mean()}


def learned(network: nn.Module) -> list[torch.Tensor]:
    return list(network.state_dict().values())


def test_each_run_comes_to_what_it_comes_to_by_itself(data):
    seeds = (0, 1)
    together = train_together([Training(data=data, recipe=RECIPE, **one) for one in asked(data, seeds=seeds)])
    for run, one in zip(together, asked(data, seeds=seeds), strict=True):
        alone = train(one.pop("student"), data, RECIPE, **one)
        torch.testing.assert_close(learned(run.network), learned(alone.network), rtol=0, atol=0)
        assert run.accuracy_last == alone.accuracy_last
        assert (run.together, alone.together) == (14, 1)


def test_the_callers_random_numbers_stay_where_they_were(data):
    before = torch.get_rng_state()
    train_together([Training(data=data, recipe=RECIPE, **one) for one in asked(data)[:3]])
    assert torch.equal(before, torch.get_rng_state())


def test_a_shared_teacher_looks_at_each_batch_once(data, monkeypatch):
    looked = []
    look = SharedTeacher.look
    monkeypatch.setattr(SharedTeacher, "look", lambda self, images: (looked.append(len(images)), look(self, images)))
    train_together([Training(data=data, recipe=RECIPE, **one) for one in asked(data)])
    assert looked == [16, 16, 8] * 2


def test_runs_share_batches_and_not_more_than_that(data, monkeypatch):
    made = []
    augment = LabelledImages.normalise
    monkeypatch.setattr(LabelledImages, "normalise", lambda self, x: (made.append(len(x)), augment(self, x))[1])
    students = [Training(build("vgg8x0.0625", 4), data, RECIPE, seed=seed) for seed in (0, 0, 1)]
    train_together(students)
    tested = made.count(20)
    assert tested == 3 * 2
    looked = made.count(1)  # whether a student has an output for each class
    assert looked == 3
    assert len(made) - tested - looked == 2 * 3 * 2  # two seeds, three batches, two epochs


def test_a_shared_teacher_answers_like_the_teacher(data):
    teacher = build("wrn-10-1", 4, seed=3).eval()
    shared = SharedTeacher(teacher, ["layer1.0.conv1", "layer1", "layer2"], "float32", graphs=False)
    images = data.normalise(data.train_images[:5])
    shared.look(images)
    with (
        collected(shared, ["layer1", "layer1.0.conv1"]) as shown,
        collected(teacher, ["layer1", "layer1.0.conv1"]) as its,
    ):
        assert torch.equal(shared(images), teacher(images))
    assert all(torch.equal(shown[path], its[path]) for path in its)
    assert not any(maps.requires_grad for maps in shown.values())
    with pytest.raises(ValueError, match="has looked at 5 images, and is asked about 3"):
        shared(images[:3])


def test_which_layers_a_step_asks_for():
    match = Match("nst", nst_loss, "layer2", "layer3")
    assert layers_asked(SoftTargets()) == layers_asked(CrossEntropy()) == []
    assert layers_asked(FeatureMatching(SoftTargets(), [match])) == ["layer3"]
    assert layers_asked(taught_by_hand) is None
    assert layers_asked(FeatureMatching(taught_by_hand, [match])) is None


def test_one_that_fails_does_not_stop_the_others(data):
    first, second, third = asked(data)[:3]
    second["weights"] = {"nonsense": 1.0}
    found = train_together([Training(data=data, recipe=RECIPE, **one) for one in (first, second, third)])
    assert isinstance(found[1], ValueError)
    assert "nonsense" in str(found[1])
    fresh = asked(data)[2]
    alone = train(fresh.pop("student"), data, RECIPE, **fresh)
    torch.testing.assert_close(learned(found[2].network), learned(alone.network), rtol=0, atol=0)


def test_an_interrupt_stops_all_and_the_same_call_goes_on(data, tmp_path):
    def trainings() -> list[Training]:
        return [Training(data=data, recipe=RECIPE, **one) for one in asked(data, tmp_path)[:4]]

    begun = trainings()
    calls = []

    def stop(progress) -> None:
        calls.append(progress.epoch)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"the run was stopped in epoch \d; the same call goes on"):
        train_together([Training(**{**vars(begun[0]), "callback": stop}), *begun[1:]])
    assert all((tmp_path / f"{number}-0" / "checkpoint.pt").exists() for number in range(4))
    for run, one in zip(train_together(trainings()), asked(data)[:4], strict=True):
        alone = train(one.pop("student"), data, RECIPE, **one)
        torch.testing.assert_close(learned(run.network), learned(alone.network), rtol=0, atol=0)


def test_runs_that_were_stopped_at_different_places_catch_up(data, tmp_path):
    class Enough(Exception):
        pass

    def stop(progress) -> None:
        if progress.epoch == 2:
            raise Enough

    recipe = Recipe(epochs=3, batch_size=16, learning_rate=0.05)
    first = asked(data, tmp_path)[2]
    with pytest.raises(Enough):
        train(first.pop("student"), data, recipe, **first, callback=stop, checkpoint_seconds=0)
    assert (tmp_path / "2-0" / "checkpoint.pt").exists()
    runs = train_together([Training(data=data, recipe=recipe, **one) for one in asked(data, tmp_path)[1:5]])
    for run, one in zip(runs, asked(data)[1:5], strict=True):
        alone = train(one.pop("student"), data, recipe, **one)
        torch.testing.assert_close(learned(run.network), learned(alone.network), rtol=0, atol=0)


def test_finished_runs_are_read_and_not_trained_again(data, tmp_path):
    def runs() -> list:
        return train_together([Training(data=data, recipe=RECIPE, **one) for one in asked(data, tmp_path)[:3]])

    before, after = runs(), runs()
    assert before == after


def test_a_layer_that_the_teacher_lacks_fails_its_own_run_only(data):
    first, second, third = asked(data)[1:4]
    wrong = FeatureMatching(SoftTargets(), [Match("shape", spectral_shape_loss, "layer1", "layer9")])
    found = train_together(
        [Training(data=data, recipe=RECIPE, **one) for one in (first, {**second, "step": wrong, "weights": {}}, third)]
    )
    assert [type(one).__name__ for one in found] == ["Run", "ValueError", "Run"]
    assert "no layer 'layer9'" in str(found[1])


def test_a_batch_that_cannot_be_made_fails_the_runs_that_want_it(data, monkeypatch):
    def fails(self, images):  # noqa: ARG001 - as it is called
        raise MemoryError("no room for the teacher")

    monkeypatch.setattr(SharedTeacher, "look", fails)
    found = train_together([Training(data=data, recipe=RECIPE, **one) for one in asked(data)[1:3]])
    assert [str(one) for one in found] == ["no room for the teacher"] * 2


class Louder(nn.Module):
    """A teacher of equal weights that says something else."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self.network, self.times = build("vgg8x0.125", 4, seed=9), times

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.times * self.network(images)


def test_teachers_of_equal_weights_are_not_taken_for_equal(data):
    def one(times: float) -> dict[str, Any]:
        return {"student": build("vgg8x0.0625", 4, seed=0), "teacher": Louder(times), "step": SoftTargets()}

    found = train_together([Training(data=data, recipe=RECIPE, **one(times)) for times in (1.0, 5.0)])
    for run, times in zip(found, (1.0, 5.0), strict=True):
        asked_alone = one(times)
        alone = train(asked_alone.pop("student"), data, RECIPE, **asked_alone)
        torch.testing.assert_close(learned(run.network), learned(alone.network), rtol=0, atol=0)


def test_a_frozen_teacher_can_be_trained_all_the_same(data):
    teacher = build("vgg8x0.125", 4, seed=9).requires_grad_(False)
    before = [tensor.clone() for tensor in learned(teacher)]
    train(build("vgg8x0.0625", 4), data, RECIPE, teacher=teacher, train_teacher=True)
    assert any(not torch.equal(now, then) for now, then in zip(learned(teacher), before, strict=True))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_run_leaves_nothing_of_its_training_behind(data):
    run = train(build("vgg8x0.0625", 4), data, RECIPE)
    assert all(parameter.grad is None for parameter in run.network.parameters())
