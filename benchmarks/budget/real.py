"""Budgeted requests on this machine: open-loop load, other work that comes and goes, profiles that are wrong.

The machine is calibrated first, calm, by runs without a budget. Every case then begins in a state directory of its own
with that profile, its times multiplied by the case's factor, and an open runtime that has not run: the first request
pays the first calls. A wrong profile is made up for in a few runs, so such a case begins several times. Requests are
served one after the other in the order they arrive; a request that arrives while another is served waits, and its
budget counts from when it is taken up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from anyflow_rt.benchmarks.budget import load
from anyflow_rt.benchmarks.budget.burners import Burners
from anyflow_rt.benchmarks.budget.calm import PROMPTS, Calm, measure_calm, open_runtime, own_state, write_profile
from anyflow_rt.benchmarks.budget.runs import Record, collect
from anyflow_rt.benchmarks.budget.simulated import USUAL_BURSTS
from anyflow_rt.benchmarks.budget.sweep import RECOVERY_RUNS, Case, Measured, score_case
from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.errors import UsageError
from anyflow_rt.result import Result
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.quality import Quality

CASES = (
    Case("calm", 0.99),
    Case("calm", 0.95),
    Case("contended", 0.99),
    Case("calm", 0.95, arrivals="bursty"),
    Case("contended", 0.95, arrivals="bursty", budgets="factor"),
    Case("calm", 0.95, profile_factor=0.5),
    Case("calm", 0.95, profile_factor=2.0),
)
RECOVERIES, RECOVERY_REQUESTS = 5, 3 * RECOVERY_RUNS
"""Times that a case with a wrong profile begins, and requests of each: what comes after is a case with a right one."""
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


def run_case(
    case: Case,
    bundle: Bundle,
    calm: Calm,
    quality: Quality,
    options: RealOptions,
    progress: Progress = lambda done, total: None,
) -> list[list[Record]]:
    """Serve one case's requests, as often as it begins. quality: the measured one."""
    counts = [options.requests]
    if case.profile_factor != 1.0:
        total = min(options.requests, RECOVERIES * RECOVERY_REQUESTS)
        counts = [min(RECOVERY_REQUESTS, total - begun) for begun in range(0, total, RECOVERY_REQUESTS)]
    parts: list[list[Record]] = []
    for number, count in enumerate(counts):
        before = sum(counts[:number])

        def tell(done: int, _: int, before: int = before) -> None:
            progress(before + done, sum(counts))

        parts.append(_run_part(case, bundle, calm, quality, options, number, count, tell))
    return parts


def _run_part(
    case: Case,
    bundle: Bundle,
    calm: Calm,
    quality: Quality,
    options: RealOptions,
    number: int,
    count: int,
    progress: Progress,
) -> list[Record]:
    seed = options.seed + number
    rng = np.random.default_rng(seed)
    gap = (calm.minimum + load.MOST_JUMPS / 2 * calm.jump) / BUSY_SHARE
    arrivals = load.arrivals(case.arrivals, count, gap, rng)
    budgets = load.budgets(case.budgets, count, calm.minimum, calm.jump, rng)
    with own_state():
        write_profile(bundle, calm, case.profile_factor)
        with open_runtime(bundle, options.engine, options.precision) as runtime, _contention(case.machine, seed):
            runtime.plan_by(case.quality(quality))
            return serve(runtime, arrivals, budgets, case.confidence, seed, progress)


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
) -> Iterator[Measured]:
    """Every case as it ends.

    Raises BusyMachineError where others use the machine that is to be calm.
    """
    watch = conditions.quiet()
    calm = measure_calm(bundle, options.engine, options.precision)
    conditions.still_quiet(watch)
    conditions.say(
        f"calm: a jump {calm.jump * 1e3:.1f} ms, the shortest run {calm.minimum * 1e3:.1f} ms "
        f"({calm.setting.engine} {calm.setting.precision})"
    )
    for case in options.cases:

        def tell(done: int, total: int, case: Case = case) -> None:
            progress(case, done, total)

        watch = conditions.quiet()
        parts = run_case(case, bundle, calm, quality, options, tell)
        others = conditions.still_quiet(watch) if case.machine == "calm" else None
        yield Measured(score_case(case, collect(parts), quality), others, parts)


def _contention(machine: str, seed: int) -> contextlib.AbstractContextManager[object]:
    if machine == "calm":
        return contextlib.nullcontext()
    return Burners(pause=USUAL_BURSTS.pause, burst=USUAL_BURSTS.burst, seed=seed)
