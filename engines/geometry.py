"""Sizes: what a checkpoint can make, and the arrays that depend on sizes alone. Without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from anyflow_rt.engines.architecture import Architecture, TransformerConfig
from anyflow_rt.errors import UsageError

SIZE_MULTIPLE = 16
"""Pixels: 8x by the VAE and 2x by the patches, as the reference demands."""

PAD_KEYS = 2
"""Cross-attention keys that stand for all padded prompt positions; see ``pad_bias``."""

NO_PADDING_BIAS = -1e9
"""Stands for log(0): large and finite, so that no engine meets an infinity."""


@dataclass(frozen=True)
class VideoSize:
    """Pixels and frames of one video."""

    num_frames: int
    height: int
    width: int


@dataclass(frozen=True)
class LatentSize:
    """The size a video has inside the sampler."""

    frames: int
    channels: int
    height: int
    width: int


def latent_size(architecture: Architecture, size: VideoSize) -> LatentSize:
    """The latent size of ``size``. Raises UsageError where the checkpoint cannot make it."""
    vae, transformer = architecture.vae, architecture.transformer
    for name in ("num_frames", "height", "width"):
        value = getattr(size, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
            raise UsageError(f"{name} is {value!r}; give a whole number of at least 1")
    for name in ("height", "width"):
        value = getattr(size, name)
        multiple = math.lcm(SIZE_MULTIPLE, vae.scale_factor_spatial * transformer.patch_size[1])
        if value % multiple:
            near = max(multiple, round(value / multiple) * multiple)
            raise UsageError(f"{name} {value} is not a multiple of {multiple}; the nearest that is: {near}")
    step = vae.scale_factor_temporal
    if (size.num_frames - 1) % step:
        low = (size.num_frames - 1) // step * step + 1
        raise UsageError(
            f"num_frames {size.num_frames} is not {step}n + 1; the nearest that are: {low} and {low + step}"
        )
    latent = LatentSize(
        frames=(size.num_frames - 1) // step + 1,
        channels=transformer.in_channels,
        height=size.height // vae.scale_factor_spatial,
        width=size.width // vae.scale_factor_spatial,
    )
    longest = transformer.rope_max_seq_len
    for name, positions in zip(("num_frames", "height", "width"), token_grid(transformer, latent), strict=True):
        if positions > longest:
            raise UsageError(
                f"{name} {getattr(size, name)} gives {positions} positions, but the checkpoint's rotary table ends at "
                f"rope_max_seq_len {longest}; ask for less"
            )
    return latent


def token_grid(transformer: TransformerConfig, latent: LatentSize) -> tuple[int, int, int]:
    """Tokens along time, height and width."""
    patch = transformer.patch_size
    return latent.frames // patch[0], latent.height // patch[1], latent.width // patch[2]


@lru_cache(maxsize=8)
def rope_tables(
    transformer: TransformerConfig, grid: tuple[int, int, int], pool: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of the rotary angles, each (L, head_dim / 2) float32, L = tokens in frame-major order.

    Of a head's d/2 frequencies, height and width take d // 6 each and time the rest; theta is 10000. Angles are
    computed in float64, as the reference does. pool: of a compressed grid, places along height and width that one of
    its own covers; it turns by the mean of their unit vectors, renormalised.
    """
    half = transformer.attention_head_dim // 2
    spatial = transformer.attention_head_dim // 6
    cosines, sines = [], []
    for axis, (count, positions) in enumerate(zip((half - 2 * spatial, spatial, spatial), grid, strict=True)):
        covered = pool if axis else 1
        frequencies = 10000.0 ** -(np.arange(count, dtype=np.float64) / count) if count else np.empty(0)
        angle = np.outer(np.arange(positions * covered, dtype=np.float64), frequencies)
        cos, sin = (part.reshape(positions, covered, count).mean(axis=1) for part in (np.cos(angle), np.sin(angle)))
        length = np.hypot(cos, sin) if covered > 1 else 1.0
        shape = [1, 1, 1, count]
        shape[axis] = positions
        cosines.append(np.broadcast_to((cos / length).reshape(shape), (*grid, count)))
        sines.append(np.broadcast_to((sin / length).reshape(shape), (*grid, count)))
    tables = [np.concatenate(parts, axis=-1).reshape(-1, half).astype(np.float32) for parts in (cosines, sines)]
    for table in tables:
        table.flags.writeable = False  # one for all callers; and a GPU's engine may keep what cannot change
    return tables[0], tables[1]


def pad_bias(max_sequence_length: int, prompt_length: int, batch: int) -> np.ndarray:
    """Biases of the ``PAD_KEYS`` keys that stand for the padded prompt positions, (batch, PAD_KEYS) float32.

    Their exponentials sum to the number of positions left out. The first bias is exact in bfloat16 and carries nearly
    all of the sum: an engine that rounds log(count) itself to bfloat16 would be off by up to 1.6% of it, this way it
    is off by 0.05%.
    """
    biases = np.full(PAD_KEYS, NO_PADDING_BIAS, np.float32)
    count = max_sequence_length - prompt_length
    if count > 0:
        log_bits = np.float32(math.log(count)).view(np.uint32)
        biases[0] = (log_bits & np.uint32(0xFFFF0000)).view(np.float32)
        rest = count - math.exp(float(biases[0]))
        if rest > 0:
            biases[1] = math.log(rest)
    return np.broadcast_to(biases, (batch, PAD_KEYS)).copy()
