"""What the package does without a notebook: python -m spectralkd_nb COMMAND."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectralkd_nb.datasets import open_dataset
from spectralkd_nb.depth_law.simulations import write_simulations
from spectralkd_nb.distillation import Recipe, TerminalProgress, distributed, train
from spectralkd_nb.distillation.history import epoch_profiles
from spectralkd_nb.distillation.records import PRECISIONS, SCHEDULES
from spectralkd_nb.distillation.shipping import measure_shipped, ship, ship_epochs
from spectralkd_nb.distillation.store import kept_files
from spectralkd_nb.experiments import (
    compare_methods,
    finished_runs,
    planned_runs,
    read_records,
    results_of,
    run_grid,
    summary,
)
from spectralkd_nb.experiments.features import grid_discrepancies, grid_probes
from spectralkd_nb.experiments.plan import read_grid
from spectralkd_nb.experiments.profiles import grid_profiles
from spectralkd_nb.experiments.progress import TerminalGrid
from spectralkd_nb.experiments.records import FAILURE, FINISHED, write_records
from spectralkd_nb.experiments.responses import TEMPERATURES, shipped_responses, sweep_responses
from spectralkd_nb.experiments.spectra import grid_spectra
from spectralkd_nb.experiments.sweep import failed_runs, sweep_teachers
from spectralkd_nb.experiments.sweet_spot import sweet_spot, teachers_of
from spectralkd_nb.experiments.tables import FORMATS, results_table, table_as
from spectralkd_nb.experiments.targets import grid_targets
from spectralkd_nb.networks import shipped_networks
from spectralkd_nb.pictures import each_picture, measure_exponents
from spectralkd_nb.storage import write_whole

if TYPE_CHECKING:
    import pandas

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

RECIPE = asdict(Recipe())  # each setting, and what it is unless told otherwise


def add_exponents(commands: Commands) -> None:
    parser = commands.add_parser("exponents", help="measure alpha of every picture in a folder, into a CSV file")
    parser.add_argument("folder", type=Path, help="folder of pictures")
    parser.add_argument("out", type=Path, help="CSV file to write, one row a picture")
    parser.set_defaults(run=do_exponents)


def do_exponents(options: argparse.Namespace) -> None:
    """alpha of every picture in a folder, as `measure_exponents` measures it, to four digits."""
    import pandas as pd

    require_writable(options.out)
    table = pd.DataFrame(measure_exponents(each_picture(options.folder)))
    write_table(table, options.out, "%.4f")
    print(f"{len(table)} pictures measured -> {options.out}")


def add_train(commands: Commands) -> None:
    """What is not given of a recipe is the `Recipe`'s own."""
    parser = commands.add_parser("train", help="train one network, or go on with a training that was stopped")
    usual = Recipe()
    parser.add_argument("network", help="resnet20, resnet32x4, plain20, wrn-16-2, vgg13, ...")
    parser.add_argument("data", help="photographs, cifar10, cifar100, an .npz file or a folder")
    parser.add_argument("--folder", type=Path, required=True, help="where the run is kept, and goes on from")
    parser.add_argument("--ship", type=Path, help="also write half-precision weights and their card, for data/weights")
    parser.add_argument(
        "--ship-epochs", type=Path, help="also write what --keep-epochs keeps, and a card, for data/weights/epochs"
    )
    parser.add_argument("--epochs", type=int, default=usual.epochs)
    parser.add_argument("--batch-size", type=int, default=usual.batch_size)
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate)
    parser.add_argument("--schedule", choices=SCHEDULES, default=usual.schedule)
    parser.add_argument("--milestones", type=int, nargs="*", default=usual.milestones, help="of the step schedule")
    parser.add_argument("--weight-decay", type=float, default=usual.weight_decay)
    parser.add_argument("--precision", choices=PRECISIONS, default=usual.precision)
    parser.add_argument("--no-augment", dest="augment", action="store_false", help="no shifts and mirror images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep-epochs", type=int, nargs="*", default=(), help="also keep the weights after these epochs"
    )
    parser.set_defaults(run=do_train)


