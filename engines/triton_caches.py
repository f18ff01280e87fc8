"""The memory of a causal denoiser's caches: looked for before a run, taken with the first of a size, kept for the next.

Not yet run on a GPU; what is said where there is too little of it is tested with stand-ins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError

ALIGNED_TOKENS = 8
"""The capacity of a cache is a multiple of it, so that every block's begins where kernels may read 16 bytes at once."""

Shape = tuple[int, int, int, int, int]
"""(layers, B, heads, capacity, d)"""


class Caches:
    """The caches of a run, kept for the next one of the same shape, so that graphs captured over them serve it too."""

    def __init__(self, dtype: torch.dtype, device: torch.device, replaced: Callable[[], None]) -> None:
        """replaced: called before those of another shape are let go of."""
        self._dtype, self._device, self._replaced = dtype, device, replaced
        self._shape: tuple[int, ...] = ()
        self._taken: list[tuple[Tensor, Tensor]] = []

    def take(self, prompts: int, shape: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
        """Key and value (layers, B, heads, capacity, d) for each prompt, of room for at least as many tokens as
        ``shape`` has. What an earlier call gave is the same memory, or gone. Raises EngineError where the GPU has no
        room for them; none is kept then."""
        rounded = _rounded(shape)
        if rounded != self._shape:
            self._let_go()
            self._shape = rounded
        try:
            while len(self._taken) < prompts:
                key, value = (torch.empty(rounded, dtype=self._dtype, device=self._device) for _ in range(2))
                self._taken.append((key, value))
        except torch.cuda.OutOfMemoryError as error:
            self._let_go()
            said = " ".join(str(error).split())[:200]
            raise _no_room(
                cache_bytes(prompts, shape, self._dtype), f"there is no room for them ({said})", prompts
            ) from error
        return self._taken[:prompts]

    def _let_go(self) -> None:
        if self._taken and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # whatever stream still works on them
        self._replaced()
        self._taken.clear()


def cache_bytes(prompts: int, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Of the keys and values that ``Caches.take`` gives."""
    return 2 * prompts * math.prod(_rounded(shape)) * dtype.itemsize


def check_room(denoiser: Path, prompts: int, shape: tuple[int, ...], precision: str) -> None:
    """Raise EngineError where the caches cannot be on the GPU together with the weights that are in ``denoiser``.

    All else that this process has there may be given back by then, and what it works with is not counted: so nothing is
    refused that would have run, and a run that is not may still find too little.
    """
    from anyflow_rt.engines.torch_pack import DTYPES

    memory = gpu_memory()
    if memory is None or not denoiser.is_file():
        return  # whoever opens the engine says so
    free, total = memory
    needed, free = cache_bytes(prompts, shape, DTYPES[precision]), max(0, free - denoiser.stat().st_size)
    if needed > free:
        left = f"beside the denoiser {free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
        raise _no_room(needed, left, prompts)


def gpu_memory() -> tuple[int, int] | None:
    """Bytes that this process may have of the GPU, with those that it has, and all; None where PyTorch sees none, or
    kernels are interpreted."""
    from anyflow_rt.kernels.package import INTERPRETED

    if INTERPRETED or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    # Read afterwards: what another thread takes in between is counted twice, never left out.
    return min(total, free + torch.cuda.memory_reserved()), total


def _no_room(needed: int, left: str, prompts: int) -> EngineError:
    guided = ", leave guidance out (--guidance-scale 1), which halves them" if prompts > 1 else ""
    return EngineError(
        f"the keys and values of this video's chunks take {needed / 1e9:.1f} GB of the GPU's memory, and {left}; make "
        f"a shorter video (--num-frames), a smaller one (--height, --width) or fewer at once{guided}, or close other "
        "programs on the GPU"
    )


def _rounded(shape: tuple[int, ...]) -> Shape:
    layers, batch, heads, tokens, width = shape
    return layers, batch, heads, max(1, -(-tokens // ALIGNED_TOKENS)) * ALIGNED_TOKENS, width
