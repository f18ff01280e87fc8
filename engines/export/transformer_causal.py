"""The causal (FAR) transformer's modules: the bidirectional ones over keys and values that earlier chunks left.

A chunk attends to all chunks before it and to itself, so one call works on one chunk and the attention over
[earlier, own] keys is dense: no mask. ``CausalDenoiser`` makes a jump of a chunk. ``CacheWriter`` runs a finished
chunk at t = r = 0 for its keys and values alone, from tokens that ``Tokens`` made at either resolution: one network
serves both.

Mathematics as in diffusers' ``AnyFlowFARTransformer3DModel``, but for one thing: keys are cached after rotation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anyflow_rt.engines.architecture import TransformerConfig
from anyflow_rt.engines.export.transformer import Block, BlockKeys, Denoiser, Past, Patches, prompt_of_blocks
from anyflow_rt.engines.weights import Weights


def _pasts(cache_key: Tensor, cache_value: Tensor) -> list[Past]:
    """Of each block, from (layers, B, heads, M, d)."""
    return [Past(key, value) for key, value in zip(cache_key.unbind(0), cache_value.unbind(0), strict=True)]


class CausalDenoiser(nn.Module):
    """One jump of one chunk: z_t -> z_r."""

    def __init__(self, config: TransformerConfig, weights: Weights) -> None:
        super().__init__()
        self.denoiser = Denoiser(config, weights)

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
        cache_key: Tensor,
        cache_value: Tensor,
    ) -> Tensor:
        """As ``Denoiser`` on the frames of a chunk; cache_key, cache_value (layers, B, heads, M, d)."""
        return self.denoiser(
            latents,
            modulation,
            head_modulation,
            interval,
            cross_key,
            cross_value,
            context_bias,
            rope_cos,
            rope_sin,
            _pasts(cache_key, cache_value),
        )


class CacheWriter(nn.Module):
    """Tokens of one finished chunk -> the keys and values that later chunks attend to."""

    def __init__(self, config: TransformerConfig, weights: Weights) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, weights, f"blocks.{i}") for i in range(config.num_layers - 1))
        self.last = BlockKeys(config, weights, f"blocks.{config.num_layers - 1}")

    def forward(
        self,
        tokens: Tensor,
        modulation: Tensor,
        cross_key: Tensor,
        cross_value: Tensor,
        context_bias: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        cache_key: Tensor,
        cache_value: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """tokens (B, F, N, D); the caches (layers, B, heads, M, d) -> own keys, values (layers, B, heads, F N, d)."""
        rope = rope_cos, rope_sin
        cross = prompt_of_blocks(cross_key, cross_value, context_bias, rope_cos)
        pasts = _pasts(cache_key, cache_value)
        x, added = tokens, []
        for block, prompt, past in zip(self.blocks, cross[:-1], pasts[:-1], strict=True):
            x = block(x, modulation, prompt, rope, past)
            added.append(past.added)
        added.append(self.last(x, modulation, rope))
        keys, values = zip(*added, strict=True)
        return torch.stack(keys), torch.stack(values)


class Tokens(nn.Module):
    """Latents -> tokens, by ``patch_embedding`` (full resolution) or ``far_patch_embedding`` (chunks further back)."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.patches = Patches(weights, name)

    def forward(self, latents: Tensor) -> Tensor:
        """latents (B, F, C, H, W) -> (B, F, N, D)."""
        patches = self.patches(latents.flatten(0, 1))
        return patches.flatten(2).transpose(1, 2).unflatten(0, latents.shape[:2])
