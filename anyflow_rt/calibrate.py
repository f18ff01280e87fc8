"""What a bundle's stages take on this machine: measured at several numbers of jumps, kept in the latency profile.

Runs refine the profile by themselves; this makes one where there is none, so that the first budget is already planned
with measured times. Warm runs first, in turns over the step counts, then runs that open their engines as
``anyflow-rt run`` does. All write an mp4 to a temporary directory, as that is what ``run`` does.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.errors import UsageError
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.latency import STAGES, History, Setting
from anyflow_rt.sampling.recorder import RunRecorder
from anyflow_rt.sampling.schedule import GRID_INTERVALS, check_steps

PROMPT = "a large red circle moving right on a black background"
CONFIDENCE = 0.95
SHOWN_STEPS = (1, 2, 4, 8, 16, 32)

Report = Callable[[str], object]


@dataclass(frozen=True)
class CalibrateOptions:
    """steps: of the runs of one round. rounds: at most so many, none begins after ``seconds``, but one always runs.
    openings: runs that open their engines first. size None: the bundle's default video, on engines made for it; other
    sizes run on engines made for none, as ``anyflow-rt run`` opens them."""

    steps: Sequence[int] = (1, 2, 4, 8, 16)
    rounds: int = 8
    seconds: float = 60.0
    openings: int = 3
    size: VideoSize | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise UsageError("steps is empty; give the step counts to measure, such as 1,2,4,8")
        for count in self.steps:
            check_steps(count)
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not self.seconds >= 0:
            raise UsageError(f"seconds is {self.seconds!r}; give a number of at least 0")
        for name in ("rounds", "openings"):
            value, least = getattr(self, name), 1 if name == "rounds" else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UsageError(f"{name} is {value!r}; give a whole number of at least {least}")


@dataclass(frozen=True)
class StageTimes:
    """Seconds of one stage: the median and the 0.95 quantile of ``runs`` warm calls, and the median first call.

    None where there are none.
    """

    stage: str
    runs: int
    median: float | None
    high: float | None
    first: float | None


@dataclass(frozen=True)
class Calibrated:
    """What the profile now says of one setting. budgets: (steps, seconds) that a warm run to a file stays within at
    ``CONFIDENCE``."""

    profile: Path
    setting: Setting
    stages: tuple[StageTimes, ...]
    budgets: tuple[tuple[int, float], ...]
    seconds: float


def calibrate(
    bundle: Bundle,
    options: CalibrateOptions | None = None,
    *,
    engine: str | None = None,
    precision: str | None = None,
    report: Report = lambda line: None,
) -> Calibrated:
    """Measure, and write the profile. ``report`` gets a line for each thing as it begins.

    Raises UsageError for options that cannot be, OutputError where the profile cannot be written.
    """
    wanted, start = options or CalibrateOptions(), time.perf_counter()
    size = bundle.defaults.size if wanted.size is None else wanted.size
    specialize = wanted.size is None
    latent_size(bundle.architecture, size)  # a size that cannot be is said before engines open
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-calibrate-") as folder:
        place = Path(folder) / "out.mp4"
        with Runtime(bundle, engine=engine, precision=precision, specialize=specialize) as runtime:
            runtime.wait()
            store = runtime.latencies.store()
            setting = Setting(runtime.engine, runtime.precision, size.num_frames, size.height, size.width)
            report(f"measuring {setting.engine} {setting.precision}, {_words(size)}: warm runs")
            for done in range(wanted.rounds):
                if done and time.perf_counter() - start > wanted.seconds:
                    break
                for steps in wanted.steps:
                    _run(runtime, place, steps, size)
            runtime.latencies.store().save()
        for index in range(wanted.openings):
            if index and time.perf_counter() - start > wanted.seconds:
                break
            report(f"measuring a run that opens its engines ({index + 1} of {wanted.openings})")
            with Runtime(bundle, engine=engine, precision=precision, specialize=specialize, single_use=True) as runtime:
                _run(runtime, place, 2, size)
    history = store.load().history(setting)
    return Calibrated(
        profile=store.path,
        setting=setting,
        stages=tuple(_stage(history, stage) for stage in STAGES),
        budgets=_budgets(history),
        seconds=time.perf_counter() - start,
    )


def _run(runtime: Runtime, place: Path, steps: int, size: VideoSize) -> None:
    runtime.generate_to_file(
        place, PROMPT, steps=steps, num_frames=size.num_frames, height=size.height, width=size.width
    )


def _stage(history: History, stage: str) -> StageTimes:
    seconds = history.seconds(stage)
    return StageTimes(
        stage,
        runs=len(seconds),
        median=history.quantile(stage, 0.5),
        high=history.quantile(stage, CONFIDENCE),
        first=history.beginning(opening=True).first_quantile(stage, 0.5),
    )


def _budgets(history: History) -> tuple[tuple[int, float], ...]:
    forecaster = Forecaster(history, encode=True, recorder=RunRecorder(cold=()))
    found = [(steps, forecaster.smallest_budget(CONFIDENCE, steps)) for steps in SHOWN_STEPS if steps <= GRID_INTERVALS]
    return tuple((steps, seconds) for steps, seconds in found if seconds is not None)


def _words(size: VideoSize) -> str:
    return f"{size.num_frames} frames of {size.width}x{size.height}"
