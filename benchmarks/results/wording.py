"""How figures are written, the same in the terminal, in the charts and on the page."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from anyflow_rt.benchmarks.results.values import Metric, Settings
from anyflow_rt.benchmarks.statistics.bootstrap import Interval
from anyflow_rt.benchmarks.statistics.comparisons import Difference

FIDELITY = "fidelity"
NO_SPREAD = "no spread"


def metric_name(metric: Metric) -> str:
    """A metric that compares with a many-step run always carries the word fidelity: it is not quality."""
    if metric.fidelity and FIDELITY not in metric.name.lower():
        return f"{FIDELITY}: {metric.name}"
    return metric.name


def metric_title(metric: Metric) -> str:
    """What people call it, with its name in results where that is another."""
    return f"{metric.title} ({metric_name(metric)})" if metric.title else metric_name(metric)


def short_name(metric: Metric) -> str:
    """For a sentence, with the unit that its figures are in where that is percent."""
    return f"{metric.title or metric_name(metric)}{' (%)' if metric.share else ''}"


def metric_label(metric: Metric, separator: str = " ") -> str:
    """With its unit and which way is better, where one is."""
    name = metric.title or metric_name(metric)
    way = {True: "higher is better", False: "lower is better", None: ""}[metric.higher_is_better]
    facts = ", ".join(fact for fact in ("%" if metric.share else metric.unit, way) if fact)
    return f"{name}{separator}({facts})" if facts else name


def seconds_text(seconds: float) -> str:
    """Three digits: milliseconds below a second."""
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) < 1 else f"{seconds:.3g} s"


def number_text(value: float) -> str:
    """Three digits, without an exponent where that is readable."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def bounds_text(interval: Interval, sign: str = "") -> str:
    """The two ends; ``sign`` is "+" for differences. Where resampling found no spread there are none: the two would be
    the estimate, and say that it is certain."""
    if interval.method == "point":
        return NO_SPREAD
    return f"{interval.low:{sign}.3g} to {interval.high:{sign}.3g}"


def score_text(value: float, metric: Metric) -> str:
    """A score: of a share, its percent without the sign, which the label has."""
    return number_text(100 * value if metric.share else value)


def shown(interval: Interval, metric: Metric) -> Interval:
    """An interval of scores as it is shown: of a share, in percent."""
    if not metric.share:
        return interval
    return replace(interval, estimate=100 * interval.estimate, low=100 * interval.low, high=100 * interval.high)


def interval_text(interval: Interval, sign: str = "", unit: str = "") -> str:
    """Estimate and bounds in one."""
    return f"{interval.estimate:{sign}.3g}{unit} ({bounds_text(interval, sign)})"


def change_text(difference: Difference, metric: Metric) -> str:
    """What a step from one count to the next does."""
    if difference.direction == "unclear":
        return "unclear"
    if metric.higher_is_better is None:
        return difference.direction
    return "worse" if difference.is_worse(metric.higher_is_better) else "better"


def when_text(created: str) -> str:
    """An ISO 8601 time to the minute, in its own zone; anything else as it is."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return created
    return f"{when:%Y-%m-%d %H:%M} {when.tzname() or ''}".strip()


def bytes_text(count: int | None) -> str:
    """Decimal MB or GB."""
    if count is None:
        return "unknown"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def size_text(settings: Settings) -> str:
    """Frames and pixels of a video."""
    if not settings.size:
        return "unknown"
    frames, height, width = settings.size
    rate = f" at {settings.fps:g} frames/s" if settings.fps else ""
    return f"{frames} frames of {width}x{height}{rate}"
