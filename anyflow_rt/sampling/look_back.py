"""What the next jumps and the decoder took at every moment of the past, over what was expected of them there and then.

At every jump of the past the level L, the seconds expected of a jump there and then, was kept. What the next k jumps
(of the same run and those after it) and the decoder really took, over what was expected, is

    e_k = (x_1 + ... + x_k + d D_k / D_d) / (k L + D)

D is what was expected of the decoder (``decode_level``), d what the run in which they end decoded in, D_d what was
expected of that and D_k of decoding after the k jumps: so the decoder counts as it would have run there. Where the
machine slowed down between two runs, no plan waited: jumps across it are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anyflow_rt.sampling.decode_level import decode_level
from anyflow_rt.sampling.moments import ALL, FAST, FAST_UP_TO, HORIZONS, SLOW, SLOW_FROM, STARTS, USUAL, Moments

LARGEST = 16.0
"""A stage counts as at most this many times what was expected of it: a machine that slept is not a slow machine."""


@dataclass(frozen=True)
class PastRun:
    """jumps: seconds. levels: what was expected of each when it began, and of one more at the end. decode: seconds,
    None where it did not run or was a first call."""

    jumps: Sequence[float]
    levels: Sequence[float]
    decode: float | None


class _Past:
    """Arrays over all jumps of all runs, oldest first. decode: the decoder's typical time in jumps."""

    def __init__(self, runs: Sequence[PastRun], decode: float) -> None:
        counts = np.array([len(run.jumps) for run in runs])
        self.ends = _flags(np.cumsum(counts) - 1)
        self.starts = np.roll(self.ends, 1)
        self.levels = np.concatenate([run.levels[:-1] for run in runs])
        self.after = np.concatenate([run.levels[1:] for run in runs])
        self.jumps = np.minimum(np.concatenate([run.jumps for run in runs]), LARGEST * self.levels)
        self.run = np.repeat(np.arange(len(runs)), counts)
        self.decodes = np.array([math.nan if run.decode is None else run.decode for run in runs])
        """Seconds, by run. Where none is known: as expected, which is then the typical time."""
        if not decode:
            self.decodes = np.zeros(len(runs))
        elif np.isnan(self.decodes).all():
            self.decodes = decode * self.after[self.ends]
        self._last, self._last_level = self._before(decode)
        self.expected = self.decode_levels(self.levels)
        """Seconds of decoding, as expected at each jump."""
        self.tails = (
            np.minimum(self.decodes / self.decode_levels(self.after)[self.ends], LARGEST) if decode else self.decodes
        )
        """By run: the decoder's time over what was expected of it."""

    def decode_levels(self, levels: np.ndarray) -> np.ndarray:
        """Seconds expected of decoding in each jump's run, at ``levels`` of its jumps."""
        return decode_level(self._last[self.run], self._last_level[self.run], levels)

    def _before(self, decode: float) -> tuple[np.ndarray, np.ndarray]:
        """By run: the decoding before it, and the level then; at first the typical one."""
        ends = self.after[self.ends]
        last, level = np.empty(len(ends)), np.empty(len(ends))
        known = decode * self.levels[0], self.levels[0]
        for run, (seconds, then) in enumerate(zip(self.decodes.tolist(), ends.tolist(), strict=True)):
            last[run], level[run] = known
            if not math.isnan(seconds):
                known = seconds, then
        return last, level

    @cached_property
    def settled(self) -> np.ndarray:
        """The level after each jump. A single long jump raises it for one jump, a burst for more."""
        following = np.minimum(self.after, np.append(self.after[1:], np.inf))
        return np.where(self.ends, self.after, following)

    @cached_property
    def slow_starts(self) -> np.ndarray:
        """Runs that began slow and stayed so for longer than one jump: their next one, or their decoding, says it."""
        following = np.append(self.jumps[1:], 0.0)
        following[self.ends] = np.fmax(following[self.ends], self.tails * self.after[self.ends])
        return self.starts & (np.minimum(self.jumps, following) > SLOW_FROM * self.levels)


def look_back(runs: Sequence[PastRun], decode: float, typical: float) -> Moments:
    """e_k at every jump of ``runs``, oldest first, each with jumps. decode: typical, in jumps; 0 for runs
    without decoding. typical: seconds of a jump. Where no decoding was measured it is taken as expected."""
    past = _Past(runs, decode)
    levels, ratio = past.levels, past.levels / typical
    groups = np.where(ratio > SLOW_FROM, SLOW, np.where(ratio < FAST_UP_TO, FAST, USUAL))
    slow_starts = np.cumsum(past.slow_starts)
    total = np.concatenate([[0.0], np.cumsum(past.jumps)])
    tail = past.tails[past.run] * past.decode_levels(past.settled)
    found: dict[tuple[int, int], np.ndarray] = {}
    if decode:
        found[ALL, 0] = _sorted(past.tails)
    for horizon in HORIZONS[1:]:
        if horizon > len(levels):
            continue
        first, last = slice(0, len(levels) - horizon + 1), slice(horizon - 1, None)
        seconds = total[horizon:] - total[:-horizon] + tail[last]
        errors = seconds / (horizon * levels[first] + past.expected[first])
        errors[slow_starts[last] > slow_starts[first]] = np.nan
        found[ALL, horizon] = _sorted(errors)
        found[STARTS, horizon] = _sorted(errors[past.starts[first]])
        for speed in (FAST, USUAL, SLOW):
            found[speed, horizon] = _sorted(errors[groups[first] == speed])
    return Moments(decode, found)


def _flags(places: np.ndarray) -> np.ndarray:
    """True at ``places``, the last of which is the last of all."""
    flags = np.zeros(places[-1] + 1, bool)
    flags[places] = True
    return flags


def _sorted(errors: np.ndarray) -> np.ndarray:
    """Those that are known."""
    return np.sort(errors[np.isfinite(errors)])
