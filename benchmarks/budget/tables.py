"""What a sweep found, as text for people and as JSON for machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from anyflow_rt.benchmarks.budget.baselines import ONCE, ORACLE, shown
from anyflow_rt.benchmarks.budget.runs import Record
from anyflow_rt.benchmarks.budget.score import Rate, Score
from anyflow_rt.benchmarks.budget.sweep import ADAPTIVE, RECOVERY_RUNS, Outcome

DIGITS = 6
"""Of recorded seconds: microseconds."""


def table(outcomes: Sequence[Outcome]) -> str:
    """One block a case, one line a policy. ``share`` and ``rising``: of the possible gain on the measured and on the
    rising curve, misses being failures; ``quality``: at the deadline, likewise, on the curve planned by."""
    return "\n".join(line for outcome in outcomes for line in _block(outcome))


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Every value."""
    return [asdict(each) for each in outcomes]


def records_json(parts: Sequence[Sequence[Record]]) -> list[dict[str, Any]]:
    """Every real request as it was recorded: what baselines and oracle are computed from (``runs.collect``).

    part: how often the profile had been made what the case says it is.
    """
    found = []
    for number, part in enumerate(parts):
        for record in part:
            value = {"part": number, **{name: _rounded(each) for name, each in vars(record).items()}}
            found.append(value)
    return found


def _block(outcome: Outcome) -> list[str]:
    case = outcome.case
    scores = planned_scores(outcome)
    adaptive = scores[ADAPTIVE]
    lines = [
        f"{case.machine}, confidence {case.confidence}, {case.arrivals} arrivals, budgets by {case.budgets}, "
        f"profile x{case.profile_factor:g}, planned by the {case.planned_by} curve: "
        f"{adaptive.requests} requests, {adaptive.hopeless} that nothing meets",
        f"  {'policy':14}{'met':>8}  {'interval':18}{'share':>7}{'rising':>8}{'quality':>9}{'late':>6}{'p99 s':>9}",
    ]
    for name in shown(outcome.measured):
        score = outcome.measured[name]
        low, high = score.met_interval
        lines.append(
            f"  {name:14}{score.met:8.4f}  {low:.4f} to {high:.4f}  {score.share:7.3f}"
            f"{outcome.rising[name].share:8.3f}{scores[name].quality:9.4f}{score.missed:6}{score.seconds['p99']:9.3f}"
        )
    seconds = ", ".join(f"{name} {value:.3f}" for name, value in adaptive.seconds.items())
    steps = ", ".join(f"{steps}: {count}" for steps, count in adaptive.steps.items())
    return [
        *lines,
        f"  adaptive: seconds {seconds}; {_late(adaptive)}",
        f"  adaptive: runs by number of steps {steps}",
        f"  stated finish held: {_rate(outcome.predictor.once)} kept from the start, "
        f"{_rate(outcome.predictor.adopted)} as run",
        f"  met among the first {RECOVERY_RUNS}: {_rate(outcome.first_met)}, later: {_rate(outcome.then_met)}",
        f"  decisions p99 {outcome.overhead['p99'] * 1e6:.0f} us, max {outcome.overhead['max'] * 1e6:.0f} us; "
        f"longest wait {outcome.longest_wait:.2f} s",
        *_estimated(scores),
    ]


def planned_scores(outcome: Outcome) -> Mapping[str, Score]:
    """On the curve that the case was planned by."""
    return outcome.measured if outcome.case.planned_by == "measured" else outcome.rising


def _late(score: Score) -> str:
    if not score.missed:
        return "none late that could be in time"
    over = ", ".join(f"{name} {100 * value:.1f}%" for name, value in score.overshoot.items())
    return f"{score.missed} late that could be in time, by {over} of their budgets"


def _estimated(scores: Mapping[str, Score]) -> list[str]:
    """Where nothing is estimated, nothing is said."""
    found = [f"{name} {scores[name].estimated}" for name in (ONCE, ORACLE) if scores[name].estimated]
    if not found:
        return []
    return [f"  requests whose finish is an estimate, as more jumps are counted than were run: {', '.join(found)}"]


def _rate(value: Rate) -> str:
    low, high = value.interval
    return f"{value.rate:.4f} ({low:.4f} to {high:.4f}, n {value.trials})"


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value
