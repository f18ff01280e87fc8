"""results.json: what is written is what is read, every mistake is named, a failure overwrites nothing."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.results import make_results

from anyflow_rt import __version__
from anyflow_rt.benchmarks.results import __main__ as trim
from anyflow_rt.benchmarks.results import gpu, machine
from anyflow_rt.benchmarks.results.file import (
    keep_older,
    read_results,
    results_from_json,
    results_to_json,
    write_files,
    write_results,
)
from anyflow_rt.benchmarks.results.values import (
    GpuReadings,
    JumpError,
    LatencySamples,
    PeerSamples,
    Results,
    ResultsError,
    Score,
    Settings,
)
from anyflow_rt.engines import nvml
from anyflow_rt.errors import OutputError

SMALLEST: dict[str, Any] = {
    "schema": 1,
    "machine": {},
    "versions": {},
    "commit": "unknown",
    "bundle_id": "unknown",
    "latency": [{"steps": 4, "stage": "total", "seconds": [0.5]}],
    "quality": [{"metric": "right", "prompt": "a red circle", "seed": 0, "steps": 4, "score": 1}],
}


def test_a_file_holds_every_value(tmp_path: Path) -> None:
    readings = GpuReadings("NVIDIA L4", (1, 2), (2040, 1980), ("hardware slowdown",), 12.5)
    results = make_results(
        gpu=readings, invalid_reasons=gpu.invalid_reasons(readings), headline="shapes.position_error"
    )
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results == read_results(tmp_path)
    body = json.loads((tmp_path / "results.json").read_text())
    assert body["schema"] == 1
    assert body["valid"] is False
    assert body["latency"][0] == {
        "steps": 1,
        "stage": "text",
        "seconds": list(results.latency[0].seconds),
    }
    assert body["jump_errors"][0] == {"from": 32, "to": 0, "errors": [0.5, 0.6]}
    assert set(body["quality"][0]) == {"metric", "prompt", "seed", "steps", "score", "series"}


def test_an_older_file_is_kept_under_its_date(tmp_path: Path) -> None:
    place = tmp_path / "results.json"
    assert keep_older(place) is None
    place.write_text("first")
    os.utime(place, (1_790_000_000, 1_790_000_000))
    older = keep_older(place)
    assert older is not None
    assert re.fullmatch(r"results\.2026-09-2\dT\d{6}\.json", older.name)
    assert (older.read_text(), place.read_text()) == ("first", "first")


def test_the_keys_of_the_design_are_enough() -> None:
    results = results_from_json(json.dumps(SMALLEST))
    assert results.valid
    assert results.latency == (LatencySamples(4, "total", (0.5,)),)
    assert results.quality == (Score("right", "a red circle", 0, 4, 1.0),)
    assert results.metric("right").higher_is_better


def changed(*path: str | int, value: Any = None, drop: bool = False) -> str:
    """``SMALLEST`` with the value at a path replaced or gone."""
    body = json.loads(json.dumps(SMALLEST))
    inner = body
    for key in path[:-1]:
        inner = inner[key]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return json.dumps(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"not valid JSON \(line 1"),
        ("[" * 100_000, "nested without end"),
        ("[]", "a JSON list, not an object"),
        ("{}", "schema is missing"),
        (json.dumps({"schema": 1, "benchmarks": []}), "developers' benchmarks"),
        (changed("schema", value=2), "schema is 2, and this anyflow-rt reads 1; use the anyflow-rt that wrote it"),
        (changed("schema", value=True), "schema is true"),
        (changed("latency", drop=True), "latency is missing; mend it by hand or make it again with"),
        (changed("latency", 0, "steps", drop=True), r"latency\[0\]\.steps is missing"),
        (changed("latency", 0, "steps", value="4"), r'latency\[0\]\.steps is "4"; an integer is needed'),
        (changed("latency", 0, "steps", value=True), r"latency\[0\]\.steps is true"),
        (changed("latency", 0, "steps", value=0), r"latency\[0\]: a run has 1 to 1000 steps, not 0"),
        (changed("latency", 0, "seconds", value=[0.1, None]), r"latency\[0\]\.seconds\[1\] is null; a finite number"),
        (changed("latency", 0, "seconds", value=[math.nan]), r"latency\[0\]\.seconds\[0\] is NaN"),
        (changed("latency", 0, "seconds", value=[-1]), r"latency\[0\]: total at 4 steps has the sample -1.0"),
        (
            changed("latency", 0, "steps", value=10**30),
            r"latency\[0\]\.steps is 10+; an integer of at most 64 bits",
        ),
        (changed("latency", 0, "steps", value=1001), r"latency\[0\]: a run has 1 to 1000 steps, not 1001"),
        (
            changed("latency", 0, "seconds", value=[10**400]),
            r"latency\[0\]\.seconds\[0\] is 10+\.\.\.; a finite number",
        ),
        (changed("quality", 0, "score", value=1e308), r"quality\[0\]\.score is 1e\+308; a finite number up to 1e\+100"),
        (changed("quality", 0, "prompt", value="\ud800"), r"quality\[0\]\.prompt is .*lone surrogates"),
        (changed("versions", value={"\udfff": "2"}), r"versions is .*lone surrogates"),
        ('{"schema": 1, "latency": ' + "1" * 5000 + "}", "a number of thousands of digits"),
        (changed("latency", value={}), "latency is {}; a list is needed"),
        (changed("quality", 0, "prompt", value=3), r"quality\[0\]\.prompt is 3; a text is needed"),
        (changed("quality", 0, "colour", value=3), r"quality\[0\]\.colour is not a key of this schema"),
        (changed("quality", value=SMALLEST["quality"] * 2), "quality has two entries of .*'a red circle', 0, 4"),
        (changed("machine", value=[]), r"machine is \[\]; an object is needed"),
        (changed("versions", value={"torch": 2}), r"versions\.torch is 2; a text is needed"),
        (changed("valid", value=False), r"valid is false, but invalid_reasons is \[\]"),
        (changed("headline", value="beauty"), "the headline 'beauty' is none of the metrics right"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_its_mend(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ResultsError, match=message) as caught:
        read_results(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: ")
    assert "\n" not in str(caught.value)
    assert re.search("bench --report|anyflow-rt that wrote it", str(caught.value))
    assert caught.value.exit_code == 1


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"no results file .*results\.json"):
        read_results(tmp_path)
    (tmp_path / "results.json").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ResultsError, match="is not text"):
        read_results(tmp_path)


def test_values_that_cannot_be_results_fail_where_they_are_made() -> None:
    with pytest.raises(ResultsError, match="'a', seed 1, 4 steps is inf; a score must be a finite number"):
        Score("psnr", "a", 1, 4, math.inf)
    with pytest.raises(ResultsError, match="2 of our runs and 1 of the peer's"):
        PeerSamples("diffusers", 4, (1.0, 2.0), (1.0,))
    with pytest.raises(ResultsError, match="from node 0 to node 16"):
        JumpError(0, 16, (0.1,))
    with pytest.raises(ResultsError, match=r"not \[17, 64\]"):
        Settings((17, 64))


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    write_files({tmp_path / "a": b"old"})
    with pytest.raises(OutputError, match=str(tmp_path / "none")):
        write_files({tmp_path / "a": b"new", tmp_path / "none" / "b": b"new"})
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_results_file_has_an_entry_a_line() -> None:
    results = make_results(prompts=2)
    lines = results_to_json(results).splitlines()
    assert sum('"score"' in line and '"prompt"' in line for line in lines) == len(results.quality)


def test_the_machine_is_described() -> None:
    found = machine.describe_machine()
    assert found.processor
    assert found.cores is None or found.cores >= 1
    versions = machine.package_versions()
    assert versions["anyflow-rt"] == __version__
    assert "python" in versions


def test_the_commit_is_this_projects_own(tmp_path: Path) -> None:
    """Installed inside somebody's repository, it is not theirs."""
    assert machine.project_commit(tmp_path) == f"version {__version__}"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "machine.py").write_text("")
    assert machine.project_commit(tmp_path) == f"version {__version__}"
    for command in (["add", "machine.py"], ["commit", "-q", "-m", "ours"]):
        subprocess.run([*git, *command], check=True)
    assert re.fullmatch("[0-9a-f]{40}", machine.project_commit(tmp_path))
    (tmp_path / "machine.py").write_text("changed")
    assert re.fullmatch("[0-9a-f]{40}-dirty", machine.project_commit(tmp_path))


