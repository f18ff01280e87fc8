"""Makes the jumps of a run, one denoiser call each, as a guide says: a plan, or a controller with a deadline.

The guide is asked before every jump. The state stays in float32 between them; a preview's jump leaves it as it was.
"""

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
from anyflow_rt.sampling.guide import Guide
from anyflow_rt.sampling.schedule import Jump


@dataclass(frozen=True)
class Step:
    """What ``on_step`` is told after each jump. ``latents`` (N, F, C, h, w) float32 is to be read, not written.

    steps: jumps of the whole run; with a budget as they are planned now.
    """

    index: int
    steps: int
    t: float
    r: float
    latents: np.ndarray
    seconds: float


OnStep = Callable[[Step], object]
OnPreview = Callable[[int, np.ndarray], object]
"""Told the number of jumps made and the latents (N, F, C, h, w) that a jump to 0 leads to from there."""


@dataclass(frozen=True)
class Sampling:
    """How every jump of a run is made."""

    architecture: Architecture
    size: LatentSize
    conditionings: Sequence[Conditioning]
    """One, or two for guidance: of the negative prompt, then of the prompt."""
    guidance_scale: float = 1.0
    mean_velocity: bool = True


@dataclass(frozen=True, eq=False)
class Jumped:
    """The final latents, the jumps that led there and the seconds of each; previews' are not among them."""

    latents: np.ndarray
    jumps: tuple[Jump, ...]
    seconds: tuple[float, ...]


def run_jumps(
    components: Components,
    sampling: Sampling,
    guide: Guide,
    noise: np.ndarray,
    *,
    on_step: OnStep | None = None,
    on_preview: OnPreview | None = None,
) -> Jumped:
    """Carry ``noise`` (N, F, C, h, w) where ``guide`` leads.

    Whatever ``on_step`` and ``on_preview`` raise ends the run and reaches the caller.
    """
    latents = noise
    jumps: list[Jump] = []
    seconds: list[float] = []
    while (move := guide.next_move()) is not None:
        start = time.perf_counter()
        landed = make_jump(components, sampling, move.jump, latents)
        taken = time.perf_counter() - start
        guide.made(move, taken)
        if move.preview:
            if on_preview is not None:
                on_preview(len(jumps), landed)
            continue
        latents = landed
        jumps.append(move.jump)
        seconds.append(taken)
        if on_step is not None:
            on_step(Step(len(jumps) - 1, move.steps, move.jump.t, move.jump.r, latents, taken))
    return Jumped(latents, tuple(jumps), tuple(seconds))


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
