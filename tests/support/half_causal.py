"""A causal checkpoint's runs with half-precision graphs in place of its chunk-wise networks; the rest is float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support.causal import TorchComponents
from support.half import emulate, session

from anyflow_rt.engines.checkpoint import Checkpoint
from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.stages import CHUNKS
from anyflow_rt.engines.typed.graph import write_typed_graph


class _Session:
    """A typed graph, its half types emulated, behind what the runtime uses of an engine."""

    def __init__(self, graph: Path, component: str, folder: Path, precision: str) -> None:
        typed = write_typed_graph(component, graph, folder / f"{component}-{precision}.onnx", precision)
        self._session = session(emulate(typed.path, folder / f"{component}-{precision}-emulated.onnx"))
        names = [value.name for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.inputs = {name: TensorSpec((), np.dtype(np.float32)) for name in names}

    def new_caches(self, prompts: int, shape: tuple[int, ...]) -> None:
        """None: caches are inputs and outputs."""

    def infer(self, **arrays: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(self._outputs, self._session.run(None, arrays), strict=True))


class HalfComponents(TorchComponents):
    """graph: the float32 ONNX file of a component."""

    def __init__(self, checkpoint: Checkpoint, graph: Callable[[str], Path], folder: Path, precision: str) -> None:
        super().__init__(checkpoint)
        self._half: dict[str, Any] = {
            name: _Session(graph(name), name, folder, precision) for name in (*CHUNKS, "denoiser")
        }

    def get(self, name: str) -> Any:
        return self._half.get(name) or super().get(name)
