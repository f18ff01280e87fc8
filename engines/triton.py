"""PyTorch on an NVIDIA GPU: the denoiser over Triton kernels, all else in the modules that graphs are exported from.

Opens what ``build --target sm_XX --engine triton`` packed. Denoiser: ``triton_modules``, at the type of its weights,
as one CUDA graph for each set of shapes, its kernels taken from the bundle. The other components are the PyTorch
modules that the graphs are exported from: text and time embedding in float32, the rest under autocast.

Arrays come and go as numpy arrays; what only passes from one component to another (``compute_type``) stays on the GPU,
as a torch tensor. Under Triton's interpreter (``TRITON_INTERPRET=1``) all of it runs on a CPU, for tests.

No GPU was at hand when this was written: results are proven under the interpreter, what only a GPU runs (CUDA graphs,
kernels from the bundle, tensors that stay on the device) is not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from anyflow_rt.engines.engine import Engine, TensorSpec
from anyflow_rt.engines.exact_float32 import exact_float32
from anyflow_rt.engines.mend import mend_of
from anyflow_rt.errors import EngineError, MissingPackageError

if TYPE_CHECKING:
    from torch import Tensor

    from anyflow_rt.engines.cuda_graphs import ShapeGraphs
    from anyflow_rt.kernels.packed import KernelPack

ATTENTION_VARIABLE = "ANYFLOW_RT_ATTENTION"
"""Environment variable that names the attention of a video's tokens, one of ``kernels.attention.implementations``;
``triton`` unless it is set."""

FLOAT32_COMPONENTS = ("text_encoder", "time_embedder")
"""Widened where they are used; the rest multiplies at the precision asked for."""

KERNELS = "kernels"
"""Folder of compiled kernels beside the components' files."""


class TritonEngine(Engine):
    """One component on the GPU, or interpreted on a CPU."""

    name = "triton"

    def _load(self) -> None:
        torch = import_torch()
        from anyflow_rt.engines.torch_pack import DTYPES, load_graph, read_packed
        from anyflow_rt.kernels.package import INTERPRETED

        self._device = torch.device("cpu" if INTERPRETED else "cuda")
        if not INTERPRETED and not torch.cuda.is_available():
            raise EngineError(
                "PyTorch sees no NVIDIA GPU: run on a machine with one and a CUDA build of torch, leave out --engine "
                "triton to run on the CPU, or set TRITON_INTERPRET=1 for the smallest checkpoints"
            )
        self._packed = read_packed(self.model_path)
        precision = self.options.precision
        if self._packed.precision != precision:
            raise EngineError(
                f"{self.model_path} holds {self._packed.precision} weights and {precision} was asked for; "
                f"open it at {self._packed.precision}"
            )
        self._dtype = DTYPES[precision]
        self._graph = load_graph(self._packed, self.model_path, self._device)
        self._module = self._graph.module
        self._pack: KernelPack | None = None
        self._graphs: ShapeGraphs | None = None
        if self._packed.component == "denoiser":
            self._load_denoiser()

    def _load_denoiser(self) -> None:
        from anyflow_rt.engines.triton_modules import TritonDenoiser

        module = TritonDenoiser(self._module, os.environ.get(ATTENTION_VARIABLE, "triton"))
        self._module = module
        if self._device.type != "cuda":
            return
        from anyflow_rt.engines.cuda_graphs import ShapeGraphs

        self._pack = self._load_pack()
        self._pack.install()
        self._graphs = ShapeGraphs(module, self._device)

    def _load_pack(self) -> KernelPack:
        """The bundle's kernels for the GPU that the denoiser is on."""
        from anyflow_rt.kernels.launch import target_of
        from anyflow_rt.kernels.packed import KernelPack

        try:
            return KernelPack(self.model_path.parent / KERNELS, target_of(next(self._module.parameters())))
        except EngineError as error:
            raise EngineError(f"{error}; {mend_of(self.model_path)}") from error

    def _describe(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        from anyflow_rt.engines.torch_pack import signature

        inputs, outputs = signature(self._graph)
        return self._retyped(inputs), self._retyped(outputs)

    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        from anyflow_rt.kernels.package import triton

        try:
            with torch.inference_mode(), torch.device(self._device), exact_float32():
                tensors = {name: self._tensor(array) for name, array in arrays.items()}
                values = self._run(tensors)
                return {name: self._array(name, value) for name, value in zip(self.outputs, values, strict=True)}
        except RuntimeError as error:
            given = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
            raise EngineError(f"{self._label} failed on {given}: {_line(error)}") from error
        except triton.TritonError as error:
            raise EngineError(
                f"{self._label}: Triton {triton.__version__} could not make or run a kernel "
                f"({type(error).__name__}: {_line(error)}); install the Triton that the "
                f"bundle names, set {ATTENTION_VARIABLE}=sdpa if it is attention's, or leave out --engine triton"
            ) from error

    def _release(self) -> None:
        if self._pack is not None:
            self._pack.remove()
        del self._graph, self._module, self._graphs, self._pack

    def _run(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        import torch

        from anyflow_rt.engines.export.onnx import arguments_of

        if self._packed.component == "denoiser":
            for name in ("cross_key", "cross_value"):
                tensors[name] = tensors[name].to(self._dtype)
            return ((self._module(**tensors) if self._graphs is None else self._graphs(tensors)),)
        narrow = self._dtype != torch.float32 and self._packed.component not in FLOAT32_COMPONENTS
        with torch.autocast(self._device.type, self._dtype, enabled=narrow):
            values = self._module(**arguments_of(self._module, tensors))
        return (values,) if isinstance(values, torch.Tensor) else tuple(values)

    def _tensor(self, array: Any) -> Tensor:
        """A dense copy of a numpy array on the device, bits of bfloat16 as such; a torch tensor as it is there."""
        import torch

        if not isinstance(array, torch.Tensor):
            array = torch.tensor(np.ascontiguousarray(array).reshape(array.shape), device=self._device)
            array = array.view(torch.bfloat16) if array.dtype == torch.uint16 else array
        return array.to(self._device).contiguous()

    def _array(self, name: str, value: Tensor) -> Any:
        """What a caller gets of an output: see the module's docstring."""
        import torch

        spec = self.outputs[name]
        kept = self._in_compute_type(name)
        value = value.to(self._dtype if kept else getattr(torch, spec.dtype.name)).contiguous()
        if kept and self._device.type == "cuda":
            return value
        value = value.view(torch.uint16) if value.dtype == torch.bfloat16 else value
        return value.cpu().numpy()


def import_torch() -> Any:
    """PyTorch, or MissingPackageError with the line that installs it."""
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("torch", "triton", "the triton engine") from error
    return torch


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
