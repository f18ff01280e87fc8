"""Previews and callbacks within a budget, on a virtual clock: what they cost is planned for, once, and no more."""

import pytest

from anyflow_rt.sampling import controller as loop
from anyflow_rt.sampling.callbacks import ON_PREVIEW, ON_STEP, CallbackTimes
from anyflow_rt.sampling.controller import Controller
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.latency import FirstCalls, History, RunTimes
from anyflow_rt.sampling.limits import Limits
from anyflow_rt.sampling.planner import make_tables
from anyflow_rt.sampling.quality import default_quality
from anyflow_rt.sampling.recorder import RunRecorder

JUMP, DECODE = 0.01, 0.02
FIRST = {"jump": 0.05, "decode": 0.12}
TABLES = make_tables(default_quality())
WARM = History((RunTimes(0.0, 0.0, (JUMP,) * 16, DECODE),) * 20, (FirstCalls(0.0, 0.0, **FIRST),) * 5)


class Run:
    """One run of a machine that takes what its profile says. cold: its first calls are still to be made."""

    def __init__(self, budget, previews, *, cold=False, on_step=0.0, on_preview=0.0, memory=None, min_steps=1):
        self.now, self._cold, self.drafts = 100.0, dict(FIRST) if cold else {}, []
        forecaster = Forecaster(WARM, recorder=RunRecorder() if cold else RunRecorder(cold=()))
        forecaster.start_run()
        self.smallest = forecaster.smallest_budget(0.95)
        callbacks = CallbackTimes() if memory is None else memory
        callbacks.start_run([name for name, each in ((ON_STEP, on_step), (ON_PREVIEW, on_preview)) if each])
        self.control = Controller(
            TABLES, forecaster, deadline=self.now + budget, confidence=0.95, clock=lambda: self.now,
            limits=Limits(preview_after=previews, min_steps=min_steps), callbacks=callbacks,
        )  # fmt: skip
        while (move := self.control.next_move()) is not None:
            jump = self._take("jump", JUMP)
            self.control.ran(move, jump)
            if move.preview:
                self.drafts.append(len(self.control.visited) - 1)
                forecaster.observe_preview("decode", self._take("decode", DECODE))
            name, seconds = (ON_PREVIEW, on_preview) if move.preview else (ON_STEP, on_step)
            if seconds:
                self.now += seconds
                callbacks.observe(name, seconds)
        self.control.before_decode()
        self._take("decode", DECODE)
        self.seconds, self.steps = self.now - 100.0, len(self.control.visited) - 1
        self.left = budget - self.seconds
        self.whys = [each.why for each in self.control.decisions]

    def _take(self, stage, seconds):
        taken = self._cold.pop(stage, seconds)
        self.now += taken
        return taken


@pytest.mark.parametrize("cold", [False, True])
def test_previews_never_leave_the_run_with_one_jump_and_time_unused(cold):
    smallest = Run(1.0, (), cold=cold).smallest
    drafts = []
    for factor in (1.0, 1.2, 1.4, 1.6, 2.0, 2.4, 3.0):
        budget = factor * smallest
        plain, drafted = Run(budget, (), cold=cold), Run(budget, (1, 4, 16), cold=cold)
        assert plain.left >= 0 and drafted.left >= 0
        cost = len(drafted.drafts) * (JUMP + DECODE) / JUMP
        assert plain.steps - cost - 2 <= drafted.steps <= plain.steps
        if not drafted.drafts:
            assert drafted.steps == plain.steps
            assert {loop.DROPPED, loop.UNSHOWN} & set(drafted.whys), "why there is no draft is said"
        drafts.append(len(drafted.drafts))
    assert drafts == sorted(drafts) and drafts[-1] >= 1


def test_first_calls_are_charged_once():
    """With the decoder's first call there is room for two drafts; charged again for each there would be for none."""
    smallest = Run(1.0, (), cold=True).smallest
    assert smallest == pytest.approx(FIRST["jump"] + FIRST["decode"], rel=0.1)
    assert Run(smallest + 0.17, (1, 4), cold=True).drafts == [1, 4]


def test_the_last_draft_goes_first():
    whole = Run(0.4, (1, 4, 16))
    assert whole.drafts == [1, 4, 16] and loop.DROPPED not in whole.whys
    less = Run(0.22, (1, 4, 12))
    assert less.drafts == [1, 4] and less.whys.count(loop.DROPPED) == 1 and less.left < JUMP + 0.02


def test_a_draft_that_no_run_can_show_is_not_missed():
    limited = Run(9.0, (31, 32))
    assert limited.steps == 32 and not limited.drafts and not {loop.DROPPED, loop.UNSHOWN} & set(limited.whys)


@pytest.mark.parametrize("budget", [0.5, 1.0, 3.0])
def test_time_in_on_step_is_planned_for(budget):
    """A third of a second after every jump of 10 ms. The first run learns it from its own first jump, the next ones
    know it."""
    memory = CallbackTimes()
    runs = [Run(budget, (), on_step=0.3, memory=memory) for _ in range(3)]
    for run in runs[budget < 1 :]:
        assert run.left >= 0 and run.steps == int((budget - DECODE) / 0.31)
    assert Run(budget, (), memory=memory).steps == Run(budget, ()).steps, "a run without callbacks pays for none"


def test_time_in_a_preview_callback_is_planned_for():
    memory = CallbackTimes()
    Run(3.0, (1,), on_preview=0.3, memory=memory)
    for budget, drafts in ((0.2, []), (0.6, [1])):
        run = Run(budget, (1,), on_preview=0.3, memory=memory)
        assert run.left >= 0 and run.drafts == drafts and run.steps > 4


def test_unmeasured_and_late_is_the_shortest_run():
    for remaining, fewest, first in ((1.0, 1, 24), (-0.1, 1, 0), (0.0, 2, 16)):
        control = Controller(
            TABLES, Forecaster(History()), deadline=5.0 + remaining, confidence=0.95, clock=lambda: 5.0,
            limits=Limits(min_steps=fewest),
        )  # fmt: skip
        assert control.next_move().end == first
    assert control.decisions[0].why == loop.UNMEASURED_LATE and loop.is_change(control.decisions[0])
