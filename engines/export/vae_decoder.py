"""The streamed VAE decoder: latents in the sampler's layout -> uint8 RGB frames.

``vae_decoder_first`` takes ``latents`` (B, 1, C, H, W) float32 and gives ``frames`` (B, 1, sH, sW, 3) uint8 and the
caches; ``vae_decoder_next`` takes ``latents`` (B, k, C, H, W) and the caches, and gives ``frames``
(B, 4k, sH, sW, 3) and the new caches. s is ``VaeConfig.spatial_factor``, 4 is ``VaeConfig.temporal_factor``. Running
k latent frames at once equals k calls of one. The caches are those of ``vae_cache.decoder_caches``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from anyflow_rt.engines.architecture import VaeConfig
from anyflow_rt.engines.export.shape_free import Size, reshape, reshape_by
from anyflow_rt.engines.export.vae_layers import (
    CausalConvolution,
    ChannelNorm,
    FrameCaches,
    MidBlock,
    Pointwise,
    ResidualBlock,
    Upsample,
    spread_channels,
)
from anyflow_rt.engines.weights import Weights


def build_first(vae: VaeConfig, weights: Weights) -> VaeDecoder:
    """The graph of the first latent frame, from the state dict of ``AutoencoderKLWan``."""
    return VaeDecoder(vae, weights, first=True)


def build_next(vae: VaeConfig, weights: Weights) -> VaeDecoder:
    """The graph of the following latent frames, from the state dict of ``AutoencoderKLWan``."""
    return VaeDecoder(vae, weights, first=False)


class VaeDecoder(nn.Module):
    """See the module's docstring; ``first`` says which of the two graphs this is."""

    def __init__(self, vae: VaeConfig, weights: Weights, first: bool) -> None:
        super().__init__()
        self.first = first
        self.patch = vae.patch_size or 1
        self.enter = Pointwise(*_denormalising(vae, weights))
        self.conv_in = CausalConvolution(weights, "decoder.conv_in", first)
        self.middle = MidBlock(weights, "decoder.mid_block", first)
        self.levels = nn.ModuleList(UpLevel(vae, weights, level, first) for level in range(len(vae.dim_mult)))
        self.norm_out = ChannelNorm(weights, "decoder.norm_out")
        self.conv_out = CausalConvolution(weights, "decoder.conv_out", first)

    def forward(self, latents: Tensor, caches: tuple[Tensor, ...] = ()) -> tuple[Tensor, ...]:
        running = FrameCaches(caches)
        x = (latents[:, 0] if self.first else latents).movedim(-3, -1)
        x = self.conv_in(self.enter(x), running)
        x = self.middle(x, running)
        for level in self.levels:
            x = level(x, running)
        x = self.conv_out(self.norm_out(x), running)
        return frames_from_signal(x.unsqueeze(1) if self.first else x, self.patch), *running.kept


class UpLevel(nn.Module):
    """Residual blocks, then upsampling unless this is the last level; the residual variant adds a shortcut over all."""

    def __init__(self, vae: VaeConfig, weights: Weights, level: int, first: bool) -> None:
        super().__init__()
        name = f"decoder.up_blocks.{level}"
        upsampler = f"{name}.upsampler" if vae.is_residual else f"{name}.upsamplers.0"
        self.first = first
        self.blocks = nn.ModuleList(
            ResidualBlock(weights, f"{name}.resnets.{block}", first) for block in range(vae.num_res_blocks + 1)
        )
        self.upsample = Upsample(weights, upsampler, first) if level < len(vae.dim_mult) - 1 else None
        self.shortcut = vae.is_residual and self.upsample is not None

    def forward(self, x: Tensor, caches: FrameCaches) -> Tensor:
        entered = x
        for block in self.blocks:
            x = block(x, caches)
        if self.upsample is not None:
            x = self.upsample(x, caches)
            if self.shortcut:
                x = x + spread_channels(entered, x.shape[-1], 2 if self.upsample.temporal else 1, self.first)
        return x


def frames_from_signal(x: Tensor, patch: int) -> Tensor:
    """(B, t, h, w, 3 p p) float -> (B, t, p h, p w, 3) uint8: round half to even of 255 clamp(x / 2 + 0.5, 0, 1).

    Channels hold (colour, column in the patch, row in the patch), as diffusers' ``unpatchify`` reads them.
    """
    pixels = torch.round(torch.clamp(x * 127.5 + 127.5, 0.0, 255.0)).to(torch.uint8)
    colours = x.shape[-1] // patch**2
    pixels = reshape(pixels, [0, 0, 0, 0, colours, patch, patch]).permute(0, 1, 2, 6, 3, 5, 4)
    return reshape_by(pixels, x, [Size(0), Size(1), Size(2, times=patch), Size(3, times=patch), colours])


def _denormalising(vae: VaeConfig, weights: Weights) -> tuple[Tensor, Tensor]:
    """``post_quant_conv`` of std z + mean, as one matrix (z_dim, z_dim) and one bias."""
    weight = weights["post_quant_conv.weight"].double().flatten(1)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (vae.latents_mean, vae.latents_std))
    return weight * std, weights["post_quant_conv.bias"].double() + weight @ mean
