"""Seconds and peak memory of a whole build for a GPU that is not there: 1.3B parameters, 480x832, 81 frames, sm_89.

Denoiser and VAE are of the released checkpoint's size, their weights random; the text encoder is tiny. Takes minutes,
and 20 GB of disk below the temporary directory while it runs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from anyflow_rt.benchmarks.export import TRANSFORMER
from anyflow_rt.benchmarks.measure import Conditions, Sample
from anyflow_rt.benchmarks.processes import own_command, run_command
from anyflow_rt.benchmarks.random_checkpoint import WAN_VAE, write_random_checkpoint
from anyflow_rt.benchmarks.report import Outcome, Target

SECONDS, PEAK_GIGABYTES = 360.0, 14.0
SIZE = {"--num-frames": 81, "--height": 480, "--width": 832}
TARGET, ENGINE = "sm_89", "tensorrt_rtx"


def run(conditions: Conditions) -> Outcome:
    """``anyflow-rt build --target sm_89`` once, in a process of its own, on a machine that has nothing else to do."""
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
        conditions.say("writing a random checkpoint")
        checkpoint = write_random_checkpoint(Path(folder) / "checkpoint", WAN_VAE, **TRANSFORMER)
        watch = conditions.quiet()
        conditions.say(f"exporting it, and building the engines for {TARGET}")
        size = [word for pair in SIZE.items() for word in pair]
        options = ["--ckpt", checkpoint, "--out", Path(folder) / "bundle", "--target", TARGET, "--engine", ENGINE]
        ran = run_command([*own_command(), "build", *options, *size, "--no-check-parity", "--no-calibrate"])
        others = conditions.still_quiet(watch)
    peak, seconds = Sample("peak resident set", (ran.peak / 1e9,), "GB"), Sample("time", (ran.seconds,))
    return Outcome(
        f"build for {TARGET}: 1.3B parameters, 81 frames of 832x480, bf16",
        (seconds, peak),
        targets=(
            Target("time of the build", seconds.median, SECONDS, at_least=False, unit="s"),
            Target("peak memory of the build", peak.median, PEAK_GIGABYTES, at_least=False, unit="GB"),
        ),
        other_cores=others,
    )
