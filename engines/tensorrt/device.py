"""One engine's execution on a GPU: buffers by address, optimisation profiles, CUDA graphs.

Not yet run on a GPU.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.tensorrt.memory import check_room, turn, working_memory
from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "uint16",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""numpy has no bfloat16: a ``TensorSpec`` says its bits."""

PROMPT_AXES = {
    "input_ids": 1,
    "attention_mask": 1,
    "prompt_embeds": 1,
    "cross_key": 3,
    "cross_value": 3,
    "context_bias": 1,
}
"""Inputs that grow with the prompt, and the axis along which: they are padded up to what a profile has."""

MOST_GRAPHS = 16
"""Captured graphs that are kept: two for each conditioning of a run, and those of a few runs before."""

_Key = tuple[int, tuple[int, ...], tuple[tuple[int, ...], ...]]


class Execution:
    """``run`` executes on one stream of its own and waits for it; what it gives is the caller's, see ``Buffers``.

    expected: bytes of working memory that engines of the same bundle will want. runtime_cache: the file of the kernels
    that TensorRT for RTX compiles on the GPU, read where it is there, else written; None for none.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,
        label: str,
        *,
        residency: str,
        expected: int,
        runtime_cache: Path | None,
    ) -> None:
        import torch

        from anyflow_rt.engines.tensorrt.buffers import Buffers

        self._trt, self._engine, self._label, self._torch = trt, engine, label, torch
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = {name: self._spec(name) for name in inputs}
        self.outputs = {name: self._spec(name) for name in names if name not in self.inputs}
        self._types = {name: self._dtype(name) for name in names}
        check_room(engine, label, residency)
        self._cache_path = runtime_cache
        self._runtime_cache: Any = None
        self._context = self._new_context(expected)
        self._stream = torch.cuda.Stream()
        self._buffers = Buffers("cuda")
        self._graphs: dict[_Key, Any] = {}
        self._captures = not hasattr(trt, "CudaGraphStrategy")

    def signature(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        """Inputs and outputs; None for every size that profiles leave open."""
        return dict(self.inputs), dict(self.outputs)

    def shape_of(self, name: str, profile: int) -> tuple[int, ...]:
        """The largest shape of an input in a profile: the only one where sizes are static."""
        shape = tuple(self._engine.get_tensor_shape(name))
        if -1 not in shape:
            return shape
        return tuple(self._engine.get_tensor_profile_shape(name, profile)[2])

    def profile_for(self, axes: Mapping[str, int], arrays: Mapping[str, Any]) -> int:
        """The first profile with room for every prompt-long input. Raises EngineError where there is none."""
        long = {name: arrays[name].shape[axis] for name, axis in axes.items() if name in arrays}
        for profile in range(self._engine.num_optimization_profiles):
            if all(length <= self.shape_of(name, profile)[axes[name]] for name, length in long.items()):
                return profile
        name, length = next(iter(long.items()))
        most = self.shape_of(name, self._engine.num_optimization_profiles - 1)[axes[name]]
        raise EngineError(
            f"{self._label}: {name} has length {length} and the engine takes up to {most}; shorten the prompt, or "
            "build with longer --prompt-lengths"
        )

    def padded(self, name: str, array: Any, axis: int, length: int, value: float) -> Tensor:
        """``array`` on the GPU, filled up with ``value`` to ``length`` along ``axis``."""
        given = self._buffers.input(name, array, self._types[name])
        shape = list(given.shape)
        shape[axis] = length - shape[axis]
        return self._torch.cat([given, given.new_full(shape, value)], dim=axis)

    def run(self, arrays: Mapping[str, Any], profile: int) -> dict[str, Tensor]:
        """Execute; the outputs, on the GPU. Nothing is copied of what is there already."""
        torch, context = self._torch, self._context
        # What the caller computed of earlier outputs is input now, or was read from memory that is written again.
        self._stream.wait_stream(torch.cuda.current_stream())
        with turn, torch.cuda.stream(self._stream):
            if context.active_optimization_profile != profile:
                context.set_optimization_profile_async(profile, self._stream.cuda_stream)
            places = {name: self._buffers.input(name, array, self._types[name]) for name, array in arrays.items()}
            for name, place in places.items():
                if not context.set_input_shape(name, tuple(place.shape)):
                    raise EngineError(self._refusal(name, tuple(place.shape), profile))
            results = {
                name: self._buffers.output(name, tuple(context.get_tensor_shape(name)), self._types[name])
                for name in self.outputs
            }
            places |= results
            for name, place in places.items():
                context.set_tensor_address(name, place.data_ptr())
            addresses = tuple(place.data_ptr() for place in places.values())
            self._execute((profile, addresses, tuple(tuple(place.shape) for place in places.values())))
            self._stream.synchronize()
        self._keep_runtime_cache()
        return results

    def _execute(self, key: _Key) -> None:
        """Once as it is, then captured, then replayed. TensorRT for RTX captures by itself."""
        if key in self._graphs:
            self._graphs[key].replay()
            return
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError(f"{self._label} failed on the GPU; run with --debug for TensorRT's messages")
        if not self._captures:
            return
        self._stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._context.execute_async_v3(self._stream.cuda_stream)
        self._graphs[key] = graph
        if len(self._graphs) > MOST_GRAPHS:
            del self._graphs[next(iter(self._graphs))]

    def _new_context(self, expected: int) -> Any:
        trt, engine = self._trt, self._engine
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(trt, "CudaGraphStrategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._runtime_cache = config.create_runtime_cache()
            if self._cache_path is not None and self._cache_path.exists():
                self._runtime_cache.deserialize(self._cache_path.read_bytes())
            config.set_runtime_cache(self._runtime_cache)
        context = engine.create_execution_context(config)
        if context is None:
            raise EngineError(f"{self._label}: the GPU has no room for another execution; close other programs on it")
        self._memory = working_memory(engine.device_memory_size_v2, expected)
        context.set_device_memory(self._memory.data_ptr(), self._memory.numel())
        return context

    def _keep_runtime_cache(self) -> None:
        """Kernels that RTX compiled for this GPU, for the next process; written once. A place that cannot be written
        costs the next process that time again, and this one nothing."""
        if self._runtime_cache is None or self._cache_path is None or self._cache_path.exists():
            return
        try:
            self._cache_path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._cache_path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(memoryview(self._runtime_cache.serialize()))
            partial.replace(self._cache_path)
        except OSError as error:
            self._cache_path = None
            _log.warning("kernels compiled for %s are not kept (%s)", self._label, error)

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(None if size == -1 else int(size) for size in self._engine.get_tensor_shape(name))
        # Prompts are padded up to a profile's length, and a decoder takes latent frames one after another.
        open_axis = PROMPT_AXES.get(name, 1 if name == "latents" else None)
        shape = tuple(None if axis == open_axis else size for axis, size in enumerate(shape))
        kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]
        return TensorSpec(shape, np.dtype(_NUMPY[kind]))

    def _dtype(self, name: str) -> Any:
        if self._engine.get_tensor_dtype(name) == self._trt.DataType.BF16:
            return self._torch.bfloat16
        return getattr(self._torch, {**self.inputs, **self.outputs}[name].dtype.name)

    def _refusal(self, name: str, shape: tuple[int, ...], profile: int) -> str:
        taken = self._engine.get_tensor_profile_shape(name, profile)
        return (
            f"{self._label}: {name} of shape {shape} is outside what the engine was built for ({tuple(taken[0])} to "
            f"{tuple(taken[2])}); ask for that size, or build with --height, --width and --num-frames"
        )
