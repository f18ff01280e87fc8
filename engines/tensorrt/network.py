"""An ONNX file -> a TensorRT network: strongly typed, its weights mapped from the file, every parser error shown."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from anyflow_rt.engines.tensorrt.messages import summary
from anyflow_rt.errors import EngineError


class ParsedNetwork:
    """``network``, and what has to live as long as it: the parser, and the pages its weights are read from."""

    def __init__(self, trt: ModuleType, builder: Any, logger: Any, path: Path) -> None:
        self._trt = trt
        self.network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parser = trt.OnnxParser(self.network, logger)
        self._pages = give_graph(self._parser, path, logger, self._whose)
        if not self._parser.parse_model_proto():
            raise EngineError(complaint(self._parser, path, logger, self._whose))

    @property
    def attentions(self) -> int:
        """Attention layers of the network: each of them is one fused kernel, or was allowed to be taken apart."""
        return self._count(self._trt.LayerType.ATTENTION_OUTPUT)

    @property
    def plugins(self) -> int:
        """Layers that are kernels of ours. A node that finds no plugin is parsed as the function that it stands for."""
        return self._count(self._trt.LayerType.PLUGIN_V3)

    def _count(self, kind: Any) -> int:
        return sum(self.network.get_layer(index).type == kind for index in range(self.network.num_layers))

    @property
    def _whose(self) -> str:
        return f"TensorRT {self._trt.__version__} does"


def give_graph(parser: Any, path: Path, logger: Any, whose: str) -> list[np.memmap]:
    """Let ``parser``, an ``OnnxParser`` or an ``OnnxParserRefitter``, have the graph ``path`` and its weights.

    The pages that these are read from, which have to live as long as it. Raises EngineError with every error.
    """
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if not parser.load_model_proto(path.read_bytes(), str(path)):
        raise EngineError(complaint(parser, path, logger, whose))
    files: dict[str, np.memmap] = {}
    for stored in model.graph.initializer:
        where = {entry.key: entry.value for entry in stored.external_data}
        if "location" not in where:
            continue
        file = where["location"]
        if file not in files:
            files[file] = np.memmap(path.parent / file, np.uint8, "r")
        start, size = int(where.get("offset", 0)), int(where["length"])
        if not parser.load_initializer(stored.name, files[file].ctypes.data + start, size):
            raise EngineError(f"{path.name}: {whose} not take the weights {stored.name} ({size} bytes); build again")
    return list(files.values())


def complaint(parser: Any, path: Path, logger: Any, whose: str) -> str:
    """Why ``whose`` not take the graph ``path``: every error of ``parser``, else what was logged."""
    found = [parser.get_error(index) for index in range(parser.num_errors)]
    errors = [f"{error.desc()} at {_where(error)}" for error in found] or logger.errors
    return (
        f"{whose} not take the graph {path.name}: {summary(errors)}; try another version of the package, or another "
        "engine"
    )


def _where(error: Any) -> str:
    """The node that an error of the parser is about."""
    if error.node() < 0:
        return "the graph"
    return f"node {error.node()}, {error.node_operator()} {error.node_name()!r}"
