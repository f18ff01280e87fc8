"""Latents -> frames, streamed: memory does not grow with the clip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines.engine import Engine

LATENT_FRAMES_PER_CALL = 2
"""Enough to keep the processor busy at small sizes; the activations of one call are what decoding costs in memory."""


def decode(components: Components, latents: np.ndarray) -> Iterator[np.ndarray]:
    """Iterate over uint8 RGB frames (N, T, H, W, 3) of latents (N, F, C, h, w) as they leave the decoder.

    The first chunk has one frame, each later one four for every latent frame it was made from.
    """
    return _chunks(components.get("vae_decoder_first"), components.get("vae_decoder_next"), latents)


def _chunks(first: Engine, following: Engine, latents: np.ndarray) -> Iterator[np.ndarray]:
    out = first.infer(latents=np.ascontiguousarray(latents[:, :1]))
    yield out["frames"]
    for start in range(1, latents.shape[1], LATENT_FRAMES_PER_CALL):
        chunk = np.ascontiguousarray(latents[:, start : start + LATENT_FRAMES_PER_CALL])
        caches = {name: out[f"next_{name}"] for name in following.inputs if name != "latents"}
        out = following.infer(latents=chunk, **caches)
        yield out["frames"]
