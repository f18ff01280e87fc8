"""Which jump comes next: guides that follow a plan as it is, or re-plan before every jump to keep a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from anyflow_rt.sampling.recorder import StageObserver
from anyflow_rt.sampling.schedule import Jump, Plan

if TYPE_CHECKING:
    from anyflow_rt.sampling import controller


class Move(NamedTuple):
    """One jump. steps: jumps of the whole run as planned now. A preview goes to 0, and the run goes on from before."""

    jump: Jump
    steps: int
    preview: bool = False


class Guide(Protocol):
    """Asked before every jump, told after it."""

    def next_move(self) -> Move | None:
        """The next jump; None where the run has arrived."""

    def made(self, move: Move, seconds: float) -> None:
        """The jump of ``move`` took ``seconds``."""


class PlanGuide:
    """A plan as it is. Previews come after ``preview_after`` jumps (ascending), except where the plan itself goes on
    with a jump to 0: it would show the result."""

    def __init__(self, plan: Plan, observer: StageObserver, preview_after: Sequence[int] = ()) -> None:
        self._plan, self._observer = plan, observer
        self._done = 0
        self._previews = [count for count in preview_after if count < len(plan) - 1]

    def next_move(self) -> Move | None:
        """See ``Guide``."""
        if self._done == len(self._plan):
            return None
        jump = self._plan[self._done]
        if self._previews and self._previews[0] <= self._done:
            del self._previews[0]
            return Move(Jump(jump.t, 0.0), len(self._plan), preview=True)
        return Move(jump, len(self._plan))

    def made(self, move: Move, seconds: float) -> None:
        """See ``Guide``."""
        if move.preview:
            self._observer.observe_preview("jump", seconds)
        else:
            self._done += 1
            self._observer.observe("jump", seconds)


class BudgetGuide:
    """What a ``Controller`` decides, in times. times: of the grid's nodes, ascending (``schedule.grid``)."""

    def __init__(
        self,
        control: controller.Controller,
        times: Sequence[float],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._control, self._times, self._clock = control, times, clock
        self._pending: controller.Move | None = None
        self.planning: list[float] = []
        """Seconds of each decision."""

    def next_move(self) -> Move | None:
        """See ``Guide``."""
        before = self._clock()
        move = self._pending = self._control.next_move()
        self.planning.append(self._clock() - before)
        if move is None:
            return None
        decided = self._control.decisions[-1]
        jump = Jump(self._times[move.start], self._times[move.end])
        return Move(jump, decided.done + len(decided.path) - 1, move.preview)

    def made(self, move: Move, seconds: float) -> None:
        """See ``Guide``."""
        assert self._pending is not None
        self._control.ran(self._pending, seconds)
