"""Paired differences: the same pairs, corrected intervals, the right verdict."""

import math

import numpy as np
import pytest

from anyflow_rt.benchmarks.results.wording import bounds_text
from anyflow_rt.benchmarks.statistics.bootstrap import bootstrap_mean
from anyflow_rt.benchmarks.statistics.comparisons import means, neighbours, paired_difference, runs
from anyflow_rt.errors import UsageError


def curve(generator: np.random.Generator, gains: dict[int, float]) -> dict[int, dict[tuple[str, int], float]]:
    """Scores of 40 prompts x 2 seeds: prompts differ by 1, and the mean at N steps is its gain, give or take 0.1."""
    pairs = [(f"prompt {number}", seed) for number in range(40) for seed in (0, 1)]
    hardness = {prompt: generator.normal() for prompt, _ in pairs}
    return {
        steps: {pair: hardness[pair[0]] + gain + generator.normal(0, 0.1) for pair in pairs}
        for steps, gain in gains.items()
    }


def test_neighbours_find_small_gains_that_pairing_reveals() -> None:
    scores = curve(np.random.default_rng(0), {8: 0.3, 1: 0.0, 2: 0.1, 4: 0.1})
    found = neighbours(scores)
    assert [(item.before, item.after) for item in found] == [("1", "2"), ("2", "4"), ("4", "8")]
    assert [item.direction for item in found] == ["up", "unclear", "up"]
    (_, low), (_, high) = means({steps: scores[steps] for steps in (1, 2)})
    assert low.high > high.low, "without pairing the intervals of 1 and 2 steps overlap"


def test_direction_and_worse() -> None:
    scores = curve(np.random.default_rng(1), {1: 0.2, 2: 0.0})
    (found,) = neighbours(scores)
    assert found.direction == "down"
    assert found.is_worse(higher_is_better=True) and not found.is_worse(higher_is_better=False)


def test_intervals_are_corrected_for_the_number_of_comparisons() -> None:
    scores = curve(np.random.default_rng(2), {1: 0.0, 2: 0.0, 4: 0.0, 8: 0.0, 16: 0.0, 32: 0.0})
    found = neighbours(scores)
    assert {item.interval.confidence for item in found} == {1 - 0.05 / 5}
    assert {(item.comparisons, item.correction, item.confidence) for item in found} == {(5, "Bonferroni", 0.95)}
    alone = paired_difference(scores[1], scores[2], ("1", "2"))
    assert found[0].interval.low < alone.interval.low and alone.interval.high < found[0].interval.high


def test_false_alarms_stay_below_the_rate_of_the_family() -> None:
    """Of 100 curves that do not rise, at most 10% have one neighbour that seems to (5% and four deviations are 14%)."""
    generator = np.random.default_rng(3)
    flat = dict.fromkeys((1, 2, 4, 8), 0.0)
    alarms = [
        any(item.direction != "unclear" for item in neighbours(curve(generator, flat), resamples=2000))
        for _ in range(100)
    ]
    assert np.mean(alarms) <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 100)


def test_a_difference_is_the_bootstrap_of_pairwise_differences_by_prompt() -> None:
    scores = curve(np.random.default_rng(4), {1: 0.0, 2: 0.1})
    pairs = sorted(scores[1])
    expected = bootstrap_mean([scores[2][p] - scores[1][p] for p in pairs], [p[0] for p in pairs])
    assert paired_difference(scores[1], scores[2], ("a", "b")).interval == expected
    backwards = paired_difference(scores[2], scores[1], ("b", "a")).interval
    assert backwards.estimate == pytest.approx(-expected.estimate)


def test_two_runs_are_compared_where_both_measured() -> None:
    before = curve(np.random.default_rng(5), {1: 0.0, 2: 0.0, 4: 0.0})
    after = curve(np.random.default_rng(5), {2: 0.0, 4: -0.5, 8: 0.0})
    left_out = sorted(after[2])[:3]
    for pair in left_out:
        del after[2][pair]
    found = runs(before, after)
    assert [item.after for item in found] == ["after, 2 steps", "after, 4 steps"]
    assert found[0].interval.samples == 77 and found[1].interval.samples == 80
    assert [item.is_worse(True) for item in found] == [False, True]
    assert runs(before, after, comparisons=10)[0].interval.confidence == 1 - 0.05 / 10
    with pytest.raises(UsageError, match="no step count in common"):
        runs({1: before[1]}, {2: before[2]})
    with pytest.raises(UsageError, match=r"no .prompt, seed. pair in common at 1 steps"):
        runs({1: {("a", 0): 1.0}}, {1: {("b", 0): 1.0}})


def test_a_run_against_itself_is_no_regression() -> None:
    scores = curve(np.random.default_rng(6), {1: 0.0, 2: 0.1})
    assert {item.direction for item in runs(scores, scores)} == {"unclear"}


def test_other_pairs_are_refused_by_name() -> None:
    scores = curve(np.random.default_rng(7), {1: 0.0, 2: 0.1})
    del scores[2][("prompt 7", 1)]
    with pytest.raises(UsageError, match=r"'prompt 7' with seed 1 was scored at 1 and not at 2 .1 such"):
        neighbours(scores)
    with pytest.raises(UsageError, match="'prompt 7' with seed 1 was scored at 1 and not at 2"):
        means(scores)
    scores[2][("prompt 7", 1)] = math.nan
    with pytest.raises(UsageError, match="nan"):
        neighbours(scores)
    with pytest.raises(UsageError, match="0 comparisons"):
        paired_difference(scores[1], scores[1], ("a", "b"), comparisons=0)


def test_a_share_that_never_varies_has_an_interval_and_another_score_says_that_it_has_none() -> None:
    right = {steps: {(f"prompt {number}", 0): 0.0 for number in range(8)} for steps in (1, 2)}
    assert [found.method for _, found in means(right)] == ["wilson", "wilson"]
    (_, found), _ = means({**right, 2: dict.fromkeys(right[2], 0.5)})
    assert found.method == "point"
    assert bounds_text(found) == "no spread"


def test_one_step_count_has_no_neighbours() -> None:
    assert neighbours({4: {("a", 0): 1.0}}) == ()
