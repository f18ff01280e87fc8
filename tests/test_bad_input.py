"""What a user can get wrong: one line that names the value and the mend, exit code 1 or 2, and nothing lost."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.bundles import RandomBundle, random_bundle
from support.commands import fails

import anyflow_rt
from anyflow_rt.build_plan import BuildOptions
from anyflow_rt.cli.main import main
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.checkpoint import load_checkpoint
from anyflow_rt.errors import UsageError
from anyflow_rt.video import save_video

SIZE = ("--height", "32", "--width", "32", "--num-frames", "1", "--max-sequence-length", "32", "--steps", "1")
FAST = ("--engine", "onnxruntime", "--precision", "fp32")


@pytest.fixture
def base() -> RandomBundle:
    return random_bundle("base")


def run(bundle: Path, output: Path, *arguments: str, prompt: str = "a red circle") -> list[str]:
    return ["run", "--bundle", str(bundle), "--prompt", prompt, "--output", str(output), *SIZE, *FAST, *arguments]


def test_empty_paths(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty text is no path, and above all not the current directory."""
    monkeypatch.chdir(shutil.copytree(base.path, tmp_path / "bundle"))
    before = sorted(tmp_path.rglob("*"))
    for empty in ("", " "):
        for flag in ("--bundle", "--output"):
            fails(capsys, run(base.path, tmp_path / "out.mp4", flag, empty), flag, repr(empty), code=2)
        for flag in ("--ckpt", "--out", "--revision"):
            for dry in ([], ["--dry-run"]):
                fails(capsys, ["build", "--ckpt", str(base.checkpoint), flag, empty, *dry], flag, repr(empty), code=2)
        fails(capsys, ["inspect", empty], repr(empty), code=2)
    for value in ("", 5, "a\0b", b"bundle"):
        with pytest.raises(UsageError, match=re.escape(repr(value))):
            anyflow_rt.load(value)
        with pytest.raises(UsageError, match=re.escape(repr(value))):
            BuildOptions(checkpoint=value)
        with pytest.raises(UsageError, match=re.escape(repr(value))):
            BuildOptions(checkpoint=str(base.checkpoint), out=value)
        with pytest.raises(UsageError, match=re.escape(repr(value))):
            load_checkpoint(value)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_of_engines_are_usage(base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["build", "--ckpt", str(base.checkpoint), "--out", str(tmp_path / "b")]
    for command in (run(base.path, tmp_path / "out.mp4"), build, [*build, "--dry-run"]):
        fails(capsys, [*command, "--engine", "magic"], "'magic'", "openvino, onnxruntime", code=2)
        fails(capsys, [*command, "--precision", "fp31"], "'fp31'", "fp32, bf16", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--height", "100"], ["height 100", "multiple of 16", "96"]),
        (["--width", "8"], ["width 8", "16"]),
        (["--height", "0"], ["height is 0"]),
        (["--width", "-16"], ["width is -16"]),
        (["--width", "1000000000000"], ["width 1000000000000"]),
        (["--num-frames", "6"], ["num_frames 6", "4n + 1", "5 and 9"]),
        (["--num-frames", "0"], ["num_frames is 0"]),
        (["--num-frames", "1000001"], ["num_frames 1000001", "ask for less"]),
        (["--steps", "0"], ["steps", "1 to 1000", "0"]),
        (["--steps", "-4"], ["-4"]),
        (["--steps", "1000000000"], ["1000000000"]),
        (["--steps", "1" * 5000], ["--steps", "whole number"]),
        (["--steps", "four"], ["--steps", "'four'", "whole number"]),
        (["--steps", "2.5"], ["'2.5'"]),
        (["--seed", "99999999999999999999"], ["99999999999999999999"]),
        (["--num-videos", "0"], ["num_videos is 0"]),
        (["--num-videos", "1000000000"], ["num_videos 1000000000", "4096"]),
        (["--guidance-scale", "nan"], ["'nan'", "number"]),
        (["--guidance-scale", "-1"], ["-1.0"]),
        (["--max-sequence-length", "0"], ["max_sequence_length"]),
        (["--fps", "0"], ["fps"]),
        (["--quality", "101"], ["101"]),
        (["--prompt", ""], ["prompt[1] is empty"]),
        (["--prompt", " \t&nbsp;"], ["prompt[1] is empty"]),
        (["--engine", "magic"], ["magic", "openvino"]),
        (["--precision", "int8"], ["int8", "fp32"]),
        (["--precision", "bf16"], ["bf16", "--precision fp32"]),
        (["--step", "4"], ["--step"]),
    ],
)
def test_run_options(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: list[str]
) -> None:
    output = tmp_path / "out.mp4"
    output.write_bytes(b"before")
    fails(capsys, run(base.path, output, *arguments), *said)
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]
    assert output.read_bytes() == b"before"


