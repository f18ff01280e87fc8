"""Checkpoint networks -> ONNX graphs. Needs the ``build`` extra; importing this package alone does not."""

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.stages import CHUNKS

EXPORT_VERSION = 2
"""Raised whenever a graph changes for the same checkpoint: part of a bundle's identity."""

COMPONENT_NAMES = (
    "text_encoder",
    "conditioner",
    "time_embedder",
    "denoiser",
    "vae_decoder_first",
    "vae_decoder_next",
    "vae_encoder_first",
    "vae_encoder_next",
)
"""Every component of a bidirectional checkpoint's bundle, in the order they are exported."""

CAUSAL_COMPONENT_NAMES = CHUNKS
"""What a causal (FAR) checkpoint's has beside them."""


def component_names(architecture: Architecture) -> tuple[str, ...]:
    """Every component of the bundle of a checkpoint."""
    return COMPONENT_NAMES if architecture.causal is None else (*COMPONENT_NAMES, *CAUSAL_COMPONENT_NAMES)
