"""The launches of the flow-map update that matter: the end of a jump, plain, guided and cast, at every video shape."""

from __future__ import annotations

import torch

from anyflow_rt.kernels.flow_map_update.triton import plan_flow_map_update
from anyflow_rt.kernels.video_shapes import VIDEO_SHAPES, Case, VideoShape, described


def cases(dtype: torch.dtype = torch.bfloat16) -> list[Case]:
    """Every case, its tokens in ``dtype``."""
    return [case for shape in VIDEO_SHAPES for case in shape_cases(shape, dtype)]


def shape_cases(shape: VideoShape, dtype: torch.dtype) -> list[Case]:
    """Those of ``shape``, tokens in ``dtype``."""
    tokens = described(1, shape.length, shape.patch**2 * shape.channels, dtype=dtype)
    plain = {"tokens": tokens, "state": described(*shape.state), "interval": described(1, shape.frames)}
    guided = {**plain, "unconditional": tokens, "guidance_scale": described(1)}
    return [
        Case(f"{shape.name} plain", plan_flow_map_update, plain),
        Case(f"{shape.name} guided", plan_flow_map_update, guided),
        Case(f"{shape.name} cast", plan_flow_map_update, {**plain, "cast": dtype}),
    ]
