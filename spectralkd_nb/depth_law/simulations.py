"""Random networks of every kind that the theory speaks of, measured: too slow for a lesson, so results are kept. ::

    python -m spectralkd_nb simulate-depth data/results/depth_simulations.csv

makes the table again, goes on where it was stopped, and adds what is new in `GRID`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from spectralkd_nb import data_path
from spectralkd_nb.depth_law.profiles import ExponentProfile, exponent_profile
from spectralkd_nb.depth_law.theory import depth_recursion, random_kernel_transfer
from spectralkd_nb.networks import RandomNetwork, reestimate_batch_norm
from spectralkd_nb.operations import power_law_power
from spectralkd_nb.pictures import power_law_field
from spectralkd_nb.storage import write_whole

if TYPE_CHECKING:
    import pandas

SIZE = 128  # pixels a side of every map
BAND = (0.02, 0.35)  # cycles a pixel, of every exponent here
BATCH = 4  # images at a time: a layer of width 256 is 67 MB then


@dataclass(frozen=True)
class Setting:
    """One random network and what it is given.

    Attributes:
        inputs: channels of the images, each an independent field.
        width: channels of every layer.
        depth: layers.
        correlation, shared: of the kernels, see `networks.draw_kernels`.
        batch_norm, skip, post_activation, relu: see `networks.RandomNetwork`.
        alpha: of the input fields.
        images: how many.
        seed: of kernels and fields.
    """

    inputs: int = 64
    width: int = 64
    depth: int = 16
    correlation: float = 0.0
    shared: float = 0.0
    batch_norm: bool = True
    skip: bool = False
    post_activation: bool = False
    relu: bool = True
    alpha: float = 2.0
    images: int = 8
    seed: int = 0


KIND = ("batch_norm", "skip", "post_activation", "relu")  # of a layer
CORRELATIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
SEEDS = (0, 1, 2)

GRID: tuple[Setting, ...] = (
    *(
        Setting(correlation=correlation, batch_norm=batch_norm, skip=skip, seed=seed)
        for correlation, batch_norm, skip, seed in itertools.product(CORRELATIONS, (True, False), (False, True), SEEDS)
    ),
    *(
        Setting(inputs=inputs, width=width, depth=12, seed=seed)
        for inputs, width, seed in itertools.product((3, 64), (16, 64, 256), SEEDS)
        if (inputs, width) != (64, 64)  # the first layers of a deeper one above
    ),
    *(
        Setting(correlation=correlation, depth=12, skip=True, post_activation=True, seed=seed)
        for correlation, seed in itertools.product((0.0, 0.2, 0.3), SEEDS)
    ),
)


def simulate(setting: Setting, resamples: int = 1000) -> ExponentProfile:
    """The profile of one random network, over all its images and channels (pooled).

    Maps of 128 x 128 pixels, alpha fitted from 0.02 to 0.35 cycles a pixel, no edge treatment: the fields are periodic.

    Args:
        resamples: of the bootstrap over images.

    Raises:
        ValueError: what `RandomNetwork` refuses of the setting.
    """
    images = _input_fields(setting)
    options = {name: getattr(setting, name) for name in ("correlation", "shared", "seed", *KIND)}
    network = RandomNetwork(setting.inputs, setting.width, setting.depth, **options)
    if setting.batch_norm:
        network = reestimate_batch_norm(network, images, BATCH)
    name = f"random network of width {setting.width}"
    return exponent_profile(
        network, images, edges="none", band=BAND, name=name, batch_size=BATCH, resamples=resamples, seed=setting.seed
    )


def _input_fields(setting: Setting) -> torch.Tensor:
    """(images, inputs, 128, 128) Gaussian fields of a known exponent."""
    generator = torch.Generator().manual_seed(setting.seed)
    maps = power_law_field(SIZE, setting.alpha, setting.images * setting.inputs, generator)
    return maps.unflatten(0, (setting.images, setting.inputs))


def predict(setting: Setting) -> torch.Tensor:
    """What the recursion says of the same network if it were wide and its inputs many: (depth + 1,) alphas, float64.

    By `depth_recursion`, on the same grid and in the same band as `simulate` measures.

    Args:
        setting: of the network; its inputs, width, images and seed do not enter.

    Raises:
        ValueError: a skip after which ReLUs follow, where inputs are not as many as channels: its first layer has none;
            post_activation without a skip; a correlation that taps cannot have.
    """
    if setting.post_activation and setting.inputs != setting.width:
        raise ValueError("with post_activation the recursion wants as many inputs as channels")
    transfer = random_kernel_transfer(SIZE, setting.correlation, setting.shared)
    options = {name: getattr(setting, name) for name in KIND}
    return depth_recursion(power_law_power(SIZE, setting.alpha), [transfer] * setting.depth, band=BAND, **options)


def write_simulations(file: str | Path, grid: Sequence[Setting] = GRID) -> None:
    """Simulate each setting that the table does not hold yet. After each one the table is whole on disk.

    Args:
        file: CSV with one row a layer: the setting's attributes, layer (0 for the input) and its alpha, `measured`.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=[*_NAMES, "layer", "measured"])
    done = {Setting(**row) for row in table[_NAMES].drop_duplicates().to_dict("records")}
    for setting in tqdm([s for s in dict.fromkeys(grid) if s not in done], desc="Random networks", unit="network"):
        rows = [
            {**asdict(setting), "layer": layer, "measured": round(alpha, 4)}
            for layer, alpha in enumerate(simulate(setting, resamples=1).alpha.tolist())
        ]
        table = pd.DataFrame([*table.to_dict("records"), *rows])
        write_whole(file, table.to_csv(index=False).encode())


_NAMES = [field.name for field in fields(Setting)]


def stored_simulations(setting: Setting) -> torch.Tensor:
    """What `GRID` gave for a setting: (seeds, depth + 1) float64, alpha of the input first, one row for every seed.

    Raises:
        ValueError: a setting that is not in the grid, whatever its seed.
    """
    table = _stored()
    for name in _NAMES:
        if name not in ("seed", "depth"):
            table = table[table[name] == getattr(setting, name)]
    table = table[(table.layer <= setting.depth) & (table.depth >= setting.depth)]
    if table.empty:
        raise ValueError(f"{setting} is not among the stored simulations; simulate(setting) measures it")
    deepest = table[table.depth == table.depth.max()]
    return torch.tensor(deepest.pivot(index="seed", columns="layer", values="measured").to_numpy())


def _stored() -> pandas.DataFrame:
    import pandas as pd

    return pd.read_csv(data_path("results/depth_simulations.csv"))
