"""What a run needs in memory: the peak of a process that makes one video and nothing else.

Not of the sweep's own process, which has measured the machine with large matrices before it runs anything.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from anyflow_rt.benchmarks.processes import own_command, run_command
from anyflow_rt.benchmarks.results.values import GpuReadings, Memory
from anyflow_rt.benchmarks.sweep.journal import Key
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally
from anyflow_rt.runtime import Runtime

PROCESS = "a process of its own that makes one video (anyflow-rt run)"


def measure_memory(options: SweepOptions, runtime: Runtime, gpu: GpuReadings | None, tally: Tally) -> Memory:
    """Peaks: resident of one run of the fewest steps, which need as much as many; and of the GPU, as it was watched."""

    def measure(_: Key) -> int:
        with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
            given = {
                "bundle": runtime.bundle.path,
                "prompt": options.prompts[0],
                "steps": min(options.steps),
                "seed": options.first_seed,
                "engine": runtime.engine,
                "precision": runtime.precision,
                "output": Path(folder) / "video.mp4",
            }
            return run_command([*own_command(), "run", *(f"--{name}={value}" for name, value in given.items())]).peak

    peak = tally.each("memory", [()], measure)[()]
    return Memory(peak, max(gpu.used) if gpu is not None and gpu.used else None, PROCESS)
