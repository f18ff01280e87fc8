"""A GPU's memory: checked before an engine takes any, and the working part shared by all engines of a process.

Not yet run on a GPU.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyflow_rt.engines.arrays import saying_out_of_memory
from anyflow_rt.engines.engine import STREAMING
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor


class Lane:
    """Engines that work in the same memory, one at a time: who holds ``turn``. Other lanes work meanwhile."""

    def __init__(self) -> None:
        self.turn = threading.RLock()
        self._working: weakref.ref[Tensor] | None = None

    def working_memory(self, size: int, expected: int) -> Tensor:
        """``size`` bytes or more, ``expected`` where they are new; to be held on to by every engine that works in them.

        Given back once no engine holds them. One that asks for more than there is gets others, and so do all after it.
        """
        import torch

        with self.turn:
            held = self._held()
            if held is None or held.numel() < size:
                held = torch.empty(max(size, expected, 1), dtype=torch.uint8, device="cuda")
                self._working = weakref.ref(held)
            return held

    @property
    def held(self) -> int:
        """Bytes that there are."""
        memory = self._held()
        return 0 if memory is None else memory.numel()

    def _held(self) -> Tensor | None:
        return None if self._working is None else self._working()


CAPTURING = threading.Lock()
"""Held while a CUDA graph is captured, and by who gives cached memory back; taken last, behind a lane's turn. PyTorch
waits for the whole GPU and gives back its cache before it captures: CUDA permits the one while no stream captures, in
whatever mode, and PyTorch's allocator the other.

The other lane may allocate and execute meanwhile: a capture of mode ``thread_local`` forbids what is unsafe, such as
cudaMalloc, to its own thread alone, and PyTorch gives a graph's memory to its own stream alone. Source: CUDA's
documentation of ``cudaThreadExchangeStreamCaptureMode`` and of what stream capture prohibits."""

MAIN, BESIDE = LANES = (Lane(), Lane())
"""Of a process. In the second a causal checkpoint's decoder works while the next chunk is made in the first."""


def free_memory() -> tuple[int, int]:
    """Bytes of the GPU that are free, and all. What PyTorch keeps and nobody uses is free: most of it is given back.

    Raises EngineError where PyTorch cannot use a GPU.
    """
    import torch

    require_cuda()
    with ExitStack() as turns:
        for lane in LANES:
            turns.enter_context(lane.turn)
        turns.enter_context(CAPTURING)
        torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total


def require_cuda() -> None:
    """Raise EngineError where PyTorch cannot use this machine's GPU: engines keep their arrays in its tensors."""
    import torch

    if not torch.cuda.is_available():
        raise EngineError(
            f"TensorRT engines need a PyTorch that can use the GPU, and {torch.__version__}, which is installed, "
            "cannot; install one that is built for CUDA: run  pip install --force-reinstall torch"
        )


def naming_mends(label: str, file: Path) -> AbstractContextManager[None]:
    """``saying_out_of_memory`` of ``label``, an engine of the file ``file``."""
    return saying_out_of_memory(label, _mends(file))


def _mends(file: Path) -> str:
    return (
        "close other programs on it, take --residency sequential, build for a smaller size, or "
        f"{engine_mend(file, weight_streaming=True)}  and take --residency streaming"
    )


def check_room(engine: Any, label: str, residency: str, file: Path, lane: Lane) -> None:
    """Raise EngineError unless the GPU has room for what ``engine``, of the file ``file``, works with in ``lane``.

    An engine that was built for weight streaming gets all of its weights onto the GPU, or with ``streaming`` as many as
    TensorRT finds fitting.
    """
    if engine.streamable_weights_size:
        streams = residency == STREAMING
        budget = engine.get_weight_streaming_automatic_budget() if streams else engine.streamable_weights_size
        engine.weight_streaming_budget_v2 = budget
    free, total = free_memory()
    needed = engine.device_memory_size_v2 - lane.held
    if needed > free:
        raise EngineError(
            f"{label} works with {needed / 1e9:.1f} GB and the GPU has {free / 1e9:.1f} of {total / 1e9:.1f} GB free; "
            f"{_mends(file)}"
        )
