"""A causal checkpoint's video, chunk by chunk: each is denoised, handed on, and remembered for those after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines.chunks import ChunkLayout
from anyflow_rt.memory import give_back_free_memory
from anyflow_rt.sampling.chunk_cache import ChunkCache
from anyflow_rt.sampling.chunk_memory import ChunkMemory
from anyflow_rt.sampling.executor import Jumped, OnStep, Sampling, run_jumps
from anyflow_rt.sampling.guide import Guide
from anyflow_rt.sampling.in_place_cache import InPlaceCache

TIDIED_EVERY = 4
"""Chunks between looks at what engines and allocator hold: each attends to more than the one before, so every buffer of
the last one is too small for the next, and what is freed in pieces would pile up."""
GROWING = ("denoiser", "cache_writer")
"""The components that attend to ever more."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """One chunk that is finished. latents (N, f, C, h, w); jumped: None where it was given; cache_seconds: of the
    passes that remember the chunk before it."""

    index: int
    latents: np.ndarray
    jumped: Jumped | None
    cache_seconds: float


def run_chunks(
    components: Components,
    sampling: Sampling,
    layout: ChunkLayout,
    noise: np.ndarray,
    context: np.ndarray | None,
    guide: Callable[[int], Guide],
    *,
    on_step: OnStep | None = None,
    incremental: bool = True,
) -> Iterator[Chunk]:
    """Carry ``noise`` (N, F, C, h, w) to data, one chunk after another, as ``guide(chunk)`` leads each.

    context (1 or N, f, C, h, w): the latents that fill the first ``layout.context`` frames. Nothing is computed before
    a chunk is asked for. Whatever ``on_step`` raises ends the run and reaches the caller. incremental: see
    ``ChunkMemory``.
    """
    memory = _memory(components, sampling, layout, incremental=incremental)
    latents = np.zeros_like(noise)
    if context is not None:
        latents[:, : layout.context] = context
    for index in range(len(layout)):
        begun = time.perf_counter()
        if index:
            memory.finish(latents)
        if index % TIDIED_EVERY == TIDIED_EVERY - 1:
            for name in GROWING:
                components.get(name).shrink()
            give_back_free_memory()
        remembered = time.perf_counter() - begun
        start, stop = layout.bounds(index)
        jumped = None
        if index >= layout.context_chunks:
            here = replace(sampling, rope=layout.rope(index, far=False), caches=memory.inputs())
            jumped = run_jumps(
                components,
                here,
                guide(index),
                np.ascontiguousarray(noise[:, start:stop]),
                on_step=on_step,
                chunk=(index, len(layout)),
            )
            latents[:, start:stop] = jumped.latents
        yield Chunk(index, latents[:, start:stop], jumped, remembered)


def _memory(components: Components, sampling: Sampling, layout: ChunkLayout, *, incremental: bool) -> ChunkMemory:
    """Where the engine has caches of its own, in these, else in arrays of ours."""
    shape = layout.cache_shape(sampling.videos, layout.most_seen)
    caches = components.get("denoiser").new_caches(len(sampling.conditionings), shape)
    if caches is None:
        return ChunkCache(components, sampling, layout, incremental=incremental)
    return InPlaceCache(components, sampling, layout, caches, incremental=incremental)
