"""OpenVINO on x86 CPUs: fp32, and bf16 where the processor has it.

The precision is always set, since OpenVINO takes bf16 by itself where it can. Its bf16 is a rule, not a cast of the
graph: products (MatMul, Conv) and what lies above them run in bf16; graph inputs and outputs, and all that follows the
last product, stay float32. A graph that ends in z - interval u therefore keeps z's bits where interval is 0. An input
above a product is read as float32 by an elementwise operator or Attention, but rounded by any other (a reshape).

Cold start. Compiling an ONNX graph takes several times as long as loading its compiled form, which is kept in
``cache_dir`` as OpenVINO's exported blob, keyed by everything it depends on. Loading a blob reads no ONNX operator:
OpenVINO's own ``CACHE_DIR`` has to read and rewrite the graph first wherever inputs are retyped (``compute_type``).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import mmap
import os
import weakref
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.engines.engine import Engine, TensorSpec
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.openvino_package import core, import_openvino, processor_has_bf16
from anyflow_rt.errors import EngineError

_log = logging.getLogger(__name__)
_HINTS = {"fp32": "f32", "bf16": "bf16"}
_BFLOAT16 = np.dtype(np.uint16)

BLOB_LIMIT = 1 << 30
"""Bytes of weights above which the compiled form is left to OpenVINO's own cache: exporting a blob holds it in memory
once more, OpenVINO writes its cache as a stream."""


class OpenVinoEngine(Engine):
    """One component compiled by OpenVINO for the CPU."""

    name = "openvino"

    def _load(self) -> None:
        openvino = import_openvino()
        self._openvino = openvino
        if self.options.precision == "bf16" and not processor_has_bf16():
            raise EngineError("this processor has no bf16 instructions; use --precision fp32")
        self._signature = self._retyped(*read_signature(self.model_path))
        self._mapping: mmap.mmap | None = None
        try:
            self._compiled = self._compile()
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile {self.model_path}: {_reason(error)}") from error
        self._request = self._compiled.create_infer_request()
        self._input_ports = [_port(self._compiled.inputs, name) for name in self._signature[0]]
        self._output_ports = [_port(self._compiled.outputs, name) for name in self._signature[1]]
        self._blank_outputs = [self._request.get_tensor(port) for port in self._output_ports]
        self._output_shapes: dict[tuple[tuple[int, ...], ...], list[tuple[int, ...]]] = {}
        self._spare: list[list[Any]] = [[] for _ in self._blank_outputs]
        self._drop_pages()

    def _describe(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        return self._signature

    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        request = self._request
        contiguous = [np.asarray(array, order="C") for array in arrays.values()]
        for port, array in zip(self._input_ports, contiguous, strict=True):
            request.set_tensor(port, self._shared(array, port.element_type))
        key = tuple(array.shape for array in arrays.values())
        shapes = self._output_shapes.get(key)
        outputs = self._blank_outputs if shapes is None else [self._take(i, shape) for i, shape in enumerate(shapes)]
        for port, tensor in zip(self._output_ports, outputs, strict=True):
            request.set_tensor(port, tensor)
        try:
            request.infer(share_outputs=True)
        except RuntimeError as error:
            raise EngineError(f"{self._label} failed on {self._given(arrays)}: {_reason(error)}") from error
        if shapes is None:
            # What these input shapes lead to is known from now on; this once the results are in the request's memory.
            self._output_shapes[key] = [tuple(tensor.shape) for tensor in outputs]
            results = [tensor.data.copy() for tensor in outputs]
            self._drop_pages()
        else:
            results = [self._lend(index, tensor) for index, tensor in enumerate(outputs)]
        return {
            name: result.view(spec.dtype) for (name, spec), result in zip(self.outputs.items(), results, strict=True)
        }

    def _release(self) -> None:
        del self._request, self._compiled, self._blank_outputs, self._spare, self._input_ports, self._output_ports

    def _shared(self, array: np.ndarray, element_type: Any) -> Any:
        """``array`` as OpenVINO sees it, in place, read-only arrays too. ``array`` must outlive the call."""
        return self._openvino.Tensor(array, self._openvino.Shape(array.shape), element_type)

    def _take(self, index: int, shape: tuple[int, ...]) -> Any:
        """Memory for output ``index``: some that has come back, or new."""
        spare = self._spare[index]
        while spare:
            tensor = spare.pop()
            if tuple(tensor.shape) == shape:
                return tensor
        return self._openvino.Tensor(self._output_ports[index].element_type, self._openvino.Shape(shape))

    def _lend(self, index: int, tensor: Any) -> np.ndarray:
        """``tensor``'s array. Once nothing refers to it or a view of it, ``tensor`` is spare again."""
        array: np.ndarray = tensor.data
        weakref.finalize(array, self._spare[index].append, tensor).atexit = False
        return array

    def _given(self, arrays: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())

    def _retyped(
        self, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec]
    ) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        """The graph's signature, with bfloat16 in place of float32 where ``compute_type`` says so."""

        def retype(specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
            return {n: replace(s, dtype=_BFLOAT16) if self._is_retyped(n, s) else s for n, s in specs.items()}

        return retype(inputs), retype(outputs)

    def _is_retyped(self, name: str, spec: TensorSpec) -> bool:
        asked = any(fnmatch(name, pattern) for pattern in self.options.compute_type)
        return asked and self.options.precision == "bf16" and spec.dtype == np.float32

    def _compile(self) -> Any:
        """The compiled model: from the cache, else from ONNX, and then into the cache."""
        blob = self._blob_path()
        if blob is not None and blob.is_file():
            try:
                return core().import_model(self._mapped(blob), "CPU", self._settings())
            except (RuntimeError, OSError, ValueError) as error:
                _log.warning("compiling %s anew: %s does not load (%s)", self.model_path.name, blob, _reason(error))
        model = self._read_model()
        if blob is None:
            return core().compile_model(model, "CPU", self._settings())
        if _weight_bytes(model) > BLOB_LIMIT:
            return core().compile_model(model, "CPU", {**self._settings(), "CACHE_DIR": str(blob.parent)})
        compiled = core().compile_model(model, "CPU", self._settings())
        self._keep(compiled, blob)
        return compiled

    def _mapped(self, blob: Path) -> Any:
        """``blob`` as a tensor over the mapped file, which must outlive the compiled model."""
        with blob.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(self._mapping, np.uint8)
        return self._openvino.Tensor(content, self._openvino.Shape(content.shape), self._openvino.Type.u8)

    def _drop_pages(self) -> None:
        """Give back the pages of the mapped blob: OpenVINO packs weights of its own when it loads and when it first
        meets a shape, and hardly reads the blob's again. What it does read comes back from the file."""
        if self._mapping is not None and hasattr(self._mapping, "madvise"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _read_model(self) -> Any:
        """The ONNX graph, its ``compute_type`` inputs and outputs retyped."""
        openvino = self._openvino
        model = core().read_model(self.model_path)
        steps = openvino.preprocess.PrePostProcessor(model)
        inputs, outputs = read_signature(self.model_path)
        for name, spec in inputs.items():
            if self._is_retyped(name, spec):
                steps.input(name).tensor().set_element_type(openvino.Type.bf16)
        for name, spec in outputs.items():
            if self._is_retyped(name, spec):
                steps.output(name).tensor().set_element_type(openvino.Type.bf16)
        return steps.build()

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.options.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if self.options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.options.threads
        return settings

    def _blob_path(self) -> Path | None:
        """Where the compiled form belongs: named by the model, keyed by all that it depends on."""
        if self.options.cache_dir is None:
            return None
        status = self.model_path.stat()
        depends_on = (
            status.st_size,
            status.st_mtime_ns,
            self.options.compute_type,
            self._openvino.get_version(),
            core().get_property("CPU", "FULL_DEVICE_NAME"),
            sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        )
        key = hashlib.sha256(repr(depends_on).encode()).hexdigest()[:16]
        return self.options.cache_dir / f"{self._blob_stem}{key}.blob"

    @property
    def _blob_stem(self) -> str:
        return f"{self.model_path.stem}-{self.options.precision}-"

    def _keep(self, compiled: Any, blob: Path) -> None:
        """Write ``compiled`` to ``blob``, whole or not at all, in place of what older versions left there."""
        partial = blob.with_suffix(f".partial-{os.getpid()}")
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(compiled.export_model().getbuffer())
            partial.replace(blob)
            for old in blob.parent.glob(f"{self._blob_stem}*"):
                if old != blob:
                    old.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            _log.warning("the compiled form of %s is not kept, every start compiles: %s", self.model_path.name, error)


def _port(ports: Any, name: str) -> Any:
    return next(port for port in ports if name in port.names)


def _weight_bytes(model: Any) -> int:
    constants = [node.output(0) for node in model.get_ops() if node.get_type_name() == "Constant"]
    return sum(math.prod(c.get_shape()) * c.get_element_type().size for c in constants)


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's message that says something; those before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"
