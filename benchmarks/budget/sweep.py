"""The simulated sweep: every case on the same footing, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from anyflow_rt.benchmarks.budget import simulated
from anyflow_rt.benchmarks.budget.runs import Record, Runs
from anyflow_rt.benchmarks.budget.score import (
    RISING,
    Predictor,
    Rate,
    Score,
    measured_curve,
    quantiles,
    rate,
    score_baselines,
    score_predictor,
    score_run,
)
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.planner import make_tables
from anyflow_rt.sampling.quality import Quality, default_quality
from anyflow_rt.sampling.recorder import RunRecorder

ADAPTIVE = "adaptive"
RECOVERY_RUNS = 20


@dataclass(frozen=True)
class Case:
    """One way to be asked. profile_factor: the stored profile's times over the true ones.

    planned_by: the ``measured`` quality, or the ``rising`` one, where every further step is worth something. A planner
    can only gain on the curve that it plans by.
    """

    machine: str
    confidence: float
    arrivals: str = "poisson"
    budgets: str = "jumps"
    profile_factor: float = 1.0
    planned_by: str = "measured"

    def __str__(self) -> str:
        factor = "" if self.profile_factor == 1.0 else f", profile x{self.profile_factor:g}"
        bursty = ", bursty" if self.arrivals == "bursty" else ""
        wide = ", budgets 1-4x" if self.budgets == "factor" else ""
        return f"{self.machine}{bursty}{wide} at {self.confidence:g}{factor}, {self.planned_by} curve"

    def quality(self, measured: Quality) -> Quality:
        """What plans are chosen by."""
        return measured if self.planned_by == "measured" else default_quality()


CASES = (
    Case("calm", 0.99),
    Case("calm", 0.95),
    Case("contended", 0.99),
    Case("contended", 0.95),
    Case("choked", 0.99),
    Case("contended", 0.99, arrivals="bursty", budgets="factor"),
    Case("calm", 0.95, profile_factor=0.5),
    Case("calm", 0.95, profile_factor=2.0),
)


@dataclass(frozen=True)
class Outcome:
    """Scores by policy, on the rising curve of step counts and on the quality that was planned with.

    first_met: among the first ``RECOVERY_RUNS`` requests after the profile was as the case says it, of those that the
    oracle meets; then_met: among all later ones. overhead, longest_wait: seconds of a decision, and in the queue.
    """

    case: Case
    rising: Mapping[str, Score]
    measured: Mapping[str, Score]
    predictor: Predictor
    first_met: Rate
    then_met: Rate
    overhead: Mapping[str, float]
    longest_wait: float


@dataclass(frozen=True)
class Measured:
    """One case with what only the real machine has. other_cores: that others used meanwhile, None where that was ours.
    parts: every request, by how often the case had begun."""

    outcome: Outcome
    other_cores: float | None = None
    parts: Sequence[Sequence[Record]] = ()


def run_case(case: Case, quality: Quality, *, requests: int, seed: int = 0, non_uniform: bool = False) -> Outcome:
    """Simulate and score one case. The same arguments give the same outcome, but for the overhead."""
    rng = np.random.default_rng(seed)
    costs = simulated.Costs()
    asked = simulated.make_requests(costs, requests, rng, arrivals=case.arrivals, budgets=case.budgets)
    place = simulated.machine(case.machine, asked, rng)
    forecaster = Forecaster(simulated.profile(costs, rng, factor=case.profile_factor), recorder=RunRecorder(cold=()))
    tables = make_tables(case.quality(quality), non_uniform=non_uniform)
    return score_case(case, simulated.simulate(place, asked, tables, forecaster, confidence=case.confidence), quality)


def on_both_curves(cases: Sequence[Case], quality: Quality) -> tuple[Case, ...]:
    """The cases planned by the rising curve, and at the highest confidence asked by the measured one too; as they are
    where nothing was measured."""
    if quality.metric == default_quality().metric:
        return tuple(cases)
    strictest = max(case.confidence for case in cases)
    return tuple(
        replace(case, planned_by=curve)
        for case in cases
        for curve in ("measured", "rising")
        if curve == "rising" or (case.confidence == strictest and case.profile_factor == 1.0)
    )


def score_case(case: Case, runs: Runs, quality: Quality) -> Outcome:
    """Scores of runs, simulated or real."""
    curve = measured_curve(quality)
    possible = (runs.finish <= runs.budgets[:, None]).any(axis=1)
    early = runs.place < RECOVERY_RUNS
    return Outcome(
        case,
        rising={ADAPTIVE: score_run(runs, RISING), **score_baselines(runs, RISING)},
        measured={
            ADAPTIVE: score_run(runs, curve, values=runs.values if case.planned_by == "measured" else None),
            **score_baselines(runs, curve),
        },
        predictor=score_predictor(runs, case.confidence),
        first_met=rate(runs.met[possible & early]),
        then_met=rate(runs.met[possible & ~early]),
        overhead=quantiles(runs.overhead),
        longest_wait=float(runs.waited.max()),
    )
