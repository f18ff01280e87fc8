"""From samples to the figures of a report, on results with known effects in them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.results import FIXED, METRICS, PER_STEP, STEPS, make_results

from anyflow_rt.benchmarks.metrics.registry import metrics
from anyflow_rt.benchmarks.results.describe import describe_metrics
from anyflow_rt.benchmarks.results.figures import figures
from anyflow_rt.benchmarks.results.summary import headline_metric, summarize_results
from anyflow_rt.benchmarks.results.tables import fit_sentences, fit_table
from anyflow_rt.benchmarks.results.text import summary_lines
from anyflow_rt.benchmarks.results.values import GpuReadings, Memory, Metric, Parity, Results
from anyflow_rt.benchmarks.results.wording import metric_label, when_text


@pytest.fixture(scope="module")
def results() -> Results:
    return make_results(prompts=6)


def test_the_cost_of_a_step_and_of_a_run_are_found(results: Results) -> None:
    summary = summarize_results(results)
    assert summary.fit is not None
    assert summary.fit.per_step == pytest.approx(PER_STEP, rel=0.03)
    assert summary.fit.fixed == pytest.approx(FIXED, rel=0.1)
    assert [row.steps for row in summary.totals] == list(STEPS)
    assert summary.totals[2].frames_per_second == pytest.approx(17 / summary.totals[2].latency.p50)
    assert next(row for row in summary.stages if row.stage == "jump" and row.steps == 32).latency.n == 32 * 15


def test_a_line_through_two_points_is_not_called_exact(results: Results) -> None:
    two = tuple(each for each in results.latency if each.steps in (1, 4))
    summary = summarize_results(replace(results, latency=two, quality=()))
    (said,) = fit_sentences(summary)
    assert "two medians, which leaves no residual" in said
    assert fit_table(summary) is None
    instant = tuple(replace(each, seconds=(0.0, 0.0)) for each in two)
    assert summary_lines(summarize_results(replace(results, latency=instant, quality=())))


def test_the_figures_as_json(results: Results) -> None:
    summary = summarize_results(results)
    found = json.loads(json.dumps(figures(summary), allow_nan=False))
    assert found["metric"] == "shapes.right"
    assert [point["steps"] for point in found["curve"]] == [row["steps"] for row in found["latency"]] == list(STEPS)
    assert found["curve"][2]["estimate"] == summary.headline[0].points[2][1].estimate
    assert {row["peer"] for row in found["ratio"] if row["fastest"]} == {"diffusers bf16 eager"}
    assert figures(summarize_results(replace(results, latency=(), quality=(), peers=())))["metric"] is None


def test_the_share_of_the_ceiling_is_useful_work_over_time(results: Results) -> None:
    ceiling = summarize_results(results).ceiling
    assert ceiling is not None
    assert ceiling.rate == 421.0
    assert ceiling.share == pytest.approx(2.4 / PER_STEP / 421, rel=0.03)


def test_curves_are_means_of_every_pair(results: Results) -> None:
    curve = summarize_results(results).headline[0]
    assert (curve.series, curve.metric.name) == ("shipped", "shapes.right")
    for steps, interval in curve.points:
        scores = [
            each.score
            for each in results.quality
            if (each.series, each.metric, each.steps) == ("shipped", "shapes.right", steps)
        ]
        assert interval.estimate == pytest.approx(sum(scores) / len(scores))
        assert (interval.samples, interval.clusters) == (24, 6)
        assert interval.low <= interval.estimate <= interval.high
    assert curve.envelope is not None
    assert curve.envelope.reachable == tuple(sorted(curve.envelope.reachable))
    first = curve.neighbours[0]
    assert (first.before, first.after, first.comparisons) == ("1", "2", 5)


def test_pairs_that_lack_a_step_count_are_in_no_point_and_are_named(results: Results) -> None:
    """As after an interrupt."""
    scored = [each for each in results.quality if each.series == "shipped" and each.metric == "shapes.right"]
    kept = tuple(each for each in scored if not (each.steps == 32 and each.seed == 3))
    summary = summarize_results(replace(results, quality=kept))
    assert summary.curves[0].left_out == 6
    assert {interval.samples for _, interval in summary.curves[0].points} == {18}
    assert "shapes.right of shipped: 6 of 24 pairs lack a step count" in summary.warnings
    apart = tuple(each for each in scored if (each.steps == 32) == (each.seed == 3))
    summary = summarize_results(replace(results, quality=apart))
    assert summary.curves == ()
    assert "no (prompt, seed) was scored at every step count" in summary.warnings[0]


@pytest.mark.parametrize("parity", [None, Parity(False, ("frames at most 90/255 off",))])
def test_no_speed_of_a_peer_is_shown_without_parity(results: Results, parity: Parity | None) -> None:
    summary = summarize_results(replace(results, parity=parity, quality=()))
    lines = "\n".join(summary_lines(summary))
    assert summary.peers == ()
    assert "diffusers" not in lines
    assert "no ratio to a peer is shown" in lines


def test_ratios_are_round_by_round_and_the_fastest_peer_is_marked(results: Results) -> None:
    rows = summarize_results(replace(results, quality=())).peers
    assert {row.peer for row in rows if row.best} == {"diffusers bf16 eager"}
    for row in rows:
        assert row.ratio.estimate == pytest.approx(4.0 if "fp32" in row.peer else 2.7, rel=0.05)
        assert row.ratio.low <= row.ratio.estimate <= row.ratio.high
        assert row.ratio.clusters == 7


def test_fidelity_is_named_so_and_never_the_headline_by_itself(results: Results) -> None:
    likeness = Metric("psnr", "dB", fidelity=True)
    assert metric_label(likeness) == "fidelity: psnr (dB, higher is better)"
    only = tuple(replace(each, metric="psnr") for each in results.quality if each.metric == "fidelity.psnr")
    assert headline_metric(replace(results, metrics=(likeness,), quality=only)) is None
    assert headline_metric(replace(results, metrics=METRICS[::-1])) == "shapes.position_error"
    assert headline_metric(replace(results, headline="fidelity.psnr")) == "fidelity.psnr"


def test_an_invalid_run_says_so_first(results: Results) -> None:
    reasons = ("the GPU was slowed down during the run: hardware thermal slowdown",)
    readings = GpuReadings("NVIDIA L4", (5, 9), (2040, 1200), ("hardware thermal slowdown",))
    hot = replace(results, invalid_reasons=reasons, gpu=readings, memory=Memory(1, 2_000_000_000), quality=())
    lines = summary_lines(summarize_results(hot))
    assert lines[0] == f"WARNING: not valid: {reasons[0]}"
    assert "Peak GPU memory: 2.0 GB, all processes counted." in lines
    expected = "NVIDIA L4: energy unknown, SM clock 1200 to 2040 MHz, clock events: hardware thermal slowdown."
    assert expected in lines


def test_the_terminal_shows_the_ceiling_before_the_times(results: Results) -> None:
    lines = summary_lines(summarize_results(results))
    text = "\n".join(lines)
    assert text.index("Ceiling at bf16") < text.index("Latency of each stage") < text.index("shapes.right")
    for wanted in ("two runs of every step count", "nothing of a prompt", results.commit, "openvino 2026.4.1"):
        assert wanted in text
    assert "forward-only: 24 videos of 6 prompts" in text


def test_nothing_measured_is_no_error() -> None:
    empty = Results(make_results(prompts=1).machine, {}, "unknown", "unknown", (), ())
    assert summary_lines(summarize_results(empty))


def test_metrics_of_a_sweep_are_described() -> None:
    found = {each.name: each for each in describe_metrics(metrics(["shapes", "fidelity", "motion"]))}
    assert found["shapes.right"].primary
    assert found["fidelity.psnr"].fidelity
    assert not found["fidelity.ssim"].primary
    assert found["shapes.distance"].higher_is_better is False
    assert found["motion.magnitude"].higher_is_better is None


def test_times_are_written_for_people() -> None:
    assert when_text("2026-11-22T20:00:59+00:00") == "2026-11-22 20:00 UTC"
    assert when_text("unknown") == "unknown"
