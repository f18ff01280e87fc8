"""The flow-map update in plain PyTorch, float32: what the kernel is held to."""

from __future__ import annotations

import torch
from torch import Tensor


def flow_map_update_reference(
    tokens: Tensor,
    state: Tensor,
    interval: Tensor,
    unconditional: Tensor | None = None,
    guidance_scale: Tensor | None = None,
) -> Tensor:
    """z_r = z_t - interval * u; u unpatchified from ``tokens``; frames whose interval is 0 are copied.

    With ``unconditional`` tokens u_0 and a scale g per video, u = u_0 + g (tokens - u_0). Shapes are those of
    ``flow_map_update``.
    """
    batch, frames, channels, height, width = state.shape
    patch = round((tokens.shape[-1] / channels) ** 0.5)
    velocity = tokens.float()
    if unconditional is not None and guidance_scale is not None:
        base = unconditional.float()
        velocity = base + guidance_scale[:, None, None] * (velocity - base)
    velocity = velocity.reshape(batch, frames, height // patch, width // patch, patch, patch, channels)
    velocity = velocity.permute(0, 1, 6, 2, 4, 3, 5).reshape(state.shape)
    step = interval[:, :, None, None, None]
    return torch.where(step == 0, state, state - step * velocity)
