"""The AnyFlow transformer as three inference modules: denoiser, conditioner and time embedder.

Mathematics as in diffusers' ``AnyFlowTransformer3DModel``; what differs is where work is done:

1. Everything that depends on the prompt alone (text projection, cross-attention keys and values of all blocks) is the
   ``Conditioner``, run once a prompt.
2. Everything that depends on (t, r) alone is the ``TimeEmbedder``, run once a jump. Its outputs stay per *frame*; the
   reference expands them to every token.
3. The padded prompt positions are identical keys; two are kept, with biases that weigh as much as all of them did
   (``geometry.pad_bias`` says why two).
4. q, k, v are one projection. Rotary embedding is real, and its pairs are stored as two halves: the permutation is
   applied to the rows of the q and k projections and to their norm gains, which leaves q . k unchanged.
5. The flow-map update z_r = z_t - (t - r) u is the last operation of the ``Denoiser``, in float32.

Weights are taken by the names they have in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyflow_rt.engines.architecture import TransformerConfig
from anyflow_rt.engines.geometry import PAD_KEYS
from anyflow_rt.engines.weights import Weights


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.float(), requires_grad=False)
    layer.bias = nn.Parameter(bias.float(), requires_grad=False)
    return layer


def _read_linear(weights: Weights, name: str) -> nn.Linear:
    return _linear(weights[f"{name}.weight"], weights[f"{name}.bias"])


def _parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.float().contiguous(), requires_grad=False)


def rotary_halves(heads: int, head_dim: int) -> Tensor:
    """Index that moves each head's interleaved pairs (0,1), (2,3), ... into halves (0, 2, ...), (1, 3, ...)."""
    within = torch.cat([torch.arange(0, head_dim, 2), torch.arange(1, head_dim, 2)])
    return (torch.arange(heads)[:, None] * head_dim + within[None, :]).flatten()


