"""The layers of any network that takes pictures: what comes out of each, and what the dimensions of that mean.

A tensor of 64 x 16 x 16 numbers does not say which of its sides are height and width. `list_layers` follows one small
batch through the network and notes, at each torch function, where every dimension comes from. A layout is therefore
known, or it is "?"; it is never guessed from sizes.

A dimension is a tuple of parts, outermost first, for views split and join dimensions: windows of 4 pixels make of
H = 16 the parts 4 (which window) and 4 (where in it), and the tokens of a vision transformer are the parts H and W in
one dimension. A view lays its numbers out in a fixed order, so the parts of what it returns follow from the shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

LAYOUTS = ("BCHW", "BHWC", "BLC", "BC")
UNKNOWN = "?"

BATCH = 2  # with one image a batch norm that has no running statistics fails on a map of one pixel
PROBE_SIDE = 100  # the first side of a probe: larger than an index that a network selects with


@dataclass(frozen=True)
class Layer:
    """What one module of a network returns.

    Attributes:
        path: where the module is, e.g. "layer2.0.conv1".
        kind: the name of its class.
        shape: of its output for one image, e.g. (64, 16, 16).
        layout: the output's dimensions, B with them: "BCHW" and "BHWC" (maps), "BLC" (tokens), "BC" (features), or
            "?" where they are none of these or not known.
        grid: (H, W) of a map, and of tokens that lie on a grid; else None.
        prefix: how many tokens come before those of the grid, such as a class token.
        stage: 1, 2, ... counts the grids in the order in which they first occur, from the first layer with weights
            on. None without a grid, before that layer, and where a pooling left one pixel.
        depth: convolutions and linear layers on the longest path from the image to this output.
        calls: how often the network called the module. The rest describes its last call.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    layout: str
    grid: tuple[int, int] | None
    prefix: int
    stage: int | None
    depth: int
    calls: int

    @property
    def label(self) -> str:
        """For people, e.g. "layer2.0.conv1 (Conv2d, 64 x 16 x 16)"."""
        sizes = " x ".join(map(str, self.shape))
        return f"{self.path} ({self.kind}, {sizes})" if sizes else f"{self.path} ({self.kind})"

    def __str__(self) -> str:
        return self.label


