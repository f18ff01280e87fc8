"""Other work that comes and goes: one process per core, each pinned to its own, busy in bursts at random times."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

PATIENCE = 10.0
"""Seconds that a process may take to end."""


class Burners:
    """They burn while the context lasts. pause, burst: mean seconds of quiet and of work, exponentially distributed.

    cores: None for every one that this process may use.
    """

    def __init__(
        self, *, pause: float = 6.0, burst: float = 2.0, seed: int = 0, cores: tuple[int, ...] | None = None
    ) -> None:
        self._pause, self._burst, self._seed = pause, burst, seed
        self._cores = tuple(sorted(os.sched_getaffinity(0))) if cores is None else cores
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        for core in self._cores:
            words = [__file__, core, self._pause, self._burst, self._seed + core]
            self._processes.append(subprocess.Popen([sys.executable, "-I", "-S", *map(str, words)]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(PATIENCE)


def burn(core: int, pause: float, burst: float, seed: int) -> None:
    """One process's life; it ends with the one that started it."""
    os.sched_setaffinity(0, {core})
    chance, parent = random.Random(seed), os.getppid()
    while os.getppid() == parent:
        time.sleep(chance.expovariate(1.0 / pause))
        end = time.monotonic() + chance.expovariate(1.0 / burst)
        while time.monotonic() < end:
            sum(range(1000))


if __name__ == "__main__":
    burn(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
