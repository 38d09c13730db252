"""How fast training is beside the loop that most tutorials write. `make bench` runs and prints it.

The other loop: a Dataset of Pillow images, torchvision's transforms, a DataLoader with two workers, float32, torch's
usual memory layout, the loss read after every step.
"""

import os
import time

import numpy as np
import pytest
import torch
from pairs import paired_ratio, report
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Recipe, train
from spectralkd_nb.distillation.training import default_device
from spectralkd_nb.networks import build

IMAGES, TEST_IMAGES, BATCH = 1280, 64, 128


@pytest.fixture(scope="module")
def data() -> LabelledImages:
    return noise(IMAGES, TEST_IMAGES)


def noise(train_images: int, test_images: int) -> LabelledImages:
    generator = torch.Generator().manual_seed(0)

    def images(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return pixels.contiguous(memory_format=torch.channels_last), torch.arange(n) % 100

    return LabelledImages("noise", *images(train_images), *images(test_images), tuple(map(str, range(100))))


class Pictures(Dataset):
    def __init__(self, data: LabelledImages) -> None:
        self.pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in data.train_images]
        self.labels = data.train_labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.mean.tolist(), data.std.tolist()),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.pictures[i]), self.labels[i]


def usual_loop(name: str, pictures: Pictures, test: torch.Tensor, batch: int = BATCH, workers: int = 2) -> float:
    device = default_device()
    network = build(name, 100).to(device).train()
    optimiser = torch.optim.SGD(network.parameters(), 0.05, 0.9, nesterov=True, weight_decay=5e-4)
    total = 0.0
    loader = DataLoader(pictures, batch, shuffle=True, num_workers=workers, pin_memory=device == "cuda")
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        loss = nn.functional.cross_entropy(network(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item()
    network.eval()
    with torch.no_grad():
        network(test.to(device))
    return total


@pytest.mark.parametrize("name", ["resnet20", "wrn-16-2"])
def test_training_against_a_loop_over_a_dataloader(benchmark, data, name):
    pictures, test = Pictures(data), data.normalise(data.test_images)
    recipe = Recipe(epochs=1, batch_size=BATCH, learning_rate=0.05)
    assert usual_loop(name, pictures, test) > 0
    run = benchmark.pedantic(train, (name, data, recipe), rounds=1)
    assert run.curves["cross-entropy"][0] > 0
    ratio = paired_ratio(lambda: usual_loop(name, pictures, test), lambda: train(name, data, recipe), rounds=5)
    report(benchmark, f"images a second of {name}: ours / a DataLoader with two workers", ratio)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("batch", [128, 500])
def test_training_on_a_gpu_against_a_loop_over_a_dataloader(benchmark, batch):
    """Images a second of an epoch, without what happens once a run; steps as graphs, and eager."""
    many = noise(25_000, 1000)
    pictures, test = Pictures(many), many.normalise(many.test_images[:64])
    recipe = Recipe(epochs=3, batch_size=batch, learning_rate=0.05)

    def epoch(graphs: bool) -> float:
        _, second, third = train("wrn-16-2", many, recipe, graphs=graphs).curves["seconds"]
        return third - second

    def usual() -> float:
        started = time.perf_counter()
        usual_loop("wrn-16-2", pictures, test, batch, workers=min(8, os.cpu_count()))
        return time.perf_counter() - started

    usual()
    benchmark.pedantic(epoch, (True,), rounds=1)
    for what, ours in (("graphs", lambda: epoch(True)), ("eager", lambda: epoch(False))):
        ratios = np.quantile([usual() / ours() for _ in range(3)], (0.5, 0.25, 0.75))
        report(benchmark, f"batch {batch}, images a second: ours, {what} / a DataLoader", tuple(ratios))
