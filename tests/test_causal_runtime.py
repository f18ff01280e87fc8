"""A causal checkpoint's bundle on the engines: whole calls against diffusers, what is given, and streams."""

from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.bundles import random_bundle
from support.clips import moving_disc
from support.commands import fails

import anyflow_rt
from anyflow_rt.choice import Call
from anyflow_rt.cli.main import main
from anyflow_rt.engines import registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.engine import Engine
from anyflow_rt.engines.export import CAUSAL_COMPONENT_NAMES, COMPONENT_NAMES
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.openvino_package import processor_has_bf16
from anyflow_rt.errors import Cancelled, OutputError, UsageError
from anyflow_rt.parity import FRAME_BOUND, LATENT_BOUND, Case, compare
from anyflow_rt.runtime import Runtime
from anyflow_rt.video import VideoShape, open_stream

NAME = "released_rule"
SIZE = VideoSize(33, 32, 48)
OPTIONS: dict[str, Any] = {"steps": 1, "max_sequence_length": 32}
PROMPT = "a red circle"
CLIP = moving_disc(13, 32, 48)
FRAMES_OF_CHUNKS = (1, 12, 12, 8)
CASE = Case((PROMPT,), 2, SIZE, max_sequence_length=32)
CASES = {
    "text": replace(CASE, steps=4),
    "image": replace(CASE, context=CLIP[:1], steps=1),
    "clip": replace(CASE, context=CLIP),
    "two_prompts": replace(CASE, prompts=(PROMPT, "blue"), context=CLIP[:1], size=VideoSize(17, 32, 48)),
}


@pytest.fixture(scope="module")
def bundle() -> Path:
    return random_bundle(NAME).path


@pytest.fixture(scope="module")
def runtime(bundle: Path) -> Iterator[Runtime]:
    with anyflow_rt.load(bundle, engine="openvino", precision="fp32") as opened:
        yield opened


def test_a_bundle_holds_the_causal_components(bundle: Path) -> None:
    names = {component.name for component in Bundle.open(bundle).manifest.components}
    assert names == {*COMPONENT_NAMES, *CAUSAL_COMPONENT_NAMES}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_runs_equal_diffusers(bundle: Path, engine: str, case: str) -> None:
    with Runtime(Bundle.open(bundle), engine=engine, precision="fp32") as runtime:
        parity = compare(random_bundle(NAME).reference, runtime, CASES[case])
    assert parity.latent_error <= LATENT_BOUND, str(parity)
    assert parity.frame_error <= FRAME_BOUND, str(parity)


@pytest.mark.skipif(not processor_has_bf16(), reason="no bf16 instructions here")
def test_bf16_stays_near(bundle: Path, runtime: Runtime) -> None:
    """Measured: 0.5%."""
    options = {**OPTIONS, "steps": 2, "image": CLIP[0], "output": "latents"}
    with anyflow_rt.load(bundle, engine="openvino", precision="bf16") as rounded:
        found, wanted = (each.generate(PROMPT, **options).latents for each in (rounded, runtime))
    assert np.linalg.norm(found - wanted) <= 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("context", [CLIP[:1], CLIP[:5]], ids=["image", "clip"])
