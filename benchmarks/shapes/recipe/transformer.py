"""The flow-map transformer at the size of this world, and a forward pass of it that trains quickly.

`velocity` computes what ``AnyFlowTransformer3DModel.forward`` computes, from the same parameters, when all frames of a
clip share one time: one modulation a clip instead of one a token, real rotary embedding instead of complex doubles,
the prompt's padding collapsed into one key (see `text.encode_prompts`), and attention and patches written as matrix
products, whose gradients are several times faster on a CPU than those of the fused operators.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import AnyFlowFARTransformer3DModel, AnyFlowTransformer3DModel

TRANSFORMER_CONFIG = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 5,
    "attention_head_dim": 32,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 96,
    "freq_dim": 256,
    "ffn_dim": 640,
    "num_layers": 6,
    "cross_attn_norm": True,
    "rope_max_seq_len": 256,
    "gate_value": 0.25,
    "deltatime_type": "r",
}
TIME_UNITS = 1000.0
"""The network takes times in these units; everything here has t = 1 for noise and t = 0 for data."""
TIME_SHIFT = 3.0


def new_transformer() -> AnyFlowTransformer3DModel:
    """A transformer with fresh weights whose blocks begin as the identity and whose output begins at zero."""
    import torch
    from diffusers import AnyFlowTransformer3DModel

    transformer = AnyFlowTransformer3DModel(**TRANSFORMER_CONFIG)
    with torch.no_grad():
        for parameter in transformer.condition_embedder.time_proj.parameters():
            parameter.zero_()
        transformer.proj_out.weight.zero_()
        transformer.proj_out.bias.zero_()
    return transformer


def shifted(time: torch.Tensor) -> torch.Tensor:
    """The scheduler's time shift: 3 s / (1 + 2 s)."""
    return TIME_SHIFT * time / (1 + (TIME_SHIFT - 1) * time)


def rotary_table(transformer: AnyFlowTransformer3DModel, frames: int, height: int, width: int) -> torch.Tensor:
    """(2, tokens, head_dim / 2): cosines and sines for a latent grid in patches."""
    import torch

    layout = {"total_frames": frames, "full_frame_shape": (height, width), "full_token_per_frame": height * width}
    angles = transformer.rope(layout_cfg=layout, device=torch.device("cpu"))["query"][0, 0]
    return torch.stack([angles.real, angles.imag]).float()


def _rotate(heads: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
    """Rotate interleaved pairs of (B, tokens, heads, head_dim)."""
    import torch

    cosine, sine = rotary[:, None, :, None, :].to(heads.dtype)
    even, odd = heads.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1).flatten(-2)


