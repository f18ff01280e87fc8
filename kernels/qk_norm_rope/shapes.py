"""The launches that matter: self-attention in either order of pairs, keys into a cache, cross-attention's query."""

from __future__ import annotations

import torch

from anyflow_rt.kernels.qk_norm_rope.triton import PAIRS, plan_qk_norm_rope
from anyflow_rt.kernels.video_shapes import CAUSAL_CHUNK_FRAMES, VIDEO_SHAPES, Case, VideoShape, described


def cases(dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """Every case, the packed projection in ``dtype``."""
    return [case for shape in VIDEO_SHAPES for case in shape_cases(shape, dtype)]


def shape_cases(shape: VideoShape, dtype: torch.dtype) -> list[Case]:
    """Those of ``shape``, the packed projection in ``dtype``."""
    gain, angles = described(shape.width), described(shape.length, shape.head_dim // 2)
    own = {
        "packed": described(1, shape.length, 3 * shape.width, dtype=dtype),
        "query_gain": gain,
        "key_gain": gain,
        "rope_cos": angles,
        "rope_sin": angles,
        "heads": shape.heads,
    }
    cross = {
        "packed": described(1, shape.length, shape.width, dtype=dtype),
        "query_gain": gain,
        "heads": shape.heads,
    }
    rotated = [Case(f"{shape.name} {pairs}", plan_qk_norm_rope, {**own, "pairs": pairs}) for pairs in PAIRS]
    chunk = CAUSAL_CHUNK_FRAMES * shape.tokens
    angles = described(chunk, shape.head_dim // 2)
    kept = described(1, shape.heads, shape.length, shape.head_dim, dtype=dtype)
    written = own | {
        "packed": described(1, chunk, 3 * shape.width, dtype=dtype),
        "rope_cos": angles,
        "rope_sin": angles,
    }
    rotated.append(
        Case(f"{shape.name} into a cache", plan_qk_norm_rope, {**written, "cache": (kept, shape.length - chunk)})
    )
    return [*rotated, Case(f"{shape.name} query alone", plan_qk_norm_rope, cross)]