def test_bidirectional_runs_begin_with_what_is_given(context: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    made = random_bundle("base")
    case = replace(CASE, size=VideoSize(13, 32, 48), context=context)
    with Runtime(Bundle.open(made.path), engine="openvino", precision="fp32", specialize=False) as runtime:
        for each in (case, replace(case, mean_velocity=False), replace(case, guidance_scale=3.0)):
            parity = compare(made.reference, runtime, each)
            assert parity.latent_error <= LATENT_BOUND, str(parity)
            assert parity.frame_error <= FRAME_BOUND, str(parity)
    assert "it holds the given ones as they are, and was trained for text alone" in caplog.text
    assert "--bundle shapes-causal" in caplog.text


def test_what_comes_back(runtime: Runtime) -> None:
    result = runtime.generate(PROMPT, video=CLIP, **OPTIONS)
    assert [chunk.frames for chunk in result.chunks] == [1, 3, 3, 2]
    assert [chunk.steps for chunk in result.chunks] == [0, 0, 1, 1]
    assert result.plan == ((1.0, 0.0),) * 2
    assert result.chunks[0].cache_seconds < min(chunk.cache_seconds for chunk in result.chunks[1:])
    image = runtime.generate(PROMPT, image=CLIP[0], **OPTIONS)
    assert np.array_equal(image.latents[:, :1], result.latents[:, :1])


def test_a_clip_with_too_many_frames_leaves_one_chunk(runtime: Runtime, caplog: pytest.LogCaptureFixture) -> None:
    result = runtime.generate(PROMPT, video=CLIP, **{**OPTIONS, "num_frames": 13})
    assert [(chunk.frames, chunk.steps) for chunk in result.chunks] == [(1, 0), (3, 1)]
    assert "begins with the last 1 of them, and makes 12" in caplog.text


def test_a_stream_is_the_video(runtime: Runtime) -> None:
    whole = runtime.generate(PROMPT, seed=3, **OPTIONS)
    with runtime.stream(PROMPT, seed=3, **OPTIONS) as stream:
        chunks = list(stream)
        result = stream.result()
    assert [chunk.frames.shape[1] for chunk in chunks] == [1, 12, 12, 8]
    assert [chunk.steps for chunk in chunks] == [1] * 4
    frames = np.concatenate([chunk.frames for chunk in chunks], axis=1)
    # The decoder gets other numbers of latent frames a call, and sums in another order.
    assert np.abs(frames.astype(int) - whole.frames).max() <= FRAME_BOUND
    assert np.array_equal(result.latents, whole.latents)
    assert result.stream is not None and result.stream.frames == (1, 12, 12, 8)
    assert result.stream.first_frame == chunks[0].ready < chunks[-1].ready <= result.seconds.total


def test_chunks_are_there_before_the_last_is_begun(runtime: Runtime) -> None:
    """And a reader that is slow holds up the denoiser: it is at most three chunks ahead."""
    begun: list[int] = []
    stream = runtime.stream(PROMPT, on_step=lambda step: begun.append(step.chunk), num_frames=129, **OPTIONS)
    first = next(stream)
    assert first.frames.shape == (1, 1, 32, 48, 3)
    time.sleep(1.0)
    ahead = max(begun)
    assert ahead <= 4
    time.sleep(0.3)
    assert max(begun) == ahead
    stream.close()
    assert list(stream) == []


def test_closing_ends_the_work(runtime: Runtime) -> None:
    steps: list[int] = []
    for chunk in runtime.stream(PROMPT, on_step=lambda step: steps.append(step.chunk), num_frames=129, **OPTIONS):
        assert chunk.index == 0
        break
    count = len(steps)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anyflow-rt-de")]
    time.sleep(0.1)
    assert len(steps) == count < 12
    assert runtime.generate(PROMPT, num_frames=5, **OPTIONS).frames is not None, "the runtime is as good as before"


def test_closing_from_another_thread(runtime: Runtime) -> None:
    """Whoever reads it meanwhile is told, and does not take what came for the whole."""
    stream = runtime.stream(PROMPT, num_frames=249, on_step=lambda step: time.sleep(0.05), **OPTIONS)
    next(stream)
    told: list[BaseException] = []

    def read() -> None:
        try:
            list(stream)
        except BaseException as error:  # noqa: BLE001 - looked at below
            told.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.2)
    stream.close()
    reader.join(10)
    assert not reader.is_alive() and [type(error) for error in told] in ([], [Cancelled])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("anyflow-rt-de")]
    with pytest.raises(UsageError, match="no result yet"):
        stream.result()


def test_a_callback_may_close_the_stream(runtime: Runtime) -> None:
    streams: list[Any] = []
    streams.append(runtime.stream(PROMPT, on_step=lambda step: streams[0].close(), **OPTIONS))
    with pytest.raises(Cancelled):
        list(streams[0])


