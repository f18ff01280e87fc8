"""One engine's execution on a GPU: buffers by address, optimisation profiles, padded prompts.

Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.tensorrt.contexts import Contexts
from anyflow_rt.engines.tensorrt.memory import CAPTURING, Lane, check_room
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

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


CACHE = "cache_key"
"""What a causal checkpoint's denoiser attends to of earlier chunks."""


class Execution:
    """``run`` executes on one stream of its own and waits for it; what it gives is the caller's, see ``Buffers``.

    file: the engine's. logger: of ``make_logger``. lane: whose memory it works in. expected: bytes of it that engines
    of the same bundle will want. runtime_cache: the file of the kernels that TensorRT for RTX compiles on the GPU; None
    for none.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,
        file: Path,
        logger: Any,
        *,
        residency: str,
        lane: Lane,
        expected: int,
        runtime_cache: Path | None,
    ) -> None:
        import torch

        from anyflow_rt.engines.tensorrt.buffers import Buffers

        self._trt, self._engine, self._file, self._torch = trt, engine, file, torch
        self._label = file.stem
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.inputs = {name: self._spec(name) for name in inputs}
        self.outputs = {name: self._spec(name) for name in names if name not in self.inputs}
        self._types = {name: self._dtype(name) for name in names}
        self._turn = lane.turn
        check_room(engine, self._label, residency, file, lane)
        self._contexts = Contexts(
            trt,
            engine,
            self._label,
            logger,
            lane=lane,
            expected=expected,
            runtime_cache=runtime_cache,
            # Each chunk of a causal checkpoint attends to more than the one before it.
            replays=CACHE not in self.inputs,
        )
        self._buffers = Buffers("cuda")

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
            f"{engine_mend(self._file)}  with longer --prompt-lengths"
        )

    def padded(self, name: str, array: Any, axis: int, length: int, value: float) -> Tensor:
        """``array`` on the GPU, filled up with ``value`` to ``length`` along ``axis``."""
        given = self._buffers.input(name, array, self._types[name])
        shape = list(given.shape)
        shape[axis] = length - shape[axis]
        return self._torch.cat([given, given.new_full(shape, value)], dim=axis)

    def run(self, arrays: Mapping[str, Any], profile: int) -> dict[str, Tensor]:
        """Execute; the outputs, on the GPU. Nothing is copied of what is there already."""
        torch, contexts = self._torch, self._contexts
        # What the caller computed of earlier outputs is input now, or was read from memory that is written again.
        contexts.stream.wait_stream(torch.cuda.current_stream())
        with self._turn, torch.cuda.stream(contexts.stream):
            inputs = {name: self._buffers.input(name, array, self._types[name]) for name, array in arrays.items()}
            shapes = contexts.output_shapes(profile, inputs, list(self.outputs))
            results = {name: self._buffers.output(name, shape, self._types[name]) for name, shape in shapes.items()}
            contexts.execute(profile, inputs, results)
            contexts.stream.synchronize()
        return results

    def close(self) -> None:
        """Give back what is held on the GPU; what was handed out stays valid."""
        with self._turn:
            self._contexts.close()
            del self._buffers, self._contexts, self._engine
            with CAPTURING:
                self._torch.cuda.empty_cache()

    def _spec(self, name: str) -> TensorSpec:
        shape = tuple(None if size == -1 else int(size) for size in self._engine.get_tensor_shape(name))
        # Prompts are padded up to a profile's length; decoder and encoder take frames one after another.
        open_axis = PROMPT_AXES.get(name, 1 if name in ("latents", "frames") else None)
        shape = tuple(None if axis == open_axis else size for axis, size in enumerate(shape))
        kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]
        return TensorSpec(shape, np.dtype(_NUMPY[kind]))

    def _dtype(self, name: str) -> Any:
        if self._engine.get_tensor_dtype(name) == self._trt.DataType.BF16:
            return self._torch.bfloat16
        return getattr(self._torch, {**self.inputs, **self.outputs}[name].dtype.name)
