"""What goes wrong on a reader's machine: nothing is lost, and one sentence says what it was.

Each fault is here once, as a reader meets it. Next to what they harm are more: full disks in test_distillation,
test_experiments and test_cifar, broken downloads in test_cifar, the stop button in test_browser.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from threads import one_thread as one_thread  # a fixture
from torch import nn

from spectralkd_nb import data_path, losses, networks, pictures
from spectralkd_nb.activations import activation_maps, activation_spectra
from spectralkd_nb.adaptation import AdaptedTeacher
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.depth_law import exponent_profile
from spectralkd_nb.distillation import CrossEntropy, FeatureMatching, Match, Recipe, read_run, train
from spectralkd_nb.spectra import spectral_exponent
from spectralkd_nb.storage import write_whole

STUDENT = "vgg8x0.0625"


@pytest.fixture(scope="module")
def data():
    return open_dataset("photographs")


# --- the kernel ----------------------------------------------------------------------------------

SET_UP = """
from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.distillation import Recipe, train
from spectralkd_nb.experiments import run_grid
data = open_dataset("photographs")
"""
TRAINING = f"run = train('{STUDENT}', data, Recipe.quick(epochs=6), folder='run', checkpoint_seconds=0{{more}})"
GRID = f"""
trained = set()
grid = {{
    "seeds": [0, 1],
    "pairs": [{{"student": "{STUDENT}"}}],
    "methods": {{"alone": {{"cross-entropy": 1.0}}, "half": {{"cross-entropy": 0.5}}}},
    "protocols": {{"tiny": {{"data": "photographs", "recipe": "quick", "epochs": 2}}}},
}}
look = lambda now: trained.update(i for i, state in enumerate(now.states) if state == "running")
runs = run_grid(grid, "store", callback=look)
print(runs["state"].value_counts().to_dict())
"""


@contextmanager
def kernel(folder: Path) -> Iterator[tuple]:
    """A kernel as a notebook in that folder has it, and the client through which the notebook speaks to it."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager()
    manager.start_kernel(cwd=str(folder))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield manager, client
    finally:
        client.stop_channels()
        if manager.is_alive():
            manager.shutdown_kernel(now=True)


def ran(client, code: str) -> str:
    """What a cell prints, once it is done."""
    printed: list[str] = []

    def hear(message: dict) -> None:
        if message["msg_type"] == "stream":
            printed.append(message["content"]["text"])

    reply = client.execute_interactive(code, timeout=300, output_hook=hear)["content"]
    assert reply["status"] == "ok", f"{reply['ename']}: {reply['evalue']}"
    return "".join(printed)


def assert_ran(client, asked: str) -> None:
    """Wait until a cell that was asked for some time ago is done, and well."""
    reply = client.get_shell_msg(timeout=300)
    while reply["parent_header"].get("msg_id") != asked:
        reply = client.get_shell_msg(timeout=300)
    assert reply["content"]["status"] == "ok", reply["content"]


def wait_for(happened, seconds: float = 120) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_kernel_that_is_killed_in_a_training_loses_nothing(tmp_path):
    with kernel(tmp_path) as (manager, client):
        ran(client, SET_UP)
        client.execute(TRAINING.format(more=""))
        wait_for(lambda: stood(tmp_path / "run") >= (2, 10))
        manager.signal_kernel(9)
    assert not (tmp_path / "run" / "run.json").exists(), "it was killed too late"
    where = stood(tmp_path / "run")
    with kernel(tmp_path) as (_, client):
        more = ", callback=lambda p: first.append((p.epoch, p.step))"
        ran(client, f"{SET_UP}first = []\n{TRAINING.format(more=more)}")
        went_on = json.loads(ran(client, "print(list(first[0]))"))
        ran(client, f"whole = train('{STUDENT}', data, Recipe.quick(epochs=6))")
        same = "print(all(a.equal(b) for a, b in zip(run.network.parameters(), whole.network.parameters())))"
        assert ran(client, same).strip() == "True"
    assert tuple(went_on) >= where, "it began anew"
    record = read_run(tmp_path / "run" / "run.json")
    assert record.recipe["epochs"] == 6
    assert len(record.curves["epoch"]) == 6


