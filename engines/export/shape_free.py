"""Reshapes that leave no size in a traced graph.

torch.export can carry symbolic sizes, but on hundreds of five-dimensional tensors that takes most of a minute. A
module that uses only operators whose ONNX form holds no size, and these two functions, can instead be traced at one
example size: its ONNX graph is the same whatever the example's batch, frames, height and width were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    parts = [size if isinstance(size, Size) else Size(0, 0) for size in sizes]
    fixed = [0 if isinstance(size, Size) else size for size in sizes]
    target = [like.shape[part.axis] * part.times // part.over + size for part, size in zip(parts, fixed, strict=True)]
    if not torch.onnx.is_in_onnx_export():
        return x.reshape(target)
    shape = ops.symbolic("Shape", (like,), dtype=torch.int64, shape=(like.dim(),))
    wanted = shape.index_select(0, torch.tensor([part.axis for part in parts]))
    wanted = wanted * torch.tensor([part.times for part in parts])
    if any(part.over != 1 for part in parts):
        over = torch.tensor([part.over for part in parts])
        wanted = ops.symbolic("Div", (wanted, over), dtype=torch.int64, shape=wanted.shape)
    return ops.symbolic("Reshape", (x, wanted + torch.tensor(fixed)), dtype=x.dtype, shape=target)
