"""ONNX Runtime on any CPU, fp32: the portable engine, and the golden reference of the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from anyflow_rt.engines.engine import Engine, TensorSpec
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.errors import EngineError, MissingPackageError

_ERRORS_ONLY = 3
_NO_TELEMETRY = "ORT_DISABLE_TELEMETRY"


class OnnxRuntimeEngine(Engine):
    """One component in an ONNX Runtime session. Outputs are fresh arrays; ``cache_dir`` has no use here."""

    name = "onnxruntime"

    def _load(self) -> None:
        if self.options.precision != "fp32":
            raise EngineError(f"the onnxruntime engine has no {self.options.precision}; use --precision fp32")
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _ERRORS_ONLY
        # Where weights are 8-bit integers, activations stay float32 all the same; 4, the default, rounds them as well.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if self.options.threads is not None:
            options.intra_op_num_threads = self.options.threads
        self._signature = read_signature(self.model_path)
        self._failures = _failure_types(onnxruntime)
        try:
            self._session = onnxruntime.InferenceSession(
                str(self.model_path), options, providers=["CPUExecutionProvider"]
            )
        except self._failures as error:
            raise EngineError(f"ONNX Runtime cannot load {self.model_path}: {_reason(error)}") from error

    def _describe(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        return self._signature

    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        try:
            results = self._session.run(list(self.outputs), dict(arrays))
        except self._failures as error:
            given = ", ".join(f"{name} {tuple(array.shape)}" for name, array in arrays.items())
            raise EngineError(f"{self._label} failed on {given}: {_reason(error)}") from error
        return dict(zip(self.outputs, results, strict=True))

    def _release(self) -> None:
        del self._session


def import_onnxruntime() -> Any:
    """The onnxruntime package, its telemetry off.

    From 1.29 on the official Linux builds report each process and each session to their makers and leave files in the
    user's cache and temporary directories. They begin while the package is imported, before its own
    ``disable_telemetry_events`` can be called, so the environment says it for that long; a user's own setting counts.
    """
    given = os.environ.get(_NO_TELEMETRY)
    os.environ.setdefault(_NO_TELEMETRY, "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("onnxruntime", None, "the onnxruntime engine") from error
    finally:
        if given is None:
            os.environ.pop(_NO_TELEMETRY, None)
    if given is None and hasattr(onnxruntime, "disable_telemetry_events"):
        onnxruntime.disable_telemetry_events()
    return onnxruntime


def _failure_types(onnxruntime: Any) -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions, which share no base of their own."""
    state = onnxruntime.capi.onnxruntime_pybind11_state
    return tuple(kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
