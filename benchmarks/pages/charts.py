"""The charts: quality against steps, seconds against steps, quality against seconds, and every other metric."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from anyflow_rt.benchmarks.pages.canvas import (
    COLOURS,
    DOTS_PER_INCH,
    MARKERS,
    canvas,
    legend_above,
    seconds_scale,
    step_axis,
)
from anyflow_rt.benchmarks.results.summary import Curve, PeerRow, Summary
from anyflow_rt.benchmarks.results.values import Metric
from anyflow_rt.benchmarks.results.wording import metric_label
from anyflow_rt.benchmarks.statistics.latency import CostFit

DODGE = 0.06
"""Series are moved sideways by this share of a factor of two each, so that their intervals do not cover each other."""
FIT_POINTS = 60


def quality_chart(summary: Summary) -> bytes | None:
    """Points with intervals and the envelope of every series of the headline metric; None where there is none."""
    if not summary.headline:
        return None
    with canvas(4.9 + 0.3 * ((len(summary.headline) + 1) // 2)) as drawn:
        _draw_curves(drawn.figure.subplots(), summary.headline)
        return drawn.png()


def metrics_chart(summary: Summary) -> bytes | None:
    """Every other primary metric, one below the other; None where there is none."""
    others = [curve for curve in summary.curves if curve.metric.primary and curve not in summary.headline]
    names = list(dict.fromkeys(curve.metric.name for curve in others))
    if not names:
        return None
    with canvas(3.9 * len(names)) as drawn:
        every = drawn.figure.subplots(len(names), squeeze=False)[:, 0]
        for axes, name in zip(every, names, strict=True):
            _draw_curves(axes, [curve for curve in others if curve.metric.name == name])
        return drawn.png()


def latency_chart(summary: Summary) -> bytes | None:
    """Median and 95th percentile to the finished file, the fit through them, and both sides of the comparison with the
    peer's best, which ends at the frames; None without times."""
    rows = [row for row in summary.totals if row.latency.p50 > 0]  # the axis is logarithmic
    if not rows:
        return None
    best = [row for row in summary.peers if row.best]
    with canvas(5.6 + (0.6 if best else 0.0)) as drawn:
        axes = drawn.figure.subplots()
        steps = [row.steps for row in rows]
        medians, tails = [row.latency.p50 for row in rows], [row.latency.p95 for row in rows]
        axes.plot(steps, medians, MARKERS[0], color=COLOURS[0], label="anyflow-rt to the file, median")
        tick = {"markersize": 16, "markeredgewidth": 2.4}
        axes.plot(steps, tails, "_", color=COLOURS[0], label="anyflow-rt to the file, 95th percentile", **tick)
        if summary.fit is not None:
            _draw_fit(axes, summary.fit, min(steps), max(steps))
        if best:
            _plot_sides(axes, [row.steps for row in best], best)
        seconds_scale(axes.yaxis)
        step_axis(axes, steps + [row.steps for row in best])
        axes.set_ylabel("seconds a run")
        legend_above(axes)
        return drawn.png()


def pareto_chart(summary: Summary) -> bytes | None:
    """The headline metric of the shipped series against seconds, each point a step count; None without both."""
    seconds = {row.steps: row.latency.p50 for row in summary.totals if row.latency.p50 > 0}
    curve = summary.headline[0] if summary.headline else None
    points = [] if curve is None else [(steps, interval) for steps, interval in curve.points if steps in seconds]
    if curve is None or not points:
        return None
    theirs = {row.steps: row for row in summary.peers if row.best}
    with canvas(5.2) as drawn:
        axes = drawn.figure.subplots()
        _points(axes, [seconds[steps] for steps, _ in points], points, 0, f"anyflow-rt to the file, {curve.series}")
        shared = [(steps, interval) for steps, interval in points if steps in theirs]
        if shared:
            # Parity holds where there are peer rows at all: their videos are ours, so their score is.
            rows, heights = [theirs[steps] for steps, _ in shared], [each.estimate for _, each in shared]
            _plot_sides(axes, heights, rows, swapped=True)
        for steps, interval in points:
            axes.annotate(
                str(steps), (seconds[steps], interval.estimate), (7, -15), textcoords="offset points", fontsize=13
            )
        _share_axis(axes, curve.metric)
        seconds_scale(axes.xaxis)
        axes.set_xlabel("median seconds a run; numbers at points: steps")
        axes.set_ylabel(metric_label(curve.metric, "\n"))
        legend_above(axes)
        return drawn.png()


