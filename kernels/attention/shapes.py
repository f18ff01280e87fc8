"""The launches that matter: self-attention, cross-attention to a prompt, and a causal chunk over its cached prefix."""

from __future__ import annotations

import torch

from anyflow_rt.kernels.attention.triton import plan_attention
from anyflow_rt.kernels.video_shapes import VIDEO_SHAPES, Case, VideoShape, described

CAUSAL_CHUNK_FRAMES = 3


def cases(dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """Every case, in ``dtype``."""
    return [case for shape in VIDEO_SHAPES for case in _cases(shape, dtype)]


def _cases(shape: VideoShape, dtype: torch.dtype) -> list[Case]:
    def tokens(length: int) -> torch.Tensor:
        return described(1, shape.heads, length, shape.head_dim, dtype=dtype)

    # The value stays in the packed projection.
    packed = described(1, shape.length, 3, shape.heads, shape.head_dim, dtype=dtype)
    value = packed[:, :, 2].transpose(1, 2)
    own = {"query": tokens(shape.length), "key": tokens(shape.length), "value": value}
    text = tokens(shape.text)
    cross = {"query": own["query"], "key": text, "value": text, "key_bias": described(1, shape.text)}
    chunk = CAUSAL_CHUNK_FRAMES * shape.tokens
    causal = {"query": tokens(chunk), "key": tokens(3 * chunk), "value": tokens(3 * chunk), "chunks": (chunk,)}
    return [
        Case(f"{shape.name} self-attention", plan_attention, own),
        Case(f"{shape.name} cross-attention", plan_attention, cross),
        Case(f"{shape.name} chunk-causal", plan_attention, causal),
    ]
