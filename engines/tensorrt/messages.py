"""What TensorRT says while it parses and builds: errors are kept for the message a user gets, the rest is logged."""

from __future__ import annotations

import logging
import re
from types import ModuleType
from typing import Any

from anyflow_rt.engines.gpu import present_target

_log = logging.getLogger(__name__)
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


def make_logger(trt: ModuleType) -> Any:
    """An ``ILogger`` of the package ``trt`` with a list ``errors`` of what went wrong, in order, and ``memory``: bytes
    that an engine will take, ``activation`` and ``weights``, as far as its build has told them."""

    class Logger(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.memory: dict[str, int] = {}
            self._without_gpu = present_target() is None

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                # Without a GPU the package notes, after anything else has failed, that it found none.
                if not (self._without_gpu and "cudaError" in message):
                    self.errors.append(_one_line(message))
            elif severity == trt.ILogger.Severity.WARNING:
                _log.info("TensorRT: %s", _one_line(message))
            elif found := _MEMORY.search(message):
                kind = found[1].lower()
                # Told once a profile: the largest counts.
                self.memory[kind] = max(int(found[2]), self.memory.get(kind, 0))

    return Logger()


def summary(errors: list[str]) -> str:
    """The first errors, each once, as one line."""
    different = list(dict.fromkeys(errors))
    text = "; ".join(different[:3]) or "it said no reason"
    return f"{text} (and {len(different) - 3} more)" if len(different) > 3 else text


def _one_line(message: str) -> str:
    return " ".join(message.split())
