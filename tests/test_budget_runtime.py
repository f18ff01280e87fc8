"""Budgets of the public object, on a machine whose clock is the test's: no figure here depends on the real one."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle
from support.machine import DECODE, JUMP, Machine, write_profile

import anyflow_rt
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import BudgetError, BundleError, Cancelled, UsageError
from anyflow_rt.latencies import Latencies
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling import controller
from anyflow_rt.sampling.calibration import Calibration, QualityPoint, write_calibration
from anyflow_rt.sampling.latency import Setting
from anyflow_rt.sampling.schedule import grid

SIZE: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 5, "max_sequence_length": 32}
PROMPT = "a red circle"
SETTING = Setting("onnxruntime", "fp32", 5, 32, 48)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def bundle() -> Path:
    return random_bundle("base").path


@pytest.fixture(scope="module")
def opened() -> Iterator[Runtime]:
    with anyflow_rt.load(random_bundle("base").path, engine="onnxruntime", precision="fp32") as runtime:
        yield runtime
        runtime.latencies.abandon()


@pytest.fixture
def fresh(opened: Runtime, state: Path) -> Runtime:
    """Nothing was measured."""
    return nothing_measured(opened)


def nothing_measured(opened: Runtime) -> Runtime:
    """The engines of another runtime, with no memory of what they took."""
    opened.latencies.abandon()
    opened.latencies = Latencies(opened.bundle.id, opened.engine)
    opened.latencies.opening = False
    opened._loaded = replace(opened._loaded, latencies=opened.latencies)
    return opened


@pytest.fixture
def runtime(fresh: Runtime, bundle: Path) -> Runtime:
    """The machine was calibrated."""
    write_profile(bundle, SETTING)
    return fresh


@pytest.fixture
def machine(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Its clock; each stage was called once."""
    made = Machine(monkeypatch)
    runtime.generate(PROMPT, steps=1, **SIZE)
    made.jumps = 0
    return made


def test_a_budget_is_kept_with_as_many_steps_as_fit(runtime: Runtime, machine: Machine) -> None:
    result = runtime.generate(PROMPT, budget=0.115, seed=3, **SIZE)
    report = result.budget
    assert report is not None and result.frames is not None
    assert 7 <= len(result.plan) <= 9 and report.met
    assert report.taken == pytest.approx(len(result.plan) * JUMP + DECODE) == result.seconds.total
    assert report.predicted is not None and report.taken <= report.predicted <= report.seconds == 0.115
    assert report.planned_steps == len(result.plan) and report.smallest == pytest.approx(JUMP + DECODE, rel=0.3)
    assert (report.confidence, len(report.planning)) == (0.95, len(result.plan) + 1)
    whys = [decision.why for decision in result.decisions]
    assert whys == [controller.FIRST, *[controller.KEPT] * (len(result.plan) - 1), controller.DECODE]
    times = grid(5.0)
    assert result.plan[0][0] == 1.0 and result.plan[-1][1] == 0.0
    assert {t for t, _ in result.plan} <= set(times)


def test_more_time_is_more_steps_and_eight_of_them_are_the_uniform_plan(runtime: Runtime, machine: Machine) -> None:
    steps = [len(runtime.generate(PROMPT, budget=budget, **SIZE).plan) for budget in (0.04, 0.08, 0.2, 10.0)]
    assert steps == sorted(steps) and steps[0] < steps[1] < steps[2] < steps[3] == 32
    limited = runtime.generate(PROMPT, budget=10.0, steps=8, seed=4, **SIZE)
    assert np.array_equal(limited.latents, runtime.generate(PROMPT, steps=8, seed=4, **SIZE).latents)


def test_steps_are_the_ceiling(runtime: Runtime, machine: Machine) -> None:
    for options, steps in (
        ({"steps": 3}, 3),
        ({"max_steps": 5}, 5),
        ({"steps": 64}, 32),
        ({"steps": 6, "max_steps": 4}, 4),
        ({"budget": 0.001, "min_steps": 2}, 2),
    ):
        assert len(runtime.generate(PROMPT, **{"budget": 10.0, **options}, **SIZE).plan) == steps


