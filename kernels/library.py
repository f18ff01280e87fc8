"""The ops as PyTorch operators, ``torch.ops.anyflow.*``: for torch.compile, export and whatever else traces a model.

    | operator           | op              | gives                                                       |
    | flow_map_update    | flow_map_update | z_r                                                         |
    | adaptive_norm      | adaptive_norm   | y: a norm without a branch before it                        |
    | join               | adaptive_norm   | x': residual and branch, not normalised                     |
    | join_norm          | adaptive_norm   | x' and y                                                    |
    | qk_norm_rope       | qk_norm_rope    | query, key; the value stays in ``packed``: ``packed_value`` |
    | query_norm         | qk_norm_rope    | query                                                       |
    | attention          | attention       | (B, Lq, heads * d)                                          |
    | cached_attention   | attention       | the same, over a cache and the chunk's own keys             |

Each allocates what it gives and declares that it changes none of its arguments. Norms and gates are given by their
parts, because a schema knows tensors and numbers only: ``modulation`` and ``table`` with the rows to take, or ``gain``
and ``bias``. Shapes, types and errors are those of the ops. No gradients: this is inference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.adaptive_norm.triton import adaptive_norm as run_adaptive_norm
from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation
from anyflow_rt.kernels.attention.checks import Past
from anyflow_rt.kernels.attention.triton import attention as run_attention
from anyflow_rt.kernels.flow_map_update.triton import flow_map_update as run_flow_map_update
from anyflow_rt.kernels.qk_norm_rope.triton import qk_norm_rope as run_qk_norm_rope
from anyflow_rt.kernels.qk_norm_rope.triton import query_norm as run_query_norm

NAMESPACE = "anyflow"

OPERATORS: dict[str, Any] = {}
"""Name -> what ``torch.ops.anyflow`` has by it."""


def _operator(described: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the function under its name, with its annotations for a schema. ``described`` gives outputs by shape and
    type alone.

    While launches are recorded, the function itself stands in for that: it launches nothing then.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__
        # Sizes are compiled into kernels: a number, not a symbol that stands for one.
        schema = torch.library.infer_schema(function, mutates_args=()).replace("SymInt", "int")
        operator = torch.library.custom_op(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema)

        @operator.register_fake
        def fake(*arguments: Any, **named: Any) -> Any:
            return (function if launching.is_recording() else described)(*arguments, **named)

        OPERATORS[name] = getattr(getattr(torch.ops, NAMESPACE), name)
        return function

    return register


@_operator(
    lambda tokens, state, *rest, **named: torch.empty_like(state, memory_format=torch.contiguous_format),
)
def flow_map_update(
    tokens: Tensor,
    state: Tensor,
    interval: Tensor,
    unconditional: Tensor | None = None,
    guidance_scale: Tensor | None = None,
) -> Tensor:
    """z_r (B, F, C, H, W) float32."""
    return run_flow_map_update(tokens, state, interval, unconditional=unconditional, guidance_scale=guidance_scale)[0]


@_operator(lambda residual, *rest, **named: torch.empty_like(residual))
def adaptive_norm(
    residual: Tensor,
    modulation: Tensor | None = None,
    table: Tensor | None = None,
    shift: int = 0,
    scale: int = 0,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """y (B, F, N, D) of the residual's type."""
    norm = _norm(modulation, table, shift, scale, gain, bias)
    normalised = run_adaptive_norm(residual, norm=norm, eps=eps)[1]
    assert normalised is not None
    return normalised


@_operator(lambda residual, *rest, **named: torch.empty_like(residual))
def join(
    residual: Tensor,
    branch: Tensor,
    gate_modulation: Tensor | None = None,
    gate_table: Tensor | None = None,
    gate_row: int = 0,
) -> Tensor:
    """x' (B, F, N, D)."""
    return run_adaptive_norm(residual, branch, gate=_gate(gate_modulation, gate_table, gate_row))[0]


