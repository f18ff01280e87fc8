"""Packed components of random checkpoints, and diffusers' answers to what the denoiser is asked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.bundles import session_directory
from support.checkpoints import CONFIGURATIONS, make_checkpoint

from anyflow_rt.engines import geometry
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.registry import open_engine
from anyflow_rt.engines.torch_pack import Packed, pack_component

PROMPT, MOST_TOKENS = 5, 16
"""Tokens of the prompt, and what it is padded to."""


@dataclass(frozen=True)
class PackedCheckpoint:
    """A random checkpoint whose components are packed where they are asked for."""

    path: Path

    @cached_property
    def checkpoint(self) -> Checkpoint:
        return load_checkpoint(self.path)

    def component(self, name: str, precision: str) -> Path:
        """The packed file."""
        path = self.path.parent / f"{self.path.name}-{precision}" / f"{name}.safetensors"
        if not path.is_file():
            path.parent.mkdir(exist_ok=True)
            pack_component(Packed(name, precision, self.checkpoint.architecture), self.checkpoint, path)
        return path

    @cached_property
    def transformer(self) -> Any:
        """diffusers' own, float32."""
        import diffusers

        return diffusers.AnyFlowTransformer3DModel.from_pretrained(self.path / "transformer").eval()


@cache
def packed_checkpoint(configuration: str) -> PackedCheckpoint:
    """That of one of ``CONFIGURATIONS``; each process of a session makes its own."""
    path = session_directory() / f"packed-{os.getpid()}-{configuration}"
    make_checkpoint(path, seed=len(configuration), **CONFIGURATIONS[configuration])
    return PackedCheckpoint(path)


@dataclass(frozen=True)
class Question:
    """One jump: the denoiser's inputs, and z_r by diffusers in float32."""

    arrays: dict[str, Any]
    answer: np.ndarray


def question(
    packed: PackedCheckpoint, batch: int, grid: tuple[int, int, int], t: float = 0.9, r: float = 0.4
) -> Question:
    """A jump of ``batch`` videos of ``grid`` tokens; each frame has an interval of its own, the first has none."""
    architecture = packed.checkpoint.architecture
    config = architecture.transformer
    frames, rows, columns = grid
    patch, scale = config.patch_size[1], architecture.scheduler.num_train_timesteps
    generator = torch.Generator().manual_seed(batch + rows)
    latents = torch.randn((batch, frames, config.in_channels, rows * patch, columns * patch), generator=generator)
    embeds = torch.randn((batch, PROMPT, config.text_dim), generator=generator)
    times = torch.linspace(r, t, frames).repeat(batch, 1) * scale
    ends = torch.full((batch, frames), r * scale)
    with torch.no_grad():
        padded = torch.cat([embeds, embeds.new_zeros(batch, MOST_TOKENS - PROMPT, config.text_dim)], dim=1)
        velocity = packed.transformer(latents, times, ends, padded, return_dict=False)[0]
    interval = (times - ends) / scale
    arrays = {"latents": latents.numpy(), "interval": interval.numpy()}
    arrays |= zip(("rope_cos", "rope_sin"), geometry.rope_tables(config, grid), strict=True)
    with open_engine("triton", packed.component("time_embedder", "fp32"), precision="fp32") as embedder:
        arrays |= embedder.infer(t=times.numpy(), r=ends.numpy())
    with open_engine("triton", packed.component("conditioner", "fp32"), precision="fp32") as conditioner:
        bias = geometry.pad_bias(MOST_TOKENS, PROMPT, batch)
        arrays |= conditioner.infer(prompt_embeds=embeds.numpy(), pad_bias=bias)
    return Question(arrays, (latents - interval[:, :, None, None, None] * velocity).numpy())
