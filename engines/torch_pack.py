"""Components as files of weights: the modules that the graphs are exported from, kept as safetensors, loaded on a GPU.

A file ``<component>.safetensors`` holds the module's own parameters, laid out as ``export`` prepares them (fused
projections, rotary pairs as halves), and in its header the architecture they belong to. Loading builds the module
without storage and gives it the file's tensors, so that nothing is prepared twice; inputs and outputs are the graph's.

At 16 bits the weights of linear layers and all of the VAE's are stored so; other gains and tables stay float32.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.checkpoint_shapes import network_tensors
from anyflow_rt.engines.engine import TensorSpec
from anyflow_rt.engines.export.components import COMPONENTS, Graph
from anyflow_rt.engines.mend import mend_of
from anyflow_rt.engines.onnx_signature import Signature
from anyflow_rt.errors import BundleError, EngineError, MissingPackageError
from anyflow_rt.kernels.checks import ALIGNMENT

if TYPE_CHECKING:
    from anyflow_rt.engines.checkpoint import Checkpoint
    from anyflow_rt.engines.weights import Weights

SCHEMA = 1
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_HEADER = "anyflow_rt"


@dataclass(frozen=True)
class Packed:
    """What a file says of itself: whose weights, at which precision."""

    component: str
    precision: str
    architecture: Architecture

    def without_storage(self) -> Graph:
        """The component on the ``meta`` device, its parameters of the types they are packed in."""
        shapes = network_tensors(self.architecture, COMPONENTS[self.component].network).required
        with torch.device("meta"), torch.no_grad():
            return self.with_weights({name: torch.empty(shape) for name, shape in shapes.items()})

    def with_weights(self, weights: Weights) -> Graph:
        """The component of a checkpoint's ``weights``, ready to be packed."""
        graph = COMPONENTS[self.component].graph(self.architecture, weights)
        if self.component.startswith("vae"):
            graph.module.to(DTYPES[self.precision])
        for layer in graph.module.modules():
            if isinstance(layer, nn.Linear):
                layer.to(DTYPES[self.precision])
        return graph


def pack_component(packed: Packed, checkpoint: Checkpoint, path: Path) -> None:
    """Write one component of ``checkpoint`` to ``path``."""
    pack_weights(packed, checkpoint.weights(COMPONENTS[packed.component].network), path)


def pack_weights(packed: Packed, weights: Weights, path: Path) -> None:
    """Write the component that ``weights``, by their names in a checkpoint, make to ``path``."""
    with torch.no_grad():
        module = packed.with_weights(weights).module
        tensors = {key: value.detach().clone().contiguous() for key, value in module.state_dict().items()}
    _save(packed, tensors, path)


def pack_header(packed: Packed, path: Path) -> None:
    """Write a component whose weights another one's file has."""
    _save(packed, {}, path)


def _save(packed: Packed, tensors: dict[str, torch.Tensor], path: Path) -> None:
    header = {"schema": SCHEMA, "component": packed.component, "precision": packed.precision}
    values = {**header, "architecture": packed.architecture.to_dict()}
    _safetensors().torch.save_file(tensors, path, metadata={_HEADER: json.dumps(values)})


def read_packed(path: Path) -> Packed:
    """The header of ``path``. Raises EngineError, with the mend, where it is not such a file."""
    safetensors = _safetensors()
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[_HEADER])
        if values["schema"] != SCHEMA:
            raise ValueError(f"its schema is {values['schema']}, this anyflow-rt reads {SCHEMA}")
        if values["component"] not in COMPONENTS or values["precision"] not in DTYPES:
            raise ValueError(f"it holds {values['component']!r} at {values['precision']!r}")
        return Packed(values["component"], values["precision"], Architecture.from_dict(values["architecture"]))
    except (safetensors.SafetensorError, BundleError, OSError, KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{path} is no packed component ({_line(error)}); {mend_of(path)}") from error


def load_graph(packed: Packed, path: Path, device: torch.device) -> Graph:
    """The component with the weights of ``path``, on ``device``. Raises EngineError where they do not fit."""
    graph = packed.without_storage()
    safetensors = _safetensors()
    try:
        tensors = safetensors.torch.load_file(path, device=str(device))
        for name, tensor in tensors.items():
            if tensor.data_ptr() % ALIGNMENT:  # a view of the file, where its header happens to end
                tensors[name] = tensor.clone()
        graph.module.load_state_dict(tensors, strict=True, assign=True)
    except (safetensors.SafetensorError, OSError, RuntimeError) as error:
        raise EngineError(f"{path} cannot be loaded ({_line(error)}); {mend_of(path)}") from error
    graph.module.eval().requires_grad_(False)
    return graph


def signature(graph: Graph) -> tuple[Signature, Signature]:
    """Inputs and outputs, as the ONNX file of the graph has them: frames are bytes, all other outputs float32."""
    inputs = {
        name: TensorSpec(value.axes, np.dtype(str(value.example.dtype).removeprefix("torch.")))
        for name, value in graph.inputs.items()
    }
    kinds = {"frames": np.dtype(np.uint8)}
    return inputs, {
        name: TensorSpec(axes, kinds.get(name, np.dtype(np.float32))) for name, axes in graph.outputs.items()
    }


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingPackageError("safetensors", "triton", "packed weights") from error
    return safetensors


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
