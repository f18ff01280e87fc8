"""Two series of times that were measured apart, such as before and after a change: nothing pairs their samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.statistics.bootstrap import BATCH_NUMBERS, Interval, check_resampling, finite
from anyflow_rt.errors import UsageError


def ratio_of_medians(
    over: Sequence[float],
    under: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Interval:
    """Median of ``over`` over median of ``under``, and the percentile interval of resampling each on its own.

    ``samples`` of the answer counts both series, ``clusters`` those of the shorter one. Raises UsageError for an empty
    series, or times that are not positive and finite.
    """
    upper, lower = finite(over), finite(under)
    if min(upper.min(), lower.min()) <= 0:
        raise UsageError("a time of 0 seconds or less cannot be divided by: measure longer work")
    check_resampling(confidence, resamples)
    middle = float(np.median(upper) / np.median(lower))
    counts = len(upper) + len(lower), min(len(upper), len(lower))
    if np.ptp(upper) == 0 and np.ptp(lower) == 0:
        return Interval(middle, middle, middle, confidence, *counts, resamples, "point")

    def statistic(upper: np.ndarray, lower: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.median(upper, axis=axis) / np.median(lower, axis=axis)

    found = (
        optional_module("scipy.stats", "a ratio's interval")
        .bootstrap(
            (upper, lower),
            statistic,
            vectorized=True,
            n_resamples=resamples,
            batch=max(1, BATCH_NUMBERS // counts[0]),
            confidence_level=confidence,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    return Interval(middle, float(found.low), float(found.high), confidence, *counts, resamples, "percentile")


def can_tell_apart(first: int, second: int, confidence: float) -> bool:
    """Whether series of so many samples can differ significantly at all.

    Two series of one kind lie wholly apart by chance in 2 of C(first + second, first) orders (the rank test's smallest
    two-sided p-value); where that exceeds 1 - confidence, no samples whatever are evidence. A bootstrap of so few
    samples would not notice.
    """
    return min(first, second) > 0 and 2 / math.comb(first + second, first) <= 1 - confidence
