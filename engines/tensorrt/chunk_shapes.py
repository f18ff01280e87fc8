"""What a causal checkpoint's engines take of a video: chunks of every length, and all that a chunk may attend to."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.chunks import ATTENTION_BLOCK, make_layout
from anyflow_rt.engines.geometry import LatentSize, token_grid
from anyflow_rt.errors import UsageError


@dataclass(frozen=True)
class ChunkShape:
    """Of one call: latent ``frames``, ``cached`` tokens of earlier chunks. tokens: of each frame whose keys and values
    are written, at full resolution or compressed."""

    frames: int
    tokens: int
    cached: int


def check_frames(architecture: Architecture, latent: LatentSize) -> None:
    """Raise UsageError for frames that have no compressed token: no engine can be built to make them."""
    assert architecture.causal is not None
    patch, pixels = architecture.causal.compressed_patch_size[1], architecture.vae.scale_factor_spatial
    for name in ("height", "width"):
        if getattr(latent, name) < patch:
            raise UsageError(
                f"{name} {getattr(latent, name) * pixels} is less than one compressed patch of this causal checkpoint, "
                f"{patch * pixels} pixels; build for a larger size, or for --target cpu"
            )


def smallest_chunk(architecture: Architecture, latent: LatentSize) -> ChunkShape:
    """One frame, compressed, with nothing before it.

    The first chunk's keys and values are written of itself alone, so that what it attends to is a dimension of 0.
    """
    return ChunkShape(1, _tokens(architecture, latent)[2], 0)


def usual_chunk(architecture: Architecture, latent: LatentSize) -> ChunkShape:
    """The last of the longest chunks that a video without a beginning has, at full resolution."""
    layout = make_layout(architecture, latent)
    index, (_, full, _) = layout.longest, _tokens(architecture, latent)
    return ChunkShape(layout.partition[index], full, layout.seen(index) + layout.padding(index))


def largest_chunk(architecture: Architecture, latent: LatentSize) -> ChunkShape:
    """Nothing larger comes up in any video of at most ``latent.frames``, whatever it begins with.

    What is given moves the bounds of chunks, so no partition is used: all frames but one are before the last chunk, as
    many of them at full resolution as ``full_chunk_limit - 1`` of the longest chunks have, and the zero keys are fewer
    than a block.
    """
    longest, full, far = _tokens(architecture, latent)
    assert architecture.causal is not None
    before = latent.frames - 1
    seen = min(before, (architecture.causal.full_chunk_limit - 1) * longest)
    cached = full * seen + far * (before - seen) + ATTENTION_BLOCK - 1
    return ChunkShape(min(longest, latent.frames), full, cached)


def _tokens(architecture: Architecture, latent: LatentSize) -> tuple[int, int, int]:
    """Frames of the longest chunk; tokens of a frame at full resolution, and compressed."""
    causal = architecture.causal
    assert causal is not None
    full = math.prod(token_grid(architecture.transformer, latent)[1:])
    _, height, width = causal.compressed_patch_size
    return max(causal.chunk_partition), full, (latent.height // height) * (latent.width // width)
