"""Deadlines of chunks on this machine: a rate that four steps sustain, other work that comes and goes, and a player.

The rate is measured first, calm: four steps fill ``FILLED`` of a chunk's time, or less, until streams of four steps are
played without stalls. Then streams with deadlines and streams of four steps take turns while other processes burn all
cores in bursts; a chunk stalls where the player waits for it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
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

FRAMES = 321
"""Forty-one chunks."""
FILLED = 0.85
"""Of a chunk's time that four steps take on the calm machine."""
CONFIDENCE = 0.99
LEARNING = 5
"""Streams before anything is counted: what jumps take is learnt from a runtime's own streams."""
STREAMS = 4
"""A round, of each kind."""
STALLS = 0.01
"""Target: of the chunks with deadlines. And what four steps may have on the calm machine at a rate they sustain."""
BITES = 0.05
"""Target: of the chunks of four steps, under the same load. Where fewer come late, the load is none to keep up with."""
TRIES = 8
"""Rates, each ``FILLED`` of the one before, before the machine is called too uneven."""


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
    """Calm, then contended; in each, both kinds of stream take turns.

    Raises ParityError, before anything is measured, where what is streamed is not diffusers' video.
    """
    with own_state(), load() as runtime:
        same = [*gates([runtime], [EIGHT_CHUNKS]), stream_gate(runtime, EIGHT_CHUNKS)]
        watch = conditions.quiet()
        rate = _sustained(runtime)
        kinds: dict[str, dict[str, Any]] = {
            "deadlines": {"fps": rate, "fps_deadline": True, "confidence": CONFIDENCE},
            "four steps": {"fps": rate},
        }
        for number in range(LEARNING):
            _stream(runtime, -1 - number, **kinds["deadlines"])
        calm = _play(runtime, kinds, conditions.rounds, nullcontext)
        others = conditions.still_quiet(watch)
        contended = _play(runtime, kinds, 2 * conditions.rounds, lambda: _bursts(0))
    notes = [
        *same,
        f"played at {rate:.1f} frames a second, which four steps sustain on the calm machine; "
        f"deadlines are planned at confidence {CONFIDENCE:g}",
    ]
    samples = []
    for machine, played in (("calm", calm), ("contended", contended)):
        for kind, found in played.items():
            notes.append(f"{machine}, {kind}: {found}")
            samples.append(Sample(f"{machine}, {kind}: steps of a chunk", found.steps, ""))
    kept, fixed = (contended[kind].share for kind in kinds)
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


def _bursts(seed: int) -> Burners:
    return Burners(pause=USUAL_BURSTS.pause, burst=USUAL_BURSTS.burst, seed=seed)


def _sustained(runtime: Runtime) -> float:
    """Frames a second at which four steps fill ``FILLED`` of a chunk's time and stall no player: a machine has moods,
    and the one in which a chunk was timed may not last. Raises BusyMachineError where no rate is kept."""
    gaps: list[float] = []
    frames: list[int] = []
    for number in range(LEARNING):
        report = _stream(runtime, number, fps=1.0).stream
        assert report is not None
        # Of the first chunks and the last one: the decoder's and the denoiser's overlap is another there.
        gaps += [after - before for before, after in pairwise(report.ready)][3:-1]
        frames += report.frames[4:-1]
    rate = FILLED * statistics.median(count / gap for count, gap in zip(frames, gaps, strict=True))
    for _ in range(TRIES):
        if _played([_stream(runtime, number, fps=rate) for number in range(2 * STREAMS)]).share <= STALLS:
            return rate
        rate *= FILLED
    raise BusyMachineError(f"four steps stall a player even at {rate:.0f} frames a second; nothing is compared here")


def _stream(runtime: Runtime, number: int, **options: Any) -> Result:
    """One stream to a reader that takes every chunk at once."""
    prompt, seed = prompt_of(number)
    with runtime.stream(prompt, steps=STEPS, seed=seed, num_frames=FRAMES, **options) as chunks:
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
            for kind in list(kinds)[:: -1 if number % 2 else 1]:
                results[kind].append(_stream(runtime, number, **kinds[kind]))
    return {kind: _played(found) for kind, found in results.items()}


def _played(results: list[Result]) -> Played:
    reports = [result.stream for result in results if result.stream is not None]
    stalls = [stall for report in reports for stall in report.stalls[1:]]
    steps = tuple(chunk.steps for result in results for chunk in result.chunks)
    return Played(len(stalls), sum(stall > 0 for stall in stalls), sum(stalls), steps)
