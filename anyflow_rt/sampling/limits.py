"""What a caller may ask of a budgeted run: budget, confidence, step limits, previews. Checked before any work."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

from anyflow_rt.errors import UsageError
from anyflow_rt.sampling.schedule import GRID_INTERVALS, check_steps


@dataclass(frozen=True)
class Limits:
    """Jumps a plan may have, and after how many of them a preview is to be shown (each count once, ascending).

    Budgeted plans live on the grid of 32 intervals: a higher ``max_steps`` counts as 32. Raises UsageError.
    """

    min_steps: int = 1
    max_steps: int = GRID_INTERVALS
    preview_after: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        least, most = check_steps(self.min_steps, "min_steps"), check_steps(self.max_steps, "max_steps")
        if least > GRID_INTERVALS:
            raise UsageError(f"min_steps is {least}; runs with a budget take at most {GRID_INTERVALS} steps")
        if least > most:
            raise UsageError(f"min_steps {least} is more than max_steps {most}; lower the one or raise the other")
        object.__setattr__(self, "min_steps", least)
        object.__setattr__(self, "max_steps", min(most, GRID_INTERVALS))
        counts = tuple(sorted({check_steps(count, "preview_after") for count in self.preview_after}))
        object.__setattr__(self, "preview_after", counts)


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Budget:
    """seconds: until the result is there. confidence: that plans are to keep it with. strict: whether a run that
    cannot is refused."""

    seconds: float
    confidence: float
    strict: bool = False
    limits: Limits = NO_LIMITS


def check_budget(budget: object, name: str = "budget") -> float:
    """Seconds as a float. Raises UsageError unless a finite number above 0: no text, no bool, no NaN."""
    return _number(name, budget, math.inf, "a number of seconds above 0")


def check_confidence(confidence: object) -> float:
    """A probability as a float. Raises UsageError unless it is a number between 0 and 1, both excluded."""
    return _number("confidence", confidence, 1.0, "a number between 0 and 1, such as 0.95")


def check_fps(fps: object) -> float:
    """Frames a second as a float. Raises UsageError unless a finite number above 0: no text, no bool, no NaN."""
    return _number("fps", fps, math.inf, "a number of frames a second above 0")


def check_started_at(started_at: object, now: float) -> float:
    """A ``time.perf_counter`` reading that is not after ``now``; None is ``now``. Raises UsageError for others."""
    if started_at is None:
        return now
    if isinstance(started_at, bool) or not isinstance(started_at, int | float) or not -math.inf < started_at <= now:
        raise UsageError(f"started_at is {started_at!r}; give what time.perf_counter() said when the run was asked for")
    return float(started_at)


def _number(name: str, value: object, below: float, wanted: str) -> float:
    number = math.nan
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not 0.0 < number < below:
        raise UsageError(f"{name} is {value!r}; give {wanted}")
    return number
