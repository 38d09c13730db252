"""Everything of the course that moves: `explore` puts sliders over a figure, `upload_picture` takes in a picture of
one's own, `TrainingView` and `GridView` show a training and a grid while they run, and `GridForm` chooses a grid.

How a slider stays quick and quiet (measured in JupyterLab and with Colab's older widgets): each state's picture is
drawn once, kept as a PNG, and handed to the page as the value of an `HTML` widget that holds an `<img>`. No `Output`,
`interact` or `clear_output`: they redraw for 300 to 500 ms, flicker, and cannot be compared by nbval. Only widgets and
names that ipywidgets 7.7.1 and 8 both have.
"""

from __future__ import annotations

import asyncio
import base64
import html
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from spectralkd_nb.distillation.progress import Progress, describe_progress, in_words
from spectralkd_nb.experiments.plan import planned_runs, planned_teachers, read_grid
from spectralkd_nb.experiments.progress import describe_grid, progress_table, reasons_of_failure
from spectralkd_nb.experiments.records import FINISHED, state_of
from spectralkd_nb.experiments.work import GridProgress
from spectralkd_nb.pictures import Picture, read_picture
from spectralkd_nb.plots import CaptionedFigure, training_curves

if TYPE_CHECKING:
    import pandas

__all__ = ["GridForm", "GridView", "TrainingView", "explore", "upload_picture"]

CACHE_BYTES = 64 * 2**20
IDLE = 0.6  # seconds without a move before the cache is filled: drawing must not stand in the way of a moving hand
STYLE = "max-width:100%;height:auto;display:block"
STATUS_STYLE = "line-height:1.4;min-height:4.2em;max-width:800px"
TABLE_STYLE = "border-collapse:collapse;font-size:13px;line-height:1.5"
CELL_STYLE = "padding:1px 12px 1px 0;min-width:7em;text-align:left"

State = tuple[int, ...]


