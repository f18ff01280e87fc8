"""What several jumps and the decoder took at every moment of the past, over what was expected of them there.

The time of k jumps is not k times the quantile of one (too late, if they vary independently), nor their mean plus
sqrt(k) of something (too early, if a burst of other work slows all of them down). Neither is assumed. At every jump of
the past the level L, the seconds expected of a jump there and then, was kept. Looking back, what the next k jumps
(of the same run and those after it) and the decoder of the run they end in really took, over what was expected, is

    e_k = (x_1 + ... + x_k + d) / (L (k + D))          D: the decoder's typical time in jumps

at each of those moments, and Q_k(confidence) is the quantile of e_k. Independent noise averages out in e_k, a spike
counts once, bursts that begin within k jumps and a level that follows late are in it as often as they happened.

Moments are grouped by how fast the machine was then (a slow one recovers, a fast one does not get faster); the group's
own quantile counts where it has enough. Before a run's first jump, what the jumps of one run share is still unknown:
there the larger counts of that quantile and of the one over the starts of past runs.

With few moments n the quantile is drawn towards the prior 1 + z sqrt(w^2 / (k + D) + b^2), z the normal quantile, w
independent and b common spread: (m Q + PRIOR_WEIGHT prior) / (m + PRIOR_WEIGHT). m = n / sqrt(k), as moments that
overlap tell less; m = n for starts, which overlap little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

HORIZONS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""k that are looked at; between them Q_k is interpolated."""
ALL, FAST, USUAL, SLOW, STARTS = range(5)
SLOW_FROM, FAST_UP_TO = 1.3, 0.77
"""Levels over typical jumps."""
ENOUGH_MOMENTS = 64
PRIOR_WEIGHT = 16.0
PRIOR_INDEPENDENT, PRIOR_COMMON = 0.1, 0.1
LARGEST = 16.0
"""A stage counts as at most this many times what was expected of it: a machine that slept is not a slow machine."""
_NONE = np.zeros(0)


@dataclass(frozen=True)
class PastRun:
    """jumps: seconds. levels: what was expected of each when it began, and of one more at the end. decode: seconds,
    None where it did not run or was a first call."""

    jumps: Sequence[float]
    levels: Sequence[float]
    decode: float | None


@dataclass(frozen=True)
class Moments:
    """Sorted e_k by (group, k), for a decoder of ``decode`` jumps. Empty at first."""

    decode: float
    sorted_errors: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def spread(self, jumps: int, confidence: float, group: int, starting: bool, margin: float = 1.0) -> float:
        """Q_k of k = ``jumps``, one of HORIZONS. ``starting``: the run has made no jump. margin: on the prior."""
        expected = prior(confidence, jumps + self.decode) * margin
        errors = self.sorted_errors.get((group, jumps), _NONE)
        if len(errors) < ENOUGH_MOMENTS:
            errors = self.sorted_errors.get((ALL, jumps), _NONE)
        found = _shrunk(errors, confidence, expected, len(errors) / math.sqrt(max(1, jumps)))
        starts = self.sorted_errors.get((STARTS, jumps), _NONE)
        if starting and len(starts) >= ENOUGH_MOMENTS:
            return max(found, _shrunk(starts, confidence, expected, len(starts)))
        return found


def group_of(ratio: float) -> int:
    """The group of a level over the typical jump."""
    return SLOW if ratio > SLOW_FROM else FAST if ratio < FAST_UP_TO else USUAL


def prior(confidence: float, jumps: float) -> float:
    """What is taken for Q_k before anything was measured; at least 1."""
    spread = math.sqrt(PRIOR_INDEPENDENT**2 / max(jumps, 0.5) + PRIOR_COMMON**2)
    return max(1.0, 1.0 + statistics.NormalDist().inv_cdf(confidence) * spread)


def look_back(runs: Sequence[PastRun], decode: float, typical: float) -> Moments:
    """e_k at every jump of ``runs``, oldest first, each with jumps. decode: typical, in jumps; 0 for runs
    without decoding. typical: seconds of a jump. Where no decoding was measured it is taken as expected."""
    counts = np.array([len(run.jumps) for run in runs])
    ends = np.cumsum(counts)
    starts = ends - counts
    levels = np.concatenate([run.levels[:-1] for run in runs])
    jumps = np.minimum(np.concatenate([run.jumps for run in runs]), LARGEST * levels)
    last = np.array([run.levels[-1] for run in runs])
    tails = np.array([_tail(run, decode) for run in runs])
    if np.isnan(tails).all():
        tails = decode * last
    tail = np.repeat(tails, counts)
    ratio = levels / typical
    group = np.where(ratio > SLOW_FROM, SLOW, np.where(ratio < FAST_UP_TO, FAST, USUAL))
    total = np.concatenate([[0.0], np.cumsum(jumps)])
    found: dict[tuple[int, int], np.ndarray] = {}
    if decode:
        found[ALL, 0] = _sorted(tails / (last * decode))
    for horizon in HORIZONS[1:]:
        if horizon > len(jumps):
            continue
        count = len(jumps) - horizon + 1
        errors = (total[horizon:] - total[:-horizon] + tail[horizon - 1 :]) / (levels[:count] * (horizon + decode))
        found[ALL, horizon] = _sorted(errors)
        found[STARTS, horizon] = _sorted(errors[starts[starts < count]])
        for each in (FAST, USUAL, SLOW):
            found[each, horizon] = _sorted(errors[group[:count] == each])
    return Moments(decode, found)


def _tail(run: PastRun, decode: float) -> float:
    if not decode:
        return 0.0
    return math.nan if run.decode is None else min(run.decode, LARGEST * decode * run.levels[-1])


def _sorted(errors: np.ndarray) -> np.ndarray:
    return np.sort(errors[np.isfinite(errors)])


def _shrunk(errors: np.ndarray, confidence: float, expected: float, weight: float) -> float:
    if not len(errors):
        return expected
    rank = min(math.ceil((len(errors) + 1) * confidence), len(errors)) - 1
    return (weight * float(errors[rank]) + PRIOR_WEIGHT * expected) / (weight + PRIOR_WEIGHT)
