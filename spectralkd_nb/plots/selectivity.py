"""What channels are selective for, and what a discrepancy of two sets of channel maps sees of them."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path
from torch import Tensor

from spectralkd_nb.losses.discrepancy import (
    KernelMatrices,
    kernel_matrices,
    pixel_gram,
    shift_average,
    two_pixel_maps,
    witness,
)
from spectralkd_nb.losses.selectivity import SMALLEST_VARIANCE, nst_loss
from spectralkd_nb.plots.style import (
    DASHES,
    MARKERS,
    PALETTE,
    WIDTH,
    CaptionedFigure,
    cut,
    decades_around,
    fixed_axis,
    new_figure,
    put_title,
    show_map,
)

SCALE = "viridis"  # perceptually uniform, and read in grey too
STUDENT, TEACHER = PALETTE[0], PALETTE[1]
FILLED = {"marker": "o", "color": STUDENT, "linestyle": "none", "ms": 7}  # the student's neurons
HOLLOW = {"marker": "s", "color": TEACHER, "linestyle": "none", "ms": 9, "mfc": "none", "mew": 1.8}  # the teacher's
FILLING = 0.94  # of its place in a row, by a picture
NO_PULL = 1e-6  # per radian
FULL_PULL, LONGEST_ARROW = 0.5, 35.0  # per radian; degrees, which that pull is drawn as
CUT = 1.2 * LONGEST_ARROW  # where the arrows of steeper pulls end
SHORTEST_ARROW = 1.5  # degrees; a shorter one would look like dirt
HEAD = 12.0  # points, of which an arrow's head is a part
LEVELS = 4  # of arrows, one inside the other
WITNESS_LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
FAINTEST_LOSS = 1e-9  # on a logarithmic axis; below lies rounding
WHITE = {"fc": "white", "ec": "none", "pad": 0.2}  # behind a text that lines cross
ABOVE, ASIDE = 5, 3  # of a marker, points; of the line at zero, pixels
NUMBER = {"ha": "center", "fontsize": 8, "zorder": 1.5, "bbox": WHITE}
LONGEST_LABEL = 20  # characters in a line of a method's name


def _bare(axis) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _range(values: Tensor) -> tuple[float, float]:
    """Lowest and highest, or a range of 1 where all are equal."""
    low, high = values.aminmax()
    return float(low), float(high if high > low else low + 1)


# --- what a channel responds to ------------------------------------------------------------------


def most_excited(
    images: Tensor, maps: Tensor, channel: int, title: str, names: Sequence[str] | None = None, shown: int = 8
) -> CaptionedFigure:
    """The pictures that excite one channel most, and below each the channel's map of it.

    How much a picture excites is the mean of the map. All maps have one scale of colours; the number below each is
    its mean.

    Args:
        images: (N, 3, H, W), 0..1.
        maps: (N, C, h, w), of one layer.
        channel: of the maps.
        title: of the layer.
        names: of each picture, such as its class; cut where they are long.
        shown: how many pictures; all places stay while the channel moves.

    Raises:
        ValueError: no such channel, or not as many images, maps and names.
    """
    if not 0 <= channel < maps.shape[1]:
        raise ValueError(f"there is no channel {channel}; the maps have {maps.shape[1]}")
    if not len(images) == len(maps) == (len(maps) if names is None else len(names)):
        raise ValueError(f"{len(images)} images, {len(maps)} maps and {names and len(names)} names are not the same")
    maps = maps[:, channel].detach().cpu().double()
    means = maps.mean((1, 2))
    best = means.argsort(descending=True, stable=True)[:shown].tolist()
    cell = 7.1 / shown  # inches, of which a picture leaves a little
    side = FILLING * cell
    figure = Figure(figsize=(WIDTH, 0.9 + 2 * side))
    below, above = (fixed_axis(figure, 0.1, bottom, 7.1, side) for bottom in (0.27, 0.35 + side))
    letters = int(14 * cell)  # that fit over a picture at 8 points
    text = {"ha": "center", "textcoords": "offset points", "size": 8}
    for place, n in enumerate(best):
        _put(above, images[n].detach().cpu().permute(1, 2, 0).clamp(0, 1), place)
        drawn = _put(below, maps[n], place, _range(maps[best]))
        if names is not None:
            above.annotate(cut(names[n], letters), (place + FILLING / 2, FILLING), (0, 3), **text)
        below.annotate(f"{means[n]:#.3g}".rstrip("."), (place + FILLING / 2, 0), (0, -11), **text)
    for axis in (above, below):
        axis.set(xlim=(0, shown), ylim=(0, FILLING))
        axis.axis("off")
    colours = figure.colorbar(drawn, cax=fixed_axis(figure, 7.28, 0.27, 0.1, side))
    colours.locator.set_params(nbins=3)
    colours.ax.tick_params(labelsize=8, length=2)
    figure.text(7.28 / WIDTH, 0.11 / figure.get_size_inches()[1], "mean", size=8)
    put_title(figure, f"{title}: what excites channel {channel} most, and its maps")
    return CaptionedFigure(figure, f"{title}, channel {channel}: {_said_of_excitement(means, best, names)}.")


def _said_of_excitement(means: Tensor, best: Sequence[int], names: Sequence[str] | None) -> str:
    if means.min() == means.max():
        return f"all {len(means)} pictures excite it alike, with a mean response of {means[0]:.3g}"
    told = f"the {len(best)} pictures that excite it most"
    if names is not None:
        name, count = Counter(names[n] for n in best).most_common(1)[0]
        told = f"{name} is {count} of {told}"
    return (
        f"{told}; its mean response is {means[best].mean():.3g} to these and {means.mean():.3g} over all "
        f"{len(means)} pictures"
    )


def _put(axis, picture: Tensor, place: int, limits: tuple[float, float] = (0, 1)):
    """One of a row of pictures on one axis, which is much quicker than an axis for each."""
    height, width = picture.shape[:2]
    size = FILLING / max(height, width)
    extent = (place, place + size * width, 0, size * height)
    return axis.imshow(
        picture.numpy(), extent=extent, aspect="auto", cmap=SCALE, vmin=limits[0], vmax=limits[1], interpolation="none"
    )


# --- maps of two pixels --------------------------------------------------------------------------


def two_pixel_sets(
    student: Sequence[float], teacher: Sequence[float], kernel: str, sigma: float | None = None, title: str = ""
) -> CaptionedFigure:
    """Maps of two pixels as points on a circle: where each of a student's neurons is pulled, and the witness function.

    An arrow goes the way that the loss falls when the neuron's angle changes, and is as long as the pull is steep, on
    one scale for all kernels and sigmas: 0.5 per radian is 35 degrees long. Steeper ones are cut at 42 degrees, and
    below 1.5, a pull of 0.0214, none is drawn; the caption has the steepest pull. The witness function is what
    the student's mean kernel has more than the teacher's: each of the student's neurons goes downhill on it.

    Args:
        student, teacher: angles of their neurons, degrees.
        kernel, sigma: as for `nst_loss`; the degree is 2.
        title: of the figure.
    """
    degrees = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    goal = torch.tensor(teacher, dtype=torch.float64)
    loss = nst_loss(two_pixel_maps(degrees), two_pixel_maps(goal), kernel, sigma=sigma)
    (slope,) = torch.autograd.grad(loss, degrees)
    pull, degrees = -slope.rad2deg(), degrees.detach()  # d/d rad = (180 / pi) d/d degree
    figure = Figure(figsize=(WIDTH, 3.75))
    left, right = fixed_axis(figure, 0.55, 0.45, 2.95, 2.95), fixed_axis(figure, 4.45, 0.5, 3.4, 2.75)
    _draw_circle(left, degrees, goal, pull)
    _draw_witness(right, degrees, goal, kernel, sigma)
    put_title(figure, title)
    known = _kernel_in_words(kernel, sigma, degrees, goal)
    right.set_title(known, fontsize=9)
    said = f"{known}: loss {_digits(loss.item())}; {_pull_in_words(pull, degrees)}"
    return CaptionedFigure(figure, f"{title + ', ' if title else ''}{said}.")


def _pull_in_words(pull: Tensor, student: Tensor) -> str:
    steepest = int(pull.abs().argmax())
    if pull[steepest].abs() < NO_PULL:
        return "nothing pulls at any neuron"
    at = f"on the student's neuron at {student[steepest]:.3g} degrees"
    drawn = "" if _arrow_length(float(pull[steepest])) else ", too little for an arrow"
    return f"the steepest pull is {pull[steepest].abs():.3g} per radian, {at}{drawn}"


def _kernel_in_words(kernel: str, sigma: float | None, student: Tensor, teacher: Tensor) -> str:
    if kernel != "gaussian":
        name = "poly kernel of degree 2" if kernel == "poly" else f"{kernel} kernel"
        return name if sigma is None else f"{name} (sigma {sigma:.3g} has no part)"
    if sigma is not None:
        return f"gaussian kernel, sigma {sigma:.3g}"
    own, others = two_pixel_maps(student), two_pixel_maps(teacher)
    return f"gaussian kernel, sigma of nst_loss, {_sigma_of_nst_loss(own, others):.3g}"


def _draw_circle(axis, student: Tensor, teacher: Tensor, pull: Tensor) -> None:
    """pull: of each of the student's neurons, per radian; the way up is anticlockwise."""
    turn = torch.linspace(0, 360, 181, dtype=torch.float64)
    axis.plot(*_on_circle(turn), color="0.8", lw=1, zorder=0)
    axis.plot(*_on_circle(teacher, 1.14), **HOLLOW, label="teacher")
    axis.plot(*_on_circle(student), **FILLED, label="student")
    for angle, steep, level in zip(student.tolist(), pull.tolist(), _levels(student.tolist()), strict=True):
        if length := _arrow_length(steep):
            _draw_arrow(axis, angle, length, 0.88 - 0.08 * level)
    axis.plot([], [], color="black", marker=">", ms=5, markevery=[-1], lw=1.4, label="pull, downhill")
    axis.set(xlim=(-1.3, 1.3), ylim=(-1.3, 1.3), xlabel="pixel 1", ylabel="pixel 2")
    axis.set_xticks([-1, 0, 1])
    axis.set_yticks([-1, 0, 1])
    axis.legend(loc="center", fontsize=9)


