"""OpenVINO on x86 CPUs: fp32, and bf16 where the processor has it.

The precision is always set, since OpenVINO takes bf16 by itself where it can. Its bf16 is a rule, not a cast of the
graph: products (MatMul, Conv) and what lies above them run in bf16; graph inputs and outputs, and all that follows the
last product, stay float32. A graph that ends in z - interval u therefore keeps z's bits where interval is 0. An input
above a product is read as float32 by an elementwise operator or Attention, but rounded by any other (a reshape).

Symbolic sizes cost time at every call: the small decoder takes a quarter longer, a small denoiser a third. So the
model for the ``usual_shapes`` has them as numbers, and another, compiled when first needed, serves all other shapes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anyflow_rt.engines.engine import Engine, TensorSpec
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.openvino_cache import CompiledModel, cache_key, reason
from anyflow_rt.engines.openvino_package import core, import_openvino, processor_has_bf16
from anyflow_rt.engines.openvino_request import InferenceRequest
from anyflow_rt.engines.symbols import Shape, resolve
from anyflow_rt.errors import EngineError

GROWING = "cache_key"
"""The input by which a model is known that meets a longer one at every call of a stream, and never the same again."""
KERNELS_KEPT = {True: 32, False: 8}
"""Of each kind, for such a model: where shapes return, those of all chunks of a short video, else those of one chunk.
OpenVINO would keep 5,000, up to 0.9 MB for every length."""

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoEngine(Engine):
    """One component compiled by OpenVINO for the CPU."""

    name = "openvino"

    def _load(self) -> None:
        self._openvino = import_openvino()
        if self.options.precision == "bf16" and not processor_has_bf16():
            raise EngineError("this processor has no bf16 instructions; use --precision fp32")
        self._plain_signature = read_signature(self.model_path)
        inputs, outputs = self._plain_signature
        self._signature = self._retyped(inputs), self._retyped(outputs)
        self._usual: dict[str, Shape] = {}
        if self.options.usual_shapes:
            try:
                self._usual = resolve(self._signature[0], dict(self.options.usual_shapes))
            except (KeyError, ValueError) as error:
                raise EngineError(f"{self._label} cannot have the usual shapes it is given: {error}") from error
        self._models = {bool(self._usual): self._open_model(bool(self._usual))}

    def _describe(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        return self._signature

    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        usual = self._is_usual(arrays)
        if usual not in self._models:
            self._models[usual] = self._open_model(usual)
        try:
            results = self._models[usual].infer(list(arrays.values()))
        except RuntimeError as error:
            raise EngineError(f"{self._label} failed on {self._given(arrays)}: {reason(error)}") from error
        return {
            name: result.view(spec.dtype) for (name, spec), result in zip(self.outputs.items(), results, strict=True)
        }

    def shrink(self) -> None:
        """See ``Engine``."""
        for model in self._models.values():
            model.shrink()

    def _release(self) -> None:
        del self._models

    def _given(self, arrays: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())

    def _is_usual(self, arrays: Mapping[str, Any]) -> bool:
        return bool(self._usual) and all(
            wanted in (None, size)
            for name, array in arrays.items()
            for wanted, size in zip(self._usual[name], array.shape, strict=True)
        )

    def _open_model(self, usual: bool) -> InferenceRequest:
        """The model for the usual shapes, or the one for any."""
        blob = stem = None
        if self.options.cache_dir is not None:
            stem, key = self._cache_name(usual)
            blob = self.options.cache_dir / f"{stem}{key}.blob"
        try:
            compiled = CompiledModel(lambda: self._read_model(usual), self._settings(), blob, stem or "")
            request = InferenceRequest(compiled.model, *self._signature, after_first_of_a_shape=compiled.drop_pages)
            compiled.drop_pages()
            return request
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot compile {self.model_path}: {reason(error)}") from error

    def _read_model(self, usual: bool) -> Any:
        """The ONNX graph, its ``compute_type`` inputs and outputs retyped, its sizes fixed where they are usual."""
        openvino = self._openvino
        model = core().read_model(self.model_path)
        steps = openvino.preprocess.PrePostProcessor(model)
        inputs, outputs = self._plain_signature
        for name, spec in inputs.items():
            if self._is_retyped(name, spec):
                steps.input(name).tensor().set_element_type(openvino.Type.bf16)
        for name, spec in outputs.items():
            if self._is_retyped(name, spec):
                steps.output(name).tensor().set_element_type(openvino.Type.bf16)
        model = steps.build()
        if usual:
            model.reshape(
                {
                    name: openvino.PartialShape([-1 if size is None else size for size in shape])
                    for name, shape in self._usual.items()
                }
            )
        return model

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[self.options.precision],
            "PERFORMANCE_HINT": "LATENCY",
            # Activations of products whose weights are 8-bit integers stay as they are, as in every other engine.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        if GROWING in self._plain_signature[0]:
            settings["CPU_RUNTIME_CACHE_CAPACITY"] = KERNELS_KEPT[self.options.shapes_return]
        if self.options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.options.threads
        return settings

    def _cache_name(self, usual: bool) -> tuple[str, str]:
        """(stem, key) of the compiled form's file: the stem says what it is for, the key all that it depends on.

        Two bundles of one checkpoint share a cache, and differ at most in their usual shapes: those are in the stem.
        """
        shapes = sorted(self._usual.items()) if usual else ()
        sizes = hashlib.sha256(repr(shapes).encode()).hexdigest()[:8] if usual else "any"
        model = self.options.model_hash or _size_and_time(self.model_path)
        key = cache_key(model, self.options.compute_type, shapes)
        return f"{self.model_path.stem}-{self.options.precision}-{sizes}-", key


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
