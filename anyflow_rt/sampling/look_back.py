"""What the next jumps and the decoder took at every moment of the past, over what was expected of them there and then.

At every jump of the past the level L, the seconds expected of a jump there and then, was kept. What the next k jumps
(of the same run and those after it) and the decoder really took, over what was expected, is

    e_k = (x_1 + ... + x_k + d L_k / L_d) / (L (k + D))          D: the decoder's typical time in jumps

d is what the run in which they end decoded in, L_d the level then, L_k that after the k jumps: the decoder as it would
have run there. A machine that slows down and stays slow, in a burst of other work, is told from a single long jump by
the next time that is known. Where that happened between two runs, no plan waited: jumps across it are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from anyflow_rt.sampling.moments import ALL, FAST, FAST_UP_TO, HORIZONS, SLOW, SLOW_FROM, STARTS, USUAL, Errors, Moments

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
        self.decode = decode
        counts = np.array([len(run.jumps) for run in runs])
        self.ends = _flags(np.cumsum(counts) - 1)
        self.starts = np.roll(self.ends, 1)
        self.levels = np.concatenate([run.levels[:-1] for run in runs])
        self.after = np.concatenate([run.levels[1:] for run in runs])
        self.jumps = np.minimum(np.concatenate([run.jumps for run in runs]), LARGEST * self.levels)
        self.run = np.repeat(np.arange(len(runs)), counts)
        tails = np.array([_tail(run, decode) for run in runs])
        self.tails = np.full(len(runs), decode) if np.isnan(tails).all() else tails
        """By run: the decoder's time over the level when it began, in jumps."""

    @cached_property
    def settled(self) -> np.ndarray:
        """The level after each jump. A single long jump raises it for one jump, a burst for more."""
        following = np.minimum(self.after, np.append(self.after[1:], np.inf))
        return np.where(self.ends, self.after, following)

    @cached_property
    def lasting(self) -> np.ndarray:
        """The seconds of each jump as far as the time after it bears them out: of the next jump, or of decoding."""
        following = np.append(self.jumps[1:], 0.0)
        if self.decode:
            following[self.ends] = np.fmax(following[self.ends], self.tails / self.decode * self.after[self.ends])
        return np.minimum(self.jumps, following)

    @cached_property
    def lasting_tails(self) -> np.ndarray:
        """``tails`` as far as the start of the next run bears them out."""
        if not self.decode:
            return self.tails
        next_start = np.append(self.jumps[self.starts][1:], np.inf)
        return np.fmin(self.tails, self.decode * next_start / self.after[self.ends])

    @cached_property
    def slows(self) -> np.ndarray:
        """Where the machine slowed down and stayed slow."""
        return self.lasting > SLOW_FROM * self.levels


def look_back(runs: Sequence[PastRun], decode: float, typical: float) -> Moments:
    """e_k at every jump of ``runs``, oldest first, each with jumps. decode: typical, in jumps; 0 for runs
    without decoding. typical: seconds of a jump. Where no decoding was measured it is taken as expected."""
    past = _Past(runs, decode)
    levels, ratio = past.levels, past.levels / typical
    groups = np.where(ratio > SLOW_FROM, SLOW, np.where(ratio < FAST_UP_TO, FAST, USUAL))
    slow_decode = past.lasting_tails > SLOW_FROM * decode
    slow, slow_start = (np.concatenate([[0], np.cumsum(flags)]) for flags in (past.slows, past.slows & past.starts))
    total = np.concatenate([[0.0], np.cumsum(past.jumps)])
    tail = past.tails[past.run] * past.settled
    shortest = (past.lasting + past.lasting_tails[past.run] * past.settled) / levels
    found: dict[tuple[int, int], Errors] = {}
    if decode:
        found[ALL, 0] = _errors(past.tails / decode, ~slow_decode, np.zeros(len(runs)), decode)
    for horizon in HORIZONS[1:]:
        if horizon > len(levels):
            continue
        first, last = slice(0, len(levels) - horizon + 1), slice(horizon - 1, None)
        seconds = total[horizon:] - total[:-horizon] + tail[last]
        errors = seconds / (levels[first] * (horizon + decode))
        errors[slow_start[horizon:] > slow_start[1 : len(levels) - horizon + 2]] = np.nan
        steady = (slow[horizon:] == slow[:-horizon]) & ~slow_decode[past.run[last]]
        least = shortest[first] if horizon > 1 else (1.0 + decode) * past.lasting / levels
        for group, chosen in (
            (ALL, slice(None)),
            (STARTS, past.starts[first]),
            *((speed, groups[first] == speed) for speed in (FAST, USUAL, SLOW)),
        ):
            found[group, horizon] = _errors(errors[chosen], steady[chosen], least[chosen], horizon + decode)
    return Moments(decode, found)


def _flags(places: np.ndarray) -> np.ndarray:
    """True at ``places``, the last of which is the last of all."""
    flags = np.zeros(places[-1] + 1, bool)
    flags[places] = True
    return flags


def _tail(run: PastRun, decode: float) -> float:
    if not decode:
        return 0.0
    return math.nan if run.decode is None else min(run.decode / run.levels[-1], LARGEST * decode)


def _errors(errors: np.ndarray, steady: np.ndarray, least: np.ndarray, expected: float) -> Errors:
    """least: what the shortest plan took at each moment, ``expected``: what is expected of the one looked at, both in
    jumps at their levels. Moments of which an error is not known are left out."""
    known = np.isfinite(errors)
    every = np.sort(errors[known])
    shortest = np.sort(np.nan_to_num(least[known], nan=0.0))
    return Errors(np.sort(errors[known & steady]), every, np.searchsorted(shortest, every * expected, side="right"))
