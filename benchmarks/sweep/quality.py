"""The quality of a sweep: every video of every number of steps, scored by every metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, Reference, Scores, SetItem
from anyflow_rt.benchmarks.results.describe import score_name
from anyflow_rt.benchmarks.results.values import Features, Score, SetScore
from anyflow_rt.benchmarks.sweep.journal import Key
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally

BATCH = 16
"""Videos held at once for a metric that takes many."""
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

    one_by_one = [metric for metric in metrics if not metric.at_once]

    def measure(key: Key) -> dict[str, list[object]]:
        prompt, seed, steps = key
        frames = generate(prompt, seed, steps)
        found: dict[str, list[object]] = {}
        for metric in one_by_one:
            clip = Clip(frames, prompt, seed, reference(prompt, seed) if metric.needs_reference else None)
            found[metric.name] = _plain(metric.score_many([clip])[0])
        return found

    keys = [(prompt, seed, steps) for prompt, seed in options.videos() for steps in options.steps]
    measured = tally.each("quality", keys, measure) if one_by_one else {key: {} for key in keys}
    for metric in metrics:
        if metric.at_once:
            for key, found in _batches(options, metric, generate, tally).items():
                measured[key] = measured[key] | {metric.name: found}
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


def _plain(scores: Scores) -> list[object]:
    """As the journal keeps it."""
    return [dict(scores.values), list(scores.features)]


def _batches(options: SweepOptions, metric: Metric, generate: Generate, tally: Tally) -> dict[Key, list[object]]:
    """What a metric that loads networks says, ``BATCH`` videos of one number of steps at a time, made again for it."""
    videos = options.videos()

    def measure(key: Key) -> list[list[object]]:
        _, steps, start = key
        chosen = videos[start : start + BATCH]
        clips = [Clip(generate(prompt, seed, steps), prompt, seed) for prompt, seed in chosen]
        return [_plain(found) for found in metric.score_many(clips)]

    keys = [(metric.name, steps, start) for steps in options.steps for start in range(0, len(videos), BATCH)]
    return {
        (*video, steps): found
        for (_, steps, start), batch in tally.each("quality, many at once", keys, measure).items()
        for video, found in zip(videos[start : start + BATCH], batch, strict=True)
    }


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
