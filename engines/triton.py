"""PyTorch on an NVIDIA GPU: the denoiser over Triton kernels, all else in the modules that graphs are exported from.

Opens what ``build --target sm_XX --engine triton`` packed. Denoiser: ``triton_modules``, at the type of its weights,
as one CUDA graph for each set of shapes, its kernels taken from the bundle. The other components are the PyTorch
modules that the graphs are exported from: text and time embedding in float32, the rest under autocast.

A causal checkpoint's denoiser and cache writer share their blocks (``triton_shared``) and a cache in the GPU's memory,
which ``new_caches`` gives: ``cache_key`` and ``cache_value`` are then all of it, and ``cache_counts`` (2,) int32 says
how many of its tokens are there, and how many zero keys beside them. The writer has no outputs: it puts the chunk's
keys and values behind those tokens.

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
    from torch.nn import Module

    from anyflow_rt.engines.cuda_graphs import ShapeGraphs
    from anyflow_rt.engines.triton_caches import Caches
    from anyflow_rt.kernels.packed import KernelPack

ATTENTION_VARIABLE = "ANYFLOW_RT_ATTENTION"
"""Environment variable that names the attention of a video's tokens, one of ``kernels.attention.implementations``;
``triton`` unless it is set."""

FLOAT32_COMPONENTS = ("text_encoder", "time_embedder")
"""Widened where they are used; the rest multiplies at the precision asked for."""

CACHED_COMPONENTS = ("denoiser", "cache_writer")
"""Of a causal checkpoint: what reads and writes the cache."""

CROSS = ("cross_key", "cross_value")
CACHES, COUNTS = ("cache_key", "cache_value"), "cache_counts"

CAUSAL_GRAPHS = 6
"""Graphs that a causal denoiser keeps: chunks of up to three lengths, and two prompts where it is guided."""

STAYS = ("tokens",)
"""Outputs beside those of ``compute_type`` that stay on the GPU: the cache writer's input."""

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
        if not INTERPRETED:
            from anyflow_rt.engines.cuda_streams import worker_streams

            worker_streams(torch.cuda.current_device())  # before graphs take theirs
        self._packed = read_packed(self.model_path)
        precision = self.options.precision
        if self._packed.precision != precision:
            raise EngineError(
                f"{self.model_path} holds {self._packed.precision} weights and {precision} was asked for; "
                f"open it at {self._packed.precision}"
            )
        self._dtype = DTYPES[precision]
        self._pack: KernelPack | None = None
        self._graphs: ShapeGraphs | None = None
        self._caches: Caches | None = None
        self._has_cache = self._packed.architecture.causal is not None and self._packed.component in CACHED_COMPONENTS
        if self._has_cache:
            self._graph, self._module = self._packed.without_storage(), self._load_causal()
        else:
            self._graph = load_graph(self._packed, self.model_path, self._device)
            self._module = self._graph.module
        if self._packed.component == "denoiser":
            self._load_denoiser()
        if not INTERPRETED:
            torch.cuda.current_stream(self._device).synchronize()  # whoever uses it may do so on another stream

    def _load_causal(self) -> Module:
        from anyflow_rt.engines.triton_caches import Caches
        from anyflow_rt.engines.triton_causal import TritonCacheWriter, TritonCausalDenoiser
        from anyflow_rt.engines.triton_shared import shared_denoiser

        attention = os.environ.get(ATTENTION_VARIABLE, "triton")
        shared = shared_denoiser(self.model_path.parent, self._device, attention, ATTENTION_VARIABLE)
        if self._packed.component == "cache_writer":
            return TritonCacheWriter(shared)
        self._caches = Caches(self._dtype, self._device, lambda: None if self._graphs is None else self._graphs.clear())
        return TritonCausalDenoiser(shared)

    def _load_denoiser(self) -> None:
        from anyflow_rt.engines.triton_modules import TritonDenoiser

        if not self._has_cache:
            self._module = TritonDenoiser(self._module, os.environ.get(ATTENTION_VARIABLE, "triton"))
        if self._device.type != "cuda":
            return
        from anyflow_rt.engines.cuda_graphs import KEPT, ShapeGraphs

        self._pack = self._load_pack()
        self._pack.install()
        places, kept = (CACHES, CAUSAL_GRAPHS) if self._has_cache else ((), KEPT)
        self._graphs = ShapeGraphs(self._module, self._device, places, kept)

    def new_caches(self, prompts: int, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]] | None:
        """As of ``Engine``; of a causal denoiser they are kept for the next run (``triton_caches.Caches``)."""
        return None if self._caches is None else self._caches.take(prompts, shape)

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
        if self._has_cache:
            inputs[COUNTS] = TensorSpec((2,), np.dtype(np.int32))
            outputs = {} if self._packed.component == "cache_writer" else outputs
        return self._retyped(inputs), self._retyped(outputs)

    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        from anyflow_rt.kernels.package import triton

        try:
            with torch.inference_mode(), torch.device(self._device), exact_float32():
                if self._has_cache:
                    self._check_caches(arrays)
                if self._packed.component == "cache_writer":
                    self._write(arrays)
                    return {}
                tensors = {name: self._tensor(array) for name, array in arrays.items()}
                values = self._run(tensors)
                return {name: self._array(name, value) for name, value in zip(self.outputs, values, strict=True)}
        except RuntimeError as error:
            given = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
            raise EngineError(f"{self._label} failed on {given}: {_line(error)}") from error
        except triton.TritonError as error:
            other = "" if self._has_cache else f"set {ATTENTION_VARIABLE}=sdpa if it is attention's, "
            raise EngineError(
                f"{self._label}: Triton {triton.__version__} could not make or run a kernel "
                f"({type(error).__name__}: {_line(error)}); install the Triton that the bundle names, {other}or leave "
                "out --engine triton"
            ) from error

    def _release(self) -> None:
        if self._pack is not None:
            self._pack.remove()
        del self._graph, self._module, self._graphs, self._pack, self._caches

    def _run(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        import torch

        from anyflow_rt.engines.export.onnx import arguments_of

        if self._packed.component == "denoiser":
            for name in CROSS:
                tensors[name] = tensors[name].to(self._dtype)
            return ((self._module(**tensors) if self._graphs is None else self._graphs(tensors)),)
        narrow = self._dtype != torch.float32 and self._packed.component not in FLOAT32_COMPONENTS
        with torch.autocast(self._device.type, self._dtype, enabled=narrow):
            values = self._module(**arguments_of(self._module, tensors))
        return (values,) if isinstance(values, torch.Tensor) else tuple(values)

    def _check_caches(self, arrays: Mapping[str, Any]) -> None:
        """Refuse caches that would be copied: a writer's pass would be lost, and a graph would keep the copy."""
        import torch

        device = next(self._module.parameters()).device
        for name in CACHES:
            cache = arrays[name]
            here = isinstance(cache, torch.Tensor) and cache.device == device and cache.dtype == self._dtype
            if not here or not cache.is_contiguous():
                raise EngineError(f"{self._label}: {name} is used in place; give what the denoiser's new_caches gave")

    def _write(self, arrays: Mapping[str, Any]) -> None:
        """A pass of the cache writer, eager: its launches differ from chunk to chunk."""
        tensors = {name: self._tensor(array) for name, array in arrays.items() if name != COUNTS}
        for name in CROSS:
            tensors[name] = tensors[name].to(self._dtype)
        self._module(**tensors, start=int(arrays[COUNTS][0]))

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
        if (kept or name in STAYS) and self._device.type == "cuda":
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
