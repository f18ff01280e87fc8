"""Compiled OpenVINO models on disk.

Compiling an ONNX graph takes several times as long as loading its compiled form, OpenVINO's exported blob, which is
kept in a directory and keyed by everything it depends on. Loading a blob reads no ONNX operator: OpenVINO's own
``CACHE_DIR`` has to read and rewrite the graph first wherever inputs are retyped.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.engines.openvino_package import core, import_openvino

_log = logging.getLogger(__name__)

BLOB_LIMIT = 1 << 30
"""Bytes of weights above which the compiled form is left to OpenVINO's own cache: exporting a blob holds it in memory
once more, OpenVINO writes its cache as a stream."""


class CompiledModel:
    """A model compiled for the CPU: from the cache, else by ``read_model``, and then into the cache."""

    def __init__(self, read_model: Callable[[], Any], settings: dict[str, Any], blob: Path | None, stem: str) -> None:
        """``blob``: the compiled form's file, None to keep none; of those whose names begin with ``stem`` it is the
        only one that stays. Raises RuntimeError where OpenVINO cannot compile."""
        self._mapping: mmap.mmap | None = None
        self._stem = stem
        self.model = self._load(read_model, settings, blob)

    def drop_pages(self) -> None:
        """Give back the pages of the mapped blob: OpenVINO packs weights of its own when it loads and when it first
        meets a shape, and hardly reads the blob's again. What it does read comes back from the file."""
        if self._mapping is not None and hasattr(self._mapping, "madvise"):
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def _load(self, read_model: Callable[[], Any], settings: dict[str, Any], blob: Path | None) -> Any:
        if blob is not None and blob.is_file():
            try:
                return core().import_model(self._mapped(blob), "CPU", settings)
            except (RuntimeError, OSError, ValueError) as error:
                _log.warning("compiling %s anew: it does not load (%s)", blob, reason(error))
        model = read_model()
        if blob is None:
            return core().compile_model(model, "CPU", settings)
        if _weight_bytes(model) > BLOB_LIMIT:
            return core().compile_model(model, "CPU", {**settings, "CACHE_DIR": str(blob.parent)})
        compiled = core().compile_model(model, "CPU", settings)
        self._keep(compiled, blob)
        return compiled

    def _mapped(self, blob: Path) -> Any:
        """``blob`` as a tensor over the mapped file, which must outlive the compiled model."""
        openvino = import_openvino()
        with blob.open("rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        content = np.frombuffer(self._mapping, np.uint8)
        return openvino.Tensor(content, openvino.Shape(content.shape), openvino.Type.u8)

    def _keep(self, compiled: Any, blob: Path) -> None:
        """Write ``compiled`` to ``blob``, whole or not at all, in place of what older versions left there."""
        partial = blob.with_suffix(f".partial-{os.getpid()}")
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(compiled.export_model().getbuffer())
            partial.replace(blob)
            for old in blob.parent.glob(f"{self._stem}*"):
                if old != blob and not _is_being_written(old):
                    old.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            if not blob.is_file():  # else another process has kept it
                _log.warning("the compiled form of %s is not kept, every start compiles: %s", blob.name, error)


def _is_being_written(file: Path) -> bool:
    """Whether it is another process's, and that process lives."""
    _, partial, process = file.suffix.partition(".partial-")
    if not partial or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True


def cache_key(*depends_on: Any) -> str:
    """16 hex digits of what a compiled form depends on: ``depends_on``, the OpenVINO package and the processor."""
    processor = [core().get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
    everything = (*depends_on, import_openvino().get_version(), processor[0], sorted(processor[1]))
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:16]


def reason(error: Exception) -> str:
    """The last line of OpenVINO's message that says something; those before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def _weight_bytes(model: Any) -> int:
    constants = [node.output(0) for node in model.get_ops() if node.get_type_name() == "Constant"]
    return sum(math.prod(c.get_shape()) * c.get_element_type().size for c in constants)
