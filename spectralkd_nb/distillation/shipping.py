"""From a finished run to weights that go out with the package, each with a card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation.evaluation import evaluate
from spectralkd_nb.distillation.records import Run
from spectralkd_nb.distillation.store import in_half_precision, kept_files
from spectralkd_nb.networks import build, load_weights
from spectralkd_nb.storage import sha256_of, write_whole

LARGEST = 5_000_000  # bytes of one file of weights
OF_THE_RUN = (
    *("pair", "method", "weights", "seed", "recipe", "precision", "protocol"),
    *("seconds", "device", "threads", "versions", "commit", "curves"),
)


def ship(run: Run, data: LabelledImages, folder: str | Path, command: str) -> dict[str, Any]:
    """Write a run's network in half precision, and its card beside it, with the accuracy of the very file.

    Args:
        run: with its network.
        data: what it was trained on.
        folder: data/weights.
        command: that makes the run again.

    Returns:
        the card.

    Raises:
        ValueError: the file would be larger than 5 MB, or lies there with another seed.
    """
    file = Path(folder) / f"{_stem(run, data)}.safetensors"
    _require_own(file.with_suffix(".json"), run)
    shipped = _write_weights(file, in_half_precision(run.network), run, data)
    card = {
        "network": run.pair["student"],
        "file": file.name,
        "sha256": sha256_of(file),
        "accuracy": round(evaluate(shipped, data), 2),
        "accuracy of": "this half-precision file, on all test images, percent",
        "accuracy in full precision": round(run.accuracy_last, 2),
        **_origin(shipped, run, data, command),
    }
    _write_card(file.with_suffix(".json"), card)
    return card


def ship_epochs(
    run: Run, run_folder: str | Path, data: LabelledImages, folder: str | Path, command: str
) -> dict[str, Any]:
    """Write the network after each epoch that the run kept, and one card with the accuracy of every file.

    Args:
        run: of a network by name.
        run_folder: where it keeps what it kept.
        data: what it was trained on.
        folder: data/weights/epochs.
        command: that makes the run again, and has it keep these epochs.

    Returns:
        the card, with "epochs": a list of {"epoch", "file", "sha256", "accuracy"}.

    Raises:
        ValueError: the run kept no epochs, a file would be larger than 5 MB, or lies there with another seed.
    """
    _require_own(Path(folder) / f"{_stem(run, data)}.json", run)
    folder, epochs = Path(folder), []
    for epoch, kept in kept_files(run, run_folder).items():
        file = folder / f"{_stem(run, data)}_{kept.name}"
        shipped = _write_weights(file, kept.read_bytes(), run, data)
        accuracy = round(evaluate(shipped, data), 2)
        epochs.append({"epoch": epoch, "file": file.name, "sha256": sha256_of(file), "accuracy": accuracy})
    card = {
        "network": run.pair["student"],
        "epochs": epochs,
        "accuracy of": "each half-precision file, on all test images, percent",
        **_origin(shipped, run, data, command),
    }
    _write_card(folder / f"{_stem(run, data)}.json", card)
    return card


def _stem(run: Run, data: LabelledImages) -> str:
    return f"{run.pair['student']}_{data.name}"


def _require_own(card: Path, run: Run) -> None:
    """Names do not tell seeds apart, so that another seed's files would be lost."""
    if card.exists() and (seed := json.loads(card.read_text("utf-8"))["seed"]) != run.seed:
        raise ValueError(f"{card} is of seed {seed}, and this run has seed {run.seed}; delete it, or ship elsewhere")


def _write_weights(file: Path, content: bytes, run: Run, data: LabelledImages) -> nn.Module:
    """Write one file of weights, and read it back into a network of the run's kind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if len(content) > LARGEST:
        raise ValueError(f"{file.name} would have {len(content) / 1e6:.1f} MB, and {LARGEST / 1e6:.0f} are the limit")
    write_whole(file, content)
    return load_weights(build(run.pair["student"], len(data.classes)), file)


def _origin(network: nn.Module, run: Run, data: LabelledImages, command: str) -> dict[str, Any]:
    """What every card says: the network's sizes, the data, the command, and the record of the run."""
    return {
        "classes": len(data.classes),
        "shape": list(data.train_images.shape[1:]),
        "mean": [round(value, 6) for value in data.mean.tolist()],
        "std": [round(value, 6) for value in data.std.tolist()],
        "parameters": sum(p.numel() for p in network.parameters()),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "verified": data.verified},
        "command": command,
        **{key: getattr(run, key) for key in OF_THE_RUN},
    }


def _write_card(file: Path, card: dict[str, Any]) -> None:
    write_whole(file, json.dumps(card, indent=1).encode() + b"\n")


def measure_shipped(card: dict[str, Any], data: LabelledImages) -> float:
    """Top-1 accuracy of a shipped file, percent, measured again as its card's was.

    Raises:
        ValueError: the data is not what the card says.
    """
    if data.fingerprint != card["data"]["fingerprint"]:
        raise ValueError(f"{card['file']} was trained on {card['data']['name']}, and {data.name} is other data")
    return evaluate(build(card["network"], card["classes"], pretrained=card["data"]["name"]), data)
