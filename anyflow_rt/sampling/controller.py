"""Decides before each jump, and before decoding: the one loop that a real run and a simulated one share.

    controller = Controller(tables, forecaster, deadline=start + budget, confidence=0.95)
    while (move := controller.next_move()) is not None:
        ...jump from grid node move.start to move.end; of a preview: to 0, decode, show, and go back...
        controller.ran(move, seconds)
    controller.before_decode()

Text, conditioner, decode and encode are reported to the forecaster by who runs them.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.limits import NO_LIMITS, Limits
from anyflow_rt.sampling.planner import Choice, Position, Tables, choose

UNMEASURED_STEPS = 4
"""The plan whose first jump is run where no time of a jump is known yet."""

FIRST, KEPT, FEWER, MORE = "first plan", "as planned", "slower than planned: fewer jumps", "faster: more jumps"
TOO_LATE = "no plan is predicted to finish in time: the shortest"
UNMEASURED = "no jump was measured yet: one jump of a usual plan, then a decision with its time"
PREVIEW, DROPPED, DECODE = "preview", "preview dropped: it would cost the deadline", "decode"


class Move(NamedTuple):
    """From grid node ``start`` to ``end`` (32 = noise, 0 = data). A preview leaves the run where it was."""

    start: int
    end: int
    preview: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision. Seconds are since ``Controller.start``, but ``remaining`` until the deadline.

    path: the nodes planned, from the current one. predicted: when that is finished at the asked confidence, None
    where nothing is known. ratio: observed / typical speed. fits: whether ``predicted`` is before the deadline.
    """

    at: float
    done: int
    remaining: float
    path: tuple[int, ...]
    value: float
    predicted: float | None
    ratio: float
    fits: bool
    why: str


def is_change(decision: Decision) -> bool:
    """Whether it departed from what was planned before, or could not keep the deadline: what a person wants to know."""
    return decision.why in (FEWER, MORE, TOO_LATE, UNMEASURED, DROPPED)


class Controller:
    """One run. ``clock`` must be monotonic and the one that ``deadline`` and ``start`` are read from."""

    def __init__(
        self,
        tables: Tables,
        forecaster: Forecaster,
        *,
        deadline: float,
        confidence: float,
        limits: Limits = NO_LIMITS,
        clock: Callable[[], float] = time.perf_counter,
        start: float | None = None,
    ) -> None:
        self.start = clock() if start is None else start
        self.deadline, self.confidence, self.limits = deadline, confidence, limits
        self.decisions: list[Decision] = []
        self._tables, self._forecaster, self._clock = tables, forecaster, clock
        self._node, self._done, self._cost = tables.quality.nodes, 0, 0.0
        self._path: tuple[int, ...] = ()
        self._predicted: float | None = None
        self._visited = [self._node]
        self._previews = list(limits.preview_after)

    @property
    def visited(self) -> tuple[int, ...]:
        """The nodes of the run so far, from noise."""
        return tuple(self._visited)

    @property
    def predicted(self) -> float | None:
        """Seconds since ``start`` stated when the plan that is being run was chosen; kept while it is."""
        return self._predicted

    def next_move(self) -> Move | None:
        """Decide. None: the run has arrived at 0, decode."""
        if self._node == 0:
            return None
        now = self._clock()
        remaining = self.deadline - now
        required = self._forecaster.required(self.confidence)
        position = Position(self._node, self._done, self._cost)
        if required is None:
            return self._unmeasured(now, remaining)
        if self._previews and self._previews[0] <= self._done:
            move = self._preview(now, remaining, required, position)
            if move is not None:
                return move
        choice = choose(self._tables, self._reserve(required), remaining, position, self.limits)
        if self._previews and not choice.fits:
            self._previews.clear()
            choice = choose(self._tables, required, remaining, position, self.limits)
            self._record(now, remaining, choice, DROPPED)
        self._adopt(now, remaining, choice)
        return Move(self._node, choice.path[1])

    def ran(self, move: Move, seconds: float) -> None:
        """The jump of ``move`` took ``seconds`` (of a preview: its jump, without decoding)."""
        if move.preview:
            self._forecaster.observe_preview("jump", seconds)
            return
        self._forecaster.observe("jump", seconds)
        self._cost += self._tables.quality.costs[move.start][move.end]
        self._node, self._done, self._path = move.end, self._done + 1, self._path[1:]
        self._visited.append(move.end)

    def before_decode(self) -> Decision:
        """Record when decoding begins and when it is predicted to have ended; there is nothing left to choose."""
        now = self._clock()
        required = self._forecaster.required(self.confidence)
        rest = None if required is None else required[0]
        remaining = self.deadline - now
        predicted = None if rest is None else now - self.start + rest
        fits = rest is not None and rest <= remaining
        value = self._tables.quality.value(self._cost)
        return self._append(
            Decision(
                now - self.start, self._done, remaining, (0,), value, predicted, self._forecaster.ratio, fits, DECODE
            )
        )

    def _adopt(self, now: float, remaining: float, choice: Choice) -> None:
        if not self._path:
            why = FIRST
        elif choice.path == self._path:
            why = KEPT
        else:
            why = FEWER if choice.jumps < len(self._path) - 1 else MORE
        if why is not KEPT:
            self._path, self._predicted = choice.path, now - self.start + choice.predicted
        self._record(now, remaining, choice, why if choice.fits else TOO_LATE)

    def _preview(self, now: float, remaining: float, required: list[float], position: Position) -> Move | None:
        """The preview that is due, if the run still finishes in time after it; otherwise none is shown any more."""
        self._previews.pop(0)
        after = remaining - self._forecaster.preview_seconds(self.confidence)
        choice = choose(self._tables, required, after, position, self.limits)
        if not choice.fits:
            self._previews.clear()
            self._record(now, remaining, choice, DROPPED)
            return None
        if choice.jumps == 1:
            return None  # the run's own next jump goes to 0
        self._record(now, remaining, choice, PREVIEW)
        return Move(self._node, 0, preview=True)

    def _reserve(self, required: list[float]) -> list[float]:
        """``required`` with the previews that would come due on the way: after the a-th jump, if more follow."""
        if not self._previews:
            return required
        cost = self._forecaster.preview_seconds(self.confidence)
        due = [count - self._done for count in self._previews]
        return [seconds + cost * bisect_right(due, jumps - 1) for jumps, seconds in enumerate(required)]

    def _unmeasured(self, now: float, remaining: float) -> Move:
        steps = min(max(self.limits.min_steps, min(UNMEASURED_STEPS, self.limits.max_steps)), self._node)
        path = self._tables.path(self._node, steps)
        value = self._tables.quality.value(self._cost + self._tables.costs[self._node][steps])
        self._append(Decision(now - self.start, self._done, remaining, path, value, None, 1.0, False, UNMEASURED))
        return Move(self._node, path[1])

    def _record(self, now: float, remaining: float, choice: Choice, why: str) -> None:
        at = now - self.start
        self._append(
            Decision(
                at,
                self._done,
                remaining,
                choice.path,
                choice.value,
                at + choice.predicted,
                self._forecaster.ratio,
                choice.fits,
                why,
            )
        )

    def _append(self, decision: Decision) -> Decision:
        self.decisions.append(decision)
        return decision
