"""A lock that processes share: the system's own, on a file.

A package that does it takes 20 ms to import, which every short run would pay for.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAUSE = 0.02
"""Seconds between two attempts."""


@contextmanager
def locked(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is not there and stays.

    Raises TimeoutError where another holds it for ``seconds``, OSError where the file cannot be opened.
    """
    patience = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > patience:
                    raise TimeoutError(f"another process holds {path}") from None
                time.sleep(PAUSE)
            else:
                break
        yield
