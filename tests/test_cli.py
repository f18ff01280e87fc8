"""The command: one line of JSON on stdout, everything else on stderr, and the exit code says how it went."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle

import anyflow_rt
from anyflow_rt import __version__
from anyflow_rt.build_plan import BuildOptions, bundle_path
from anyflow_rt.cli.main import main
from anyflow_rt.cli.progress import QUIET_SECONDS, Progress
from anyflow_rt.cli.run import _stream_lines
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.result import StreamReport
from anyflow_rt.sampling.schedule import uniform_plan

SIZE = ("--height", "32", "--width", "48", "--num-frames", "5", "--max-sequence-length", "32")
FAST = ("--engine", "onnxruntime", "--precision", "fp32")


@pytest.fixture
def bundle() -> Path:
    return random_bundle("base").path


def run(bundle: Path, *arguments: str) -> list[str]:
    return ["run", "--bundle", str(bundle), "--prompt", "a red circle", *SIZE, *FAST, *arguments]


def answer(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> dict[str, Any]:
    """What ``--json`` prints: the only line on stdout."""
    assert main([*arguments, "--json"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("\n")
    assert out.count("\n") == 1

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(out, parse_constant=refuse)


def test_run_json(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.npy"
    found = answer(capsys, run(bundle, "--steps", "2", "--seed", "7", "--output", str(path)))
    assert list(found) == ["output", "engine", "precision", "steps", "seed", "size", "plan", "seconds", "budget"]
    assert (found["output"], found["engine"], found["precision"]) == (str(path), "onnxruntime", "fp32")
    assert (found["steps"], found["seed"], found["size"], found["budget"]) == (2, 7, [5, 32, 48], None)
    assert found["plan"] == [[jump.t, jump.r] for jump in uniform_plan(2, 5.0)]
    seconds = found["seconds"]
    assert list(seconds) == ["load", "text", "conditioner", "jumps", "decode", "encode", "total"]
    assert len(seconds["jumps"]) == 2
    assert 0 < sum(seconds["jumps"]) < seconds["total"]
    frames = np.load(path)
    assert (frames.shape, frames.dtype) == ((5, 32, 48, 3), np.uint8)
    with anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32") as runtime:
        same = runtime.generate(
            "a red circle", steps=2, seed=7, height=32, width=48, num_frames=5, max_sequence_length=32
        )
    assert np.array_equal(frames, same.frames[0])


def test_what_is_said_of_a_stream() -> None:
    """Late is counted among the chunks after the first; where there are none, nothing is said of it."""
    for ready, said in (
        ((1.0, 1.1, 9.0), "3 chunks, jitter 3.900 s; played at 8 frames a second 1 of the 2 after the first come late"),
        ((1.0,), "first frame after 1.00 s, 1 chunk"),
    ):
        (line,) = _stream_lines(StreamReport(ready, (1, 4, 4)[: len(ready)], 8.0))
        assert line.endswith(said), line


def test_run_without_json(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.mp4"
    assert main(run(bundle, "--output", str(path))) == 0
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"{path}: 5 frames of 48x32, 4 steps, onnxruntime fp32, ")
    assert error.count("\n") == 1


def test_run_several_videos(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = run(bundle, "--prompt", "a blue square", "--num-videos", "2", "--steps", "1")
    found = answer(capsys, [*arguments, "--output", str(tmp_path / "out.npy")])
    assert found["output"] == str(tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (4, 5, 32, 48, 3)
    found = answer(capsys, [*arguments, "--output", str(tmp_path / "out.gif")])
    assert found["output"] == [str(tmp_path / f"out-{index}.gif") for index in range(4)]


def test_run_options_reach_the_library(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option changes the frames, or the file."""
    path = tmp_path / "out.npy"
    answer(capsys, run(bundle, "--steps", "2", "--output", str(path)))
    plain = np.load(path)
    for options in (
        ["--seed", "1"],
        ["--euler"],
        ["--guidance-scale", "4"],
        ["--steps", "3"],
        ["--max-sequence-length", "3"],
    ):
        answer(capsys, [*run(bundle, "--steps", "2", "--output", str(path)), *options])
        assert not np.array_equal(np.load(path), plain), options
    guided = ["--guidance-scale", "4", "--negative-prompt"]
    files = []
    for negative in ("", "the small green square"):
        answer(capsys, [*run(bundle, "--steps", "2", "--output", str(path)), *guided, negative])
        files.append(np.load(path))
    assert not np.array_equal(*files)
    sizes = []
    for quality in ("1", "99"):
        film = tmp_path / f"{quality}.mp4"
        answer(capsys, run(bundle, "--steps", "1", "--quality", quality, "--fps", "12.5", "--output", str(film)))
        sizes.append(film.stat().st_size)
    assert sizes[0] < sizes[1]