def test_clock_event_names_are_those_of_nvidias_package() -> None:
    """The constants, and the functions that are called; whether a GPU answers them is not tested here."""
    pynvml = pytest.importorskip("pynvml")
    known = {name for name in dir(pynvml) if name.startswith("nvmlClocksEventReason")}
    ignored = {"nvmlClocksEventReasonAll", "nvmlClocksEventReasonNone", "nvmlClocksEventReasonUserDefinedClocks"}
    assert set(nvml.EVENT_REASONS.values()) == known - ignored
    every = nvml.event_names(pynvml.nvmlClocksEventReasonAll)
    assert every == tuple(nvml.EVENT_REASONS)
    assert nvml.event_names(pynvml.nvmlClocksEventReasonNone) == ()
    source = "".join(Path(module.__file__).read_text() for module in (gpu, nvml))
    named = set(re.findall(r"(?:nvml|_nvml|pynvml)\.((?:nvml|NVML)\w+)", source))
    assert "nvmlDeviceGetCurrentClocksEventReasons" in named
    assert not [name for name in named if not hasattr(pynvml, name)]


def test_heat_and_hardware_slowdowns_make_a_run_invalid_and_a_power_cap_does_not() -> None:
    assert set(nvml.SLOWDOWNS) < set(nvml.EVENT_REASONS)
    capped = GpuReadings("a", (), (), ("software power cap", "gpu idle"))
    hot = GpuReadings("a", (), (), ("software power cap", "hardware thermal slowdown"))
    assert gpu.invalid_reasons(None) == gpu.invalid_reasons(capped) == ()
    assert gpu.invalid_reasons(hot) == ("the GPU was slowed down during the run: hardware thermal slowdown",)