def list_layers(network: nn.Module, shape: tuple[int, int, int] = (3, 32, 32)) -> list[Layer]:
    """Every module that runs and returns a floating tensor, blocks and stages too, in the order in which they finish.

    One forward pass of two random images, in evaluation mode and without gradients, on the network's own device. The
    network is as it was afterwards, and so is torch's random state. Of a module that returns a tuple, list or
    dictionary the first floating tensor in it is listed. A module with several paths is listed under its first.

    Args:
        shape: (channels, height, width) of an image that the network takes.

    Raises:
        ValueError: the network does not take such an image, or has never been run and still waits for its sizes.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape={shape} is no image; give (channels, height, width)")
    if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
        raise ValueError("the network has lazy layers without sizes; run it on one batch first")
    image = _image_for(network, shape)
    tracer = _Tracer(image)
    found: dict[str, Layer] = {}
    staged: dict[str, bool] = {}

    def note(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = next((tensor for tensor in tensors_in(output) if tensor.is_floating_point()), None)
        if tensor is None:
            return
        tag = tracer.of_output(tensor, inputs)
        layout, grid, prefix = _read(tag.dims)
        # Taken out and put in again: the last call decides the place, too.
        calls = found.pop(path).calls + 1 if path in found else 1
        kind = type(module).__name__
        found[path] = Layer(path, kind, tuple(tensor.shape[1:]), layout, grid, prefix, None, tag.depth, calls)
        staged[path] = grid is not None and not any(part.pooled for dim in tag.dims for part in dim)

    with ExitStack() as stack:
        stack.enter_context(left_alone(network, image.device))
        for path, module in network.named_modules():
            if path:
                stack.enter_context(_hooked(module, path, note))
        try:
            with tracer:
                network(image)
        except Exception as error:
            sizes = " x ".join(map(str, shape))
            raise ValueError(
                f"the network does not take an image of shape {sizes}; pass shape=(channels, height, width) of one "
                "that it takes"
            ) from error
    return _with_stages(found.values(), staged)


def _image_for(network: nn.Module, shape: tuple[int, int, int]) -> Tensor:
    like = next((t for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()), torch.empty(0))
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(BATCH, *shape, generator=generator, device="cpu").to(like.device, like.dtype)


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in the mode that it was in."""
    # The attribute, not eval(): a network may do more in its own eval(), such as fuse its weights.
    modes = [(module, module.training) for module in network.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def left_alone(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and random state come back as they were."""
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    randomness = torch.random.fork_rng([device] if device.type == "cuda" else [])
    with randomness, torch.no_grad(), in_eval_mode(network):
        try:
            yield
        finally:
            for buffer, before in buffers:
                # Unchanged ones are not written to: a backward pass that still needs them would fail.
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def _hooked(module: nn.Module, path: str, note: Callable[[str, nn.Module, Any, Any], None]) -> Iterator[None]:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        note(path, module, (args, kwargs), output)

    handle = module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _with_stages(layers: Iterable[Layer], staged: Mapping[str, bool]) -> list[Layer]:
    numbers: dict[tuple[int, int] | None, int] = {}
    result = []
    for layer in layers:
        stage = None
        if staged[layer.path] and layer.depth:
            stage = numbers.setdefault(layer.grid, len(numbers) + 1)
        result.append(replace(layer, stage=stage))
    return result


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from tensors_in(inner)


# --- dimensions and their parts ------------------------------------------------------------------


class Part(NamedTuple):
    """A whole dimension, or what a view made of one.

    `outside` is the number of steps of the same axis that lie further out: 1 for the whole axis and for its coarse
    part, such as the number of a window; more for a fine part, such as the place within a window. Tokens that are not
    the grid alone are one part "L" with the grid, if it is known, and the number of tokens before it.
    """

    letter: str
    size: int
    outside: int = 1
    prefix: int = 0
    grid: tuple[int, int] | None = None
    pooled: bool = False  # a pooling averaged the axis away


Dim = tuple[Part, ...]
Dims = tuple[Dim, ...]


def _size(dim: Dim) -> int:
    return math.prod(part.size for part in dim)


def _unknown(shape: Iterable[int]) -> Dims:
    return tuple((Part(UNKNOWN, size),) for size in shape)


def _is_known(dim: Dim) -> bool:
    return bool(dim) and all(part.letter != UNKNOWN for part in dim)


def _letter(dim: Dim) -> str:
    """What a dimension means as a whole."""
    letters = [part.letter for part in dim]
    if UNKNOWN in letters:
        return UNKNOWN
    if "C" in letters and "B" not in letters:
        return "C"  # of a flattened map, or of patches that became channels: every number is a feature
    if any(part.outside > 1 for part in dim):
        return UNKNOWN
    if letters == ["H", "W"]:
        return "L"
    return letters[0] if len(letters) == 1 else UNKNOWN


def _tokens(dim: Dim) -> tuple[int, tuple[int, int] | None]:
    """Prefix and grid of a dimension L."""
    return (0, (dim[0].size, dim[1].size)) if len(dim) == 2 else (dim[0].prefix, dim[0].grid)


def _token_dim(size: int, prefix: int, grid: tuple[int, int] | None) -> Dim:
    if grid and size == math.prod(grid):
        return Part("H", grid[0]), Part("W", grid[1])
    return (Part("L", size, prefix=prefix, grid=grid),)


def _read(dims: Dims) -> tuple[str, tuple[int, int] | None, int]:
    """Layout, grid and prefix."""
    layout = "".join(map(_letter, dims))
    if layout not in LAYOUTS:
        return UNKNOWN, None, 0
    if layout == "BLC":
        prefix, grid = _tokens(dims[1])
        return layout, grid, prefix
    if layout == "BC":
        return layout, None, 0
    first = layout.index("H")
    return layout, (_size(dims[first]), _size(dims[first + 1])), 0


def _resized(dim: Dim, size: int) -> Dim:
    """The same axis with another number of steps. Tokens lose their grid with it."""
    part = dim[0] if len(dim) == 1 else Part(_letter(dim), size)
    return (part._replace(size=size, prefix=0, grid=None, pooled=False),)


def _pooled(dim: Dim) -> Dim:
    (part,) = _resized(dim, 1)
    return (part._replace(pooled=part.letter in "HWL"),)


def _resampled(dims: Dims, shape: Sequence[int]) -> Dims:
    return tuple(dim if _size(dim) == size else _resized(dim, size) for dim, size in zip(dims, shape, strict=True))


def _cut(dim: Dim, piece: slice) -> Dim:
    """Some steps of an axis. Tokens keep their grid if all of it is among them."""
    kept = range(*piece.indices(_size(dim)))
    if len(kept) == _size(dim):
        return dim
    if _letter(dim) == "L" and kept.step == 1:
        prefix, grid = _tokens(dim)
        if grid and kept.start <= prefix and kept.stop >= prefix + math.prod(grid):
            return _token_dim(len(kept), prefix - kept.start, grid)
    return _resized(dim, len(kept))


def _reshaped(dims: Dims, shape: Sequence[int]) -> Dims:
    """Parts go on in their order, and split where a new dimension ends within one."""
    if tuple(map(_size, dims)) == tuple(shape):
        return dims
    parts = [part for dim in dims for part in dim]
    result: list[Dim] = []
    for size in shape:
        taken: list[Part] = []
        left = size
        while parts and (left > 1 or (not taken and parts[0].size == 1)):
            part = parts.pop(0)
            if left % part.size:
                part, rest = _split(part, left)
                parts.insert(0, rest)
            taken.append(part)
            left //= part.size
        result.append(_merged(taken))
    result[-1] += tuple(parts)
    return tuple(result)


def _split(part: Part, size: int) -> tuple[Part, Part]:
    """The outer part, of a size, and the inner one."""
    rest, remainder = divmod(part.size, size)
    if remainder or part.letter == "L":
        raise ValueError("the new dimension ends within a step of this one")
    return part._replace(size=size), part._replace(size=rest, outside=part.outside * size)


def _merged(parts: Sequence[Part]) -> Dim:
    """Outer and inner part of the same axis make it one again."""
    result: list[Part] = []
    for part in parts:
        if result and result[-1].letter == part.letter and part.outside == result[-1].outside * result[-1].size:
            result[-1] = result[-1]._replace(size=result[-1].size * part.size)
        else:
            result.append(part)
    return tuple(result)


def _agreed(operands: Sequence[Dims], shape: Sequence[int]) -> Dims:
    """Of an elementwise function: operands are aligned at the last dimension, as broadcasting does it."""
    result: list[Dim] = []
    for back, size in enumerate(reversed(shape), 1):
        there = [dims[-back] for dims in operands if len(dims) >= back and _size(dims[-back]) == size]
        result.insert(0, _common(there, size))
    return tuple(result)


def _common(candidates: Sequence[Dim], size: int) -> Dim:
    """What is known of a dimension that several tensors share; nothing if they contradict each other."""
    known = [dim for dim in candidates if _is_known(dim)]
    if len(set(known)) == 1:
        return known[0]
    letters = {_letter(dim) for dim in known}
    if len(letters) != 1 or letters == {UNKNOWN}:
        return (Part(UNKNOWN, size),)
    if letters == {"L"}:
        grids = {_tokens(dim) for dim in known} - {(0, None)}
        return _token_dim(size, *(grids.pop() if len(grids) == 1 else (0, None)))
    return min(known, key=lambda dim: dim[0].pooled)


# --- what each function of torch makes of the dimensions -----------------------------------------


class Call(NamedTuple):
    """A call of a torch function that has returned."""

    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Tensor]
    dims: Callable[[Tensor], Dims]

    @property
    def operands(self) -> list[Dims]:
        return [self.dims(tensor) for tensor in tensors_in((self.args, self.kwargs))]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.outputs[0].shape)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)


def _same(call: Call) -> list[Dims]:
    return [call.operands[0]]


def _elementwise(call: Call) -> list[Dims]:
    return [_agreed(call.operands, call.shape)]


def _pool(call: Call) -> list[Dims]:
    before = call.operands[0]
    after = _resampled(before, call.shape)
    if math.prod(map(_size, after[2:])) == 1 < math.prod(map(_size, before[2:])):
        after = after[:2] + tuple(map(_pooled, after[2:]))
    return [after] * len(call.outputs)


def _resize(call: Call) -> list[Dims]:
    return [_resampled(call.operands[0], call.shape)]


def _reshape(call: Call) -> list[Dims]:
    return [_reshaped(call.operands[0], call.shape)]


def _reorder(call: Call) -> list[Dims]:
    """Permutations, reductions and selections: a probe whose sides all differ shows where each dimension went."""
    dims = call.operands[0]
    probe = torch.empty(tuple(range(PROBE_SIDE, PROBE_SIDE + len(dims))), device="meta")
    went = next(tensors_in(call.func(probe, *call.args[1:], **call.kwargs))).shape
    result = []
    for place, side in enumerate(went):
        if side >= PROBE_SIDE:
            result.append(dims[side - PROBE_SIDE])
        else:  # keepdim
            result.append(_pooled(dims[place]))
    return [tuple(result)] * len(call.outputs)


def _expand(call: Call) -> list[Dims]:
    dims = call.operands[0]
    new = len(call.shape) - len(dims)
    return [_unknown(call.shape[:new]) + _resampled(dims, call.shape[new:])]


def _index(call: Call) -> list[Dims]:
    dims, index = call.operands[0], call.args[1]
    index = index if isinstance(index, tuple) else (index,)
    if not all(entry is None or entry is ... or isinstance(entry, slice) or type(entry) is int for entry in index):
        return []
    named = sum(entry is not None and entry is not ... for entry in index)
    whole = (slice(None),) * (len(dims) - named)
    at = index.index(...) if ... in index else len(index)
    left = iter(dims)
    result: list[Dim] = []
    for entry in (*index[:at], *whole, *index[at + 1 :]):
        if entry is None:
            result.append(())
        elif isinstance(entry, slice):
            result.append(_cut(next(left), entry))
        else:
            next(left)
    return [tuple(result)]


def _narrow(call: Call) -> list[Dims]:
    axis, start, length = (call.argument(*place) for place in ((1, "dim"), (2, "start"), (3, "length")))
    return [_piece(call.operands[0], axis, start, length)]


def _divide(call: Call) -> list[Dims]:
    dims, axis = call.operands[0], call.argument(2, "dim", 0)
    result, start = [], 0
    for output in call.outputs:
        result.append(_piece(dims, axis, start, output.shape[axis]))
        start += output.shape[axis]
    return result


def _piece(dims: Dims, axis: int, start: int, length: int) -> Dims:
    axis %= len(dims)
    return (*dims[:axis], _cut(dims[axis], slice(start, start + length)), *dims[axis + 1 :])


def _concatenate(call: Call) -> list[Dims]:
    operands = call.operands
    axis = call.argument(1, "dim", 0) % len(call.shape)
    dims = [_common([dims[place] for dims in operands], size) for place, size in enumerate(call.shape)]
    dims[axis] = _joined([dims[axis] for dims in operands])
    return [tuple(dims)]


def _joined(pieces: Sequence[Dim]) -> Dim:
    size = sum(map(_size, pieces))
    letters = {_letter(dim) for dim in pieces} - {UNKNOWN}
    if len(letters) != 1:
        return (Part(UNKNOWN, size),)
    if letters != {"L"}:
        return (Part(letters.pop(), size),)
    grids = []
    start = 0
    for dim in pieces:
        if _letter(dim) == "L" and _tokens(dim)[1]:
            prefix, grid = _tokens(dim)
            grids.append((start + prefix, grid))
        start += _size(dim)
    return _token_dim(size, *(grids[0] if len(grids) == 1 else (0, None)))


def _convolve(call: Call) -> list[Dims]:
    """A convolution says itself what its dimensions are, where nothing else is known of them."""
    before, shape = call.operands[0], call.shape
    letters = {"conv1d": "BCL", "conv2d": "BCHW"}.get(call.func.__name__.replace("_transpose", ""), "")
    if len(shape) != len(letters):
        return []
    lost = all(part.letter == UNKNOWN for dim in before for part in dim)
    # Were windows put into the batch on a way that is not known, there are more of them than images.
    batch = (Part("B", BATCH),) if lost and shape[0] == BATCH else before[0]
    after = [batch, (Part("C", shape[1]),)]
    for place in range(2, len(shape)):
        dim = before[place] if _is_known(before[place]) else (Part(letters[place], _size(before[place])),)
        after += _resampled((dim,), shape[place : place + 1])
    return [tuple(after)]


def _linear(call: Call) -> list[Dims]:
    before = call.operands[0]
    letter = "C" if _letter(before[-1]) == "C" else UNKNOWN
    return [(*before[:-1], (Part(letter, call.shape[-1]),))]


def _multiply_matrices(call: Call) -> list[Dims]:
    left, right = call.operands
    batch = _agreed([left[:-2], right[:-2]], call.shape[:-2])
    return [(*batch, left[-2], right[-1])]


def _attend(call: Call) -> list[Dims]:
    query, _, value = call.operands[:3]
    return [(*query[:-1], value[-1])]


_NAMES: dict[Callable[[Call], list[Dims]], str] = {
    _same: """
        alpha_dropout batch_norm bfloat16 contiguous cpu cuda data detach double dropout dropout1d dropout2d dropout3d
        feature_alpha_dropout flip float group_norm gumbel_softmax half hardswish instance_norm layer_norm
        local_response_norm log_sigmoid log_softmax logsigmoid multi_head_attention_forward normalize prelu rdiv
        requires_grad rms_norm roll rpow softmax softmin softsign tanhshrink to type type_as
    """,
    _elementwise: "copy",
    _resize: "glu grid_sample interpolate pad pixel_shuffle pixel_unshuffle upsample",
    _reshape: "flatten ravel reshape reshape_as squeeze unflatten unsqueeze view view_as",
    _reorder: """
        T adjoint amax amin logsumexp mH mT max mean median min moveaxis movedim norm permute prod select std sum
        swapaxes swapdims t transpose unbind var
    """,
    _expand: "expand expand_as",
    _index: "getitem",
    _narrow: "narrow",
    _divide: "chunk split split_with_sizes tensor_split",
    _concatenate: "cat concat concatenate",
    _convolve: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _linear: "linear",
    _multiply_matrices: "bmm matmul",
    _attend: "scaled_dot_product_attention",
}
_RULES = {name: rule for rule, names in _NAMES.items() for name in names.split()}


@cache
def _rule(name: str) -> Callable[[Call], list[Dims]] | None:
    if name in _RULES:
        return _RULES[name]
    if "_pool" in name:
        return _pool
    packet = getattr(torch.ops.aten, name, None)
    overloads = packet.overloads() if packet else ()
    pointwise = any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in overloads)
    return _elementwise if pointwise else None


def _layers_in(name: str) -> int:
    """Convolutions and linear layers in one function; attention has one before and one after it."""
    if name == "multi_head_attention_forward":
        return 2
    return int(_RULES.get(name) in (_convolve, _linear))


# --- following the tensors -----------------------------------------------------------------------


class Tag(NamedTuple):
    """What is known of one tensor."""

    dims: Dims
    depth: int


class _Tracer(TorchFunctionMode):
    """Sees every torch function while it is active, and tags what they return.

    Attention and transformer layers take no fused way of their own while such a mode is active.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.tags = WeakTensorKeyDictionary()
        self.tags[image] = Tag(tuple((Part(*side),) for side in zip("BCHW", image.shape, strict=True)), 0)

    def tag(self, tensor: Tensor) -> Tag:
        return self.tags.get(tensor) or Tag(_unknown(tensor.shape), 0)

    def of_output(self, output: Tensor, inputs: Any) -> Tag:
        """The tag of a module's output. What comes from code that torch does not show keeps its inputs' depth."""
        if output not in self.tags:
            self.tags[output] = Tag(_unknown(output.shape), self._depth(inputs))
        return self.tags[output]

    def _depth(self, inputs: Any) -> int:
        return max((self.tag(tensor).depth for tensor in tensors_in(inputs)), default=0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = _name(func)
        if name == "setitem":
            self.tags[args[0]] = self.tag(args[0])._replace(depth=self._depth(args))
            return result
        inputs, outputs = list(tensors_in((args, kwargs))), list(tensors_in(result))
        if not inputs or not outputs:
            return result  # made of nothing, or no tensor
        depth = self._depth(inputs) + _layers_in(name)
        dims = self._follow(name, Call(func, args, kwargs, outputs, lambda tensor: self.tag(tensor).dims))
        for place, output in enumerate(outputs):
            known = dims[place] if place < len(dims) else ()
            fits = tuple(map(_size, known)) == tuple(output.shape)
            self.tags[output] = Tag(known if fits else _unknown(output.shape), depth)
        return result

    def _follow(self, name: str, call: Call) -> list[Dims]:
        rule = _rule(name)
        if rule is None:
            return []
        try:
            return rule(call)
        except Exception:
            # A call in a form that the rule does not expect. What the network computes must not depend on it.
            return []


def _name(func: Callable[..., Any]) -> str:
    """ "relu" for relu and relu_, "getitem" for __getitem__, "T" for the property."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(func.__self__, "__name__", "")
    return name.strip("_")
