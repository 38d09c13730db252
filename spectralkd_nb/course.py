"""The lessons' set-up: one call that settles device, profile, seed and figure style, and says what it settled."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from spectralkd_nb import __version__, data_path, depth_law, losses, operations, pictures, plots, widgets
from spectralkd_nb.activations import ActivationSpectra
from spectralkd_nb.datasets import LabelledImages
from spectralkd_nb.distillation import Recipe, Run, train
from spectralkd_nb.distillation.steps import Step
from spectralkd_nb.distillation.training import default_device
from spectralkd_nb.experiments import compare_methods, read_records, results_of, run_grid, seeds_needed
from spectralkd_nb.spectra import fit_power_law, radial_spectrum

if TYPE_CHECKING:
    import pandas

__all__ = [
    "Lesson",
    "Verdict",
    "check_average_gap",
    "check_band_exponents",
    "check_confidence_step",
    "check_equal_octaves",
    "check_fooled_kernels",
    "check_halved",
    "check_leaf_density",
    "check_phase_noise",
    "check_planned_seeds",
    "check_relu_loss",
    "check_representatives",
    "check_shift_blind_loss",
    "check_steep_kernel",
    "check_steps",
    "check_still_point",
    "check_straight_fall",
    "check_style_loss",
    "progress",
    "start",
]

Item = TypeVar("Item")

PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Lesson:
    """What a lesson runs with.

    Attributes:
        device: "cuda", "mps" or "cpu". profile: "quick" (minutes on two cores) or "full". seed: of every generator.
    """

    device: str
    profile: str
    seed: int

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the lesson's seed: the same numbers on every machine."""
        return torch.Generator().manual_seed(self.seed)

    def train(
        self, student: nn.Module | str, data: LabelledImages, recipe: Recipe | None = None, **options: Any
    ) -> Run:
        """`distillation.train` on the lesson's device and with its seed, behind a bar and curves that grow.

        Stop it with the kernel's stop button. With folder=... the same cell then goes on where it was stopped.

        Args:
            student, data, options: as in `distillation.train`. recipe: `Recipe.quick()` if None.
        """
        from IPython.display import display

        view = widgets.TrainingView()
        display(view)
        settled = {"seed": self.seed, "device": self.device, "callback": view}
        run = train(student, data, recipe or Recipe.quick(), **{**settled, **options})
        view.end(str(run))
        return run

    def run_grid(self, grid: Mapping[str, Any] | str | Path, store: str | Path, **options: Any) -> pandas.DataFrame:
        """`experiments.run_grid` on the lesson's device, behind a table of all runs and the bar of the current one.

        Stop it with the kernel's stop button; the same cell then goes on where it was stopped.

        Args, returns: as for `experiments.run_grid`.
        """
        from IPython.display import display

        view = widgets.GridView()
        display(view)
        return run_grid(grid, store, **{"device": self.device, "callback": view, **options})


