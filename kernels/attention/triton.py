"""Attention forward by online softmax: no matrix of scores, keys and values read once a block of queries.

    out = softmax(scale q k^T + bias) v      (B, heads, Lq, d), (B, heads, Lk, d) -> (B, Lq, heads * d)

A program holds ``QUERIES`` rows and walks over the keys, ``KEYS`` at a time; for each row it keeps the largest score
so far, the sum of exponentials and the weighted sum of values, and rescales both sums when the largest score grows
(Milakov and Gimelshein 2018; Dao et al. 2022). Exponentials are to the base 2: scale and bias carry log2(e). The last
block of keys, if it is not full, is done apart, so that the loop has no masks.

``key_bias`` (B, Lk) float32 is added to every score of a key: the prompt's collapsed padding. ``chunks`` makes it
causal from chunk to chunk, by loop bounds (``blocks``). Head sizes are covered by two powers of two
(``config.split_head``). The output lies as the next projection reads it. Queries and keys may be int8 with scales
(``int8``): their products are exact, and the scales are applied to the sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.attention.blocks import block_table
from anyflow_rt.kernels.attention.config import configuration, split_head, stride_unit
from anyflow_rt.kernels.checks import FLOATS, check_address, check_dtype, check_shape, check_tensor
from anyflow_rt.kernels.grid import cdiv
from anyflow_rt.kernels.launch import Kernel, Launch, target_of
from anyflow_rt.kernels.numerics import dot, round_to
from anyflow_rt.kernels.package import tl, triton

MAXIMUM_HEAD_DIM = 256

LOG2_E = tl.constexpr(math.log2(math.e))

LOWEST = tl.constexpr(-1e30)
"""What the largest score starts at. Finite, so that a block of keys with bias -inf adds 0, not NaN."""


@triton.jit
def _rows(
    base, stride, row, end, START: tl.constexpr, SIZE: tl.constexpr, HEAD_DIM: tl.constexpr, MASKED: tl.constexpr
):
    """Features START to START + SIZE of the rows ``row``; zeros from ``end`` and from HEAD_DIM on."""
    column = START + tl.arange(0, SIZE)
    place = base + row[:, None] * stride + column[None, :]
    if MASKED and START + SIZE > HEAD_DIM:
        return tl.load(place, mask=(row < end)[:, None] & (column < HEAD_DIM)[None, :], other=0.0)
    if MASKED:
        return tl.load(place, mask=(row < end)[:, None], other=0.0)
    if START + SIZE > HEAD_DIM:
        return tl.load(place, mask=(column < HEAD_DIM)[None, :], other=0.0)
    return tl.load(place)


@triton.jit
def _attend(
    query_main,
    query_tail,
    key,
    value,
    key_bias,
    key_stride,
    value_stride,
    begin,
    end,
    largest,
    total,
    main,
    tail,
    query_scale,
    key_scale,
    SCALE: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MAIN: tl.constexpr,
    TAIL: tl.constexpr,
    KEYS: tl.constexpr,
    MASKED: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Take the keys ``begin`` to ``end`` into the running softmax; all blocks are full unless MASKED."""
    step = tl.arange(0, KEYS)
    for start in tl.range(begin, end, KEYS, num_stages=STAGES):
        left = end - start
        key_block = key + key_stride.to(tl.int64) * start
        scores = tl.zeros((query_main.shape[0], KEYS), tl.float32 if query_scale is None else tl.int32)
        scores = dot(query_main, tl.trans(_rows(key_block, key_stride, step, left, 0, MAIN, HEAD_DIM, MASKED)), scores)
        if TAIL > 0:
            keys_tail = _rows(key_block, key_stride, step, left, MAIN, TAIL, HEAD_DIM, MASKED)
            scores = dot(query_tail, tl.trans(keys_tail), scores)
        if query_scale is None:
            scores = scores * (SCALE * LOG2_E)
        else:
            factor = query_scale * (SCALE * LOG2_E * tl.load(key_scale + start // KEYS))
            scores = scores.to(tl.float32) * factor[:, None]
        if key_bias is not None:
            scores += LOG2_E * tl.load(key_bias + start + step, mask=step < left, other=0.0)[None, :]
        if MASKED:
            scores = tl.where((step < left)[None, :], scores, -float("inf"))
        now = tl.maximum(largest, tl.max(scores, axis=1))
        weights = tl.exp2(scores - now[:, None])
        shrink = tl.exp2(largest - now)
        largest = now
        total = total * shrink + tl.sum(weights, axis=1)
        weights = round_to(weights, value.dtype.element_ty)
        value_block = value + value_stride.to(tl.int64) * start
        values = _rows(value_block, value_stride, step, left, 0, MAIN, HEAD_DIM, MASKED)
        main = dot(weights, values, main * shrink[:, None])
        if TAIL > 0:
            values_tail = _rows(value_block, value_stride, step, left, MAIN, TAIL, HEAD_DIM, MASKED)
            tail = dot(weights, values_tail, tail * shrink[:, None])
    return largest, total, main, tail


@triton.jit(
    do_not_specialize=[
        "query_length",
        "key_length",
        "query_batch",
        "query_head",
        "query_row",
        "key_batch",
        "key_head",
        "key_row",
        "value_batch",
        "value_head",
        "value_row",
    ]
)
def _attention_kernel(
    query,
    key,
    value,
    key_bias,
    query_scale,
    key_scale,
    blocks,
    query_length,
    key_length,
    query_batch,
    query_head,
    query_row,
    key_batch,
    key_head,
    key_row,
    value_batch,
    value_head,
    value_row,
    output,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    MAIN: tl.constexpr,
    TAIL: tl.constexpr,
    SCALE: tl.constexpr,
    UNIT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    STAGES: tl.constexpr,
):
    batch = (tl.program_id(1) // HEADS).to(tl.int64)
    head = (tl.program_id(1) % HEADS).to(tl.int64)
    if blocks is not None:
        first = tl.load(blocks + tl.program_id(0) * 3)
        query_end = tl.load(blocks + tl.program_id(0) * 3 + 1)
        key_end = tl.load(blocks + tl.program_id(0) * 3 + 2)
    else:
        first = tl.program_id(0) * QUERIES
        query_end = query_length
        key_end = key_length
    # Strides come divided by UNIT, so that the compiler knows how far rows are aligned.
    query += (batch * query_batch + head * query_head + first.to(tl.int64) * query_row) * UNIT
    key += (batch * key_batch + head * key_head) * UNIT
    value += (batch * value_batch + head * value_head) * UNIT
    if key_bias is not None:
        key_bias += batch * key_length

    row = tl.arange(0, QUERIES)
    rows = query_end - first
    if query_scale is not None:
        query_scale += (batch * HEADS + head) * query_length + first
        query_scale = tl.load(query_scale + row, mask=row < rows, other=0.0)
        key_scale += (batch * HEADS + head) * tl.cdiv(key_length, KEYS)
    query_main = _rows(query, query_row * UNIT, row, rows, 0, MAIN, HEAD_DIM, True)
    largest = tl.full((QUERIES,), LOWEST, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    main = tl.zeros((QUERIES, MAIN), tl.float32)
    if TAIL > 0:
        query_tail = _rows(query, query_row * UNIT, row, rows, MAIN, TAIL, HEAD_DIM, True)
        tail = tl.zeros((QUERIES, TAIL), tl.float32)
    else:
        query_tail = None
        tail = None

    full = key_end // KEYS * KEYS
    largest, total, main, tail = _attend(
        query_main, query_tail, key, value, key_bias, key_row * UNIT, value_row * UNIT, 0, full,
        largest, total, main, tail, query_scale, key_scale, SCALE, HEAD_DIM, MAIN, TAIL, KEYS, False, STAGES,
    )  # fmt: skip
    largest, total, main, tail = _attend(
        query_main, query_tail, key, value, key_bias, key_row * UNIT, value_row * UNIT, full, key_end,
        largest, total, main, tail, query_scale, key_scale, SCALE, HEAD_DIM, MAIN, TAIL, KEYS, True, 1,
    )  # fmt: skip

    share = (1 / total)[:, None]
    output += ((batch * query_length + first) * HEADS + head) * HEAD_DIM
    place = output + row[:, None] * (HEADS * HEAD_DIM)
    column = tl.arange(0, MAIN)[None, :]
    inside = (row < rows)[:, None]
    tl.store(place + column, round_to(main * share, output.dtype.element_ty), mask=inside & (column < HEAD_DIM))
    if TAIL > 0:
        column = MAIN + tl.arange(0, TAIL)[None, :]
        tl.store(place + column, round_to(tail * share, output.dtype.element_ty), mask=inside & (column < HEAD_DIM))


ATTENTION = Kernel("attention", _attention_kernel, ("cdiv(query_length, QUERIES)", "batch * HEADS"))
CHUNKED_ATTENTION = Kernel("attention", _attention_kernel, ("block_count", "batch * HEADS"))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    *,
    chunks: Sequence[int] | None = None,
    scale: float | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v as (B, Lq, heads * d), of the query's type; without keys, zeros.

    ``query`` (B, heads, Lq, d), ``key``, ``value`` (B, heads, Lk, d) of one float type, any strides that leave a head's
    features neighbours. ``key_bias`` (B, Lk) float32: finite, or -inf for keys to be left out, but not for all of them.
    ``chunks``: lengths whose sum is Lq; a query sees keys to the end of its own chunk, of which the first Lk - Lq are a
    cached prefix. ``scale``: 1 / sqrt(d) unless given. Raises EngineError, naming the argument, for what does not fit.
    """
    plan = plan_attention(query, key, value, key_bias, chunks=chunks, scale=scale)
    if key.shape[2] == 0:
        return plan.tensors["output"].zero_()
    plan.run()
    return plan.tensors["output"]


def plan_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    *,
    chunks: Sequence[int] | None = None,
    scale: float | None = None,
    scales: tuple[Tensor, Tensor] | None = None,
    target: int | None = None,
) -> Launch:
    """The launch of ``attention``, output allocated. ``target`` is that of the tensors' device unless given.

    ``scales``: of queries and keys that are int8, as ``quantise`` makes them for this target's blocks of keys.
    """
    check_heads("query", query, ("B", "heads", "Lq", "d"), FLOATS if scales is None else (torch.int8,))
    batch, heads, query_length, head_dim = query.shape
    if not 0 < head_dim <= MAXIMUM_HEAD_DIM:
        raise EngineError(f"query has head size {head_dim}; accepted: 1 to {MAXIMUM_HEAD_DIM}")
    check_heads("key", key, (batch, heads, "Lk", head_dim), (query.dtype,))
    key_length = key.shape[2]
    check_heads("value", value, (batch, heads, key_length, head_dim), FLOATS if scales else (query.dtype,))
    if key_bias is not None:
        check_tensor("key_bias", key_bias, (batch, key_length), (torch.float32,))
    if chunks is not None:
        _check_chunks(chunks, query_length, key_length)
    config = configuration(target_of(query) if target is None else target, head_dim, value.element_size())
    if scales is not None:
        check_tensor("scales[0]", scales[0], (batch, heads, query_length), (torch.float32,))
        check_tensor("scales[1]", scales[1], (batch, heads, cdiv(key_length, config.keys)), (torch.float32,))
    table = None
    if chunks is not None:
        table = block_table(tuple(chunks), key_length - query_length, config.queries, query.device)
    main, tail = split_head(head_dim)
    tensors = {"query": query, "key": key, "value": value}
    strides = {
        f"{name}_{axis}": tensor.stride(number)
        for name, tensor in tensors.items()
        for number, axis in enumerate(("batch", "head", "row"))
    }
    unit = stride_unit(query, key, value)
    return Launch(
        ATTENTION if table is None else CHUNKED_ATTENTION,
        {
            **tensors,
            "key_bias": key_bias,
            "query_scale": None if scales is None else scales[0],
            "key_scale": None if scales is None else scales[1],
            "blocks": table,
            "output": launching.allocate((batch, query_length, heads * head_dim), value.dtype, query.device),
            "query_length": query_length,
            "key_length": key_length,
            **{name: stride // unit for name, stride in strides.items()},
        },
        {
            "HEADS": heads,
            "HEAD_DIM": head_dim,
            "MAIN": main,
            "TAIL": tail,
            "SCALE": head_dim**-0.5 if scale is None else float(scale),
            "UNIT": unit,
            "QUERIES": config.queries,
            "KEYS": config.keys,
            "STAGES": config.stages,
        },
        extents={"batch": batch} | ({} if table is None else {"block_count": table.shape[0]}),
        warps=config.warps,
        stages=config.stages,
    )


def check_heads(name: str, tensor: Tensor, shape: Sequence[int | str], dtypes: Sequence[torch.dtype]) -> None:
    """Raise EngineError unless ``tensor`` fits and a head's features are neighbours."""
    check_dtype(name, tensor, dtypes)
    check_shape(name, tensor, shape)
    check_address(name, tensor)
    if tensor.shape[3] > 1 and tensor.stride(3) != 1:
        raise EngineError(f"{name} has strides {tuple(tensor.stride())}; accepted: 1 along its last axis")


def _check_chunks(chunks: Sequence[int], query_length: int, key_length: int) -> None:
    if any(not isinstance(chunk, int) or chunk < 1 for chunk in chunks) or sum(chunks) != query_length:
        raise EngineError(f"chunks is {list(chunks)}; accepted: positive lengths whose sum is Lq, {query_length}")
    if key_length < query_length:
        raise EngineError(f"key has {key_length} keys for {query_length} queries in chunks; accepted: at least as many")
