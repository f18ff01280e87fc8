"""Budget charts: the share of the possible gain, budgets met, steps run, and how far what was stated held."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.budget.baselines import ONCE, ORACLE, shown
from anyflow_rt.benchmarks.budget.sweep import ADAPTIVE, Outcome
from anyflow_rt.benchmarks.budget.tables import planned_scores
from anyflow_rt.benchmarks.pages.canvas import COLOURS, INK, canvas, seconds_scale

POLICY_HEIGHT = 0.34
"""Inches of one policy's line."""
CASE_HEIGHT = 0.4
"""Inches of one case's line."""


def write_charts(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """``budget-policies.png``, ``-steps.png`` and ``-promises.png``. Raises MissingPackageError, OSError."""
    (folder / "budget-policies.png").write_bytes(policies_chart(outcomes))
    (folder / "budget-steps.png").write_bytes(steps_chart(outcomes))
    (folder / "budget-promises.png").write_bytes(promises_chart(outcomes))


def policies_chart(outcomes: Sequence[Outcome]) -> bytes:
    """One panel a case, one line a policy: share of the possible gain on the curve planned by, and budgets met."""
    rows = [shown(outcome.rising) for outcome in outcomes]
    with canvas(sum(POLICY_HEIGHT * len(names) + 1.3 for names in rows)) as drawn:
        panels = drawn.figure.subplots(
            len(outcomes), squeeze=False, gridspec_kw={"height_ratios": [len(names) for names in rows]}
        )[:, 0]
        for axes, outcome in zip(panels, outcomes, strict=True):
            _policies(axes, outcome)
        return drawn.png()


def steps_chart(outcomes: Sequence[Outcome]) -> bytes:
    """One panel a case: how often each number of steps was run, beside what perfect foresight would have run."""
    with canvas(3.2 * len(outcomes)) as drawn:
        panels = drawn.figure.subplots(len(outcomes), squeeze=False)[:, 0]
        for axes, outcome in zip(panels, outcomes, strict=True):
            for name, colour, aside in ((ADAPTIVE, COLOURS[0], -0.2), (ORACLE, COLOURS[1], 0.2)):
                counts = outcome.rising[name].steps
                axes.bar([steps + aside for steps in counts], list(counts.values()), 0.4, color=colour, label=name)
            axes.set(title=str(outcome.case), xlabel="steps", ylabel="runs")
            axes.legend()
        return drawn.png()


def promises_chart(outcomes: Sequence[Outcome]) -> bytes:
    """By case: how far misses overshot, how often the stated finish held (Wilson, 95%), and what decisions took."""
    with canvas(3 * (CASE_HEIGHT * len(outcomes) + 1.6)) as drawn:
        late, held, planning = drawn.figure.subplots(3)
        for place, outcome in enumerate(outcomes):
            for name, colour, aside in ((ADAPTIVE, COLOURS[0], -0.15), (ONCE, COLOURS[1], 0.15)):
                over = planned_scores(outcome)[name].overshoot
                if over:
                    _range(late, place + aside, [100 * value for value in over.values()], colour)
            for each, colour, aside in (
                (outcome.predictor.adopted, COLOURS[0], -0.15),
                (outcome.predictor.once, COLOURS[1], 0.15),
            ):
                held.plot(each.interval, [place + aside] * 2, color=colour)
                held.plot([each.rate], [place + aside], "o", color=colour)
            held.plot([outcome.case.confidence], [place], "|", color=INK, markersize=16)
            _range(planning, place, [1e3 * value for value in outcome.overhead.values()], COLOURS[0])
        planning.axvline(1.0, color=INK, linewidth=1, linestyle=":")
        seconds_scale(planning.xaxis)
        for axes, unit in (
            (late, f"late by p50 to max, % of the budget\n({ADAPTIVE} blue, {ONCE} red)"),
            (held, "share of stated finishes that held\n(as run blue, from the start red; line: asked)"),
            (planning, "ms of a decision, p50, p95, p99, max"),
        ):
            axes.set_xlabel(unit, fontsize=10)
            axes.tick_params(axis="x", labelsize=8)
            names = [str(outcome.case).replace(" at ", "\nat ") for outcome in outcomes]
            axes.set_yticks(range(len(outcomes)), names, fontsize=8)
            axes.set_ylim(len(outcomes) - 0.5, -0.5)
        return drawn.png()


def _range(axes: Any, place: float, values: Sequence[float], colour: str) -> None:
    """A line through quantiles, with a dot at each."""
    axes.plot(values, [place] * len(values), "o-", color=colour, markersize=5)


def _policies(axes: Any, outcome: Outcome) -> None:
    scores = planned_scores(outcome)
    names = shown(scores)
    places = range(len(names))
    # Misses are failures, so a share can be far below nothing; the axis ends at 0.
    axes.barh(
        places, [max(0.0, scores[name].share) for name in names], 0.6, color=COLOURS[5], label="share of the gain"
    )
    axes.plot([scores[name].met for name in names], places, "D", color=COLOURS[1], label="budgets met", markersize=6)
    axes.axvline(outcome.case.confidence, color=INK, linewidth=1, linestyle=":")
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set(title=str(outcome.case), xlim=(0, 1.02))
    axes.legend(loc="lower left", fontsize=10)
