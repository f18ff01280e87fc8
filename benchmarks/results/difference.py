"""Two results files: what got better, what got worse, what cannot be compared, and why.

Scores are compared pair by pair: the same metric, prompt, seed and steps; a change counts where a sign-flip test by
prompt says that it is not chance. Times have no pairs: the ratio of medians is bootstrapped, and it counts only where
its interval lies beyond ``LATENCY_MARGIN``, since two runs of one program on one machine differ by more than their
samples show. Every test and interval is corrected (Bonferroni) for the number of comparisons made in all. Metrics of
which neither way is better, and scores of whole sets of videos, are not compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from anyflow_rt.benchmarks.results.summary import CONFIDENCE, scores_by_steps
from anyflow_rt.benchmarks.results.values import Results, ResultsError
from anyflow_rt.benchmarks.results.verdicts import (
    CHANGED,
    IMPROVED,
    INCOMPARABLE,
    REGRESSED,
    SAME,
    Comparison,
    ResultsDifference,
)
from anyflow_rt.benchmarks.results.wording import metric_name
from anyflow_rt.benchmarks.statistics.bootstrap import Interval
from anyflow_rt.benchmarks.statistics.comparisons import Scores, level, paired_difference
from anyflow_rt.benchmarks.statistics.latency import summarize
from anyflow_rt.benchmarks.statistics.sign_flip import smallest_p_value
from anyflow_rt.benchmarks.statistics.unpaired import can_tell_apart, ratio_of_medians

LATENCY_MARGIN = 0.05
"""A change of a median time by a smaller share than this is never called one."""
TAIL_RESAMPLES = 5
"""Resamples beyond each end of an interval: corrected intervals reach far out, and need more resamples for it."""
FEWEST_PROMPTS = 2
NOTED = ("engine", "precision", "mean_velocity", "reference_steps", "rounds", "seeds", "first_seed", "prompts")
"""Settings that may differ."""


@dataclass(frozen=True)
class _Planned:
    """A comparison that can be made once it is known how many there are."""

    kind: str
    subject: str
    before: float
    after: float
    compare: Callable[[int], tuple[Interval, str, str]]
    """Number of comparisons -> interval, verdict, reason."""


def compare_results(before: Results, after: Results, *, seed: int = 0) -> ResultsDifference:
    """What changed from ``before`` to ``after``. Raises ResultsError where not one figure can be compared."""
    found = [*_quality(before, after, seed), *_latency(before, after, seed)]
    count = sum(isinstance(each, _Planned) for each in found)
    if not count:
        reasons = "; ".join(dict.fromkeys(each.reason for each in found if isinstance(each, Comparison)))
        raise ResultsError(
            f"the two results have nothing to compare ({reasons or 'no figure is in both'}); "
            "give two runs of the same prompts, seeds and steps, or of one machine"
        )
    made, weak = [], 0
    for each in found:
        if isinstance(each, _Planned):
            interval, verdict, reason = each.compare(count)
            each = Comparison(each.kind, each.subject, verdict, each.before, each.after, interval, reason)
            prompts = interval.clusters if each.kind != "latency" else None
            weak += prompts is not None and smallest_p_value(prompts) > level(count, CONFIDENCE)
        made.append(each)
    notes = _notes(before, after)
    if weak:
        notes += (f"{weak} comparisons of scores have too few prompts to show any change among {count}",)
    return ResultsDifference(tuple(made), notes)


def _quality(before: Results, after: Results, seed: int) -> list[Comparison | _Planned]:
    found: list[Comparison | _Planned] = []
    ours, theirs = scores_by_steps(before), scores_by_steps(after)
    sizes = _fault(
        "size", list(before.settings.size) or "unknown", list(after.settings.size) or "unknown", "videos of other sizes"
    )
    references = before.settings.reference_steps, after.settings.reference_steps
    for series, name in dict.fromkeys([*ours, *theirs]):
        old, new = ours.get((series, name), {}), theirs.get((series, name), {})
        first, second = before.metric(name), after.metric(name)
        higher_is_better = first.higher_is_better
        if higher_is_better is None:
            continue
        kind = "fidelity" if first.fidelity or second.fidelity else "quality"
        alike = replace(first, title="", share=False) == replace(second, title="", share=False)  # how it is shown
        other = None if alike else f"{name} is described differently in the two, so it is another metric"
        if kind == "fidelity" and other is None and None not in references:
            other = _fault("reference steps", *references, "likeness to other references")
        for steps in sorted({*old, *new}):
            subject = f"{metric_name(first)} of {series} at {steps} steps"
            pairs = sorted(old.get(steps, {}).keys() & new.get(steps, {}).keys())
            reason = sizes or other or _too_few(steps in old, steps in new, pairs)
            if reason:
                found.append(Comparison(kind, subject, INCOMPARABLE, None, None, None, reason))
                continue
            paired = {pair: old[steps][pair] for pair in pairs}, {pair: new[steps][pair] for pair in pairs}
            means = tuple(math.fsum(scores.values()) / len(pairs) for scores in paired)
            compare = _score_comparison(*paired, None if kind == "fidelity" else higher_is_better, seed)
            found.append(_Planned(kind, subject, means[0], means[1], compare))
    return found


def _score_comparison(
    old: Scores, new: Scores, higher_is_better: bool | None, seed: int
) -> Callable[[int], tuple[Interval, str, str]]:
    def compare(comparisons: int) -> tuple[Interval, str, str]:
        difference = paired_difference(
            old,
            new,
            ("before", "after"),
            comparisons=comparisons,
            confidence=CONFIDENCE,
            resamples=_resamples(comparisons),
            seed=seed,
        )
        interval = difference.interval
        if difference.direction == "unclear":
            verdict = SAME
        elif higher_is_better is None:
            verdict = CHANGED
        else:
            verdict = REGRESSED if difference.is_worse(higher_is_better) else IMPROVED
        reason = f"{interval.samples} videos of {interval.clusters} prompts in both, p = {difference.p_value:.2g}"
        return interval, verdict, reason

    return compare


def _too_few(in_before: bool, in_after: bool, pairs: list[tuple[str, int]]) -> str | None:
    if not (in_before and in_after):
        return f"only the {'first' if in_before else 'second'} file has it"
    if not pairs:
        return "no prompt and seed is in both"
    if len({prompt for prompt, _ in pairs}) < FEWEST_PROMPTS:
        return "one prompt alone does not say how much prompts differ"
    return None


def _latency(before: Results, after: Results, seed: int) -> list[Comparison | _Planned]:
    found: list[Comparison | _Planned] = []
    machines = [results.machine for results in (before, after)]
    described = [f"{each.processor}, {each.cores} cores, GPUs {[gpu.name for gpu in each.gpus]}" for each in machines]
    invalid = [
        f"the times of the {name} file are not valid ({'; '.join(results.invalid_reasons)})"
        for name, results in (("first", before), ("second", after))
        if not results.valid
    ]
    general = (
        (invalid[0] if invalid else None)
        or _fault("machine", described[0], described[1], "another machine")
        or _fault("size", list(before.settings.size), list(after.settings.size), "videos of other sizes")
        or _fault("batch", before.settings.batch, after.settings.batch, "another batch")
    )
    old, new = (
        {(each.stage, each.steps): each.seconds for each in results.latency if each.seconds}
        for results in (before, after)
    )
    for stage, steps in sorted({*old, *new}, key=lambda key: (key[1], key[0])):
        subject, key = f"{stage} at {steps} steps, seconds", (stage, steps)
        reason = general or (None if key in old and key in new else _too_few(key in old, key in new, []))
        if reason is None and min(*old[key], *new[key]) <= 0:
            reason = "a time of 0 seconds: too short for this clock"
        if reason:
            found.append(Comparison("latency", subject, INCOMPARABLE, None, None, None, reason))
            continue
        medians = summarize(old[key]).p50, summarize(new[key]).p50
        found.append(_Planned("latency", subject, *medians, _time_comparison(old[key], new[key], seed)))
    return found


def _time_comparison(
    old: tuple[float, ...], new: tuple[float, ...], seed: int
) -> Callable[[int], tuple[Interval, str, str]]:
    def compare(comparisons: int) -> tuple[Interval, str, str]:
        confidence = 1 - (1 - CONFIDENCE) / comparisons
        interval = ratio_of_medians(new, old, confidence=confidence, resamples=_resamples(comparisons), seed=seed)
        if not can_tell_apart(len(old), len(new), confidence):
            return interval, INCOMPARABLE, f"{len(old)} and {len(new)} samples are too few to show any change"
        worse, better = interval.low > 1 + LATENCY_MARGIN, interval.high < 1 / (1 + LATENCY_MARGIN)
        verdict = REGRESSED if worse else IMPROVED if better else SAME
        return interval, verdict, f"{len(old)} and {len(new)} samples; changes within {LATENCY_MARGIN:.0%} do not count"

    return compare


def _fault(name: str, first: object, second: object, what: str) -> str | None:
    return None if first == second else f"{what} ({name}: {first} and {second})"


def _resamples(comparisons: int) -> int:
    return max(5000, math.ceil(2 * TAIL_RESAMPLES * comparisons / (1 - CONFIDENCE)))


def _notes(before: Results, after: Results) -> tuple[str, ...]:
    """What differs and does not forbid comparing: often it is what the comparison is about."""
    known = [(name, getattr(before.settings, name), getattr(after.settings, name)) for name in NOTED]
    settings = [(name.replace("_", " "), first, second) for name, first, second in known if None not in (first, second)]
    pairs = [
        ("bundle", before.bundle_id, after.bundle_id),
        ("commit", before.commit, after.commit),
        *settings,
        *(
            (package, before.versions.get(package, "none"), after.versions.get(package, "none"))
            for package in sorted({*before.versions, *after.versions})
        ),
    ]
    return tuple(f"{name} differs: {first} and {second}" for name, first, second in pairs if first != second)
