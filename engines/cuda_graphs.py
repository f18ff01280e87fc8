"""A function of tensors as CUDA graphs, one for each set of shapes: hundreds of launches for the price of one.

Not yet run on a GPU. The first call of a shape runs the function as it is, so that every kernel is compiled and loaded,
and gives what came out; then it captures the function, which takes the processor's part of all launches and none of the
GPU's. Later calls copy their inputs into the graph's, replay it, and copy the result out. Inputs that are ``in_place``
are not copied: a graph reads them where they are, so each place has a graph of its own. First calls and captures have a
stream to themselves (``cuda_streams``), so that nothing that another thread asks for gets into a graph.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.engines.cuda_streams import new_stream

KEPT = 2
"""Graphs at once, each with buffers of its own: the usual video's, and that of one that differs."""

Key = tuple[tuple[str, tuple[int, ...], torch.dtype, int], ...]


@dataclass(frozen=True)
class _Captured:
    graph: Any
    inputs: dict[str, Tensor]
    output: Tensor


class ShapeGraphs:
    """``function(**tensors) -> tensor`` on a CUDA device, replayed. Outputs are the caller's own."""

    def __init__(
        self,
        function: Callable[..., Tensor],
        device: torch.device,
        in_place: Collection[str] = (),
        kept: int = KEPT,
    ) -> None:
        """in_place: inputs on the device that are read where they are. kept: graphs at once.

        Raises EngineError where no stream is left.
        """
        self._function, self._device = function, device
        self._in_place, self._kept = frozenset(in_place), kept
        self._captured: OrderedDict[Key, _Captured] = OrderedDict()
        self._stream = new_stream(device)

    def __call__(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The function's value. Tensors on any device; they are read during the call only, but for those that are in
        place, which the graph keeps and reads again whenever it is replayed."""
        key = tuple(
            (name, tuple(tensor.shape), tensor.dtype, tensor.data_ptr() if name in self._in_place else 0)
            for name, tensor in tensors.items()
        )
        found = self._captured.get(key)
        if found is None:
            while len(self._captured) >= self._kept:
                self._captured.popitem(last=False)
            self._captured[key], output = self._first(tensors)
            return output
        self._captured.move_to_end(key)
        for name, tensor in tensors.items():
            if name not in self._in_place:
                found.inputs[name].copy_(tensor)
        found.graph.replay()
        return found.output.clone()

    def clear(self) -> None:
        """Let go of every graph, and with it of what it reads in place."""
        self._captured.clear()

    def _first(self, tensors: Mapping[str, Tensor]) -> tuple[_Captured, Tensor]:
        """The graph for these shapes, and the function's value, computed without it."""
        inputs = {
            name: tensor if name in self._in_place else tensor.to(self._device).contiguous().clone()
            for name, tensor in tensors.items()
        }
        stream, current = self._stream, torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            value = self._function(**inputs)
        current.wait_stream(stream)
        value.record_stream(current)
        graph = torch.cuda.CUDAGraph()
        # Other threads may be loading the decoder: what they ask of the driver must not end this capture.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = self._function(**inputs)
        return _Captured(graph, inputs, output), value
