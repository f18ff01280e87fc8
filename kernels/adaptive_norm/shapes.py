"""The launches of the joins that matter: every row of the table in ``triton``, at every video shape."""

from __future__ import annotations

import torch

from anyflow_rt.kernels.adaptive_norm.triton import plan_adaptive_norm
from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation
from anyflow_rt.kernels.video_shapes import VIDEO_SHAPES, Case, VideoShape, described


def cases(dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """Every case, residual and activations in ``dtype``."""
    return [case for shape in VIDEO_SHAPES for case in shape_cases(shape, dtype)]


def shape_cases(shape: VideoShape, dtype: torch.dtype) -> list[Case]:
    """Every join of ``shape``, residual and activations in ``dtype``."""
    x = described(1, shape.frames, shape.tokens, shape.width, dtype=dtype)
    block = FrameVectors(described(1, shape.frames, 6, shape.width), described(6, shape.width))
    head = FrameVectors(described(1, shape.frames, 1, shape.width), described(2, shape.width))
    affine = Affine(described(shape.width), described(shape.width))
    joins = {
        "first norm1": {"residual": x, "norm": Modulation(block, 0, 1)},
        "after self-attention": {"residual": x, "branch": x, "gate": Gate(block, 2), "norm": affine},
        "after cross-attention": {"residual": x, "branch": x, "norm": Modulation(block, 3, 4)},
        "after the FFN": {"residual": x, "branch": x, "gate": Gate(block, 5), "norm": Modulation(block, 0, 1)},
        "after the last FFN": {"residual": x, "branch": x, "gate": Gate(block, 5), "norm": Modulation(head, 0, 1)},
    }
    return [Case(f"{shape.name} {name}", plan_adaptive_norm, arguments) for name, arguments in joins.items()]
