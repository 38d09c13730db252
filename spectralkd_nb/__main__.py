"""What the package does without a notebook: python -m spectralkd_nb COMMAND."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from spectralkd_nb.datasets import read_npz
from spectralkd_nb.distillation import PRECISIONS, SCHEDULES, Recipe, TerminalProgress, train
from spectralkd_nb.pictures import each_picture, measure_exponents


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m spectralkd_nb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    exponents = commands.add_parser("exponents", help="measure alpha of every picture in a folder, into a CSV file")
    exponents.add_argument("folder", type=Path, help="folder of pictures")
    exponents.add_argument("out", type=Path, help="CSV file to write, one row a picture")
    exponents.set_defaults(run=lambda options: write_exponents(options.folder, options.out))
    add_training(commands.add_parser("train", help="train one network, or go on with a training that was stopped"))
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


def write_exponents(folder: Path, out: Path) -> None:
    """alpha of every picture in a folder, as `measure_exponents` measures it, to four digits."""
    rows = measure_exponents(each_picture(folder))
    rounded = [{key: f"{v:.4f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rounded[0])
        writer.writeheader()
        writer.writerows(rounded)
    print(f"{len(rows)} pictures measured -> {out}")


def add_training(parser: argparse.ArgumentParser) -> None:
    """The arguments of one training run; what is not given is the `Recipe`'s own."""
    usual = Recipe()
    parser.add_argument("network", help="resnet20, resnet32x4, plain20, wrn-16-2, vgg13, ...")
    parser.add_argument("data", help="an .npz file")
    parser.add_argument("--folder", type=Path, required=True, help="where the run is kept, and goes on from")
    parser.add_argument("--epochs", type=int, default=usual.epochs)
    parser.add_argument("--batch-size", type=int, default=usual.batch_size)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--schedule", choices=SCHEDULES, default=usual.schedule)
    parser.add_argument("--milestones", type=int, nargs="*", default=usual.milestones, help="of the step schedule")
    parser.add_argument("--weight-decay", type=float, default=usual.weight_decay)
    parser.add_argument("--precision", choices=PRECISIONS, default=usual.precision)
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=train_one)


def train_one(options: argparse.Namespace) -> None:
    names = ("epochs", "batch_size", "learning_rate", "schedule", "milestones", "weight_decay", "precision")
    recipe = Recipe(**{name: getattr(options, name) for name in names})
    with TerminalProgress() as progress:
        run = train(
            options.network,
            read_npz(options.data),
            recipe,
            seed=options.seed,
            folder=options.folder,
            callback=progress,
        )
    print(run)


if __name__ == "__main__":
    main()
