"""Latents -> frames, streamed: memory does not grow with the clip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from anyflow_rt.engines.engine import Engine

if TYPE_CHECKING:
    from anyflow_rt.components import Components

POSITIONS_PER_CALL = 256
"""Latent positions worth one decoder call. Below it a call is mostly overhead, so several frames share one; above it
they would only cost memory."""
MOST_FRAMES_PER_CALL = 4


def latents_per_call(videos: int, height: int, width: int) -> int:
    """Latent frames of one decoder call; height and width in latent positions."""
    return max(1, min(MOST_FRAMES_PER_CALL, POSITIONS_PER_CALL // (videos * height * width)))


def decode(components: Components, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate over uint8 RGB frames (N, T, H, W, 3) of latents (N, F, C, h, w) as they leave the decoder.

    The first chunk has one frame, each later one four for every latent frame it was made from.
    """
    return _chunks(components.get("vae_decoder_first"), components.get("vae_decoder_next"), latents)


def _chunks(first: Engine, following: Engine, latents: np.ndarray) -> Iterator[np.ndarray]:
    out = first.infer(latents=np.ascontiguousarray(latents[:, :1]))
    yield out["frames"]
    videos, _, _, height, width = latents.shape
    step = latents_per_call(videos, height, width)
    for start in range(1, latents.shape[1], step):
        chunk = np.ascontiguousarray(latents[:, start : start + step])
        caches = {name: out[f"next_{name}"] for name in following.inputs if name != "latents"}
        out = following.infer(latents=chunk, **caches)
        yield out["frames"]
