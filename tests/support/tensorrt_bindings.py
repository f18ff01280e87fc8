"""The real Python bindings of enterprise TensorRT, importable on a machine without its libraries.

The bindings' extension needs a handful of C functions when it is loaded; a stub library, compiled here, has them, each
returning null. So names, signatures and the plugin decorators' own validation are TensorRT's, and nothing can be built
or run. For a process of its own: what is loaded stays.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType

PACKAGE = "tensorrt-cu13-bindings"
LIBRARIES = ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin")
FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)


def missing() -> str | None:
    """Why ``load`` cannot work here, None where it can."""
    if shutil.which("gcc") is None:
        return "needs gcc, for a stub of TensorRT's libraries"
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return f"needs the package {PACKAGE}: pip install 'anyflow-rt[dev]'"
    return None


def load() -> ModuleType:
    """``tensorrt``, as a machine with its libraries imports it, ``tensorrt.plugin`` included."""
    major = importlib.metadata.version(PACKAGE).split(".")[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "stub.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in FUNCTIONS))
        for library in LIBRARIES:
            file = folder / f"{library}.so.{major}"
            subprocess.run(["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file.name}", "-o", file, source], check=True)
            # The loader takes a library that is loaded already, whatever its path, for one of its name.
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
        tensorrt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = tensorrt
    plugin = importlib.import_module("tensorrt_bindings.plugin")
    sys.modules["tensorrt.plugin"] = plugin
    return tensorrt
