"""How fast the machine is now, compared with what is typical of it: the online ratio observed / expected."""

from __future__ import annotations

import math
from dataclasses import dataclass

LARGEST = 16.0
"""One observation counts as at most this ratio, or at least its inverse: a hiccup is not a new speed."""
GAIN, SLOW_GAIN = 0.5, 0.03
SURPRISE_GAIN = 0.8
SURPRISE = 4.0
"""Spreads of one jump beyond which an observation is no noise: the machine has changed speed, or hiccuped."""
DEADBAND = 2.0
"""Spreads of the fast average within which it is taken for noise."""
FIRST_SPREAD, SMALLEST_SPREAD = 0.05, 0.005


@dataclass
class SpeedRatio:
    """Two moving averages of log(observed / expected): a fast one of the last jumps, and a slow one.

    A fast average f that differs from the slow one s by less than the noise of single jumps makes it is no news. So

        log(ratio) = s + (f - s) max(0, 1 - (DEADBAND sigma_f / (f - s))^2),     sigma_f = spread sqrt(g / (2 - g))

    (g the gain; the standard deviation of an exponential average of independent values), which is s in calm and f
    after a change. The first jump beyond SURPRISE spreads moves the average most of the way, the second all of it.
    ``spread`` is the typical |log| difference of one jump from the average, kept by the caller.
    """

    fast: float = 0.0
    slow: float = 0.0
    spread: float = FIRST_SPREAD
    _surprised: bool = False

    @property
    def value(self) -> float:
        """Expected seconds are to be multiplied by this."""
        news = self.fast - self.slow
        noise = DEADBAND * self.spread * math.sqrt(GAIN / (2.0 - GAIN))
        if abs(news) <= noise:
            return math.exp(self.slow)
        return math.exp(self.slow + news * (1.0 - (noise / news) ** 2))

    def observe(self, ratio: float, weight: float = 1.0) -> None:
        """Take one observed / expected into account. ``weight`` in (0, 1]: what it says of jumps, 1 for a jump."""
        log = math.log(min(max(ratio, 1.0 / LARGEST), LARGEST))
        surprise = abs(log - self.fast) > SURPRISE * self.spread
        gain = GAIN if not surprise else 1.0 if self._surprised else SURPRISE_GAIN
        if weight >= 1.0:
            self._surprised = surprise
        self.fast += weight * gain * (log - self.fast)
        self.slow += weight * SLOW_GAIN * (log - self.slow)

    def rescale(self, factor: float) -> None:
        """What is expected was multiplied by ``factor``: the same speed is now another ratio."""
        self.fast -= math.log(factor)
        self.slow -= math.log(factor)

    def set_spread(self, spread: float) -> None:
        """From the newest residuals; a floor keeps a clock's coarse ticks from looking like certainty."""
        self.spread = max(spread, SMALLEST_SPREAD)
