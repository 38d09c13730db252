"""How fast spectra are, as ratios of two things timed side by side in one run. `make bench` runs and prints them.

No time is asserted anywhere: a machine decides its own. What is asserted is that both sides computed something.
"""

import numpy as np
import pytest
import torch
from pairs import paired_ratio, report

from spectralkd_nb.spectra import EDGES, SpectrumAccumulator, radial_spectrum

MAPS = 4096


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    return torch.randn(MAPS, 32, 32, generator=torch.Generator().manual_seed(0))


def bare_power(maps: torch.Tensor) -> torch.Tensor:
    """The least that any spectrum costs: the FFT and its squared modulus."""
    modes = torch.fft.rfft2(maps)
    return modes.real**2 + modes.imag**2


@pytest.mark.parametrize("edges", EDGES)
def test_radial_spectrum_against_the_bare_transform(benchmark, maps, edges):
    assert benchmark(radial_spectrum, maps, edges).power.shape == (MAPS, 16)
    ratio = paired_ratio(lambda: radial_spectrum(maps, edges), lambda: bare_power(maps))
    report(benchmark, f'radial_spectrum(edges="{edges}") / bare transform', ratio)


def test_the_bare_transform(benchmark, maps):
    assert benchmark(bare_power, maps).shape == (MAPS, 32, 17)


def test_streaming_against_the_bare_transform(benchmark, maps):
    assert benchmark(lambda: SpectrumAccumulator().update(maps)).maps == MAPS
    ratio = paired_ratio(lambda: SpectrumAccumulator().update(maps), lambda: bare_power(maps))
    report(benchmark, "SpectrumAccumulator.update / bare transform", ratio)


def test_radial_spectrum_against_a_loop_over_pysteps(benchmark, maps):
    rapsd = pytest.importorskip("pysteps.utils.spectral", reason="optional: pip install -e '.[compare]'").rapsd
    fields = maps.numpy()

    def loop():
        return [rapsd(field, fft_method=np.fft) for field in fields]

    assert benchmark(radial_spectrum, maps).power.shape == (MAPS, 16)
    slower, *quartiles = paired_ratio(loop, lambda: radial_spectrum(maps), rounds=3)
    report(benchmark, "a loop over pysteps.rapsd / radial_spectrum", (slower, *quartiles))
