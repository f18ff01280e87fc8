"""From raw samples to the figures that a report shows. Everything it draws or prints is computed here, once."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from anyflow_rt.benchmarks.results.bars import Against, Falls, against_others, falls
from anyflow_rt.benchmarks.results.values import JUMP, SHIPPED, TOTAL, Metric, Results
from anyflow_rt.benchmarks.statistics.bootstrap import Interval
from anyflow_rt.benchmarks.statistics.comparisons import Difference, Scores, means, neighbours
from anyflow_rt.benchmarks.statistics.envelope import Envelope, envelope
from anyflow_rt.benchmarks.statistics.latency import CostFit, Latency, fit_cost, ratio, summarize

CONFIDENCE = 0.95
DOUBLED = "_doubled"
"""How a fidelity to the reference of twice as many steps ends."""


@dataclass(frozen=True)
class StageRow:
    """Times of one stage at one step count. frames_per_second: of the median, for the stage "total" alone."""

    steps: int
    stage: str
    latency: Latency
    frames_per_second: float | None = None


@dataclass(frozen=True)
class Curve:
    """One metric of one series against steps: (steps, mean with its 95% interval), fewest steps first.

    envelope: None where neither way of the metric is better. left_out: (prompt, seed) pairs that were not scored at
    every step count and so are not in any point.
    """

    series: str
    metric: Metric
    points: tuple[tuple[int, Interval], ...]
    envelope: Envelope | None
    neighbours: tuple[Difference, ...]
    left_out: int = 0


@dataclass(frozen=True)
class PeerRow:
    """A peer at one step count, on videos that agree. ratio: its seconds over ours, round by round; best: whether no
    other peer is faster there."""

    peer: str
    steps: int
    ours: Latency
    theirs: Latency
    ratio: Interval
    best: bool


@dataclass(frozen=True)
class CeilingRow:
    """GFLOP/s: the best the machine sustained, what the denoiser reached, and the share; None where not known."""

    precision: str
    name: str
    rate: float
    reached: float | None
    share: float | None


@dataclass(frozen=True)
class Summary:
    """What a report shows of ``results``. headline: the curves of the metric that is drawn large. against, falls: its
    first series held against the others, and against itself."""

    results: Results
    stages: tuple[StageRow, ...]
    fit: CostFit | None
    curves: tuple[Curve, ...]
    peers: tuple[PeerRow, ...]
    ceiling: CeilingRow | None
    warnings: tuple[str, ...]
    against: tuple[Against, ...] = ()
    falls: Falls | None = None

    @property
    def headline(self) -> tuple[Curve, ...]:
        """The shipped series first."""
        found = [curve for curve in self.curves if curve.metric.name == headline_metric(self.results)]
        return tuple(sorted(found, key=lambda curve: curve.series != SHIPPED))

    @property
    def totals(self) -> tuple[StageRow, ...]:
        """End to end, fewest steps first."""
        return tuple(row for row in self.stages if row.stage == TOTAL)


def summarize_results(results: Results) -> Summary:
    """Raises MissingPackageError where SciPy is not there."""
    totals = {each.steps: each.seconds for each in results.latency if each.stage == TOTAL and each.seconds}
    curves, warnings = _curves(results)
    warnings = [*(f"not valid: {reason}" for reason in results.invalid_reasons), *warnings]
    if results.peers and results.parity is None:
        warnings.append("no ratio to a peer is shown: whether its videos agree with ours was not checked")
    elif results.peers and results.parity is not None and not results.parity.holds:
        warnings.append("no ratio to a peer is shown: its videos and ours do not agree within the parity bars")
    return Summary(
        results,
        _stages(results),
        fit_cost(totals) if len(totals) > 1 else None,
        curves,
        _peers(results),
        _ceiling(results),
        tuple(warnings),
        *_bars(results),
    )


def _bars(results: Results) -> tuple[tuple[Against, ...], Falls | None]:
    name = headline_metric(results)
    every = ((series, by_steps) for (series, of), by_steps in scores_by_steps(results).items() if of == name)
    curves = {series: _paired(by_steps) for series, by_steps in sorted(every, key=lambda each: each[0] != SHIPPED)}
    curves = {series: by_steps for series, by_steps in curves.items() if all(by_steps.values())}
    if name is None or not curves:
        return (), None
    metric, first = results.metric(name), next(iter(curves))
    return against_others(metric, curves), falls(metric, first, curves[first])


def headline_metric(results: Results) -> str | None:
    """The name of the metric that is drawn large, None where there is none. Never one that is a fidelity by default."""
    if results.headline is not None:
        return results.headline
    scored = dict.fromkeys(each.metric for each in results.quality)
    every = [results.metric(name) for name in results.metric_names if name in scored]
    return next((metric.name for metric in every if not metric.fidelity and metric.higher_is_better is not None), None)


def scores_by_steps(results: Results) -> dict[tuple[str, str], dict[int, dict[tuple[str, int], float]]]:
    """(series, metric) -> steps -> (prompt, seed) -> score, metrics in the order the file describes them."""
    order = {name: place for place, name in enumerate(results.metric_names)}
    found: dict[tuple[str, str], dict[int, dict[tuple[str, int], float]]] = {}
    for each in sorted(results.quality, key=lambda each: order[each.metric]):
        by_steps = found.setdefault((each.series, each.metric), {})
        by_steps.setdefault(each.steps, {})[each.prompt, each.seed] = each.score
    return found


def _stages(results: Results) -> tuple[StageRow, ...]:
    places = {stage: place for place, stage in enumerate(dict.fromkeys(each.stage for each in results.latency))}
    rows = []
    for each in sorted(results.latency, key=lambda each: (each.steps, each.stage == TOTAL, places[each.stage])):
        if not each.seconds:
            continue
        latency, frames = summarize(each.seconds), results.settings.frames
        known = each.stage == TOTAL and frames is not None and latency.p50 > 0
        speed = results.settings.batch * (frames or 0) / latency.p50 if known else None
        rows.append(StageRow(each.steps, each.stage, latency, speed))
    return tuple(rows)


def _curves(results: Results) -> tuple[tuple[Curve, ...], list[str]]:
    curves, warnings = [], []
    for (series, name), by_steps in scores_by_steps(results).items():
        informative = _informative(results, name, by_steps)
        if not informative:
            continue
        paired = _paired(informative)
        common = next(iter(paired.values()))
        every = set.union(*(set(scores) for scores in informative.values()))
        if not common:
            warnings.append(f"{name} of {series} is not shown: no (prompt, seed) was scored at every step count")
            continue
        if len(common) < len(every):
            warnings.append(f"{name} of {series}: {len(every) - len(common)} of {len(every)} pairs lack a step count")
        metric, points = results.metric(name), means(paired, confidence=CONFIDENCE)
        changes = neighbours(paired, confidence=CONFIDENCE) if len(paired) > 1 else ()
        curves.append(Curve(series, metric, points, _envelope(metric, points), changes, len(every) - len(common)))
    return tuple(curves), warnings


def _informative(results: Results, name: str, by_steps: Mapping[int, Scores]) -> Mapping[int, Scores]:
    """Without the step count of the very video that a fidelity is likeness to: there it is perfect by construction."""
    steps = results.settings.reference_steps
    if steps is None or not results.metric(name).fidelity:
        return by_steps
    own = 2 * steps if name.endswith(DOUBLED) else steps
    return {number: scores for number, scores in by_steps.items() if number != own}


def _paired(by_steps: Mapping[int, Scores]) -> dict[int, Scores]:
    """The scores of the pairs that were scored at every step count."""
    common = set.intersection(*(set(scores) for scores in by_steps.values()))
    return {steps: {pair: scores[pair] for pair in common} for steps, scores in by_steps.items()}


def _envelope(metric: Metric, points: tuple[tuple[int, Interval], ...]) -> Envelope | None:
    if metric.higher_is_better is None:
        return None
    steps, estimates = [number for number, _ in points], [interval.estimate for _, interval in points]
    return envelope(steps, estimates, higher_is_better=metric.higher_is_better)


def _peers(results: Results) -> tuple[PeerRow, ...]:
    """Empty where the videos do not agree, or nobody looked: no speed is shown of another result."""
    if results.parity is None or not results.parity.holds:
        return ()
    measured = [each for each in results.peers if each.ours]
    middle = {(each.steps, each.peer): statistics.median(each.theirs) for each in measured}
    best = {steps: min(value for (other, _), value in middle.items() if other == steps) for steps, _ in middle}
    return tuple(
        PeerRow(
            each.peer,
            each.steps,
            summarize(each.ours),
            summarize(each.theirs),
            ratio(each.theirs, each.ours, confidence=CONFIDENCE),
            middle[each.steps, each.peer] == best[each.steps],
        )
        for each in sorted(measured, key=lambda each: (each.steps, middle[each.steps, each.peer]))
    )


def _ceiling(results: Results) -> CeilingRow | None:
    measured = [] if results.ceiling is None else [rate for rate in results.ceiling.rates if rate.gigaflops]
    if results.ceiling is None or not measured:
        return None
    best = max(measured, key=lambda rate: statistics.median(rate.gigaflops))
    rate = statistics.median(best.gigaflops)
    jumps = [second for each in results.latency if each.stage == JUMP for second in each.seconds]
    work = results.ceiling.jump_gigaflop
    known = work is not None and jumps and statistics.median(jumps) > 0 and rate > 0
    reached = (work or 0.0) / statistics.median(jumps) if known else None
    return CeilingRow(results.ceiling.precision, best.name, rate, reached, reached / rate if reached else None)
