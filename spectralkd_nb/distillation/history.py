"""alpha by depth in the course of a training, from what its run kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.depth_law import exponent_profile
from spectralkd_nb.distillation.records import Run, read_run
from spectralkd_nb.distillation.store import RECORD, kept_files
from spectralkd_nb.networks import build, load_weights, reestimate_batch_norm
from spectralkd_nb.pictures import photograph_crops

if TYPE_CHECKING:
    import pandas

SIZE, EACH = 128, 4  # pixels a side, and how many cut-outs of each photograph
MEASURED = ["path", "depth", "block", "stage", "alpha", "lower", "upper", "trusted"]  # of `ExponentProfile.table`


def epoch_profiles(folder: str | Path, data: LabelledImages) -> pandas.DataFrame:
    """alpha of the image and of each block over photographs, before training and after each epoch that a run kept.

    Before training the batch norms have the statistics of the very photographs; see `reestimate_batch_norm`.

    Args:
        folder: of a finished run of a network by name.
        data: what it was trained on; its colours are what the photographs are normalised with.

    Returns:
        one row a layer and epoch: network, seed, epoch, path, depth, block, stage, alpha, lower, upper, trusted, and
        the accuracy on the test images after that epoch, percent, which epoch 0 does not have.

    Raises:
        ValueError: the run is not finished, kept no epochs, or was trained on other data.
    """
    import pandas as pd

    folder = Path(folder).expanduser()
    run = _finished(folder, data)
    pictures = data.normalise(255 * photograph_crops(SIZE, EACH))  # it is used to bytes
    accuracy = dict(zip(run.curves["epoch"], run.curves["test accuracy"], strict=True))
    tables = []
    for epoch, network in kept_networks(run, folder, len(data.classes), pictures):
        table = exponent_profile(network, pictures, groups=EACH).table()[MEASURED]
        table.insert(0, "epoch", epoch)
        tables.append(table.assign(accuracy=accuracy.get(epoch, math.nan)))
    whole = pd.concat(tables, ignore_index=True)
    whole.insert(0, "network", run.pair["student"])
    whole.insert(1, "seed", run.seed)
    return whole


def _finished(folder: Path, data: LabelledImages) -> Run:
    if not (folder / RECORD).exists():
        raise ValueError(f"{folder} holds no finished run; train it to its end, or name another folder")
    run = read_run(folder / RECORD)
    if run.protocol["fingerprint"] != data.fingerprint:
        raise ValueError(f"{folder} was trained on {run.protocol['data']}, and {data.name} is other data")
    return run


def as_it_began(run: Run, classes: int, pictures: Tensor) -> nn.Module:
    """A run's student before training, with batch norms settled on pictures."""
    return reestimate_batch_norm(build(run.pair["student"], classes, seed=run.seed), pictures)


def kept_networks(
    run: Run, folder: Path, classes: int, pictures: Tensor, last: bool = False
) -> Iterator[tuple[int, nn.Module]]:
    """Epoch and network, one at a time: before training, with batch norms settled on pictures, and what was kept.

    Args:
        last: only what was kept last.
    """
    name, kept = run.pair["student"], sorted(kept_files(run, folder).items())
    if not last:
        yield 0, as_it_began(run, classes, pictures)
    for epoch, file in kept[-1:] if last else kept:
        yield epoch, load_weights(build(name, classes), file)