def start(profile: str | None = None, seed: int = 0) -> Lesson:
    """Set a lesson up: pick the device and profile, seed torch, set the figure style, and print all of it.

    Args:
        profile: "quick" or "full"; None means "quick", a GPU or not: a long run is never a surprise.
    """
    if profile not in (None, *PROFILES):
        raise ValueError(f"profile={profile!r} is not known; choose 'quick' or 'full'")
    device = default_device()
    lesson = Lesson(device, profile or "quick", seed)
    torch.manual_seed(seed)
    plots.use_style()
    print(f"spectralkd_nb {__version__}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"device: {device}, profile: {lesson.profile}, seed: {seed}")
    if device == "cpu":
        print("No GPU found; every lesson runs without one. On Colab: Runtime, Change runtime type, GPU.")
    return lesson


def progress(items: Iterable[Item], label: str) -> Iterable[Item]:
    """The items one after another behind a progress bar, in a notebook or a terminal; for what takes over two seconds.

    Args:
        items: what is gone through. label: what is being done, in a word or two.
    """
    from tqdm.auto import tqdm

    return tqdm(items, desc=label, leave=False)


# --- exercises -----------------------------------------------------------------------------------
# One function an exercise. It measures the answer with the package's own tools, so that no solution is stored here:
# the answers are in tests/answers, where a test runs them, and `make answers` writes the teacher's copy from them.


@dataclass(frozen=True)
class Verdict:
    """What a check says of an answer: solved or not, and why."""

    solved: bool
    text: str

    def __repr__(self) -> str:
        return self.text


def _open(exercise: str, todo: str) -> Verdict:
    return Verdict(False, f"Exercise {exercise} is open: {todo}.")


def _wrong(exercise: str, why: str) -> Verdict:
    return Verdict(False, f"Exercise {exercise}, not yet: {why}.")


def _right(exercise: str, remark: str) -> Verdict:
    return Verdict(True, f"Exercise {exercise} is solved: {remark}.")


COFFEE_BANDS = ((0.005, 0.05), (0.05, 0.2), (0.2, 0.45))


def check_band_exponents(alphas: Sequence[float] | None) -> Verdict:
    """Lesson 1, exercise 1: alpha of the coffee picture in the bands 0.005-0.05, 0.05-0.2 and 0.2-0.45.

    Args:
        alphas: the three exponents in this order, or None while unsolved.
    """
    if alphas is None:
        return _open("1.1", "replace None by a list of three exponents")
    if len(alphas) != len(COFFEE_BANDS):
        return _wrong("1.1", f"{len(COFFEE_BANDS)} exponents are asked for, one a band, and here are {len(alphas)}")
    spectrum = radial_spectrum(pictures.photographs()["coffee"].grey())
    for alpha, band in zip(alphas, COFFEE_BANDS, strict=True):
        if not abs(float(alpha) - float(fit_power_law(spectrum, band).alpha)) < 0.02:
            return _wrong("1.1", f"{float(alpha):.2f} is not what the band from {band[0]} to {band[1]} gives")
    spread = float(max(alphas)) - float(min(alphas))
    low, high = fit_power_law(spectrum).interval.tolist()
    return _right(
        "1.1", f"the bands differ by {spread:.2f}, and the interval of the whole fit is {high - low:.2f} wide"
    )


def check_phase_noise(picture: Tensor | None) -> Verdict:
    """Lesson 1, exercise 2: the power of the cat chelsea with the phases of white noise.

    Args:
        picture: (300, 451), or None while unsolved.
    """
    if picture is None:
        return _open("1.2", "replace None by a picture of 300 x 451 pixels")
    cat = pictures.photographs()["chelsea"].grey()
    if picture.shape != cat.shape:
        return _wrong("1.2", f"the cat has {tuple(cat.shape)} pixels, and this has {tuple(picture.shape)}")
    mine, hers = (radial_spectrum(p, "none").power for p in (picture, cat))
    if not torch.allclose(mine, hers, rtol=1e-3):
        return _wrong(
            "1.2", "its power is not the cat's; which of the two results keeps the power of the first picture?"
        )
    if abs(pictures.likeness(picture, cat)) > 0.1:
        return _wrong("1.2", "it still looks like the cat; take the phases from white noise")
    alpha = float(fit_power_law(radial_spectrum(picture)).alpha)
    return _right("1.2", f"no cat in sight, and alpha = {alpha:.2f} all the same")


def check_leaf_density(p: float | None) -> Verdict:
    """Lesson 1, exercise 3: the density r^-p of radii with which dead leaves have Tolhurst's alpha of 2.4.

    Args:
        p: the exponent of the density, or None while unsolved.
    """
    if p is None:
        return _open("1.3", "replace None by the p of a density r^-p")
    leaves = pictures.dead_leaves(256, n=4, exponent=float(p), generator=torch.Generator().manual_seed(0))
    alpha = float(fit_power_law(radial_spectrum(leaves).average(), (4 / 256, 0.3)).alpha)
    if abs(alpha - 2.4) > 0.1:
        return _wrong("1.3", f"leaves of density r^-{p:g} have alpha = {alpha:.2f}, and 2.4 is wanted")
    return _right("1.3", f"leaves of density r^-{p:g} have alpha = {alpha:.2f}")


BENCH = {"size": 128, "band": (0.02, 0.35)}  # of lesson 2's exercises


def check_relu_loss(alpha: float | None) -> Verdict:
    """Lesson 2, exercise 1: which exponent, of 0 to 3 in steps of 0.5, a ReLU flattens most.

    Args:
        alpha: the exponent, or None while unsolved.
    """
    if alpha is None:
        return _open("2.1", "replace None by an exponent between 0 and 3")
    if not 0 <= alpha <= 3:
        return _wrong("2.1", f"{alpha:g} does not lie between 0 and 3")

    def loss(before: float) -> float:
        power = operations.power_law_power(BENCH["size"], before)
        fits = (operations.predicted_exponent(p, BENCH["band"]) for p in (power, operations.after_relu(power)))
        into, out = (float(fit.alpha) for fit in fits)
        return into - out

    mine, best = loss(float(alpha)), max(loss(step / 2) for step in range(7))
    if mine < best - 1e-9:
        return _wrong("2.1", f"a field of alpha = {alpha:g} loses {mine:.3f}, and another loses more")
    return _right("2.1", f"a field of alpha = {alpha:g} loses {mine:.2f}; flatter and steeper ones lose less")


def check_average_gap(path: str | None, spectra: ActivationSpectra) -> Verdict:
    """Lesson 2, exercise 2: the convolution whose two averages lie farthest apart.

    Args:
        path: of the convolution, or None while unsolved. spectra: of the network in question.
    """
    if path is None:
        return _open("2.2", "replace None by the path of a convolution")
    gaps = {
        layer.path: abs(spectra.exponent(layer.path, "pooled").alpha - spectra.exponent(layer.path, "normalised").alpha)
        for layer in spectra.layers
        if layer.kind == "Conv2d"
    }
    gaps = {layer: gap for layer, gap in gaps.items() if not math.isnan(gap)}
    if path not in gaps:
        return _wrong("2.2", f"{path!r} is no convolution of this network")
    if gaps[path] < max(gaps.values()):
        return _wrong("2.2", f"the averages of {path} differ by {gaps[path]:.2f}, and those of another by more")
    return _right("2.2", f"the averages of {path} differ by {gaps[path]:.2f}: a few loud channels are unlike the rest")


def check_steep_kernel(kernel: Tensor | None) -> Verdict:
    """Lesson 2, exercise 3: a 3 x 3 kernel that steepens alpha = 2 to 4.5 or more.

    Args:
        kernel: (3, 3), or None while unsolved.
    """
    if kernel is None:
        return _open("2.3", "replace None by a tensor of 3 x 3 numbers")
    kernel = torch.as_tensor(kernel)
    if kernel.shape != (3, 3):
        return _wrong("2.3", f"the kernel has shape {tuple(kernel.shape)}, and 3 x 3 is wanted")
    if not kernel.any():
        return _wrong("2.3", "a kernel of zeros lets nothing pass")
    power = operations.after_filter(operations.power_law_power(BENCH["size"], 2.0), kernel)
    alpha = float(operations.predicted_exponent(power, BENCH["band"]).alpha)
    if not alpha >= 4.5:
        return _wrong("2.3", f"it takes alpha from 2 to {alpha:.2f}")
    return _right("2.3", f"it takes alpha from 2 to {alpha:.2f}")


def check_still_point(correlation: float | None) -> Verdict:
    """Lesson 3, exercise 1: the tap correlation at which alpha is 1 before and after 12 layers with batch norm.

    Args:
        correlation: of neighbouring taps, or None while unsolved.
    """
    if correlation is None:
        return _open("3.1", "replace None by a correlation between 0 and 0.5")
    if not isinstance(correlation, Real) or not -1 < correlation < 1:
        return _wrong("3.1", f"{correlation!r} is no correlation; it lies between 0 and 0.5")
    alphas = depth_law.predict(depth_law.Setting(alpha=1.0, correlation=float(correlation), depth=12))
    start, end = float(alphas[0]), float(alphas[-1])
    if abs(end - start) > 0.03:
        way = "falls" if end < start else "rises"
        return _wrong("3.1", f"with a correlation of {correlation:g} alpha {way} from {start:.2f} to {end:.2f}")
    return _right("3.1", f"alpha is {start:.2f} at first and {end:.2f} after 12 layers")


def check_halved(layers: int | None) -> Verdict:
    """Lesson 3, exercise 2: after how many layers with white kernels an alpha of 2.6 is first below half of it.

    Args:
        layers: their number, or None while unsolved.
    """
    if layers is None:
        return _open("3.2", "replace None by a whole number")
    if not isinstance(layers, Integral) or isinstance(layers, bool):
        return _wrong("3.2", f"{layers!r} is no whole number")
    alphas = depth_law.predict(depth_law.Setting(alpha=2.6, depth=20))
    below = int((alphas < alphas[0] / 2).nonzero()[0])
    if layers != below:
        known = f"it is {alphas[layers]:.2f} there" if layers in range(len(alphas)) else "try 1 to 20"
        return _wrong("3.2", f"{layers} is not the first layer with an alpha below {alphas[0] / 2:.2f}; {known}")
    return _right("3.2", f"layer {below} is the first below half: {alphas[below]:.2f}")


def check_straight_fall(setting: depth_law.Setting | None) -> Verdict:
    """Lesson 3, exercise 3: a random network whose alpha falls by 0.05 a layer or more on a line of R2 0.998 or more.

    Args:
        setting: with 12 layers or more; or None while unsolved.
    """
    if setting is None:
        return _open("3.3", "replace None by a Setting(...)")
    if not isinstance(setting, depth_law.Setting):
        return _wrong("3.3", "a Setting(...) is asked for")
    try:
        alphas = depth_law.predict(setting)
    except (ValueError, TypeError, OverflowError) as error:
        return _wrong("3.3", str(error))
    if len(alphas) < 13:
        return _wrong("3.3", f"{setting.depth} layers are not 12")
    line = depth_law.line_through(torch.arange(len(alphas)), alphas)
    found = f"alpha moves by {line.slope:+.3f} a layer, R2 {line.r_squared:.4f}"
    return _right("3.3", found) if line.slope <= -0.05 and line.r_squared >= 0.998 else _wrong("3.3", found)


def check_equal_octaves(beta: float | None, student: Tensor, teacher: Tensor) -> Verdict:
    """Lesson 4, exercise 1: the beta at which an error's two finest octaves have the same share of the weighted loss.

    Args:
        beta: or None while unsolved. student, teacher: maps (B, C, H, W), a connector applied before.
    """
    if beta is None:
        return _open("4.1", "replace None by a number")
    beta = beta.item() if isinstance(beta, Tensor) and beta.ndim == 0 else beta
    if isinstance(beta, bool) or not isinstance(beta, Real) or not -10 < beta < 10:
        return _wrong("4.1", f"{beta!r} is no number between -10 and 10")
    *_, coarser, finest = (100 * losses.octave_shares(student, teacher, float(beta)).share).tolist()
    found = f"at beta = {beta:g} they have {coarser:.1f} and {finest:.1f} % of the loss"
    return _right("4.1", found) if abs(coarser - finest) <= 2 else _wrong("4.1", found)


def check_shift_blind_loss(loss: Callable[[Tensor, Tensor], Tensor] | None) -> Verdict:
    """Lesson 4, exercise 2: a loss that sees a blur and no circular shift, and that can be learned from.

    Args:
        loss: takes maps (B, C, H, W) of student and teacher, returns a number; or None while unsolved.
    """
    if loss is None:
        return _open("4.2", "replace None by a function of student and teacher")
    if not callable(loss):
        return _wrong("4.2", f"{loss!r} is no function")
    generator = torch.Generator().manual_seed(0)
    teacher = pictures.power_law_field(16, 2.0, 12, generator).unflatten(0, (4, 3))
    blurred = nn.functional.avg_pool2d(nn.functional.pad(teacher, (1, 1, 1, 1), "circular"), 3, 1)
    blurred = blurred.requires_grad_()
    try:
        equal, shifted, seen = (loss(m, teacher) for m in (teacher, teacher.roll((3, 5), (-2, -1)), blurred))
        found = [float(value.detach()) for value in (equal, shifted, seen)]
        gradient = torch.autograd.grad(seen, blurred, allow_unused=True)[0] if seen.requires_grad else None
    except Exception as error:  # whatever a function of somebody else's may raise
        return _wrong("4.2", f"it ends with {type(error).__name__}: {error}")
    if not found[2] > 0:
        return _wrong("4.2", f"of blurred features it says {found[2]:.3g}, and more than 0 is wanted")
    for what, value in zip(("equal", "shifted"), found, strict=False):
        if not abs(value) <= 1e-4 * found[2]:
            return _wrong("4.2", f"of {what} features it says {value:.3g}, and of blurred ones {found[2]:.3g}")
    if gradient is None or not gradient.isfinite().all() or not gradient.any():
        return _wrong("4.2", "it gives the student no gradient to learn from")
    return _right("4.2", f"0 for features that are equal or shifted, {found[2]:.3g} for blurred ones")


def check_planned_seeds(seeds: int | None) -> Verdict:
    """Lesson 4, exercise 3: how many seeds find a point between KD with both terms and the hint, with a power of 80 %.

    Args:
        seeds: their number, or None while unsolved.
    """
    if seeds is None:
        return _open("4.3", "replace None by a whole number")
    if not isinstance(seeds, Integral) or isinstance(seeds, bool):
        return _wrong("4.3", f"{seeds!r} is no whole number")
    runs = results_of(read_records(data_path("results/distillation_photographs.jsonl")))
    compared = compare_methods(runs, "hint").set_index("method")
    deviation = compared.loc["KD + both terms", "deviation"]
    wanted = seeds_needed(deviation, 1.0)
    if seeds != wanted:
        return _wrong("4.3", f"{seeds} are too {'few' if seeds < wanted else 'many'}; which deviation did you take?")
    return _right("4.3", f"the paired differences deviate by {deviation:.2f} points, so {wanted} seeds are needed")


def check_fooled_kernels(degrees: Sequence[float] | None) -> Verdict:
    """Lesson 5, exercise 1: a set of two-pixel neurons that linear and poly take for 0, 120, 240.

    The Gaussian kernel, of sigma 0.5, tells them apart.

    Args:
        degrees: the student's neurons as angles, or None while unsolved.
    """
    if degrees is None:
        return _open("5.1", "replace None by a list of angles in degrees")
    try:
        angles = torch.as_tensor(degrees, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return _wrong("5.1", f"{degrees!r} is no list of angles")
    if angles.ndim != 1 or not 1 <= len(angles) <= 100 or not angles.isfinite().all():
        return _wrong("5.1", "one to a hundred finite angles are asked for")
    goal = torch.tensor([0.0, 120.0, 240.0], dtype=torch.float64)
    apart = (angles[:, None] - goal + 180).remainder(360).sub(180).abs().amin(1)
    if apart.min() < 1:
        return _wrong("5.1", f"the neuron at {angles[apart.argmin()]:g} degrees is one of the teacher's")
    pair = losses.two_pixel_maps(angles), losses.two_pixel_maps(goal)
    kernels = ("linear", "poly", "gaussian")
    seen = {kernel: float(losses.nst_loss(*pair, kernel, sigma=0.5)) for kernel in kernels}
    found = ", ".join(f"{kernel} says {value:.3f}" for kernel, value in seen.items())
    if seen["linear"] > 1e-6:
        return _wrong("5.1", f"{found}; linear is off, so the mean is")
    if seen["poly"] > 1e-6:
        return _wrong("5.1", f"{found}; the means agree, and poly's Grams do not")
    if seen["gaussian"] <= 0.01:
        return _wrong("5.1", f"{found}; the neurons are too near to the teacher's for that kernel")
    return _right("5.1", f"{found}: only the last one sees more than mean and Gram")


def check_style_loss(loss: Callable[[Tensor, Tensor], Tensor] | None) -> Verdict:
    """Lesson 5, exercise 2: the distance of style Grams, channels by channels, with positions as unit vectors.

    Args:
        loss: takes features (B, C, H, W) of student and teacher, returns a number; or None while unsolved.
    """
    if loss is None:
        return _open("5.2", "replace None by a function of student and teacher")
    if not callable(loss):
        return _wrong("5.2", "a function is asked for, and not its value")
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 6, 4, generator=generator, dtype=torch.float64)
    shuffled = student.flatten(2)[..., torch.randperm(24, generator=generator)].view_as(student)
    student.requires_grad_()
    wanted = _style_distance(student, teacher)
    try:
        values = [loss(maps, teacher) for maps in (student, shuffled, teacher)]
        if not all(isinstance(value, Tensor) for value in values):
            return _wrong("5.2", "it has to return the loss as a tensor")
        found, moved, zero = (float(value.detach()) for value in values)
        gradient = torch.autograd.grad(values[0], student)[0] if values[0].requires_grad else None
    except Exception as error:  # whatever a function of somebody else's may raise
        return _wrong("5.2", f"it ends with {type(error).__name__}: {error}")
    if not abs(zero) <= 1e-9:
        return _wrong("5.2", f"of equal features it says {zero:.3g}, and 0 is wanted")
    if not abs(moved - found) <= 1e-6 * abs(found):
        return _wrong("5.2", f"with the positions shuffled it goes from {found:.4g} to {moved:.4g}; style has no place")
    if not math.isclose(found, wanted.item(), rel_tol=1e-4):
        return _wrong("5.2", f"it says {found:.4g} where the Grams' distance is {wanted.item():.4g}; mind the kernel")
    if gradient is None:
        return _wrong("5.2", "it gives the student no gradient to learn from")
    if not torch.allclose(gradient, torch.autograd.grad(wanted, student)[0], rtol=1e-3, atol=1e-6):
        return _wrong("5.2", "its value is right, and its gradient is that of something else")
    return _right("5.2", f"{found:.4g}, wherever the positions are: the same discrepancy with the roles exchanged")


def _style_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Of Grams (C, C), positions as unit vectors; mean over images (B, C, H, W)."""
    units = [nn.functional.normalize(maps.flatten(2), dim=1) for maps in (student, teacher)]
    mine, its = (unit @ unit.mT / unit.shape[2] for unit in units)
    return (mine - its).square().sum((1, 2)).mean()


def check_representatives(channels: Sequence[int] | None, maps: Tensor, most: float = 0.09) -> Verdict:
    """Lesson 5, exercise 3: four of a layer's channels whose discrepancy (poly) from all of them is small.

    Args:
        channels: their numbers, or None while unsolved. maps: (B, C, H, W). most: what the discrepancy may be.
    """
    if channels is None:
        return _open("5.3", "replace None by a list of four channels")
    try:
        numbers = [float(channel) for channel in channels]
    except (TypeError, ValueError, OverflowError):
        return _wrong("5.3", f"{channels!r} is no list of channels")
    chosen = sorted({int(number) for number in numbers if number.is_integer()} & set(range(maps.shape[1])))
    if len(numbers) != 4 or len(chosen) != 4:
        return _wrong("5.3", f"four different channels of 0 to {maps.shape[1] - 1} are asked for")
    found = float(losses.nst_loss(maps[:, chosen], maps))
    said = f"their discrepancy from all {maps.shape[1]} is {found:.4f}"
    if not found <= most:
        return _wrong("5.3", f"{said}, and {most} is asked for")
    nearest, count = _nearest_fours(maps)
    return _right("5.3", f"{said}; the nearest of all {count} sets of four has {nearest:.4f}")


def _nearest_fours(maps: Tensor) -> tuple[float, int]:
    """The least discrepancy (poly) of four channels from all of them, and how many sets of four there are."""
    kernel = losses.kernel_matrices(maps, maps).own.mean(0)
    fours = torch.combinations(torch.arange(len(kernel)), 4)
    among = kernel[fours[:, :, None], fours[:, None]].mean((1, 2))
    return float((among + kernel.mean() - 2 * kernel.mean(1)[fours].mean(1)).min()), len(fours)


def check_steps(steps: int | None, data: LabelledImages) -> Verdict:
    """Lesson 9, exercise 1: how many updates `Recipe.quick()` makes on the built-in task.

    Args:
        steps: their number, or None while unsolved. data: the task.
    """
    if steps is None:
        return _open("9.1", "replace None by a whole number")
    recipe = Recipe.quick()
    batches = math.ceil(len(data.train_labels) / recipe.batch_size)
    if steps != batches * recipe.epochs:
        hint = "does the last, smaller batch count?" if steps == batches * recipe.epochs - recipe.epochs else "epochs?"
        return _wrong("9.1", f"{steps} is not it; {hint}")
    return _right("9.1", f"{batches} batches in each of {recipe.epochs} epochs, the last of them smaller")


def check_confidence_step(step: Step | None) -> Verdict:
    """Lesson 9, exercise 2: a step that adds the outputs' mean entropy, as a term "entropy", to the cross-entropy.

    Args:
        step: takes student, teacher, images and labels; or None while unsolved.
    """
    if step is None:
        return _open("9.2", "replace None by a function of student, teacher, images and labels")
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(6, 4, generator=generator).requires_grad_()
    labels = torch.arange(6) % 4
    returned = step(lambda _: answers, None, torch.zeros(6, 3, 8, 8), labels)
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        return _wrong("9.2", "a step returns a pair, the logits and a dictionary of loss terms")
    logits, terms = returned
    if logits is not answers:
        return _wrong("9.2", "the first of the pair is not what the student answered")
    log_p = answers.log_softmax(1)
    wanted = {
        "cross-entropy": nn.functional.cross_entropy(answers, labels),
        "entropy": -(log_p.exp() * log_p).sum(1).mean(),
    }
    for name, value in wanted.items():
        if name not in terms:
            return _wrong("9.2", f"there is no term {name!r} among {', '.join(terms) or 'none'}")
        if not torch.allclose(terms[name], value, rtol=1e-4):
            return _wrong("9.2", f"the term {name!r} is {terms[name].item():.3f}, and {value.item():.3f} is wanted")
        if not terms[name].requires_grad:
            return _wrong("9.2", f"the term {name!r} has no gradient, so the student cannot learn from it")
    entropy = wanted["entropy"].item()
    return _right("9.2", f"entropy {entropy:.2f} of at most {math.log(4):.2f}, and train can weigh it by its name")
