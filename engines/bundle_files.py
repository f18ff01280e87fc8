"""The files of a bundle: checked, hashed, brought safely to the disk, and swept."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from anyflow_rt.engines.manifest import FileRecord, Manifest

PARTIAL = ".partial"
"""Suffix of what a build is still writing."""

_OWNED_FOLDERS = ("onnx*", "engines*")
_OWNED_FILES = ("tokenizer*.json", f"*{PARTIAL}")


def size_fault(folder: Path, file: FileRecord) -> str | None:
    """What is wrong with a file at first sight, None where it is there at its size."""
    try:
        size = (folder / file.path).stat().st_size
    except OSError:
        return f"{file.path} is missing"
    return None if size == file.size else f"{file.path} has {size} bytes instead of {file.size}"


def content_fault(folder: Path, file: FileRecord) -> str | None:
    """What is wrong with a file, all of it read; None where it is as recorded."""
    fault = size_fault(folder, file)
    if fault is None and file_sha256(folder / file.path) != file.sha256:
        return f"{file.path} has other contents than were built"
    return fault


def file_sha256(path: Path) -> str:
    """The hash of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def record_file(folder: Path, path: Path) -> FileRecord:
    """Bring ``path``, below ``folder``, to the disk and describe it."""
    flush(path)
    return FileRecord(path.relative_to(folder).as_posix(), path.stat().st_size, file_sha256(path))


def flush(path: Path) -> None:
    """Wait until a file's contents, or a directory's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def free_name(folder: Path, name: str) -> str:
    """``name``, or ``name-2``, ``name-3`` ... : the first that ``folder`` does not hold."""
    number, free = 1, name
    while (folder / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free


def sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what builds write and ``manifest`` does not name. What a user put beside it stays."""
    named = {folder / file.path for file in manifest.files()}
    for path in [path for pattern in _OWNED_FILES for path in folder.glob(pattern)]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in named:
            path.unlink()
    for owned in [path for pattern in _OWNED_FOLDERS for path in folder.glob(pattern)]:
        for path in [*sorted(owned.rglob("*"), reverse=True), owned]:
            if path.is_dir():
                if not any(path.iterdir()):
                    path.rmdir()
            elif path not in named:
                path.unlink()
