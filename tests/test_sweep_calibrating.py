"""Which sweeps write the bundle's calibration, and which leave it as it was and say why."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.results import make_results

from anyflow_rt.benchmarks.results.values import JumpError, Results, Settings
from anyflow_rt.benchmarks.sweep.calibrating import keep_calibration
from anyflow_rt.sampling.calibration import read_calibration


def sweep(prompts: int = 4, **changed: object) -> Results:
    """The shipped series' scores of one metric."""
    made = make_results(prompts=prompts, latency=(), settings=Settings(mean_velocity=True))
    kept = tuple(each for each in made.quality if (each.series, each.metric) == ("shipped", "shapes.right"))
    return replace(made, **{"quality": kept, **changed})  # type: ignore[arg-type]


@pytest.fixture
def bundle(tmp_path: Path) -> SimpleNamespace:
    """What is asked of a bundle: its id and its file."""
    return SimpleNamespace(id=make_results(prompts=1).bundle_id, calibration_path=tmp_path / "calibration.json")


def said(results: Results, bundle: SimpleNamespace) -> str | None:
    """The reason why nothing was written; None where it was."""
    lines: list[str] = []
    assert keep_calibration(results, bundle, lines.append) is (not lines)
    return lines[0] if lines else None


def test_as_many_videos_and_step_counts_replace_the_older_one_and_unmeasured_jumps_stay(
    bundle: SimpleNamespace,
) -> None:
    assert said(sweep(), bundle) is None
    first = read_calibration(bundle.calibration_path, bundle.id)
    assert first is not None
    assert [point.steps for point in first.points] == [1, 2, 4, 8, 16, 32]
    assert {(edge.start, edge.end) for edge in first.edges} == {(32, 0), (32, 16), (16, 0)}
    assert said(sweep(5, jump_errors=(JumpError(32, 0, (0.9,)),)), bundle) is None
    second = read_calibration(bundle.calibration_path, bundle.id)
    assert second is not None
    assert second.points[0].n == 20
    assert {(edge.start, edge.end): edge.cost for edge in second.edges} == {
        (32, 0): 0.9,
        (32, 16): pytest.approx(0.15),
        (16, 0): pytest.approx(0.25),
    }


def test_a_smaller_or_another_sweep_leaves_it(bundle: SimpleNamespace) -> None:
    assert said(sweep(), bundle) is None
    before = bundle.calibration_path.read_bytes()
    whole, made = sweep(), make_results(prompts=4)
    other = tuple(each for each in made.quality if each.metric == "shapes.position_error")
    for smaller, reason in (
        (sweep(3), "16 videos at 6 step counts, and this run 12 at 6; remove"),
        (replace(whole, quality=tuple(each for each in whole.quality if each.steps < 32)), "this run 16 at 5"),
        (replace(whole, quality=tuple(each for each in whole.quality if each.steps == 4)), "no curve"),
        (replace(whole, settings=Settings(mean_velocity=False)), "--euler"),
        (replace(made, quality=other), "it is of shapes.right, and this run of shapes.position_error"),
        (replace(whole, quality=()), "no metric of quality"),
    ):
        assert reason in (said(smaller, bundle) or "")
        assert bundle.calibration_path.read_bytes() == before


def test_a_damaged_one_is_replaced(bundle: SimpleNamespace) -> None:
    bundle.calibration_path.write_text("{")
    assert said(sweep(), bundle) is None
    assert read_calibration(bundle.calibration_path, bundle.id) is not None
