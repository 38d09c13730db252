"""A training step as one launch on a GPU, instead of hundreds."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP = 3  # calls before a capture, in which libraries choose their kernels and take their memory


@dataclass(frozen=True)
class _Recording:
    graph: Any  # torch.cuda.CUDAGraph
    given: tuple[Tensor, ...]
    returned: Any
    gradients: list[Tensor | None]


class Graphed:
    """A function of tensors on a GPU, recorded as a CUDA graph once for each shape that it is called with.

    Small networks keep a GPU waiting: between two kernels of a few microseconds Python takes longer to ask for the
    next. A graph asks for all of them at once, and they are the same kernels.

    What the function returns, and the gradients that it leaves, are the same tensors at every call, written over by the
    next. Inputs must have their shapes and memory layout for good; whatever else the function reads must stay where it
    is and be changed in place, as optimisers do. A function that waits for a number from the GPU cannot be recorded: it
    is then called as it is, after a warning.

    Args:
        function: takes tensors on the GPU. It must not add to gradients that it finds.
        parameters: whose gradients it leaves behind.
        buffers: what it changes; the calls that warm up are undone.
    """

    def __init__(
        self, function: Callable[..., Any], parameters: Sequence[nn.Parameter] = (), buffers: Sequence[Tensor] = ()
    ) -> None:
        self.function, self.parameters, self.buffers = function, list(parameters), list(buffers)
        self._recordings: dict[tuple, _Recording] = {}
        self._refused = False
        self._stream: Any = None  # of its own: what is captured on one stream shares the libraries' memory

    def __call__(self, *given: Tensor) -> Any:
        if self._refused:
            return self.function(*given)
        with torch.cuda.device(given[0].device):
            return self._call(given)

    def _call(self, given: Sequence[Tensor]) -> Any:
        shapes = tuple(tuple(tensor.shape) for tensor in given)
        if shapes not in self._recordings:
            usual = torch.cuda.current_stream()
            try:
                self._warm_up(given)
                self._recordings[shapes] = self._recorded(given)
            except RuntimeError as error:
                torch.cuda.set_stream(usual)  # a capture that fails may leave another
                self._refused = True
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"the step could not be recorded as a CUDA graph and is slower: {reason}", stacklevel=3)
                return self.function(*given)
        recording = self._recordings[shapes]
        for own, now in zip(recording.given, given, strict=True):
            own.copy_(now)
        recording.graph.replay()
        for parameter, gradient in zip(self.parameters, recording.gradients, strict=True):
            parameter.grad = gradient
        return recording.returned

    def _warm_up(self, given: Sequence[Tensor]) -> None:
        """A few calls, after which everything is as before.

        Raises:
            RuntimeError: the function waits for a number; found here, since a capture that fails leaves things behind.
        """
        if self._stream is None:
            gc.collect()  # graphs of runs that have ended, and their memory
            self._stream = torch.cuda.Stream()
        before = [buffer.clone() for buffer in self.buffers]
        random, waiting = torch.cuda.get_rng_state(given[0].device), torch.cuda.get_sync_debug_mode()
        self._stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._stream):
                for call in range(WARM_UP):
                    if call == WARM_UP - 1:  # what is remembered by size has been sent by now
                        torch.cuda.set_sync_debug_mode("error")
                    self.function(*given)
        finally:
            torch.cuda.set_sync_debug_mode(waiting)
            torch.cuda.current_stream().wait_stream(self._stream)
            torch.cuda.set_rng_state(random, given[0].device)
            with torch.no_grad():
                for buffer, value in zip(self.buffers, before, strict=True):
                    buffer.copy_(value)

    def _recorded(self, given: Sequence[Tensor]) -> _Recording:
        own = tuple(tensor.clone() for tensor in given)
        graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
        gc.disable()  # an old graph must not be collected while this one is captured
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                returned = self.function(*own)
        finally:
            if collects:
                gc.enable()
        return _Recording(graph, own, returned, [parameter.grad for parameter in self.parameters])
