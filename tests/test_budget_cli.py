"""Budgets on the command line: ``run --budget``, its exit codes and its JSON; ``calibrate``; how ``build`` ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle
from support.machine import Machine, write_profile

from anyflow_rt import build as building
from anyflow_rt.build import build
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.cli import main as command
from anyflow_rt.cli.main import main
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.sampling.latency import Setting
from anyflow_rt.sampling.latency_store import state_root

SIZE = ("--height", "32", "--width", "48", "--num-frames", "5")
FAST = ("--engine", "onnxruntime", "--precision", "fp32")
SETTING = Setting("onnxruntime", "fp32", 5, 32, 48)
COMMON = {"--json", "--debug", "--help", "-h"}
FLAGS = {
    "run": {
        "--prompt", "--bundle", "--output", "--steps", "--budget", "--confidence", "--strict-budget", "--min-steps",
        "--max-steps", "--preview", "--seed", "--height", "--width", "--num-frames", "--num-videos",
        "--negative-prompt", "--guidance-scale", "--max-sequence-length", "--euler", "--fps", "--quality", "--engine",
        "--precision", "--image", "--video", "--fit", "--stream", "--fps-deadline", "--prompt-cache", "--residency",
    },
    "calibrate": {
        "--bundle", "--steps", "--rounds", "--seconds", "--openings", "--height", "--width", "--num-frames",
        "--engine", "--precision",
    },
    "build": {
        "--ckpt", "--revision", "--out", "--target", "--engine", "--precision", "--height", "--width", "--num-frames",
        "--onnx-only", "--dry-run", "--force", "--check-parity", "--no-check-parity", "--calibrate", "--no-calibrate",
        "--smallest", "--largest", "--batch", "--prompt-lengths", "--cross-keys", "--optimization-level",
        "--weight-streaming", "--refit", "--strip", "--version-compatible", "--hardware", "--triton-kernels",
        "--text-weights", "--bundle",
    },
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Calibrated on a machine of its own; the process is said to have begun 0.1 s ago."""
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path_factory.mktemp("state")))
    monkeypatch.setattr("anyflow_rt.cli.run.process_seconds", lambda: 0.1)
    path = random_bundle("base").path
    write_profile(path, SETTING)
    return path


def run(bundle: Path, output: Path, *arguments: str) -> list[str]:
    size = (*SIZE, "--max-sequence-length", "32")
    return ["run", "--bundle", str(bundle), "--prompt", "a circle", "--output", str(output), *size, *FAST, *arguments]


