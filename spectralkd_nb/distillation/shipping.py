"""From a finished run to weights that go out with the package, each with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation.evaluation import evaluate
from spectralkd_nb.distillation.records import Run
from spectralkd_nb.distillation.store import in_half_precision, write_whole
from spectralkd_nb.networks import build, load_weights

LARGEST = 5_000_000  # bytes of one file of weights
OF_THE_RUN = (
    *("pair", "method", "weights", "seed", "recipe", "precision", "protocol"),
    *("seconds", "device", "threads", "versions", "commit", "curves"),
)


def ship(run: Run, data: LabelledImages, folder: str | Path, command: str) -> dict[str, Any]:
    """Write a run's network in half precision, and its card beside it, with the accuracy of the very file.

    Args:
        run: with its network. data: what it was trained on. folder: data/weights.
        command: that makes the run again.

    Returns:
        the card.

    Raises:
        ValueError: the file would be larger than 5 MB.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name, classes = run.pair["student"], len(data.classes)
    file = folder / f"{name}_{data.name}.safetensors"
    content = in_half_precision(run.network)
    if len(content) > LARGEST:
        raise ValueError(f"{file.name} would have {len(content) / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are the limit")
    write_whole(file, content)
    kept = build(name, classes, seed=run.seed)
    load_weights(kept, file)
    card = {
        "network": name,
        "file": file.name,
        "accuracy": round(evaluate(kept, data), 2),
        "accuracy of": "this half-precision file, on all test images, percent",
        "accuracy in full precision": round(run.accuracy_last, 2),
        "classes": classes,
        "shape": list(data.train_images.shape[1:]),
        "mean": [round(value, 6) for value in data.mean.tolist()],
        "std": [round(value, 6) for value in data.std.tolist()],
        "parameters": sum(p.numel() for p in kept.parameters()),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "verified": data.verified},
        "command": command,
        **{key: getattr(run, key) for key in OF_THE_RUN},
    }
    write_whole(file.with_suffix(".json"), json.dumps(card, indent=1).encode() + b"\n")
    return card


def measure_shipped(card: dict[str, Any], data: LabelledImages) -> float:
    """Top-1 accuracy of a shipped file, percent, measured again as its card's was.

    Raises:
        ValueError: the data is not what the card says.
    """
    if data.fingerprint != card["data"]["fingerprint"]:
        raise ValueError(f"{card['file']} was trained on {card['data']['name']}, and {data.name} is other data")
    return evaluate(build(card["network"], card["classes"], pretrained=card["data"]["name"]), data)
