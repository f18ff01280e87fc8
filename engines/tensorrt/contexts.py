"""Execution contexts of one engine: one that takes whatever comes, and one of its own for each captured graph.

A graph repeats what its context did, so that nothing may be changed on that context any more: neither shapes nor
addresses nor the profile. What is executed a second time gets one. All contexts work in the same memory, one at a time.

Not yet run on a GPU.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from anyflow_rt.engines.tensorrt.memory import CAPTURING, Lane
from anyflow_rt.engines.tensorrt.messages import summary
from anyflow_rt.engines.tensorrt.runtime_cache import RuntimeCache
from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

_log = logging.getLogger(__name__)

MOST_GRAPHS = 16
"""Captured graphs that are kept: two for each conditioning of a run, and those of a few runs before."""
_MOST_REMEMBERED = 64

_Shapes = tuple[int, tuple[tuple[int, ...], ...]]
_Key = tuple[_Shapes, tuple[int, ...]]


@dataclass(frozen=True)
class _Own:
    """graph None: TensorRT for RTX captures by itself, or the capture failed."""

    context: Any
    graph: Any


class Contexts:
    """``stream``: the one that everything is executed on. One thread at a time, which holds ``lane.turn``.

    logger: of ``make_logger``. lane, expected, runtime_cache: as of ``device.Execution``. replays: whether what is
    executed twice is captured; not worth it where shapes never come back.
    """

    def __init__(
        self,
        trt: ModuleType,
        engine: Any,
        label: str,
        logger: Any,
        *,
        lane: Lane,
        expected: int,
        runtime_cache: Path | None,
        replays: bool = True,
    ) -> None:
        import torch

        self._trt, self._engine, self._label, self._logger, self._torch = trt, engine, label, logger, torch
        self._captures = not hasattr(trt, "CudaGraphStrategy")
        self._cache: RuntimeCache | None = None
        self._replays = replays
        self._memory = lane.working_memory(engine.device_memory_size_v2, expected)
        self.stream = torch.cuda.Stream()
        self._plain_config = self._new_config(runtime_cache, graphs=False)
        self._own_config = self._plain_config if self._captures else self._new_config(runtime_cache, graphs=True)
        self._common = self._new_context(self._plain_config)
        if self._common is None:
            raise EngineError(
                f"{label}: TensorRT made no execution context ({self._said()}); close other programs on the GPU"
            )
        self._own: OrderedDict[_Key, _Own] = OrderedDict()
        self._once: OrderedDict[_Key, None] = OrderedDict()
        self._shapes: OrderedDict[_Shapes, dict[str, tuple[int, ...]]] = OrderedDict()

    def output_shapes(
        self, profile: int, inputs: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> dict[str, tuple[int, ...]]:
        """Of ``outputs`` for these ``inputs``. Raises EngineError for inputs that the engine was not built for."""
        key = _shapes(profile, inputs)
        if key not in self._shapes:
            self._set_shapes(self._common, profile, inputs)
            self._shapes[key] = {name: tuple(self._common.get_tensor_shape(name)) for name in outputs}
            _limit(self._shapes, _MOST_REMEMBERED)
        return self._shapes[key]

    def execute(self, profile: int, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> None:
        """Begin on ``stream``: as it is, the second time to be captured too, then replayed."""
        places = {**inputs, **outputs}
        key = (_shapes(profile, inputs), tuple(place.data_ptr() for place in places.values()))
        if (own := self._own.get(key)) is not None:
            self._own.move_to_end(key)
            if own.graph is None:
                self._enqueue_own(own.context)
            else:
                own.graph.replay()
            return
        context = self._new_context(self._own_config) if self._replays and key in self._once else None
        self._once[key] = None
        _limit(self._once, _MOST_REMEMBERED)
        chosen = self._common if context is None else context
        self._set_shapes(chosen, profile, inputs)
        for name, place in places.items():
            # What is empty has no address, and TensorRT takes none that is null.
            chosen.set_tensor_address(name, place.data_ptr() or self._memory.data_ptr())
        if context is None:
            self._enqueue(chosen)
        else:
            self._enqueue_own(context)
            self._own[key] = _Own(context, self._captured(context) if self._captures else None)
            _limit(self._own, MOST_GRAPHS)

    def close(self) -> None:
        """Let go of contexts, graphs and memory; keep what was compiled."""
        self.stream.synchronize()
        if self._cache is not None:
            self._cache.keep()
        self._own.clear()
        del self._common, self._memory

    def _captured(self, context: Any) -> Any:
        """The graph of what ``context``, which was executed before, does; None where it cannot be captured: from then
        on everything is executed as it is."""
        self.stream.synchronize()
        graph = self._torch.cuda.CUDAGraph()
        try:
            with CAPTURING, self._torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                done = context.execute_async_v3(self.stream.cuda_stream)
        except RuntimeError as error:
            done, reason = False, str(error).partition("\n")[0]
        else:
            reason = "" if done else self._said()
        if done:
            return graph
        self._captures = False
        _log.warning("%s runs without CUDA graphs, as capturing one failed (%s)", self._label, reason)
        return None

    def _enqueue_own(self, context: Any) -> None:
        """Where TensorRT for RTX captures by itself, any of these may do so."""
        captures_itself = self._own_config is not self._plain_config
        turn: AbstractContextManager[Any] = CAPTURING if captures_itself else nullcontext()
        with turn:
            self._enqueue(context)

    def _enqueue(self, context: Any) -> None:
        self._logger.errors.clear()
        if not context.execute_async_v3(self.stream.cuda_stream):
            raise EngineError(f"{self._label} failed on the GPU: {self._said()}; run with --debug for more")

    def _said(self) -> str:
        return summary(self._logger.errors)

    def _set_shapes(self, context: Any, profile: int, inputs: Mapping[str, Tensor]) -> None:
        if context.active_optimization_profile != profile:
            context.set_optimization_profile_async(profile, self.stream.cuda_stream)
        for name, place in inputs.items():
            if not context.set_input_shape(name, tuple(place.shape)):
                taken = self._engine.get_tensor_profile_shape(name, profile)
                raise EngineError(
                    f"{self._label}: {name} of shape {tuple(place.shape)} is outside what the engine was built for "
                    f"({tuple(taken[0])} to {tuple(taken[2])}); ask for that size, or build with --num-frames, "
                    "--height, --width and --batch"
                )

    def _new_config(self, path: Path | None, *, graphs: bool) -> Any:
        trt, config = self._trt, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(trt, "CudaGraphStrategy"):
            captured, plain = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE, trt.CudaGraphStrategy.DISABLED
            config.cuda_graph_strategy = captured if graphs else plain
            if not self._replays:
                # Else it compiles kernels in the background for every length, which has passed before they are done.
                never = trt.DynamicShapesKernelSpecializationStrategy.NONE
                config.dynamic_shapes_kernel_specialization_strategy = never
            self._cache = self._cache or RuntimeCache(config, path, self._label)
            config.set_runtime_cache(self._cache.cache)
        return config

    def _new_context(self, config: Any) -> Any:
        """None where TensorRT makes none."""
        context = self._engine.create_execution_context(config)
        if context is not None:
            context.set_device_memory(self._memory.data_ptr(), self._memory.numel())
        return context


def _shapes(profile: int, inputs: Mapping[str, Tensor]) -> _Shapes:
    return profile, tuple(tuple(place.shape) for place in inputs.values())


def _limit(kept: OrderedDict[Any, Any], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
