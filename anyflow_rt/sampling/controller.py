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

from anyflow_rt.sampling.callbacks import ON_PREVIEW, ON_STEP, CallbackTimes
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.limits import NO_LIMITS, Limits
from anyflow_rt.sampling.planner import Choice, Outlook, Position, Tables, choose

UNMEASURED_STEPS = 4
"""The plan whose first jump is run where no time of a jump is known yet and the deadline has not passed."""
AFTER_PREVIEW = 2
"""Jumps that must follow a preview: of one, to the end, it would show the result."""

FIRST, KEPT, FEWER, MORE = "first plan", "as planned", "slower than planned: fewer jumps", "faster: more jumps"
TOO_LATE = "no plan is predicted to finish in time: the shortest"
UNMEASURED = "no jump was measured yet: one jump of a usual plan, then a decision with its time"
UNMEASURED_LATE = "no jump was measured yet, and the budget is spent: the shortest"
PREVIEW, DECODE = "preview", "decode"
DROPPED = "preview dropped: it and the jumps after it would cost the deadline"
UNSHOWN = "no preview: the next jump goes to the end itself"


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
    return decision.why in (FEWER, MORE, TOO_LATE, UNMEASURED, UNMEASURED_LATE, DROPPED, UNSHOWN)


class Controller:
    """One run. ``clock`` must be monotonic and the one that ``deadline`` and ``start`` are read from.

    callbacks: what the caller's own functions take between jumps.
    """

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
        callbacks: CallbackTimes | None = None,
    ) -> None:
        self.start = clock() if start is None else start
        self.deadline, self.confidence, self.limits = deadline, confidence, limits
        self.decisions: list[Decision] = []
        self._tables, self._forecaster, self._clock = tables, forecaster, clock
        self._callbacks = CallbackTimes() if callbacks is None else callbacks
        self._node, self._done, self._cost = tables.quality.nodes, 0, 0.0
        self._path: tuple[int, ...] = ()
        self._predicted: float | None = None
        self._visited = [self._node]
        self._previews = [count for count in limits.preview_after if _shows(count, limits.max_steps)]
        self._previewed = False

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
        if required is None:
            return self._unmeasured(now, remaining)
        choice = self._choose(now, remaining, required)
        due = bool(self._previews) and self._previews[0] <= self._done
        if due and choice.jumps > 1:
            del self._previews[0]
            self._previewed = True
            self._record(now, remaining, choice, PREVIEW)
            return Move(self._node, 0, preview=True)
        if choice.jumps == 1 and self._previews and (due or not self._previewed):
            self._previews.clear()
            self._record(now, remaining, choice, UNSHOWN)
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

    def _choose(self, now: float, remaining: float, required: list[float]) -> Choice:
        """The best plan that shows every preview the best plan without them would pass. Where there is no such plan,
        the last preview is given up, and so on: a preview costs jumps, but never all of them."""
        choice = self._best(remaining, required, 0)
        passed = keeping = self._passed(choice.jumps)
        while keeping:
            found = self._best(remaining, required, keeping)
            if found.fits and self._passed(found.jumps) >= keeping:
                choice = found
                break
            keeping -= 1
        if keeping < passed:
            del self._previews[keeping:]
            self._record(now, remaining, choice, DROPPED)
        return choice

    def _best(self, remaining: float, required: list[float], previews: int) -> Choice:
        """The best plan that has time for the next ``previews`` previews, where they are shown on the way."""
        beside = self._beside(len(required), previews)
        outlook = Outlook(
            [seconds + more for seconds, more in zip(required, beside, strict=True)],
            self._forecaster.chances([remaining - more for more in beside], self.confidence),
            remaining,
            self.confidence,
        )
        return choose(self._tables, outlook, Position(self._node, self._done, self._cost), self.limits)

    def _beside(self, count: int, previews: int) -> list[float]:
        """Seconds that the caller's functions and the next ``previews`` previews take beside k = 0.. more jumps. First
        calls are counted already: who makes them makes no difference to the sum."""
        after_each = self._callbacks.seconds(ON_STEP, self.confidence)
        if not previews:
            return [jumps * after_each for jumps in range(count)]
        cost = self._forecaster.preview_seconds(self.confidence) + self._callbacks.seconds(ON_PREVIEW, self.confidence)
        fewest = [each - self._done + AFTER_PREVIEW for each in self._previews[:previews]]
        return [jumps * after_each + cost * bisect_right(fewest, jumps) for jumps in range(count)]

    def _passed(self, jumps: int) -> int:
        """How many of the previews that are left ``jumps`` more jumps would show."""
        return sum(_shows(count, self._done + jumps) for count in self._previews)

    def _unmeasured(self, now: float, remaining: float) -> Move:
        usual = min(UNMEASURED_STEPS, self.limits.max_steps) if remaining > 0 else 1
        steps = min(max(self.limits.min_steps, usual), self._node)
        path = self._tables.path(self._node, steps)
        value = self._tables.quality.value(self._cost + self._tables.costs[self._node][steps])
        why = UNMEASURED if remaining > 0 else UNMEASURED_LATE
        self._append(Decision(now - self.start, self._done, remaining, path, value, None, 1.0, False, why))
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


def _shows(preview_after: int, steps: int) -> bool:
    """Whether a run of ``steps`` jumps shows a preview after so many of them."""
    return preview_after + AFTER_PREVIEW <= steps
