"""What a run will take beside its networks, from its sizes alone: enormous ones are refused before any work.

The figures are below what is measured, so that nothing is refused that would have run; near the limit a run may still
not fit. Measured on two cores, 17 frames of 512x512, a decoder 8 channels wide: ONNX Runtime's jump took 224 MB
(222 here), OpenVINO's decoder 1.4 GB in float32 (0.5 here) and 0.7 GB in bf16 (0.3 here).
"""

from __future__ import annotations

import math

from anyflow_rt.decoding import latents_per_call
from anyflow_rt.engines import registry
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.chunks import make_layout
from anyflow_rt.engines.geometry import VideoSize, latent_size, token_grid
from anyflow_rt.engines.vae_cache import decoder_caches
from anyflow_rt.errors import UsageError
from anyflow_rt.memory import available_memory

FLOAT32 = 4
COMPUTE_BYTES = {"fp32": 4, "bf16": 2}
STATES = 4
"""Latents at once: the noise, the state before a jump and after it, and the last result that was handed out."""
DECODER_TENSORS = 5
"""Of the largest size at once, in a residual block: what came in, that behind the cached frames, the normed, the
convolved, the sum. Engines add copies in layouts of their own."""
WAITING_CHUNKS = 6
"""Decoded pieces between decoder and encoder."""


def working_memory(
    architecture: Architecture, size: VideoSize, videos: int, *, engine: str, precision: str, output: str
) -> int:
    """Bytes at the peak of a run of ``videos`` videos. output: ``frames`` keeps them, ``latents`` makes none, ``file``
    passes them on. What an engine on a GPU takes there is not counted."""
    latent = latent_size(architecture, size)
    state = videos * latent.frames * latent.channels * latent.height * latent.width * FLOAT32
    on_gpu = registry.for_gpu(engine)
    peak = 0 if on_gpu else _denoiser(architecture, size, videos, engine, precision)
    kept = 0
    if output != "latents":
        per_call = latents_per_call(videos, latent.height, latent.width)
        frame = videos * size.height * size.width * 3
        pieces = WAITING_CHUNKS * architecture.vae.temporal_factor * per_call
        # Kept frames are held twice: in pieces, and put together.
        kept = frame * (2 * size.num_frames if output == "frames" else min(pieces, size.num_frames))
        positions = videos * latent.height * latent.width
        if not on_gpu:
            peak = max(peak, positions * _decoder_elements(architecture, per_call) * COMPUTE_BYTES[precision])
    return STATES * state + peak + kept


def check_memory(
    architecture: Architecture, size: VideoSize, videos: int, *, engine: str, precision: str, output: str
) -> None:
    """Raise UsageError, naming need and supply, where a run cannot fit into the memory that is left."""
    needed = working_memory(architecture, size, videos, engine=engine, precision=precision, output=output)
    available = available_memory()
    if available is not None and needed > available:
        many = "1 video" if videos == 1 else f"{videos} videos"
        raise UsageError(
            f"{many} of {size.num_frames} frames, height {size.height}, width {size.width} needs at least "
            f"{needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB is available; make smaller, shorter or "
            "fewer videos at once"
        )


def _denoiser(architecture: Architecture, size: VideoSize, videos: int, engine: str, precision: str) -> int:
    """Of one jump: a block's tensors for every token, the rotary tables, and the attention's scores where an engine
    writes them all out (ONNX Runtime does; OpenVINO works on a few rows at a time)."""
    config = architecture.transformer
    latent = latent_size(architecture, size)
    tokens = math.prod(token_grid(config, latent))
    seen, kept = tokens, 0
    if architecture.causal is not None:
        layout = make_layout(architecture, latent)
        chunks = range(len(layout))
        tokens = max(layout.tokens(index, far=False) for index in chunks)
        cached = max(layout.seen(index) for index in chunks)
        seen = tokens + cached
        # Keys and values of all blocks, once by chunk and once in one piece.
        kept = 2 * 2 * videos * config.num_layers * cached * config.inner_dim * COMPUTE_BYTES[precision]
    block = videos * tokens * (8 * config.inner_dim + config.ffn_dim) * COMPUTE_BYTES[precision]
    rotary = 2 * tokens * (config.attention_head_dim // 2) * FLOAT32
    scores = videos * config.num_attention_heads * tokens * seen * FLOAT32 if engine == "onnxruntime" else 0
    return block + rotary + scores + kept


def _decoder_elements(architecture: Architecture, per_call: int) -> int:
    """Numbers that one decoder call holds for each latent position: the caches that come and go, and activations."""
    caches = decoder_caches(architecture.vae)
    frames = 2 + architecture.vae.temporal_factor * per_call
    largest = frames * max(cache.channels * cache.scale**2 for cache in caches)
    return 2 * sum(cache.channels * cache.frames * cache.scale**2 for cache in caches) + DECODER_TENSORS * largest
