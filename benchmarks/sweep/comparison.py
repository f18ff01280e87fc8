"""Our runs beside diffusers' on the same checkpoint, prompts and seeds, in one process, in turns.

diffusers runs in float32 and bfloat16, eager and with torch.compile; its fastest is what we are compared with. No
figure is given unless our frames, and those of the way that is timed, are those of diffusers in float32 and eager
within the bounds of ``anyflow_rt.parity``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from anyflow_rt import parity
from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.measure import alternate
from anyflow_rt.benchmarks.results.values import Parity, PeerSamples
from anyflow_rt.benchmarks.sweep.journal import Key
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally
from anyflow_rt.benchmarks.sweep.watching import watched
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.runtime import Runtime

STEPS = 4
WARM_UPS = 2
MOST_ROUNDS = 10
OURS = "anyflow-rt"


def compare(options: SweepOptions, runtime: Runtime, tally: Tally) -> tuple[Parity, tuple[PeerSamples, ...]]:
    """The verdict on our frames, and interleaved times at 4 steps (or the fewest of the sweep that are not 1).

    A way of diffusers whose own frames are not the reference's within the bounds is left out, which the verdict says.
    """
    record = runtime.bundle.manifest.checkpoint
    checkpoint = load_checkpoint(record.id, revision=record.revision)
    steps = STEPS if STEPS in options.steps else max(options.steps, key=lambda n: (n > 1, -n))
    case = parity.Case(
        prompts=options.prompts[:1],
        steps=steps,
        size=runtime.bundle.defaults.size,
        seed=options.first_seed,
    )
    reference = parity.Reference(checkpoint.path)
    found = parity.compare(reference, runtime, case)
    if not found.holds:
        return Parity(False, (str(found),)), ()
    key = (steps,)

    def measure(_: Key) -> list[Any]:
        theirs = peers.pipelines(checkpoint.path, steps=steps, size=case.size)
        tally.say(f"warming up diffusers: {', '.join(theirs)}")
        wanted = reference.run(case)[1]
        verdicts = {name: _agreement(name, call(case.prompts[0], case.seed), wanted) for name, call in theirs.items()}
        agreeing = {name: call for name, call in theirs.items() if verdicts[name][0]}
        contenders = _contenders(options, runtime, agreeing, steps)
        for contender in contenders.values():
            for number in range(WARM_UPS):
                contender(-1 - number)
        with watched(tally, "the peer"):
            samples = alternate(contenders, min(options.rounds, MOST_ROUNDS))
        seconds = {name: list(sample.values) for name, sample in samples.items()}
        return [[text for _, text in verdicts.values()], seconds]

    details, seconds = tally.each("peer", [key], measure)[key]
    ours = tuple(seconds[OURS])
    timed = {name: tuple(theirs) for name, theirs in seconds.items() if name != OURS}
    return (
        Parity(True, (f"{OURS} {found}", *details)),
        tuple(PeerSamples(name, steps, ours, theirs) for name, theirs in timed.items()),
    )


def _agreement(name: str, frames: np.ndarray, wanted: np.ndarray) -> tuple[bool, str]:
    """Whether frames (1, T, H, W, 3) in [0, 1] are the reference's uint8 ones, and a sentence about it."""
    precision = peers.variants()[name][0]
    difference = np.round(frames * 255).astype(np.int16) - wanted.astype(np.int16)
    error, decibels = int(np.abs(difference).max()), parity.peak_signal_to_noise(difference)
    holds = error <= parity.FRAME_BOUND if precision == "fp32" else decibels >= parity.PSNR_BOUND
    said = f"{name}: frames at most {error}/255 off, {decibels:.1f} dB"
    return holds, said if holds else f"{said}, so it is left out"


def _contenders(
    options: SweepOptions, runtime: Runtime, theirs: Mapping[str, peers.Generate], steps: int
) -> dict[str, Callable[[int], object]]:
    def run(number: int) -> tuple[str, int]:
        return options.prompts[number % len(options.prompts)], options.first_seed + number

    def ours(number: int) -> object:
        prompt, seed = run(number)
        return runtime.generate(prompt, steps=steps, seed=seed)

    found: dict[str, Callable[[int], object]] = {OURS: ours}
    for name, call in theirs.items():
        found[name] = lambda number, call=call: call(*run(number))  # type: ignore[misc]
    return found
