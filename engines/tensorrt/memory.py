"""A GPU's memory: checked before an engine takes any, and the working part shared by all engines of a process.

Not yet run on a GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

_shared: list[Tensor] = []
"""The largest working memory asked for so far. Components run one after another, so that all may use the same."""


def shared_memory(size: int) -> Tensor:
    """``size`` bytes or more. Whoever was given a smaller piece before keeps that alive."""
    import torch

    if not _shared or _shared[0].numel() < size:
        _shared[:] = [torch.empty(max(size, 1), dtype=torch.uint8, device="cuda")]
    return _shared[0]


def check_room(engine: Any, label: str) -> None:
    """Raise EngineError unless the GPU has room for what ``engine`` works with. Its weights are there already.

    An engine with weight streaming first gets the budget that TensorRT finds fitting.
    """
    import torch

    if engine.streamable_weights_size:
        engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
    free, total = torch.cuda.mem_get_info()
    held = _shared[0].numel() if _shared else 0
    needed = max(engine.device_memory_size_v2 - held, 0)
    if needed > free:
        raise EngineError(
            f"{label} works with {needed / 1e9:.1f} GB and the GPU has {free / 1e9:.1f} of {total / 1e9:.1f} GB free; "
            "close other programs on it, build for a smaller size, or build with --weight-streaming"
        )
