"""Peak memory: of a whole run against a diffusers script's, and of decoding a long clip against a short one."""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.cold_start import diffusers_run, our_run
from anyflow_rt.benchmarks.measure import Conditions, Sample, interleave, ratios
from anyflow_rt.benchmarks.processes import run_command
from anyflow_rt.benchmarks.report import Outcome, Target

OF_THEIRS = 1 / 3
"""Target: our run's peak over the diffusers script's."""
LONG_OVER_SHORT = 1.2
"""Target: memory above the loaded runtime that decoding ``LONG`` frames takes, over that of ``SHORT``."""
SHORT, LONG = 17, 161
HEIGHT, WIDTH = 240, 416


def run(conditions: Conditions) -> Outcome:
    """Each figure is a process of its own. Other processes take nothing from it, so the machine need not be quiet."""
    peers.require_diffusers("the memory benchmark")
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as name:
        folder = Path(name)
        runs = interleave(
            {"anyflow-rt run, peak": our_run(folder), "diffusers script, peak": diffusers_run(folder)},
            conditions.rounds,
        )
        decoded = interleave(
            {
                f"decoding {frames} frames of {WIDTH}x{HEIGHT} to mp4, above the loaded runtime": partial(
                    _decode, frames, folder
                )
                for frames in (SHORT, LONG)
            },
            conditions.rounds,
        )
    ours, theirs = (Sample(label, tuple(ran.peak / 1e6 for ran in found), "MB") for label, found in runs.items())
    short, long = (Sample(label, tuple(value / 1e6 for value in found), "MB") for label, found in decoded.items())
    share, growth = ratios("anyflow-rt run / diffusers script", ours, theirs), ratios("161 / 17 frames", long, short)
    return Outcome(
        "memory: shapes checkpoint, peak resident set of a process",
        (ours, theirs, short, long),
        (share, growth),
        (
            Target("our run over the diffusers script", share.median, OF_THEIRS, at_least=False),
            Target("decoding 161 frames over 17", growth.median, LONG_OVER_SHORT, at_least=False),
        ),
    )


def _decode(num_frames: int, folder: Path, number: int) -> int:
    """One round of an interleaved measurement; every round decodes the same."""
    return decode_memory(num_frames, folder)


def decode_memory(num_frames: int, folder: Path) -> int:
    """Bytes above the loaded runtime at the peak of decoding ``num_frames`` frames into a file."""
    module = "anyflow_rt.benchmarks.decode_process"
    sizes = [str(num_frames), str(HEIGHT), str(WIDTH), str(folder / f"{num_frames}.mp4")]
    measured = json.loads(run_command([sys.executable, "-m", module, *sizes]).output)
    return measured["peak"] - measured["loaded"]
