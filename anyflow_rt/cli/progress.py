"""How far long work has come: one line rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

QUIET_SECONDS = 2.0
"""Work shorter than this says nothing of its steps; elsewhere than on a terminal, also the time between two lines."""


def say(line: str) -> None:
    """A line of its own on stderr."""
    print(line, file=sys.stderr, flush=True)


class Progress:
    """Call ``update`` after each of ``total`` parts; ``close`` clears the terminal's line."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._terminal = sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._shown = False

    def update(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``, and how long the rest will take at this rate."""
        now = time.monotonic()
        if now - (self._start if self._terminal else self._last) < QUIET_SECONDS:
            return
        self._last = now
        left = (now - self._start) / done * (total - done)
        text = f"{self._what} {done}/{total}, about {left:.0f} s left"
        if self._terminal:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            say(text)

    def close(self) -> None:
        """Leave the terminal's line empty for what comes next."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ProgressOfParts:
    """Progress of one thing after another, and lines between: the terminal's line is emptied before each."""

    def __init__(self) -> None:
        self._what = ""
        self._progress: Progress | None = None

    def update(self, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of ``what`` are made."""
        if self._progress is None or what != self._what:
            self.close()
            self._what, self._progress = what, Progress(what)
        self._progress.update(done, total)

    def say(self, line: str) -> None:
        """A line of its own."""
        self.close()
        say(line)

    def close(self) -> None:
        """Leave the terminal's line empty."""
        if self._progress is not None:
            self._progress.close()
            self._progress = None

    def __enter__(self) -> ProgressOfParts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
