"""Whole runs of the causal shapes checkpoint: ours against diffusers' ``AnyFlowFARPipeline``, both in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.causal.common import (
    EIGHT_CHUNKS,
    STEPS,
    gates,
    layout_of,
    load,
    precisions,
    prompt_of,
    sized,
)
from anyflow_rt.benchmarks.measure import Conditions, Sample, alternate, fastest, ratios
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.runtime import Runtime
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

WARM_UPS = 1
OVER_EAGER = 4.0
"""Target: our best against diffusers as a user gets it, fp32."""


def run(conditions: Conditions) -> Outcome:
    """Prompt to frames in memory, of the checkpoint's own length and of eight chunks; another prompt and seed in every
    round.

    Raises ParityError, before anything is timed, where our frames are not those of diffusers.
    """
    peers.require_diffusers("the causal speed benchmark")
    runtimes = {f"anyflow-rt {each}": load(each) for each in precisions()}
    try:
        lengths = [next(iter(runtimes.values())).bundle.defaults.size.num_frames, EIGHT_CHUNKS]
        notes = list(gates(list(runtimes.values()), lengths))
        for note in notes:
            conditions.say(note)
        theirs = {name: peers.causal_pipeline(CAUSAL_CHECKPOINT, name) for name in peers.DTYPES}
        watch = conditions.quiet()
        samples = {frames: _measure(runtimes, theirs, frames, conditions.rounds) for frames in lengths}
        others = conditions.still_quiet(watch)
    finally:
        for runtime in runtimes.values():
            runtime.close()
    notes.append("diffusers' flex attention as PyTorch runs it uncompiled; tracing it for every shape takes minutes")
    return _outcome(samples, notes, others)


def _measure(
    runtimes: Mapping[str, Runtime], theirs: Mapping[str, peers.CausalGenerate], frames: int, rounds: int
) -> dict[str, Sample]:
    some = next(iter(runtimes.values()))
    size, chunks = sized(some, frames), layout_of(some, frames).partition
    contenders: dict[str, Callable[[int], object]] = {
        name: partial(_ours, runtime, frames) for name, runtime in runtimes.items()
    }
    for name, call in theirs.items():
        contenders[f"diffusers {name} eager"] = partial(_theirs, call, size, chunks)
    for contender in contenders.values():
        for number in range(WARM_UPS):
            contender(-1 - number)
    return alternate(contenders, rounds)


def _ours(runtime: Runtime, frames: int, number: int) -> object:
    prompt, seed = prompt_of(number)
    return runtime.generate(prompt, steps=STEPS, seed=seed, num_frames=frames)


def _theirs(call: peers.CausalGenerate, size: object, chunks: tuple[int, ...], number: int) -> object:
    return call(*prompt_of(number), STEPS, size, chunks)  # type: ignore[arg-type]


def _outcome(samples: Mapping[int, Mapping[str, Sample]], notes: list[str], others: float) -> Outcome:
    shown: list[Sample] = []
    compared: list[Sample] = []
    targets: list[Target] = []
    for frames, found in samples.items():
        named = {name: Sample(f"{frames} frames, {name}", each.values) for name, each in found.items()}
        ours = fastest([each for name, each in named.items() if name.startswith("anyflow-rt")])
        eager, best = named["diffusers fp32 eager"], fastest([v for k, v in named.items() if k.startswith("diffusers")])
        over_eager = ratios(f"{eager.name} / {ours.name}", eager, ours)
        shown += named.values()
        compared += [
            over_eager,
            ratios(f"{best.name} (its best) / {ours.name}", best, ours),
            ratios(f"{eager.name} / {named['anyflow-rt fp32'].name}", eager, named["anyflow-rt fp32"]),
        ]
        targets.append(
            Target(f"{frames} frames, our best over diffusers fp32 eager", over_eager.median, OVER_EAGER, True)
        )
    return Outcome(
        "causal speed: prompt to frames, causal shapes checkpoint, 4 steps",
        tuple(shown),
        tuple(compared),
        tuple(targets),
        tuple(notes),
        others,
    )