def do_train(options: argparse.Namespace) -> None:
    """Train a network, or read the finished run, and ship it if that is asked for."""
    if options.ship_epochs and not options.keep_epochs:
        raise ValueError("--ship-epochs ships what --keep-epochs keeps; name the epochs")
    recipe, data = recipe_of(options), open_dataset(options.data)
    with TerminalProgress() if distributed.is_first() else contextlib.nullcontext() as progress:
        kept = {"folder": options.folder, "keep_epochs": options.keep_epochs}
        run = train(options.network, data, recipe, seed=options.seed, callback=progress, **kept)
    if not distributed.is_first():
        return
    print(run)
    # An earlier call may have asked for epochs that this one does not name, and all are shipped.
    command = command_of(options, recipe, kept_files(run, options.folder) if options.keep_epochs else ())
    shipped = []
    if options.ship:
        shipped.append(ship(run, data, options.ship, command))
    if options.ship_epochs:
        shipped += ship_epochs(run, options.folder, data, options.ship_epochs, command)["epochs"]
    for file in shipped:
        print(f"{file['file']}: {file['accuracy']:.2f} % in half precision")


def recipe_of(options: argparse.Namespace) -> Recipe:
    asked = {name: value for name, value in vars(options).items() if name in RECIPE}
    return Recipe(**asked | {"milestones": tuple(options.milestones)})


def command_of(options: argparse.Namespace, recipe: Recipe, kept: Collection[int]) -> str:
    """The command that makes a run again, keeps the same epochs and ships the same, without paths of this machine."""
    name = Path(options.data).stem
    folder = f"runs/{options.network}_{name}" + (f"_seed{options.seed}" if options.seed else "")
    words = [f"python -m spectralkd_nb train {options.network} {name} --folder {folder}"]
    for key, usual in RECIPE.items():
        value = getattr(recipe, key)
        if key == "augment" and not value:
            words.append("--no-augment")
        elif value != usual:
            given = " ".join(map(str, value)) if isinstance(value, tuple) else value
            words.append(f"--{key.replace('_', '-')} {given}")
    words.append(f"--seed {options.seed}")
    if kept:
        words.append(f"--keep-epochs {' '.join(map(str, kept))}")
    if options.ship:
        words.append("--ship data/weights")
    if options.ship_epochs:
        words.append("--ship-epochs data/weights/epochs")
    return " ".join(words)


def add_weights(commands: Commands) -> None:
    parser = commands.add_parser("weights", help="measure the shipped networks of a data set again")
    parser.add_argument("data", help="photographs, cifar100, or an .npz file of either")
    parser.set_defaults(run=do_weights)


def do_weights(options: argparse.Namespace) -> None:
    """Evaluate the shipped networks of one data set again, beside what their cards say."""
    data = open_dataset(options.data)
    cards = [card for card in shipped_networks() if card["data"]["fingerprint"] == data.fingerprint]
    if not cards:
        raise ValueError(f"no shipped network was trained on {data.name} as it is here")
    for card in cards:
        print(f"{card['file']}: {measure_shipped(card, data):.2f} %, and its card says {card['accuracy']:.2f} %")


def add_simulate_depth(commands: Commands) -> None:
    parser = commands.add_parser("simulate-depth", help="alpha by depth in random networks, into a CSV file")
    parser.add_argument("out", type=Path, help="CSV file to write; what it holds already is not simulated again")
    parser.set_defaults(run=do_simulate_depth)


def do_simulate_depth(options: argparse.Namespace) -> None:
    """What `write_simulations` lacks of its grid."""
    require_writable(options.out)
    write_simulations(options.out)


def add_epoch_profiles(commands: Commands) -> None:
    parser = commands.add_parser("epoch-profiles", help="alpha by depth before and during trainings, into a CSV file")
    parser.add_argument("out", type=Path, help="CSV file to write, one row a layer and epoch")
    parser.add_argument("folders", type=Path, nargs="+", help="of finished runs that kept epochs")
    parser.add_argument("--data", required=True, help="what they were trained on: cifar100, an .npz file or a folder")
    parser.set_defaults(run=do_epoch_profiles)


def do_epoch_profiles(options: argparse.Namespace) -> None:
    """What `epoch_profiles` finds of each run, one below the other, to four digits."""
    import pandas as pd

    require_writable(options.out)
    images = open_dataset(options.data)
    table = pd.concat([epoch_profiles(folder, images) for folder in options.folders])
    write_table(table, options.out, "%.4f")
    print(f"{len(table)} layers measured -> {options.out}")