def test_one_call_at_a_time(runtime: Runtime) -> None:
    unread = runtime.stream(PROMPT, **OPTIONS)
    with pytest.raises(UsageError, match="read it to its last chunk first"):
        unread.result()
    short = {**OPTIONS, "num_frames": 5}
    assert runtime.generate(PROMPT, **short).frames is not None, "what nobody reads has not begun"
    with runtime.stream(PROMPT, num_frames=129, **OPTIONS) as stream:
        next(stream)
        for call in (lambda: runtime.generate(PROMPT, **short), lambda: next(unread)):
            with pytest.raises(UsageError, match="a stream is open"):
                call()
        with pytest.raises(UsageError, match="no result yet"):
            stream.result()
        next(stream)
    assert runtime.generate(PROMPT, **short).frames is not None


def test_a_failure_reaches_the_reader(runtime: Runtime) -> None:
    def fail(step: Any) -> None:
        if step.chunk == 1:
            raise ZeroDivisionError("of the test")

    seen = []
    with pytest.raises(ZeroDivisionError, match="of the test"):
        for chunk in runtime.stream(PROMPT, on_step=fail, **OPTIONS):
            seen.append(chunk.index)
    assert seen in ([], [0])


def played(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_stream_to_file(runtime: Runtime, tmp_path: Path) -> None:
    """Every chunk is on disk, and plays, before the next is there: the first frame too."""
    path, counts = tmp_path / "out.mp4", []

    def look(chunk: Any) -> None:
        wanted = sum(frames for frames in FRAMES_OF_CHUNKS[: chunk.index])
        deadline = time.monotonic() + 20
        while wanted and (not path.exists() or played(path) < wanted) and time.monotonic() < deadline:
            time.sleep(0.05)
        counts.append(played(path) if wanted else 0)

    result = runtime.stream_to_file(path, PROMPT, on_chunk=look, **OPTIONS)
    assert counts == [0, 1, 13, 25]
    assert played(path) == 33 and result.paths == (path,)


def test_a_full_disk_ends_a_stream_with_a_whole_frame(tmp_path: Path) -> None:
    """A file-size limit stands in for the full disk: the same system calls fail."""
    code = (
        "import resource, sys, numpy as np; from anyflow_rt.video import VideoShape, open_stream\n"
        "from anyflow_rt.errors import OutputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "clip = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)\n"
        "try:\n"
        "    with open_stream(sys.argv[1], VideoShape(1, 9, 64, 64)) as writer: writer.write(clip)\n"
        "except OutputError as error: print(error)\n"
    )
    path = tmp_path / "out.mp4"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {path}: File too large; ") and done.stdout.count("\n") == 1
    assert 2 <= played(path) < 9


@pytest.mark.parametrize("fps", [8.0, 23.976, 240.0])
def test_streamed_frames_are_timed_as_others(tmp_path: Path, fps: float) -> None:
    clip, path = moving_disc(5, 33, 48), tmp_path / "out.mp4"
    with open_stream(path, VideoShape(1, *clip.shape[:3]), fps=fps) as writer:
        for count, frame in enumerate(clip):
            assert not count or played(path) == count
            writer.write(frame[None])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate or 0) == pytest.approx(fps)
        frames = list(container.decode(stream))
    assert [frame.time * fps for frame in frames] == pytest.approx(range(5))
    assert (frames[0].key_frame, frames[0].height, frames[0].width) == (True, 34, 48)
    assert np.abs(frames[-1].to_ndarray(format="rgb24")[:33].astype(int) - clip[-1]).mean() < 5


def test_what_was_streamed_stays(runtime: Runtime, tmp_path: Path) -> None:
    def stop(chunk: Any) -> None:
        if chunk.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime.stream_to_file(tmp_path / "out.mp4", PROMPT, on_chunk=stop, **OPTIONS)
    assert [file.name for file in tmp_path.iterdir()] == ["out.mp4"]
    assert 1 <= played(tmp_path / "out.mp4") <= 13