def test_a_machine_that_slows_down_or_speeds_up_is_followed(runtime: Runtime, machine: Machine) -> None:
    machine.jump_seconds = lambda n: JUMP if n < 3 else 0.02
    slow = runtime.generate(PROMPT, budget=0.25, **SIZE)
    assert slow.budget is not None and slow.budget.met and len(slow.plan) < slow.budget.planned_steps
    assert controller.FEWER in {decision.why for decision in slow.decisions}
    machine.jump_seconds, machine.decode_seconds = lambda n: 0.4 * JUMP, 0.4 * DECODE
    fast = runtime.generate(PROMPT, budget=0.12, **SIZE)
    assert fast.budget is not None and fast.budget.met and len(fast.plan) > fast.budget.planned_steps
    assert controller.MORE in {decision.why for decision in fast.decisions}


def test_a_budget_below_the_minimum_runs_the_shortest_plan_and_says_so(runtime: Runtime, machine: Machine) -> None:
    result = runtime.generate(PROMPT, budget=0.01, **SIZE)
    report = result.budget
    assert report is not None and result.plan == ((1.0, 0.0),) and not report.met
    assert report.taken == pytest.approx(JUMP + DECODE)
    assert any("budget of 0.01 s is below the smallest that would do" in note for note in report.notes)
    assert result.decisions[0].why == controller.TOO_LATE


def test_a_strict_budget_is_refused_before_any_work(runtime: Runtime, machine: Machine, tmp_path: Path) -> None:
    for call in (runtime.generate, lambda *a, **k: runtime.generate_to_file(tmp_path / "out.npy", *a, **k)):
        with pytest.raises(BudgetError, match="the smallest that would do is") as refused:
            call(PROMPT, budget=0.01, strict_budget=True, **SIZE)
        assert machine.jumps == 0 and refused.value.exit_code == 3
        smallest = refused.value.smallest
        assert smallest is not None and f"{smallest:g} s" in str(refused.value)
        result = call(PROMPT, budget=smallest, strict_budget=True, **SIZE)
        assert result.budget.met and result.budget.notes == runtime.generate(PROMPT, budget=9, **SIZE).budget.notes
        machine.jumps = 0
    with pytest.raises(BudgetError, match=r"confidence 0\.99"):
        runtime.generate(PROMPT, budget=0.03, strict_budget=True, confidence=0.99, min_steps=4, **SIZE)


def test_a_budget_counts_from_where_it_is_said_to(runtime: Runtime, machine: Machine) -> None:
    late = runtime.generate(PROMPT, budget=0.2, started_at=machine.now - 0.1, **SIZE)
    soon = runtime.generate(PROMPT, budget=0.2, **SIZE)
    assert late.budget is not None and late.budget.met and len(late.plan) < len(soon.plan)
    assert late.seconds.total == late.budget.taken > 0.1
    for wrong in (machine.now + 1, float("nan"), -float("inf"), "now", True):
        with pytest.raises(UsageError, match="started_at is "):
            runtime.generate(PROMPT, started_at=wrong, **SIZE)


def test_without_decoding(runtime: Runtime, machine: Machine) -> None:
    only = runtime.generate(PROMPT, budget=0.115, output="latents", **SIZE)
    assert only.budget is not None and only.budget.met
    assert len(only.plan) > len(runtime.generate(PROMPT, budget=0.115, **SIZE).plan)
    assert controller.DECODE not in {decision.why for decision in only.decisions}


def test_on_step_is_told_what_is_planned_now(runtime: Runtime, machine: Machine) -> None:
    machine.jump_seconds = lambda n: JUMP if n < 3 else 0.03
    steps: list[Any] = []
    result = runtime.generate(PROMPT, budget=0.2, on_step=steps.append, **SIZE)
    assert [step.index for step in steps] == list(range(len(result.plan)))
    assert steps[0].steps > steps[-1].steps == len(result.plan)
    assert tuple((step.t, step.r) for step in steps) == result.plan


