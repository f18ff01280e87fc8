"""The calm machine as it was measured, and profiles made from that, right ones and wrong ones."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import AnyflowError
from anyflow_rt.latencies import profile_store
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.latency import FirstCalls, History, RunTimes, Setting

PROMPTS = (
    "a large red circle moving right on a black background",
    "on a white background, a small blue square rising",
    "a big green triangle, standing still, black background",
)
CALIBRATION_STEPS, CALIBRATION_ROUNDS = (1, 2, 4, 8, 16, 32), 10


@dataclass(frozen=True)
class Calm:
    """What was measured of the calm machine. minimum: typical seconds of a run of one jump."""

    setting: Setting
    history: History

    @property
    def jump(self) -> float:
        """Typical seconds."""
        return self._typical("jump")

    @property
    def minimum(self) -> float:
        """Typical seconds."""
        return sum(map(self._typical, ("text", "conditioner", "jump", "decode")))

    def _typical(self, stage: str) -> float:
        found = self.history.typical(stage)
        if found is None:
            raise AnyflowError(f"calibrating measured no warm {stage}; give the benchmark more runs")
        return found


def measure_calm(bundle: Bundle, engine: str | None, precision: str | None) -> Calm:
    """Runs without a budget, frames as their result."""
    with own_state(), open_runtime(bundle, engine, precision) as runtime:
        for number in range(CALIBRATION_ROUNDS):
            for steps in CALIBRATION_STEPS:
                runtime.generate(PROMPTS[number % len(PROMPTS)], steps=steps, seed=number)
        size = bundle.defaults.size
        setting = Setting(runtime.engine, runtime.precision, size.num_frames, size.height, size.width)
        return Calm(setting, runtime.latencies.store().load().history(setting))


def open_runtime(bundle: Bundle, engine: str | None, precision: str | None) -> Runtime:
    """Open, its engines too, that has not run."""
    runtime = Runtime(bundle, engine=engine, precision=precision)
    try:
        runtime.wait()
    except BaseException:
        runtime.close()
        raise
    return runtime


def write_profile(bundle: Bundle, calm: Calm, factor: float) -> None:
    """What was measured, its times multiplied."""
    store = profile_store(bundle.id, calm.setting.engine)
    for run in calm.history.runs:
        jumps = tuple(factor * seconds for seconds in run.jumps)
        rest = {name: _scaled(getattr(run, name), factor) for name in ("text", "conditioner", "decode", "encode")}
        store.add(calm.setting, RunTimes(jumps=jumps, **rest))
    for first in calm.history.first:
        scaled = {name: _scaled(getattr(first, name), factor) for name in ("text", "conditioner", "jump", "decode")}
        store.add(calm.setting, RunTimes(), FirstCalls(**scaled, opening=first.opening))
    store.save()


def _scaled(seconds: float | None, factor: float) -> float | None:
    return None if seconds is None else factor * seconds


@contextlib.contextmanager
def own_state() -> Iterator[Path]:
    """What is measured here stays here: the user's own profile is neither read nor written."""
    before = os.environ.get("ANYFLOW_RT_STATE")
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-budget-") as folder:
        os.environ["ANYFLOW_RT_STATE"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["ANYFLOW_RT_STATE"]
            else:
                os.environ["ANYFLOW_RT_STATE"] = before
