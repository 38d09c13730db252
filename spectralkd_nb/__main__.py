"""What the package does without a notebook: python -m spectralkd_nb COMMAND."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from spectralkd_nb.pictures import each_picture, measure_exponents


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m spectralkd_nb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    exponents = commands.add_parser("exponents", help="measure alpha of every picture in a folder, into a CSV file")
    exponents.add_argument("folder", type=Path, help="folder of pictures")
    exponents.add_argument("out", type=Path, help="CSV file to write, one row a picture")
    exponents.set_defaults(run=lambda options: write_exponents(options.folder, options.out))
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


if __name__ == "__main__":
    main()
