"""What the chunks of a clip cost: writing keys and values incrementally against all anew, and chunk against chunk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from anyflow_rt.benchmarks.causal.common import EIGHT_CHUNKS, STEPS, gates, layout_of, load, prompt_of
from anyflow_rt.benchmarks.measure import Conditions, Sample, interleave, ratios
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.engines.chunks import ChunkLayout, cache_flops, flops
from anyflow_rt.errors import ParityError
from anyflow_rt.generation import make_sampling
from anyflow_rt.noise import initial_noise
from anyflow_rt.parity import LATENT_BOUND
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.chunked import run_chunks
from anyflow_rt.sampling.guide import PlanGuide
from anyflow_rt.sampling.recorder import RunRecorder
from anyflow_rt.sampling.schedule import uniform_plan

LONG = 321
"""Frames of the clip whose chunks are compared: 41 of them, of 2 latent frames."""
WARM_UPS = 2
FOURTH = 3
JUDGED = (11, 28)
"""Chunks held against the fourth beside the last, where there are as many: the last of 81 frames, and as many as the
released checkpoints' 321 frames have."""
FLAT = 1.15
"""Target: each of those over the fourth."""


@dataclass(frozen=True, eq=False)
class Run:
    """cache, chunk: seconds of writing keys and values before each chunk, and of each chunk with that."""

    cache: tuple[float, ...]
    chunk: tuple[float, ...]
    latents: np.ndarray


def run(conditions: Conditions) -> Outcome:
    """Raises ParityError where our video is not diffusers', or both ways of writing do not give the same latents."""
    with load("fp32") as runtime:
        notes = list(gates([runtime], [EIGHT_CHUNKS]))
        ways = {"incremental": True, "all anew": False}
        contenders = {name: partial(_run, runtime, EIGHT_CHUNKS, way) for name, way in ways.items()}
        contenders["long"] = partial(_run, runtime, LONG, True)
        for contender in contenders.values():
            for number in range(WARM_UPS):
                contender(-1 - number)
        watch = conditions.quiet()
        found = interleave(contenders, 3 * conditions.rounds)
        others = conditions.still_quiet(watch)
        eight, long = layout_of(runtime, EIGHT_CHUNKS), layout_of(runtime, LONG)
    notes += [_same(found["incremental"], found["all anew"]), _counts(eight)]
    seconds = {
        name: Sample(f"writing keys and values, 8 chunks, {name}", tuple(sum(each.cache) for each in found[name]))
        for name in ways
    }
    saved = ratios("all anew / incremental", seconds["all anew"], seconds["incremental"])
    predicted = sum(cache_flops(eight, incremental=False)) / sum(cache_flops(eight))
    chunks = _by_chunk(found["long"])
    judged = [index - 1 for index in JUDGED if index < len(chunks)] + [len(chunks) - 1]
    flat = [ratios(f"{chunks[index].name} / {chunks[FOURTH].name}", chunks[index], chunks[FOURTH]) for index in judged]
    notes += [
        f"arithmetic says {_arithmetic(long, index):.3f} of chunk {index + 1} over the fourth" for index in judged
    ]
    return Outcome(
        "causal chunks: 64x64, 4 steps, fp32",
        (*seconds.values(), *chunks),
        (saved, *flat),
        (
            Target("cache passes, all anew over incremental; FLOPs say", saved.median, predicted, at_least=True),
            *(Target(each.name, each.median, FLAT, at_least=False) for each in flat),
        ),
        tuple(notes),
        others,
    )


def _run(runtime: Runtime, frames: int, incremental: bool, number: int) -> Run:
    """One clip chunk by chunk, without decoding."""
    prompt, seed = prompt_of(number)
    sampling, _ = make_sampling(runtime._loaded, runtime._request(prompt, "latents", num_frames=frames))
    size, shift = sampling.size, sampling.architecture.scheduler.shift
    made = run_chunks(
        runtime._components,
        sampling,
        layout_of(runtime, frames),
        initial_noise(seed, 1, size.channels, size.frames, size.height, size.width),
        None,
        lambda index: PlanGuide(uniform_plan(STEPS, shift), RunRecorder()),
        incremental=incremental,
    )
    chunks = list(made)
    jumps = [sum(chunk.jumped.seconds) for chunk in chunks if chunk.jumped is not None]
    cache = tuple(chunk.cache_seconds for chunk in chunks)
    whole = tuple(written + jumped for written, jumped in zip(cache, jumps, strict=True))
    return Run(cache, whole, np.concatenate([chunk.latents for chunk in chunks], axis=1))


def _same(incremental: Sequence[Run], anew: Sequence[Run]) -> str:
    """What to say of how far the latents of both ways lie apart. Raises ParityError where that is too far."""
    errors = [
        float(np.linalg.norm(one.latents - other.latents) / np.linalg.norm(other.latents))
        for one, other in zip(incremental, anew, strict=True)
    ]
    if max(errors) > LATENT_BOUND:
        raise ParityError(f"incremental and full caches lead {max(errors):.1e} apart; the bound is {LATENT_BOUND:.0e}")
    return f"latents of both ways at most {max(errors):.1e} apart"


def _counts(layout: ChunkLayout) -> str:
    passes = [
        sum(len(layout.to_write(finished, incremental=way)) for finished in range(1, len(layout)))
        for way in (False, True)
    ]
    return f"passes of the writer at {len(layout)} chunks: {passes[0]} all anew, {passes[1]} incremental"


def _by_chunk(runs: Sequence[Run]) -> list[Sample]:
    """Seconds of every chunk of a clip, jumps and cache, over the runs."""
    return [
        Sample(f"chunk {index + 1} of {len(runs[0].chunk)}", tuple(each.chunk[index] for each in runs))
        for index in range(len(runs[0].chunk))
    ]


def _arithmetic(layout: ChunkLayout, index: int) -> float:
    """What a chunk's jumps and cache cost over the fourth's, counted."""
    cache = (0.0, *cache_flops(layout))
    cost, fourth = (STEPS * flops(layout, each) + cache[each] for each in (index, FOURTH))
    return cost / fourth
