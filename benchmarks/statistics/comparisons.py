"""Paired differences, with intervals corrected for how many are looked at.

Every comparison is on the same (prompt, seed) pairs: the difference is taken pair by pair, so that what makes a prompt
hard cancels. Whether it is one at all says a sign-flip test by prompt, how large it is a bootstrap by prompt. Of m
comparisons made together, each is tested at the level (1 - confidence) / m, and has an interval of that confidence
(Bonferroni), so that all of them hold at once with the confidence asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from anyflow_rt.benchmarks.statistics.bootstrap import Interval, bootstrap_mean
from anyflow_rt.benchmarks.statistics.sign_flip import sign_flip_p_value
from anyflow_rt.errors import UsageError

CORRECTION = "Bonferroni"
FEWEST_DRAWS = 10_000
DRAWS_BEYOND = 20
"""Draws of a sign-flip test that are expected beyond a difference that just counts."""

Pair = tuple[str, int]
"""A prompt and a seed."""
Scores = Mapping[Pair, float]
"""One score a (prompt, seed) pair."""


@dataclass(frozen=True)
class Difference:
    """Mean of ``after - before``, pair by pair. ``interval`` is at the corrected confidence; ``confidence`` is that of
    all ``comparisons`` together. before, after: what was compared, such as two step counts. p_value: of this difference
    alone being chance (sign-flip test)."""

    before: str
    after: str
    interval: Interval
    confidence: float
    comparisons: int
    p_value: float
    correction: str = CORRECTION

    @property
    def direction(self) -> str:
        """ "up" or "down" where the test, corrected, says that it is not chance, else "unclear". The interval does not
        decide: with few prompts it is too short."""
        if self.p_value > level(self.comparisons, self.confidence):
            return "unclear"
        return "up" if self.interval.estimate > 0 else "down"

    def is_worse(self, higher_is_better: bool) -> bool:
        """Whether ``after`` is significantly worse than ``before``."""
        return self.direction == ("down" if higher_is_better else "up")


def level(comparisons: int, confidence: float) -> float:
    """The p-value below which one of ``comparisons`` counts."""
    return (1 - confidence) / comparisons


def paired_difference(
    before: Scores,
    after: Scores,
    names: tuple[str, str],
    *,
    comparisons: int = 1,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Difference:
    """One of ``comparisons`` differences that are looked at together.

    Raises UsageError where the two do not have the same (prompt, seed) pairs, and as ``bootstrap_mean``.
    """
    if comparisons < 1:
        raise UsageError(f"{comparisons} comparisons: this one is at least one")
    _same_pairs(before, after, names)
    pairs = sorted(before)
    changes, prompts = [after[pair] - before[pair] for pair in pairs], [prompt for prompt, _ in pairs]
    wanted = level(comparisons, confidence)
    interval = bootstrap_mean(changes, prompts, confidence=1 - wanted, resamples=resamples, seed=seed)
    draws = max(FEWEST_DRAWS, math.ceil(DRAWS_BEYOND / wanted))
    p_value = sign_flip_p_value(changes, prompts, resamples=draws, seed=seed)
    return Difference(*names, interval, confidence, comparisons, p_value)


def neighbours(
    scores: Mapping[int, Scores], *, confidence: float = 0.95, resamples: int = 5000, seed: int = 0
) -> tuple[Difference, ...]:
    """Differences between every step count and the next higher one. Raises as ``paired_difference``."""
    steps = sorted(scores)
    return tuple(
        paired_difference(
            scores[fewer],
            scores[more],
            (str(fewer), str(more)),
            comparisons=len(steps) - 1,
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
        for fewer, more in pairwise(steps)
    )


def runs(
    before: Mapping[int, Scores],
    after: Mapping[int, Scores],
    *,
    comparisons: int | None = None,
    confidence: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> tuple[Difference, ...]:
    """Two runs, at every step count that both have; pairs that only one has are left out.

    ``comparisons`` (default: the step counts in common) counts those of other metrics too where several are compared.
    Raises UsageError where they have no step count or, at one, no pair in common.
    """
    steps = sorted(set(before) & set(after))
    if not steps:
        raise UsageError(f"no step count in common: {sorted(before)} and {sorted(after)}")
    found = []
    for number in steps:
        pairs = set(before[number]) & set(after[number])
        if not pairs:
            raise UsageError(f"no (prompt, seed) pair in common at {number} steps: compare runs of the same prompts")
        found.append(
            paired_difference(
                _restricted(before[number], pairs),
                _restricted(after[number], pairs),
                (f"before, {number} steps", f"after, {number} steps"),
                comparisons=len(steps) if comparisons is None else comparisons,
                confidence=confidence,
                resamples=resamples,
                seed=seed,
            )
        )
    return tuple(found)


def means(
    scores: Mapping[int, Scores], *, confidence: float = 0.95, resamples: int = 5000, seed: int = 0
) -> tuple[tuple[int, Interval], ...]:
    """(steps, mean and interval) of the curve, fewest steps first. Raises UsageError where step counts differ in their
    pairs, and as ``bootstrap_mean``. Scores that are all 0 or 1 are shares."""
    found = []
    steps: Sequence[int] = sorted(scores)
    share = all(score in (0.0, 1.0) for by_pair in scores.values() for score in by_pair.values())
    for number in steps:
        _same_pairs(scores[steps[0]], scores[number], (str(steps[0]), str(number)))
        pairs = sorted(scores[number])
        values, prompts = [scores[number][pair] for pair in pairs], [prompt for prompt, _ in pairs]
        interval = bootstrap_mean(values, prompts, confidence=confidence, resamples=resamples, seed=seed, share=share)
        found.append((number, interval))
    return tuple(found)


def _restricted(scores: Scores, pairs: set[Pair]) -> Scores:
    return {pair: scores[pair] for pair in pairs}


def _same_pairs(before: Scores, after: Scores, names: tuple[str, str]) -> None:
    odd = sorted(set(before) ^ set(after))
    if odd:
        holder, other = names if odd[0] in before else names[::-1]
        raise UsageError(
            f"prompt {odd[0][0]!r} with seed {odd[0][1]} was scored at {holder} and not at {other} "
            f"({len(odd)} such pairs): compare the same pairs, or finish the run with --resume"
        )