def add_run(commands: Commands) -> None:
    parser = commands.add_parser(
        "run", aliases=["grid"], help="do the runs of a grid that a store lacks, and compare methods"
    )
    add_grid(parser)
    parser.add_argument("--retry", action="store_true", help="try again what has failed before")
    parser.add_argument("--together", type=int, default=1, help="runs of a seed that are trained at once; for a GPU")
    parser.add_argument("--baseline", help="compare every method with this one, seed by seed")
    parser.add_argument("--workers", choices=["ray"], help="give the runs to Ray, on a cluster or on this machine")
    parser.add_argument("--records", type=Path, help="also write the records of all finished runs into one file")
    parser.set_defaults(run=do_run)


def do_run(options: argparse.Namespace) -> None:
    """Run a grid to its end and print how its methods compare.

    Raises:
        ValueError: runs failed; said last, when all else is written.
    """
    grid = read_grid(options.grid)
    methods = {plan.method for plan in planned_runs(grid)}
    if options.baseline and options.baseline not in methods:  # said before hours of training, and not after
        raise ValueError(f"no method is called {options.baseline!r}; there are {', '.join(map(repr, sorted(methods)))}")
    if options.records:
        require_writable(options.records)
    with TerminalGrid() as progress:
        runs = run_grid(
            grid,
            store_of(options),
            retry=options.retry,
            callback=progress,
            together=options.together,
            workers=options.workers,
        )
    if distributed.is_first():
        tell_of_grid(options, grid, runs)
    if failed := (runs["state"] == FAILURE).sum():
        raise ValueError(f"{failed} of {len(runs)} runs failed; the reasons are above, and --retry tries them again")


def tell_of_grid(options: argparse.Namespace, grid: Mapping[str, Any], runs: pandas.DataFrame) -> None:
    """Write the records that are asked for, and print how the methods compare."""
    finished = runs[runs["state"] == FINISHED]
    if options.records:
        write_records(finished_runs(grid, store_of(options)), options.records)
        print(f"{len(finished)} runs -> {options.records}")
    if len(finished):
        print(summary(finished).to_string(index=False, float_format="%.2f"))
    if options.baseline and options.baseline not in set(finished["method"]):
        print(f"no run of {options.baseline!r} is finished, so there is nothing to compare with")
    elif options.baseline:
        print(compare_methods(finished, options.baseline).to_string(index=False, float_format="%.2f"))


def add_table(commands: Commands) -> None:
    parser = commands.add_parser("table", help="the results of a grid as text, LaTeX, Markdown or CSV")
    add_grid(parser)
    parser.add_argument("--baseline", help="compare with this method; the grid's first if none")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--out", type=Path, help="file to write; printed if none")
    parser.set_defaults(run=do_table)


def do_table(options: argparse.Namespace) -> None:
    """The finished runs of a grid as one table; the store may also be a file of their records.

    Raises:
        ValueError: the store holds none.
    """
    grid, store = read_grid(options.grid), store_of(options)
    records = read_records(store) if store.is_file() else finished_runs(grid, store)
    if not records:
        raise ValueError(f"{store} holds no finished run of {options.grid}")
    baseline = options.baseline or planned_runs(grid)[0].method
    text = table_as(results_table(results_of(records), baseline), options.format)
    if not options.out:
        print(text.rstrip("\n"))
        return
    require_writable(options.out)
    write_whole(options.out, f"{text.rstrip()}\n".encode())
    print(f"{len(records)} runs -> {options.out}")


def add_sweep(commands: Commands) -> None:
    parser = commands.add_parser("sweep", help="which teacher teaches best: train many, and a student from each")
    parser.add_argument("sweep", type=Path, help="TOML file; see spectralkd_nb/experiments/sweep.py")
    parser.add_argument("store", type=Path, help="folder of runs, which any number of processes may share")
    parser.add_argument("--retry", action="store_true", help="try again what has failed before")
    parser.add_argument("--table", type=Path, help="also write a CSV file, one row a student")
    parser.set_defaults(run=do_sweep)


