"""The shapes of a run that says nothing: one video of the bundle's default size. Engines are made quickest at these."""

from __future__ import annotations

import math

from anyflow_rt.decoding import latents_per_call
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import VideoSize, latent_size, token_grid

UsualShapes = tuple[tuple[str, tuple[int | None, ...]], ...]


def usual_shapes(architecture: Architecture, size: VideoSize) -> dict[str, UsualShapes]:
    """(input, shape) by component, for those whose calls look alike in every such run; prompts differ in length."""
    latent = latent_size(architecture, size)
    tokens = math.prod(token_grid(architecture.transformer, latent))
    frame = (latent.channels, latent.height, latent.width)
    rope = (tokens, None)
    per_call = latents_per_call(1, latent.height, latent.width)
    even = latent.frames > 1 and (latent.frames - 1) % per_call == 0
    denoiser = {"denoiser": (("latents", (1, latent.frames, *frame)), ("rope_cos", rope), ("rope_sin", rope))}
    return {
        "time_embedder": (("t", (1, 1)), ("r", (1, 1))),
        # What a causal denoiser attends to grows from chunk to chunk.
        **(denoiser if architecture.causal is None else {}),
        "vae_decoder_first": (("latents", (1, 1, *frame)),),
        "vae_decoder_next": (("latents", (1, per_call if even else None, *frame)),),
    }
