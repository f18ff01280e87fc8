"""An ONNX file -> a TensorRT network: strongly typed, its weights mapped from the file, every parser error shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from anyflow_rt.engines.tensorrt.messages import summary
from anyflow_rt.errors import EngineError


class ParsedNetwork:
    """``network``, and what has to live as long as it: the parser, and the pages its weights are read from."""

    def __init__(self, trt: ModuleType, builder: Any, logger: Any, path: Path) -> None:
        import onnx

        self._trt = trt
        self.network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parser = trt.OnnxParser(self.network, logger)
        self._pages: list[np.memmap] = []
        model = onnx.load(str(path), load_external_data=False)
        if not self._parser.load_model_proto(path.read_bytes(), str(path)):
            raise EngineError(self._complaint(path, logger))
        for name, address, size in self._weights(model, path.parent):
            if not self._parser.load_initializer(name, address, size):
                raise EngineError(f"{path.name}: TensorRT does not take the weights {name} ({size} bytes); build again")
        if not self._parser.parse_model_proto():
            raise EngineError(self._complaint(path, logger))

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

    def _weights(self, model: Any, folder: Path) -> Iterator[tuple[str, int, int]]:
        """Name, address and bytes of every weight outside the graph's file."""
        files: dict[str, np.memmap] = {}
        for stored in model.graph.initializer:
            where = {entry.key: entry.value for entry in stored.external_data}
            if "location" not in where:
                continue
            if where["location"] not in files:
                files[where["location"]] = np.memmap(folder / where["location"], np.uint8, "r")
                self._pages.append(files[where["location"]])
            start, size = int(where.get("offset", 0)), int(where["length"])
            yield stored.name, files[where["location"]].ctypes.data + start, size

    def _complaint(self, path: Path, logger: Any) -> str:
        found = [self._parser.get_error(index) for index in range(self._parser.num_errors)]
        errors = [f"{error.desc()} at {_where(error)}" for error in found] or logger.errors
        return (
            f"TensorRT {self._trt.__version__} does not take the graph {path.name}: {summary(errors)}; "
            "try another version of the package, or another engine"
        )


def _where(error: Any) -> str:
    """The node that an error of the parser is about."""
    if error.node() < 0:
        return "the graph"
    return f"node {error.node()}, {error.node_operator()} {error.node_name()!r}"
