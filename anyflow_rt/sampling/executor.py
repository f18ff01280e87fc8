"""Runs a plan: one denoiser call a jump, the state in float32 between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.conditioning import Conditioning
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import LatentSize, rope_tables, token_grid
from anyflow_rt.sampling.schedule import Jump, Plan


@dataclass(frozen=True)
class Step:
    """What ``on_step`` is told after each jump. ``latents`` (N, F, C, h, w) float32 is to be read, not written."""

    index: int
    steps: int
    t: float
    r: float
    latents: np.ndarray
    seconds: float


OnStep = Callable[[Step], object]


@dataclass(frozen=True)
class Sampling:
    """How every jump of a run is made."""

    architecture: Architecture
    size: LatentSize
    conditionings: Sequence[Conditioning]
    """One, or two for guidance: of the negative prompt, then of the prompt."""
    guidance_scale: float = 1.0
    mean_velocity: bool = True


def run_plan(
    components: Components, sampling: Sampling, plan: Plan, noise: np.ndarray, on_step: OnStep | None = None
) -> tuple[np.ndarray, tuple[float, ...]]:
    """Carry ``noise`` (N, F, C, h, w) along ``plan``. Returns the final latents and the seconds of each jump.

    Whatever ``on_step`` raises ends the run and reaches the caller.
    """
    for name in ("time_embedder", "denoiser"):
        components.get(name)  # so that opening an engine is not counted as a jump
    latents, seconds = noise, []
    for index, jump in enumerate(plan):
        start = time.perf_counter()
        latents = make_jump(components, sampling, jump, latents)
        seconds.append(time.perf_counter() - start)
        if on_step is not None:
            on_step(Step(index, len(plan), jump.t, jump.r, latents, seconds[-1]))
    return latents, tuple(seconds)


def make_jump(components: Components, sampling: Sampling, jump: Jump, latents: np.ndarray) -> np.ndarray:
    """Latents (N, F, C, h, w) at ``jump.t`` -> at ``jump.r``, guided where the sampling is."""
    transformer = sampling.architecture.transformer
    rope_cos, rope_sin = rope_tables(transformer, token_grid(transformer, sampling.size))
    shared = {
        "latents": latents,
        "interval": np.full(latents.shape[:2], jump.t - jump.r, np.float32),
        "rope_cos": rope_cos,
        "rope_sin": rope_sin,
        **_modulation(components, sampling, jump, latents.shape[:2]),
    }
    denoiser = components.get("denoiser")
    results = [denoiser.infer(**shared, **vars(each))["z_r"] for each in sampling.conditionings]
    if len(results) == 1:
        return results[0]
    without, with_prompt = results
    return without + np.float32(sampling.guidance_scale) * (with_prompt - without)


def _modulation(
    components: Components, sampling: Sampling, jump: Jump, batch_frames: tuple[int, ...]
) -> dict[str, Any]:
    """The embedding of one (t, r), computed once and repeated for every frame of every video."""
    scale = sampling.architecture.scheduler.num_train_timesteps
    t = np.full((1, 1), jump.t * scale, np.float32)
    r = np.full((1, 1), jump.r * scale, np.float32) if sampling.mean_velocity else t
    embedded = components.get("time_embedder").infer(t=t, r=r)
    return {
        name: np.ascontiguousarray(np.broadcast_to(value, (*batch_frames, *value.shape[2:])))
        for name, value in embedded.items()
    }
