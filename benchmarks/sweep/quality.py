"""The quality of a sweep: every video of every number of steps, scored by every metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, Reference, SetItem
from anyflow_rt.benchmarks.results.describe import score_name
from anyflow_rt.benchmarks.results.values import Features, Score, SetScore
from anyflow_rt.benchmarks.sweep.journal import Key
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally

Generate = Callable[[str, int, int], np.ndarray]
"""prompt, seed, steps -> frames uint8 (T, H, W, 3)."""


def measure_quality(
    options: SweepOptions, metrics: Sequence[Metric], generate: Generate, tally: Tally
) -> tuple[tuple[Score, ...], tuple[Features, ...], tuple[SetScore, ...]]:
    """Scores of single videos, their features, and scores of the set at every number of steps."""

    @lru_cache(maxsize=1)
    def reference(prompt: str, seed: int) -> Reference:
        steps = options.reference_steps
        return Reference(steps, generate(prompt, seed, steps), generate(prompt, seed, 2 * steps))

    def measure(key: Key) -> dict[str, list[object]]:
        prompt, seed, steps = key
        frames = generate(prompt, seed, steps)
        found: dict[str, list[object]] = {}
        for metric in metrics:
            clip = Clip(frames, prompt, seed, reference(prompt, seed) if metric.needs_reference else None)
            scores = metric.score_many([clip])[0]
            found[metric.name] = [dict(scores.values), list(scores.features)]
        return found

    keys = [(prompt, seed, steps) for prompt, seed in options.videos() for steps in options.steps]
    measured = tally.each("quality", keys, measure)
    scores = tuple(
        Score(score_name(name, kind), prompt, seed, steps, value, options.series)
        for (prompt, seed, steps), by_metric in measured.items()
        for name, (values, _) in by_metric.items()
        for kind, value in values.items()
    )
    features = tuple(
        Features(name, prompt, seed, steps, tuple(values), options.series)
        for (prompt, seed, steps), by_metric in measured.items()
        for name, (_, values) in by_metric.items()
        if values
    )
    return scores, features, tuple(_set_scores(options, metrics, features))


def _set_scores(options: SweepOptions, metrics: Sequence[Metric], features: Sequence[Features]) -> list[SetScore]:
    found = []
    for metric in metrics:
        for steps in options.steps:
            items = [
                SetItem(each.prompt, each.seed, each.values)
                for each in features
                if each.metric == metric.name and each.steps == steps
            ]
            for kind, value in metric.score_set(items).items() if metric.set_scores and items else ():
                found.append(SetScore(score_name(metric.name, kind), steps, value, len(items), options.series))
    return found
