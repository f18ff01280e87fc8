"""How much memory this process may still take, of the machine or its control group; and what it gives back."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""Version 1 of the control groups writes a number near 2^63 where there is no limit."""


def available_memory() -> int | None:
    """Bytes that can be taken without swapping; None where the system does not say (only Linux does)."""
    figures = [*_machine(), *_control_groups()]
    return max(0, min(figures)) if figures else None


def give_back_free_memory() -> None:
    """Return what was freed, and the C library keeps, to the system. A few milliseconds; does nothing without glibc.

    glibc keeps freed pieces between those in use, and none of them fits a buffer that is a little larger than the last.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _machine() -> Iterator[int]:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield 1024 * int(line.split()[1])


def _control_groups() -> Iterator[int]:
    """What is left below the limit of each group that this process is in. A container sees its own as the root."""
    try:
        memberships = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in memberships:
        if controllers == "":
            root, names = GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root, names = GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        folder = root / path.strip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                yield from _left(group, *names)


def _left(group: Path, limit_name: str, used_name: str, reclaimable: str) -> Iterator[int]:
    # No such group, no such file in the root, the word "max": no limit of this group.
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int((group / name).read_text()) for name in (limit_name, used_name))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        if limit < UNLIMITED:
            yield limit - used + int(statistics.get(reclaimable, 0))
