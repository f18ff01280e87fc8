"""The kernels that TensorRT for RTX compiles on a GPU, kept in a file for the next process.

Not yet run on a GPU.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class RuntimeCache:
    """``cache``: TensorRT's own, for a context's configuration; it begins with what the file ``path`` holds, None for
    no file. A damaged file is said, and replaced by ``keep``."""

    def __init__(self, config: Any, path: Path | None, label: str) -> None:
        self._runtime_cache = config.create_runtime_cache()
        self._path, self._label = path, label
        self._kept = 0
        stored = b"" if path is None or not path.is_file() else path.read_bytes()
        if stored and self._runtime_cache.deserialize(stored):
            self._kept = len(stored)
        elif stored:
            _log.warning("%s cannot be read: the kernels of %s are compiled again", path, label)

    @property
    def cache(self) -> Any:
        """For ``IRuntimeConfig.set_runtime_cache``."""
        return self._runtime_cache

    def keep(self) -> None:
        """Write the file if there is more than it holds. A place that cannot be written costs the next process that
        time again, and this one nothing."""
        if self._path is None:
            return
        compiled = memoryview(self._runtime_cache.serialize())
        if compiled.nbytes <= self._kept:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_suffix(f".{os.getpid()}.partial")
            partial.write_bytes(compiled)
            partial.replace(self._path)
            self._kept = compiled.nbytes
        except OSError as error:
            self._path = None
            _log.warning("kernels compiled for %s are not kept (%s)", self._label, error)
