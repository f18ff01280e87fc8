"""Engines by name."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from pathlib import Path

from anyflow_rt.engines.engine import RESIDENT, Engine, EngineOptions
from anyflow_rt.errors import MissingPackageError, UsageError

PRECISIONS = ("fp32", "bf16", "fp16")
_PLANNED_PRECISIONS = ("int8",)


def _openvino() -> type[Engine]:
    from anyflow_rt.engines.openvino import OpenVinoEngine

    return OpenVinoEngine


def _onnxruntime() -> type[Engine]:
    from anyflow_rt.engines.onnxruntime import OnnxRuntimeEngine

    return OnnxRuntimeEngine


def _triton() -> type[Engine]:
    from anyflow_rt.engines.triton import TritonEngine

    return TritonEngine


def _tensorrt_rtx() -> type[Engine]:
    from anyflow_rt.engines.tensorrt.runner import TensorRtEngine

    return TensorRtEngine


def _tensorrt() -> type[Engine]:
    from anyflow_rt.engines.tensorrt.runner import TensorRtEnterpriseEngine

    return TensorRtEnterpriseEngine


_CPU_ENGINES: dict[str, Callable[[], type[Engine]]] = {"openvino": _openvino, "onnxruntime": _onnxruntime}
_ENGINES: dict[str, Callable[[], type[Engine]]] = {
    **_CPU_ENGINES,
    "triton": _triton,
    "tensorrt_rtx": _tensorrt_rtx,
    "tensorrt": _tensorrt,
}


def for_gpu(engine: str) -> bool:
    """Whether the engine's files are built for a GPU; the others make theirs of the graphs, on the machine they run."""
    return engine in tuple(_ENGINES) and engine not in tuple(_CPU_ENGINES)


def is_tensorrt(engine: str) -> bool:
    """Whether it is one of the two TensorRTs."""
    return engine.startswith("tensorrt")


def available_engines() -> tuple[str, ...]:
    """The CPU's engines whose package is installed, the fastest first. Imports none of them."""
    return tuple(name for name in _CPU_ENGINES if importlib.util.find_spec(name) is not None)


def default_engine() -> str:
    """``openvino`` on x86 where it is installed, else ``onnxruntime``. Raises MissingPackageError without either."""
    available = available_engines()
    if "openvino" in available and platform.machine().lower() in ("x86_64", "amd64"):
        return "openvino"
    if "onnxruntime" in available:
        return "onnxruntime"
    raise MissingPackageError("onnxruntime", None, "running a component")


def default_precision(engine: str) -> tuple[str, str | None]:
    """The precision an engine runs at unless asked otherwise, and a note for the user where that is a second choice."""
    check_engine_name(engine)
    if for_gpu(engine):
        return "bf16", None
    if engine != "openvino":
        return "fp32", None
    from anyflow_rt.engines.openvino_package import processor_has_bf16

    if processor_has_bf16():
        return "bf16", None
    return "fp32", "this processor has no bf16 instructions; running at fp32"


def check_engine_name(name: str) -> None:
    """Raise UsageError unless ``name`` is an engine; the message lists those that are."""
    if name not in tuple(_ENGINES):
        raise UsageError(f"unknown engine {name!r}; the engines are {', '.join(_ENGINES)}")


def check_precision(engine: str, precision: str) -> None:
    """Raise UsageError unless ``engine`` has ``precision``; the message names one that works."""
    if precision in _PLANNED_PRECISIONS:
        raise UsageError(f"precision {precision!r} is not yet supported on a CPU; use fp32 or bf16")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; the precisions are {', '.join(PRECISIONS)}")
    if precision == "fp16" and not is_tensorrt(engine):
        raise UsageError(f"the {engine} engine has no fp16; use fp32 or bf16")
    if engine == "onnxruntime" and precision != "fp32":
        raise UsageError(f"the onnxruntime engine has no {precision}; use --precision fp32 or --engine openvino")


def open_engine(
    name: str,
    model_path: str | Path,
    *,
    precision: str,
    cache_dir: str | Path | None = None,
    threads: int | None = None,
    compute_type: tuple[str, ...] = (),
    usual_shapes: tuple[tuple[str, tuple[int | None, ...]], ...] = (),
    model_hash: str | None = None,
    residency: str = RESIDENT,
    shapes_return: bool = True,
) -> Engine:
    """Load the ONNX file ``model_path`` into the engine ``name``; the options are ``EngineOptions``'.

    Raises UsageError for a name or precision that is not there, MissingPackageError where the package is missing.
    """
    check_engine_name(name)
    check_precision(name, precision)
    cache = None if cache_dir is None else Path(cache_dir)
    options = EngineOptions(precision, cache, threads, compute_type, usual_shapes, model_hash, residency, shapes_return)
    return _ENGINES[name]()(model_path, options)