def test_without_a_gpu_there_are_no_readings() -> None:
    if gpu.describe_gpus():
        pytest.skip("this machine has a GPU")
    with gpu.GpuWatch() as watch:
        pass
    assert watch.readings is None


@pytest.mark.gpu
def test_a_gpu_is_watched() -> None:
    if not gpu.describe_gpus():
        pytest.skip("needs an NVIDIA GPU and nvidia-ml-py")
    with gpu.GpuWatch() as watch:
        pass
    assert watch.readings is not None
    assert len(watch.readings.used) >= 2


def test_results_are_immutable() -> None:
    with pytest.raises(AttributeError):
        make_results(prompts=1).commit = "other"  # type: ignore[misc]
    assert isinstance(make_results(prompts=1), Results)


def test_a_file_of_one_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, small = tmp_path / "results.json", tmp_path / "small.json"
    results = make_results(headline="shapes.position_error")
    write_results(results, whole)
    assert trim.main([str(whole), str(small), "--score", "shapes.right"]) == 0
    found = read_results(small)
    assert found.quality == tuple(each for each in results.quality if each.metric == "shapes.right")
    assert (found.latency, found.headline) == (results.latency, "shapes.right")
    assert not found.features and not found.set_scores
    assert trim.main([str(whole), str(tmp_path / "none.json"), "--score", "beauty"]) != 0
    assert "'beauty'" in capsys.readouterr().err and not (tmp_path / "none.json").exists()
