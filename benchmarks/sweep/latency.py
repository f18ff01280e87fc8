"""The latency of a sweep: whole runs to a finished file at every number of steps, stage by stage."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from anyflow_rt.benchmarks.results.gpu import GpuWatch, invalid_reasons
from anyflow_rt.benchmarks.results.values import JUMP, TOTAL, GpuReadings, LatencySamples
from anyflow_rt.benchmarks.sweep.journal import Key
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally
from anyflow_rt.benchmarks.sweep.watching import note_faults, watched
from anyflow_rt.runtime import Runtime

WARM_UPS = 3
STAGES = ("text", "conditioner", JUMP, "decode", "encode", TOTAL)
WARM_UP = f"{WARM_UPS} whole runs, not counted; engines are open and compiled before them"
TIMED = (
    "from the call to the finished mp4, one video; rounds over all step counts, each round another prompt and seed. "
    "The decoder and the encoder of the file overlap: decode is the time spent waiting for frames, encode what is left "
    "after the last"
)
CACHED = "nothing between calls but the rotary tables of the size; every prompt is encoded anew"


def measure_latency(
    options: SweepOptions, runtime: Runtime, tally: Tally
) -> tuple[tuple[LatencySamples, ...], GpuReadings | None, tuple[str, ...]]:
    """Samples, what the GPU said meanwhile, and notes. Why times mean nothing, where they do, goes into the journal."""
    gpu = GpuWatch()
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
        run = _runs(options, runtime, Path(folder) / "video.mp4")
        keys = [(number, steps) for number in range(options.rounds) for steps in options.steps]
        if any(key not in tally.journal.get("latency") for key in keys):
            for number in range(WARM_UPS):
                run((number, options.steps[number % len(options.steps)]))
            with watched(tally, "latency"), gpu:
                tally.each("latency", keys, run)
            note_faults(tally, invalid_reasons(gpu.readings))
            if gpu.fault is not None:
                tally.say(gpu.fault)
    measured = tally.journal.get("latency")
    samples = [
        LatencySamples(
            steps,
            stage,
            tuple(value for key in keys if key[1] == steps for value in measured[key][stage]),
        )
        for steps in options.steps
        for stage in STAGES
    ]
    return tuple(samples), gpu.readings, () if gpu.fault is None else (gpu.fault,)


def _runs(options: SweepOptions, runtime: Runtime, path: Path) -> Callable[[Key], dict[str, list[float]]]:
    prompts = options.prompts

    def run(key: Key) -> dict[str, list[float]]:
        number, steps = key
        result = runtime.generate_to_file(
            path,
            prompts[number % len(prompts)],
            steps=steps,
            seed=options.first_seed + number,
            mean_velocity=options.mean_velocity,
        )
        seconds = result.seconds
        return {
            "text": [seconds.text],
            "conditioner": [seconds.conditioner],
            JUMP: list(seconds.jumps),
            "decode": [seconds.decode],
            "encode": [seconds.encode],
            TOTAL: [seconds.total],
        }

    return run
