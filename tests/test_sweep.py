"""``anyflow-rt bench`` from end to end, on a small random checkpoint: its report, twice alike, interrupted, redrawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.bundles import random_bundle
from support.checkpoints import CONFIGURATIONS

import anyflow_rt
from anyflow_rt.benchmarks.results.file import read_results
from anyflow_rt.benchmarks.results.series import with_series
from anyflow_rt.benchmarks.results.values import SHIPPED, ResultsError
from anyflow_rt.benchmarks.sweep.journal import NAME
from anyflow_rt.benchmarks.sweep.jump_errors import measure_jumps
from anyflow_rt.cli.main import main
from anyflow_rt.sampling.calibration import read_calibration

CONFIGURATION = next(name for name in CONFIGURATIONS if name != "base")
PROMPTS = ("a fox", "two owls in the snow")


@pytest.fixture(scope="module")
def bundle() -> Path:
    return random_bundle(CONFIGURATION).path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return path


def bench(bundle: Path, prompts: Path, report: Path, *more: str) -> int:
    options = ["--bundle", str(bundle), "--prompts", str(prompts), "--report", str(report), "--metrics", "fidelity"]
    fast = ["--engine", "onnxruntime", "--precision", "fp32", "--steps", "1,2", "--rounds", "5", "--jump-videos", "0"]
    return main(["bench", *options, *fast, *more])


def test_a_report_of_everything(bundle: Path, prompts: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    assert bench(bundle, prompts, report) == 0
    found = read_results(report)
    videos = {(each.prompt, each.seed, each.steps) for each in found.quality}
    assert videos == {(prompt, 1000 + place, steps) for place, prompt in enumerate(PROMPTS) for steps in (1, 2)}
    samples = {(each.steps, each.stage): len(each.seconds) for each in found.latency}
    assert samples[2, "jump"] == 10
    assert samples[1, "total"] == samples[2, "decode"] == 5
    assert found.ceiling is not None
    assert found.ceiling.precision == "fp32"
    names = {"results.json", "index.html", "latency_vs_steps.png", "metrics_vs_steps.png", "contact_sheet.png"}
    assert names <= {path.name for path in report.iterdir()}
    assert not (report / NAME).exists()


def test_two_runs_score_alike_and_an_interrupted_one_goes_on(
    bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(bundle, prompts, tmp_path / "one") == 0
    report, made = tmp_path / "two", []
    original = anyflow_rt.runtime.Runtime.generate

    def generate(self, *arguments, **options):
        made.append(options["steps"])
        if len(made) == 5:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(anyflow_rt.runtime.Runtime, "generate", generate)
        assert bench(bundle, prompts, report) == 1
    assert (report / NAME).exists()
    assert not (report / "results.json").exists()
    assert bench(bundle, prompts, report) == 2
    assert "--resume" in capsys.readouterr().err
    assert bench(bundle, prompts, report, "--resume") == 0
    assert read_results(report).quality == read_results(tmp_path / "one").quality


def test_redrawing_and_comparing(
    bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, again = tmp_path / "report", tmp_path / "again"
    assert bench(bundle, prompts, report) == 0
    source = str(report / "results.json")
    assert main(["bench", "--from", source, "--series", f"other={source}", "--report", str(again)]) == 0
    assert {each.series for each in read_results(again).quality} == {SHIPPED, "other"}
    assert main(["bench", "--from", source, "--series", f"other={source}"]) == 2
    capsys.readouterr()
    assert main(["bench", "diff", source, source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exit_code"] == 0
    found = read_results(report)
    for others in ({SHIPPED: found}, {"": found}):
        with pytest.raises(ResultsError, match="another name"):
            with_series(found, others)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metrics", "beauty"], "beauty"),
        (["--steps", "1,two"], "no whole number"),
        (["--steps", "0"], "1 to 1000"),
        (["--prompts", "/nowhere/prompts.txt"], "/nowhere/prompts.txt"),
        (["--metrics", "shapes"], "a fox"),
        (["--series", "x"], "NAME=FILE"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    bundle: Path, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    report = tmp_path / "report"
    try:
        code = bench(bundle, prompts, report, *arguments)
    except SystemExit as exit:
        code = int(exit.code or 0)
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not report.exists()


def test_jump_errors(bundle: Path) -> None:
    """A jump of one node is nearly the rollout itself, and a jump between two nodes is what a plan would do."""
    with anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32") as runtime:
        errors = measure_jumps(runtime, "a fox", 1, nodes=(32, 31, 16, 0))
        sampler = runtime.sampler("a fox")
        plan = runtime.generate("a fox", seed=3, steps=1, output="latents")
        np.testing.assert_array_equal(sampler.jump(sampler.noise(3), 1.0, 0.0), plan.latents)
    assert set(errors) == {(32, 31), (32, 16), (32, 0), (31, 16), (31, 0), (16, 0)}
    assert 0 < errors[32, 31] < errors[32, 0]


def test_no_calibration_of_fidelity_alone(bundle: Path, prompts: Path, tmp_path: Path) -> None:
    """Fidelity is no quality: budgets are not planned by it."""
    assert bench(bundle, prompts, tmp_path / "report") == 0
    found = read_results(tmp_path / "report")
    path = bundle / "calibration.json"
    assert read_calibration(path, found.bundle_id) is None
