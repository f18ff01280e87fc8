"""A GPU's memory: checked before an engine takes any, and the working part shared by all engines of a process.

Not yet run on a GPU.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from anyflow_rt.engines.engine import STREAMING
from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

turn = threading.RLock()
"""Held while an engine executes: all of them work in the same memory."""

_working: weakref.ref[Tensor] | None = None


def working_memory(size: int, expected: int) -> Tensor:
    """``size`` bytes or more, ``expected`` where they are new; to be held on to by every engine that works in them.

    Given back once no engine holds them. One that asks for more than there is gets others, and so do all after it.
    """
    import torch

    global _working
    with turn:
        held = None if _working is None else _working()
        if held is None or held.numel() < size:
            held = torch.empty(max(size, expected, 1), dtype=torch.uint8, device="cuda")
            _working = weakref.ref(held)
        return held


def check_room(engine: Any, label: str, residency: str) -> None:
    """Raise EngineError unless the GPU has room for what ``engine`` works with.

    An engine that was built for weight streaming gets all of its weights onto the GPU, or with ``streaming`` as many as
    TensorRT finds fitting.
    """
    import torch

    if engine.streamable_weights_size:
        streams = residency == STREAMING
        budget = engine.get_weight_streaming_automatic_budget() if streams else engine.streamable_weights_size
        engine.weight_streaming_budget_v2 = budget
    free, total = torch.cuda.mem_get_info()
    held = None if _working is None else _working()
    needed = engine.device_memory_size_v2 - (0 if held is None else held.numel())
    if needed > free:
        raise EngineError(
            f"{label} works with {needed / 1e9:.1f} GB and the GPU has {free / 1e9:.1f} of {total / 1e9:.1f} GB free; "
            "close other programs on it, take --residency sequential, build for a smaller size, or build with "
            "--weight-streaming and take --residency streaming"
        )
