"""How long plans of several jumps take, over what is expected of them: from every moment of the past.

The time of k jumps is not k times the quantile of one (too late, if they vary independently), nor their mean plus
sqrt(k) of something (too early, if a burst of other work slows all of them down). Neither is assumed: ``look_back``
says what the next k jumps and the decoder took over what was expected of them, e_k, at every jump that was ever made.
Independent noise averages out in e_k, a spike counts once, bursts that begin and a level that follows late are in it.

Two things are read from it: ``multiple``, the quantile of e_k at a confidence, and ``chance``, the share of all moments
at which the next k jumps and the decoder took no longer than a given time.

Moments are grouped by how fast the machine was then (a slow one recovers, a fast one does not get faster); the group's
own figure counts where it has enough. Before a run's first jump, what the jumps of one run share is still unknown:
there the worse counts of that figure and of the one over the starts of past runs.

With few moments n a figure is drawn towards that of the prior, a normal distribution of mean 1 and variance
w^2 / (k + D) + b^2, with D the decoder's time in jumps, w independent and b common spread: (m figure + n_0 prior) /
(m + n_0), n_0 the moments that the prior counts for. m = n / sqrt(k), as moments that overlap tell less; m = n for
starts, which overlap little.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

HORIZONS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""k that are looked at; between them figures are interpolated."""
ALL, FAST, USUAL, SLOW, STARTS = range(5)
SLOW_FROM, FAST_UP_TO = 1.3, 0.77
"""Levels over typical jumps."""
ENOUGH_MOMENTS = 64
PRIOR_WEIGHT, PRIOR_WEIGHT_OF_CHANCES = 16.0, 2.0
"""Moments that the prior of a multiple, and of a chance, counts for: where it counts for many, 0.99 is out of reach."""
PRIOR_INDEPENDENT, PRIOR_COMMON = 0.1, 0.1
LOGISTIC = 1.702
"""1 / (1 + exp(-1.702 z)) is within 0.01 of the normal distribution function of z (Camilli, 1994)."""
_NONE = np.zeros(0)
Value = TypeVar("Value", float, np.ndarray)


@dataclass(frozen=True)
class Moments:
    """Sorted e_k by (group, k), for a decoder of ``decode`` jumps. Empty at first.

    ``jumps`` is always one of HORIZONS; ``starting``: the run has made no jump; margin: on the prior.
    """

    decode: float
    errors: Mapping[tuple[int, int], np.ndarray] = field(default_factory=dict)

    def multiple(self, jumps: int, confidence: float, group: int, starting: bool, margin: float = 1.0) -> float:
        """Of what is expected, that a run stays within at ``confidence``."""
        expected = prior(confidence, jumps + self.decode) * margin
        quantile = partial(_quantile, confidence=confidence)
        return max(self._figures(jumps, group, starting, quantile, expected, PRIOR_WEIGHT))

    def chance(self, jumps: int, multiple: np.ndarray, group: int, starting: bool, margin: float = 1.0) -> np.ndarray:
        """That a run stays within each of these multiples of what is expected."""
        spread = _prior_spread(jumps + self.decode) * margin
        expected = 1.0 / (1.0 + np.exp(-LOGISTIC * (multiple - margin) / spread))
        share = partial(_share, multiple=multiple)
        return np.minimum.reduce([*self._figures(jumps, group, starting, share, expected, PRIOR_WEIGHT_OF_CHANCES)])

    def _figures(
        self,
        jumps: int,
        group: int,
        starting: bool,
        figure: Callable[[np.ndarray], Value],
        expected: Value,
        of_prior: float,
    ) -> Iterator[Value]:
        errors = self.errors.get((group, jumps), _NONE)
        if len(errors) < ENOUGH_MOMENTS:
            errors = self.errors.get((ALL, jumps), _NONE)
        yield _drawn(errors, figure, expected, len(errors) / math.sqrt(max(1, jumps)), of_prior)
        starts = self.errors.get((STARTS, jumps), _NONE)
        if starting and len(starts) >= ENOUGH_MOMENTS:
            yield _drawn(starts, figure, expected, len(starts), of_prior)


def group_of(ratio: float) -> int:
    """The group of a level over the typical jump."""
    return SLOW if ratio > SLOW_FROM else FAST if ratio < FAST_UP_TO else USUAL


def prior(confidence: float, jumps: float) -> float:
    """What is taken for a quantile before anything was measured; at least 1."""
    return max(1.0, 1.0 + statistics.NormalDist().inv_cdf(confidence) * _prior_spread(jumps))


def _prior_spread(jumps: float) -> float:
    return math.sqrt(PRIOR_INDEPENDENT**2 / max(jumps, 0.5) + PRIOR_COMMON**2)


def _quantile(errors: np.ndarray, confidence: float) -> float:
    return float(errors[min(math.ceil((len(errors) + 1) * confidence), len(errors)) - 1])


def _share(errors: np.ndarray, multiple: np.ndarray) -> np.ndarray:
    return errors.searchsorted(multiple, side="right") / len(errors)


def _drawn(
    errors: np.ndarray, figure: Callable[[np.ndarray], Value], expected: Value, weight: float, of_prior: float
) -> Value:
    if not len(errors):
        return expected
    return (weight * figure(errors) + of_prior * expected) / (weight + of_prior)
