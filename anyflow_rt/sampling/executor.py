"""Makes the jumps of a run, one denoiser call each, as a guide says: a plan, or a controller with a deadline.

The guide is asked before every jump. The state stays in float32 between them, and on a GPU where the engine leaves it
there; a preview's jump leaves it as it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.conditioning import Conditioning
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.arrays import to_host
from anyflow_rt.engines.geometry import LatentSize, rope_tables, token_grid
from anyflow_rt.sampling.guide import Guide
from anyflow_rt.sampling.schedule import Jump


@dataclass(frozen=True)
class Step:
    """What ``on_step`` is told after each jump. state: ``latents``, where the engine has them.

    steps: jumps of the whole run; with a budget as they are planned now. chunk, chunks: of a causal checkpoint, whose
    chunks are denoised one after another; index, steps and latents are then the chunk's.
    """

    index: int
    steps: int
    t: float
    r: float
    state: Any
    seconds: float
    chunk: int = 0
    chunks: int = 1

    @cached_property
    def latents(self) -> np.ndarray:
        """(N, F, C, h, w) float32, to be read, not written. Copied from a GPU when it is first asked for."""
        return to_host(self.state)


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
    given: int = 0
    """The first frames as they are: at time 0 from the beginning."""
    rope: tuple[np.ndarray, np.ndarray] | None = None
    """Of the frames in work; None where they are all of the video."""
    caches: Sequence[Mapping[str, np.ndarray]] = ()
    """What earlier chunks left: inputs of the denoiser, for each of ``conditionings``; none where all is one chunk."""

    @property
    def videos(self) -> int:
        """How many are made side by side."""
        return int(self.conditionings[0].context_bias.shape[0])


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
    chunk: tuple[int, int] = (0, 1),
) -> Jumped:
    """Carry ``noise`` (N, F, C, h, w) where ``guide`` leads. chunk: which of how many it is, for ``on_step``.

    Whatever ``on_step`` and ``on_preview`` raise ends the run and reaches the caller.
    """
    latents: Any = noise
    jumps: list[Jump] = []
    seconds: list[float] = []
    while (move := guide.next_move()) is not None:
        start = time.perf_counter()
        landed = make_jump(components, sampling, move.jump, latents)
        taken = time.perf_counter() - start
        guide.made(move, taken)
        if move.preview:
            if on_preview is not None:
                on_preview(len(jumps), to_host(landed))
            continue
        latents = landed
        jumps.append(move.jump)
        seconds.append(taken)
        if on_step is not None:
            on_step(Step(len(jumps) - 1, move.steps, move.jump.t, move.jump.r, latents, taken, *chunk))
    return Jumped(to_host(latents), tuple(jumps), tuple(seconds))


def make_jump(components: Components, sampling: Sampling, jump: Jump, latents: Any) -> Any:
    """Latents (N, F, C, h, w) at ``jump.t`` -> at ``jump.r``, guided where the sampling is. An engine on a GPU leaves
    them there, and takes them from there."""
    transformer = sampling.architecture.transformer
    rope_cos, rope_sin = sampling.rope or rope_tables(transformer, token_grid(transformer, sampling.size))
    interval = np.full(latents.shape[:2], jump.t - jump.r, np.float32)
    interval[:, : sampling.given] = 0.0
    shared = {
        "latents": latents,
        "interval": interval,
        "rope_cos": rope_cos,
        "rope_sin": rope_sin,
        **modulation(components, sampling, jump, latents.shape[:2]),
    }
    denoiser = components.get("denoiser")
    caches = sampling.caches or [{}] * len(sampling.conditionings)
    results = [
        denoiser.infer(**shared, **vars(each), **cache)["z_r"]
        for each, cache in zip(sampling.conditionings, caches, strict=True)
    ]
    if len(results) == 1:
        return results[0]
    without, with_prompt = results
    return without + (with_prompt - without) * np.float32(sampling.guidance_scale)


def modulation(components: Components, sampling: Sampling, jump: Jump, batch_frames: tuple[int, ...]) -> dict[str, Any]:
    """The embedding of one (t, r), computed once and repeated for every frame of every video.

    Frames that are given have t = 0, and the jump's own r; without mean velocity r is t for them too.
    """
    wanted = [(jump.t, jump.r if sampling.mean_velocity else jump.t)]
    if sampling.given:
        wanted.insert(0, (0.0, jump.r if sampling.mean_velocity else 0.0))
    scale = sampling.architecture.scheduler.num_train_timesteps
    t, r = (np.array([[time * scale for time in times]], np.float32) for times in zip(*wanted, strict=True))
    embedded = components.get("time_embedder").infer(t=t, r=r)
    frames = [0] * sampling.given + [len(wanted) - 1] * (batch_frames[1] - sampling.given)
    return {
        name: np.ascontiguousarray(np.broadcast_to(value[:, frames], (*batch_frames, *value.shape[2:])))
        for name, value in embedded.items()
    }
