"""The logic of sliders without a browser: values are set, and what the page would show is read."""

import asyncio
import io
import re

import ipywidgets
import pytest
from matplotlib.figure import Figure
from PIL import Image

from spectralkd_nb import widgets
from spectralkd_nb.distillation import Progress
from spectralkd_nb.plots import CaptionedFigure


class Drawing:
    """Draws a small figure that tells its state, counts how often, and refuses one state."""

    def __init__(self):
        self.drawn = []

    def __call__(self, letter: str, number: float) -> CaptionedFigure:
        self.drawn.append((letter, number))
        if (letter, number) == ("c", 0.5):
            raise ValueError("c does not go with <0.5>")
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.5, f"{letter}{number}")
        return CaptionedFigure(figure, f'Letter "{letter}" and alpha = {number}.')


@pytest.fixture
def drawing() -> Drawing:
    return Drawing()


@pytest.fixture
def explorer(drawing) -> widgets.Explorer:
    return widgets.explore(drawing, {"letter": ["a", "b", "c"], "number": [0.5, 1.0]}, name="test")


def control(explorer: widgets.Explorer, css_class: str) -> ipywidgets.Widget:
    rows = [child for child in explorer.children if isinstance(child, ipywidgets.HBox)]
    return next(w for row in rows for w in row.children if css_class in w._dom_classes)


def test_the_first_state_is_shown_and_nothing_else_drawn(explorer, drawing):
    assert drawing.drawn == [("a", 0.5)]
    assert 'alt="Letter &quot;a&quot; and alpha = 0.5."' in explorer.picture.value
    assert "letter: a, number: 0.5." in explorer.status.value
    assert "alpha = 0.5" in explorer.status.value


@pytest.mark.parametrize("css_class", ["sk-test-letter", "sk-test-letter-menu"])
def test_slider_and_menu_move_picture_words_and_each_other(explorer, css_class):
    before = explorer.picture.value
    control(explorer, css_class).index = 1
    assert explorer.picture.value != before
    assert "letter: b" in explorer.status.value
    assert control(explorer, "sk-test-letter").index == control(explorer, "sk-test-letter-menu").index == 1
    assert control(explorer, "sk-test-letter").label == control(explorer, "sk-test-letter-menu").label == "b"


def test_a_state_is_drawn_once(explorer, drawing):
    for letter in "bababa":
        explorer.select(letter=letter)
    assert drawing.drawn == [("a", 0.5), ("b", 0.5)]


def test_the_picture_is_a_png_in_the_page(explorer):
    import base64

    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', explorer.picture.value).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(encoded))).format == "PNG"


def test_an_error_is_shown_to_the_person_and_the_sliders_go_on(explorer):
    explorer.select(letter="c")
    assert 'role="alert"' in explorer.status.value
    assert "c does not go with &lt;0.5&gt;" in explorer.status.value
    assert 'alt="there is no picture"' in explorer.picture.value
    explorer.select(number=1.0)
    assert 'role="status"' in explorer.status.value
    assert "letter: c, number: 1" in explorer.status.value


def test_start_and_ahead(drawing):
    possible = {"letter": ["a", "b"], "number": [0.5, 1.0]}
    explorer = widgets.explore(drawing, possible, "test", start={"letter": "b"}, ahead=True)
    assert drawing.drawn[0] == ("b", 0.5)
    assert len(drawing.drawn) == 4
    explorer.select(letter="a", number=1.0)
    assert len(drawing.drawn) == 4


def test_the_cache_keeps_to_its_size(drawing):
    one = len(drawing("a", 1.0).png())
    explorer = widgets.Explorer(
        drawing, {"letter": list("abdefgh"), "number": [1.0]}, "test", cache_bytes=3 * one + 200
    )
    for letter in "abdefgh":
        explorer.select(letter=letter)
    assert explorer._used() <= 3 * one + 200
    drawing.drawn.clear()
    explorer.select(letter="g")  # one of the last three
    explorer.select(letter="a")  # long forgotten
    assert drawing.drawn == [("a", 1.0)]


def test_filling_starts_with_the_neighbours_and_stops_at_the_cache(drawing):
    explorer = widgets.Explorer(drawing, {"letter": list("abdefgh"), "number": [1.0]}, "test", start={"letter": "e"})
    explorer.fill()
    assert [letter for letter, _ in drawing.drawn[:3]] == ["e", "d", "f"]
    assert len(drawing.drawn) == 7
    small = widgets.Explorer(drawing, {"letter": list("abdefgh"), "number": [1.0]}, "test", cache_bytes=1)
    drawing.drawn.clear()
    small.fill()
    assert drawing.drawn == []


