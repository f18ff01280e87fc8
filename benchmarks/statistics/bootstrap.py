"""Bootstrap intervals of a mean, resampled by cluster.

Videos of one prompt resemble each other, so whole prompts are drawn, with replacement, and not single videos. The
mean of a resample is the sum of its clusters' sums over the sum of their counts. The interval is SciPy's: BCa
(Efron 1987, bias-corrected and accelerated) or plain percentiles.

Where every score is 0 or 1 and all clusters agree, resampling finds no spread, and yet the next cluster may differ:
such a share gets Wilson's interval (1927) with as many trials as there are clusters.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.statistics.wilson import wilson
from anyflow_rt.errors import UsageError

FEWEST_RESAMPLES = 2000
METHODS = ("bca", "percentile")
BATCH_NUMBERS = 8_000_000
"""Numbers held at once while resampling: 64 MB."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided interval. samples: values that went in; clusters: what was resampled.

    ``method`` is that of the bounds: "percentile" also where BCa was asked for and its correction is undefined (all
    resamples on one side of the estimate), and "point" where every cluster has the same mean or there is one cluster.
    Then low = high = estimate, which says that resampling found no spread, not that the estimate is certain; "wilson"
    is a share in that place.
    """

    estimate: float
    low: float
    high: float
    confidence: float
    samples: int
    clusters: int
    resamples: int
    method: str

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    *,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
    method: str = "bca",
    share: bool = False,
) -> Interval:
    """The mean of values (n,) and its interval; ``clusters`` (n,) says which values belong together (the prompt).

    share: every value is 0 or 1, here and wherever else the score is measured, so that their mean is a share.
    Raises UsageError for no values, lengths that differ, values that are not finite, fewer than 2,000 resamples, a
    confidence outside (0, 1) or an unknown method.
    """
    numbers = finite(values)
    sums, counts = cluster_sums(numbers, clusters)
    check_resampling(confidence, resamples)
    if method not in METHODS:
        raise UsageError(f"bootstrap method {method!r} is unknown: use one of {', '.join(METHODS)}")
    mean = float(numbers.mean())
    if np.ptp(sums / counts) <= 1e-12 * max(1.0, abs(mean)):
        if share:
            bounds = wilson(mean * len(counts), len(counts), confidence)
            return Interval(mean, *bounds, confidence, len(numbers), len(counts), resamples, "wilson")
        return Interval(mean, mean, mean, confidence, len(numbers), len(counts), resamples, "point")
    bounds = _bounds(sums, counts, confidence, resamples, seed, method)
    if not all(map(math.isfinite, bounds)):
        method = "percentile"
        bounds = _bounds(sums, counts, confidence, resamples, seed, method)
    return Interval(mean, *bounds, confidence, len(numbers), len(counts), resamples, method)


def cluster_sums(numbers: np.ndarray, clusters: Sequence[Hashable]) -> tuple[np.ndarray, np.ndarray]:
    """(sums, counts) of the values (n,) of every cluster, in the order they come. Raises UsageError for lengths that
    differ."""
    if len(numbers) != len(clusters):
        raise UsageError(f"{len(numbers)} values but {len(clusters)} clusters: give every value its cluster")
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    labels = np.array([places[name] for name in clusters])
    return np.bincount(labels, weights=numbers), np.bincount(labels).astype(np.float64)


def _bounds(
    sums: np.ndarray, counts: np.ndarray, confidence: float, resamples: int, seed: int, method: str
) -> tuple[float, float]:
    """(low, high) of SciPy's bootstrap; nan where BCa's correction cannot be computed."""

    def statistic(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns where it answers nan, and numpy where SciPy divides by 0 for it
        found = optional_module("scipy.stats", "a bootstrap interval").bootstrap(
            (sums, counts),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, BATCH_NUMBERS // len(counts)),
            confidence_level=confidence,
            method={"bca": "BCa", "percentile": "percentile"}[method],
            rng=np.random.default_rng(seed),
        )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def finite(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Values as float64 (n,). Raises UsageError where there is none, or one that is not a finite number."""
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise UsageError(f"values of shape {numbers.shape}: give one or more numbers in a row")
    if not np.isfinite(numbers).all():
        place = int(np.argmin(np.isfinite(numbers)))
        raise UsageError(f"value {place} is {numbers[place]}: a score or a time must be a finite number")
    return numbers


def check_resampling(confidence: float, resamples: int) -> None:
    """Raises UsageError for fewer than 2,000 resamples or a confidence outside (0, 1)."""
    if resamples < FEWEST_RESAMPLES:
        raise UsageError(f"{resamples} resamples are too few: ask for {FEWEST_RESAMPLES} or more")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence {confidence} is no share: give one between 0 and 1, such as 0.95")
