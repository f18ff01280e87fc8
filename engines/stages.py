"""The components of a run, by the stage that they work in: the one list of them, whatever engine runs."""

from __future__ import annotations

from collections.abc import Collection

from anyflow_rt.engines.architecture import Architecture

ENCODE = ("vae_encoder_first", "vae_encoder_next")
"""What calls need that begin with a picture or a clip: opened where one does."""

CHUNKS = ("full_tokens", "far_tokens", "cache_writer")
"""What a causal checkpoint remembers its finished chunks with."""

STAGES = {
    "text": ("text_encoder", "conditioner"),
    "encode": ENCODE,
    "jump": ("time_embedder", *CHUNKS, "denoiser"),
    "decode": ("vae_decoder_first", "vae_decoder_next"),
}
"""In the order of a run: reading the prompt, encoding what the video begins with, jumping, decoding."""

RUN_COMPONENTS = tuple(name for names in STAGES.values() for name in names if name not in (*ENCODE, *CHUNKS))
"""What every run needs."""


def run_stages(architecture: Architecture) -> tuple[tuple[str, ...], ...]:
    """The components of a checkpoint, of each stage in the order of a run."""
    left_out = CHUNKS if architecture.causal is None else ()
    return tuple(tuple(name for name in names if name not in left_out) for names in STAGES.values())


def engine_components(architecture: Architecture) -> tuple[str, ...]:
    """All that engines are built of for a checkpoint, in the order of a run."""
    return tuple(name for names in run_stages(architecture) for name in names)


def stages_of(components: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Those of ``components`` that are open together where not all are, by stage.

    While a causal checkpoint's video is streamed, a chunk is decoded beside the jumps of the next one.
    """
    found = {stage: tuple(name for name in names if name in components) for stage, names in STAGES.items()}
    if is_causal(components):
        found["jump"] += found.pop("decode")
    return {stage: names for stage, names in found.items() if names}


def runs_beside(component: str, components: Collection[str]) -> bool:
    """Whether ``component`` works while others of ``components`` do: a causal checkpoint's decoder."""
    return is_causal(components) and component in STAGES["decode"]


def is_causal(components: Collection[str]) -> bool:
    """Whether ``components`` are a causal checkpoint's."""
    return CHUNKS[-1] in components