class Projection(nn.Module):
    """What self-attention attends with and to: RMSNorm over heads x head_dim on q and k, rotary embedding."""

    def __init__(self, config: TransformerConfig, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.heads, self.eps = config.num_attention_heads, config.eps
        order = rotary_halves(self.heads, config.attention_head_dim)
        matrices = [weights[f"{prefix}.to_{name}.weight"] for name in "qkv"]
        biases = [weights[f"{prefix}.to_{name}.bias"] for name in "qkv"]
        for index in (0, 1):
            matrices[index], biases[index] = matrices[index][order], biases[index][order]
        self.qkv = _linear(torch.cat(matrices), torch.cat(biases))
        self.query_gain = _parameter(weights[f"{prefix}.norm_q.weight"][order])
        self.key_gain = _parameter(weights[f"{prefix}.norm_k.weight"][order])

    def project(self, x: Tensor, rope_cos: Tensor, rope_sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, L, D); rope_cos, rope_sin (L, d/2) -> query, key and value (B, heads, L, d), the first two normed and
        rotated."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query = F.rms_norm(query, query.shape[-1:], self.query_gain, self.eps)
        key = F.rms_norm(key, key.shape[-1:], self.key_gain, self.eps)
        query = rotate(self._split(query), rope_cos, rope_sin)
        key = rotate(self._split(key), rope_cos, rope_sin)
        return query, key, self._split(value)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class SelfAttention(Projection):
    """Attention over all tokens of a video, and those of earlier chunks."""

    def __init__(self, config: TransformerConfig, weights: Weights, prefix: str) -> None:
        super().__init__(config, weights, prefix)
        self.out = _read_linear(weights, f"{prefix}.to_out.0")

    def forward(self, x: Tensor, rope_cos: Tensor, rope_sin: Tensor, past: Past | None = None) -> Tensor:
        """x (B, L, D); rope_cos, rope_sin (L, d/2) -> (B, L, D)."""
        query, key, value = self.project(x, rope_cos, rope_sin)
        if past is not None:
            key, value = past.extend(key, value)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out(attended.transpose(1, 2).flatten(2))


class Past:
    """Self-attention's keys and values of earlier chunks (B, heads, M, d) in one block; ``added``: those of this call.

    Keys are kept as they are after rotation: a token's place in the video never changes.
    """

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self._key, self._value = key, value
        self.added: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Earlier and own keys and values (B, heads, M + L, d)."""
        self.added = key, value
        return torch.cat([self._key, key], dim=2), torch.cat([self._value, value], dim=2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x (B, heads, L, d) stored in halves, by angles given as cos, sin (L, d/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class CrossAttention(nn.Module):
    """Attention to the prompt's keys and values, which the ``Conditioner`` computed."""

    def __init__(self, config: TransformerConfig, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.heads, self.eps = config.num_attention_heads, config.eps
        self.query = _read_linear(weights, f"{prefix}.to_q")
        self.query_gain = _parameter(weights[f"{prefix}.norm_q.weight"])
        self.out = _read_linear(weights, f"{prefix}.to_out.0")

    def forward(self, x: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        """x (B, L, D); key, value (B, heads, S + PAD_KEYS, d); bias (B, 1, L, S + PAD_KEYS) -> (B, L, D)."""
        query = F.rms_norm(self.query(x), x.shape[-1:], self.query_gain, self.eps)
        query = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """One transformer block on tokens grouped by frame, (B, F, N, D)."""

    def __init__(self, config: TransformerConfig, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.eps = config.eps
        self.scale_shift_table = _parameter(weights[f"{prefix}.scale_shift_table"])
        self.self_attention = SelfAttention(config, weights, f"{prefix}.attn1")
        self.cross_attention = CrossAttention(config, weights, f"{prefix}.attn2")
        self.cross_norm = config.cross_attn_norm
        if self.cross_norm:
            self.norm_gain = _parameter(weights[f"{prefix}.norm2.weight"])
            self.norm_bias = _parameter(weights[f"{prefix}.norm2.bias"])
        self.expand = _read_linear(weights, f"{prefix}.ffn.net.0.proj")
        self.contract = _read_linear(weights, f"{prefix}.ffn.net.2")

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        cross: tuple[Tensor, Tensor, Tensor],
        rope: tuple[Tensor, Tensor],
        past: Past | None = None,
    ) -> Tensor:
        """x (B, F, N, D); modulation (B, F, 6, D); cross: key, value, bias; rope: cos, sin -> (B, F, N, D)."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (modulation + self.scale_shift_table[None]).split(1, dim=2)
        tokens = x.shape[2]
        normed = layer_norm(x, self.eps) * (1 + scale) + shift
        attended = self.self_attention(normed.flatten(1, 2), *rope, past)
        x = x + attended.unflatten(1, (-1, tokens)) * gate
        normed = F.layer_norm(x, x.shape[-1:], self.norm_gain, self.norm_bias, self.eps) if self.cross_norm else x
        x = x + self.cross_attention(normed.flatten(1, 2), *cross).unflatten(1, (-1, tokens))
        normed = layer_norm(x, self.eps) * (1 + ffn_scale) + ffn_shift
        return x + self.contract(F.gelu(self.expand(normed), approximate="tanh")) * ffn_gate


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """LayerNorm over the last axis, without gain or bias."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


class BlockKeys(nn.Module):
    """Of a block, what makes the keys and values of its self-attention, which come before all else, and no more."""

    def __init__(self, config: TransformerConfig, weights: Weights, prefix: str) -> None:
        super().__init__()
        self.eps = config.eps
        self.scale_shift_table = _parameter(weights[f"{prefix}.scale_shift_table"])
        self.self_attention = Projection(config, weights, f"{prefix}.attn1")

    def forward(self, x: Tensor, modulation: Tensor, rope: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """x (B, F, N, D), modulation (B, F, 6, D) -> key, value (B, heads, F N, d)."""
        shift, scale, *_ = (modulation + self.scale_shift_table[None]).split(1, dim=2)
        normed = layer_norm(x, self.eps) * (1 + scale) + shift
        _, key, value = self.self_attention.project(normed.flatten(1, 2), *rope)
        return key, value


class Patches(nn.Module):
    """Frames -> patches: ``patch_embedding``, or ``far_patch_embedding`` of a causal checkpoint."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.weight = _parameter(weights[f"{name}.weight"].squeeze(2))
        self.bias = _parameter(weights[f"{name}.bias"])

    def forward(self, frames: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H // p, W // p): what is left beyond whole patches is not seen."""
        return F.conv2d(frames, self.weight, self.bias, stride=self.weight.shape[-1])


class Denoiser(nn.Module):
    """One jump: z_t -> z_r."""

    def __init__(self, config: TransformerConfig, weights: Weights) -> None:
        super().__init__()
        self.patch, self.eps = config.patch_size[1], config.eps
        self.channels = config.out_channels
        self.patches = Patches(weights, "patch_embedding")
        self.blocks = nn.ModuleList(Block(config, weights, f"blocks.{i}") for i in range(config.num_layers))
        self.scale_shift_table = _parameter(weights["scale_shift_table"])
        self.head = _read_linear(weights, "proj_out")

    def forward(
        self,
        latents: Tensor,
        modulation: Tensor,
        head_modulation: Tensor,
        interval: Tensor,
        cross_key: Tensor,
        cross_value: Tensor,
        context_bias: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        pasts: Sequence[Past] | None = None,
    ) -> Tensor:
        """Shapes as in the component table of ``docs/architecture.md``; returns z_r (B, F, C, H, W) float32."""
        batch, frames = latents.shape[:2]
        patches = self.patches(latents.flatten(0, 1))
        height, width = patches.shape[-2:]
        x = patches.flatten(2).transpose(1, 2).unflatten(0, (batch, frames))
        cross = prompt_of_blocks(cross_key, cross_value, context_bias, rope_cos)
        earlier: Sequence[Past | None] = pasts or [None] * len(self.blocks)
        for block, prompt, past in zip(self.blocks, cross, earlier, strict=True):
            x = block(x, modulation, prompt, (rope_cos, rope_sin), past)
        shift, scale = (self.scale_shift_table[None] + head_modulation[:, :, None]).split(1, dim=2)
        velocity = self.head(layer_norm(x, self.eps) * (1 + scale) + shift)
        velocity = velocity.view(batch, frames, height, width, self.patch, self.patch, self.channels)
        velocity = velocity.permute(0, 1, 6, 2, 4, 3, 5).reshape(latents.shape)
        return latents - interval[:, :, None, None, None] * velocity


def prompt_of_blocks(
    cross_key: Tensor, cross_value: Tensor, context_bias: Tensor, rope_cos: Tensor
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Key, value and bias (B, 1, L, S + PAD_KEYS) of each block's cross-attention."""
    # ONNX Runtime's CPU Attention refuses a bias that broadcasts over the queries.
    bias = context_bias[:, None, None, :].expand(-1, 1, rope_cos.shape[0], -1)
    return [(key, value, bias) for key, value in zip(cross_key.unbind(0), cross_value.unbind(0), strict=True)]


class Conditioner(nn.Module):
    """Prompt embeddings -> cross-attention keys and values of every block, with the padding collapsed."""

    def __init__(self, config: TransformerConfig, weights: Weights) -> None:
        super().__init__()
        self.layers, self.heads, self.dim = config.num_layers, config.num_attention_heads, config.inner_dim
        self.eps = config.eps
        self.text_in = _read_linear(weights, "condition_embedder.text_embedder.linear_1")
        self.text_out = _read_linear(weights, "condition_embedder.text_embedder.linear_2")
        names = [f"blocks.{i}.attn2.{which}" for which in ("to_k", "to_v") for i in range(self.layers)]
        self.key_value = _linear(
            torch.cat([weights[f"{name}.weight"] for name in names]),
            torch.cat([weights[f"{name}.bias"] for name in names]),
        )
        gains = [weights[f"blocks.{i}.attn2.norm_k.weight"] for i in range(self.layers)]
        self.key_gain = _parameter(torch.stack(gains)[:, None, None, :])

    def forward(self, prompt_embeds: Tensor, pad_bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """prompt_embeds (B, S, E), pad_bias (B, PAD_KEYS) -> key, value (layers, B, heads, S + PAD_KEYS, d), bias."""
        padded = F.pad(prompt_embeds, (0, 0, 0, PAD_KEYS))
        text = self.text_out(F.gelu(self.text_in(padded), approximate="tanh"))
        both = self.key_value(text).unflatten(-1, (2, self.layers, self.dim)).permute(2, 3, 0, 1, 4)
        key, value = both.unbind(0)
        key = F.rms_norm(key, (self.dim,), eps=self.eps) * self.key_gain
        split = [x.unflatten(-1, (self.heads, -1)).transpose(2, 3) for x in (key, value)]
        context_bias = torch.cat([torch.zeros_like(prompt_embeds[:, :, 0]), pad_bias], dim=1)
        return split[0], split[1], context_bias


class TimeEmbedder(nn.Module):
    """(t, r) of every frame -> the modulation of the blocks and of the head. Always float32: t reaches 1000."""

    def __init__(self, config: TransformerConfig, weights: Weights) -> None:
        super().__init__()
        self.subtract = config.deltatime_type == "t-r"
        self.gate, self.odd = config.gate_value, config.freq_dim % 2
        half = config.freq_dim // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32) / half
        self.frequencies = nn.Parameter(torch.exp(exponent), requires_grad=False)
        embedder = "condition_embedder"
        self.time = nn.ModuleList(_read_linear(weights, f"{embedder}.time_embedder.linear_{i}") for i in (1, 2))
        self.delta = nn.ModuleList(_read_linear(weights, f"{embedder}.delta_embedder.linear_{i}") for i in (1, 2))
        self.project = _read_linear(weights, f"{embedder}.time_proj")

    def forward(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """t, r (B, F) in 0..num_train_timesteps -> modulation (B, F, 6, D), head_modulation (B, F, D)."""
        delta = t - r if self.subtract else r
        time = self._embed(t, self.time)
        mixed = (1 - self.gate) * time + self.gate * self._embed(delta, self.delta)
        return self.project(F.silu(mixed)).unflatten(-1, (6, -1)), mixed

    def _embed(self, time: Tensor, layers: nn.ModuleList) -> Tensor:
        angle = time[:, :, None] * self.frequencies
        wave = torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)
        wave = F.pad(wave, (0, self.odd)) if self.odd else wave
        return layers[1](F.silu(layers[0](wave)))
