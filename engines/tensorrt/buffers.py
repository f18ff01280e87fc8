"""A device's memory for the inputs and outputs of one engine, without copies where there need be none.

1. An input that is on the device already is read where it is: the keys and values of a prompt, the caches of a decoder,
   and the state, so that z_r of one jump *is* z_t of the next.
2. A numpy array is uploaded into a buffer that stays where it is. One that nobody can change any more (read-only, as
   is the memory it is part of: rotary tables) is uploaded once.
3. An output goes into memory that nobody refers to any more, else into new. What refers to one is the tensor that was
   handed out, and every view of it.

So a run of jumps uses two buffers for its state in turn, and every address comes back: graphs can be captured.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class _Upload:
    """``buffer`` holds what ``source`` refers to; to None where the array can still change."""

    buffer: Tensor
    source: weakref.ref[np.ndarray] | None = None


@dataclass
class _Lent:
    """``handed``: what the caller was given of ``memory``, None once the caller has let go of it."""

    memory: Tensor
    handed: weakref.ref[Tensor]


class Buffers:
    """Of one engine on ``device``. One thread at a time."""

    def __init__(self, device: str | torch.device) -> None:
        self._device = torch.device(device)
        self._uploads: dict[str, _Upload] = {}
        self._lent: dict[str, list[_Lent]] = {}

    def input(self, name: str, array: Any, dtype: torch.dtype) -> Tensor:
        """``array``, numpy's or PyTorch's, dense on the device. Valid until the next array of that name."""
        if isinstance(array, Tensor):
            return array.to(self._device, dtype).contiguous()
        found = self._uploads.get(name)
        if found is not None and found.source is not None and found.source() is array:
            return found.buffer
        if found is None or tuple(found.buffer.shape) != array.shape or found.buffer.dtype != dtype:
            found = self._uploads[name] = _Upload(torch.empty(array.shape, dtype=dtype, device=self._device))
        found.buffer.copy_(from_numpy(array))
        found.source = weakref.ref(array) if _is_constant(array) else None
        return found.buffer

    def output(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of that shape, its contents undefined; the caller's for as long as the caller refers to it."""
        kept = [each for each in self._lent.get(name, []) if each.handed() is not None or _fits(each, shape, dtype)]
        self._lent[name] = kept
        for each in kept:
            if each.handed() is None:
                return _hand_out(each)
        memory = torch.empty(shape, dtype=dtype, device=self._device)
        handed = memory.detach()
        kept.append(_Lent(memory, weakref.ref(handed)))
        return handed


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor of the same numbers in the CPU's memory; uint16 are the bits of bfloat16."""
    dense = np.ascontiguousarray(array)
    tensor = torch.from_numpy(dense if dense.flags.writeable else dense.copy())
    return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor


def _is_constant(array: Any) -> bool:
    """Whether neither the array nor what it is a view of can be written."""
    while isinstance(array, np.ndarray) and not array.flags.writeable:
        array = array.base
    return array is None


def _fits(lent: _Lent, shape: tuple[int, ...], dtype: torch.dtype) -> bool:
    return tuple(lent.memory.shape) == shape and lent.memory.dtype == dtype


def _hand_out(lent: _Lent) -> Tensor:
    handed = lent.memory.detach()
    lent.handed = weakref.ref(handed)
    return handed
