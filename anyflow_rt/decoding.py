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
    return FrameDecoder(components).frames(latents)


class FrameDecoder:
    """One clip's decoder: latents come in pieces, in their order, and its caches carry over from one to the next."""

    def __init__(self, components: Components) -> None:
        self._first: Engine | None = components.get("vae_decoder_first")
        self._next = components.get("vae_decoder_next")
        self._caches: dict[str, np.ndarray] = {}

    def frames(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        """Iterate over the frames of the next latents (N, F, C, h, w), as ``decode`` does."""
        start = 0
        if self._first is not None:
            yield self._call(self._first, latents[:, :1])
            self._first, start = None, 1
        videos, _, _, height, width = latents.shape
        step = latents_per_call(videos, height, width)
        for begin in range(start, latents.shape[1], step):
            yield self._call(self._next, latents[:, begin : begin + step])

    def _call(self, engine: Engine, latents: np.ndarray) -> np.ndarray:
        out = engine.infer(latents=np.ascontiguousarray(latents), **self._caches)
        self._caches = {name: out[f"next_{name}"] for name in self._next.inputs if name != "latents"}
        return out["frames"]