def stood(folder: Path) -> tuple[int, int]:
    """The epoch, from 1, and the step to which a run's checkpoint goes back; (0, 0) before the first."""
    if not (folder / "checkpoint.pt").exists():
        return 0, 0
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    return state["epoch"] + 1, state["position"]


def test_one_notebook_open_twice_shares_one_store(tmp_path):
    with kernel(tmp_path) as (_, first), kernel(tmp_path) as (_, second):
        for client in (first, second):
            ran(client, SET_UP)
        waiting = second.execute(GRID)
        assert ran(first, GRID).strip() == "{'finished': 4}"
        assert_ran(second, waiting)
        assert ran(second, "print(runs['state'].value_counts().to_dict())").strip() == "{'finished': 4}"
        same = "print(sorted(runs['accuracy'].round(4)))"
        assert ran(first, same) == ran(second, same)
        mine, theirs = (set(json.loads(ran(client, "print(sorted(trained))"))) for client in (first, second))
    assert mine
    assert theirs
    assert sorted([*mine, *theirs]) == [0, 1, 2, 3]  # each run by one of them
    records = [json.loads(path.read_text()) for path in (tmp_path / "store").glob("*/run.json")]
    assert len(records) == 4
    assert not list((tmp_path / "store").glob("*/checkpoint.pt"))


def test_a_training_in_a_folder_where_another_trains_is_refused(tmp_path):
    with kernel(tmp_path) as (_, first), kernel(tmp_path) as (_, second):
        for client in (first, second):
            ran(client, SET_UP)
        waiting = first.execute(TRAINING.format(more=""))
        wait_for((tmp_path / "run" / "checkpoint.pt").exists)
        tried = f"try:\n    {TRAINING.format(more='')}\nexcept BlockingIOError as error:\n    print(error)"
        assert "another process trains here; wait for it, or choose another folder" in ran(second, tried)
        assert_ran(first, waiting)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [0, 60])
