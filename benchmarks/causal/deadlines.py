"""Deadlines of chunks on this machine: a rate that four steps sustain, other work that comes and goes, and a player.

The rate is measured first: ``FILLED`` of the highest that four steps keep on the calm machine and one step keeps beside
other processes that burn all cores in bursts. What is late with one step no choice of steps could mend, so at a higher
rate nothing would be learnt of it. Then streams with deadlines, of four steps and of one take turns, calm and beside
the others; a chunk stalls where the player waits for it.

Those of a fixed number have deadlines too, and so the same engines, each on half of the cores. Afterwards four steps
are played as a stream without deadlines is, each engine on all cores, beside the same bursts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from anyflow_rt.benchmarks.budget.burners import Burners
from anyflow_rt.benchmarks.budget.calm import own_state
from anyflow_rt.benchmarks.budget.simulated import USUAL_BURSTS
from anyflow_rt.benchmarks.causal.common import EIGHT_CHUNKS, STEPS, gates, load, prompt_of, stream_gate
from anyflow_rt.benchmarks.measure import BusyMachineError, Conditions, Sample
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.benchmarks.statistics.wilson import wilson
from anyflow_rt.result import Result
from anyflow_rt.runtime import Runtime

ALL_CORES = "four steps, each engine on all cores"
FRAMES = 321
"""Forty-one chunks."""
FILLED = 0.85
"""Of the highest rate that would do: a machine has moods, and the one in which it was measured may not last."""
CONFIDENCE = 0.99
LEARNING = 5
"""Streams before anything is counted."""
STREAMS = 4
"""A round, of each kind."""
CALM, CONTENDED = 12, 48
"""Streams that a rate is measured with: of four steps; and of one, which have to meet enough bursts."""
STALLS = 0.01
"""Target: of the chunks with deadlines. A rate is kept where a quarter as many are late."""
BITES = 0.05
"""Target: of the chunks of four steps, under the same load. Where fewer come late, the load is none to keep up with."""
SEEDS = (48, 0)
"""Of the bursts: while the rate is measured, and while it is played."""
CLOSE = 1.01
"""Of two rates, a kept one and a higher one that is not, when they are near enough."""


@dataclass(frozen=True)
class Played:
    """What a player met in several streams. steps: of every chunk made."""

    chunks: int
    stalls: int
    waited: float
    steps: tuple[int, ...]

    @property
    def share(self) -> float:
        """Of the chunks after the first, those that came late."""
        return self.stalls / self.chunks

    def __str__(self) -> str:
        low, high = wilson(self.stalls, self.chunks)
        return (
            f"{self.stalls} of {self.chunks} chunks late ({self.share:.2%}, interval {low:.2%} to {high:.2%}), "
            f"{self.waited:.2f} s waited in all, {statistics.mean(self.steps):.2f} steps a chunk"
        )


def run(conditions: Conditions) -> Outcome:
    """Calm, then contended; in each, all kinds of stream take turns but the one whose engines are others.

    Raises ParityError, before anything is measured, where what is streamed is not diffusers' video.
    """
    with own_state(), load() as runtime:
        same = [*gates([runtime], [EIGHT_CHUNKS]), stream_gate(runtime, EIGHT_CHUNKS)]
        watch = conditions.quiet()
        four, one = _calm_and_contended(runtime)
        rate = FILLED * min(four, one)
        kinds: dict[str, dict[str, Any]] = {
            "deadlines": {"steps": STEPS, "fps": rate, "fps_deadline": True, "confidence": CONFIDENCE},
            "four steps": _always(STEPS, rate),
            "one step": _always(1, rate),
        }
        plain = {ALL_CORES: {"steps": STEPS, "fps": rate}}
        for number in range(LEARNING):  # what jumps take is learnt from a runtime's own streams
            _stream(runtime, -1 - number, **kinds["deadlines"])
        calm = _play(runtime, kinds, conditions.rounds, nullcontext)
        others = conditions.still_quiet(watch)
        contended = _play(runtime, kinds, 2 * conditions.rounds, lambda: _bursts(SEEDS[1]))
        _stream(runtime, 0, **plain[ALL_CORES])  # opens its engines
        contended |= _play(runtime, plain, 2 * conditions.rounds, lambda: _bursts(SEEDS[1]))
    notes = [
        *same,
        f"played at {rate:.1f} frames a second, {FILLED:g} of what four steps keep on the calm machine ({four:.1f}) "
        f"and one step beside others ({one:.1f}), whichever is less",
        f"deadlines are planned at confidence {CONFIDENCE:g}",
    ]
    samples = []
    for machine, played in (("calm", calm), ("contended", contended)):
        for kind, found in played.items():
            notes.append(f"{machine}, {kind}: {found}")
            samples.append(Sample(f"{machine}, {kind}: steps of a chunk", found.steps, ""))
    kept, fixed = (contended[kind].share for kind in ("deadlines", "four steps"))
    if fixed < BITES:
        notes.append(f"contention did not bite: {fixed:.2%} of the chunks of four steps came late, under {BITES:.0%}")
    return Outcome(
        "causal deadlines: 321 frames of 64x64, at most 4 steps",
        tuple(samples),
        (),
        (
            Target("late chunks, contended", 100 * kept, 100 * STALLS, at_least=False, unit="%"),
            Target("late chunks of four steps, contended", 100 * fixed, 100 * BITES, at_least=True, unit="%"),
        ),
        tuple(notes),
        others,
    )


def _always(steps: int, rate: float = 1.0) -> dict[str, Any]:
    """A stream that has deadlines, and so the engines of one, and no choice."""
    return {"steps": steps, "min_steps": steps, "fps": rate, "fps_deadline": True}


def _bursts(seed: int) -> Burners:
    return Burners(pause=USUAL_BURSTS.pause, burst=USUAL_BURSTS.burst, seed=seed)


def _calm_and_contended(runtime: Runtime) -> tuple[float, float]:
    """The highest rates, frames a second, that four steps keep on the calm machine, and one step beside others."""
    for number in range(LEARNING):
        _stream(runtime, number, **_always(STEPS))
    calm = [_stream(runtime, number, **_always(STEPS)) for number in range(CALM)]
    with _bursts(SEEDS[0]):
        beside = [_stream(runtime, number, **_always(1)) for number in range(CONTENDED)]
    return kept_rate(calm), kept_rate(beside)


def kept_rate(results: list[Result]) -> float:
    """The highest rate at which at most a quarter of ``STALLS`` of these streams' chunks are late.

    A stream whose reader takes all at once makes the same chunks at the same times whatever its player's rate is: so
    every rate is asked of the same streams. Raises BusyMachineError where even one frame a second is not kept.
    """

    def kept(rate: float) -> bool:
        return _played(results, rate).share <= STALLS / 4

    low = high = 1.0
    if not kept(low):
        raise BusyMachineError("this machine does not make a frame a second without a stall; nothing is compared here")
    while kept(high := 2 * high):
        low = high
    while high > CLOSE * low:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if kept(middle) else (low, middle)
    return low


def _stream(runtime: Runtime, number: int, **options: Any) -> Result:
    """One stream to a reader that takes every chunk at once."""
    prompt, seed = prompt_of(number)
    with runtime.stream(prompt, seed=seed, num_frames=FRAMES, **options) as chunks:
        for _ in chunks:
            pass
        return chunks.result()


def _play(
    runtime: Runtime,
    kinds: dict[str, dict[str, Any]],
    rounds: int,
    machine: Callable[[], AbstractContextManager[object]],
) -> dict[str, Played]:
    results: dict[str, list[Result]] = {kind: [] for kind in kinds}
    with machine():
        for number in range(rounds * STREAMS):
            order = list(kinds)
            for kind in order[number % len(order) :] + order[: number % len(order)]:
                results[kind].append(_stream(runtime, number, **kinds[kind]))
    return {kind: _played(found) for kind, found in results.items()}


def _played(results: list[Result], rate: float | None = None) -> Played:
    """At the rates of the streams, or all at ``rate``."""
    reports = [result.stream for result in results if result.stream is not None]
    if rate is not None:
        reports = [replace(report, fps=rate) for report in reports]
    stalls = [stall for report in reports for stall in report.stalls[1:]]
    steps = tuple(chunk.steps for result in results for chunk in result.chunks)
    return Played(len(stalls), sum(stall > 0 for stall in stalls), sum(stalls), steps)