def test_the_kernels_loop_fills_the_cache_when_nobody_moves(drawing, monkeypatch):
    monkeypatch.setattr(widgets, "IDLE", 0.01)

    async def idle():
        explorer = widgets.Explorer(drawing, {"letter": ["a", "b", "c"], "number": [0.5, 1.0]}, "test")
        await asyncio.sleep(0.2)
        assert len(drawing.drawn) == 1  # untouched sliders draw nothing
        explorer.select(letter="b")
        await asyncio.sleep(1.5)
        return explorer

    explorer = asyncio.run(idle())
    # All six were tried, and the one that cannot be drawn once only.
    assert sorted(set(drawing.drawn)) == sorted(drawing.drawn)
    assert len(drawing.drawn) == 6
    assert explorer._missing() == []


def test_its_text_is_short_and_the_same_everywhere(explorer):
    assert repr(explorer) == "[sliders: letter, number (3 x 2); they move once the cell is run]"


def test_names_of_the_parts_are_taken(drawing):
    with pytest.raises(ValueError, match="cannot be called picture"):
        widgets.explore(drawing, {"picture": ["a"]}, "test")


def test_wrong_values_are_said_clearly(explorer, drawing):
    with pytest.raises(ValueError, match="the controls are letter, number"):
        explorer.select(colour="red")
    with pytest.raises(ValueError, match="none of its values: a, b, c"):
        explorer.select(letter="z")
    with pytest.raises(ValueError, match="none of its values"):
        widgets.explore(drawing, {"letter": ["a"], "number": [1.0]}, "test", start={"letter": "q"})


@pytest.mark.parametrize("generation", [7, 8])
def test_uploads_of_both_generations_of_widgets(generation):
    shown = []

    def show(picture):
        shown.append(picture)
        return CaptionedFigure(Figure(figsize=(1, 1)), f"{picture.name} of {picture.size[0]} pixels.")

    box = widgets.upload_picture(show)
    button, picture, status = box.children
    file = io.BytesIO()
    Image.new("RGB", (9, 7)).save(file, format="png")
    changed = button._trait_notifiers["value"]["change"][-1]
    new = {
        7: {"cat.png": {"content": file.getvalue()}},
        8: ({"name": "cat.png", "content": memoryview(file.getvalue())},),
    }
    changed({"new": new[generation]})
    assert shown[0].name == "cat"
    assert 'alt="cat of 7 pixels."' in picture.value
    assert "cat of 7 pixels." in status.value
    changed({"new": {7: {"cat.png": {"content": b"text"}}, 8: ({"name": "cat.png", "content": b"text"},)}[generation]})
    assert "cat.png is no picture" in status.value


# --- a training that is watched ------------------------------------------------------------------


def told(epoch: int, step: int, done: bool = False, **changed) -> Progress:
    finished = epoch if done else epoch - 1
    curves = {
        "epoch": list(range(1, finished + 1)),
        "cross-entropy": [2.0 / n for n in range(1, finished + 1)],
        "train accuracy": [50.0] * finished,
        "test accuracy": [40.0] * finished,
    }
    usual = {"title": "student <1>", "epochs": 3, "steps": 10, "losses": {"cross-entropy": 1.25}, "accuracy": 51.0}
    return Progress(
        **(usual | changed), epoch=epoch, step=step, curves=curves, seconds=30.0, seconds_left=60.0, done=done
    )


def test_a_training_view_tells_epoch_losses_accuracy_and_time_left():
    view = widgets.TrainingView()
    assert "not started" in view.status.value
    view(told(1, 5))
    for words in ("student &lt;1&gt;, epoch 1 of 3", "cross-entropy 1.250", "accuracy 51.0 %", "60 s left"):
        assert words in view.status.value
    assert 'value="0.1667"' in view.status.value
    assert "the first epoch is not finished yet" in view.picture.value


def test_a_training_view_draws_once_an_epoch():
    view = widgets.TrainingView()
    pictures = []
    for progress in (told(1, 5), told(1, 9), told(2, 1), told(2, 9), told(3, 10, done=True)):
        view(progress)
        pictures.append(view.picture.value)
    assert len(set(pictures)) == 3
    assert pictures[0] == pictures[1]
    assert "after 3 epochs: 40.0 % of the test images" in pictures[-1]
    assert "finished" in view.status.value
    assert "took 30 s" in view.status.value


def test_a_training_view_is_one_short_line_without_a_kernel():
    assert repr(widgets.TrainingView()) == "[a training's progress; it is seen while the cell runs]"