def test_a_bidirectional_stream() -> None:
    with anyflow_rt.load(random_bundle("base").path, engine="openvino", precision="fp32") as runtime:
        size = {"height": 32, "width": 48, "num_frames": 13}
        with runtime.stream(PROMPT, **size, **OPTIONS) as stream:
            frames = np.concatenate([chunk.frames for chunk in stream], axis=1)
            assert stream.result().latents.shape[1] == 4
        assert np.array_equal(frames, runtime.generate(PROMPT, **size, **OPTIONS).frames)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"budget": 5.0}, "budget 5 is planned over the jumps of a whole video"),
        ({"preview": True}, "preview shows drafts of a whole video"),
        ({"video": CLIP, "num_frames": 1}, "gives 13 of the video's 1 frames"),
        ({"height": 16}, "height 16 is less than one compressed patch"),
    ],
)
def test_refusals(runtime: Runtime, options: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        runtime.generate(PROMPT, **options)


def test_stream_refusals(runtime: Runtime, tmp_path: Path) -> None:
    for options, said in (
        ({"num_videos": 2}, "2 videos cannot be streamed"),
        ({"budget": 1.0}, "budget 1.0 is for a whole video"),
        ({"output": "frames"}, "stream has no option output"),
        ({"fps_deadline": True, "budget_per_chunk": 1.0}, "both given"),
        ({"budget_per_chunk": 0}, "budget_per_chunk is 0"),
        *(({"fps": fps, "fps_deadline": True}, "fps is") for fps in (0, -1.0, "24", float("nan"), float("inf"), True)),
        ({"fps_deadline": 24}, "fps_deadline is 24; give True, and the rate as fps"),
    ):
        with pytest.raises(UsageError, match=said):
            runtime.stream_to_file(tmp_path / "out.mp4", PROMPT, **options)
    with pytest.raises(UsageError, match=r"must end in \.mp4"):
        runtime.stream_to_file(tmp_path / "out.gif", PROMPT)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(OutputError, match=r"pipe\.mp4: it is not a regular file"):
        runtime.stream_to_file(tmp_path / "pipe.mp4", PROMPT)
    (tmp_path / "pipe.mp4").unlink()
    assert not list(tmp_path.iterdir())


def test_the_command_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--bundle", str(bundle), "--prompt", PROMPT, "--steps", "1", "--engine", "openvino"]
    path = tmp_path / "out.mp4"
    assert main([*command, "--stream", str(path), "--num-frames", "17"]) == 0
    assert "first frame after" in capsys.readouterr().err
    assert played(path) == 17
    assert main([*command, "--video", str(path), "--num-frames", "33", "--output", str(tmp_path / "on.mp4")]) == 0
    assert played(tmp_path / "on.mp4") == 33
    for flags in (["--stream", "-", "--json"], ["--stream", "a.mp4", "--output", "b.mp4"], ["--fps-deadline"]):
        fails(capsys, [*command, *flags], flags[0], code=2)
    fails(capsys, [*command, "--image", str(tmp_path / "none.png")], "none.png", "No such file", code=2)


def test_a_closed_pipe(bundle: Path) -> None:
    """One line, and what was read before plays."""
    command = [sys.executable, "-m", "anyflow_rt", "run", "--bundle", str(bundle), "--prompt", PROMPT, "--steps", "1"]
    command += ["--engine", "openvino", "--num-frames", "129", "--height", "64", "--width", "96", "--stream", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        read = b"".join(iter(lambda: process.stdout.read(64), b"").__next__() for _ in range(32))
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 1
    assert "cannot write standard output: Broken pipe; its reader closed it" in said
    assert "Traceback" not in said
    assert read[4:8] == b"ftyp"


def test_interrupted_before_a_reader_that_does_not_read(bundle: Path, tmp_path: Path) -> None:
    """It ends, though the pipe is full, and says what became of the stream; a closed output is refused."""
    command = [sys.executable, "-m", "anyflow_rt", "run", "--bundle", str(bundle), "--prompt", PROMPT, "--steps", "1"]
    command += ["--engine", "openvino", "--stream", "-"]
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen([*command, "--num-frames", "249"], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        assert process.stderr is not None
        held, deadline = array.array("i", [0]), time.monotonic() + 60
        while not held[0] and time.monotonic() < deadline:
            time.sleep(0.05)
            fcntl.ioctl(reading, termios.FIONREAD, held)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=20)[1].decode()
        assert process.returncode == 1
    os.close(reading)
    assert "interrupted; what was streamed to standard output until then plays" in said
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert closed.returncode == 1 and "standard output is closed" in closed.stderr and "Traceback" not in closed.stderr


def test_deadlines(runtime: Runtime) -> None:
    """With all the time there is each chunk takes the most jumps, with none the fewest; both are said."""
    for budget, steps in ((30.0, 8), (1e-4, 1)):
        options = {**OPTIONS, "steps": 8, "budget_per_chunk": budget}
        for _ in range(2):  # the first learns what a jump takes
            with runtime.stream(PROMPT, **options) as stream:
                assert len(list(stream)) == 4
                chunks = stream.result().chunks
        assert [chunk.steps for chunk in chunks] == [steps] * 4
        assert [chunk.due for chunk in chunks] == pytest.approx([budget * (index + 1) for index in range(4)])
        assert all(chunk.predicted is not None and chunk.planned_steps is not None for chunk in chunks)


def test_what_has_deadlines_shares_the_cores(runtime: Runtime) -> None:
    def threads() -> list[int | None]:
        names = ("text_encoder", "denoiser", "vae_decoder_next")
        return [runtime._components.get(name).options.threads for name in names]

    whole = runtime.generate(PROMPT, seed=3, **OPTIONS)
    assert threads() == [None] * 3
    with runtime.stream(PROMPT, seed=3, budget_per_chunk=30.0, **OPTIONS) as stream:
        frames = np.concatenate([chunk.frames for chunk in stream], axis=1)
        half = max(1, len(os.sched_getaffinity(0)) // 2)
        assert threads() == [None, half, half]
    assert np.abs(frames.astype(int) - whole.frames).max() <= FRAME_BOUND
    assert np.array_equal(runtime.generate(PROMPT, seed=3, **OPTIONS).frames, whole.frames)
    assert threads() == [None] * 3


def test_what_is_meant_for_deadlines_opens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[str, int | None]] = []
    really = registry.open_engine

    def noted(name: str, path: Path, **options: Any) -> Engine:
        opened.append((path.stem, options["threads"]))
        return really(name, path, **options)

    monkeypatch.setattr(registry, "open_engine", noted)
    options: dict[str, Any] = {"engine": "openvino", "precision": "fp32", "specialize": False}
    with (
        Runtime(Bundle.open(random_bundle(NAME).path), **options, meant_for=Call(in_time=True)) as runtime,
        runtime.stream(PROMPT, fps_deadline=True, **OPTIONS) as stream,
    ):
        next(stream)
    half = len(os.sched_getaffinity(0)) // 2 or None
    assert len(opened) == len({*opened}) and {("denoiser", half), ("text_encoder", None)} <= {*opened}


def test_playing_deadlines(runtime: Runtime) -> None:
    """The first chunk has none; the others are due when all before them were played."""
    with runtime.stream(PROMPT, fps_deadline=True, fps=2.0, **{**OPTIONS, "steps": 2}) as stream:
        ready = [chunk.ready for chunk in stream]
        result = stream.result()
    assert result.stream.lead == 6.0
    assert result.stream.stalls == (0.0,) * 4
    assert result.chunks[0].due is None
    due = [chunk.due for chunk in result.chunks[1:]]
    assert [later - due[0] for later in due] == pytest.approx([0.0, 6.0, 12.0], abs=0.2)
    assert due[0] == pytest.approx(ready[0] + 6.5, abs=1.0)
