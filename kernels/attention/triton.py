"""Attention forward by online softmax: no matrix of scores, keys and values read once a block of queries.

    out = softmax(scale q k^T + bias) v      (B, heads, Lq, d), (B, heads, Lk, d) -> (B, Lq, heads * d)

A program holds ``QUERIES`` rows and walks over the keys, ``KEYS`` at a time (``online_softmax``). The last block of
keys, if it is not full, is done apart, so that the loop has no masks.

``key_bias`` (B, Lk) float32 is added to every score of a key: the prompt's collapsed padding. ``chunks`` makes it
causal from chunk to chunk, by loop bounds (``blocks``). ``past`` puts keys before them that lie elsewhere: the first
so many tokens of a cache, which is read where it is, and a count of zero keys (``checks.Past``). Both numbers are read
on the GPU, so that a launch, and a CUDA graph of it, is the same however full the cache is. Head sizes are covered by
two powers of two (``config.split_head``). The output lies as the next projection reads it. Queries and keys may be int8
with scales (``int8``): their products are exact, and the scales are applied to the sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.attention.blocks import block_table
from anyflow_rt.kernels.attention.checks import Past, check_chunks, check_heads, check_past, check_reach
from anyflow_rt.kernels.attention.config import (
    MINIMUM_DOT,
    MINIMUM_INT8_DOT,
    AttentionConfig,
    configuration,
    split_head,
    stride_unit,
)
from anyflow_rt.kernels.attention.online_softmax import LOWEST, attend, load_rows
from anyflow_rt.kernels.checks import FLOATS, check_index, check_number, check_tensor
from anyflow_rt.kernels.grid import cdiv
from anyflow_rt.kernels.launch import Kernel, Launch, target_of
from anyflow_rt.kernels.numerics import round_to
from anyflow_rt.kernels.package import tl, triton

MAXIMUM_HEAD_DIM = 256


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
        "past_capacity",
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
    past_key,
    past_value,
    past_counts,
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
    past_capacity,
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
    query_main = load_rows(query, query_row * UNIT, row, rows, 0, MAIN, HEAD_DIM, True)
    largest = tl.full((QUERIES,), LOWEST, tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    main = tl.zeros((QUERIES, MAIN), tl.float32)
    if TAIL > 0:
        query_tail = load_rows(query, query_row * UNIT, row, rows, MAIN, TAIL, HEAD_DIM, True)
        tail = tl.zeros((QUERIES, TAIL), tl.float32)
    else:
        query_tail = None
        tail = None

    if past_counts is not None:
        past_end = tl.minimum(tl.load(past_counts), past_capacity)
        zero_keys = tl.load(past_counts + 1)
        # Keys of logit 0 and value 0: all they do is to be there.
        largest = tl.where(zero_keys > 0, tl.zeros_like(largest), largest)
        total += zero_keys.to(tl.float32)
        past_key += (batch * HEADS + head) * past_capacity * HEAD_DIM
        past_value += (batch * HEADS + head) * past_capacity * HEAD_DIM
        past_full = past_end // KEYS * KEYS
        largest, total, main, tail = attend(
            query_main, query_tail, past_key, past_value, None, HEAD_DIM, HEAD_DIM, 0, past_full,
            largest, total, main, tail, None, None, SCALE, HEAD_DIM, MAIN, TAIL, KEYS, False, STAGES,
        )  # fmt: skip
        largest, total, main, tail = attend(
            query_main, query_tail, past_key, past_value, None, HEAD_DIM, HEAD_DIM, past_full, past_end,
            largest, total, main, tail, None, None, SCALE, HEAD_DIM, MAIN, TAIL, KEYS, True, 1,
        )  # fmt: skip

    full = key_end // KEYS * KEYS
    largest, total, main, tail = attend(
        query_main, query_tail, key, value, key_bias, key_row * UNIT, value_row * UNIT, 0, full,
        largest, total, main, tail, query_scale, key_scale, SCALE, HEAD_DIM, MAIN, TAIL, KEYS, False, STAGES,
    )  # fmt: skip
    largest, total, main, tail = attend(
        query_main, query_tail, key, value, key_bias, key_row * UNIT, value_row * UNIT, full, key_end,
        largest, total, main, tail, query_scale, key_scale, SCALE, HEAD_DIM, MAIN, TAIL, KEYS, True, 1,
    )  # fmt: skip

    # Without a key that counts the sums are 0, and so is the output.
    share = (1 / tl.where(total == 0, 1.0, total))[:, None]
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
    past: Past | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v as (B, Lq, heads * d), of the query's type; where no key counts, zeros.

    ``query`` (B, heads, Lq, d), ``key``, ``value`` (B, heads, Lk, d) of one float type, any strides that leave a head's
    features neighbours. ``key_bias`` (B, Lk) float32: finite, or -inf for keys to be left out; a score below -6.9e29
    (``online_softmax.LOWEST``) counts as -inf. ``chunks``: lengths whose sum is Lq; a query sees keys to the end of its
    own chunk, of which the first Lk - Lq are a cached prefix. ``scale``: 1 / sqrt(d) unless given. ``past``: what every
    query sees before ``key``. Raises EngineError, naming the argument, for what does not fit.
    """
    plan = plan_attention(query, key, value, key_bias, chunks=chunks, scale=scale, past=past)
    if key.shape[2] == 0 and past is None:
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
    past: Past | None = None,
    target: int | None = None,
    config: AttentionConfig | None = None,
) -> Launch:
    """The launch of ``attention``, output allocated. ``target`` is that of the tensors' device unless given, ``config``
    that of the target.

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
        check_chunks(chunks, query_length, key_length)
    if scale is not None:
        check_number("scale", scale)
    if past is not None:
        check_past(past, query, scales)
    number = target_of(query) if target is None else target
    config = config or configuration(number, head_dim, value.element_size(), cached=past is not None)
    blocks = {"query": config.queries, "key": config.keys, "value": config.keys}
    for (name, rows), tensor in zip(blocks.items(), (query, key, value), strict=True):
        check_index(f"the length of {name}, padded to a block,", tensor.shape[2] + rows)
        check_reach(name, tensor.stride(2), rows)
    if past is not None:
        check_index("the capacity of past.key, padded to a block,", past.key.shape[2] + config.keys)
    check_reach("output", heads * head_dim, config.queries)
    if scales is not None:
        check_tensor("scales[0]", scales[0], (batch, heads, query_length), (torch.float32,))
        check_tensor("scales[1]", scales[1], (batch, heads, cdiv(key_length, config.keys)), (torch.float32,))
    table = None
    if chunks is not None:
        table = block_table(tuple(chunks), key_length - query_length, config.queries, query.device)
    main, tail = split_head(head_dim, MINIMUM_DOT if scales is None else MINIMUM_INT8_DOT)
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
            "past_key": None if past is None else past.key,
            "past_value": None if past is None else past.value,
            "past_counts": None if past is None else past.counts,
            "output": launching.allocate((batch, query_length, heads * head_dim), value.dtype, query.device),
            "query_length": query_length,
            "key_length": key_length,
            **{name: stride // unit for name, stride in strides.items()},
            "past_capacity": None if past is None else past.key.shape[2],
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
