"""How long plans of several jumps take at a confidence, over what is expected of them: from every moment of the past.

The time of k jumps is not k times the quantile of one (too late, if they vary independently), nor their mean plus
sqrt(k) of something (too early, if a burst of other work slows all of them down). Neither is assumed: ``look_back``
says what the next k jumps and the decoder took over what was expected of them, e_k, at every jump that was ever made.
Independent noise averages out in e_k, a spike counts once, and a level that follows late is in it.

Q_k(confidence), the multiple of what is expected that a plan of k jumps is given, is the larger of two. One is for the
machine as it is: the quantile of e_k at the moments after which it did not slow down for longer than one jump. The
other is for bursts that begin in the midst of a run. No plan escapes all of them, so what the shortest suffers holds
none back; it is the least multiple at which

    (moments with e_k below it) >= (2 confidence - 1) x (moments at which the shortest plan, k = 1, was done by then)

so of the runs that the shortest plan would have finished in time, bursts cost a longer one at most 2 (1 - confidence).
(The shortest plan itself is measured against a machine that stays as fast as its own first jump.)

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

HORIZONS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""k that are looked at; between them Q_k is interpolated."""
ALL, FAST, USUAL, SLOW, STARTS = range(5)
SLOW_FROM, FAST_UP_TO = 1.3, 0.77
"""Levels over typical jumps."""
ENOUGH_MOMENTS = 64
PRIOR_WEIGHT = 16.0
PRIOR_INDEPENDENT, PRIOR_COMMON = 0.1, 0.1


class Errors(NamedTuple):
    """e_k of one k in one group.

    steady: of the moments after which the machine stayed as it was; every: of all; both sorted. possible: by each of
    ``every``, at how many of its moments the shortest plan was done.
    """

    steady: np.ndarray
    every: np.ndarray
    possible: np.ndarray

    def quantile(self, confidence: float) -> float:
        """Q_k of the moments that there are, at least one."""
        count = len(self.every)
        possible = np.arange(1, count + 1) >= (2.0 * confidence - 1.0) * (self.possible + 1)
        enough = possible & (2 * self.possible >= count)
        found = float(self.every[int(np.argmax(enough)) if enough.any() else count - 1])
        steady = len(self.steady)
        if not steady:
            return found
        return max(found, float(self.steady[min(math.ceil((steady + 1) * confidence), steady) - 1]))


NO_ERRORS = Errors(np.zeros(0), np.zeros(0), np.zeros(0))


@dataclass(frozen=True)
class Moments:
    """e_k by (group, k), for a decoder of ``decode`` jumps. Empty at first."""

    decode: float
    errors: Mapping[tuple[int, int], Errors] = field(default_factory=dict)

    def spread(self, jumps: int, confidence: float, group: int, starting: bool, margin: float = 1.0) -> float:
        """Q_k of k = ``jumps``, one of HORIZONS. ``starting``: the run has made no jump. margin: on the prior."""
        expected = prior(confidence, jumps + self.decode) * margin
        errors = self.errors.get((group, jumps), NO_ERRORS)
        if len(errors.every) < ENOUGH_MOMENTS:
            errors = self.errors.get((ALL, jumps), NO_ERRORS)
        found = _shrunk(errors, confidence, expected, len(errors.every) / math.sqrt(max(1, jumps)))
        starts = self.errors.get((STARTS, jumps), NO_ERRORS)
        if starting and len(starts.every) >= ENOUGH_MOMENTS:
            return max(found, _shrunk(starts, confidence, expected, len(starts.every)))
        return found


def group_of(ratio: float) -> int:
    """The group of a level over the typical jump."""
    return SLOW if ratio > SLOW_FROM else FAST if ratio < FAST_UP_TO else USUAL


def prior(confidence: float, jumps: float) -> float:
    """What is taken for Q_k before anything was measured; at least 1."""
    spread = math.sqrt(PRIOR_INDEPENDENT**2 / max(jumps, 0.5) + PRIOR_COMMON**2)
    return max(1.0, 1.0 + statistics.NormalDist().inv_cdf(confidence) * spread)


def _shrunk(errors: Errors, confidence: float, expected: float, weight: float) -> float:
    if not len(errors.every):
        return expected
    return (weight * errors.quantile(confidence) + PRIOR_WEIGHT * expected) / (weight + PRIOR_WEIGHT)
