"""The launches that matter: to the video itself, to a prompt, of a causal chunk over its past, with 8-bit scores."""

from __future__ import annotations

from typing import Any

import torch

from anyflow_rt.kernels.attention.checks import Past
from anyflow_rt.kernels.attention.int8 import plan_attention_int8
from anyflow_rt.kernels.attention.triton import plan_attention
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.video_shapes import (
    CAUSAL_CHUNK_FRAMES,
    SMALL,
    VIDEO_SHAPES,
    Case,
    VideoShape,
    described,
)

CACHED_FRAMES = 9
"""At full resolution they are about as many tokens as the last chunk of 81 frames sees: two chunks, and five compressed
ones, are 9.25 frames."""

OTHER_HEADS = (64, 80, 96)
"""Head sizes that no video shape has, compiled at 12 heads and 32,760 tokens: 80 and 96 are two blocks of features."""

OTHER_INT8_HEADS = (80, 96)
"""The same with 8-bit scores."""


def cases(dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """Every case, in ``dtype``."""
    shaped = [case for shape in VIDEO_SHAPES for case in shape_cases(shape, dtype)]
    others = [head_case(head_dim, dtype) for head_dim in OTHER_HEADS]
    rounded = [head_case(head_dim, dtype) for head_dim in OTHER_INT8_HEADS]
    return shaped + others + [Case(f"int8 {case.name}", _int8_attention, case.arguments) for case in rounded]


def shape_cases(shape: VideoShape, dtype: torch.dtype) -> list[Case]:
    """Those of ``shape``, in ``dtype``."""

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
    seen = tokens(CACHED_FRAMES * shape.tokens)
    past = Past(seen, tokens(CACHED_FRAMES * shape.tokens), described(2, dtype=torch.int32))
    own_value = described(1, chunk, 3, shape.heads, shape.head_dim, dtype=dtype)[:, :, 2].transpose(1, 2)
    cached = {"query": tokens(chunk), "key": tokens(chunk), "value": own_value, "past": past}
    return [
        Case(f"{shape.name} self-attention", plan_attention, own),
        Case(f"{shape.name} cross-attention", plan_attention, cross),
        Case(f"{shape.name} chunk-causal", plan_attention, causal),
        Case(f"{shape.name} over a cache", plan_attention, cached),
        Case(f"{shape.name} int8 keys", _int8_keys, own),
        Case(f"{shape.name} int8 self-attention", _int8_attention, own),
    ]


def head_case(head_dim: int, dtype: torch.dtype = torch.bfloat16) -> Case:
    """Self-attention at the length of the 1.3B shape, its heads of another size."""
    tokens = described(1, SMALL.heads, SMALL.length, head_dim, dtype=dtype)
    return Case(f"heads of {head_dim}", plan_attention, {"query": tokens, "key": tokens, "value": tokens})


def _int8_keys(**arguments: Any) -> Launch:
    return plan_attention_int8(**arguments)[1]


def _int8_attention(**arguments: Any) -> Launch:
    """The last of its launches; on tensors with storage the others have run."""
    *before, last = plan_attention_int8(**arguments)
    for launch in before if arguments["query"].device.type != "meta" else ():
        launch.run()
    return last
