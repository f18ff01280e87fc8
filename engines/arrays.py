"""Arrays of engines: numpy's on the CPU, PyTorch's on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from anyflow_rt.errors import EngineError


def to_host(array: Any) -> np.ndarray:
    """``array`` as numpy's: itself where it is one, else copied from the device; bfloat16 as its bits in uint16."""
    if isinstance(array, np.ndarray):
        return array
    import torch

    array = array.view(torch.uint16) if array.dtype == torch.bfloat16 else array
    return array.cpu().numpy()


def zeros_beside(array: Any, size: int) -> Any:
    """``size`` zeros of the type of ``array``, flat, where that is. Raises EngineError where the GPU is full."""
    if isinstance(array, np.ndarray):
        return np.zeros(size, array.dtype)
    with saying_out_of_memory("what is kept of earlier chunks", _FEWER_CHUNKS):
        return array.new_zeros(size)


def copied(array: Any) -> Any:
    """The same numbers in memory of their own, dense, where ``array`` is. Raises EngineError where the GPU is full."""
    if isinstance(array, np.ndarray):
        return array.copy()
    with saying_out_of_memory("what is kept of earlier chunks", _FEWER_CHUNKS):
        return array.clone()


_FEWER_CHUNKS = "make fewer frames (--num-frames), or have less else on the GPU"


@contextmanager
def saying_out_of_memory(label: str, mend: str) -> Iterator[None]:
    """What PyTorch or an engine raises where the GPU is full becomes an EngineError, which says ``label`` and
    ``mend``."""
    import torch

    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        said = next(iter(str(error).splitlines()), "").rstrip(".")
        raise EngineError(f"{label}: the GPU's memory is full ({said}); {mend}") from error
