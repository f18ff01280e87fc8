"""Normalised, rotated queries and keys in plain PyTorch, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def norm_rope_reference(
    x: Tensor, gain: Tensor, heads: int, eps: float, rope: tuple[Tensor, Tensor] | None, pairs: str
) -> Tensor:
    """RMSNorm of x (B, L, heads * d) over its last axis, then rotary embedding of each head -> (B, heads, L, d).

    ``rope``: cos and sin, each (L, d/2). ``pairs``: a head's element 2i turns with 2i + 1 (``interleaved``), or i with
    i + d/2 (``halves``).
    """
    normalised = F.rms_norm(x.float(), x.shape[-1:], gain, eps)
    split = normalised.unflatten(-1, (heads, -1)).transpose(1, 2)
    if rope is None:
        return split
    cos, sin = rope
    if pairs == "interleaved":
        first, second = split[..., 0::2], split[..., 1::2]
    else:
        first, second = split.chunk(2, dim=-1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.stack(turned, dim=-1).flatten(-2) if pairs == "interleaved" else torch.cat(turned, dim=-1)