class Explorer(ipywidgets.VBox):
    """Sliders over the states of a figure, with a picture, a status line in words, and a menu beside each slider.

    Made by `explore`. `select(name=value, ...)` moves the sliders from code; `status` and `picture` are the widgets
    that show the current state; `fill()` draws every state that is still missing, nearest first.
    """

    def __init__(
        self,
        draw: Callable[..., CaptionedFigure],
        controls: Mapping[str, Sequence[Any]],
        name: str,
        start: Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self._draw = draw
        taken = {"picture", "status", "button"} & set(controls)
        if taken:
            raise ValueError(f"a control cannot be called {', '.join(sorted(taken))}; its CSS class is taken")
        self._values = {control: list(values) for control, values in controls.items()}
        self._name = name
        self._cache_bytes = cache_bytes
        self._frames: OrderedDict[State, tuple[bytes, str]] = OrderedDict()
        self._failed: set[State] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._moving = False
        self._last = b""
        chosen = {
            control: self._position(control, (start or {}).get(control, values[0]))
            for control, values in self._values.items()
        }
        self._sliders = {control: self._slider(control, index) for control, index in chosen.items()}
        self._menus = {control: self._menu(control, index) for control, index in chosen.items()}
        self.picture = ipywidgets.HTML().add_class(f"sk-{name}-picture")
        self.status = ipywidgets.HTML().add_class(f"sk-{name}-status")
        rows = [
            ipywidgets.HBox([self._sliders[c], self._menus[c]], layout={"flex_flow": "row wrap"}) for c in self._values
        ]
        super().__init__([*rows, self.picture, self.status])
        self.add_class(f"sk-{name}")
        self._show()

    def select(self, **values: Any) -> Explorer:
        """Move to a state by its values; controls that are not named stay where they are."""
        for control, value in values.items():
            self._sliders[control].index = self._position(control, value)
        return self

    def fill(self, progress: bool = False) -> Explorer:
        """Draw every state that is not in the cache yet, nearest to the current one first."""
        from tqdm.auto import tqdm

        missing = self._missing()
        for state in tqdm(missing, desc=f"pictures for {self._name}", leave=False, disable=not progress):
            self._remember(state)
        return self

    def __repr__(self) -> str:
        # Short: it is what a notebook without a kernel shows in the sliders' place, and what nbval compares.
        size = " x ".join(str(len(values)) for values in self._values.values())
        return f"[sliders: {', '.join(self._values)} ({size}); they move once the cell is run]"

    def _position(self, control: str, value: Any) -> int:
        if control not in self._values:
            raise ValueError(f"there is no control {control!r}; the controls are {', '.join(self._values)}")
        if value not in self._values[control]:
            raise ValueError(f"{control}={value!r} is none of its values: {', '.join(map(str, self._values[control]))}")
        return self._values[control].index(value)

    def _slider(self, control: str, index: int) -> ipywidgets.SelectionSlider:
        slider = ipywidgets.SelectionSlider(
            options=self._options(control),
            index=index,
            description=_label(control),
            style={"description_width": "9em"},
            layout={"width": "32em", "max_width": "100%"},
        )
        slider.observe(lambda change: self._moved(control, change["new"]), names="index")
        return slider.add_class(f"sk-{self._name}-{control}")

    def _menu(self, control: str, index: int) -> ipywidgets.Dropdown:
        menu = ipywidgets.Dropdown(
            options=self._options(control),
            index=index,
            description=f"or choose {_label(control)}",
            style={"description_width": "initial"},
            layout={"width": "22em", "max_width": "100%"},
        )
        menu.observe(lambda change: self._moved(control, change["new"]), names="index")
        return menu.add_class(f"sk-{self._name}-{control}-menu")

    def _options(self, control: str) -> list[tuple[str, int]]:
        return [(_text(value), i) for i, value in enumerate(self._values[control])]

    def _moved(self, control: str, index: int) -> None:
        """Bring slider and menu to the same place, then show it once."""
        if self._moving:
            return
        self._moving = True
        try:
            self._sliders[control].index = self._menus[control].index = index
        finally:
            self._moving = False
        self._show()
        # Only now: sliders that nobody has touched must not slow the cells that run after them.
        self._fill_when_idle(IDLE)

    def _state(self) -> State:
        return tuple(slider.index for slider in self._sliders.values())

    def _show(self) -> None:
        state = self._state()
        words = html.escape(self._words(state))
        try:
            png, caption = self._remember(state)
        except Exception as error:
            # Shown to the person: what a widget raises ends up in a log that nobody reads.
            self.status.value = (
                f'<div role="alert" style="{STATUS_STYLE};color:#B00020"><b>{words}</b>: there is no picture. '
                f"{html.escape(type(error).__name__)}: {html.escape(str(error))}</div>"
            )
            # The last picture stays, faint, so that the page does not jump; it does not show this state.
            self.picture.value = _image(self._last, "there is no picture", faint=True) if self._last else ""
            return
        self._last = png
        self.picture.value = _image(png, caption)
        self.status.value = f'<div role="status" style="{STATUS_STYLE}"><b>{words}.</b> {html.escape(caption)}</div>'

    def _words(self, state: State) -> str:
        return ", ".join(f"{_label(control)}: {_text(value)}" for control, value in self._chosen(state).items())

    def _chosen(self, state: State) -> dict[str, Any]:
        return {control: values[i] for (control, values), i in zip(self._values.items(), state, strict=True)}

    def _remember(self, state: State) -> tuple[bytes, str]:
        """The frame of a state, drawn at most once while it is in the cache."""
        if state not in self._frames:
            drawn = self._draw(**self._chosen(state))
            self._frames[state] = drawn.png(), drawn.caption
            while self._used() > self._cache_bytes and len(self._frames) > 1:
                self._frames.popitem(last=False)
        self._frames.move_to_end(state)
        return self._frames[state]

    def _used(self) -> int:
        return sum(len(png) for png, _ in self._frames.values())

    def _missing(self) -> list[State]:
        """States to draw, nearest first, as many as the cache can hold beside what it has."""
        here = self._state()
        everything = itertools.product(*(range(len(values)) for values in self._values.values()))
        missing = [state for state in everything if state not in self._frames and state not in self._failed]
        missing.sort(key=lambda state: sum(abs(a - b) for a, b in zip(state, here, strict=True)))
        frame = self._used() / max(1, len(self._frames)) or self._cache_bytes
        return missing[: max(0, int((self._cache_bytes - self._used()) / frame))]

    def _fill_when_idle(self, delay: float) -> None:
        """Ask the kernel's own loop to draw a neighbour when nobody has moved for a while."""
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._timer = asyncio.get_running_loop().call_later(delay, self._fill_one)
        except RuntimeError:  # no loop: a script or a test, which calls fill() if it wants to
            self._timer = None

    def _fill_one(self) -> None:
        missing = self._missing()
        if not missing:
            return
        try:
            self._remember(missing[0])
        except Exception:  # told when somebody goes there
            self._failed.add(missing[0])
        self._fill_when_idle(0.02)


def explore(
    draw: Callable[..., CaptionedFigure],
    controls: Mapping[str, Sequence[Any]],
    name: str,
    start: Mapping[str, Any] | None = None,
    ahead: bool = False,
) -> Explorer:
    """Sliders over a figure, in one call. ::

        widgets.explore(
            lambda photograph, edges: plots.from_picture_to_law(scenes[photograph].grey(), photograph, edges),
            {"photograph": list(scenes), "edges": spectra.EDGES},
            name="border",
        )

    Args:
        draw: takes the controls by name, returns a `CaptionedFigure`, all of one size. It must not change anything:
            each state is drawn once, in any order.
        controls: name to the values its slider runs over, in order.
        name: of this set of sliders; its CSS classes are `sk-NAME`, `sk-NAME-CONTROL`, `sk-NAME-CONTROL-menu`,
            `sk-NAME-picture` and `sk-NAME-status`.
        start: where the sliders stand at first; the first value of each if None.
        ahead: draw every state now, behind a progress bar; for figures that take a simulation.

    Raises:
        ValueError: a control called picture, status or button, or a start that is not among a control's values.
    """
    explorer = Explorer(draw, controls, name, start)
    return explorer.fill(progress=True) if ahead else explorer


def upload_picture(show: Callable[[Picture], CaptionedFigure], name: str = "upload") -> ipywidgets.VBox:
    """A button that takes a picture from the person's disk, and the figure that `show` draws of it below.

    Args:
        show: takes the `Picture`, returns a `CaptionedFigure`.
        name: for the CSS classes `sk-NAME-...`.
    """
    button = ipywidgets.FileUpload(
        accept="image/*", multiple=False, description="choose a picture", layout={"width": "auto"}
    )
    picture = ipywidgets.HTML().add_class(f"sk-{name}-picture")
    status = ipywidgets.HTML("No picture chosen yet; it stays on this computer's kernel.").add_class(
        f"sk-{name}-status"
    )

    def taken(change: dict) -> None:
        if not change["new"]:
            return
        file_name, content = _uploaded(change["new"])
        try:
            drawn = show(read_picture(content, file_name))
        except Exception as error:
            status.value = f'<div role="alert" style="color:#B00020">{html.escape(str(error))}</div>'
            return
        picture.value = _image(drawn.png(), drawn.caption)
        status.value = f'<div role="status" style="{STATUS_STYLE}">{html.escape(drawn.caption)}</div>'

    button.observe(taken, names="value")
    return _Upload([button.add_class(f"sk-{name}-button"), picture, status]).add_class(f"sk-{name}")


class TrainingView(ipywidgets.VBox):
    """What a training does, while it does it: a bar, the losses by name, the time left, and curves that grow. ::

        view = TrainingView()
        display(view)
        train("resnet8", data, callback=view)

    The words change with every call; the picture only after an epoch, since drawing takes time from training.

    Args:
        name: for the CSS classes `sk-NAME`, `sk-NAME-picture` and `sk-NAME-status`.
    """

    def __init__(self, name: str = "training") -> None:
        self.picture = ipywidgets.HTML().add_class(f"sk-{name}-picture")
        self.status = ipywidgets.HTML("The training has not started yet.").add_class(f"sk-{name}-status")
        self._epochs_drawn = -1
        super().__init__([self.status, self.picture])
        self.add_class(f"sk-{name}")

    def __call__(self, progress: Progress) -> None:
        """Show what `train` tells its callback."""
        finished = len(progress.curves.get("epoch", []))
        if finished != self._epochs_drawn:
            drawn = training_curves(progress.curves, progress.title, progress.epochs)
            self.picture.value = _image(drawn.png(), drawn.caption)
            self._epochs_drawn = finished
        self.status.value = _training_words(progress)

    def end(self, summary: str) -> None:
        """Say that a run was finished before, with its summary, if it has told nothing."""
        if self._epochs_drawn < 0:
            self.status.value = f'<div role="status">Read from its folder, finished. {html.escape(summary)}</div>'

    def __repr__(self) -> str:
        return "[a training's progress; it is seen while the cell runs]"


def _training_words(progress: Progress) -> str:
    tested = progress.curves.get("test accuracy")
    where = "finished" if progress.done else f"epoch {progress.epoch} of {progress.epochs}"
    share = 1.0 if progress.done else (progress.epoch - 1 + progress.step / progress.steps) / progress.epochs
    facts = [
        f"on training images {describe_progress(progress)}",
        *([f"on test images {tested[-1]:.1f} %"] if tested else []),
        f"took {in_words(progress.seconds)}" if progress.done else f"{in_words(progress.seconds_left)} left",
    ]
    return (
        f'<div role="status" style="{STATUS_STYLE}"><b>{html.escape(progress.title)}, {where}.</b> '
        f"{html.escape('; '.join(facts))}.<br>"
        f'<progress max="1" value="{share:.4f}" aria-label="share of the training done" style="width:100%">'
        "</progress></div>"
    )


class GridView(ipywidgets.VBox):
    """How far a grid of runs is, while it goes on: a table by method and seed, and the bar of the current run. ::

        view = GridView()
        display(view)
        run_grid(grid, store, callback=view)

    The bar moves with every call; the table only when a run begins, ends or gets on by an epoch.

    Args:
        name: for the CSS classes `sk-NAME`, `sk-NAME-table` and `sk-NAME-status`.
    """

    def __init__(self, name: str = "grid") -> None:
        self.table = ipywidgets.HTML().add_class(f"sk-{name}-table")
        self.status = ipywidgets.HTML("The grid has not started yet.").add_class(f"sk-{name}-status")
        self._shown: tuple[tuple[str, ...], ...] = ()
        super().__init__([self.table, self.status])
        self.add_class(f"sk-{name}")

    def __call__(self, progress: GridProgress) -> None:
        """Show what `run_grid` tells its callback."""
        if self._shown != (progress.states, progress.details):
            self._shown = progress.states, progress.details
            self.table.value = _grid_html(progress)
        self.status.value = (
            _training_words(progress.run) if progress.run else '<div role="status">No run goes on.</div>'
        )

    def __repr__(self) -> str:
        return "[a grid's progress; it is seen while the cell runs]"


class GridForm(ipywidgets.VBox):
    """A grid as a form: which scale, which pairs, methods and seeds, and the folder that keeps the runs. ::

        form = GridForm({"quick": "quick.toml", "full": full_grid}, "runs/mine")
        form
        run_grid(form.grid, form.store)

    Menus and lists work by keyboard; in a list Shift and Ctrl choose several. A change of the scale brings back all its
    pairs, methods and seeds. The line below tells how many runs the store lacks.

    Args:
        scales: by name, grids as dicts or TOML files; the first is chosen at first, unless `scale` names another.
        store: folder of runs.
        scale: which is chosen.
        name: for the CSS classes `sk-NAME`, `sk-NAME-scale`, and so on.

    Raises:
        ValueError: no scales, or what `planned_runs` refuses of one of them.
    """

    def __init__(
        self,
        scales: Mapping[str, Mapping[str, Any] | str | Path],
        store: str | Path,
        scale: str | None = None,
        name: str = "form",
    ) -> None:
        if not scales:
            raise ValueError("there is no grid to choose from; give one, by name")
        self._grids = {key: read_grid(grid) for key, grid in scales.items()}
        for grid in self._grids.values():
            planned_runs(grid)
        if scale is not None and scale not in self._grids:
            raise ValueError(f"there is no scale {scale!r}; there are {', '.join(map(repr, self._grids))}")
        style = {"style": {"description_width": "7em"}, "layout": {"width": "32em", "max_width": "100%"}}
        self.scale = ipywidgets.Dropdown(
            options=list(self._grids), value=scale or next(iter(self._grids)), description="scale", **style
        ).add_class(f"sk-{name}-scale")
        self.pairs = ipywidgets.SelectMultiple(description="pairs", **style).add_class(f"sk-{name}-pairs")
        self.methods = ipywidgets.SelectMultiple(description="methods", **style).add_class(f"sk-{name}-methods")
        self.seeds = ipywidgets.Dropdown(description="seeds", **style).add_class(f"sk-{name}-seeds")
        self.folder = ipywidgets.Text(
            value=str(store), description="runs kept in", continuous_update=False, **style
        ).add_class(f"sk-{name}-folder")
        self.status = ipywidgets.HTML().add_class(f"sk-{name}-status")
        self._changing = False
        self._fill()
        self.scale.observe(lambda _: self._fill(), names="value")
        for control in (self.pairs, self.methods, self.seeds, self.folder):
            control.observe(lambda _: self._tell(), names="value")
        super().__init__([self.scale, self.pairs, self.methods, self.seeds, self.folder, self.status])
        self.add_class(f"sk-{name}")

    @property
    def grid(self) -> dict[str, Any]:
        """The chosen grid, as `run_grid` takes it.

        Raises:
            ValueError: no pair or no method is chosen.
        """
        whole = self._grids[self.scale.value]
        for control in (self.pairs, self.methods):
            if not control.value:
                raise ValueError(f"no {control.description} are chosen; choose one or more in the form")
        pairs = {_pair_words(pair): pair for pair in whole["pairs"]}
        return {
            **whole,
            "pairs": [pairs[words] for words in self.pairs.value],
            "methods": {method: whole["methods"][method] for method in self.methods.value},
            "seeds": list(whole["seeds"])[: self.seeds.value],
        }

    @property
    def store(self) -> Path:
        """The chosen folder. Runs of all scales may lie in one."""
        return Path(self.folder.value.strip() or ".").expanduser()

    def choose(self, **values: Any) -> GridForm:
        """Set controls from code.

        Args:
            values: scale, pairs, methods (lists of what the form shows), seeds (how many), folder.
        """
        for control in sorted(values, key=lambda name: name != "scale"):  # which brings back all the others
            getattr(self, control).value = values[control]
        return self

    def _fill(self) -> None:
        """Offer, and choose, everything that the scale has."""
        grid = self._grids[self.scale.value]
        self._changing = True
        try:
            for control, options in (
                (self.pairs, [_pair_words(p) for p in grid["pairs"]]),
                (self.methods, list(grid["methods"])),
            ):
                control.options, control.rows = options, min(max(len(options), 2), 8)  # one row looks like a menu
                control.value = tuple(options)
            count = len(grid["seeds"])
            self.seeds.options = [(f"{n} ({', '.join(map(str, grid['seeds'][:n]))})", n) for n in range(1, count + 1)]
            self.seeds.value = count
        finally:
            self._changing = False
        self._tell()

    def _tell(self) -> None:
        if self._changing:
            return
        try:
            told = _grid_words(self.grid, self.store)
        except (ValueError, OSError, RuntimeError) as error:  # a home folder of nobody is a RuntimeError
            self.status.value = (
                f'<div role="alert" style="{STATUS_STYLE};color:#B00020">{html.escape(str(error))}</div>'
            )
            return
        self.status.value = f'<div role="status" style="{STATUS_STYLE}">{html.escape(told)}</div>'

    def __repr__(self) -> str:
        return (
            f"[a form: scale, pairs, methods, seeds, folder ({', '.join(self._grids)}); it works once the cell is run]"
        )


def _pair_words(pair: Mapping[str, Any]) -> str:
    return f"{pair['student']} from {pair['teacher']}" if pair.get("teacher") else str(pair["student"])


def _grid_words(grid: Mapping[str, Any], store: Path) -> str:
    """How much a grid asks for, and how much of it a store has."""
    teachers, plans = planned_teachers(grid), planned_runs(grid)
    left = sum(state_of(plan, store)[0] != FINISHED for plan in [*teachers, *plans])
    epochs = "; ".join(
        f"{name}: {setting['data']}, {plan.recipe.epochs} epochs in batches of {plan.recipe.batch_size}"
        for name, setting in grid["protocols"].items()
        for plan in [next(plan for plan in plans if plan.protocol == name)]
    )
    first = f", and {len(teachers)} to train teachers first" if teachers else ""
    return f"{len(plans)} runs ({epochs}){first}. {left} of them are not in {store} yet."


def _grid_html(progress: GridProgress) -> str:
    table = progress_table(progress)
    told = "".join(f"<br>{html.escape(reason)}" for reason in reasons_of_failure(progress))
    return (
        f"<div><b>{html.escape(describe_grid(progress))}.</b>{told}</div>"
        f"{_as_html(table.droplevel(_constant_levels(table.index)))}"
    )


def _constant_levels(index: Any) -> list[str]:
    """Levels that name one thing in all rows, or nothing; but for the last, which is the method."""
    return [name for name in index.names[:-1] if len(set(index.get_level_values(name)) - {""}) <= 1]


def _as_html(table: pandas.DataFrame) -> str:
    """A table whose columns keep their width while cells change; styled in place, since a widget has no style sheet."""
    named = table.rename(columns="seed {}".format).rename_axis(columns=None)
    cells = named.reset_index().to_html(border=0, index=False)
    styled = cells.replace("<td>", f'<td style="{CELL_STYLE}">').replace("<th>", f'<th style="{CELL_STYLE}">')
    return styled.replace('style="text-align: right;"', "").replace("<table ", f'<table style="{TABLE_STYLE}" ')


class _Upload(ipywidgets.VBox):
    def __repr__(self) -> str:  # ipywidgets' own text differs between its versions
        return "[a button that takes a picture; it works once the cell is run]"


def _uploaded(value: Any) -> tuple[str, bytes]:
    """Name and content of the one uploaded file: ipywidgets 7 gives a dict by name, 8 a tuple of dicts."""
    if isinstance(value, dict):
        file_name, file = next(iter(value.items()))
        return file_name, bytes(file["content"])
    return value[0]["name"], bytes(value[0]["content"])


def _label(control: str) -> str:
    return control.replace("_", " ")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _image(png: bytes, caption: str, faint: bool = False) -> str:
    encoded = base64.b64encode(png).decode()
    style = f"{STYLE};opacity:0.1" if faint else STYLE
    return f'<img alt="{html.escape(caption, quote=True)}" src="data:image/png;base64,{encoded}" style="{style}">'
