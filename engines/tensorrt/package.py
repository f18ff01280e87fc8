"""Which of the two TensorRTs makes an engine for a target: by what it can build for, and by what is installed.

TensorRT for RTX (``tensorrt_rtx``) builds on any machine, for GPUs that are not there; it knows no data-centre GPU
after Ampere and takes no kernels of ours. Enterprise TensorRT (``tensorrt``) knows every GPU and builds on it alone.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from anyflow_rt.engines.targets import GPU_TARGETS
from anyflow_rt.errors import EngineError, MissingPackageError, UsageError

RTX, ENTERPRISE = "tensorrt_rtx", "tensorrt"
PACKAGES = (RTX, ENTERPRISE)
PACKAGE_TARGETS = {
    RTX: ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"),
    ENTERPRISE: GPU_TARGETS,
}
EXTRAS = {RTX: "tensorrt-rtx", ENTERPRISE: "tensorrt"}
OLDEST = {RTX: (1, 7), ENTERPRISE: (10, 15)}
"""Enterprise 10.14 has a known defect with plugins that bring their own kernels."""


def describe_choice(engine: str, target: str) -> str:
    """For the user: which package makes the engine, and why that one."""
    if engine == RTX:
        return f"TensorRT for RTX makes the engine: it builds for {target} on any machine"
    why = "asked for" if target in PACKAGE_TARGETS[RTX] else f"TensorRT for RTX has no {target}"
    return f"enterprise TensorRT makes the engine, on this machine's GPU: {why}"


def require_present(target: str, present: str | None) -> None:
    """Raise UsageError unless enterprise TensorRT can build for ``target`` here. ``present``: this machine's GPU."""
    if present == target:
        return
    here = f"this machine's is {present}" if present else "this machine has none"
    mend = ", or take --engine tensorrt_rtx" if target in PACKAGE_TARGETS[RTX] else ""
    raise UsageError(
        f"enterprise TensorRT builds for {target} only on a machine with that GPU, and {here}; copy the bundle that "
        f"anyflow-rt build --onnx-only  makes here to one, and build there{mend}"
    )


def import_package(engine: str) -> ModuleType:
    """The package, imported. Raises MissingPackageError, EngineError where it cannot be loaded or is too old."""
    if importlib.util.find_spec(engine) is None:
        raise MissingPackageError(engine, EXTRAS[engine], "a TensorRT engine")
    try:
        trt = importlib.import_module(engine)
    except (ImportError, OSError) as error:
        raise EngineError(
            f"the package {engine} is installed and cannot be loaded ({error}); install it again with  "
            f"pip install --force-reinstall 'anyflow-rt[{EXTRAS[engine]}]'"
        ) from error
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST[engine]:
        wanted = ".".join(str(part) for part in OLDEST[engine])
        raise EngineError(
            f"{engine} {trt.__version__} is too old; {wanted} or later is needed: run  "
            f"pip install --upgrade 'anyflow-rt[{EXTRAS[engine]}]'"
        )
    return trt