def _on_circle(degrees: Tensor, radius: float = 1.0) -> tuple[Tensor, Tensor]:
    return radius * degrees.deg2rad().cos(), radius * degrees.deg2rad().sin()


def _levels(angles: Sequence[float]) -> list[int]:
    """How far inside the circle each arrow lies: close neurons' arrows would cover each other."""
    order = sorted(range(len(angles)), key=lambda i: angles[i] % 360)
    gaps = [(angles[i] - angles[order[place - 1]]) % 360 for place, i in enumerate(order)]  # from the one before
    start = gaps.index(max(gaps))  # of a round that ends at the widest gap, so that 355 is beside 5
    levels, level = [0] * len(angles), 0
    for i, gap in zip(order[start:] + order[:start], [math.inf, *gaps[start + 1 :], *gaps[:start]], strict=True):
        level = (level + 1) % LEVELS if gap < CUT else 0
        levels[i] = level
    return levels


def _arrow_length(pull: float) -> float:
    """Degrees; 0 where none is drawn."""
    length = max(-CUT, min(CUT, pull / FULL_PULL * LONGEST_ARROW))
    return length if abs(length) >= SHORTEST_ARROW else 0.0


def _draw_arrow(axis, angle: float, length: float, radius: float) -> None:
    """Along the circle, a little inside, where it crosses no neuron. Short ones have thin lines and small heads."""
    size = min(1.0, 0.3 + 2 * abs(length) / LONGEST_ARROW)
    arc = torch.linspace(angle, angle + length, 20, dtype=torch.float64)
    path = Path(torch.stack(_on_circle(arc, radius), -1).numpy())
    head = f"-|>,head_length={0.4 * size:.2f},head_width={0.2 * size:.2f}"
    style = {"mutation_scale": HEAD, "color": "black", "lw": 1.4 * size, "shrinkA": 0, "shrinkB": 0}
    axis.add_patch(FancyArrowPatch(path=path, arrowstyle=head, **style))


