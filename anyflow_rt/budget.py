"""A run with a budget: what is refused before it, who guides it, and what is said of it afterwards."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import BudgetError
from anyflow_rt.result import BudgetReport
from anyflow_rt.sampling.calibration import read_calibration
from anyflow_rt.sampling.callbacks import ON_STEP, CallbackTimes
from anyflow_rt.sampling.controller import Controller, Decision
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.guide import BudgetGuide
from anyflow_rt.sampling.limits import Budget
from anyflow_rt.sampling.planner import Tables, make_tables
from anyflow_rt.sampling.quality import Quality, fit_quality
from anyflow_rt.sampling.schedule import grid

NON_UNIFORM_PLANS = False
"""Only plans that divide what is left evenly, until others have measured better on prompts held out."""
STARTING_VARIES = 1.1
"""What had passed when the smallest budget was found may take so many times longer when the run is tried again."""


def measured_quality(bundle: Bundle) -> Quality:
    """From the bundle's calibration, defaults where it has none. Raises BundleError where that file is damaged."""
    return fit_quality(read_calibration(bundle.calibration_path, bundle.id))


def planning_tables(quality: Quality) -> Tables:
    """What plans are looked up in."""
    return make_tables(quality, non_uniform=NON_UNIFORM_PLANS)


@dataclass(frozen=True)
class _Start:
    """What is known when a run begins. smallest: seconds since ``start``, None where no jump was measured."""

    start: float
    smallest: float | None
    notes: tuple[str, ...]


class BudgetedRun:
    """One run: made when it begins, ``guide`` it once the prompt is read, ``report`` when its result is there."""

    def __init__(
        self,
        budget: Budget,
        forecaster: Forecaster,
        tables: Tables,
        shift: float,
        start: float,
        callbacks: CallbackTimes,
        preparing: float,
    ) -> None:
        """start: the ``time.perf_counter`` that the budget counts from. callbacks: what the caller's functions take.
        preparing: seconds that making ``forecaster`` and ``tables`` took.

        Raises BudgetError where the budget is strict and cannot be met.
        """
        elapsed = time.perf_counter() - start
        least = budget.limits.min_steps
        rest = forecaster.smallest_budget(budget.confidence, least)
        if rest is not None:
            rest += least * callbacks.seconds(ON_STEP, budget.confidence)
        self._budget, self._forecaster, self._tables, self._shift = budget, forecaster, tables, shift
        self._callbacks, self._preparing = callbacks, preparing
        if budget.strict:
            refuse_too_small(budget, elapsed, rest)
        smallest = None if rest is None else elapsed + rest
        self._begun = _Start(start, smallest, tuple(self._notes(smallest)))
        self._controller: Controller | None = None
        self._guide: BudgetGuide | None = None

    def guide(self) -> BudgetGuide:
        """Who says how the jumps go, from now on."""
        self._controller = Controller(
            self._tables,
            self._forecaster,
            deadline=self._begun.start + self._budget.seconds,
            confidence=self._budget.confidence,
            limits=self._budget.limits,
            clock=time.perf_counter,
            start=self._begun.start,
            callbacks=self._callbacks,
        )
        self._guide = BudgetGuide(self._controller, grid(self._shift), time.perf_counter)
        return self._guide

    def before_decode(self) -> None:
        """The jumps are made."""
        if self._controller is not None:
            self._controller.before_decode()

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """So far."""
        return () if self._controller is None else tuple(self._controller.decisions)

    def report(self, taken: float) -> BudgetReport:
        """taken: seconds since the start, now that the result is there."""
        assert self._controller is not None and self._guide is not None
        first = self._controller.decisions[0]
        return BudgetReport(
            seconds=self._budget.seconds,
            confidence=self._budget.confidence,
            met=taken <= self._budget.seconds,
            taken=taken,
            predicted=self._controller.predicted,
            planned_steps=len(first.path) - 1,
            smallest=self._begun.smallest,
            preparing=self._preparing,
            planning=tuple(self._guide.planning),
            notes=self._begun.notes,
        )

    def _notes(self, smallest: float | None) -> list[str]:
        notes = [] if self._tables.quality.note is None else [self._tables.quality.note]
        budget = self._budget
        if smallest is None:
            notes.append("no jump was measured on this machine yet: the first ones are; anyflow-rt calibrate measures")
        elif self._forecaster.interpolated:
            notes.append("this size was not measured on this machine yet: times are estimated from other sizes")
        if smallest is not None and budget.seconds < smallest:
            notes.append(
                f"the budget of {budget.seconds:g} s is below the smallest that would do, {_rounded_up(smallest):g} s "
                f"at confidence {budget.confidence:g}: the shortest plan is run"
            )
        return notes


def refuse_too_small(budget: Budget, elapsed: float, rest: float | None) -> None:
    """elapsed: seconds since the start. rest: that a run stays within from now, None where nothing is known. Raises
    BudgetError where both together are more than the budget."""
    if budget.seconds >= elapsed + (rest or 0.0):
        return
    if rest is None:
        raise BudgetError(
            f"a budget of {budget.seconds:g} s cannot be met: {elapsed:.2f} s had passed before the run could begin; "
            "no run was measured on this machine yet: learn the smallest budget with  anyflow-rt calibrate",
            None,
        )
    smallest = _rounded_up(STARTING_VARIES * elapsed + rest)
    raise BudgetError(
        f"a budget of {budget.seconds:g} s cannot be met at confidence {budget.confidence:g}; the smallest that would "
        f"do is {smallest:g} s",
        smallest,
    )


def _rounded_up(seconds: float) -> float:
    """To two digits that count, upwards: what is named must do."""
    step = 10.0 ** (math.floor(math.log10(max(seconds, 1e-6))) - 1)
    return float(f"{math.ceil(seconds / step) * step:.6g}")
