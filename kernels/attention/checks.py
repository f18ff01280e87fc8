"""What attention asks of its heads, of its chunks and of its past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.checks import (
    check_address,
    check_dtype,
    check_index,
    check_same_device,
    check_shape,
    check_tensor,
)


@dataclass(frozen=True)
class Past:
    """Keys and values that all queries attend to before the others.

    key, value (B, heads, capacity, d), of the query's type: a cache, of which the first tokens count. counts (2,) int32
    on the same device: how many (no more than there are), and how many zero keys, of logit 0 and value 0, beside them.
    """

    key: Tensor
    value: Tensor
    counts: Tensor


def check_heads(name: str, tensor: Tensor, shape: Sequence[int | str], dtypes: Sequence[torch.dtype]) -> None:
    """Raise EngineError unless ``tensor`` fits and a head's features are neighbours."""
    check_dtype(name, tensor, dtypes)
    check_shape(name, tensor, shape)
    check_address(name, tensor)
    if tensor.shape[3] > 1 and tensor.stride(3) != 1:
        raise EngineError(f"{name} has strides {tuple(tensor.stride())}; accepted: 1 along its last axis")


def check_reach(name: str, stride: int, rows: int) -> None:
    """Raise EngineError where the ``rows`` of a block, ``stride`` elements apart, lie further apart than indices go."""
    check_index(f"{name}'s row stride {stride} times a block of {rows} rows", stride * rows)


def check_chunks(chunks: Sequence[int], query_length: int, key_length: int) -> None:
    """Raise EngineError unless ``chunks`` are whole numbers whose sum is the queries', and there are keys for these."""
    if not isinstance(chunks, Sequence):
        raise EngineError(f"chunks is {chunks!r}; accepted: a sequence of positive lengths whose sum is Lq")
    if any(not isinstance(chunk, int) or chunk < 1 for chunk in chunks) or sum(chunks) != query_length:
        raise EngineError(f"chunks is {list(chunks)}; accepted: positive lengths whose sum is Lq, {query_length}")
    if key_length < query_length:
        raise EngineError(f"key has {key_length} keys for {query_length} queries in chunks; accepted: at least as many")


def check_past(past: Past, query: Tensor, scales: object) -> None:
    """Raise EngineError unless ``past`` goes with ``query``, whose keys must not be int8."""
    if scales is not None:
        raise EngineError("past and scales are both given; 8-bit scores have no past: leave one of them out")
    batch, heads, _, head_dim = query.shape
    check_tensor("past.key", past.key, (batch, heads, "capacity", head_dim), (query.dtype,))
    check_tensor("past.value", past.value, tuple(past.key.shape), (query.dtype,))
    check_tensor("past.counts", past.counts, (2,), (torch.int32,))
    check_same_device("past.counts", past.counts, "query", query)
