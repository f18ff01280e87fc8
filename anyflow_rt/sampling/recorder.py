"""The stages of one run after another as they end: warm times for the history, first calls of a process kept apart."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from anyflow_rt.sampling.latency import STAGES, FirstCalls, RunTimes


class StageObserver(Protocol):
    """What is told of a run's stages as they end: a ``RunRecorder``, or a ``Forecaster`` that learns from them too."""

    def start_run(self, *, opening: bool = False) -> None: ...

    def observe(self, stage: str, seconds: float) -> object: ...

    def observe_preview(self, stage: str, seconds: float) -> None: ...

    def end_run(self) -> tuple[RunTimes, FirstCalls | None]: ...


class RunRecorder:
    """Of one setting. Not thread-safe; one run at a time: ``start_run``, ``observe`` each stage, ``end_run``.

    cold: the stages that this process has still to call; they are struck off as they run.
    """

    def __init__(self, cold: Iterable[str] = STAGES) -> None:
        self.cold = set(cold)
        self.start_run()

    def start_run(self, *, opening: bool = False) -> None:
        """Forget an unfinished run. opening: its first calls wait for engines that are still being opened."""
        self._opening = opening
        self._jumps: list[float] = []
        self._seconds: dict[str, float] = {}
        self._first: dict[str, float] = {}

    @property
    def has_jumped(self) -> bool:
        """Whether the run has made a jump."""
        return bool(self._jumps) or "jump" in self._first

    def observe(self, stage: str, seconds: float) -> bool:
        """One of ``STAGES`` took ``seconds``; all but jumps once a run. Returns whether it was its first call."""
        if self._observe_first(stage, seconds):
            return True
        if stage == "jump":
            self._jumps.append(seconds)
        else:
            self._seconds[stage] = seconds
        return False

    def observe_preview(self, stage: str, seconds: float) -> None:
        """The same of a preview: no part of the run's history, unless it was the first call."""
        self._observe_first(stage, seconds)

    def end_run(self) -> tuple[RunTimes, FirstCalls | None]:
        """What to store of the run, also of one that was cut short; the next may begin."""
        first = FirstCalls(**self._first, opening=self._opening) if self._first else None
        times = RunTimes(jumps=tuple(self._jumps), **self._seconds)
        self.start_run()
        return times, first

    def _observe_first(self, stage: str, seconds: float) -> bool:
        if stage not in self.cold:
            return False
        self.cold.discard(stage)
        self._first[stage] = seconds
        return True
