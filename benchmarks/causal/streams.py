"""Streams of the causal shapes checkpoint: when the first frame is there, and what memory long ones take."""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
from pathlib import Path

from anyflow_rt.benchmarks.causal.common import EIGHT_CHUNKS, NAME, STEPS, gates, load, prompt_of, stream_gate
from anyflow_rt.benchmarks.measure import Conditions, Sample, interleave, ratios
from anyflow_rt.benchmarks.processes import Ran, own_command, run_command
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.result import StreamReport
from anyflow_rt.runtime import Runtime

WARM_UPS = 2
FIRST = 1 / 4
"""Target: the first frame's share of the whole."""
SHORT, LONG = 81, 321
SIDES = (64, 128)
MEMORY_ROUNDS = 3
FLAT = 1.05
"""Target: peak memory of a process that streams ``LONG`` frames to a file over one that streams ``SHORT``."""


def run(conditions: Conditions) -> Outcome:
    """First frames in this process, to a reader that takes all at once; memory in processes of their own.

    Raises ParityError, before anything is measured, where what is streamed is not diffusers' video.
    """
    with load() as runtime:
        notes = [*gates([runtime], [EIGHT_CHUNKS]), stream_gate(runtime, EIGHT_CHUNKS)]
        stream = partial(_stream, runtime)
        for number in range(WARM_UPS):
            stream(-1 - number)
        watch = conditions.quiet()
        reports = interleave({"stream": stream}, 2 * conditions.rounds)["stream"]
        others = conditions.still_quiet(watch)
    first = Sample("first frame of 8 chunks", tuple(report.first_frame for report in reports))
    last = Sample("last frame", tuple(report.ready[-1] for report in reports))
    share = ratios("first frame / last frame", first, last)
    jitter = statistics.median(report.jitter for report in reports)
    peaks = _peaks()
    growth = [
        ratios(f"{LONG} / {SHORT} frames of {side}x{side}", peaks[side, LONG], peaks[side, SHORT]) for side in SIDES
    ]
    return Outcome(
        "causal streams: causal shapes checkpoint, 4 steps",
        (first, last, *peaks.values()),
        (share, *growth),
        (
            Target("first frame over the whole, 8 chunks", share.median, FIRST, at_least=False),
            *(Target(f"peak memory, {each.name}", each.median, FLAT, at_least=False) for each in growth),
        ),
        (*notes, f"seconds between chunks vary by {jitter * 1e3:.1f} ms (standard deviation)"),
        others,
    )


def _peaks() -> dict[tuple[int, int], Sample]:
    """Of each side and number of frames; a process each, so that the machine need not be quiet."""
    sizes = [(side, frames) for side in SIDES for frames in (SHORT, LONG)]
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as name:
        processes = {f"{side} {frames}": partial(_process, frames, side, Path(name)) for side, frames in sizes}
        runs = interleave(processes, MEMORY_ROUNDS)
    return {
        (side, frames): Sample(
            f"streaming {frames} frames of {side}x{side} to a file, peak",
            tuple(ran.peak / 1e6 for ran in runs[f"{side} {frames}"]),
            "MB",
        )
        for side, frames in sizes
    }


def _stream(runtime: Runtime, number: int) -> StreamReport:
    prompt, seed = prompt_of(number)
    with runtime.stream(prompt, steps=STEPS, seed=seed, num_frames=EIGHT_CHUNKS) as chunks:
        for _ in chunks:
            pass
        report = chunks.result().stream
    assert report is not None
    return report


def _process(frames: int, side: int, folder: Path, number: int) -> Ran:
    """One ``anyflow-rt run`` that streams to a file. side: height and width in pixels."""
    prompt, seed = prompt_of(number)
    size = ["--num-frames", frames, "--height", side, "--width", side]
    options = ["--prompt", prompt, "--seed", seed, *size, "--stream", folder / "out.mp4"]
    return run_command([*own_command(), "run", "--bundle", NAME, *options])
