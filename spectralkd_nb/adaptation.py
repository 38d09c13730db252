"""Teachers that adapt: small modules stand in for some of a teacher's blocks and learn along with its student. ::

    adapted = AdaptedTeacher(teacher, ["layer3"], data.normalise(data.train_images[:256]))
    targets = adapted.targets(images)["layer3"]     # of the module that stands where the teacher had a block

The idea is that of Wu et al. (2020, arXiv 2010.13500): an activation map adaptive module replaces blocks of the
teacher, so that fitting targets are found while the student learns. Of their work only the abstract could be read.
What the module consists of, how it begins, and what it learns from, is our construction; another module goes in as
`module=`, any function of a block's inputs and outputs. `distillation.AdaptiveMatching` is the training.

`mismatch` and `effective_channels` say what came of it: how much of a target its student cannot match, and whether the
target has become easy by becoming poor.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spectralkd_nb.networks.features import collected, features_of, modules_at
from spectralkd_nb.networks.layers import list_layers
from spectralkd_nb.networks.weights import fingerprint_of, randomness_kept

ALIKE = 1e-3  # of the largest singular value; a fit to fainter directions would be to noise, with huge weights
MAPS = "(B, C, H, W) to maps"
TOKENS = ("BHWC", "BLC", "BC")  # layouts of outputs that no module here stands in for
MakeModule = Callable[[Tensor, Tensor, int], nn.Module]


# --- the module ----------------------------------------------------------------------------------


class AdaptiveModule(nn.Module):
    """What stands in for a block: a pointwise map, and a small branch that corrects it.

    With x' the inputs, pooled or enlarged to the size of the outputs, ::

        y = relu(W x' + b + branch(x')),    branch = BN(1 x 1 (relu(BN(3 x 3 depthwise))))

    where W is a 1 x 1 convolution and the branch's last batch norm begins at a scale of 0 (Goyal et al. 2017, arXiv
    1706.02677, section 5.1). So the module begins as its pointwise map, in train and in eval mode alike, and can be the
    identity. Our construction: between two wide layers it has about 2/9 of the weights of one 3 x 3 convolution.

    Args:
        channels, to_channels: of inputs and outputs.
        shrink, enlarge: whole factors by which the outputs are smaller or larger, a side. One of them is 1.
        relu: whether the outputs are rectified; for blocks whose outputs are never negative.
    """

    def __init__(self, channels: int, to_channels: int, shrink: int = 1, enlarge: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.shrink, self.enlarge, self.rectified = shrink, enlarge, relu
        self.pointwise = nn.Conv2d(channels, to_channels, 1)
        last = nn.BatchNorm2d(to_channels)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, to_channels, 1, bias=False),
            last,
        )

    @classmethod
    def between(cls, inputs: Tensor, outputs: Tensor, seed: int = 0) -> AdaptiveModule:
        """One from a block's inputs (B, C, H, W) to the shape of its outputs; weights drawn by the seed.

        Raises:
            ValueError: not four dimensions, or sides of which neither is a whole number of times the other.
        """
        shrink, enlarge = _factors(inputs, outputs)
        with randomness_kept():
            torch.manual_seed(seed)
            module = cls(inputs.shape[1], outputs.shape[1], shrink, enlarge, relu=bool((outputs >= 0).all()))
        return module.to(inputs.device)

    @classmethod
    def fitted(cls, inputs: Tensor, outputs: Tensor, seed: int = 0) -> AdaptiveModule:
        """As `between`, with the pointwise map that has the least squared error on these very inputs and outputs.

        A block that is a pointwise map, such as the identity, is reproduced to rounding; of any other, what a pointwise
        map can do is.

        Args, errors: as for `between`, both (B, C, H, W) of the same images, or a ValueError.
        """
        module = cls.between(inputs, outputs, seed)
        fit_into(module.pointwise, module.resized(inputs), outputs)
        return module

    def resized(self, x: Tensor) -> Tensor:
        """(B, C, H, W) at the size of the outputs: means over neighbouring pixels, or pixels repeated."""
        if self.enlarge > 1:
            return F.interpolate(x, scale_factor=self.enlarge, mode="nearest")
        # Rounded up, as a convolution with a stride and padding does; what hangs over the border does not count.
        return F.avg_pool2d(x, self.shrink, ceil_mode=True, count_include_pad=False) if self.shrink > 1 else x

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, to_channels, H', W'), H' and W' as `resized` makes them."""
        x = self.resized(x)
        y = self.pointwise(x) + self.branch(x)
        return F.relu(y) if self.rectified else y

    def __repr__(self) -> str:
        size = f", shrink={self.shrink}" * (self.shrink > 1) + f", enlarge={self.enlarge}" * (self.enlarge > 1)
        relu = "" if self.rectified else ", relu=False"
        return f"AdaptiveModule({self.pointwise.in_channels}, {self.pointwise.out_channels}{size}{relu})"


