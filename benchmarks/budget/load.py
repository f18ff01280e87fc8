"""Open-loop load: when requests arrive, and how much time each is given."""

from __future__ import annotations

import numpy as np

from anyflow_rt.errors import UsageError

ARRIVALS = ("poisson", "bursty")
BUDGETS = ("jumps", "factor")
MOST_JUMPS = 31
LARGEST_FACTOR = 4.0
BURST_SIZE = 8


def arrivals(kind: str, count: int, mean_gap: float, rng: np.random.Generator) -> np.ndarray:
    """Seconds (count,), ascending, ``mean_gap`` apart on average, whatever becomes of the requests before.

    poisson: independent. bursty: groups of 1 to 15 at once, the groups independent. Raises UsageError for others.
    """
    if kind == "poisson":
        return np.cumsum(rng.exponential(mean_gap, count))
    if kind == "bursty":
        sizes = rng.integers(1, 2 * BURST_SIZE, count)
        starts = np.cumsum(rng.exponential(mean_gap * BURST_SIZE, count))
        return np.repeat(starts, sizes)[:count]
    raise UsageError(f"arrivals are {kind!r}; give one of {', '.join(ARRIVALS)}")


def budgets(kind: str, count: int, minimum: float, jump: float, rng: np.random.Generator) -> np.ndarray:
    """Seconds (count,). ``minimum``: typical seconds of the shortest run; ``jump``: of one jump.

    jumps: minimum + U(0, 31) jumps, where every step count is possible. factor: U(1, 4) times the minimum. Raises
    UsageError for others.
    """
    if kind == "jumps":
        return minimum + rng.uniform(0.0, MOST_JUMPS, count) * jump
    if kind == "factor":
        return minimum * rng.uniform(1.0, LARGEST_FACTOR, count)
    raise UsageError(f"budgets are {kind!r}; give one of {', '.join(BUDGETS)}")
