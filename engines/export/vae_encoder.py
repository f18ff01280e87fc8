"""The streamed VAE encoder: uint8 RGB frames -> latents in the sampler's layout and normalisation.

``vae_encoder_first`` takes ``frames`` (B, 1, sH, sW, 3) uint8 and gives ``latents`` (B, 1, C, H, W) float32 and the
caches; ``vae_encoder_next`` takes ``frames`` (B, 4k, sH, sW, 3) and the caches, and gives ``latents`` (B, k, C, H, W)
and the new caches. s is ``VaeConfig.spatial_factor``, 4 is ``VaeConfig.temporal_factor``. The latents are the mean of
the posterior, (mu - latents_mean) / latents_std. The caches are those of ``vae_cache.encoder_caches``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anyflow_rt.engines.architecture import VaeConfig
from anyflow_rt.engines.export.shape_free import Size, reshape_by
from anyflow_rt.engines.export.vae_layers import (
    CausalConvolution,
    ChannelNorm,
    Downsample,
    FrameAttention,
    FrameCaches,
    MidBlock,
    Pointwise,
    ResidualBlock,
    pool_channels,
)
from anyflow_rt.engines.weights import Weights


def build_first(vae: VaeConfig, weights: Weights) -> VaeEncoder:
    """The graph of the first frame, from the state dict of ``AutoencoderKLWan``."""
    return VaeEncoder(vae, weights, first=True)


def build_next(vae: VaeConfig, weights: Weights) -> VaeEncoder:
    """The graph of the following frames, from the state dict of ``AutoencoderKLWan``."""
    return VaeEncoder(vae, weights, first=False)


class VaeEncoder(nn.Module):
    """See the module's docstring; ``first`` says which of the two graphs this is."""

    def __init__(self, vae: VaeConfig, weights: Weights, first: bool) -> None:
        super().__init__()
        self.first = first
        self.patch = vae.patch_size or 1
        self.conv_in = CausalConvolution(weights, "encoder.conv_in", first)
        levels = _residual_levels if vae.is_residual else _plain_levels
        self.levels = nn.ModuleList(levels(vae, weights, first))
        self.middle = MidBlock(weights, "encoder.mid_block", first)
        self.norm_out = ChannelNorm(weights, "encoder.norm_out")
        self.conv_out = CausalConvolution(weights, "encoder.conv_out", first)
        self.leave = Pointwise(*_normalising(vae, weights))

    def forward(self, frames: Tensor, caches: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
        running = FrameCaches(caches)
        x = signal_from_frames(frames, self.patch)
        x = self.conv_in(x[:, 0] if self.first else x, running)
        for level in self.levels:
            x = level(x, running)
        x = self.middle(x, running)
        x = self.leave(self.conv_out(self.norm_out(x), running))
        x = x.movedim(-1, -3)
        return x.unsqueeze(1) if self.first else x, *running.kept


class DownLevel(nn.Module):
    """Residual blocks and (where space shrinks) downsampling, plus an averaged shortcut: the residual variant."""

    def __init__(self, vae: VaeConfig, weights: Weights, level: int, first: bool) -> None:
        super().__init__()
        name = f"encoder.down_blocks.{level}"
        self.first = first
        self.blocks = nn.ModuleList(
            ResidualBlock(weights, f"{name}.resnets.{block}", first) for block in range(vae.num_res_blocks)
        )
        self.downsample = None
        if level < len(vae.dim_mult) - 1:
            self.downsample = Downsample(weights, f"{name}.downsampler", first)
        self.time = 2 if self.downsample is not None and self.downsample.temporal else 1
        self.space = 1 if self.downsample is None else 2

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        entered = x
        for block in self.blocks:
            x = block(x, caches)
        if self.downsample is not None:
            x = self.downsample(x, caches)
        return x + pool_channels(entered, x.shape[-1], self.time, self.space, self.first)


def signal_from_frames(frames: Tensor, patch: int) -> Tensor:
    """(B, t, p h, p w, 3) uint8 -> (B, t, h, w, 3 p p) float32 in [-1, 1].

    Channels hold (colour, column in the patch, row in the patch), as diffusers' ``patchify`` writes them.
    """
    colours = frames.shape[-1]
    outer = [Size(0), Size(1), Size(2, over=patch), Size(3, over=patch)]
    x = reshape_by(frames, frames, [outer[0], outer[1], outer[2], patch, outer[3], patch, colours])
    x = reshape_by(x.permute(0, 1, 2, 4, 6, 5, 3), frames, [*outer, colours * patch**2])
    return x.float() * (2.0 / 255.0) - 1.0


def _residual_levels(vae: VaeConfig, weights: Weights, first: bool) -> list[nn.Module]:
    return [DownLevel(vae, weights, level, first) for level in range(len(vae.dim_mult))]


def _plain_levels(vae: VaeConfig, weights: Weights, first: bool) -> list[nn.Module]:
    """The reference numbers residual blocks, attention (at ``attn_scales``) and downsampling in one flat list."""
    layers: list[nn.Module] = []
    scale = 1.0
    for level in range(len(vae.dim_mult)):
        for _ in range(vae.num_res_blocks):
            layers.append(ResidualBlock(weights, f"encoder.down_blocks.{len(layers)}", first))
            if scale in vae.attn_scales:
                layers.append(FrameAttention(weights, f"encoder.down_blocks.{len(layers)}"))
        if level < len(vae.dim_mult) - 1:
            layers.append(Downsample(weights, f"encoder.down_blocks.{len(layers)}", first))
            scale /= 2.0
    return layers


def _normalising(vae: VaeConfig, weights: Weights) -> tuple[Tensor, Tensor]:
    """``quant_conv``'s mean half, then (mu - mean) / std, as one matrix (z_dim, 2 z_dim) and one bias."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (vae.latents_mean, vae.latents_std))
    weight = weights["quant_conv.weight"].double().flatten(1)[: vae.z_dim]
    bias = weights["quant_conv.bias"].double()[: vae.z_dim]
    return weight / std[:, None], (bias - mean) / std
