"""The reader of a stream: when each chunk was there for it, when it took it, and when it needs the next one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from anyflow_rt.result import playing_lead

HAND_OVER = 0.05
"""Seconds that a chunk may lie there before its reader counts as away: threads take some to hand it over."""


class Reader:
    """Told of every chunk by the threads that make and take them, in order; asked by the one that plans.

    A reader that pauses holds up the stream. What it could not have used meanwhile is not late, so all that is due
    later moves by as much: the chunks after a pause have as much time as those before it.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._arrived: list[float] = []
        self._taken: list[float] = []

    def arrived(self) -> None:
        """The next chunk's frames are there."""
        with self._guard:
            self._arrived.append(time.perf_counter())

    def took(self) -> None:
        """The next chunk is in the reader's hands."""
        with self._guard:
            self._taken.append(time.perf_counter())

    def plays(self, frames: Sequence[int], fps: float, index: int) -> float:
        """The ``perf_counter`` at which a player needs chunk ``index``; frames: of every chunk.

        It begins ``playing_lead`` after the first chunk was there, and waits where a chunk is late or not yet taken:
        the clock of ``StreamReport.stalls``, moved by what the reader waits of its own accord.
        """
        with self._guard:
            now = time.perf_counter()
            # Not decoded yet: it will be soon, and so playing begins later than assumed.
            clock = (self._arrived[0] if self._arrived else now) + playing_lead(frames, fps)
            for number in range(index):
                taken = self._taken[number] if number < len(self._taken) else now
                clock = max(clock, taken) + frames[number] / fps
        return clock

    def expects(self, start: float, seconds: float, index: int) -> float:
        """The ``perf_counter`` at which chunk ``index`` is due where each has ``seconds``, from ``start`` on, and the
        time that chunks lay there until the reader came, beyond when they were due."""
        away = 0.0
        with self._guard:
            now = time.perf_counter()
            for number, arrived in enumerate(self._arrived[:index]):
                taken = self._taken[number] if number < len(self._taken) else now
                waited = taken - max(arrived, start + (number + 1) * seconds + away)
                away += waited if waited > HAND_OVER else 0.0
        return start + (index + 1) * seconds + away