def do_sweep(options: argparse.Namespace) -> None:
    """Run a sweep to its end, and print its teachers, best students first, and what follows.

    Raises:
        ValueError: runs failed; said last, when all else is written.
    """
    if options.table:
        require_writable(options.table)
    with TerminalGrid() as progress:
        table = sweep_teachers(options.sweep, options.store, retry=options.retry, callback=progress)
    if options.table:
        write_table(table, options.table, "%.6g")
        print(f"{len(table)} students -> {options.table}")
    print(teachers_of(table).to_string(index=False, float_format="%.2f"))
    print(sweet_spot(table))
    if failed := failed_runs(options.sweep, options.store):
        raise ValueError(f"{failed} runs failed and were left out; the reasons are above, and --retry tries them again")


def add_sweep_responses(commands: Commands) -> None:
    parser = commands.add_parser("sweep-responses", help="what a sweep's teachers still say of similarity, into CSV")
    parser.add_argument("sweep", type=Path, help="TOML file")
    parser.add_argument("store", type=Path, help="folder of its finished runs")
    parser.add_argument("out", type=Path, help="CSV file to write, one row a teacher, kind of images and temperature")
    parser.add_argument("--temperatures", type=float, nargs="+", default=TEMPERATURES, help="of the soft targets")
    parser.set_defaults(run=do_sweep_responses)


def do_sweep_responses(options: argparse.Namespace) -> None:
    """What `sweep_responses` finds, to six digits."""
    require_writable(options.out)
    table = sweep_responses(options.sweep, options.store, options.temperatures)
    if not len(table):
        raise ValueError(f"{options.store} holds no taught student of {options.sweep}; {options.out} was left as it is")
    write_table(table, options.out, "%.6g")
    print(f"{len(table)} responses measured -> {options.out}")


def add_responses(commands: Commands) -> None:
    parser = commands.add_parser("responses", help="what shipped networks of a data set say of similarity, into CSV")
    parser.add_argument("data", help="photographs, cifar100, or an .npz file of either")
    parser.add_argument("out", type=Path, help="CSV file to write, one row a network, epoch, images and temperature")
    parser.add_argument("--train-images", type=int, help="at most so many training images")
    parser.set_defaults(run=do_responses)


def do_responses(options: argparse.Namespace) -> None:
    """What `shipped_responses` finds, to six digits."""
    require_writable(options.out)
    table = shipped_responses(open_dataset(options.data), train_images=options.train_images)
    write_table(table, options.out, "%.6g")
    print(f"{len(table)} responses measured -> {options.out}")


def add_grid_spectra(commands: Commands) -> None:
    parser = commands.add_parser("grid-spectra", help="spectra of students and teachers of a grid, into a CSV file")
    add_grid_table(parser, "one row a ring")
    parser.set_defaults(run=do_grid_spectra)


def do_grid_spectra(options: argparse.Namespace) -> None:
    """What `grid_spectra` finds; of the grid's first seed at every kept epoch."""

    def measure() -> pandas.DataFrame:
        grid = read_grid(options.grid)
        return grid_spectra(grid, options.store, options.layers, all_epochs_of=planned_runs(grid)[0].seed)

    write_measured(options, measure, "rings measured")


def add_grid_profiles(commands: Commands) -> None:
    parser = commands.add_parser("grid-profiles", help="alpha by depth of students and teachers, into a CSV file")
    add_grid_table(parser, "one row a network and layer", layers=False)
    parser.set_defaults(run=do_grid_profiles)


def do_grid_profiles(options: argparse.Namespace) -> None:
    """What `grid_profiles` finds, to four digits."""
    write_measured(options, lambda: grid_profiles(options.grid, options.store), "layers measured", "%.4g")


def add_grid_probes(commands: Commands) -> None:
    parser = commands.add_parser("grid-probes", help="what linear classifiers read off students' layers, into CSV")
    add_grid_table(parser, "one row a network and layer")
    parser.add_argument("--data", help="a second task: cifar100, an .npz file or a folder; which way is up if none")
    parser.add_argument("--train-images", type=int, help="at most so many training images of the second task")
    parser.set_defaults(run=do_grid_probes)