def test_the_first_run_builds_and_says_so(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its lines go to stderr, like those of ``build``; stdout stays the answer's."""

    def copy(options: BuildOptions, report: Callable[[str], object]) -> None:
        report("exporting text_encoder (1 of 8)")
        shutil.copytree(bundle, bundle_path(options))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("anyflow_rt.build.build", copy)
    arguments = ["run", "--prompt", "a circle", *SIZE, *FAST, "--steps", "1", "--output", str(tmp_path / "out.npy")]
    assert main([*arguments, "--json"]) == 0
    out, error = capsys.readouterr()
    assert out.count("\n") == 1
    first, second, *_ = error.splitlines()
    assert first.startswith(f"building the bundle of the shapes checkpoint at {tmp_path}")
    assert second == "exporting text_encoder (1 of 8)"


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The mend is one that ``run`` has."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/cache")
    assert main(["run", "--prompt", "a circle"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("anyflow-rt run: cannot write /proc/cache/anyflow-rt/bundles/shapes")
    assert "set XDG_CACHE_HOME to another directory" in error
    assert "anyflow-rt build --out DIR" in error
    assert "run --bundle DIR" in error


def test_an_existing_file_is_replaced_in_one_step(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    kept = path.open("rb")  # whoever reads the old file goes on reading the old file
    answer(capsys, run(bundle, "--steps", "1", "--output", str(path)))
    assert b"ftyp" in path.read_bytes()[:12]
    assert kept.read() == b"before"
    kept.close()
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_build_json(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", "--ckpt", str(random_bundle("base").checkpoint), "--out", str(bundle), "--onnx-only"]
    found = answer(capsys, command)
    assert list(found) == [
        "bundle",
        "bundle_id",
        "changed",
        "exported",
        "compiled",
        "compile_seconds",
        "parity",
        "seconds",
    ]
    assert (found["bundle"], found["bundle_id"]) == (str(bundle), Bundle.open(bundle).id)
    assert (found["changed"], found["exported"], found["compiled"], found["parity"]) == (False, {}, [], [])
    assert main(command) == 0
    out, error = capsys.readouterr()
    assert out == ""
    assert "nothing has changed; nothing to do" in error


def test_a_build_with_nothing_to_do_is_over_in_two_seconds(bundle: Path) -> None:
    """As a user sees it, start of the process included. The bound is wide: the machine may be busy."""
    command = ["build", "--ckpt", str(random_bundle("base").checkpoint), "--out", str(bundle), "--onnx-only"]
    code = (
        "import sys, time; from anyflow_rt.cli.main import main; "
        "code = main(sys.argv[1:]); print(code, time.process_time(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code, *command], capture_output=True, text=True, timeout=60)
    code, seconds, torch = done.stdout.split()
    assert (code, torch) == ("0", "False"), done.stderr
    assert float(seconds) < 2, "seconds of processor time"


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = random_bundle("base").checkpoint
    found = answer(capsys, ["build", "--ckpt", str(checkpoint), "--out", str(tmp_path / "new"), "--dry-run"])
    assert found["bundle"] == str(tmp_path / "new")
    assert (found["changes"], len(found["components"]), len(found["engines"])) == (True, 8, 1)
    assert set(found["estimate"]) == {"parameters", "disk", "memory", "seconds"}
    assert list(tmp_path.iterdir()) == []
    there = ["build", "--ckpt", str(checkpoint), "--out", str(random_bundle("base").path), "--dry-run", "--onnx-only"]
    assert (answer(capsys, there)["changes"], answer(capsys, there)["components"]) == (False, [])
    for flags, said in (([], "nothing to do"), (["--height", "48"], "for its settings"), (["--force"], "denoiser")):
        assert main([*there, *flags]) == 0
        assert said in capsys.readouterr().err
    assert main([*there, "--engine", "onnxruntime"]) == 2
    assert "contradicts" in capsys.readouterr().err


def test_inspect(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, ["inspect", str(bundle), "--verify"])
    assert (found["bundle"], found["bundle_id"], found["verified"]) == (str(bundle), Bundle.open(bundle).id, True)
    assert found["architecture"]["scheduler"]["shift"] == 5.0
    assert set(found["components"]["denoiser"]) == {"bytes", "seconds"}
    assert found["default_size"] == [81, 480, 832]
    assert main(["inspect", str(bundle)]) == 0
    out, error = capsys.readouterr()
    assert error == ""
    assert "component   denoiser" in out
    damaged = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    graph = Bundle.open(damaged).component_path("denoiser")
    graph.write_bytes(graph.read_bytes()[:-1] + b"?")
    assert main(["inspect", str(damaged)]) == 0, "sizes alone do not show it"
    assert main(["inspect", str(damaged), "--verify"]) == 1


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (["--version"], f"anyflow-rt {__version__}"),
        (["--help"], "build"),
        (["run", "--help"], "--prompt"),
        (["build", "--help"], "--ckpt"),
        (["inspect", "--help"], "--verify"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        assert said in capsys.readouterr().out


def test_debug_shows_the_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, shown in ([], False), (["--debug"], True):
        assert main(["inspect", str(tmp_path / "none"), *flags]) == 1
        assert ("Traceback" in capsys.readouterr().err) is shown


def test_a_defect_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for error, said in (
        (ZeroDivisionError("two\nlines"), "ZeroDivisionError: two lines (a defect"),
        (MemoryError("12 GB"), "out of memory (12 GB)"),
        (KeyboardInterrupt(), "interrupted; "),
    ):

        def fail(options: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr("anyflow_rt.cli.inspect.execute", fail)
        assert main(["inspect", "x", "--json"]) == 1
        out, text = capsys.readouterr()
        assert out == ""
        assert said in text
        assert text.count("\n") == 1


def test_what_libraries_print_is_not_in_the_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def chatty(options: object) -> dict[str, int]:
        print("a library's greeting")
        return {"value": 1}

    monkeypatch.setattr("anyflow_rt.cli.inspect.execute", chatty)
    assert answer(capsys, ["inspect", "x"]) == {"value": 1}


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_the_old_file(bundle: Path, tmp_path: Path, stop: signal.Signals) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    command = [sys.executable, "-P", "-m", "anyflow_rt", *run(bundle, "--steps", "1000", "--guidance-scale", "2")]
    process = subprocess.Popen(
        [*command, "--output", str(path), "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    patience = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < patience:  # until the hidden file beside it is there
        time.sleep(0.02)
    process.send_signal(stop)
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, ""), error
    assert error.splitlines()[-1].startswith("anyflow-rt run: interrupted; ")
    assert "Traceback" not in error
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]


def test_a_reader_that_has_gone_is_no_traceback(bundle: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-P", "-m", "anyflow_rt", "inspect", str(bundle), "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


class Stream:
    """A stderr that is a terminal, or not."""

    def __init__(self, terminal: bool) -> None:
        self.isatty = lambda: terminal
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""


@pytest.mark.parametrize("terminal", [True, False])
def test_progress(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick work is silent; slow work rewrites one line on a terminal, and elsewhere writes one now and then."""
    stream, now = Stream(terminal), [0.0]
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("anyflow_rt.cli.progress.time.monotonic", lambda: now[0])
    with Progress("step") as progress:
        for step in range(1, 41):
            now[0] += QUIET_SECONDS / 4
            progress.update(step, 40)
    if terminal:
        assert stream.text.count("\r\033[Kstep") == 37
        assert "\n" not in stream.text
        assert stream.text.endswith("\r\033[K")
    else:
        lines = stream.text.splitlines()
        assert lines == [f"step {4 * n}/40, about {20 - 2 * n} s left" for n in range(1, 11)]
    stream.text, now[0] = "", 0.0
    with Progress("step") as progress:
        progress.update(1, 1)
    assert stream.text == ""
