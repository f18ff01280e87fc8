"""The UMT5 prompt encoder: token ids -> prompt embeddings, zero past the mask.

``input_ids`` and ``attention_mask`` are (B, S) int64 (mask: 1 for a token, 0 for padding); ``prompt_embeds`` is
(B, S, E) float32. Weights keep the dtype they are stored in and are widened where they are used, so that a large
encoder is exported at its stored size.

UMT5's attention does not divide by sqrt(d). Each layer has its own bias by relative position: distances are sorted
into buckets (exact up to a quarter of the buckets, logarithmic up to ``relative_attention_max_distance``, one for all
beyond). The bucket of every clipped distance is looked up in a table made here with the reference's float32
arithmetic, because a logarithm in the graph could fall to the other side of a bucket's edge.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anyflow_rt.engines.architecture import TextEncoderConfig
from anyflow_rt.engines.weights import Weights
from anyflow_rt.errors import CheckpointError

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
}

# Added to the logits of padding: finite, so that no row is ever all -inf, and exp() of it is exactly 0.
_MASKED = -1e9


def build(config: TextEncoderConfig, weights: Weights) -> TextEncoder:
    """The graph, from the state dict of ``UMT5EncoderModel``. Raises CheckpointError on an unknown activation."""
    return TextEncoder(config, weights)


class TextEncoder(nn.Module):
    """See the module's docstring."""

    def __init__(self, config: TextEncoderConfig, weights: Weights) -> None:
        super().__init__()
        tied = "shared.weight" if "shared.weight" in weights else "encoder.embed_tokens.weight"
        self.embedding = _stored(weights[tied])
        self.max_distance = config.relative_attention_max_distance
        self.layers = nn.ModuleList(EncoderLayer(config, weights, layer) for layer in range(config.num_layers))
        self.norm = StoredNorm(weights["encoder.final_layer_norm.weight"], config.layer_norm_epsilon)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = F.embedding(input_ids, self.embedding).float()
        kept = attention_mask.float()
        masked = ((1.0 - kept) * _MASKED)[:, None, None, :]
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        relative = positions[None, :] - positions[:, None]
        index = relative.clamp(-self.max_distance, self.max_distance) + self.max_distance
        for layer in self.layers:
            x = layer(x, masked, index)
        return self.norm(x) * kept[:, :, None]


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each behind an RMS norm and with its input added."""

    def __init__(self, config: TextEncoderConfig, weights: Weights, layer: int) -> None:
        super().__init__()
        attention, feed_forward = f"encoder.block.{layer}.layer.0", f"encoder.block.{layer}.layer.1"
        self.heads = config.num_heads
        self.attention_norm = StoredNorm(weights[f"{attention}.layer_norm.weight"], config.layer_norm_epsilon)
        self.qkv = _stored(torch.cat([weights[f"{attention}.SelfAttention.{part}.weight"] for part in "qkv"]))
        self.output = _stored(weights[f"{attention}.SelfAttention.o.weight"])
        table = weights[f"{attention}.SelfAttention.relative_attention_bias.weight"]
        # (heads, 2 max_distance + 1): the bias of every clipped distance key - query.
        self.distance_bias = _stored(table[relative_position_buckets(config)].T.contiguous())
        self.feed_forward_norm = StoredNorm(weights[f"{feed_forward}.layer_norm.weight"], config.layer_norm_epsilon)
        self.gated, self.activation = _activation(config.feed_forward_proj)
        names = ("wi_0", "wi_1") if self.gated else ("wi",)
        self.widen = _stored(torch.cat([weights[f"{feed_forward}.DenseReluDense.{name}.weight"] for name in names]))
        self.narrow = _stored(weights[f"{feed_forward}.DenseReluDense.wo.weight"])

    def forward(self, x: Tensor, masked: Tensor, index: Tensor) -> Tensor:
        """``x`` (B, S, E), ``masked`` (B, 1, 1, S), ``index`` (S, S) of clipped distances."""
        batch, length, _ = x.shape
        qkv = F.linear(self.attention_norm(x), self.qkv.float()).reshape(batch, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.distance_bias.float()[:, index].unsqueeze(0) + masked
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        x = x + F.linear(attended.transpose(1, 2).flatten(2), self.output.float())
        hidden = F.linear(self.feed_forward_norm(x), self.widen.float())
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            hidden = self.activation(gate) * hidden
        else:
            hidden = self.activation(hidden)
        return x + F.linear(hidden, self.narrow.float())


class StoredNorm(nn.Module):
    """RMS norm over the last axis, without bias or mean."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight = _stored(weight.float())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def relative_position_buckets(config: TextEncoderConfig) -> Tensor:
    """Bucket of each distance key - query from -max_distance to max_distance: (2 max_distance + 1,) int64.

    Half of the buckets are for keys after the query. Of each half, the first half are single distances and the others
    grow logarithmically (Raffel et al. 2020, as Mesh TensorFlow computes them, in float32).
    """
    half = config.relative_attention_num_buckets // 2
    exact = half // 2
    limit = config.relative_attention_max_distance
    relative = torch.arange(-limit, limit + 1)
    distance = relative.abs()
    ratio = torch.log(distance.clamp_min(1).float() / exact) / math.log(limit / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp_max(half - 1)
    return (relative > 0).long() * half + torch.where(distance < exact, distance, far)


def _activation(projection: str) -> tuple[bool, Callable[[Tensor], Tensor]]:
    """Whether the feed-forward is gated, and its activation. ``gated-gelu`` means the tanh form, by convention."""
    parts = projection.split("-")
    name = "gelu_new" if projection == "gated-gelu" else parts[-1]
    if name not in _ACTIVATIONS or len(parts) > 2 or (len(parts) == 2 and parts[0] != "gated"):
        known = ", ".join(f"{name}, gated-{name}" for name in _ACTIVATIONS)
        raise CheckpointError(f"the text encoder's feed_forward_proj {projection!r} is not supported; known: {known}")
    return len(parts) == 2, _ACTIVATIONS[name]


def _stored(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
