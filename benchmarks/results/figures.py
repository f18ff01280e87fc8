"""The figures of a report as plain JSON values: what ``bench --json`` answers."""

from __future__ import annotations

from typing import Any

from anyflow_rt.benchmarks.results.summary import Summary
from anyflow_rt.benchmarks.statistics.bootstrap import Interval


def figures(summary: Summary) -> dict[str, Any]:
    """metric, curve (of the first series), latency (end to end, seconds) and ratio (a peer's seconds over ours),
    each with its step count; null and empty where it was not measured."""
    curve = summary.headline[0] if summary.headline else None
    return {
        "metric": None if curve is None else curve.metric.name,
        "curve": [] if curve is None else [{"steps": steps, **_interval(found)} for steps, found in curve.points],
        "latency": [
            {"steps": row.steps, "p50": row.latency.p50, "p95": row.latency.p95, "n": row.latency.n}
            for row in summary.totals
        ],
        "ratio": [
            {"peer": row.peer, "steps": row.steps, "fastest": row.best, **_interval(row.ratio)} for row in summary.peers
        ],
    }


def _interval(found: Interval) -> dict[str, Any]:
    return {"estimate": found.estimate, "low": found.low, "high": found.high, "n": found.samples}
