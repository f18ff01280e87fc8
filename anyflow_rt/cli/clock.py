"""When this process began, so that a command's seconds count from there."""

from __future__ import annotations

import os
import time
from pathlib import Path

_IMPORTED = time.perf_counter()


def process_seconds() -> float:
    """Seconds since the process started; since this module's import where the system does not say."""
    stat = Path("/proc/self/stat")
    if not stat.exists():
        return time.perf_counter() - _IMPORTED
    # Field 22, counted after the command's name, which may hold spaces; in ticks since boot.
    started = int(stat.read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