def test_an_empty_prompt(base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for prompt in ("", "   ", "\n"):
        fails(capsys, run(base.path, tmp_path / "out.mp4", prompt=prompt), "prompt is empty", "words", code=2)
    fails(capsys, ["run", "--bundle", str(base.path)], "--prompt", code=2)


def test_outputs(base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"before")
    for output, said in (
        (tmp_path / "out.avi", [".mp4, .gif, .png, .npy"]),
        (tmp_path / "out", ["'", ".mp4"]),
        (tmp_path / "none" / "out.mp4", ["no directory", "make it first"]),
        (file / "out.mp4", ["cannot write"]),
        (tmp_path, ["is a directory", "name a file"]),
        (tmp_path / ("x" * 300 + ".mp4"), ["shorter name"]),
        (Path("/proc/out.mp4"), ["cannot write /proc/out.mp4"]),
    ):
        fails(capsys, run(base.path, output), *said)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_bytes() == b"before"


def test_an_output_that_is_the_input(base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is given stays as it is, under whatever name it is to be written over."""
    clip, link, hard = tmp_path / "clip.mp4", tmp_path / "link.mp4", tmp_path / "hard.mp4"
    save_video(clip, np.zeros((5, 32, 32, 3), np.uint8))
    before = clip.read_bytes()
    link.symlink_to(clip.name)
    hard.hardlink_to(clip)
    for output in (clip, link, hard):
        command = run(base.path, output, "--num-frames", "9", "--video", str(clip))
        streamed = ["--stream" if part == "--output" else part for part in command]
        for each in (command, streamed):
            fails(capsys, each, f"output {str(output)!r} is {str(clip)!r}", "name another", code=2)
    assert clip.read_bytes() == before


def test_a_directory_that_may_not_be_written(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write everywhere")
    fails(capsys, run(base.path, folder / "out.mp4"), "directory you may write to", code=1)
    build = ["build", "--ckpt", str(base.checkpoint), "--onnx-only", "--out", str(folder / "bundle")]
    fails(capsys, build, "cannot write", "--out", code=1)


def test_a_file_system_that_is_read_only(base: RandomBundle, capsys: pytest.CaptureFixture[str]) -> None:
    """The superuser too may not write to /proc or /sys."""
    build = ["build", "--ckpt", str(base.checkpoint), "--onnx-only", "--out", "/proc/bundle"]
    fails(capsys, build, "cannot write /proc/bundle", "--out", code=1)


def test_no_space_for_the_video(base: RandomBundle, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the same call fails, at the same place."""
    output = tmp_path / "out.npy"
    output.write_bytes(b"before")
    command = run(base.path, output, "--num-frames", "5", "--width", "64")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    done = subprocess.run(
        [sys.executable, "-P", "-m", "anyflow_rt", *command],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot write" in done.stderr
    assert "another disk" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]
    assert output.read_bytes() == b"before"


def test_no_space_for_the_bundle(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    build = ["build", "--ckpt", str(base.checkpoint), "--onnx-only", "--out", str(tmp_path / "bundle")]
    fails(capsys, build, "0.0 MB free", "--out", code=1)
    assert not (tmp_path / "bundle").exists()


def drop_manifest_key(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(json.dumps({k: v for k, v in json.loads(manifest.read_text()).items() if k != "components"}))


def change_schema(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))


def drop_architecture_key(bundle: Path) -> None:
    manifest = bundle / "manifest.json"
    values = json.loads(manifest.read_text())
    del values["architecture"]["transformer"]["num_layers"]
    manifest.write_text(json.dumps(values))


def weights_of(bundle: Path) -> Path:
    files = {part.name: part.files for part in Bundle.open(bundle).manifest.components}
    return bundle / files["denoiser"][-1].path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda bundle: (bundle / "manifest.json").unlink(), "no manifest.json"),
        (lambda bundle: (bundle / "manifest.json").write_text("{"), "damaged"),
        (drop_manifest_key, "damaged"),
        (change_schema, "schema 99"),
        (lambda bundle: Bundle.open(bundle).component_path("denoiser").unlink(), "is missing"),
        (lambda bundle: os.truncate(weights_of(bundle), 10), "10 bytes instead of"),
        (lambda bundle: Bundle.open(bundle).tokenizer_path.write_text("{}"), "bytes instead of"),
        (drop_architecture_key, "num_layers"),
        (shutil.rmtree, "no bundle at"),
    ],
)
def test_bundles(
    base: RandomBundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    said: str,
) -> None:
    bundle = Path(shutil.copytree(base.path, tmp_path / "bundle"))
    damage(bundle)
    names = [str(base.checkpoint.resolve())] if (bundle / "manifest.json").is_file() and said != "damaged" else []
    for command in (run(bundle, tmp_path / "out.mp4"), ["inspect", str(bundle)]):
        fails(capsys, command, said, "anyflow-rt build --ckpt", f"--out {bundle}", *names, code=1)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize("part", ["denoiser", "text_encoder", "vae_decoder_next"])
