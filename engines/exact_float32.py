"""Products and convolutions of float32 in float32, for as long as anybody in the process asks for it.

cuDNN would shorten their factors to TF32's 10 bits by default. The switches belong to the process, not to an engine or
a thread: whoever comes first sets them, whoever leaves last sets back what was before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

_lock = threading.Lock()
_inside = 0
_before: list[str] = []


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Within it nothing is shortened, in any thread; it may be entered again, and left in any order."""
    global _inside, _before
    switches = _switches()
    with _lock:
        if _inside == 0:
            _before = [switch.fp32_precision for switch in switches]
            for switch in switches:
                switch.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for switch, value in zip(switches, _before, strict=True):
                    switch.fp32_precision = value


def _switches() -> list[Any]:
    import torch

    cuda: Any = torch.backends.cuda
    cudnn: Any = torch.backends.cudnn
    return [cuda.matmul, cudnn.conv, cudnn.rnn]
