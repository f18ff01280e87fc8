"""Attention in plain PyTorch, float32, with the whole matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from anyflow_rt.kernels.attention.checks import Past


def attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_bias: Tensor | None = None,
    *,
    chunks: Sequence[int] | None = None,
    scale: float | None = None,
    past: Past | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v, (B, Lq, heads * d) float32; shapes, ``chunks`` and ``past`` as ``attention``."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if past is not None:
        key, value = (_with_past(*each, past.counts) for each in ((past.key, key), (past.value, value)))
    scores = scale * query.float() @ key.float().mT
    if key_bias is not None:
        scores[..., -key_bias.shape[1] :] += key_bias[:, None, None, :]
    if chunks is not None:
        first = key.shape[2] - query.shape[2]
        for start, end in zip(_edges(chunks), _edges(chunks)[1:], strict=False):
            scores[:, :, start:end, first + end :] = -torch.inf
    return (scores.softmax(dim=-1) @ value.float()).transpose(1, 2).flatten(2)


def _with_past(cache: Tensor, own: Tensor, counts: Tensor) -> Tensor:
    """The cached tokens that count, the zero keys, and then ``own``."""
    tokens, zeros = counts.tolist()
    return torch.cat([cache[:, :, :tokens], cache.new_zeros(*cache.shape[:2], zeros, cache.shape[3]), own], dim=2)


def _edges(chunks: Sequence[int]) -> list[int]:
    edges = [0]
    for chunk in chunks:
        edges.append(edges[-1] + chunk)
    return edges
