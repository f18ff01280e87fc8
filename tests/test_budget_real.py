"""``bench budget`` on this machine: records, load and scores are right; how good they are is not tested here."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from support.bundles import random_bundle

from anyflow_rt.benchmarks.budget import calm, command, real, sweep, tables
from anyflow_rt.benchmarks.budget.arguments import add_arguments
from anyflow_rt.benchmarks.budget.baselines import ORACLE
from anyflow_rt.benchmarks.budget.burners import Burners
from anyflow_rt.benchmarks.budget.runs import Record, collect
from anyflow_rt.benchmarks.budget.score import RISING, score_baselines
from anyflow_rt.benchmarks.budget.sweep import Case
from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import UsageError
from anyflow_rt.sampling.quality import Quality, default_quality

ENGINE = ("onnxruntime", "fp32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of a video that takes milliseconds."""
    base = random_bundle("base")
    path = shutil.copytree(base.path, tmp_path_factory.mktemp("budget") / "bundle")
    size = {"num_frames": 5, "height": 32, "width": 48}
    build(BuildOptions(checkpoint=str(base.checkpoint), out=path, onnx_only=True, **size))
    return Bundle.open(path)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(calm, "CALIBRATION_STEPS", (1, 2))
    monkeypatch.setattr(calm, "CALIBRATION_ROUNDS", 2)
    yield


def test_requests_are_served_and_scored(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path))
    cases = (Case("calm", 0.95), Case("contended", 0.99, arrivals="bursty"), Case("calm", 0.95, profile_factor=2.0))
    monkeypatch.setattr(real, "RECOVERY_REQUESTS", 4)
    options = real.RealOptions(requests=6, engine="onnxruntime", precision="fp32", cases=cases)
    told: list[tuple[int, int]] = []
    found = list(
        real.run_cases(
            bundle,
            default_quality(),
            options,
            Conditions(allow_busy=True),
            lambda case, done, total: told.append((done, total)),
        )
    )
    assert told == [(n, 6) for _ in cases for n in range(1, 7)]
    assert [each.outcome.case for each in found] == list(cases)
    assert [each.other_cores is None for each in found] == [False, True, False]
    assert [[len(part) for part in each.parts] for each in found] == [[6], [6], [4, 2]]
    for each in found:
        score = each.outcome.rising[sweep.ADAPTIVE]
        assert score.requests == 6 and sum(score.steps.values()) == 6
        assert "adaptive" in tables.table([each.outcome])
    assert os.environ["ANYFLOW_RT_STATE"] == str(tmp_path) and not list(tmp_path.iterdir()), (
        "the user's own is untouched"
    )


def test_records_tell_the_whole_run(bundle: Bundle) -> None:
    with calm.own_state(), calm.open_runtime(bundle, *ENGINE) as runtime:
        arrivals = np.array([0.0, 0.0, 0.3])
        before = time.perf_counter()
        records = real.serve(runtime, arrivals, np.array([0.5, 0.5, 5.0]), 0.9)
        assert time.perf_counter() - before >= 0.3
    assert records[1].waited > records[0].waited >= 0
    for record in records:
        whole = record.before + sum(record.jumps) + record.after
        assert whole == pytest.approx(record.seconds) and min(record.jumps) > 0
        assert len(record.overhead) == len(record.jumps) + 1 and max(record.overhead) < min(record.seconds, 1.0)
    assert records[2].predicted is not None and records[2].first_predicted is not None
    runs = collect([records])
    own = runs.finish[np.arange(3), runs.steps - 1]
    assert np.allclose(own, runs.seconds), "what its own number of jumps would have taken is what it took"


def test_a_wrong_profile_is_what_the_runtime_finds(bundle: Bundle) -> None:
    measured = calm.measure_calm(bundle, *ENGINE)
    assert measured.minimum > measured.jump > 0
    with calm.own_state():
        calm.write_profile(bundle, measured, 2.0)
        with calm.open_runtime(bundle, *ENGINE) as runtime:
            found = runtime.latencies.store().load().history(measured.setting)
    assert found.typical("jump") == pytest.approx(2 * measured.jump, rel=1e-3)
    assert len(found.runs) == len(measured.history.runs) and len(found.first) == len(measured.history.first)


