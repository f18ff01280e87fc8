"""sha256 of a checkpoint's files, with a memory for the large ones.

A build asks for the hash each time, to see whether anything has changed; reading 14 GB of weights for that would take
longer than the answer is worth. The digest of a large file is kept in the cache directory together with the file's
size, inode, and times of modification and of inode change, which no edit leaves as they were. Small files are always
read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from anyflow_rt.engines.locations import cache_root

REMEMBERED_BYTES = 64 * 2**20
"""Files from this size on are remembered: below it, hashing takes less than a tenth of a second."""


def content_hash(root: Path, files: tuple[Path, ...]) -> str:
    """sha256 (hex) over the names below ``root`` and the contents of ``files``, whatever their order.

    A file of another checkpoint (see ``checkpoint_parts``) has the name that it would have below ``root``.
    """
    named = sorted((_name(path, root), path) for path in files)
    with ThreadPoolExecutor(max_workers=4) as pool:
        digests = list(pool.map(file_hash, (path for _, path in named)))
    lines = (f"{name} {digest}\n" for (name, _), digest in zip(named, digests, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else "/".join(path.parts[-2:])


def file_hash(path: Path) -> str:
    """sha256 (hex) of a file's contents."""
    status = path.stat()
    if status.st_size < REMEMBERED_BYTES:
        return _digest(path)
    place = str(path.resolve())
    stamp = [place, status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    memory = cache_root() / "hashes" / f"{hashlib.sha256(place.encode()).hexdigest()}.json"
    # Without the memory (none yet, damaged, a read-only cache) the file is read, which is always right.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        remembered = json.loads(memory.read_text())
        if remembered["stamp"] == stamp:
            return str(remembered["sha256"])
    digest = _digest(path)
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        fresh = memory.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({"stamp": stamp, "sha256": digest}))
        fresh.replace(memory)
    return digest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
