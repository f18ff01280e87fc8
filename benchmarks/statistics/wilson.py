"""Wilson's score interval of a share: right also where all or none of few trials succeeded."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson(successes: float, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) of successes / trials, trials independent (Wilson 1927); (0, 1) of no trials."""
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    square = NormalDist().inv_cdf((1 + confidence) / 2) ** 2 / trials
    middle, half = share + square / 2, math.sqrt(square * (share * (1 - share) + square / 4))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))
