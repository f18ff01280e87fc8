"""Scores: how often budgets were met, by how much they were missed, and how much of the possible quality was had.

The share of the possible gain is (Q - Q_min) / (Q_oracle - Q_min), means over the requests that the oracle meets: Q the
quality at the deadline, Q_min that of one jump. A missed request is a failure, worth less than anything that can be
made (``failure_value``). ``share_missed_as_one_jump`` is the gentler figure where a miss has only gained nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.budget import baselines
from anyflow_rt.benchmarks.budget.runs import Runs
from anyflow_rt.benchmarks.statistics.wilson import wilson
from anyflow_rt.sampling.quality import Quality, even_path, failure_value
from anyflow_rt.sampling.schedule import GRID_INTERVALS

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
RISING = 1.0 - 1.0 / (np.arange(1, GRID_INTERVALS + 1) + 1.0)
"""The fixed strictly rising curve of 1..32 jumps: a measured one that is flat cannot flatter a policy here."""


@dataclass(frozen=True)
class Score:
    """Of one policy. Rates and shares are over the requests that the oracle meets; ``hopeless`` counts the others.

    met_interval: Wilson, 95%. quality: at the deadline, misses worth ``failure``. missed: how many of those that the
    oracle meets; overshoot: of these, as a share of their budgets. seconds: of all runs. estimated: requests whose
    finish is an estimate, since more jumps are counted than were run.
    """

    requests: int
    hopeless: int
    met: float
    met_interval: tuple[float, float]
    quality: float
    failure: float
    share: float
    share_missed_as_one_jump: float
    missed: int
    overshoot: Mapping[str, float]
    seconds: Mapping[str, float]
    steps: Mapping[int, int]
    estimated: int


@dataclass(frozen=True)
class Rate:
    """How many of ``trials`` did. interval: Wilson, 95%."""

    trials: int
    rate: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Predictor:
    """How often the finish stated at the confidence held.

    once: the first decision's, against its own number of jumps run to the end without a change: the predictor alone.
    adopted: the one stated when the plan that was finally run was chosen, against the real finish: what a user sees.
    """

    confidence: float
    once: Rate
    adopted: Rate


def measured_curve(quality: Quality) -> np.ndarray:
    """(32,) values of the most even plans of 1..32 jumps."""
    return np.array([quality.value(quality.cost(even_path(n))) for n in range(1, GRID_INTERVALS + 1)])


def score_run(runs: Runs, curve: np.ndarray, *, values: np.ndarray | None = None) -> Score:
    """The policy that ran. values (n,): what each run's path is worth; None takes ``curve`` of its jumps."""
    quality = curve[runs.steps - 1] if values is None else values
    return _score(runs, curve, runs.steps, runs.seconds, quality)


def score_baselines(runs: Runs, curve: np.ndarray) -> dict[str, Score]:
    """Every baseline on the same requests from the same moments."""
    return {
        name: _score(runs, curve, steps, baselines.seconds(runs, steps), curve[steps - 1])
        for name, steps in baselines.every_baseline(runs, curve, failure_value(curve.tolist())).items()
    }


def score_predictor(runs: Runs, confidence: float) -> Predictor:
    """How often the stated quantile held; runs for which none was stated are left out."""
    alone = baselines.seconds(runs, runs.first_steps)
    return Predictor(
        confidence,
        once=_stated(alone, runs.first_predicted),
        adopted=_stated(runs.seconds, runs.predicted),
    )


def rate(held: np.ndarray) -> Rate:
    """Of truth values (n,)."""
    return Rate(len(held), _mean(held), wilson(int(held.sum()), len(held)))


def quantiles(values: np.ndarray) -> dict[str, float]:
    """p50, p95, p99 and the largest; empty of nothing."""
    return {name: float(np.quantile(values, q)) for name, q in QUANTILES.items()} if len(values) else {}


def _score(runs: Runs, curve: np.ndarray, steps: np.ndarray, seconds: np.ndarray, quality: np.ndarray) -> Score:
    failure, met = failure_value(curve.tolist()), seconds <= runs.budgets
    possible = (runs.finish <= runs.budgets[:, None]).any(axis=1) | met
    best = curve[baselines.oracle(runs, curve) - 1]
    late, kept = ~met & possible, rate(met[possible])
    return Score(
        requests=len(met),
        hopeless=int((~possible).sum()),
        met=kept.rate,
        met_interval=kept.interval,
        quality=_mean(np.where(met, quality, failure)[possible]),
        failure=failure,
        share=_share(np.where(met, quality, failure), best, curve[0], possible),
        share_missed_as_one_jump=_share(np.where(met, quality, curve[0]), best, curve[0], possible),
        missed=int(late.sum()),
        overshoot=quantiles((seconds / runs.budgets - 1.0)[late]),
        seconds=quantiles(seconds),
        steps={int(n): int(count) for n, count in zip(*np.unique(steps, return_counts=True), strict=True)},
        estimated=int((steps > runs.known).sum()),
    )


def _share(quality: np.ndarray, best: np.ndarray, least: float, possible: np.ndarray) -> float:
    gain = float((best[possible] - least).sum())
    return float((quality[possible] - least).sum()) / gain if gain > 0 else math.nan


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


def _stated(seconds: np.ndarray, predicted: np.ndarray) -> Rate:
    stated = np.isfinite(predicted)
    return rate((seconds <= predicted)[stated])