@_operator(
    lambda residual, branch, *rest, **named: (torch.empty_like(residual), torch.empty_like(branch)),
)
def join_norm(
    residual: Tensor,
    branch: Tensor,
    gate_modulation: Tensor | None = None,
    gate_table: Tensor | None = None,
    gate_row: int = 0,
    modulation: Tensor | None = None,
    table: Tensor | None = None,
    shift: int = 0,
    scale: int = 0,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """x' of the residual's type, y of the branch's, each (B, F, N, D)."""
    gate = _gate(gate_modulation, gate_table, gate_row)
    norm = _norm(modulation, table, shift, scale, gain, bias)
    joined, normalised = run_adaptive_norm(residual, branch, gate=gate, norm=norm, eps=eps)
    assert normalised is not None
    return joined, normalised


def _heads_like(packed: Tensor, parts: int, heads: int) -> Tensor:
    batch, length, features = packed.shape
    return packed.new_empty((batch, heads, length, features // (parts * heads)))


@_operator(
    lambda packed, query_gain, key_gain, rope_cos, rope_sin, heads, pairs, eps=1e-6: (
        _heads_like(packed, 3, heads),
        _heads_like(packed, 3, heads),
    ),
)
def qk_norm_rope(
    packed: Tensor,
    query_gain: Tensor,
    key_gain: Tensor,
    rope_cos: Tensor,
    rope_sin: Tensor,
    heads: int,
    pairs: str,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Query and key (B, heads, L, d)."""
    return run_qk_norm_rope(packed, query_gain, key_gain, rope_cos, rope_sin, heads=heads, pairs=pairs, eps=eps)[:2]


@_operator(
    lambda packed, query_gain, heads, eps=1e-6: _heads_like(packed, 1, heads),
)
def query_norm(packed: Tensor, query_gain: Tensor, heads: int, eps: float = 1e-6) -> Tensor:
    """Query (B, heads, L, d)."""
    return run_query_norm(packed, query_gain, heads=heads, eps=eps)


@_operator(
    lambda query, *rest, **named: query.new_empty((query.shape[0], query.shape[2], query.shape[1] * query.shape[3])),
)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    chunks: list[int] | None = None,
    scale: float | None = None,
) -> Tensor:
    """(B, Lq, heads * d)."""
    return run_attention(query, key, value, key_bias, chunks=chunks, scale=scale)


@_operator(
    lambda query, *rest, **named: query.new_empty((query.shape[0], query.shape[2], query.shape[1] * query.shape[3])),
)
def cached_attention(
    query: Tensor, key: Tensor, value: Tensor, past_key: Tensor, past_value: Tensor, past_counts: Tensor
) -> Tensor:
    """(B, Lq, heads * d)."""
    return run_attention(query, key, value, past=Past(past_key, past_value, past_counts))


def _gate(modulation: Tensor | None, table: Tensor | None, row: int) -> Gate | None:
    vectors = _vectors("gate_modulation", modulation, "gate_table", table)
    return None if vectors is None else Gate(vectors, row)


def _norm(
    modulation: Tensor | None, table: Tensor | None, shift: int, scale: int, gain: Tensor | None, bias: Tensor | None
) -> Modulation | Affine:
    vectors = _vectors("modulation", modulation, "table", table)
    if (vectors is None) == (gain is None) or (gain is None) != (bias is None):
        given = {"modulation and table": vectors, "gain": gain, "bias": bias}
        names = ", ".join(name for name, value in given.items() if value is not None) or "nothing"
        raise EngineError(f"of the norm {names} is given; accepted: modulation and table, or gain and bias")
    if vectors is not None:
        return Modulation(vectors, shift, scale)
    assert gain is not None and bias is not None
    return Affine(gain, bias)


def _vectors(name: str, modulation: Tensor | None, table_name: str, table: Tensor | None) -> FrameVectors | None:
    if (modulation is None) != (table is None):
        given, missing = (name, table_name) if table is None else (table_name, name)
        raise EngineError(f"{given} is given and {missing} is None; they go together")
    return None if modulation is None or table is None else FrameVectors(modulation, table)