def _draw_witness(axis, student: Tensor, teacher: Tensor, kernel: str, sigma: float | None) -> None:
    own, others = two_pixel_maps(student), two_pixel_maps(teacher)

    def height(degrees: Tensor) -> Tensor:
        return witness(two_pixel_maps(degrees), own, others, kernel, sigma=sigma)[0]

    turn = torch.linspace(0, 360, 721, dtype=torch.float64)
    axis.axhline(0, color="0.7", lw=1, zorder=0)
    curve = height(turn)
    axis.plot(turn, curve, color=PALETTE[6], lw=1.4)
    axis.plot(teacher % 360, height(teacher), **HOLLOW)
    axis.plot(student % 360, height(student), **FILLED)
    # In steps, so that the axis stays for most moves of a slider.
    limit = next((limit for limit in WITNESS_LIMITS if curve.abs().max() <= limit), 2.0)
    axis.set(xlim=(-5, 365), ylim=(-1.1 * limit, 1.1 * limit), xlabel="angle of a neuron, degrees")
    axis.set_xticks(range(0, 361, 90))
    axis.set_yticks([-limit, -limit / 2, 0, limit / 2, limit])
    axis.set_ylabel("witness: student's mean kernel\nless the teacher's", fontsize=9)


def _digits(value: float) -> str:
    """Three digits, and what is no more than rounding as 0."""
    return f"{value:.3g}" if value > 1e-12 else "0"