def _factors(inputs: Tensor, outputs: Tensor) -> tuple[int, int]:
    """By which whole factor, a side, outputs are smaller, and larger."""
    shapes = f"inputs {tuple(inputs.shape)}, outputs {tuple(outputs.shape)}"
    if inputs.ndim != 4 or outputs.ndim != 4:
        raise ValueError(f"{shapes}; a module stands in for a block from maps {MAPS}")
    sides = list(zip(inputs.shape[2:], outputs.shape[2:], strict=True))
    shrink = round(sides[0][0] / sides[0][1])
    if shrink >= 1 and all(-(-before // shrink) == after for before, after in sides):
        return shrink, 1
    enlarge = sides[0][1] // sides[0][0]
    if all(before * enlarge == after for before, after in sides):
        return 1, enlarge
    raise ValueError(f"{shapes}: one side must be a whole number of times the other; replace another block")


def pointwise_fit(inputs: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
    """The 1 x 1 convolution with the least squared error from maps to maps, by linear least squares.

    Computed in float64 on the CPU (Apple's GPUs have no float64). Channels that are dead or alike are no trouble:
    directions with less than a millionth of the largest one's power are left out, and of several solutions the smallest
    is taken.

    Args:
        inputs: (B, C, H, W).
        outputs: (B, D, H, W), of the same images.

    Returns:
        weight (D, C) and bias (D,), float64, on the CPU.

    Raises:
        ValueError: not of the same images and pixels.
    """
    _require_same_pixels(inputs, outputs)
    mine, its = _samples(inputs), _samples(outputs)
    # Centred, so that the constant needs no column of its own.
    means = mine.mean(0), its.mean(0)
    weight = torch.linalg.lstsq(mine - means[0], its - means[1], rcond=ALIKE, driver="gelsd").solution
    return weight.T, means[1] - means[0] @ weight


@torch.no_grad()
def fit_into(convolution: nn.Conv2d, inputs: Tensor, outputs: Tensor) -> None:
    """Give a 1 x 1 convolution with a bias the weights of `pointwise_fit`, whose arguments and errors these are.

    Args:
        inputs: (B, C, H, W), C the convolution's inputs.
        outputs: (B, D, H, W), D its outputs.
    """
    weight, bias = pointwise_fit(inputs, outputs)
    convolution.weight.copy_(weight[:, :, None, None])
    convolution.bias.copy_(bias)


def _require_same_pixels(inputs: Tensor, outputs: Tensor) -> None:
    shapes = f"{tuple(inputs.shape)} and {tuple(outputs.shape)}"
    if inputs.ndim != 4 or outputs.ndim != 4:
        raise ValueError(f"maps have shapes {shapes}; (B, C, H, W) is needed")
    if inputs.shape[:1] != outputs.shape[:1]:
        raise ValueError(f"maps of {len(inputs)} and of {len(outputs)} images; give both of the same images")
    if inputs.shape[2:] != outputs.shape[2:]:
        raise ValueError(f"maps have shapes {shapes}; they differ in pixels, and a pointwise map joins pixel and pixel")


def _samples(maps: Tensor) -> Tensor:
    """(B H W, C) in float64 on the CPU."""
    return maps.detach().cpu().movedim(1, -1).flatten(0, -2).double()


# --- the teacher ---------------------------------------------------------------------------------


class AdaptedTeacher(nn.Module):
    """A copy of a teacher in which small modules stand in for some blocks; all the rest is frozen.

    The modules are what is registered here: `parameters()` and `state_dict()` are theirs alone, so that an optimiser
    trains nothing else and a checkpoint holds nothing else. The frozen rest is always in eval mode and needs no
    gradient, yet passes one on, so that a loss on the answers teaches the modules; `train()` and `eval()` move the
    modules' batch norms only. `.to(...)` moves everything.

    Args:
        teacher: any network; it stays as it is.
        replace: dotted paths of the blocks to replace; each takes one tensor of maps (B, C, H, W) and returns one.
        images: (B, 3, H, W), normalised. From them come the modules' shapes, and what they begin with: each is fitted
            to what the teacher's block returns, given what the modules before it do. Some hundreds are good.
        module: makes what stands in, from a block's inputs, its outputs and a seed. `AdaptiveModule.between` makes one
            that begins at random.
        seed: of the modules' weights.

    Attributes:
        paths: what was replaced, in the order of the calls.
        stand_ins: the modules, in that order.

    Raises:
        ValueError: a path that the network does not have (with the nearest right ones), one twice or inside another,
            none at all, a block that is not called once with one tensor, or whose inputs and outputs the module does
            not join.
    """

    def __init__(
        self,
        teacher: nn.Module,
        replace: Sequence[str],
        images: Tensor,
        *,
        module: MakeModule = AdaptiveModule.fitted,
        seed: int = 0,
    ) -> None:
        super().__init__()
        paths = checked_paths(teacher, replace)
        if not len(images):
            raise ValueError("there are no images to fit the modules to; give some hundreds")
        # In one layout, whatever the teacher's: what a run begins with must not depend on who used the teacher before.
        network = copy.deepcopy(teacher).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
        truth = features_of(network, images, paths)
        _require_maps(network, images, paths)
        self.paths = tuple(truth)  # as they were called
        self.made_by = f"{getattr(module, '__qualname__', type(module).__name__)}, seed {seed}"
        made = []
        for number, path in enumerate(self.paths):
            block = modules_at(network, [path])[path]
            stand_in = module(_inputs_of(network, path, block, images), truth[path], seed + number)
            stand_in.to(truth[path])  # its device and its precision
            _require_shape(stand_in, path, network, block, images, truth[path])
            network.set_submodule(path, stand_in)
            made.append(stand_in)
        self.stand_ins = nn.ModuleList(made)
        own = {id(tensor) for module in made for tensor in module.state_dict(keep_vars=True).values()}
        state = network.state_dict(keep_vars=True)
        self.frozen_fingerprint = fingerprint_of({key: value for key, value in state.items() if id(value) not in own})
        # In a list, which torch does not look into: registered, the frozen part would be trained and stored as well.
        self._whole = [network]
        self.fitted_to = len(images)
        self.train(teacher.training)

    @property
    def network(self) -> nn.Module:
        """The whole network, the modules in their places; its dotted paths are the teacher's."""
        return self._whole[0]

    def forward(self, images: Tensor) -> Tensor:
        """(B, classes): what the teacher answers to images (B, 3, H, W), normalised, with the modules in it."""
        return self.network(images)

    def targets(self, images: Tensor, paths: Sequence[str] | None = None) -> dict[str, Tensor]:
        """What layers return, by path, with the modules' gradient; by default the modules' own outputs (B, C, H, W).

        Args:
            images: (B, 3, H, W), normalised.
            paths: dotted, of any layers; None for what was replaced.

        Raises:
            ValueError: no such path, a layer that is not called or returns no tensor.
        """
        with collected(self.network, self.paths if paths is None else paths) as seen:
            self.network(images)
        return seen

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptedTeacher:
        self.network._apply(change, recurse)  # the modules are in it
        return self

    def __repr__(self) -> str:
        parts = [f"{path} by {module!r}" for path, module in zip(self.paths, self.stand_ins, strict=True)]
        made = f"made by {self.made_by} from {self.fitted_to} images"
        return f"{type(self.network).__name__} {self.frozen_fingerprint} with {', '.join(parts)}, {made}"


def checked_paths(teacher: nn.Module, replace: Sequence[str]) -> tuple[str, ...]:
    """The paths of blocks to replace; refuses what the teacher does not have, and what is named twice."""
    if isinstance(replace, str):
        raise ValueError(f"replace={replace!r} is a word; give a list of dotted paths, [{replace!r}]")
    paths = tuple(replace)
    if not paths:
        raise ValueError("replace is empty, so that nothing adapts; name a block, for example ['layer3']")
    modules_at(teacher, paths)
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"replace names {path!r} twice")
        if inner := [other for other in paths if other.startswith(f"{path}.")]:
            raise ValueError(f"{inner[0]!r} lies inside {path!r}, which is replaced as a whole; name one of them")
    return paths


def _require_maps(network: nn.Module, images: Tensor, paths: Sequence[str]) -> None:
    layouts = {layer.path: layer.layout for layer in list_layers(network, tuple(images.shape[1:]))}
    for path in paths:
        if layouts.get(path) in TOKENS:
            raise ValueError(f"block {path!r} returns {layouts[path]}; a module stands in for a block from maps {MAPS}")


def _inputs_of(network: nn.Module, path: str, block: nn.Module, images: Tensor) -> Tensor:
    """What a block is given for these images."""
    given: list[list[Any]] = []

    def take(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        # A copy: some blocks begin with an operation in place.
        given.append([x.clone() if isinstance(x, Tensor) else x for x in (*args, *named.values(), *named)])

    hook = block.register_forward_pre_hook(take, with_kwargs=True)
    try:
        features_of(network, images, [path])
    finally:
        hook.remove()
    if len(given) != 1 or len(given[0]) != 1 or not isinstance(given[0][0], Tensor):
        told = f"called {len(given)} times" if len(given) != 1 else "called with other things than one tensor"
        raise ValueError(f"block {path!r} is {told}, so that no module can stand in for it; replace another")
    return given[0][0]


def _require_shape(
    stand_in: nn.Module, path: str, network: nn.Module, block: nn.Module, images: Tensor, truth: Tensor
) -> None:
    """A module of somebody's own that does not fit would be found in the middle of a network."""
    with torch.no_grad():
        found = copy.deepcopy(stand_in).eval()(_inputs_of(network, path, block, images[:1]))
    if found.shape[1:] != truth.shape[1:]:
        raise ValueError(
            f"the module for {path!r} returns {tuple(found.shape[1:])} for an image, and the block "
            f"{tuple(truth.shape[1:])}"
        )


# --- what came of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetQuality:
    """What `describe_target` finds of a target and of the student that is to match it.

    Attributes:
        mismatch: share of the target that the student cannot match, 0 to 1; see `mismatch`.
        moved: mean squared distance of the target from the teacher's own, in units of the latter's variance.
        channels, channels_before: `effective_channels` of the target, and of the teacher's own.
    """

    mismatch: float
    moved: float
    channels: float
    channels_before: float


def describe_target(student: Tensor, target: Tensor, original: Tensor) -> TargetQuality:
    """Of one layer: can the student match the target, how far has it moved, and has it become poor?

    Args:
        student: (B, C, H, W).
        target: (B, D, H', W'), as the adapted teacher has it.
        original: the same shape, as the teacher has it. All of the same images.

    Raises:
        ValueError: what `mismatch` refuses, or shapes of target and original that differ.
    """
    if target.shape != original.shape:
        raise ValueError(f"the target {tuple(target.shape)} and the original {tuple(original.shape)} differ in shape")
    before, after = _samples(original), _samples(target)
    variance = (before - before.mean(0)).square().sum()
    moved = (after - before).square().sum() / variance if variance > 0 else torch.zeros(())
    return TargetQuality(
        mismatch(student, target), float(moved), effective_channels(target), effective_channels(original)
    )


def mismatch(student: Tensor, target: Tensor) -> float:
    """The share of a target's variance that no pointwise map of the student's features explains: 0 to 1.

    ``min over W, b of sum |target - W student - b|^2 / sum |target - its mean|^2``, means a channel over images and
    pixels: what is left of a hint however good its connector is. Our own measure. On the images that are given; with
    few of them the map has learned them by heart, so give many more pixels than the student has channels.

    Args:
        student: (B, C, H, W); of maps that are a whole number of times larger than the target's every so manyth pixel
            counts, as in a `Connector`.
        target: (B, D, H', W'), of the same images.

    Returns:
        the share; 0 for a target that is constant.

    Raises:
        ValueError: maps that are not of the same images, or sizes that do not go into each other.
    """
    shrink, enlarge = _factors(student, target)
    if enlarge > 1:
        raise ValueError(
            f"the student's maps {tuple(student.shape)} are smaller than the target's {tuple(target.shape)}; name an "
            "earlier layer of the student"
        )
    met = student[..., ::shrink, ::shrink]
    weight, bias = pointwise_fit(met, target)
    truth = _samples(target)
    left = (truth - _samples(met) @ weight.T - bias).square().sum()
    whole = (truth - truth.mean(0)).square().sum()
    return float(left / whole) if whole > 0 else 0.0


def effective_channels(maps: Tensor) -> float:
    """How many directions a layer's features really vary in: (sum l)^2 / sum l^2 of the channels' covariance.

    The participation ratio of the eigenvalues l (Gao et al. 2017, DOI 10.1101/214262): C for C channels that vary alike
    and independently, 1 if all are multiples of one.

    Args:
        maps: (B, C, H, W).

    Returns:
        1 to C; 0 where nothing varies.

    Raises:
        ValueError: not four dimensions.
    """
    if maps.ndim != 4:
        raise ValueError(f"maps have shape {tuple(maps.shape)}; (B, C, H, W) is needed")
    samples = _samples(maps)
    centred = samples - samples.mean(0)
    covariance = centred.T @ centred
    # The trace is the sum of the eigenvalues, and the squared norm that of their squares.
    squares = covariance.square().sum()
    return float(covariance.trace().square() / squares) if squares > 0 else 0.0
