"""Paths that a caller gives: refused where they are none."""

from __future__ import annotations

import os
from pathlib import Path

from anyflow_rt.errors import UsageError


def check_path(name: str, value: object, mend: str) -> Path:
    """``value`` as a Path. Raises UsageError, which ends with ``mend``, unless it is a path that can exist.

    An empty text is none: ``Path("")`` would be the current directory.
    """
    path = os.fspath(value) if isinstance(value, str | os.PathLike) else None
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise UsageError(f"{name} is {value!r}; {mend}")
    return Path(path)