def test_a_disk_that_fills_up_is_told_and_the_training_goes_on_later(writes, data, tmp_path, monkeypatch):
    left = [None] * writes

    def filling(path: Path, content: bytes) -> None:
        if not left:
            raise OSError(errno.ENOSPC, "No space left on device")
        left.pop()
        write_whole(path, content)

    recipe, folder = Recipe.quick(epochs=2), tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr("spectralkd_nb.distillation.store.write_whole", filling)
        told = r"checkpoint\.pt cannot be written \(No space left on device\); what was kept is whole"
        with pytest.raises(OSError, match=told):
            train(STUDENT, data, recipe, folder=folder, checkpoint_seconds=0)
    where, seen = stood(folder), []
    assert where > (1, 50) if writes else where == (0, 0)
    run = train(STUDENT, data, recipe, folder=folder, callback=lambda now: seen.append((now.epoch, now.step)))
    assert seen[0] >= where
    whole = train(STUDENT, data, recipe)
    assert all(torch.equal(a, b) for a, b in zip(run.network.parameters(), whole.network.parameters(), strict=True))


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    """One bit of one byte differs, in the middle: nothing about the file looks wrong."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x40]) + content[middle + 1 :]


HARM = pytest.mark.parametrize("harm", [truncated, flipped])


def shipped_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Path:
    """The shipped files, in a folder where they may be harmed."""
    for path in data_path("weights").rglob("*"):
        if path.is_file() and name in path.name:
            copy = tmp_path / path.relative_to(data_path("."))
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    monkeypatch.setattr("spectralkd_nb.networks.weights.data_path", lambda part: tmp_path / part)
    return tmp_path / "weights"


@HARM
def test_damaged_shipped_weights_are_not_taken(harm, tmp_path, monkeypatch):
    folder = shipped_copy(tmp_path, monkeypatch, "vgg8x0.5_photographs")
    networks.build("vgg8x0.5", pretrained="photographs")
    file = folder / "vgg8x0.5_photographs.safetensors"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=r"vgg8x0\.5_photographs\.safetensors is damaged: .*git checkout data/weights"):
        networks.build("vgg8x0.5", pretrained="photographs")


def test_a_damaged_card_is_named(tmp_path, monkeypatch):
    folder = shipped_copy(tmp_path, monkeypatch, "vgg8x0.5_photographs")
    card = folder / "vgg8x0.5_photographs.json"
    card.write_bytes(truncated(card.read_bytes()))
    with pytest.raises(ValueError, match=r"vgg8x0\.5_photographs\.json is damaged"):
        networks.build("vgg8x0.5", pretrained="photographs")


@HARM
def test_a_damaged_snapshot_is_not_taken(harm, tmp_path, monkeypatch):
    folder = shipped_copy(tmp_path, monkeypatch, "vgg8x0.25_photographs")
    file = folder / "epochs" / "vgg8x0.25_photographs_epoch_004.safetensors"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=r"epoch_004\.safetensors is damaged"):
        networks.snapshots("vgg8x0.25")


@HARM
def test_a_damaged_data_set_is_not_taken(harm, data, tmp_path):
    file = tmp_path / "mine.npz"
    few = {
        "train_images": data.train_images[:28].permute(0, 2, 3, 1),
        "test_images": data.test_images[:28].permute(0, 2, 3, 1),
    }
    few |= {"train_labels": data.train_labels[:28], "test_labels": data.test_labels[:28]}
    np.savez(file, classes=np.array(data.classes), **{name: value.numpy() for name, value in few.items()})
    open_dataset(file)
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    with pytest.raises(ValueError, match=r"mine\.npz cannot be read as an \.npz file"):
        open_dataset(file)
    for place in range(4, 60, 3):  # the head of the archive, where zipfile has errors of many classes
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with contextlib.suppress(ValueError):  # some bytes of a head matter to nobody
            assert open_dataset(file).train_labels.equal(data.train_labels[:28])


@HARM
def test_the_damaged_network_of_a_finished_run_is_not_taken(harm, data, tmp_path):
    train(STUDENT, data, Recipe.quick(epochs=1), folder=tmp_path)
    file = tmp_path / "trained.pt"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=r"trained\.pt is damaged and cannot be read; delete it"):
        train(STUDENT, data, Recipe.quick(epochs=1), folder=tmp_path)
    assert (tmp_path / "run.json").exists()


@HARM
def test_the_damaged_weights_of_a_kept_epoch_are_not_taken(harm, data, tmp_path):
    run = train(STUDENT, data, Recipe.quick(epochs=1), folder=tmp_path, keep_epochs=(1,))
    file = tmp_path / "epoch_001.safetensors"
    networks.load_weights(run.network, file)
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=r"epoch_001\.safetensors (is damaged|cannot be read)"):
        networks.load_weights(run.network, file)


@HARM
def test_a_damaged_checkpoint_is_not_gone_on_from(harm, data, tmp_path):
    def stop(progress):
        if progress.epoch == 2:
            raise RuntimeError("the view is gone")

    with pytest.raises(RuntimeError, match="the view is gone"):
        train(STUDENT, data, Recipe.quick(epochs=2), folder=tmp_path, callback=stop, checkpoint_seconds=0)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(harm(file.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged and cannot be read; delete it"):
        train(STUDENT, data, Recipe.quick(epochs=2), folder=tmp_path)


# --- the network ---------------------------------------------------------------------------------


def test_without_a_network_the_ways_out_are_named(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("SPECTRALKD_DATA", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConnectionError, match="Put"):
        open_dataset("cifar10")
    with pytest.raises(ConnectionError, match="put that file into"):
        networks.build("torchvision/resnet18", pretrained=True)
    assert open_dataset("photographs").train_images.shape[0] == 1400  # what is built in does not ask


# --- what a reader tries -------------------------------------------------------------------------


def test_a_wrong_layer_is_answered_with_the_nearest(data):
    network = networks.build(STUDENT, len(data.classes))
    images = data.normalise(data.test_images[:2])
    for call in (
        lambda: activation_spectra(network, images, ["layr3"], progress=False),
        lambda: activation_maps(network, images, "layr3"),
        lambda: networks.features_of(network, images, ["layr3"]),
    ):
        with pytest.raises(ValueError, match=r"'layr3'.*layer3"):
            call()
    match = FeatureMatching(CrossEntropy(), [Match("hint", losses.hint_loss, "layr3", "layer3")])
    with pytest.raises(ValueError, match=r"'layr3'.*'layer3'"):
        train(
            STUDENT,
            data,
            Recipe.quick(epochs=1),
            teacher=networks.build("vgg8x0.5", pretrained="photographs"),
            step=match,
        )


def test_a_batch_of_one_is_a_batch(data):
    network = networks.build(STUDENT, len(data.classes))
    spectra = activation_spectra(network, data.normalise(data.test_images[:1]), progress=False)
    assert spectra.exponent("layer1").images == 1
    few = replace(
        data, train_images=data.train_images[:3], train_labels=data.train_labels[:3], groups=None, similarity=None
    )
    run = train(STUDENT, few, Recipe.quick(epochs=1, batch_size=1))
    assert torch.isfinite(torch.tensor(run.curves["cross-entropy"])).all()
    maps = torch.rand(1, 4, 8, 8)
    for loss in (losses.hint_loss, losses.fourier_loss, losses.attention_loss, losses.spectral_shape_loss):
        assert loss(maps, maps).item() == pytest.approx(0, abs=1e-6)
    assert losses.nst_loss(maps, maps).item() == pytest.approx(0, abs=1e-5)


LOSSES = {
    "hint": losses.hint_loss,
    "fourier": losses.fourier_loss,
    "attention": losses.attention_loss,
    "shape": losses.spectral_shape_loss,
    "exponent": losses.exponent_loss,
    "whitened": lambda student, teacher: losses.whitened_spectral_loss(student, teacher, 2.0),
    "nst": losses.nst_loss,
    "kd": lambda student, teacher: losses.kd_loss(student.mean((2, 3)), teacher.mean((2, 3)), 4.0),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_images(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 32, 32, generator=generator, dtype=torch.float64)
    each = [LOSSES[name](student[i : i + 1], teacher[i : i + 1]) for i in range(len(student))]
    torch.testing.assert_close(torch.stack(each).mean(), LOSSES[name](student, teacher))


def test_an_image_that_is_left_alone_is_told_before_training(data):
    pooled = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 14)
    )
    few = replace(
        data, train_images=data.train_images[:33], train_labels=data.train_labels[:33], groups=None, similarity=None
    )
    before = {name: value.clone() for name, value in pooled.state_dict().items()}
    with pytest.raises(ValueError, match=r"33 images in batches of 32 leave a batch of one.*choose another batch_size"):
        train(pooled, few, Recipe.quick(epochs=1))
    assert all(torch.equal(value, before[name]) for name, value in pooled.state_dict().items())
    train(pooled, few, Recipe.quick(epochs=1, batch_size=11))


@pytest.mark.parametrize("size", [(3, 1), (1, 3), (3, 3)])
def test_a_picture_of_three_pixels_is_read_and_has_no_spectrum(size):
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, "png")
    picture = pictures.read_picture(file.getvalue(), "dot.png")
    assert picture.size == size[::-1]
    with pytest.raises(ValueError, match=r"have no spectrum to speak of; at least 4 pixels a side are needed"):
        spectral_exponent(picture.grey())
    if min(size) < 2:
        with pytest.raises(ValueError, match=r"dot is \d x \d pixels and has no half size"):
            picture.half()


def test_a_network_without_spatial_maps_is_told(data):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 20), nn.ReLU(), nn.Linear(20, 14))
    images = data.normalise(data.test_images[:4])
    with pytest.warns(UserWarning, match="no layer with maps of 4 pixels a side; only the image is measured"):
        spectra = activation_spectra(flat, images, progress=False)
    assert [layer.path for layer in spectra.layers] == ["image"]
    with pytest.raises(ValueError, match="no blocks with maps of 4 pixels; name its layers"):
        exponent_profile(flat, images)
    with pytest.raises(ValueError, match=r"returns BC; a module stands in for a block from maps"):
        AdaptedTeacher(flat, ["1"], images)
    with pytest.raises(ValueError, match="does not lie on a grid of pixels; take an earlier layer"):
        activation_maps(flat, images, "1")
    run = train(flat, data, Recipe.quick(epochs=1))  # but it learns
    assert run.accuracy_last > 100 / 14


def test_a_network_with_too_few_outputs_is_told_before_it_is_trained(data):
    small = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(ValueError, match="the student has 4 outputs, and photographs has 14 classes"):
        train(small, data, Recipe.quick(epochs=1))
