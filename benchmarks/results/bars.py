"""Does the first series hold up? At every step count against the most steps of another; and does its curve ever fall.

"Is a few-step model at 4 steps as good as its teacher at 32?" is one paired difference, of the same prompts and seeds,
with its own 95% interval. "Does quality ever fall with more steps?" asks every pair of step counts at once, so those
intervals and tests are corrected to hold together. One step is left out of it: what comes after it is another regime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

from anyflow_rt.benchmarks.results.values import Metric
from anyflow_rt.benchmarks.statistics.comparisons import Difference, Scores, paired_difference, runs

FEWEST_PAIRS = 512
"""Videos below which a difference of a few hundredths cannot be seen."""
FEWEST_STEPS = 2


@dataclass(frozen=True)
class Against:
    """The first series less ``series`` at ``steps`` (its most, or where it is best), at each step count of the first:
    (steps, difference), each at 95% on its own."""

    metric: Metric
    series: str
    steps: int
    differences: tuple[tuple[int, Difference], ...]


@dataclass(frozen=True)
class Falls:
    """From every step count from ``FEWEST_STEPS`` on to every higher one, all intervals together at 95%.

    significant: those that are worse; worst: the one with the largest loss, significant or not, None where none loses.
    """

    metric: Metric
    series: str
    steps: tuple[int, ...]
    compared: int
    significant: tuple[Difference, ...]
    worst: Difference | None
    videos: int


def against_others(metric: Metric, curves: Mapping[str, Mapping[int, Scores]]) -> tuple[Against, ...]:
    """The first of ``curves`` (series -> steps -> scores) against every other, on the pairs that both have."""
    (_, first), *others = curves.items()
    return tuple(
        Against(metric, series, steps, _differences(first, scores[steps]))
        for series, scores in others
        for steps in _reference_steps(metric, scores)
    )


def _reference_steps(metric: Metric, scores: Mapping[int, Scores]) -> list[int]:
    """The most, and the best where that is another (none where neither way is better)."""
    means = {steps: sum(by_pair.values()) / len(by_pair) for steps, by_pair in scores.items()}
    sign = {True: 1.0, False: -1.0, None: 0.0}[metric.higher_is_better]
    best = max(sorted(means, reverse=True), key=lambda steps: sign * means[steps])
    return sorted({max(scores), best})


def _differences(first: Mapping[int, Scores], reference: Scores) -> tuple[tuple[int, Difference], ...]:
    found = []
    for steps, scores in sorted(first.items()):
        if scores.keys() & reference.keys():
            (difference,) = runs({steps: reference}, {steps: scores})
            found.append((steps, difference))
    return tuple(found)


def falls(metric: Metric, series: str, scores: Mapping[int, Scores]) -> Falls | None:
    """Of one curve (steps -> scores of the same pairs); None for fewer than two step counts, or no better way."""
    steps = tuple(sorted(number for number in scores if number >= FEWEST_STEPS))
    if len(steps) < 2 or metric.higher_is_better is None:
        return None
    pairs = list(combinations(steps, 2))
    found = [
        paired_difference(scores[fewer], scores[more], (str(fewer), str(more)), comparisons=len(pairs))
        for fewer, more in pairs
    ]
    sign = 1.0 if metric.higher_is_better else -1.0
    worst = min(found, key=lambda each: sign * each.interval.estimate)
    return Falls(
        metric,
        series,
        steps,
        len(pairs),
        tuple(each for each in found if each.is_worse(metric.higher_is_better)),
        worst if sign * worst.interval.estimate < 0 else None,
        len(scores[steps[0]]),
    )
