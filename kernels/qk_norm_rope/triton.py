"""Queries and keys made ready for attention: RMSNorm across all heads, rotary embedding, layout. One read, one write.

    n = x / sqrt(mean(x^2) + eps) * gain            over heads * d, statistics in float32
    (a, b) -> (a cos - b sin, b cos + a sin)        for each pair of a head, angles (L, d/2) of the token

    packed (B, L, parts * heads * d) -> query, key (B, heads, L, d)

The packed projection holds query, key and value (``qk_norm_rope``; the value stays where it is, as a view of it), or
the query alone (``query_norm``, for cross-attention, which has no rotary embedding). ``qk_norm_rope_into`` writes the
keys into a cache, where later chunks read them, behind the tokens that are there. A checkpoint pairs neighbours
(2i, 2i + 1); the exported graphs permute its weights so that pairs are halves (i, i + d/2), which a GPU reads without
shuffling. The kernel has both: whoever has the weights says which.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.checks import (
    FLOATS,
    check_choice,
    check_dtype,
    check_index,
    check_number,
    check_tensor,
    check_whole,
)
from anyflow_rt.kernels.launch import Kernel, Launch, power_of_two, target_of
from anyflow_rt.kernels.numerics import round_to
from anyflow_rt.kernels.package import tl, triton
from anyflow_rt.kernels.qk_norm_rope.config import configuration

PAIRS = ("interleaved", "halves")
MAXIMUM_WIDTH = 8192


@triton.jit
def _load_pairs(
    base,
    limit,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    """First and second elements of all pairs of a row, each (HEAD_BLOCK, HALF_BLOCK) float32; ``limit`` heads of it."""
    head = tl.arange(0, HEAD_BLOCK)[:, None]
    if INTERLEAVED:
        within = tl.arange(0, 2 * HALF_BLOCK)[None, :]
        wanted = (head < limit) & (within < HEAD_DIM)
        both = tl.load(base + head * HEAD_DIM + within, mask=wanted, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(both, (HEAD_BLOCK, HALF_BLOCK, 2)))
    else:
        within = tl.arange(0, HALF_BLOCK)[None, :]
        wanted = (head < limit) & (within < HEAD_DIM // 2)
        place = base + head * HEAD_DIM + within
        first = tl.load(place, mask=wanted, other=0.0).to(tl.float32)
        second = tl.load(place + HEAD_DIM // 2, mask=wanted, other=0.0).to(tl.float32)
    return first, second


@triton.jit
def _store_pairs(
    base,
    head_stride,
    limit,
    first,
    second,
    HEAD_DIM: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    """The inverse of ``_load_pairs``, into rows that are ``head_stride`` apart, a number of 64 bits."""
    head = tl.arange(0, HEAD_BLOCK)[:, None]
    row = base + head * head_stride
    if INTERLEAVED:
        within = tl.arange(0, 2 * HALF_BLOCK)[None, :]
        wanted = (head < limit) & (within < HEAD_DIM)
        both = tl.reshape(tl.join(first, second), (HEAD_BLOCK, 2 * HALF_BLOCK))
        tl.store(row + within, round_to(both, base.dtype.element_ty), mask=wanted)
    else:
        within = tl.arange(0, HALF_BLOCK)[None, :]
        wanted = (head < limit) & (within < HEAD_DIM // 2)
        place = row + within
        tl.store(place, round_to(first, base.dtype.element_ty), mask=wanted)
        tl.store(place + HEAD_DIM // 2, round_to(second, base.dtype.element_ty), mask=wanted)


@triton.jit(do_not_specialize=["length", "key_start", "key_capacity"])
def _qk_norm_rope_kernel(
    packed,
    query_gain,
    key_gain,
    rope_cos,
    rope_sin,
    length,
    key_start,
    key_capacity,
    query,
    key,
    PARTS: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    EPS: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    TOKENS: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * TOKENS
    width = HEADS * HEAD_DIM
    head_stride = length.to(tl.int64) * HEAD_DIM
    half = tl.arange(0, HALF_BLOCK)[None, :]
    gain, gain_2 = _load_pairs(query_gain, HEADS, HEADS, HEAD_DIM, INTERLEAVED, HEAD_BLOCK, HALF_BLOCK)
    if key is not None:
        key_1, key_2 = _load_pairs(key_gain, HEADS, HEADS, HEAD_DIM, INTERLEAVED, HEAD_BLOCK, HALF_BLOCK)

    for step in range(TOKENS):
        token = start + step
        # Past the last token there are no heads to read or to write.
        limit = tl.where(token < length, HEADS, 0)
        row = packed + (batch * length + token) * (PARTS * width)
        place = (batch * HEADS * length + token) * HEAD_DIM
        if rope_cos is not None:
            known = (half < HEAD_DIM // 2) & (half < limit * HEAD_DIM)
            cos = tl.load(rope_cos + token * (HEAD_DIM // 2) + half, mask=known, other=0.0)
            sin = tl.load(rope_sin + token * (HEAD_DIM // 2) + half, mask=known, other=0.0)
        for part in tl.static_range(0, 1 if key is None else 2):
            first, second = _load_pairs(row + part * width, limit, HEADS, HEAD_DIM, INTERLEAVED, HEAD_BLOCK, HALF_BLOCK)
            squares = tl.sum(tl.sum(first * first + second * second, axis=1), axis=0)
            factor = 1 / tl.sqrt(squares / width + EPS)
            if part == 0:
                first, second = first * factor * gain, second * factor * gain_2
            else:
                first, second = first * factor * key_1, second * factor * key_2
            if rope_cos is not None:
                first, second = first * cos - second * sin, second * cos + first * sin
            output = query if part == 0 else key
            written, stride = place, head_stride
            if part == 1 and key_capacity is not None:
                stride = key_capacity.to(tl.int64) * HEAD_DIM
                written = batch * HEADS * stride + (key_start + token) * HEAD_DIM
            _store_pairs(output + written, stride, limit, first, second, HEAD_DIM, INTERLEAVED, HEAD_BLOCK, HALF_BLOCK)


QK_NORM_ROPE = Kernel("qk_norm_rope", _qk_norm_rope_kernel, ("cdiv(length, TOKENS)", "batch"))


def qk_norm_rope(
    packed: Tensor,
    query_gain: Tensor,
    key_gain: Tensor,
    rope_cos: Tensor,
    rope_sin: Tensor,
    *,
    heads: int,
    pairs: str,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor, Tensor]:
    """query, key, value (B, heads, L, d) from ``packed`` (B, L, 3 * heads * d) of any float type.

    Query and key are dense, normalised and rotated; the value is a view of ``packed``. ``query_gain``, ``key_gain``
    (heads * d,) float32, in the order of the packed features; ``rope_cos``, ``rope_sin`` (L, d/2) float32; ``pairs``
    "interleaved" or "halves". Raises EngineError, naming the argument, for whatever does not fit.
    """
    check_dtype("key_gain", key_gain, (torch.float32,))  # without one the plan would be that of a query alone
    plan = plan_qk_norm_rope(packed, query_gain, key_gain, rope_cos, rope_sin, heads=heads, pairs=pairs, eps=eps)
    plan.run()
    return plan.tensors["query"], plan.tensors["key"], packed_value(packed, heads)


def qk_norm_rope_into(
    packed: Tensor,
    query_gain: Tensor,
    key_gain: Tensor,
    rope_cos: Tensor,
    rope_sin: Tensor,
    keys: Tensor,
    start: int,
    *,
    heads: int,
    pairs: str,
    eps: float = 1e-6,
) -> Tensor:
    """As ``qk_norm_rope``, the key written into ``keys`` (B, heads, capacity, d) from token ``start`` on; the query."""
    check_dtype("key_gain", key_gain, (torch.float32,))
    plan = plan_qk_norm_rope(
        packed, query_gain, key_gain, rope_cos, rope_sin, heads=heads, pairs=pairs, eps=eps, cache=(keys, start)
    )
    plan.run()
    return plan.tensors["query"]


def packed_value(packed: Tensor, heads: int) -> Tensor:
    """The value (B, heads, L, d) of a packed projection (B, L, 3 * heads * d): a view of it."""
    return packed.unflatten(-1, (3, heads, -1))[:, :, 2].transpose(1, 2)


def query_norm(packed: Tensor, query_gain: Tensor, *, heads: int, eps: float = 1e-6) -> Tensor:
    """The query of cross-attention: ``packed`` (B, L, heads * d) -> (B, heads, L, d), normalised, not rotated."""
    plan = plan_qk_norm_rope(packed, query_gain, heads=heads, eps=eps)
    plan.run()
    return plan.tensors["query"]


def plan_qk_norm_rope(
    packed: Tensor,
    query_gain: Tensor,
    key_gain: Tensor | None = None,
    rope_cos: Tensor | None = None,
    rope_sin: Tensor | None = None,
    *,
    heads: int,
    pairs: str = "halves",
    eps: float = 1e-6,
    cache: tuple[Tensor, int] | None = None,
    target: int | None = None,
) -> Launch:
    """The launch of ``qk_norm_rope`` or, without ``key_gain`` and angles, of ``query_norm``; outputs allocated, but for
    the key where ``cache`` says into what, and from which token on, it goes."""
    check_choice("pairs", pairs, PAIRS)
    check_whole("heads", heads, 1, MAXIMUM_WIDTH)
    check_number("eps", eps, least=0)
    parts = 1 if key_gain is None else 3
    check_tensor("packed", packed, ("B", "L", f"{parts} * heads * d"), FLOATS)
    batch, length, features = packed.shape
    width = features // parts
    if not features or features % parts or width % heads:
        raise EngineError(f"packed has {features} features, heads is {heads}; accepted: {parts} * heads * d")
    if width > MAXIMUM_WIDTH:
        raise EngineError(
            f"packed has width {width} (heads * d, of {features} features); accepted: 1 to {MAXIMUM_WIDTH}"
        )
    head_dim = width // heads
    if head_dim % 2:
        raise EngineError(f"the head size is {head_dim}, from packed and heads; accepted: even ones")
    check_tensor("query_gain", query_gain, (width,), (torch.float32,))
    if key_gain is not None:
        check_tensor("key_gain", key_gain, (width,), (torch.float32,))
    for name, angles in (("rope_cos", rope_cos), ("rope_sin", rope_sin)):
        if (angles is None) != (key_gain is None):
            raise EngineError(f"{name} is {angles}; key_gain and both tables go together")
        if angles is not None:
            check_tensor(name, angles, (length, head_dim // 2), (torch.float32,))
    head_block, half_block = power_of_two(heads), power_of_two(head_dim // 2)
    config = configuration(target_of(packed) if target is None else target, 2 * head_block * half_block, length)
    shape = (batch, heads, length, head_dim)
    key: Tensor | None = None
    if cache is not None:
        key, start = cache
        check_tensor("keys", key, (batch, heads, "capacity", head_dim), (packed.dtype,))
        check_whole("start", start, 0, key.shape[2] - length)
        check_index("the capacity of keys", key.shape[2])
    elif key_gain is not None:
        key = launching.allocate(shape, packed.dtype, packed.device)
    return Launch(
        QK_NORM_ROPE,
        {
            "packed": packed,
            "query_gain": query_gain,
            "key_gain": key_gain,
            "rope_cos": rope_cos,
            "rope_sin": rope_sin,
            "query": launching.allocate(shape, packed.dtype, packed.device),
            "key": key,
            "length": length,
            "key_start": None if cache is None else cache[1],
            "key_capacity": None if cache is None else cache[0].shape[2],
        },
        {
            "PARTS": parts,
            "HEADS": heads,
            "HEAD_DIM": head_dim,
            "EPS": float(eps),
            "INTERLEAVED": pairs == "interleaved",
            "TOKENS": config.tokens,
            "HEAD_BLOCK": head_block,
            "HALF_BLOCK": half_block,
        },
        extents={"batch": batch},
        warps=config.warps,
    )
