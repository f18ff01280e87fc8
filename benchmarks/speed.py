"""Whole ``generate`` calls on the shapes checkpoint: ours against diffusers, both in this process."""

from __future__ import annotations

from collections.abc import Callable

import anyflow_rt
from anyflow_rt import parity
from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.measure import Conditions, Sample, alternate, fastest, ratios
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.engines import registry
from anyflow_rt.errors import ParityError
from anyflow_rt.loading import SHAPES_CHECKPOINT
from anyflow_rt.runtime import Runtime

STEPS = 4
WARM_UPS = 3
OVER_EAGER, OVER_BEST = 4.0, 2.0
"""Targets: our best against diffusers as a user gets it (fp32, eager), and against its best."""


def run(conditions: Conditions) -> Outcome:
    """Prompt to frames in memory; the prompt and the seed differ in every round, and nothing is kept between calls.

    Raises ParityError, before anything is timed, where our frames are not those of diffusers.
    """
    peers.require_diffusers("the speed benchmark")
    runtimes = {f"anyflow-rt {each}": anyflow_rt.load(precision=each) for each in _precisions()}
    try:
        notes = [_gate(runtime) for runtime in runtimes.values()]
        contenders = {name: _ours(runtime) for name, runtime in runtimes.items()} | _theirs(runtimes)
        for note in notes:
            conditions.say(note)
        conditions.say(f"warming up {len(contenders)} contenders, {WARM_UPS} calls each")
        for contender in contenders.values():
            for number in range(WARM_UPS):
                contender(-1 - number)
        watch = conditions.quiet()
        samples = alternate(contenders, conditions.rounds)
        others = conditions.still_quiet(watch)
    finally:
        for runtime in runtimes.values():
            runtime.close()
    if not peers.can_compile():
        notes.append("torch.compile was not measured: there is no C++ compiler here")
    return _outcome(samples, notes, others)


def _precisions() -> list[str]:
    """fp32, and what a user gets where that is another."""
    return list(dict.fromkeys(("fp32", registry.default_precision(registry.default_engine())[0])))


def _gate(runtime: Runtime) -> str:
    size = runtime.bundle.defaults.size
    case = parity.Case(prompts=(_input(-1)[0],), steps=STEPS, size=size, seed=1)
    found = parity.compare(parity.Reference(SHAPES_CHECKPOINT), runtime, case)
    if not found.holds:
        raise ParityError(f"no speed is reported of frames that are not diffusers': {found}; see anyflow_rt.parity")
    return f"same video as diffusers fp32, {found}"


def _input(number: int) -> tuple[str, int]:
    """Prompt and seed of a round; negative numbers are warm-ups."""
    prompts = held_out_prompts(64)
    return prompts[number % len(prompts)][0], 1000 + number


def _ours(runtime: Runtime) -> Callable[[int], object]:
    def generate(number: int) -> object:
        prompt, seed = _input(number)
        return runtime.generate(prompt, steps=STEPS, seed=seed)

    return generate


def _theirs(runtimes: dict[str, Runtime]) -> dict[str, Callable[[int], object]]:
    size = next(iter(runtimes.values())).bundle.defaults.size
    return {
        name: lambda number, call=call: call(*_input(number))  # type: ignore[misc]
        for name, call in peers.pipelines(SHAPES_CHECKPOINT, steps=STEPS, size=size).items()
    }


def _outcome(samples: dict[str, Sample], notes: list[str], others: float) -> Outcome:
    ours = fastest([sample for name, sample in samples.items() if name.startswith("anyflow-rt")])
    best = fastest([sample for name, sample in samples.items() if name.startswith("diffusers")])
    eager, ours_fp32 = samples["diffusers fp32 eager"], samples["anyflow-rt fp32"]
    over_eager = ratios(f"{eager.name} / {ours.name}", eager, ours)
    over_best = ratios(f"{best.name} (its best) / {ours.name}", best, ours)
    best_fp32 = fastest([sample for name, sample in samples.items() if name.startswith("diffusers fp32")])
    same = [
        ratios(f"{each.name} / {ours_fp32.name}", each, ours_fp32)
        for each in {eager.name: eager, best_fp32.name: best_fp32}.values()
    ]
    return Outcome(
        "speed: prompt to frames, shapes checkpoint, 4 steps",
        tuple(samples.values()),
        (over_eager, over_best, *same),
        (
            Target("our best over diffusers fp32 eager", over_eager.median, OVER_EAGER, at_least=True),
            Target("our best over its best", over_best.median, OVER_BEST, at_least=True),
        ),
        tuple(notes),
        others,
    )
