"""Features by dotted path, from networks as they are: modules by name, what they return, eval mode for a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb.names import nearest
from spectralkd_nb.networks.layers import in_eval_mode


def device_of(network: nn.Module) -> torch.device:
    """Where a network's tensors are; the CPU for one that has none."""
    return next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))


@contextmanager
def collected(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules at dotted paths return while the context lasts, by path; of several calls the last.

    The network is not changed: hooks collect, and are gone afterwards. What a later operation in place writes over
    would be features no more. Networks with in-place modules, such as torchvision's, therefore have copies taken; in
    others it is found when the context ends.

    Raises:
        ValueError: no such path, a compiled network (it does not call hooks), an output that is no tensor; at the end,
            a layer that was not called, or whose output was written over.
    """
    modules = modules_at(network, paths)
    in_place = any(getattr(module, "inplace", False) for module in network.modules())
    seen: dict[str, Tensor] = {}
    versions: dict[str, int | None] = {}

    def take(path: str, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ValueError(f"layer {path!r} returns a {type(output).__name__}, and features are a tensor")
        copied = in_place or output.is_inference()  # inference mode counts no versions
        seen[path] = output.clone() if copied else output
        versions[path] = None if copied else output._version

    with ExitStack() as stack:
        for path, module in modules.items():
            hook = module.register_forward_hook(lambda _, __, output, path=path: take(path, output))
            stack.callback(hook.remove)
        yield seen
    for path in modules:
        if path not in seen:
            raise ValueError(f"layer {path!r} was not called, so it has no features; name another")
        if versions[path] is not None and seen[path]._version != versions[path]:
            raise ValueError(f"what layer {path!r} returned was written over in place; name the layer behind it")


def features_of(network: nn.Module, images: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """What modules return for images, by path; in eval mode, without a gradient, on the network's device.

    Args:
        network: the images are brought to its device.
        images: (B, C, H, W), normalised.
        paths: dotted, of modules that return one tensor.

    Returns:
        each module's output, such as maps (B, C, H, W); of several calls the last.

    Raises:
        ValueError: no such path, with the nearest that there are; a compiled network, a module that is not called, an
            output that is no tensor or was written over.
    """
    if not paths:
        return {}
    with torch.no_grad(), in_eval_mode(network), collected(network, paths) as seen:
        network(images.to(device_of(network)))
    return seen


def modules_at(network: nn.Module, paths: Sequence[str]) -> dict[str, nn.Module]:
    """The modules at dotted paths, by path.

    Raises:
        ValueError: no such path, with the nearest that there are; a compiled network, which calls no hooks.
    """
    if hasattr(network, "_orig_mod"):
        raise ValueError("a compiled network hands out no features; train with Recipe(compile=False)")
    known = {path: module for path, module in network.named_modules() if path}
    if missing := [path for path in paths if path not in known]:
        near = nearest(missing[0], known) or list(known)[:3]
        raise ValueError(f"the network has no layer {missing[0]!r}; the nearest are {', '.join(map(repr, near))}")
    return {path: known[path] for path in paths}
