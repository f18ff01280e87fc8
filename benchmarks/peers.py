"""diffusers' own pipeline on the same checkpoint: what a run is compared with."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.engines.checkpoint_parts import whole_directory
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import MissingPackageError
from anyflow_rt.parity import uncompiled_flex_attention

Generate = Callable[[str, int], np.ndarray]
"""prompt, seed -> frames (1, T, H, W, 3) float32 in [0, 1]: what ``AnyFlowPipeline`` gives by default."""

CausalGenerate = Callable[[str, int, int, VideoSize, Sequence[int]], np.ndarray]
"""prompt, seed, steps, size, latent frames of each chunk -> frames (1, T, H, W, 3) float32 in [0, 1]."""

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
"""Our names of the precisions, and torch's."""


def require_diffusers(purpose: str) -> None:
    """Raise MissingPackageError where the reference is not installed."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(error.name or "diffusers", "bench", purpose) from error


def can_compile() -> bool:
    """Whether torch.compile can work here: on a CPU it calls a C++ compiler."""
    return any(shutil.which(name) for name in ("g++", "c++", "clang++"))


def pipeline(checkpoint: Path, precision: str, *, compiled: bool = False, steps: int, size: VideoSize) -> Generate:
    """The checkpoint in diffusers, eager or with transformer and VAE decoder compiled (``torch.compile``).

    Everything else is diffusers' default: prompts padded to 512 tokens, scaled dot product attention, torch's threads.
    """
    require_diffusers("comparing with diffusers")
    import torch
    from diffusers import AnyFlowPipeline

    pipe: Any = AnyFlowPipeline.from_pretrained(checkpoint, torch_dtype=getattr(torch, DTYPES[precision]))
    pipe.set_progress_bar_config(disable=True)
    if compiled:
        pipe.transformer = torch.compile(pipe.transformer)
        pipe.vae.decoder = torch.compile(pipe.vae.decoder)

    def generate(prompt: str, seed: int) -> np.ndarray:
        return _frames(pipe, prompt, seed, steps, size)

    return generate


def causal_pipeline(checkpoint: Path, precision: str) -> CausalGenerate:
    """A causal checkpoint in diffusers' ``AnyFlowFARPipeline``, eager; see ``parity.uncompiled_flex_attention``."""
    require_diffusers("comparing with diffusers")
    import torch
    from diffusers import AnyFlowFARPipeline

    with whole_directory(checkpoint) as whole:
        pipe: Any = AnyFlowFARPipeline.from_pretrained(whole, torch_dtype=getattr(torch, DTYPES[precision]))
    pipe.set_progress_bar_config(disable=True)

    def generate(prompt: str, seed: int, steps: int, size: VideoSize, chunks: Sequence[int]) -> np.ndarray:
        with uncompiled_flex_attention():
            return _frames(pipe, prompt, seed, steps, size, chunk_partition=list(chunks))

    return generate


def _frames(pipe: Any, prompt: str, seed: int, steps: int, size: VideoSize, **options: Any) -> np.ndarray:
    import torch

    return pipe(
        prompt=prompt,
        height=size.height,
        width=size.width,
        num_frames=size.num_frames,
        num_inference_steps=steps,
        generator=torch.Generator("cpu").manual_seed(seed),
        **options,
    ).frames


def variants() -> dict[str, tuple[str, bool]]:
    """Every way diffusers can run here: name -> (precision, compiled)."""
    return {
        f"diffusers {precision} {'torch.compile' if compiled else 'eager'}": (precision, compiled)
        for compiled in ((False, True) if can_compile() else (False,))
        for precision in DTYPES
    }


def pipelines(checkpoint: Path, *, steps: int, size: VideoSize) -> dict[str, Generate]:
    """The checkpoint in each of the ``variants``, by name."""
    return {
        name: pipeline(checkpoint, precision, compiled=compiled, steps=steps, size=size)
        for name, (precision, compiled) in variants().items()
    }
