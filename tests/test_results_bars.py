"""The first series against the others' most steps, and against itself with more steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anyflow_rt.benchmarks.results.bars_tables import against_tables, falls_sentences
from anyflow_rt.benchmarks.results.summary import summarize_results
from anyflow_rt.benchmarks.results.values import Machine, Metric, Results, Score

GAINS = {"shipped": {1: 0.0, 2: 0.8, 4: 1.0, 8: 1.0}, "teacher": {1: 0.0, 4: 0.5, 8: 1.0}}
PROMPTS = 16


def luck(number: int, steps: int, series: str) -> float:
    bit = steps.bit_length() % 4 if series == "shipped" else 0
    return 0.05 * (-1) ** (number >> bit & 1)


def results(gains: dict[str, dict[int, float]], metric: Metric | None = None) -> Results:
    """Prompts differ by 1, step counts by their gain; 0.05 more or less comes to 0 over the prompts."""
    hardness = np.random.default_rng(0).normal(0, 1, PROMPTS)
    scores = tuple(
        Score("score", f"prompt {number}", 0, steps, hardness[number] + gain + luck(number, steps, series), series)
        for series, by_steps in gains.items()
        for steps, gain in by_steps.items()
        for number in range(PROMPTS)
    )
    return Results(Machine(), {}, "c", "b", (), scores, metrics=(metric or Metric("score"),))


def test_each_step_count_is_held_against_the_most_steps_of_the_others() -> None:
    summary = summarize_results(results(GAINS))
    (against,) = summary.against
    assert (against.series, against.steps) == ("teacher", 8)
    assert [steps for steps, _ in against.differences] == [1, 2, 4, 8]
    assert [difference.direction for _, difference in against.differences] == ["down", "down", "unclear", "unclear"]
    four = against.differences[2][1]
    assert four.interval.estimate == pytest.approx(0, abs=1e-9)
    assert (four.interval.samples, four.interval.confidence) == (PROMPTS, 0.95)
    (table,) = against_tables(summary)
    assert table.title.startswith("score: shipped less teacher at 8 steps")
    assert [(row[0], row[-1]) for row in table.rows] == [
        ("1", "worse"),
        ("2", "worse"),
        ("4", "unclear"),
        ("8", "unclear"),
    ]


def test_a_series_that_is_best_before_its_end_is_held_against_there_too() -> None:
    found = summarize_results(results({**GAINS, "teacher": {1: 0.0, 4: 2.0, 8: 1.0}})).against
    assert [(each.series, each.steps) for each in found] == [("teacher", 4), ("teacher", 8)]


def test_a_curve_that_does_not_fall_says_so_and_on_how_many_videos() -> None:
    summary = summarize_results(results(GAINS))
    assert summary.falls is not None
    assert (summary.falls.steps, summary.falls.compared, summary.falls.significant) == ((2, 4, 8), 3, ())
    first, last = falls_sentences(summary)
    assert first.startswith("score of shipped never gets significantly worse from 2 to 8 steps")
    assert "3 comparisons on 16 videos" in first
    assert last.startswith("Of 16 videos little can be said: give 512")


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_fall_between_any_two_step_counts_is_found(higher_is_better: bool) -> None:
    sign = 1 if higher_is_better else -1
    falling = {"shipped": {1: 9.0 * sign, 2: sign, 4: 0.98 * sign, 8: 0.9 * sign}}
    summary = summarize_results(results(falling, Metric("score", higher_is_better=higher_is_better)))
    assert summary.against == ()
    assert summary.falls is not None
    assert ("2", "8") in [(each.before, each.after) for each in summary.falls.significant]
    assert any(line.startswith("score of shipped gets worse from 2 to 8 steps: ") for line in falls_sentences(summary))


def test_nothing_is_said_where_there_is_nothing_to_compare() -> None:
    one = results({"shipped": {4: 0.0}})
    for found in (one, replace(one, quality=()), results(GAINS, Metric("score", higher_is_better=None))):
        assert summarize_results(found).falls is None
