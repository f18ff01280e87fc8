"""The walk over keys of attention by online softmax: what a program does with one range of them.

For each row of queries it keeps the largest score so far, the sum of exponentials and the weighted sum of values, and
rescales both sums when the largest score grows (Milakov and Gimelshein 2018; Dao et al. 2022). Exponentials are to the
base 2: scale and bias carry log2(e).
"""

from __future__ import annotations

import math

from anyflow_rt.kernels.numerics import dot, round_to
from anyflow_rt.kernels.package import tl, triton

LOG2_E = tl.constexpr(math.log2(math.e))

LOWEST = tl.constexpr(-1e30)
"""What the largest score starts at. Finite, so that a block of keys with bias -inf adds 0, not NaN. To the base 2: keys
whose scores are below it, which is below -6.9e29, count as if their bias were -inf."""


@triton.jit
def load_rows(
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
def attend(
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
        key_block = key + tl.cast(key_stride, tl.int64) * start
        scores = tl.zeros((query_main.shape[0], KEYS), tl.float32 if query_scale is None else tl.int32)
        scores = dot(
            query_main, tl.trans(load_rows(key_block, key_stride, step, left, 0, MAIN, HEAD_DIM, MASKED)), scores
        )
        if TAIL > 0:
            keys_tail = load_rows(key_block, key_stride, step, left, MAIN, TAIL, HEAD_DIM, MASKED)
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
        value_block = value + tl.cast(value_stride, tl.int64) * start
        values = load_rows(value_block, value_stride, step, left, 0, MAIN, HEAD_DIM, MASKED)
        main = dot(weights, values, main * shrink[:, None])
        if TAIL > 0:
            values_tail = load_rows(value_block, value_stride, step, left, MAIN, TAIL, HEAD_DIM, MASKED)
            tail = dot(weights, values_tail, tail * shrink[:, None])
    return largest, total, main, tail