def answer(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


@pytest.mark.parametrize("verb", FLAGS)
def test_the_flags(verb: str) -> None:
    (verbs,) = (action for action in command.parser()._actions if action.choices)
    found = {flag for action in verbs.choices[verb]._actions for flag in action.option_strings}
    assert found == FLAGS[verb] | COMMON


def test_run_with_a_budget(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)
    path = tmp_path / "out.npy"
    found = answer(capsys, run(bundle, path, "--budget", "0.3"))
    budget = found["budget"]
    assert list(budget) == [
        "seconds", "confidence", "met", "taken", "predicted", "planned_steps", "smallest", "preparing", "planning",
        "notes", "decisions",
    ]  # fmt: skip
    assert (budget["seconds"], budget["confidence"], budget["met"]) == (0.3, 0.95, True)
    assert 0.1 < budget["taken"] == found["seconds"]["total"] <= budget["predicted"] <= 0.3
    assert found["steps"] == len(found["plan"]) == len(found["seconds"]["jumps"]) > 4
    assert len(budget["decisions"]) == found["steps"] + 1 == len(budget["planning"])
    assert set(budget["decisions"][0]) == {
        "at", "done", "remaining", "path", "value", "predicted", "ratio", "fits", "why",
    }  # fmt: skip
    frames = np.load(path)
    more = answer(capsys, run(bundle, path, "--budget", "9", "--confidence", "0.99", "--max-steps", "12"))
    assert (more["steps"], more["budget"]["confidence"]) == (12, 0.99)
    assert answer(capsys, run(bundle, path, "--budget", "9", "--steps", "3"))["steps"] == 3
    assert answer(capsys, run(bundle, path, "--budget", "0.2", "--min-steps", "9"))["steps"] == 9
    assert frames.shape == np.load(path).shape


def test_what_a_person_reads(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    machine.jump_seconds = lambda n: 0.01 if n < 3 else 0.03
    assert main(run(bundle, tmp_path / "out.npy", "--budget", "0.4")) == 0
    first, kept, *notes = capsys.readouterr().err.splitlines()
    assert first.startswith(str(tmp_path / "out.npy")) and kept.startswith("budget 0.4 s: met (0.")
    assert "at confidence 0.95" in kept and "steps planned" in kept
    assert any(note.endswith("s: slower than planned: fewer jumps") for note in notes)
    assert any(note.startswith("note: no quality was measured") for note in notes)
    assert main(run(bundle, tmp_path / "out.npy", "--budget", "0.05")) == 0
    error = capsys.readouterr().err
    assert "budget 0.05 s: missed by 0.10 s" in error and "below the smallest that would do" in error
    machine.jump_seconds = lambda n: 1.0
    assert main(run(bundle, tmp_path / "out.npy", "--budget", "0.4", "--min-steps", "4")) == 0
    assert capsys.readouterr().err.count("no plan is predicted to finish in time") == 1, "said once, not at every jump"


@pytest.fixture
def no_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is opened: what is refused is refused before that."""

    def opened(*arguments: Any, **options: Any) -> None:
        raise AssertionError("an engine is opened")

    monkeypatch.setattr("anyflow_rt.runtime.Components", opened)


def test_a_strict_budget_ends_with_code_3(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_engines: None
) -> None:
    assert main(run(bundle, tmp_path / "out.npy", "--budget", "0.105", "--strict-budget", "--json")) == 3
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and "the smallest that would do is 0." in error
    assert not list(tmp_path.iterdir())


def test_a_strict_budget_that_can_be_met_is_run(bundle: Path, tmp_path: Path) -> None:
    assert main(run(bundle, tmp_path / "out.npy", "--budget", "60", "--steps", "1", "--strict-budget")) == 0


def test_no_bundle_is_built_for_a_strict_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    output = str(tmp_path / "out.npy")
    assert main(["run", "--prompt", "a circle", "--output", output, "--budget", "9", "--strict-budget"]) == 3
    assert "anyflow-rt calibrate" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--budget", "0"], "budget is 0.0"),
        (["--budget", "-2"], "budget is -2.0"),
        (["--budget", "nan"], "'nan'"),
        (["--budget", "inf"], "'inf'"),
        (["--budget", "fast"], "'fast'"),
        (["--budget", ""], "--budget"),
        (["--budget", "1e999"], "'1e999'"),
        (["--budget", "1_0"], "'1_0'"),
        (["--budget", "1", "--seed", "1_0"], "'1_0'"),
        (["--budget", "1", "--min-steps", "33"], "min_steps is 33; runs with a budget take at most 32 steps"),
        (["--budget", "1", "--confidence", "0"], "confidence is 0.0"),
        (["--budget", "1", "--confidence", "1"], "confidence is 1.0"),
        (["--budget", "1", "--confidence", "nan"], "'nan'"),
        (["--budget", "1", "--confidence", "sure"], "'sure'"),
        (["--strict-budget"], "strict_budget"),
        (["--budget", "1", "--min-steps", "5", "--max-steps", "2"], "min_steps 5 is above max_steps 2"),
        (["--budget", "1", "--min-steps", "5", "--steps", "2"], "steps 2 is below min_steps 5"),
    ],
)
def test_bad_values_are_one_line(
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    no_engines: None,
    arguments: list[str],
    said: str,
) -> None:
    output = tmp_path / "out.npy"
    output.write_bytes(b"before")
    try:
        code = main(run(bundle, output, *arguments))
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1) and said in error, error
    assert output.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


def test_drafts(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, run(bundle, tmp_path / "out.npy", "--steps", "6", "--preview"))
    assert [draft["steps"] for draft in found["previews"]] == [1, 4]
    assert found["previews"][0]["output"] == [str(tmp_path / "out-preview-01.npy")]
    assert len(list(tmp_path.iterdir())) == 3
    drafted = np.load(tmp_path / "out.npy")
    assert "previews" not in answer(capsys, run(bundle, tmp_path / "out.npy", "--steps", "6"))
    assert np.array_equal(drafted, np.load(tmp_path / "out.npy"))
    assert main(run(bundle, tmp_path / "out.npy", "--steps", "2", "--preview", "--budget", "60")) == 0
    assert "out-preview" not in capsys.readouterr().err, "of two steps the second is the jump to the end"


def test_a_run_without_a_budget_loads_nothing_of_planning(bundle: Path, tmp_path: Path) -> None:
    """Until its file is there; the profile is written afterwards, and needs no forecasts either."""
    code = (
        "import sys; from anyflow_rt.cli.main import main\n"
        f"code = main({run(bundle, tmp_path / 'out.npy', '--steps', '1')!r})\n"
        "print(code, *(name for name in sys.modules if name.startswith('anyflow_rt.')), 'filelock' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=120)
    code, *loaded, locks = done.stdout.split()
    assert (code, locks) == ("0", "False"), done.stderr
    planning = {f"anyflow_rt.sampling.{name}" for name in ("forecast", "controller", "planner", "quality", "moments")}
    assert not planning & set(loaded) and "anyflow_rt.sampling.latency_store" in loaded


def test_calibrate(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["calibrate", "--bundle", str(bundle), *SIZE, *FAST, "--steps", "1,2", "--rounds", "1"]
    found = answer(capsys, [*arguments, "--openings", "1"])
    assert list(found) == ["profile", "setting", "stages", "budgets", "seconds"]
    assert Path(found["profile"]).is_relative_to(state_root()) and found["setting"]["width"] == 48
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert list(stages) == ["text", "conditioner", "jump", "decode", "encode"]
    assert stages["jump"]["runs"] == 20 * 16 + 2 + 1, "the first call of each process is no warm one"
    assert all(stage["median"] is not None and stage["first"] is not None for stage in stages.values())
    assert [each["steps"] for each in found["budgets"]] == [1, 2, 4, 8, 16, 32]
    seconds = [each["seconds"] for each in found["budgets"]]
    # Equal where one slow decode among so few runs is the worst of all plans.
    assert seconds == sorted(seconds)
    assert main([*arguments, "--openings", "0"]) == 0
    out, error = capsys.readouterr()
    assert out == "" and "median ms" in error and "32 in " in error and "profile: " in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--steps", "0"], "steps must be"),
        (["--steps", "1,x"], "'x'"),
        (["--rounds", "0"], "rounds is 0"),
        (["--openings", "-1"], "openings is -1"),
        (["--seconds", "-1"], "seconds is -1.0"),
        (["--seconds", "nan"], "'nan'"),
        (["--height", "20"], "height 20"),
    ],
)
def test_calibrate_refuses(bundle: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    try:
        code = main(["calibrate", "--bundle", str(bundle), *SIZE, *FAST, *arguments])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    out, error = capsys.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1) and said in error, error


def test_calibrate_where_nothing_can_be_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no directory")
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path / "file"))
    assert main(["calibrate", "--bundle", str(bundle), *SIZE, *FAST, "--steps", "1", "--rounds", "1"]) == 1
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("anyflow-rt calibrate: cannot keep latencies in") and "ANYFLOW_RT_STATE" in last


@pytest.mark.parametrize("writable", [True, False])
def test_build_ends_with_it(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool) -> None:
    """Where it is asked for, or something was compiled of a small checkpoint; it is no reason for a build to fail."""
    monkeypatch.setattr(building, "TRIED_SIZE", VideoSize(1, 32, 32))
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path / "state"))
    if not writable:
        (tmp_path / "state").write_text("no directory")
    said: list[str] = []
    options: dict[str, Any] = {"checkpoint": str(random_bundle("base").checkpoint), "out": bundle, "onnx_only": True}
    say: Callable[[str], object] = said.append
    assert not build(BuildOptions(**options), say).changed and said == []
    assert not build(BuildOptions(**options, calibrate=True), say).changed
    assert said[-1].startswith("latencies kept in" if writable else "latencies were measured for nothing: cannot keep")
    assert len(list(tmp_path.glob("state/latency/*/*.json"))) == int(writable)
    said.clear()
    options["out"] = shutil.copytree(bundle, tmp_path / "bundle")
    assert build(BuildOptions(**options, num_frames=9), say).changed
    assert said[-1].startswith("latencies were not measured, as nothing was compiled") and str(tmp_path) in said[-1]
