"""Attention whose scores are products of 8-bit integers: twice to four times the rate of bf16 ones. Off by default.

    out = softmax(scale q k^T + bias) v     q, k rounded to int8 (``quantise``), their products exact, the rest as ever

Only the scores are quantised; weights and values stay in the value's type, so half of the products speed up. Error,
measured under the interpreter on normal inputs, 512 keys, heads of 128: 1.1% of the output in the mean square, with
features that are 4 times as large in all keys the same; bf16 attention has 0.2%. Tests allow 2%.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.attention.checks import check_heads
from anyflow_rt.kernels.attention.config import MINIMUM_INT8_DOT, configuration
from anyflow_rt.kernels.attention.quantise import plan_quantise
from anyflow_rt.kernels.attention.triton import MAXIMUM_HEAD_DIM, attention, plan_attention
from anyflow_rt.kernels.checks import FLOATS, check_same_device
from anyflow_rt.kernels.launch import Launch, target_of

ERROR = 0.02
"""Root of the mean square error over that of the output, on normal inputs: what tests and benchmarks allow."""


def attention_int8(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    *,
    chunks: Sequence[int] | None = None,
    scale: float | None = None,
) -> Tensor:
    """As ``attention``, with 8-bit scores; three launches, after the mean of the keys (one pass of PyTorch's).

    Heads of at least 32 features. Raises EngineError, naming the argument, for what does not fit.
    """
    _check(query, key, value)
    if 0 in (key.shape[2], query.numel()):
        return attention(query, key, value, key_bias, chunks=chunks, scale=scale)
    launches = plan_attention_int8(query, key, value, key_bias, chunks=chunks, scale=scale)
    if not launching.is_recording():
        launches[-1].device()  # where the others are, by the names that the caller knows
    for launch in launches:
        launch.run()
    return launches[-1].tensors["output"]


def plan_attention_int8(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    *,
    chunks: Sequence[int] | None = None,
    scale: float | None = None,
    target: int | None = None,
) -> tuple[Launch, Launch, Launch]:
    """The launches of ``attention_int8``: queries, keys, attention."""
    _check(query, key, value)
    number = target_of(query) if target is None else target
    config = configuration(number, query.shape[3], value.element_size())
    mean = key.mean(dim=2, dtype=torch.float32)
    queries = plan_quantise(query, None, config.keys, shared=False, target=number)
    keys = plan_quantise(key, mean, config.keys, shared=True, target=number)
    rounded = plan_attention(
        queries.tensors["values"],
        keys.tensors["values"],
        value,
        key_bias,
        chunks=chunks,
        scale=scale,
        scales=(queries.tensors["scales"], keys.tensors["scales"]),
        target=number,
    )
    return queries, keys, rounded


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    """What is asked here already: the rest is asked of what is made of them."""
    check_heads("query", query, ("B", "heads", "Lq", "d"), FLOATS)
    batch, heads, _, head_dim = query.shape
    if not MINIMUM_INT8_DOT <= head_dim <= MAXIMUM_HEAD_DIM:
        accepted = f"{MINIMUM_INT8_DOT} to {MAXIMUM_HEAD_DIM}"
        raise EngineError(f"query has head size {head_dim}; accepted by 8-bit attention: {accepted}")
    check_heads("key", key, (batch, heads, "Lk", head_dim), (query.dtype,))
    check_heads("value", value, (batch, heads, key.shape[2], head_dim), FLOATS)
    check_same_device("key", key, "query", query)