# --- kernels of real features --------------------------------------------------------------------


def kernels_by_sigma(
    student: Tensor, teacher: Tensor, sigma: float, sigmas: Sequence[float], title: str
) -> CaptionedFigure:
    """The Gaussian kernel between channels at one sigma, and the loss by sigma.

    The dashed line is about the sigma of `nst_loss` where it is given none: the root of the mean squared distance of a
    student's from a teacher's channel. `nst_loss` has one for each image, and this is one for all. The thin line is
    the loss of the "linear" kernel divided by sigma^2, which the loss tends to: to first order
    ``exp(-|x - y|^2 / 2 sigma^2)`` has x.y / sigma^2 in it, and no other part that the discrepancy sees.

    Args:
        student, teacher: maps (B, C, H, W); the kernels shown are of the first image, the loss is over all of them.
            With 32 images of 16 and 128 channels a state takes a fifth of a second.
        sigma: the one shown.
        sigmas: of the curve, rising; all from 0.001 on.
        title: of the layers.
    """
    student, teacher = (maps.detach().cpu().double() for maps in (student, teacher))
    usual, linear = _sigma_of_nst_loss(student, teacher), float(nst_loss(student, teacher, "linear"))
    *losses, now, there = (float(nst_loss(student, teacher, "gaussian", sigma=at)) for at in (*sigmas, sigma, usual))
    losses = torch.tensor(losses, dtype=torch.float64)
    figure = Figure(figsize=(WIDTH, 3.8))
    _draw_kernels(figure, kernel_matrices(student[:1], teacher[:1], "gaussian", sigma=sigma))
    axis = fixed_axis(figure, 4.4, 0.5, 3.45, 2.85)
    _label_sigmas(axis, sigmas, losses, len(student))
    axis.plot(sigmas, [linear / at**2 for at in sigmas], color="0.3", lw=1, linestyle=":", label="linear loss / σ²")
    axis.axvline(usual, color=PALETTE[1], linestyle="--", lw=1.2, label=f"σ of nst_loss: {usual:.3g}")
    seen = torch.where(losses < FAINTEST_LOSS, torch.nan, losses)
    axis.plot(sigmas, seen, color=PALETTE[0], marker=MARKERS[0], ms=3, label="loss")
    axis.axvline(sigma, color="0.8", lw=1, zorder=0)
    axis.plot(sigma, now if now >= FAINTEST_LOSS else math.nan, "D", color=PALETTE[6], ms=7, label=f"σ = {sigma:.3g}")
    if not (losses >= FAINTEST_LOSS).any():
        axis.text(0.5, 0.6, "the loss is 0 at every σ", ha="center", size=9, transform=axis.transAxes, bbox=WHITE)
    axis.legend(loc="lower left", fontsize=9, labelspacing=0.3)
    put_title(figure, title)
    return CaptionedFigure(
        figure,
        f"{title}: with sigma {sigma:.3g} the loss over {len(student)} image{'s' * (len(student) > 1)} is "
        f"{_digits(now)}, and linear / sigma^2 is {_digits(linear / sigma**2)}; the sigma of nst_loss is about "
        f"{usual:.3g}, where the loss is {_digits(there)}.",
    )