def do_grid_probes(options: argparse.Namespace) -> None:
    """What `grid_probes` finds."""

    def measure() -> pandas.DataFrame:
        data = open_dataset(options.data) if options.data else None
        return grid_probes(options.grid, options.store, options.layers, data, options.train_images)

    write_measured(options, measure, "probes fitted")


def add_grid_discrepancies(commands: Commands) -> None:
    parser = commands.add_parser("grid-discrepancies", help="how far students' channels are from a teacher's")
    add_grid_table(parser, "one row a student, layer and kernel")
    parser.set_defaults(run=do_grid_discrepancies)


def do_grid_discrepancies(options: argparse.Namespace) -> None:
    """What `grid_discrepancies` finds."""
    write_measured(
        options, lambda: grid_discrepancies(options.grid, options.store, options.layers), "discrepancies measured"
    )


def add_grid_targets(commands: Commands) -> None:
    parser = commands.add_parser("grid-targets", help="what students were to match, and whether it came toward them")
    add_grid_table(parser, "one row a run, epoch and pair of layers")
    parser.set_defaults(run=do_grid_targets)


def do_grid_targets(options: argparse.Namespace) -> None:
    """What `grid_targets` finds; of the grid's first seed at every kept epoch."""

    def measure() -> pandas.DataFrame:
        grid = read_grid(options.grid)
        return grid_targets(grid, options.store, options.layers, all_epochs_of=planned_runs(grid)[0].seed)

    write_measured(options, measure, "targets measured")


# --- what several commands share ---


def add_grid(parser: argparse.ArgumentParser) -> None:
    """The arguments of what needs a grid and its store."""
    parser.add_argument("grid", type=Path, help="TOML file; see spectralkd_nb/experiments/plan.py")
    store = "folder of runs, which any number of processes may share; runs/NAME for a grid NAME.toml if none"
    parser.add_argument("store", type=Path, nargs="?", help=store)


def store_of(options: argparse.Namespace) -> Path:
    return options.store or Path("runs") / options.grid.stem


def add_grid_table(parser: argparse.ArgumentParser, rows: str, layers: bool = True) -> None:
    """The arguments of what measures layers of a grid's networks into a CSV file; layers: those that are named."""
    parser.add_argument("grid", type=Path, help="TOML file, with keep_epochs")
    parser.add_argument("store", type=Path, help="folder of its finished runs")
    parser.add_argument("out", type=Path, help=f"CSV file to write, {rows}")
    if layers:
        parser.add_argument("--layers", nargs="+", required=True, help="dotted paths, for example layer1 layer2")


def write_measured(
    options: argparse.Namespace, measure: Callable[[], pandas.DataFrame], done: str, form: str = "%.6g"
) -> None:
    """A table of a store's networks, once it is known that there are some and that it can be kept."""
    require_writable(options.out)
    require_finished(options)
    table = measure()
    write_table(table, options.out, form)
    print(f"{len(table)} {done} -> {options.out}")


def require_writable(out: Path) -> None:
    """Refuse, before hours of measuring and not after, a file that cannot be written; its folder is made."""
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name a file to write")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(f"nothing can be written into {out.parent}; name a file elsewhere")


def require_finished(options: argparse.Namespace) -> None:
    """Refuse a store without any finished run, which is most often a name mistyped; tell if some are missing."""
    finished, planned = len(finished_runs(options.grid, options.store)), len(planned_runs(options.grid))
    if not finished:
        raise ValueError(f"{options.store} holds no finished run of {options.grid}; {options.out} was left as it is")
    print(f"{finished} of {planned} runs are finished")


def write_table(table: pandas.DataFrame, out: Path, form: str) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, table.to_csv(index=False, float_format=form).encode())


COMMANDS = (
    add_exponents,
    add_train,
    add_weights,
    add_simulate_depth,
    add_epoch_profiles,
    add_run,
    add_table,
    add_sweep,
    add_sweep_responses,
    add_responses,
    add_grid_spectra,
    add_grid_profiles,
    add_grid_probes,
    add_grid_discrepancies,
    add_grid_targets,
)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m spectralkd_nb", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt as stop:  # train says in it how to go on; the first line break ends the terminal's ^C
        parser.exit(130, f"\n{parser.prog}: {str(stop) or 'stopped'}\n")


if __name__ == "__main__":
    main()