def test_nothing_measured(fresh: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    first = fresh.generate(PROMPT, budget=0.2, **SIZE)
    assert first.budget is not None and any("no jump was measured" in note for note in first.budget.notes)
    assert first.decisions[0].why == controller.UNMEASURED and first.budget.smallest is None
    assert first.plan[0][1] > 0 and machine.jumps == len(first.plan)
    second = fresh.generate(PROMPT, budget=0.2, **SIZE)
    assert second.budget is not None and second.budget.met and second.budget.predicted is not None
    assert not any("no jump" in note for note in second.budget.notes)
    with pytest.raises(BudgetError, match="smallest that would do"):
        fresh.generate(PROMPT, budget=0.001, strict_budget=True, **SIZE)


def test_nothing_measured_and_strict(fresh: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has passed already is known to be too much; more is not."""
    machine = Machine(monkeypatch)
    with pytest.raises(BudgetError, match="anyflow-rt calibrate") as refused:
        fresh.generate(PROMPT, budget=0.1, strict_budget=True, started_at=machine.now - 0.2, **SIZE)
    assert refused.value.smallest is None and machine.jumps == 0
    assert fresh.generate(PROMPT, budget=0.3, strict_budget=True, **SIZE).frames is not None


def test_another_size_is_estimated_and_said_to_be(runtime: Runtime, machine: Machine) -> None:
    result = runtime.generate(PROMPT, budget=0.3, **{**SIZE, "width": 32})
    assert result.budget is not None and any("estimated from other sizes" in note for note in result.budget.notes)


def test_what_the_bundle_says_of_quality(runtime: Runtime, machine: Machine, bundle: Path, tmp_path: Path) -> None:
    """Without calibration a default and a note; a damaged one is one line; where steps gain nothing, fewer are run."""
    first = runtime.generate(PROMPT, budget=0.3, **SIZE)
    assert first.budget is not None and any("no quality was measured" in note for note in first.budget.notes)
    other = Bundle.open(shutil.copytree(bundle, tmp_path / "bundle"))
    other.calibration_path.write_text("{")
    with anyflow_rt.load(other.path, engine="onnxruntime", precision="fp32") as opened:
        with pytest.raises(BundleError, match=r"calibration\.json.*anyflow-rt bench"):
            opened.generate(PROMPT, budget=0.3, **SIZE)
        points = tuple(QualityPoint(n, value, value, value, 9) for n, value in ((1, 0.1), (4, 0.9), (32, 0.9)))
        write_calibration(other.calibration_path, Calibration(other.id, "score", True, points, ()))
        calibrated = opened.generate(PROMPT, budget=5.0, **SIZE)
    assert len(calibrated.plan) == 4 and len(first.plan) > 4


@pytest.mark.parametrize("budget", [0, -1.0, float("nan"), float("inf"), -float("inf"), "2", "fast", True, [], 1j])
def test_bad_budgets(fresh: Runtime, tmp_path: Path, budget: Any) -> None:
    for call in (fresh.generate, lambda *a, **k: fresh.generate_to_file(tmp_path / "out.npy", *a, **k)):
        with pytest.raises(UsageError, match=r"budget is .*; give a number of seconds above 0"):
            call(PROMPT, budget=budget, **SIZE)
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 2, float("nan"), float("inf"), "high", None, True])
def test_bad_confidences(fresh: Runtime, confidence: Any) -> None:
    for budget in (None, 1.0):
        with pytest.raises(UsageError, match=r"confidence is .*; give a number between 0 and 1"):
            fresh.generate(PROMPT, budget=budget, confidence=confidence, **SIZE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strict_budget": True}, "strict_budget is about a budget"),
        ({"budget": 1.0, "strict_budget": "yes"}, "strict_budget is 'yes'"),
        ({"budget": 1.0, "steps": 2, "min_steps": 3}, "steps 2 is below min_steps 3"),
        ({"budget": 1.0, "min_steps": 8, "max_steps": 4}, "min_steps 8 is above max_steps 4"),
        ({"budget": 1.0, "min_steps": 40, "max_steps": 64}, "min_steps is 40"),
        ({"budget": 1.0, "steps": 0}, "steps must be"),
        ({"preview": "yes"}, "preview is 'yes'"),
        ({"preview": True, "preview_after": 3}, "preview_after is 3"),
        ({"preview": True, "preview_after": [0]}, "preview_after must be"),
        ({"preview": True, "output": "latents"}, "preview shows frames"),
    ],
)
def test_options_that_contradict_each_other(fresh: Runtime, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fresh.generate(PROMPT, **options, **SIZE)


def test_every_run_refines_the_profile(bundle: Path, state: Path) -> None:
    """Also one without a budget, and one that was cut short; the file is not touched before the end."""

    def stop(step: Any) -> None:
        if step.index == 2:
            raise Cancelled("enough")

    fresh = anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32")
    fresh.generate(PROMPT, steps=3, **SIZE)
    with pytest.raises(Cancelled):
        fresh.generate(PROMPT, steps=4, on_step=stop, **SIZE)
    assert not state.exists()
    fresh.generate(PROMPT, budget=5.0, steps=2, **SIZE)
    assert not state.exists(), "nothing is written while runs go on"
    fresh.close()
    (file,) = state.glob(f"latency/*/cpu-{len(os.sched_getaffinity(0))}-onnxruntime.json")
    history = fresh.latencies.store().load().history(SETTING)
    assert file.parent.name == Bundle.open(bundle).id
    assert [len(run.jumps) for run in history.runs] == [2, 3, 2], "the very first jump is no warm one"
    assert history.runs[0].decode is None and history.runs[1].decode is None and history.runs[2].decode is not None
    (first,) = history.first
    assert first.jump is not None and first.decode is not None and not first.opening


def test_engines_that_open_within_a_run_are_kept_apart(state: Path, bundle: Path, tmp_path: Path) -> None:
    with Runtime(Bundle.open(bundle), engine="onnxruntime", specialize=False, single_use=True) as runtime:
        runtime.generate_to_file(tmp_path / "out.npy", PROMPT, steps=2, **SIZE)
    (first,) = runtime.latencies.store().load().history(SETTING).first
    assert first.opening and first.encode is not None


def test_a_damaged_profile_is_rebuilt_with_one_warning(
    state: Path, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_profile(bundle, SETTING)
    file.write_text(file.read_text()[:100])
    with (
        caplog.at_level(logging.WARNING),
        anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32") as runtime,
    ):
        for _ in range(2):
            assert runtime.generate(PROMPT, budget=5.0, steps=2, **SIZE).frames is not None
    (record,) = caplog.records
    assert "is damaged" in record.message and str(file) in record.message
    assert len(runtime.latencies.store().load().history(SETTING).runs) == 2


@pytest.mark.parametrize("why", ["no directory", "no home"])
def test_a_profile_that_cannot_be_kept_is_one_warning(
    why: str, tmp_path: Path, opened: Runtime, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Also of runs with a budget, which read it before they could write it."""
    (tmp_path / "file").write_text("no directory")
    if why == "no home":
        monkeypatch.delenv("ANYFLOW_RT_STATE", raising=False)
        monkeypatch.delenv("XDG_STATE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", _nowhere)
    else:
        monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path / "file"))
    runtime = nothing_measured(opened)
    with caplog.at_level(logging.WARNING):
        for options in ({"steps": 1}, {"steps": 1, "budget": 9.0}, {"steps": 1, "budget": 9.0}):
            assert runtime.generate(PROMPT, **options, **SIZE).frames is not None
            runtime.latencies.store().flush()
    (record,) = caplog.records
    assert "ANYFLOW_RT_STATE" in record.message and "runs go on" in record.message
    assert os.listdir(tmp_path) == ["file"]


def _nowhere() -> Path:
    raise RuntimeError("Could not determine home directory.")
