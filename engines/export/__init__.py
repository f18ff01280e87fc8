"""Checkpoint networks -> ONNX graphs. Needs the ``build`` extra; importing this package alone does not."""

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
"""Every component of a bundle, in the order they are exported."""