def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax attention of (B, tokens, heads, head_dim), with a float32 softmax: (B, tokens, heads x head_dim)."""
    scale = query.shape[-1] ** -0.5
    scores = ((query * scale).transpose(1, 2) @ key.permute(0, 2, 3, 1).to(query.dtype)).float()
    if bias is not None:
        scores = scores + bias
    return (scores.softmax(-1).to(value.dtype) @ value.transpose(1, 2)).transpose(1, 2).flatten(2)


def velocity(
    transformer: AnyFlowTransformer3DModel,
    latents: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    prompt: torch.Tensor,
    pad_bias: torch.Tensor,
    rotary: torch.Tensor,
) -> torch.Tensor:
    """Mean velocity from time ``start`` to time ``end``, both (B,) in [0, 1]; latents and result (B, F, C, H, W).

    ``prompt`` (B, S, E) and ``pad_bias`` (B, 1) come from `text.encode_prompts`, ``rotary`` from `rotary_table`.
    """
    height, width = latents.shape[-2:]
    hidden = tokens_of(transformer.patch_embedding, latents)
    embedding = time_embedding(transformer, start, end)[:, None]
    hidden = run_blocks(transformer, hidden, embedding, prompt, pad_bias, rotary)
    return frames_of(transformer, hidden, embedding, height, width)


def tokens_of(embed: torch.nn.Conv3d, latents: torch.Tensor) -> torch.Tensor:
    """(B, F, C, H, W) -> (B, tokens, width), by a convolution whose patches do not overlap."""
    from torch.nn import functional

    batch, frames, channels, height, width = latents.shape
    side = embed.kernel_size[-1]
    patches = latents.reshape(batch, frames, channels, height // side, side, width // side, side).permute(
        0, 1, 3, 5, 2, 4, 6
    )
    return functional.linear(patches.flatten(4).flatten(1, 3), embed.weight.flatten(1), embed.bias)


def time_embedding(
    transformer: AnyFlowTransformer3DModel | AnyFlowFARTransformer3DModel, start: torch.Tensor, end: torch.Tensor
) -> torch.Tensor:
    """(B, width) of jumps from ``start`` to ``end``, both (B,)."""
    conditioner = transformer.condition_embedder
    gate = conditioner.delta_emb_gate
    embedding = (1 - gate) * conditioner.time_embedder(conditioner.timesteps_proj(start * TIME_UNITS))
    return embedding + gate * conditioner.delta_embedder(conditioner.timesteps_proj(end * TIME_UNITS))


def run_blocks(
    transformer: AnyFlowTransformer3DModel | AnyFlowFARTransformer3DModel,
    hidden: torch.Tensor,
    embedding: torch.Tensor,
    prompt: torch.Tensor,
    pad_bias: torch.Tensor,
    rotary: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """All blocks on tokens (B, T, width) whose times are ``embedding`` (B, 1 or T, width).

    mask (T, T + Z): added to self-attention's scores, over the tokens and Z keys and values of zeros behind them.
    """
    from torch.nn import functional

    conditioner, heads = transformer.condition_embedder, transformer.config.num_attention_heads
    modulation = conditioner.time_proj(functional.silu(embedding)).float().unflatten(-1, (6, -1))
    context = conditioner.text_embedder(functional.pad(prompt, (0, 0, 0, 1)))
    bias = functional.pad(pad_bias, (prompt.shape[1], 0))[:, None, None, :]
    zeros = 0 if mask is None else mask.shape[1] - mask.shape[0]
    for block in transformer.blocks:
        shift1, scale1, gate1, shift2, scale2, gate2 = (block.scale_shift_table[None] + modulation).unbind(2)
        tokens = normalized(transformer, hidden) * (1 + scale1) + shift1
        attention = block.attn1
        query = _rotate(attention.norm_q(attention.to_q(tokens)).unflatten(-1, (heads, -1)), rotary)
        key = _rotate(attention.norm_k(attention.to_k(tokens)).unflatten(-1, (heads, -1)), rotary)
        value = attention.to_v(tokens).unflatten(-1, (heads, -1))
        if zeros:
            key, value = (functional.pad(each, (0, 0, 0, 0, 0, zeros)) for each in (key, value))
        hidden = hidden + attention.to_out[0](_attention(query, key, value, mask)) * gate1

        attention = block.attn2
        query = attention.norm_q(attention.to_q(block.norm2(hidden))).unflatten(-1, (heads, -1))
        key = attention.norm_k(attention.to_k(context)).unflatten(-1, (heads, -1))
        value = attention.to_v(context).unflatten(-1, (heads, -1))
        hidden = hidden + attention.to_out[0](_attention(query, key, value, bias))

        hidden = hidden + block.ffn(normalized(transformer, hidden) * (1 + scale2) + shift2) * gate2
    return hidden


def normalized(
    transformer: AnyFlowTransformer3DModel | AnyFlowFARTransformer3DModel, tokens: torch.Tensor
) -> torch.Tensor:
    """LayerNorm without gain or bias."""
    from torch.nn import functional

    return functional.layer_norm(tokens, tokens.shape[-1:], eps=transformer.config.eps)


def frames_of(
    transformer: AnyFlowTransformer3DModel | AnyFlowFARTransformer3DModel,
    hidden: torch.Tensor,
    embedding: torch.Tensor,
    height: int,
    width: int,
) -> torch.Tensor:
    """The head: tokens (B, T, width) and their times (B, 1 or T, width) -> velocity (B, F, C, height, width)."""
    import torch

    shift, scale = (transformer.scale_shift_table + embedding.float()[:, :, None]).unbind(2)
    output = transformer.proj_out(normalized(transformer, hidden) * (1 + scale) + shift).float()
    output = output.reshape(len(hidden), -1, height // 2, width // 2, 2, 2, output.shape[-1] // 4)
    output = torch.einsum("bfhwpqc->bfchpwq", output)
    return output.reshape(*output.shape[:3], height, width)


@functools.cache
def compiled_velocity() -> Callable[..., torch.Tensor]:
    """`velocity` as the training stages call it."""
    return compiled(velocity)


def compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A function compiled for every shape it meets, which makes a training step 1.45 times as fast and the first of
    each kind take minutes. ``ANYFLOW_RT_TRAIN_COMPILE=0`` leaves it as it is, for machines without a C++ compiler."""
    import torch

    if os.environ.get("ANYFLOW_RT_TRAIN_COMPILE") == "0":
        return function
    # One variant for each of: with gradients and without, bfloat16 and float32, batch sizes of the stage.
    torch._dynamo.config.recompile_limit = 32
    return torch.compile(function, dynamic=False)
