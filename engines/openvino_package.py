"""The openvino package: imported lightly, asked about this processor."""

from __future__ import annotations

import sys
import threading
from functools import cache
from typing import Any

from anyflow_rt.errors import MissingPackageError

_import_lock = threading.Lock()


def import_openvino() -> Any:
    """The openvino package, without its model converter.

    ``import openvino`` also imports the converter, which OpenVINO itself treats as optional. It takes two thirds of the
    import's time, and it is what reports each import to OpenVINO's telemetry. ``openvino.convert_model`` still works
    for whoever calls it: the converter is then imported.
    """
    converter = "openvino.tools.ovc"
    with _import_lock:
        if "openvino" not in sys.modules:
            sys.modules[converter] = None  # type: ignore[assignment]
        try:
            import openvino
        except ImportError as error:
            raise MissingPackageError("openvino", None, "the openvino engine") from error
        finally:
            if converter in sys.modules and sys.modules[converter] is None:
                del sys.modules[converter]
        if not hasattr(openvino, "convert_model"):
            openvino.convert_model = _convert_model
    return openvino


def _convert_model(*arguments: Any, **options: Any) -> Any:
    from openvino.tools.ovc import convert_model

    return convert_model(*arguments, **options)


@cache
def core() -> Any:
    """The process's ``openvino.Core``: make no second one, in tests neither.

    Each sets an alternate stack for signals while it exists. Of two that overlap the first to go leaves one that is no
    longer mapped, and the next signal, Ctrl-C too, ends the process (2026.4: ``SigAltStackSetup`` of the CPU plugin).
    """
    return import_openvino().Core()


@cache
def processor_has_bf16() -> bool:
    """Whether OpenVINO can compute in bf16 here (AVX-512 BF16, AMX)."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
