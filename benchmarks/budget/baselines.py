"""What else could have been done with the same requests: fixed step counts, one choice at the start, hindsight.

Each baseline is the number of jumps (n,) of every request; its finish is read off ``Runs.finish``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from anyflow_rt.benchmarks.budget.runs import Runs
from anyflow_rt.sampling.schedule import GRID_INTERVALS

ORACLE, ONCE, BEST_FIXED = "oracle", "N once", "best fixed N"
FIXED = tuple(range(1, GRID_INTERVALS + 1))
SHOWN_FIXED = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
"""Those that tables and charts show."""


def fixed(runs: Runs, steps: int) -> np.ndarray:
    """The same number every time."""
    return np.full(len(runs.budgets), steps)


def once(runs: Runs) -> np.ndarray:
    """What the planner chose at the start, with the same forecasts, kept whatever happens."""
    return runs.first_steps


def oracle(runs: Runs, curve: np.ndarray) -> np.ndarray:
    """Perfect foresight: of the numbers whose real finish is in time the best on ``curve`` (32,), else 1."""
    in_time = runs.finish <= runs.budgets[:, None]
    return np.where(in_time.any(axis=1), np.where(in_time, curve, -np.inf).argmax(axis=1), 0) + 1


def seconds(runs: Runs, steps: np.ndarray) -> np.ndarray:
    """The finish (n,) of these numbers of jumps."""
    return runs.finish[np.arange(len(steps)), steps - 1]


def best_fixed(runs: Runs, curve: np.ndarray, failure: float) -> int:
    """The number of jumps whose mean quality at the deadline was highest, misses worth ``failure``."""
    in_time = runs.finish <= runs.budgets[:, None]
    return int(np.where(in_time, curve, failure).mean(axis=0).argmax()) + 1


def fixed_name(steps: int) -> str:
    """What the baseline of always ``steps`` jumps is called."""
    return f"N = {steps}"


def shown(names: Iterable[str]) -> list[str]:
    """Without the fixed numbers that are too many to show."""
    hidden = {fixed_name(steps) for steps in FIXED if steps not in SHOWN_FIXED}
    return [name for name in names if name not in hidden]


def every_baseline(runs: Runs, curve: np.ndarray, failure: float) -> Mapping[str, np.ndarray]:
    """By name. ``curve`` (32,): quality of 1..32 jumps."""
    assert curve.shape == (GRID_INTERVALS,)
    return {
        **{fixed_name(steps): fixed(runs, steps) for steps in FIXED},
        BEST_FIXED: fixed(runs, best_fixed(runs, curve, failure)),
        ONCE: once(runs),
        ORACLE: oracle(runs, curve),
    }