def test_a_graph_of_the_right_size_with_the_wrong_bytes(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """Sizes are checked at once, contents by the engine when it reads them: still one line."""
    bundle = Path(shutil.copytree(base.path, tmp_path / "bundle"))
    graph = Bundle.open(bundle).component_path(part)
    graph.write_bytes(b"\xff" * graph.stat().st_size)
    mend = f"anyflow-rt build --ckpt {base.checkpoint.resolve()} --out {bundle} --force"
    fails(capsys, run(bundle, tmp_path / "out.mp4"), part, mend, code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    fails(capsys, ["inspect", str(bundle), "--verify"], graph.name, mend, code=1)


def test_a_tokenizer_of_the_right_size_with_the_wrong_bytes(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mend works as it stands, also where the place has a space in it."""
    bundle = Path(shutil.copytree(base.path, tmp_path / "my bundle"))
    tokenizer = Bundle.open(bundle).tokenizer_path
    tokenizer.write_bytes(b" " * tokenizer.stat().st_size)
    error = fails(capsys, run(bundle, tmp_path / "out.mp4"), "tokenizer.json", code=1)
    words = shlex.split(error.partition("build its bundle again with")[2])
    assert words == ["anyflow-rt", "build", "--ckpt", str(base.checkpoint), "--out", str(bundle), "--force"]


def test_build_options(base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build = ["build", "--ckpt", str(base.checkpoint), "--out", str(tmp_path / "b")]
    for arguments, said in (
        (["--target", "sm_70"], "sm_70"),
        (["--target", "cpu,gpu"], "'gpu'"),
        (["--precision", "fp16"], "fp16"),
        (["--engine", "magic"], "magic"),
        (["--height", "24"], "height 24"),
        (["--num-frames", "4"], "num_frames 4"),
        (["--revision", "main"], "'main'"),
    ):
        for dry in ([], ["--dry-run"]):
            fails(capsys, [*build, *arguments, *dry], said)
    fails(capsys, [], "VERB", code=2)
    fails(capsys, ["frobnicate"], "frobnicate", "run", code=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "prompt",
    [
        "🎬 a 🔴 circle 🏴‍☠️",
        "красный круг движется вправо",
        "دائرة حمراء تتحرك",
        "赤い円が右へ動く",
        "&lt;red&gt; &amp;amp; blue &eacute;",
        "zero\u200bwidth \u202eright to left",
        "-starts with a dash",
        "a\x00b\x07c",
        "broken bytes \udcff\udc80",
    ],
)
def test_any_text_is_a_prompt(
    base: RandomBundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], prompt: str
) -> None:
    output = tmp_path / "🎬 видео.npy"
    command = [f"--prompt={prompt}" if part == prompt else part for part in run(base.path, output, prompt=prompt)]
    command.remove("--prompt")
    assert main([*command, "--json"]) == 0, capsys.readouterr().err
    assert json.loads(capsys.readouterr().out)["output"] == str(output)
    assert np.load(output).shape == (1, 32, 32, 3)


def test_entities_are_the_characters_they_name(base: RandomBundle, tmp_path: Path) -> None:
    frames = []
    for prompt in ("red &amp; blue", "red & blue", "red & green"):
        assert main(run(base.path, tmp_path / "out.npy", prompt=prompt)) == 0
        frames.append(np.load(tmp_path / "out.npy"))
    assert np.array_equal(frames[0], frames[1])


def test_a_prompt_beyond_the_limit_is_cut_with_one_warning(
    base: RandomBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert main(run(base.path, tmp_path / "out.npy", prompt="red circle " * 400)) == 0
    (record,) = caplog.records
    assert "max_sequence_length=32" in record.getMessage()
