"""What the streamed VAE graphs carry from one call to the next.

A causal 3x3x3 convolution sees two frames behind the one it computes, so every such convolution keeps the last two
frames of its input; a temporally downsampling one (stride 2) keeps one. The order is that of the graphs' inputs and
outputs ``cache_0 .. cache_{n-1}``: the order in which the network runs. No torch here: the runtime calls this.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from anyflow_rt.engines.architecture import VaeConfig


@dataclass(frozen=True)
class CacheShape:
    """One cache: (B, frames, scale * H, scale * W, channels), H and W being the latent height and width."""

    channels: int
    frames: int
    scale: int

    def concrete(self, batch: int, latent_height: int, latent_width: int) -> tuple[int, int, int, int, int]:
        """The shape for a given batch and latent size."""
        return batch, self.frames, self.scale * latent_height, self.scale * latent_width, self.channels


def decoder_caches(vae: VaeConfig) -> tuple[CacheShape, ...]:
    """Caches of ``vae_decoder_first`` (outputs) and ``vae_decoder_next`` (inputs and outputs), in order."""
    return tuple(_decoder_caches(vae))


def encoder_caches(vae: VaeConfig) -> tuple[CacheShape, ...]:
    """Caches of ``vae_encoder_first`` (outputs) and ``vae_encoder_next`` (inputs and outputs), in order."""
    return tuple(_encoder_caches(vae))


def _decoder_caches(vae: VaeConfig) -> Iterator[CacheShape]:
    base = vae.decoder_base_dim or vae.base_dim
    widths = [base * multiple for multiple in (vae.dim_mult[-1], *reversed(vae.dim_mult))]
    temporal_upsample = tuple(reversed(vae.temperal_downsample))
    last = len(vae.dim_mult) - 1
    scale = 1
    yield CacheShape(vae.z_dim, 2, scale)
    yield from _residual_blocks(widths[0], widths[0], 2, scale)
    for level, (width_in, width) in enumerate(pairwise(widths)):
        if level > 0 and not vae.is_residual:
            width_in //= 2
        yield from _residual_blocks(width_in, width, vae.num_res_blocks + 1, scale)
        if level != last:
            if temporal_upsample[level]:
                yield CacheShape(width, 2, scale)
            scale *= 2
    yield CacheShape(widths[-1], 2, scale)


def _encoder_caches(vae: VaeConfig) -> Iterator[CacheShape]:
    widths = [vae.base_dim * multiple for multiple in (1, *vae.dim_mult)]
    last = len(vae.dim_mult) - 1
    scale = 2**last
    yield CacheShape(vae.in_channels, 2, scale)
    for level, (width_in, width) in enumerate(pairwise(widths)):
        yield from _residual_blocks(width_in, width, vae.num_res_blocks, scale)
        if level != last:
            scale //= 2
            if vae.temperal_downsample[level]:
                yield CacheShape(width, 1, scale)
    yield from _residual_blocks(widths[-1], widths[-1], 2, scale)
    yield CacheShape(widths[-1], 2, scale)


def _residual_blocks(width_in: int, width: int, blocks: int, scale: int) -> Iterator[CacheShape]:
    """Each residual block has two 3x3x3 convolutions."""
    for block in range(blocks):
        yield CacheShape(width_in if block == 0 else width, 2, scale)
        yield CacheShape(width, 2, scale)
