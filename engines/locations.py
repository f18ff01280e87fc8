"""Where this package keeps what it can make again: bundles nobody gave a place, and compiled models.

Everything is below ``$XDG_CACHE_HOME/anyflow-rt/`` (``~/.cache/anyflow-rt/`` where the variable is unset or not
absolute, as the XDG base directory specification says). Deleting any of it costs time, nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


def cache_root() -> Path:
    """The directory of this package below the user's caches. It may not exist yet."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "anyflow-rt"


def default_bundle_path(checkpoint: str | Path) -> Path:
    """The bundle directory of a checkpoint whose user named none: ``checkpoint`` is a directory or a hub id.

    Directories of the same name in different places get different bundles.
    """
    folder = Path(checkpoint)
    if folder.is_dir():
        place = folder.resolve()
        return _bundles() / f"{_file_name(place.name)}-{hashlib.sha256(os.fsencode(place)).hexdigest()[:8]}"
    return _bundles() / _file_name(str(checkpoint))


def compiled_cache(bundle_id: str) -> Path:
    """Where engines keep compiled models of one bundle. Outside the bundle: they belong to this machine."""
    return cache_root() / "compiled" / bundle_id


def _bundles() -> Path:
    return cache_root() / "bundles"


def _file_name(text: str) -> str:
    """``text`` as a name for a file that is not hidden: ``owner/name`` becomes ``owner--name``."""
    return re.sub(r"[^\w.-]", "_", text.strip("/").replace("/", "--")).strip("._-") or "checkpoint"
