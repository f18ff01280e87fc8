"""What a caller's own functions take between jumps: no part of what the machine takes, but of what a budget pays."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from anyflow_rt.sampling.latency import quantile

ON_STEP, ON_PREVIEW = "on_step", "on_preview"
KEPT_CALLS = 64
"""The newest of one function."""


class CallbackTimes:
    """Of one runtime. Each run may bring other functions: what this run's took counts, until then the last run's.

    Nothing of them is stored: another process has its own.
    """

    def __init__(self) -> None:
        self._given: frozenset[str] = frozenset()
        self._before: dict[str, deque[float]] = {}
        self._now: dict[str, deque[float]] = {}

    def start_run(self, given: Iterable[str] = ()) -> None:
        """A run begins that has these functions and no others."""
        self._given = frozenset(given)
        self._before.update(self._now)
        self._now = {}

    def observe(self, name: str, seconds: float) -> None:
        """One call took ``seconds``."""
        self._now.setdefault(name, deque(maxlen=KEPT_CALLS)).append(seconds)

    def seconds(self, name: str, confidence: float) -> float:
        """What a call stays within at ``confidence``; 0 where the run has no such function or none was called yet."""
        if name not in self._given:
            return 0.0
        took = self._now.get(name) or self._before.get(name)
        return (quantile(took, confidence) if took else None) or 0.0
