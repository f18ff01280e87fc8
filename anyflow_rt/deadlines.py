"""Deadlines of chunks: each is to be there when a player needs it, and takes as many jumps as that leaves time for.

Playing begins a while after the first frame is there (``lead``), and chunk k is due when all before it have been shown;
a chunk that is late or a reader that pauses moves all that is due after it (``reader``). What one chunk does not use of
its time is left to those after it. Before every jump the planner of budgets decides how the chunk goes on. Chunks are
of different lengths and attend to ever more: times are measured in what their jumps cost in arithmetic
(``engines.chunks.flops``), so that each tells of all others.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

from anyflow_rt.engines.chunks import ChunkLayout, flops
from anyflow_rt.errors import UsageError
from anyflow_rt.reader import Reader
from anyflow_rt.result import ChunkReport, playing_lead
from anyflow_rt.sampling.controller import Controller
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.guide import BudgetGuide, Guide, Move, PlanGuide
from anyflow_rt.sampling.latency import History
from anyflow_rt.sampling.limits import Limits, check_budget
from anyflow_rt.sampling.planner import Tables
from anyflow_rt.sampling.schedule import GRID_INTERVALS, Plan, grid

RESERVE = 0.5
"""Of the time the longest chunk plays for: what plans for a player leave of it, so that a burst that begins while a
chunk is in work meets a player with something to show. ``ChunkReport.due`` is without it."""
REMEMBERED = 8
"""Decoded chunks whose slowest says how long to leave for decoding."""


@dataclass(frozen=True)
class Pace:
    """How chunks are to arrive. fps: the rate they are played at; or seconds: for each chunk, from the start on.

    confidence: that plans keep a deadline with. limits: of a chunk's jumps.
    """

    fps: float | None
    seconds: float | None
    confidence: float
    limits: Limits


class ChunkDeadlines:
    """Of one stream: the ``guide`` of each chunk in turn, told of what was decoded by the thread that does it, and of
    what was taken by the reader's.

    forecaster: made once a runtime, with ``make_forecaster``; it learns from every stream.
    """

    def __init__(
        self, pace: Pace, tables: Tables, forecaster: Forecaster, shift: float, first: Plan, start: float
    ) -> None:
        """first: the plan of a chunk that has no deadline yet. start: the ``perf_counter`` the stream counts from."""
        self._pace, self._tables, self._forecaster = pace, tables, forecaster
        self._times, self._first, self._start = grid(shift), first, start
        self._guard = threading.Lock()
        self._decode_shares: deque[float] = deque(maxlen=REMEMBERED)
        self._reader = Reader()
        self._stated: dict[int, tuple[float, Controller, float]] = {}

    def guide(self, layout: ChunkLayout, index: int) -> Guide:
        """Who says how the jumps of chunk ``index`` go."""
        self._forecaster.end_run()
        self._forecaster.start_run()
        cost = flops(layout, index) / flops(layout, layout.longest)
        due = self._due(layout, index)
        if due is None:
            return _ScaledPlan(self._first, self._forecaster, cost)

        def clock() -> float:
            return time.perf_counter() / cost

        control = Controller(
            self._tables,
            self._forecaster,
            deadline=(due - self._reserve(layout) - self._decode_seconds(layout.frames(index))) / cost,
            confidence=self._pace.confidence,
            limits=self._pace.limits,
            clock=clock,
            start=self._start / cost,
        )
        self._stated[index] = (due - self._start, control, cost)
        return _ScaledGuide(control, self._times, cost)

    def decoded(self, frames: int, seconds: float) -> None:
        """A chunk's ``frames`` are there; decoding them took ``seconds``."""
        self._reader.arrived()
        with self._guard:
            self._decode_shares.append(seconds / frames)

    def took(self) -> None:
        """The reader has the next chunk."""
        self._reader.took()

    def tell(self, index: int, report: ChunkReport) -> ChunkReport:
        """The report of a chunk with what was stated of it; seconds from the start."""
        if index not in self._stated:
            return report
        due, control, cost = self._stated[index]
        planned = len(control.decisions[0].path) - 1
        predicted = None if control.predicted is None else control.predicted * cost
        return replace(report, due=due, predicted=predicted, planned_steps=planned)

    def _due(self, layout: ChunkLayout, index: int) -> float | None:
        """The ``perf_counter`` at which chunk ``index`` is to be there; None where it has no deadline."""
        if self._pace.seconds is not None:
            return self._reader.expects(self._start, self._pace.seconds, index)
        if index == 0 or self._pace.fps is None:
            return None
        return self._reader.plays([layout.frames(each) for each in range(len(layout))], self._pace.fps, index)

    def _reserve(self, layout: ChunkLayout) -> float:
        """Seconds before a chunk is due at which its plan is to end; none where each has a budget of its own."""
        if self._pace.fps is None or self._pace.seconds is not None:
            return 0.0
        return RESERVE * playing_lead([layout.frames(layout.longest)], self._pace.fps)

    def _decode_seconds(self, frames: int) -> float:
        with self._guard:
            return max(self._decode_shares, default=0.0) * frames


def make_pace(
    fps: float | None,
    seconds: float | None,
    *,
    causal: bool,
    confidence: float = 0.95,
    min_steps: int = 1,
    max_steps: int = GRID_INTERVALS,
    steps: int | None = None,
    **_others: Any,
) -> Pace:
    """How the chunks of a stream are to arrive, from its options, which were checked. Raises UsageError."""
    if not causal:
        raise UsageError(
            "deadlines of chunks (fps_deadline, budget_per_chunk) are for causal checkpoints; this one makes all "
            "frames at once: give generate a budget"
        )
    if fps is not None and seconds is not None:
        raise UsageError(
            f"budget_per_chunk {seconds!r} and fps_deadline are both given; a chunk has one deadline, so leave one out"
        )
    if seconds is not None:
        seconds = check_budget(seconds, "budget_per_chunk")
    most = max_steps if steps is None else min(steps, max_steps)
    return Pace(fps, seconds, confidence, Limits(min_steps, most))


def make_forecaster() -> Forecaster:
    """Of jumps in units of a longest chunk's; decoding is in the deadlines, not among its stages."""
    return Forecaster(History(), decode=False)


class _ScaledPlan(PlanGuide):
    """A plan as it is, its jumps told in units."""

    def __init__(self, plan: Plan, forecaster: Forecaster, cost: float) -> None:
        super().__init__(plan, forecaster)
        self._cost = cost

    def made(self, move: Move, seconds: float) -> None:
        """See ``Guide``."""
        super().made(move, seconds / self._cost)


class _ScaledGuide(BudgetGuide):
    """What a controller decides, told of its jumps in units."""

    def __init__(self, control: Controller, times: tuple[float, ...], cost: float) -> None:
        super().__init__(control, times)
        self._cost = cost

    def made(self, move: Move, seconds: float) -> None:
        """See ``Guide``."""
        super().made(move, seconds / self._cost)
