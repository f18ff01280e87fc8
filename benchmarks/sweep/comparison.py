"""Our runs beside diffusers' on the same checkpoint, prompts and seeds, in one process, in turns.

diffusers runs in float32 and bfloat16, eager and with torch.compile; its fastest is what we are compared with. No
figure is given unless our frames are diffusers' within the bounds of ``anyflow_rt.parity``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from anyflow_rt import parity
from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.measure import alternate
from anyflow_rt.benchmarks.results.values import Parity, PeerSamples
from anyflow_rt.benchmarks.sweep.journal import Key
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.runtime import Runtime

STEPS = 4
WARM_UPS = 2
MOST_ROUNDS = 10
OURS = "anyflow-rt"


def compare(options: SweepOptions, runtime: Runtime, tally: Tally) -> tuple[Parity, tuple[PeerSamples, ...]]:
    """The verdict on our frames, and interleaved times at 4 steps (or the fewest of the sweep that are not 1)."""
    record = runtime.bundle.manifest.checkpoint
    checkpoint = load_checkpoint(record.id, revision=record.revision)
    steps = STEPS if STEPS in options.steps else max(options.steps, key=lambda n: (n > 1, -n))
    case = parity.Case(
        prompts=options.prompts[:1],
        steps=steps,
        size=runtime.bundle.defaults.size,
        seed=options.first_seed,
    )
    found = parity.compare(parity.Reference(checkpoint.path), runtime, case)
    verdict = Parity(found.holds, (str(found),))
    if not found.holds:
        return verdict, ()
    contenders = _contenders(options, runtime, checkpoint.path, steps)
    rounds = min(options.rounds, MOST_ROUNDS)

    def measure(_: Key) -> dict[str, list[float]]:
        tally.say(f"warming up diffusers: {', '.join(name for name in contenders if name != OURS)}")
        for contender in contenders.values():
            for number in range(WARM_UPS):
                contender(-1 - number)
        return {name: list(sample.values) for name, sample in alternate(contenders, rounds).items()}

    seconds = tally.each("peer", [(steps,)], measure)[(steps,)]
    ours = tuple(seconds.pop(OURS))
    return verdict, tuple(PeerSamples(name, steps, ours, tuple(theirs)) for name, theirs in seconds.items())


def _contenders(
    options: SweepOptions, runtime: Runtime, checkpoint: Path, steps: int
) -> dict[str, Callable[[int], object]]:
    def run(number: int) -> tuple[str, int]:
        return options.prompts[number % len(options.prompts)], options.first_seed + number

    def ours(number: int) -> object:
        prompt, seed = run(number)
        return runtime.generate(prompt, steps=steps, seed=seed)

    found: dict[str, Callable[[int], object]] = {OURS: ours}
    size = runtime.bundle.defaults.size
    for name, call in peers.pipelines(checkpoint, steps=steps, size=size).items():
        found[name] = lambda number, call=call: call(*run(number))  # type: ignore[misc]
    return found
