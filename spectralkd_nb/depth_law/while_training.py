"""What training does to the line: slopes of networks whose weights were kept while they learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spectralkd_nb import data_path
from spectralkd_nb.depth_law.fits import line_through

if TYPE_CHECKING:
    import pandas


def slopes_while_training() -> pandas.DataFrame:
    """The line over all blocks, epoch by epoch, from the profiles that this project stored; data/README.md says how.

    Returns:
        one row for each network, seed and epoch (0 is before training): network, seed, epoch, slope (alpha a layer),
        r_squared, accuracy (on test images, percent; NaN before training).
    """
    import pandas as pd

    table = pd.read_csv(data_path("results/depth_training.csv"))
    blocks = table[(table.path != "image") & table.alpha.notna()]
    rows = [
        {**dict(zip(_RUN, run, strict=True)), **_line(layers), "accuracy": layers.accuracy.iloc[0]}
        for run, layers in blocks.groupby(_RUN, sort=False)
    ]
    return pd.DataFrame(rows)


_RUN = ["network", "seed", "epoch"]


def _line(layers: pandas.DataFrame) -> dict[str, float]:
    line = line_through(*(torch.tensor(layers[name].to_numpy(float)) for name in ("depth", "alpha")))
    return {"slope": line.slope, "r_squared": line.r_squared}
