"""What spectra of activations cost beside the bare forward pass. `make bench` runs and prints it.

No time is asserted: a machine decides its own. Memory is: the peak must not follow the number of images.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pairs import paired_ratio, report

from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.networks import build

BATCH, BATCHES = 128, 4
FEW, MANY = 1_000, 20_000
GROWTH = 50  # MB

PEAK = """
import re, sys
from pathlib import Path
import torch
from spectralkd_nb.activations import activation_spectra
from spectralkd_nb.networks import build

count = int(sys.argv[1])
generator = torch.Generator().manual_seed(0)
batches = (torch.randn(min(100, count - start), 3, 32, 32, generator=generator) for start in range(0, count, 100))
result = activation_spectra(build("resnet8", 10), batches, progress=False)
assert result.images == count
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.parametrize("layers", ["blocks", None])
def test_spectra_against_the_bare_forward_pass(benchmark, layers):
    network = build("resnet20", 10).eval()
    images = torch.randn(BATCH * BATCHES, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def bare() -> None:
        for batch in images.split(BATCH):
            network(batch)

    def measure():
        return activation_spectra(network, images, layers, batch_size=BATCH, progress=False)

    assert benchmark.pedantic(measure, rounds=1).images == len(images)
    what = f"{layers or 'all layers'} of resnet20 at batch {BATCH}"
    report(benchmark, f"spectra of {what} / bare forward pass", paired_ratio(measure, bare, rounds=5))


def peak(images: int) -> float:
    """Peak memory of a process of its own, MB. Not getrusage: its peak begins with that of the process that forked."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(images)], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1e3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_follow_the_number_of_images(benchmark):
    few, many = benchmark.pedantic(lambda: (peak(FEW), peak(MANY)), rounds=1)
    print(f"\npeak memory from {FEW} to {MANY} images: {few:.0f} to {many:.0f} MB")
    benchmark.extra_info["growth in MB"] = round(many - few, 1)
    assert many - few < GROWTH
