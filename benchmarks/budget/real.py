"""Budgeted requests on this machine: open-loop load, other work that comes and goes, profiles that are wrong.

The machine is calibrated first, calm, by runs without a budget. Every case then begins in a state directory of its own
with that profile, its times multiplied by the case's factor, and an open runtime that has not run: the first request
pays the first calls. Requests are served one after the other in the order they arrive; a request that arrives while
another is served waits, and its budget counts from when it is taken up.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from anyflow_rt.benchmarks.budget import load
from anyflow_rt.benchmarks.budget.burners import Burners
from anyflow_rt.benchmarks.budget.runs import Record, Runs, collect
from anyflow_rt.benchmarks.budget.simulated import USUAL_BURSTS
from anyflow_rt.benchmarks.budget.sweep import RECOVERY_RUNS, Case, Outcome, score_case
from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import AnyflowError, UsageError
from anyflow_rt.latencies import profile_store
from anyflow_rt.result import Result
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.latency import FirstCalls, History, RunTimes, Setting
from anyflow_rt.sampling.quality import Quality

PROMPTS = (
    "a large red circle moving right on a black background",
    "on a white background, a small blue square rising",
    "a big green triangle, standing still, black background",
)
CASES = (
    Case("calm", 0.99),
    Case("calm", 0.95),
    Case("contended", 0.99),
    Case("contended", 0.95, arrivals="bursty", budgets="factor"),
    Case("calm", 0.95, profile_factor=0.5),
    Case("calm", 0.95, profile_factor=2.0),
)
RECOVERY_REQUESTS = 5 * RECOVERY_RUNS
"""Of a case with a wrong profile: what comes after that is a case with a right one."""
CALIBRATION_STEPS, CALIBRATION_ROUNDS = (1, 2, 4, 8, 16, 32), 10
BUSY_SHARE = 0.8
"""Of the time that requests keep the calm machine busy."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class RealOptions:
    """requests: of each case with a right profile. seed: of arrivals, budgets, bursts and videos."""

    requests: int = 1000
    seed: int = 0
    engine: str | None = None
    precision: str | None = None
    cases: Sequence[Case] = CASES

    def __post_init__(self) -> None:
        if isinstance(self.requests, bool) or not isinstance(self.requests, int) or self.requests < 1:
            raise UsageError(f"requests is {self.requests!r}; give a whole number of at least 1")


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


def measure_calm(bundle: Bundle, options: RealOptions) -> Calm:
    """Runs without a budget, frames as their result."""
    with _own_state(), _open(bundle, options) as runtime:
        for number in range(CALIBRATION_ROUNDS):
            for steps in CALIBRATION_STEPS:
                runtime.generate(PROMPTS[number % len(PROMPTS)], steps=steps, seed=number)
        size = bundle.defaults.size
        setting = Setting(runtime.engine, runtime.precision, size.num_frames, size.height, size.width)
        return Calm(setting, runtime.latencies.store().load().history(setting))


def run_case(
    case: Case,
    bundle: Bundle,
    calm: Calm,
    quality: Quality,
    options: RealOptions,
    progress: Progress = lambda done, total: None,
) -> Runs:
    """Serve one case's requests. quality: the measured one."""
    count = options.requests if case.profile_factor == 1.0 else min(options.requests, RECOVERY_REQUESTS)
    rng = np.random.default_rng(options.seed)
    gap = (calm.minimum + load.MOST_JUMPS / 2 * calm.jump) / BUSY_SHARE
    arrivals = load.arrivals(case.arrivals, count, gap, rng)
    budgets = load.budgets(case.budgets, count, calm.minimum, calm.jump, rng)
    with _own_state():
        _write_profile(bundle, calm, case.profile_factor)
        with _open(bundle, options) as runtime, _contention(case.machine, options.seed):
            runtime.plan_by(case.quality(quality))
            return collect(serve(runtime, arrivals, budgets, case.confidence, options.seed, progress))


def serve(
    runtime: Runtime,
    arrivals: np.ndarray,
    budgets: np.ndarray,
    confidence: float,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> list[Record]:
    """Requests (n,) in the order they arrive, in seconds from now, each with its budget in seconds."""
    begin = time.perf_counter()
    records = []
    for number, (arrival, budget) in enumerate(zip(arrivals.tolist(), budgets.tolist(), strict=True)):
        early = begin + arrival - time.perf_counter()
        if early > 0:
            time.sleep(early)
        waited = time.perf_counter() - begin - arrival
        result = runtime.generate(
            PROMPTS[number % len(PROMPTS)], budget=budget, confidence=confidence, seed=seed + number
        )
        records.append(as_record(result, waited))
        progress(number + 1, len(arrivals))
    return records


def as_record(result: Result, waited: float) -> Record:
    """A budgeted run, which decoded. Its jumps are the times between decisions: what is between two jumps counts."""
    report, decisions = result.budget, result.decisions
    assert report is not None
    times = [decision.at for decision in decisions]
    return Record(
        budget=report.seconds,
        waited=waited,
        seconds=report.taken,
        before=times[0],
        jumps=tuple(after - before for before, after in pairwise(times)),
        after=report.taken - times[-1],
        value=decisions[-1].value,
        predicted=report.predicted,
        first_steps=report.planned_steps,
        first_predicted=decisions[0].predicted,
        overhead=report.planning,
    )


def run_cases(
    bundle: Bundle,
    quality: Quality,
    options: RealOptions,
    conditions: Conditions,
    progress: Callable[[Case, int, int], None] = lambda case, done, total: None,
) -> Iterator[tuple[Outcome, float | None]]:
    """Every case with its scores as it ends, and how many cores others used meanwhile (None where that was ours).

    Raises BusyMachineError where others use the machine that is to be calm.
    """
    watch = conditions.quiet()
    calm = measure_calm(bundle, options)
    conditions.still_quiet(watch)
    conditions.say(
        f"calm: a jump {calm.jump * 1e3:.1f} ms, the shortest run {calm.minimum * 1e3:.1f} ms "
        f"({calm.setting.engine} {calm.setting.precision})"
    )
    for case in options.cases:

        def tell(done: int, total: int, case: Case = case) -> None:
            progress(case, done, total)

        watch = conditions.quiet()
        runs = run_case(case, bundle, calm, quality, options, tell)
        others = conditions.still_quiet(watch) if case.machine == "calm" else None
        yield score_case(case, runs, quality), others


def _open(bundle: Bundle, options: RealOptions) -> Runtime:
    runtime = Runtime(bundle, engine=options.engine, precision=options.precision)
    try:
        runtime.wait()
    except BaseException:
        runtime.close()
        raise
    return runtime


def _contention(machine: str, seed: int) -> contextlib.AbstractContextManager[object]:
    if machine == "calm":
        return contextlib.nullcontext()
    return Burners(pause=USUAL_BURSTS.pause, burst=USUAL_BURSTS.burst, seed=seed)


def _write_profile(bundle: Bundle, calm: Calm, factor: float) -> None:
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
def _own_state() -> Iterator[Path]:
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
