"""Two runs compared: known changes are found, none where there is none, and what cannot be compared says so."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support.results import METRICS, make_results

from anyflow_rt.benchmarks.results.difference import compare_results
from anyflow_rt.benchmarks.results.values import LatencySamples, Results, ResultsError, Score, Settings
from anyflow_rt.benchmarks.results.verdicts import Comparison, ResultsDifference
from anyflow_rt.benchmarks.statistics.unpaired import can_tell_apart, ratio_of_medians
from anyflow_rt.errors import UsageError


def quality_only(**options: float) -> Results:
    """Twelve prompts, four seeds, one metric of one series."""
    made = make_results(**options)  # type: ignore[arg-type]
    scores = tuple(each for each in made.quality if (each.series, each.metric) == ("shipped", "shapes.right"))
    return replace(made, quality=scores, latency=())


def latency_only(slower: float = 1.0, seed: int = 0, **changed: object) -> Results:
    """Fewer stages: there is less to resample."""
    made = make_results(slower=slower, seed=seed, prompts=1, runs=20)
    kept = tuple(each for each in made.latency if each.stage in ("decode", "total"))
    return replace(made, **{"latency": kept, "quality": (), **changed})  # type: ignore[arg-type]


def verdicts(difference: ResultsDifference) -> dict[str, str]:
    return {each.subject: each.verdict for each in difference.comparisons}


def only(difference: ResultsDifference) -> Comparison:
    (found,) = difference.comparisons
    return found


def test_a_run_is_the_same_as_itself() -> None:
    results = make_results(prompts=4)
    difference = compare_results(results, results)
    assert set(verdicts(difference).values()) == {"same"}
    assert difference.exit_code == 0
    assert difference.notes == ("30 comparisons of scores have too few prompts to show any change among 60",)
    assert difference.lines()[-1].startswith("0 regressed, 0 improved")


def test_other_noise_is_no_change() -> None:
    for seed in range(1, 4):
        difference = compare_results(latency_only(), latency_only(seed=seed))
        assert set(verdicts(difference).values()) == {"same"}


def test_a_loss_of_quality_is_a_regression_and_a_gain_is_not() -> None:
    worse = compare_results(quality_only(), quality_only(quality=-0.3))
    assert worse.exit_code == 1
    assert verdicts(worse)["shapes.right of shipped at 4 steps"] == "regressed"
    found = next(each for each in worse.comparisons if each.subject.endswith("at 4 steps"))
    assert found.change is not None
    assert found.change.estimate == pytest.approx((found.after or 0) - (found.before or 0))
    assert found.change.confidence == pytest.approx(1 - 0.05 / 6)
    better = compare_results(quality_only(quality=-0.3), quality_only())
    assert better.exit_code == 0
    assert better.count("improved") >= 1


def test_less_of_an_error_is_better() -> None:
    def errors(value: float) -> Results:
        scores = [Score("shapes.position_error", f"prompt {n}", 0, 4, value + n % 3) for n in range(9)]
        return replace(quality_only(), quality=tuple(scores))

    assert only(compare_results(errors(1.0), errors(0.5))).verdict == "improved"
    assert only(compare_results(errors(0.5), errors(1.0))).verdict == "regressed"


def test_a_fall_of_fidelity_is_told_and_is_no_regression() -> None:
    def likeness(value: float) -> Results:
        scores = [Score("fidelity.psnr", f"prompt {n}", 0, 4, value + n % 3) for n in range(9)]
        return replace(quality_only(), quality=tuple(scores))

    found = compare_results(likeness(30.0), likeness(20.0))
    assert (only(found).verdict, found.exit_code) == ("changed", 0)
    assert "0 regressed, 0 improved, 1 changed" in found.lines()[-1]


def test_fidelity_to_other_references_is_not_compared() -> None:
    def likeness(steps: int | None) -> Results:
        scores = [Score("fidelity.psnr", f"prompt {n}", 0, 4, n % 3) for n in range(9)]
        return replace(quality_only(), quality=tuple(scores), settings=Settings(reference_steps=steps))

    assert only(compare_results(likeness(None), likeness(32))).verdict == "same"
    with pytest.raises(ResultsError, match=r"other references .reference steps: 16 and 32"):
        compare_results(likeness(16), likeness(32))


def test_slower_is_a_regression_and_faster_is_not() -> None:
    slower = compare_results(latency_only(), latency_only(1.3, seed=1))
    assert slower.exit_code == 1
    assert set(verdicts(slower).values()) == {"regressed"}
    assert "total at 4 steps, seconds" in "\n".join(slower.lines())
    assert set(verdicts(compare_results(latency_only(1.3), latency_only(seed=1))).values()) == {"improved"}


def test_a_change_within_the_margin_is_none_however_sure() -> None:
    def runs(center: float) -> Results:
        seconds = center * np.random.default_rng(0).normal(1, 0.001, 200)
        return latency_only(latency=(LatencySamples(4, "total", tuple(seconds.tolist())),))

    found = only(compare_results(runs(1.0), runs(1.03)))
    assert found.verdict == "same"
    assert found.change is not None
    assert found.change.low > 1
    assert only(compare_results(runs(1.0), runs(1.08))).verdict == "regressed"


def test_few_samples_prove_nothing() -> None:
    def runs(*seconds: float) -> Results:
        return latency_only(latency=(LatencySamples(4, "total", seconds),))

    found = only(compare_results(runs(1.0, 1.1), runs(2.0, 2.1)))
    assert found.verdict == "incomparable"
    assert "2 and 2 samples are too few" in found.reason
    assert only(compare_results(runs(*[1.0] * 5), runs(*[2.0] * 5))).verdict == "regressed"
    assert can_tell_apart(4, 4, 0.95)
    assert not can_tell_apart(3, 3, 0.95)
    assert not can_tell_apart(0, 9, 0.95)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"machine": replace(latency_only().machine, processor="another")}, "another machine"),
        ({"settings": Settings((33, 64, 64))}, r"videos of other sizes \(size: \[17, 64, 64\] and \[33, 64, 64\]\)"),
        ({"settings": replace(latency_only().settings, batch=4)}, r"another batch \(batch: 1 and 4\)"),
        ({"invalid_reasons": ("too hot",)}, r"the times of the second file are not valid \(too hot\)"),
        ({"latency": (LatencySamples(3, "total", (1.0,)),)}, "only the first file has it"),
    ],
)
def test_times_that_cannot_be_compared(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(ResultsError, match=f"nothing to compare.*{reason}"):
        compare_results(latency_only(), latency_only(**changed))


def test_quality_is_compared_across_machines_but_not_across_sizes() -> None:
    mine = make_results(prompts=4, machine=replace(make_results(prompts=1).machine, cores=64))
    found = verdicts(compare_results(make_results(prompts=4), mine))
    assert found["shapes.right of teacher at 8 steps"] == "same"
    assert found["total at 8 steps, seconds"] == "incomparable"
    with pytest.raises(ResultsError, match="videos of other sizes"):
        compare_results(quality_only(), replace(quality_only(), settings=Settings((1, 8, 8))))


def test_scores_that_cannot_be_compared() -> None:
    one = replace(quality_only(), quality=quality_only().quality[:6])
    with pytest.raises(ResultsError, match="one prompt alone does not say"):
        compare_results(one, one)
    moved = tuple(replace(each, seed=each.seed + 100) for each in quality_only().quality)
    with pytest.raises(ResultsError, match="no prompt and seed is in both"):
        compare_results(quality_only(), replace(quality_only(), quality=moved))
    other = (replace(METRICS[0], higher_is_better=False), *METRICS[1:])
    with pytest.raises(ResultsError, match=r"shapes\.right is described differently"):
        compare_results(quality_only(), replace(quality_only(), metrics=other))


def test_what_else_differs_is_noted_and_all_of_it_is_json() -> None:
    before = make_results(prompts=2)
    after = make_results(
        prompts=2,
        settings=replace(before.settings, precision="fp32"),
        versions={"python": "3.12"},
        commit="other",
        invalid_reasons=("busy",),
    )
    difference = compare_results(before, after)
    assert "precision differs: bf16 and fp32" in difference.notes
    assert "python differs: 3.11.7 and 3.12" in difference.notes
    assert "openvino differs: 2026.4.1 and none" in difference.notes
    body = json.loads(json.dumps(difference.to_dict(), allow_nan=False))
    assert body["incomparable"] == 30
    assert "total at 1 steps, seconds: not comparable: the times of the second" in "\n".join(difference.lines())


def test_a_ratio_of_medians_covers_the_truth_at_its_rate() -> None:
    """Nominal 90%; 200 draws leave 84% to 96% with 99% probability, and the bootstrap of a median is conservative."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        over, under = 2 * generator.lognormal(0, 0.1, 30), generator.lognormal(0, 0.1, 30)
        interval = ratio_of_medians(over, under, confidence=0.9, resamples=2000)
        covered += interval.low <= 2 <= interval.high
    assert covered >= 168
    with pytest.raises(UsageError, match="0 seconds or less"):
        ratio_of_medians([1.0], [0.0])
    assert ratio_of_medians([2.0, 2.0], [1.0]).method == "point"
