"""Metrics of a sweep as results name them: ``shapes.right`` is the score ``right`` of the metric ``shapes``."""

from __future__ import annotations

from collections.abc import Sequence

from anyflow_rt.benchmarks.metrics import contract
from anyflow_rt.benchmarks.results.values import Metric
from anyflow_rt.benchmarks.results.wording import FIDELITY


def score_name(metric: str, score: str) -> str:
    """The name of a score of a metric in results."""
    return f"{metric}.{score}"


def describe_metrics(metrics: Sequence[contract.Metric]) -> tuple[Metric, ...]:
    """``Results.metrics`` for the metrics of a sweep: the headline score of each is primary."""
    return tuple(
        Metric(
            score_name(metric.name, kind.name),
            kind.unit,
            kind.higher_is_better,
            fidelity=metric.name == FIDELITY,
            primary=kind == metric.headline,
            description=kind.meaning,
            title=kind.title,
            share=kind.share,
        )
        for metric in metrics
        for kind in (*metric.scores, *metric.set_scores)
    )
