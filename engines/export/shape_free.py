"""Reshapes that leave no size in a traced graph.

torch.export can carry symbolic sizes, but on hundreds of five-dimensional tensors that takes most of a minute. A
module that uses only operators whose ONNX form holds no size, and these two functions, can instead be traced at one
example size: its ONNX graph is the same whatever the example's batch, frames, height and width were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.onnx import ops


@dataclass(frozen=True)
class Size:
    """A size taken from another tensor's ``axis``: that size * ``times`` // ``over``."""

    axis: int
    times: int = 1
    over: int = 1


def reshape(x: Tensor, pattern: Sequence[int]) -> Tensor:
    """``x`` in the shape of an ONNX ``Reshape`` pattern: 0 keeps the axis of that index, -1 (once) is what remains."""
    target = [x.shape[axis] if size == 0 else size for axis, size in enumerate(pattern)]
    reshaped = x.reshape(target)
    if not torch.onnx.is_in_onnx_export():
        return reshaped
    return ops.symbolic("Reshape", (x, torch.tensor(pattern)), dtype=x.dtype, shape=reshaped.shape)


def reshape_by(x: Tensor, like: Tensor, sizes: Sequence[int | Size]) -> Tensor:
    """``x`` in a shape whose sizes are given (``int``) or follow from those of ``like`` (``Size``)."""
    target = [size if isinstance(size, int) else like.shape[size.axis] * size.times // size.over for size in sizes]
    if not torch.onnx.is_in_onnx_export():
        return x.reshape(target)
    shape = ops.symbolic("Shape", (like,), dtype=torch.int64, shape=(like.dim(),))
    # Given sizes stay constants of their own, so that engines know them where the others are symbolic.
    runs = [list(run) for _, run in groupby(sizes, key=lambda size: isinstance(size, int))]
    wanted = torch.cat([_sizes_of(shape, run) for run in runs])
    return ops.symbolic("Reshape", (x, wanted), dtype=x.dtype, shape=target)


def _sizes_of(shape: Tensor, run: list[int | Size]) -> Tensor:
    """The sizes of a run of ``int`` or of a run of ``Size``, as an int64 tensor in the graph."""
    known = [size for size in run if isinstance(size, int)]
    if known:
        return torch.tensor(known)
    taken = [size for size in run if isinstance(size, Size)]
    sizes = shape.index_select(0, torch.tensor([size.axis for size in taken]))
    if any(size.times != 1 for size in taken):
        sizes = sizes * torch.tensor([size.times for size in taken])
    if any(size.over != 1 for size in taken):
        over = torch.tensor([size.over for size in taken])
        sizes = ops.symbolic("Div", (sizes, over), dtype=torch.int64, shape=sizes.shape)
    return sizes
