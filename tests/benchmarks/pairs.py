"""Two things timed side by side, so that what else the machine does hits both alike."""

import time
from collections.abc import Callable

import numpy as np


def paired_ratio(first: Callable, second: Callable, rounds: int = 15) -> tuple[float, float, float]:
    """Median of first / second over rounds that take turns, with the quartiles: drift hits both alike."""

    def seconds(call: Callable) -> float:
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    first(), second()  # caches and allocations belong to neither
    ratios = [seconds(first) / seconds(second) for _ in range(rounds)]
    return tuple(np.quantile(ratios, (0.5, 0.25, 0.75)))


def report(benchmark, name: str, ratio: tuple[float, float, float]) -> None:
    benchmark.extra_info[name] = [round(value, 2) for value in ratio]
    print(f"\n{name}: {ratio[0]:.2f} (quartiles {ratio[1]:.2f} to {ratio[2]:.2f})")
