"""Features by dotted path from networks as they are, connectors that bring them to one shape, and the step for both."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spectralkd_nb.distillation.evaluation import in_eval_mode
from spectralkd_nb.distillation.steps import Step, Terms, described
from spectralkd_nb.networks.weights import randomness_kept

FeatureLoss = Callable[[Tensor, Tensor], Tensor]


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
    modules = _modules(network, paths)
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
    """What modules return for images, by path; in eval mode, without a gradient, on the network's device."""
    if not paths:
        return {}
    device = next(network.parameters()).device
    with torch.no_grad(), in_eval_mode(network), collected(network, paths) as seen:
        network(images.to(device))
    return seen


def _modules(network: nn.Module, paths: Sequence[str]) -> dict[str, nn.Module]:
    if hasattr(network, "_orig_mod"):
        raise ValueError("a compiled network hands out no features; train with Recipe(compile=False)")
    known = {path: module for path, module in network.named_modules() if path}
    if missing := [path for path in paths if path not in known]:
        near = difflib.get_close_matches(missing[0], known, 3, 0.3) or list(known)[:3]
        raise ValueError(f"the network has no layer {missing[0]!r}; the nearest are {', '.join(map(repr, near))}")
    return {path: known[path] for path in paths}


class Connector(nn.Conv2d):
    """A 1 x 1 convolution from the student's channels to the teacher's, with a stride where its maps are larger.

    The regressor of FitNets (Romero et al. 2015, arXiv 1412.6550, section 2.2), which has larger kernels there. It is
    trained along with the student and thrown away afterwards.
    """

    def __init__(self, channels: int, to_channels: int, stride: int = 1) -> None:
        super().__init__(channels, to_channels, 1, stride)

    @classmethod
    def between(cls, student: Tensor, teacher: Tensor, seed: int = 0) -> Connector:
        """One that brings features of the student (B, C, H, W) to the shape of the teacher's; weights by the seed.

        Raises:
            ValueError: not four dimensions, or maps of which the student's are no whole number of times larger.
        """
        shapes = f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}"
        if student.ndim != 4 or teacher.ndim != 4:
            raise ValueError(f"{shapes}: a connector joins features (B, C, H, W)")
        strides = {mine / its for mine, its in zip(student.shape[2:], teacher.shape[2:], strict=True)}
        stride = strides.pop()
        if strides or stride != int(stride):
            raise ValueError(
                f"{shapes}: the student's maps must be as large as the teacher's or a whole number of times larger; "
                "pair other layers"
            )
        with randomness_kept():
            torch.manual_seed(seed)
            return cls(student.shape[1], teacher.shape[1], int(stride))

    @classmethod
    def fitted(cls, student: Tensor, teacher: Tensor) -> Connector:
        """The one with the least mean squared difference behind it on these very features, by linear least squares.

        What is left behind it is what the student's features lack, whatever the connector: a look at a trained student
        without training a connector first.

        Args, errors: as for `between`; (B, C, H, W), of the same images.
        """
        if student.shape[:1] != teacher.shape[:1]:
            raise ValueError(
                f"the student's features are of {len(student)} images and the teacher's of {len(teacher)}; give both "
                "of the same images"
            )
        connector = cls.between(student.detach(), teacher.detach())
        stride = connector.stride[0]
        # Double precision on the CPU: Apple's GPUs have none.
        maps = (x.detach().cpu() for x in (student[..., ::stride, ::stride], teacher))
        mine, its = (x.movedim(1, -1).flatten(0, -2).double() for x in maps)
        # Centred, so that the constant needs no column of its own; gelsd also takes channels that are dead.
        centred = mine - mine.mean(0), its - its.mean(0)
        weight = torch.linalg.lstsq(*centred, driver="gelsd").solution
        with torch.no_grad():
            connector.weight.copy_(weight.T[:, :, None, None])
            connector.bias.copy_(its.mean(0) - mine.mean(0) @ weight)
        return connector.to(student.device)

    def extra_repr(self) -> str:
        stride = f", stride={self.stride[0]}" if self.stride[0] > 1 else ""
        return f"{self.in_channels}, {self.out_channels}{stride}"


class Match(nn.Module):
    """One loss between a layer of the student and a layer of the teacher.

    Args:
        name: of the loss term. Matches of one name are added up.
        loss: takes features of the student and of the teacher, returns a scalar; see `losses`. Its settings go along in
            a functools.partial, or they are not part of the run's record.
        student, teacher: dotted paths of the layers.
        connector: what the student's features go through first, for instance a `Connector`; None for nothing.
    """

    def __init__(
        self, name: str, loss: FeatureLoss, student: str, teacher: str, connector: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.name, self.loss, self.student, self.teacher = name, loss, student, teacher
        self.connector = connector

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return self.loss(student if self.connector is None else self.connector(student), teacher)

    def __repr__(self) -> str:
        through = "" if self.connector is None else f" through {self.connector!r}"
        return f"{self.name}: {described(self.loss)} on {self.student}{through} and {self.teacher}"


class FeatureMatching(nn.Module):
    """A step that asks the student to match features of the teacher beside what another step asks.

        step = FeatureMatching(SoftTargets(), [Match("shape", spectral_shape_loss, "layer1", "layer1")])
        train(student, data, teacher=teacher, step=step, weights={"shape": 0.1})

    Networks stay as they are: features are taken by dotted path. Connectors are trained, clipped and checkpointed with
    the student. The teacher's features get no gradient, because the losses of this package give it none.

    Args:
        base: gives the logits and its own terms, such as `CrossEntropy()` or `SoftTargets()`.
        matches: at least one.
    Raises:
        ValueError: no matches; when called: no teacher, what `collected` refuses, a term that the base has too.
    """

    def __init__(self, base: Step, matches: Sequence[Match]) -> None:
        super().__init__()
        if not matches:
            raise ValueError("there is nothing to match; use the base step alone")
        self.base = base
        self.matches = nn.ModuleList(matches)

    def forward(
        self, student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, Terms]:
        if teacher is None:
            raise ValueError("features to match come from a teacher; pass teacher=... to train")
        mine, its = [match.student for match in self.matches], [match.teacher for match in self.matches]
        with collected(student, mine) as seen, collected(teacher, its) as shown:
            logits, terms = self.base(student, teacher, images, labels)
            if not shown:  # a base that learns from labels alone
                with torch.no_grad():
                    teacher(images)
        found: Terms = {}
        for match in self.matches:
            loss = match(seen[match.student], shown[match.teacher])
            found[match.name] = found[match.name] + loss if match.name in found else loss
        if twice := terms.keys() & found.keys():
            raise ValueError(f"the base step has a term {twice.pop()!r} of its own; name the matches otherwise")
        return logits, {**terms, **found}

    def __repr__(self) -> str:
        return " + ".join([described(self.base), *(f"[{match!r}]" for match in self.matches)])
