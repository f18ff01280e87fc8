"""Arrays of engines: numpy's on the CPU, PyTorch's on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_host(array: Any) -> np.ndarray:
    """``array`` as numpy's: itself where it is one, else copied from the device; bfloat16 as its bits in uint16."""
    if isinstance(array, np.ndarray):
        return array
    import torch

    array = array.view(torch.uint16) if array.dtype == torch.bfloat16 else array
    return array.cpu().numpy()


def zeros_beside(array: Any, size: int) -> Any:
    """``size`` zeros of the type of ``array``, flat, where that is."""
    return np.zeros(size, array.dtype) if isinstance(array, np.ndarray) else array.new_zeros(size)


def copied(array: Any) -> Any:
    """The same numbers in memory of their own, dense, where ``array`` is."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()