def _sigma_of_nst_loss(student: Tensor, teacher: Tensor) -> float:
    """About what `nst_loss` takes where it is given none: it has one for each image, and this is one for all."""
    cosines = kernel_matrices(student, teacher, "linear")
    s, t = (squares.diagonal(dim1=1, dim2=2).mean() for squares in (cosines.own, cosines.others))
    return math.sqrt(max(float(s + t - 2 * cosines.crossed.mean()), SMALLEST_VARIANCE))


def _draw_kernels(figure: Figure, matrices: KernelMatrices) -> None:
    """Three blocks of one image's kernel of all channels with all, as they lie in it; the fourth would mirror one."""
    kernels = [part[0] for part in (matrices.own, matrices.others, matrices.crossed)]
    side, gap, left, bottom = 1.37, 0.16, 0.42, 0.45
    places = ((left, bottom + side + gap), (left + side + gap, bottom), (left + side + gap, bottom + side + gap))
    axes = [fixed_axis(figure, *place, side, side) for place in places]
    for axis, kernel in zip(axes, kernels, strict=True):
        drawn = axis.imshow(kernel.numpy(), cmap=SCALE, vmin=0, vmax=1, aspect="auto", interpolation="none")
        _bare(axis)
    own, others = (
        _channels_of(name, len(kernel)) for name, kernel in (("student", kernels[0]), ("teacher", kernels[1]))
    )
    axes[0].set_ylabel(own, fontsize=8.5)
    axes[0].set_title(own, fontsize=8.5, pad=4)
    axes[2].set_title(others, fontsize=8.5, pad=4)
    axes[1].yaxis.set_label_position("right")
    axes[1].set_ylabel(others, fontsize=8.5)
    axes[1].set_xlabel(others, fontsize=8.5)
    colours = figure.colorbar(
        drawn, cax=fixed_axis(figure, 0.5, 1.2, 1.2, 0.1), orientation="horizontal", ticks=[0, 0.5, 1]
    )
    colours.ax.tick_params(labelsize=8)
    colours.ax.set_title("kernel, image 0", fontsize=9)


def _channels_of(name: str, count: int) -> str:
    return f"{name}, {count} channel{'' if count == 1 else 's'}"


def _label_sigmas(axis, sigmas: Sequence[float], losses: Tensor, images: int) -> None:
    """Both axes logarithmic and in plain numbers: formulas take a third of the drawing."""
    shown = losses[losses >= FAINTEST_LOSS]
    low, high = decades_around(shown) if len(shown) else (1e-3, 1.0)
    axis.set(xscale="log", yscale="log", xlim=(0.9 * min(sigmas), 1.1 * max(sigmas)), ylim=(low, high))
    axis.minorticks_off()
    steps = (1, 2, 5) if max(sigmas) < 300 * min(sigmas) else (1,)
    ticks = [step * 10.0**k for k in range(-4, 4) for step in steps]
    ticks = [tick for tick in ticks if 0.89 * min(sigmas) <= tick <= 1.11 * max(sigmas)]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    decades = [10.0**k for k in range(round(math.log10(low)), round(math.log10(high)) + 1)]
    axis.set_yticks(decades, [f"{decade:g}".replace("e-0", "e-") for decade in decades])
    axis.grid(True, which="major")
    over = f"mean over {images} images" if images > 1 else "1 image"
    axis.set(xlabel="σ; unit vectors lie at most 2 apart", title=f"squared discrepancy, {over}")
    axis.title.set_fontsize(9)


