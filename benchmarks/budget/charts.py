"""Budget charts: what share of the possible gain each policy had, how often it was in time, how many steps it took."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.budget.baselines import ORACLE
from anyflow_rt.benchmarks.budget.sweep import ADAPTIVE, Outcome
from anyflow_rt.benchmarks.pages.canvas import COLOURS, INK, canvas

POLICY_HEIGHT = 0.34
"""Inches of one policy's line."""


def write_charts(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """``budget-policies.png`` and ``budget-steps.png``. Raises MissingPackageError, OSError."""
    (folder / "budget-policies.png").write_bytes(policies_chart(outcomes))
    (folder / "budget-steps.png").write_bytes(steps_chart(outcomes))


def policies_chart(outcomes: Sequence[Outcome]) -> bytes:
    """One panel a case, one line a policy: share of the possible gain on the curve planned by, and budgets met."""
    rows = [list(outcome.rising) for outcome in outcomes]
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


def _policies(axes: Any, outcome: Outcome) -> None:
    scores = outcome.measured if outcome.case.planned_by == "measured" else outcome.rising
    names = list(scores)
    places = range(len(names))
    axes.barh(places, [scores[name].share for name in names], 0.6, color=COLOURS[5], label="share of the gain")
    axes.plot([scores[name].met for name in names], places, "D", color=COLOURS[1], label="budgets met", markersize=6)
    axes.axvline(outcome.case.confidence, color=INK, linewidth=1, linestyle=":")
    axes.set_yticks(list(places), names)
    axes.invert_yaxis()
    axes.set(title=str(outcome.case), xlim=(0, 1.02))
    axes.legend(loc="lower left", fontsize=10)