def test_burners_come_and_go() -> None:
    core = min(os.sched_getaffinity(0))
    with Burners(pause=0.01, burst=5.0, cores=(core,)) as burners:
        (process,) = burners._processes
        patience = time.monotonic() + 30
        while _processor_seconds(process.pid) < 0.05 and time.monotonic() < patience:
            time.sleep(0.02)
        assert _processor_seconds(process.pid) >= 0.05 and os.sched_getaffinity(process.pid) == {core}
    assert process.poll() is not None


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bundle")
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_the_simulated_command_writes_a_report(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CASES", sweep.CASES[:1])
    said: list[str] = []
    arguments = ("--bundle", str(bundle.path), "--simulated", "--requests", "60", "--report", str(tmp_path / "report"))
    found = command.execute(options(*arguments), said.append)
    assert found == json.loads((tmp_path / "report" / "budget.json").read_text())
    assert (found["schema"], found["simulated"], len(found["cases"])) == (2, True, 1)
    assert json.dumps(found, allow_nan=False)
    charts = sorted(path.name for path in (tmp_path / "report").glob("*.png"))
    assert charts == ["budget-policies.png", "budget-promises.png", "budget-steps.png"]
    assert any("adaptive" in line for line in said) and any("no quality was measured" in line for line in said)


def test_the_real_command(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its report holds what the scores are made from."""
    monkeypatch.setattr(real, "CASES", real.CASES[:1])
    report = ("--report", str(tmp_path))
    arguments = ("--bundle", str(bundle.path), "--requests", "3", "--allow-busy", "--engine", "onnxruntime", *report)
    told: list[str] = []
    found = command.execute(
        options(*arguments, "--precision", "fp32"), progress=lambda what, done, total: told.append(what)
    )
    assert told == ["calm at 0.99, measured curve"] * 3
    (case,) = found["cases"]
    assert (found["simulated"], found["valid"], case["rising"]["adaptive"]["requests"]) == (False, False, 3)
    (kept,) = json.loads((tmp_path / "budget.json").read_text())["cases"]
    requests = kept.pop("requests")
    assert kept == case and len(requests) == 3
    assert set(requests[0]) == {"part", *(field.name for field in fields(Record))}
    rows = [{name: value for name, value in each.items() if name != "part"} for each in requests]
    runs = collect([[Record(**{**row, "jumps": tuple(row["jumps"])}) for row in rows]])
    assert runs.seconds == pytest.approx([row["seconds"] for row in rows])
    again = score_baselines(runs, RISING)[ORACLE]
    assert again.seconds["max"] == pytest.approx(case["rising"]["oracle"]["seconds"]["max"], abs=1e-4)


def test_bad_values(bundle: Bundle, tmp_path: Path) -> None:
    for count in ("0", "-3"):
        with pytest.raises(UsageError, match=f"requests is {count}"):
            command.execute(options("--bundle", str(bundle.path), "--simulated", "--requests", count))
    with pytest.raises(UsageError, match="--seed is -1; give at least 0"):
        command.execute(options("--bundle", str(bundle.path), "--simulated", "--seed", "-1"))
    for value in (0, 2.5, True):
        with pytest.raises(UsageError, match="requests is"):
            real.RealOptions(requests=value)


def test_a_flat_measured_curve_is_not_the_only_one_planned_by(bundle: Bundle) -> None:
    """Where no step is worth anything more, one is run; on the rising curve all that fit are."""
    flat = Quality(default_quality().costs, ((0.0, 0.5), (1.0, 0.5)), "score")
    cases = sweep.on_both_curves((Case("calm", 0.95), Case("calm", 0.9)), flat)
    assert [(case.confidence, case.planned_by) for case in cases] == [
        (0.95, "measured"),
        (0.95, "rising"),
        (0.9, "rising"),
    ]
    assert sweep.on_both_curves(cases[:1], default_quality()) == cases[:1]
    once, often = (sweep.run_case(case, flat, requests=40) for case in cases[:2])
    assert set(once.rising[sweep.ADAPTIVE].steps) == {1} and max(often.rising[sweep.ADAPTIVE].steps) > 8
    with calm.own_state(), calm.open_runtime(bundle, *ENGINE) as runtime:
        runtime.generate(real.PROMPTS[0], steps=8)
        for quality, most in ((flat, 1), (None, 32)):
            runtime.plan_by(quality)
            assert len(runtime.generate(real.PROMPTS[0], budget=60.0).plan) == most