# --- what a Gram matrix keeps --------------------------------------------------------------------


def what_a_gram_keeps(
    image: Tensor, student: Tensor, teacher: Tensor, pixel: tuple[int, int], title: str
) -> CaptionedFigure:
    """Three looks at how pixels go together in the channels of a layer, teacher above student.

    The Gram matrix has a number for each pair of pixels. Its diagonal is how strongly each pixel is responded to, one
    of its rows with which pixels the chosen one goes together, and its mean over all pairs with the same shift is the
    autocorrelation. All numbers are times the number of pixels: the mean of the diagonal, which the autocorrelation
    has at no shift, is then 1, or the share of living channels. What lies above 98 % of two maps of responses has one
    colour.

    Args:
        image: (3, H, W), 0..1.
        student, teacher: (C, h, w), the layer's maps of it, of one size.
        pixel: row and column on the maps' grid.
        title: of the layer.

    Raises:
        ValueError: maps of two sizes, or a pixel outside.
    """
    height, width = teacher.shape[1:]
    if student.shape[1:] != teacher.shape[1:]:
        raise ValueError(f"maps of {tuple(student.shape[1:])} and {(height, width)} pixels; give maps of one size")
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise ValueError(f"pixel {pixel} is not on maps of {height} x {width}")
    student, teacher = (maps.detach().cpu().double()[None] for maps in (student, teacher))
    looks = list(zip(*(_looks_at_gram(maps, pixel) for maps in (teacher, student)), strict=True))
    figure = Figure(figsize=(WIDTH, 4.55))
    _draw_marked_image(figure, image, pixel, (height, width))
    for column, (name, pair) in enumerate(zip(LOOKS, looks, strict=True)):
        _draw_look(figure, column, name, pair, pixel)
    figure.text(0.1 / WIDTH, 0.45 / 4.55, SCALES, size=8.5, va="center")
    put_title(figure, title)
    said = ", ".join(f"{name} {_correlation(*pair)}" for name, pair in zip(LOOKS.values(), looks, strict=True))
    return CaptionedFigure(
        figure,
        f"{title}, pixel {pixel[0]}, {pixel[1]}: the squared distance of the Grams is "
        f"{_digits(float(nst_loss(student, teacher)))}. Correlation of student and teacher: {said}.",
    )


SCALES = "Scales: the mean over pixels\nis 1 in the first column of maps,\nless where channels are dead."
LOOKS = {  # title to what the caption calls it
    "how strongly each pixel\nis responded to": "response",
    "which pixels go together\nwith the marked one": "what goes with the pixel",
    "only the shift is left:\nautocorrelation": "autocorrelation",
}


