"""Frames -> latents, streamed: what is given of a video enters the sampler as the reference's encoder would make it."""

from __future__ import annotations

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.decoding import latents_per_call

FRAMES_PER_LATENT = 4
"""Of every latent frame but the first, which is one frame."""


def encode(components: Components, frames: np.ndarray) -> np.ndarray:
    """uint8 RGB frames (N, 4n + 1, H, W, 3) -> latents (N, n + 1, C, h, w) float32, the mean of the posterior."""
    following = components.get("vae_encoder_next")
    out = components.get("vae_encoder_first").infer(frames=np.ascontiguousarray(frames[:, :1]))
    parts = [out["latents"]]
    step = FRAMES_PER_LATENT * latents_per_call(len(frames), *parts[0].shape[3:])
    for start in range(1, frames.shape[1], step):
        caches = {name: out[f"next_{name}"] for name in following.inputs if name != "frames"}
        out = following.infer(frames=np.ascontiguousarray(frames[:, start : start + step]), **caches)
        parts.append(out["latents"])
    return np.concatenate(parts, axis=1)
