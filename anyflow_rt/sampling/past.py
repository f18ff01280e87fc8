"""Runs that are over, as forecasts need them: measured in their own jumps, and in the order their stages ended."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from anyflow_rt.sampling.latency import RunTimes

TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


@dataclass(frozen=True)
class EndedRun:
    """Warm times, and levels (see ``look_back.PastRun``)."""

    times: RunTimes
    levels: list[float]


def stage_in_jumps(runs: Sequence[RunTimes], stage: str) -> float | None:
    """The typical time of a stage in jumps of the same run: right even where the jumps' own are not. None where no
    run has both."""
    shares = [seconds / middle for run in runs if (seconds := getattr(run, stage)) and (middle := _middle(run))]
    return statistics.median(shares) if shares else None


def jump_noise(runs: Sequence[RunTimes]) -> float | None:
    """The typical |log| difference of a jump from its run's median, as a standard deviation; None without jumps."""
    noise = [abs(math.log(x / middle)) for run in runs if (middle := _middle(run)) for x in run.jumps if x]
    return TO_DEVIATION * statistics.median(noise) if noise else None


def in_order(times: RunTimes) -> list[tuple[str, float]]:
    """(stage, seconds) of what the run had, as it ended."""
    every = [("text", times.text), ("conditioner", times.conditioner), *(("jump", each) for each in times.jumps)]
    every += [("decode", times.decode), ("encode", times.encode)]
    return [(stage, seconds) for stage, seconds in every if seconds is not None]


def _middle(times: RunTimes) -> float | None:
    """The run's median jump, None where it has none."""
    return statistics.median(times.jumps) if times.jumps else None