def _looks_at_gram(maps: Tensor, pixel: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, a row, and the mean by shift with no shift in the middle; each (H, W)."""
    size = maps.shape[2:]
    gram = pixel_gram(maps) * size.numel()
    shifted = shift_average(gram, *size)[0]
    row = gram[0, pixel[0] * size[1] + pixel[1]]
    return gram[0].diagonal().reshape(size), row.reshape(size), torch.fft.fftshift(shifted)


def _draw_marked_image(figure: Figure, image: Tensor, pixel: tuple[int, int], size: tuple[int, int]) -> None:
    axis = fixed_axis(figure, 0.1, 1.35, 1.95, 1.95)
    show_map(axis, image)
    row, column = (
        (at + 0.5) * whole / part - 0.5 for at, whole, part in zip(pixel, image.shape[1:], size, strict=True)
    )
    _mark(axis, row, column)
    _bare(axis)
    axis.set_title("the image and a pixel", fontsize=9)


def _mark(axis, row: float, column: float) -> None:
    """A white square in a black one, seen on any colour."""
    for edge, width in (("black", 3.2), ("white", 1.4)):
        axis.plot(column, row, "s", ms=8, mfc="none", mec=edge, mew=width)


def _draw_look(figure: Figure, column: int, name: str, pair: tuple[Tensor, Tensor], pixel: tuple[int, int]) -> None:
    side, left = 1.6, 2.6 + 1.8 * column
    values = torch.stack(pair)
    low, high = _range(values)
    most = float(torch.quantile(values, 0.98))
    clipped = column < 2 and most > low  # a border's few pixels would take all colours; the autocorrelation has none
    for owner, seen, bottom in zip(("teacher", "student"), pair, (2.25, 0.57), strict=True):
        axis = fixed_axis(figure, left, bottom, side, side)
        drawn = axis.imshow(seen.numpy(), cmap=SCALE, vmin=low, vmax=most if clipped else high, interpolation="none")
        _bare(axis)
        if column < 2:
            _mark(axis, *pixel)
        if not column:
            axis.set_ylabel(owner, fontsize=10)
        if owner == "teacher":
            axis.set_title(name, fontsize=9, pad=5)
    bar = fixed_axis(figure, left, 0.42, side, 0.08)
    bare = {"orientation": "horizontal", "ticks": [], "extend": "max" if clipped else "neither", "extendfrac": 0.06}
    figure.colorbar(drawn, cax=bar, **bare)
    for x, value, side_of in ((0, low, "left"), (1, most if clipped else high, "right")):
        bar.text(x, -0.5, f"{value:.2g}", ha=side_of, va="top", size=8, transform=bar.transAxes)


def _correlation(x: Tensor, y: Tensor) -> str:
    """Of two maps, pixel by pixel."""
    own, others = (values.flatten() - values.mean() for values in (x, y))
    if own.norm() <= 1e-9 * x.norm() or others.norm() <= 1e-9 * y.norm():
        return "not defined"  # one of them is the same everywhere
    return f"{own @ others / (own.norm() * others.norm()):.2f}"


# --- all pairs of channels, and what was gained -------------------------------------------------------


def cosines_between_channels(maps: Mapping[str, Tensor], title: str = "", bins: int = 80) -> CaptionedFigure:
    """How the cosines between all pairs of different channels of an image are spread, over all images.

    Args:
        maps: name to (B, C, H, W). Dead channels, which have no direction, are left out.
        title: of the figure.
        bins: of the histogram, from -1 to 1.
    """
    figure, axes = new_figure(1, 1, height=3.2)
    axis, said = axes[0, 0], []
    edges = torch.linspace(-1, 1, bins + 1, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    axis.axvline(0, color="0.7", lw=1, zorder=0)
    for i, (name, features) in enumerate(maps.items()):
        cosines = _cosines_of_pairs(features)
        density = torch.histc(cosines, bins, -1, 1) * bins / 2 / len(cosines)  # NaN, no line, without a pair
        told, exactly = "no two channels alive", "no two channels alive"
        if len(cosines):
            mean, negative = float(cosines.mean()), 100 * float((cosines < 0).double().mean())
            told, exactly = (f"mean {mean:.{n}f}, {negative:.{n - 2}f} % below 0" for n in (2, 3))
        style = {"color": PALETTE[i], "linestyle": DASHES[i], "marker": MARKERS[i], "markevery": 4, "ms": 4}
        axis.plot(middles, density, **style, label=f"{name}: {told}")
        said.append(f"{name}: {exactly}")
    axis.set(xlim=(-1, 1), xlabel="cosine between two channels' maps of an image", ylabel="density", title=title)
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside upper center", fontsize=9, ncols=2)
    return CaptionedFigure(figure, f"Cosines between channels{', ' * bool(title)}{title}: {'; '.join(said)}.")


def _cosines_of_pairs(maps: Tensor) -> Tensor:
    """Each pair once, of channels that are alive."""
    maps = maps.detach().cpu().double()
    cosines = kernel_matrices(maps, maps, "linear").own
    alive = cosines.diagonal(dim1=1, dim2=2) > 0.5
    pairs = (alive[:, :, None] & alive[:, None]).triu(1)
    return cosines[pairs].clamp(-1, 1)


def gains(table: Mapping[str, Mapping[str, float | tuple[float, float, float]]], title: str = "") -> CaptionedFigure:
    """What methods gain over the student alone, by source: published numbers beside one's own.

    Every number is in the figure; the caption has the lowest and the highest of each source.

    Args:
        table: source to method to points of accuracy above the student alone, or to (points, lower, upper). Methods
            that a source does not have leave its row empty; the order is that of their first appearance.
        title: of the figure.
    """
    methods = list(dict.fromkeys(method for own in table.values() for method in own))
    labels = [textwrap.fill(method, LONGEST_LABEL) for method in methods]
    row = 0.38 + 0.13 * max(label.count("\n") for label in labels)
    figure, axes = new_figure(1, len(table), height=1.1 + row * len(methods), sharex=True, sharey=True)
    for i, (axis, (source, own)) in enumerate(zip(axes[0], table.items(), strict=True)):
        axis.axvline(0, color="0.6", lw=1, zorder=0)
        for method, gain in own.items():
            _draw_gain(axis, methods.index(method), gain, {"color": PALETTE[i], "marker": MARKERS[i]})
        axis.set_title(_evenly(source, 60 // len(table)), fontsize=10)
        axis.grid(True, axis="y")
        axis.margins(x=0.06 * len(table))  # half a number has room at either edge
        axis.locator_params(axis="x", nbins=7, steps=(1, 2, 5, 10))
        axis.tick_params(axis="y", left=not i)
    axes[0, 0].set_yticks(range(len(methods)), labels)
    axes[0, 0].set_ylim(len(methods) - 0.4, -0.7)
    figure.supxlabel("points of accuracy above the student alone", fontsize=10)
    if title:
        figure.suptitle(title, fontsize=11)
    figure.draw_without_rendering()  # which lays it out
    for axis in axes[0]:
        _clear_zero(axis)
    told = "; ".join(f"{source}: {_ends_in_words(own)}" for source, own in table.items())
    return CaptionedFigure(figure, f"{title or 'Points of accuracy above the student alone'}. {told}.")


def _evenly(text: str, width: int) -> str:
    """In as few lines as fit the width, of nearly one length; no word is broken."""
    whole = {"break_long_words": False, "break_on_hyphens": False}
    lines = len(textwrap.wrap(text, width, **whole))
    filled = (textwrap.wrap(text, narrow, **whole) for narrow in range(1, width + 1))
    return "\n".join(next(found for found in filled if len(found) <= lines))


def _draw_gain(axis, row: int, gain: float | tuple[float, float, float], style: Mapping[str, str]) -> None:
    value, *interval = gain if isinstance(gain, tuple) else (gain,)
    if interval:
        axis.plot(interval, [row, row], color=style["color"], marker="|", ms=7, lw=1.4)
    axis.plot(value, row, **style, ms=6)
    axis.annotate(f"{value:+z.2f}", (value, row), (0, ABOVE), textcoords="offset points", **NUMBER)


def _clear_zero(axis) -> None:
    """Moves numbers off the line at zero, to their own side of it if there is room."""
    zero, points = axis.transData.transform((0, 0))[0], 72 / axis.figure.dpi
    for number in axis.texts:
        box = number.get_window_extent()
        if not box.x0 - ASIDE < zero < box.x1 + ASIDE:
            continue
        left, right = zero - ASIDE - box.x1, zero + ASIDE - box.x0
        below = number.xy[0] < 0
        fits = box.x0 + left > axis.bbox.x0 if below else box.x1 + right < axis.bbox.x1
        number.xyann = (points * (left if below == fits else right), ABOVE)


def _ends_in_words(gains_of: Mapping[str, float | tuple[float, float, float]]) -> str:
    """Lowest and highest, each with its method."""
    values = {method: gain[0] if isinstance(gain, tuple) else gain for method, gain in gains_of.items()}
    ends = dict.fromkeys((min(values, key=values.get), max(values, key=values.get)))
    return " to ".join(f"{values[method]:+z.2f} ({method})" for method in ends)
