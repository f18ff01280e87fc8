"""Times: quantiles, the cost of a run as a fixed part and a part per step, and ratios of interleaved series."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.statistics.bootstrap import Interval, check_resampling, finite
from anyflow_rt.errors import UsageError


@dataclass(frozen=True)
class Latency:
    """Of n times in seconds: their median, 95th percentile (linear between order statistics) and maximum."""

    p50: float
    p95: float
    max: float
    n: int


@dataclass(frozen=True)
class CostFit:
    """seconds = fixed + per_step * steps, by least squares through the median of every step count.

    residuals: (steps, median less fit, in seconds). A fixed cost below 0 means that the line does not fit.
    """

    fixed: float
    per_step: float
    residuals: tuple[tuple[int, float], ...]

    def at(self, steps: int) -> float:
        """Seconds of a run of ``steps`` steps."""
        return self.fixed + self.per_step * steps

    @property
    def worst_share(self) -> float:
        """The greatest residual as a share of the fit there; infinite where the fit is 0 and the median is not."""
        shares = ((abs(residual), abs(self.at(steps))) for steps, residual in self.residuals)
        return max(residual / fit if fit else math.inf if residual else 0.0 for residual, fit in shares)


def summarize(seconds: Sequence[float]) -> Latency:
    """Quantiles of times. Raises UsageError for none, or one that is negative or not finite."""
    times = _times(seconds)
    p50, p95 = np.quantile(times, [0.5, 0.95])
    return Latency(float(p50), float(p95), float(times.max()), len(times))


def fit_cost(seconds: Mapping[int, Sequence[float]]) -> CostFit:
    """The line through the medians of ``seconds`` by step count. Raises UsageError for fewer than two step counts."""
    if len(seconds) < 2:
        raise UsageError(f"times at {sorted(seconds)} steps: a fixed cost and a cost per step need two step counts")
    steps = sorted(seconds)
    medians = np.array([np.median(_times(seconds[number])) for number in steps])
    line = optional_module("scipy.stats", "fitting the cost of a step").linregress(steps, medians)
    fixed, per_step = float(line.intercept), float(line.slope)
    residuals = medians - (fixed + per_step * np.array(steps))
    return CostFit(fixed, per_step, tuple(zip(steps, residuals.tolist(), strict=True)))


def ratio(
    over: Sequence[float],
    under: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Median over rounds of ``over / under``, taken round by round of interleaved series, with the percentile interval
    of resampled rounds. ``clusters`` of the answer is the number of rounds.

    With few rounds the interval is rough: it cannot leave their extremes. Raises UsageError for series of different
    lengths, no rounds, or times that are not positive and finite.
    """
    upper, lower = _times(over), _times(under)
    if len(upper) != len(lower):
        raise UsageError(f"{len(upper)} and {len(lower)} times: a ratio needs both sides of every round")
    if (lower == 0).any():
        raise UsageError("a time of 0 seconds cannot be divided by: measure longer work")
    check_resampling(confidence, resamples)
    ratios = upper / lower
    middle = float(np.median(ratios))
    if np.ptp(ratios) == 0:
        return Interval(middle, middle, middle, confidence, len(ratios), len(ratios), resamples, "point")
    found = (
        optional_module("scipy.stats", "a ratio's interval")
        .bootstrap(
            (ratios,),
            np.median,
            vectorized=True,
            n_resamples=resamples,
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    low, high = float(found.low), float(found.high)
    return Interval(middle, low, high, confidence, len(ratios), len(ratios), resamples, "percentile")


def _times(seconds: Sequence[float]) -> np.ndarray:
    times = finite(seconds)
    if (times < 0).any():
        raise UsageError(f"a time of {times.min()} seconds: times cannot be negative")
    return times