def picture_size(png: bytes) -> tuple[int, int]:
    """Width and height in CSS pixels of a PNG of ours (from its header), for a page that does not jump as it loads."""
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return round(width * 96 / DOTS_PER_INCH), round(height * 96 / DOTS_PER_INCH)


def _draw_curves(axes: Any, curves: Sequence[Curve]) -> None:
    for place, curve in enumerate(curves):
        shift = 2 ** (DODGE * (place - (len(curves) - 1) / 2))
        steps = [number * shift for number, _ in curve.points]
        if curve.envelope is not None:
            axes.plot(steps, curve.envelope.reachable, color=COLOURS[place % len(COLOURS)], alpha=0.75)
        _points(axes, steps, curve.points, place, curve.series)
    _share_axis(axes, curves[0].metric)
    step_axis(axes, [number for curve in curves for number, _ in curve.points])
    axes.set_ylabel(metric_label(curves[0].metric, "\n"))
    legend_above(axes)


def _share_axis(axes: Any, metric: Metric) -> None:
    """A share is drawn on all of its range, in percent: a small part of it would make little look like much."""
    if metric.share:
        axes.set_ylim(-0.03, 1.03)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20", "40", "60", "80", "100"])


def _points(axes: Any, places: Sequence[float], points: Sequence[tuple[int, Any]], number: int, label: str) -> None:
    """Means with whiskers; BCa intervals need not hold the mean in the middle."""
    means = [interval.estimate for _, interval in points]
    below = [max(0.0, interval.estimate - interval.low) for _, interval in points]
    above = [max(0.0, interval.high - interval.estimate) for _, interval in points]
    look = {"color": COLOURS[number % len(COLOURS)], "capsize": 5, "elinewidth": 1.8}
    axes.errorbar(places, means, [below, above], fmt=MARKERS[number % len(MARKERS)], label=label, **look)


def _draw_fit(axes: Any, fit: CostFit, fewest: int, most: int) -> None:
    places = [fewest * (most / fewest) ** (index / FIT_POINTS) for index in range(FIT_POINTS + 1)]
    label = f"fit: {fit.fixed:.3g} s + {fit.per_step:.3g} s a step"
    seconds = [fit.fixed + fit.per_step * place for place in places]
    axes.plot(places, seconds, "--", color="black", linewidth=1.3, zorder=1, label=label)


def _plot_sides(axes: Any, places: Sequence[float], rows: Sequence[PeerRow], *, swapped: bool = False) -> None:
    """Medians of the peer and of our runs beside it, both until the frames are there. swapped: seconds go across."""
    ours, theirs = [row.ours.p50 for row in rows], [row.theirs.p50 for row in rows]
    sides = (("anyflow-rt", ours, 0), (_peer_name(rows), theirs, 1))
    for name, seconds, number in sides:
        across, up = (seconds, places) if swapped else (places, seconds)
        look = {"color": COLOURS[number], "fillstyle": "none", "label": f"{name} to the frames, median"}
        axes.plot(across, up, MARKERS[number], **look)


def _peer_name(best: Sequence[PeerRow]) -> str:
    """A peer by its full name where one variant of it is the fastest everywhere."""
    names = sorted({row.peer for row in best})
    return names[0] if len(names) == 1 else f"{names[0].split()[0]}, its best"
