"""Queries and keys as 8-bit integers, for the product of attention that matrix units do fastest. One read, one write.

    x = scale * values + mean     values (B, heads, L, d) int8; scale = largest |x - mean| / 127

A query has a scale of its own; keys share one in blocks of ``rows``, those that attention takes at once. The mean is
that of all keys of a head, feature by feature: it adds the same q . mean to all scores of a query, which softmax does
not see, and without it a few features that are large in every key would leave few steps for all others (SageAttention,
Zhang et al. 2024, section 4.2). Rounding is to nearest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.attention.config import stride_unit
from anyflow_rt.kernels.checks import check_index
from anyflow_rt.kernels.grid import cdiv
from anyflow_rt.kernels.launch import INTERPRETER, Kernel, Launch, power_of_two, target_of
from anyflow_rt.kernels.package import tl, triton

LARGEST = tl.constexpr(127.0)

SMALLEST = tl.constexpr(1e-20)
"""A scale is never 0: rows of zeros become zeros."""


@triton.jit(do_not_specialize=["length", "x_batch", "x_head", "x_row"])
def _quantise_kernel(
    x,
    mean,
    values,
    scales,
    length,
    x_batch,
    x_head,
    x_row,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    UNIT: tl.constexpr,
    SHARED: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, BLOCK)[None, :]
    inside = (row < length)[:, None] & (column < HEAD_DIM)
    x += ((head // HEADS) * x_batch + (head % HEADS) * x_head) * UNIT
    found = tl.load(x + row[:, None].to(tl.int64) * x_row * UNIT + column, mask=inside, other=0.0).to(tl.float32)
    if mean is not None:
        found -= tl.load(mean + head * HEAD_DIM + column, mask=column < HEAD_DIM, other=0.0)
        found = tl.where(inside, found, 0.0)
    largest = tl.max(tl.abs(found), axis=1)
    if SHARED:
        scale = tl.maximum(tl.max(largest, axis=0) / LARGEST, SMALLEST)
        tl.store(scales + head * tl.num_programs(0) + tl.program_id(0), scale)
        steps = found / scale
    else:
        scale = tl.maximum(largest / LARGEST, SMALLEST)
        tl.store(scales + head * length + row, scale, mask=row < length)
        steps = found / scale[:, None]
    place = (head * length + row)[:, None] * HEAD_DIM + column
    tl.store(values + place, tl.floor(steps + 0.5).to(tl.int8), mask=inside)


QUANTISE = Kernel("attention", _quantise_kernel, ("cdiv(length, ROWS)", "batch * HEADS"))


def plan_quantise(x: Tensor, mean: Tensor | None, rows: int, shared: bool, target: int | None = None) -> Launch:
    """x (B, heads, L, d), checked already, with ``mean`` (B, heads, d) float32 taken off -> ``values``, ``scales``.

    ``shared``: one scale for ``rows`` neighbours, (B, heads, L / rows) float32; otherwise one a row, (B, heads, L).
    """
    batch, heads, length, head_dim = x.shape
    target = target_of(x) if target is None else target
    unit = stride_unit(x)
    check_index("the length of queries or keys, padded to a block,", length + rows)
    count = cdiv(length, rows) if shared else length
    return Launch(
        QUANTISE,
        {
            "x": x,
            "mean": mean,
            "values": launching.allocate((batch, heads, length, head_dim), torch.int8, x.device),
            "scales": launching.allocate((batch, heads, count), torch.float32, x.device),
            "length": length,
            "x_batch": x.stride(0) // unit,
            "x_head": x.stride(1) // unit,
            "x_row": x.stride(2) // unit,
        },
        {
            "HEADS": heads,
            "HEAD_DIM": head_dim,
            "BLOCK": power_of_two(head_dim),
            "ROWS": rows,
            "UNIT": unit,
            "SHARED": shared,
        },
        extents={"batch": batch},
        warps=1 if target == INTERPRETER else 4,
    )
