"""A simulated machine on a virtual clock: heavy-tailed steps, bursts of other work, a hundred thousand runs in seconds.

Every step is an amount of work, drawn beforehand with the request; the machine does one second of work a second, or
less while others use it. So every policy meets the same work and the same bursts, and what a run of any other number
of jumps would have taken from the same moment can be computed exactly. The decisions are ``Controller``'s own.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from anyflow_rt.benchmarks.budget import load
from anyflow_rt.benchmarks.budget.runs import Runs
from anyflow_rt.errors import UsageError
from anyflow_rt.sampling.controller import Controller
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.latency import History, RunTimes
from anyflow_rt.sampling.limits import NO_LIMITS, Limits
from anyflow_rt.sampling.planner import Tables
from anyflow_rt.sampling.schedule import GRID_INTERVALS


@dataclass(frozen=True)
class Costs:
    """Typical seconds of the stages, and how steps vary: lognormal by step and by run, and rare long ones."""

    text: float = 0.001
    conditioner: float = 0.001
    jump: float = 0.010
    decode: float = 0.020
    step_spread: float = 0.04
    run_spread: float = 0.02
    spike_chance: float = 0.003
    spike_tail: float = 2.0
    """Exponent of the Pareto distribution of what a long step takes more, in typical steps."""
    longest_spike: float = 20.0

    @property
    def minimum(self) -> float:
        """Typical seconds of a run of one jump."""
        return self.text + self.conditioner + self.jump + self.decode


@dataclass(frozen=True)
class Bursts:
    """Other work that comes and goes: mean seconds of both, and the range of how many times longer steps then take."""

    pause: float = 6.0
    burst: float = 2.0
    slowest: float = 2.6
    fastest: float = 1.6


USUAL_BURSTS = Bursts()
CHOKING_BURSTS = Bursts(slowest=40.0, fastest=10.0)
"""Threads that wait for each other, one of them without a core: measured with a burner on each core."""
MACHINES = {"calm": None, "contended": USUAL_BURSTS, "choked": CHOKING_BURSTS}


class Machine:
    """Work and time: piecewise constant speed, 1 outside bursts and after ``horizon`` seconds."""

    def __init__(self, bursts: Bursts | None, horizon: float, rng: np.random.Generator) -> None:
        times, work, speed = [0.0], [0.0], [1.0]
        while bursts is not None and times[-1] < horizon:
            for length, pace in (
                (rng.exponential(bursts.pause), 1.0),
                (rng.exponential(bursts.burst), 1.0 / rng.uniform(bursts.fastest, bursts.slowest)),
            ):
                speed[-1] = pace
                times.append(times[-1] + length)
                work.append(work[-1] + length * pace)
                speed.append(1.0)
        self._times, self._work, self._speed = times, work, speed

    def finish(self, start: float, work: float) -> float:
        """When ``work`` begun at ``start`` is done."""
        at = bisect_right(self._times, start) - 1
        goal = self._work[at] + (start - self._times[at]) * self._speed[at] + work
        while at + 1 < len(self._work) and self._work[at + 1] <= goal:
            at += 1
        return self._times[at] + (goal - self._work[at]) / self._speed[at]

    def finish_all(self, starts: np.ndarray, work: np.ndarray) -> np.ndarray:
        """The same of many: starts (n,), work (n, k) -> (n, k)."""
        times, done, speed = (np.array(each) for each in (self._times, self._work, self._speed))
        at = np.searchsorted(times, starts, side="right") - 1
        goal = (done[at] + (starts - times[at]) * speed[at])[:, None] + work
        at = np.searchsorted(done, goal, side="right") - 1
        return times[at] + (goal - done[at]) / speed[at]


@dataclass(frozen=True)
class Requests:
    """Arrivals, budgets (n,) and the work of every stage: jumps (n, 32), the others (n,)."""

    arrivals: np.ndarray
    budgets: np.ndarray
    text: np.ndarray
    conditioner: np.ndarray
    jumps: np.ndarray
    decode: np.ndarray


def make_requests(
    costs: Costs, count: int, rng: np.random.Generator, *, arrivals: str = "poisson", budgets: str = "jumps"
) -> Requests:
    """Seeded requests that keep the machine busy for about 80% of the time."""
    gap = (costs.minimum + load.MOST_JUMPS / 2 * costs.jump) / 0.8
    common = np.exp(rng.normal(0.0, costs.run_spread, (count, 1)))

    def work(seconds: float, steps: int) -> np.ndarray:
        usual = np.exp(rng.normal(0.0, costs.step_spread, (count, steps))) * common
        long = np.minimum(rng.pareto(costs.spike_tail, (count, steps)) + 1.0, costs.longest_spike)
        return seconds * (usual + np.where(rng.random((count, steps)) < costs.spike_chance, long, 0.0))

    return Requests(
        load.arrivals(arrivals, count, gap, rng),
        load.budgets(budgets, count, costs.minimum, costs.jump, rng),
        work(costs.text, 1)[:, 0],
        work(costs.conditioner, 1)[:, 0],
        work(costs.jump, GRID_INTERVALS),
        work(costs.decode, 1)[:, 0],
    )


def profile(costs: Costs, rng: np.random.Generator, *, runs: int = 20, factor: float = 1.0) -> History:
    """What calibrating on the calm machine leaves: ``runs`` runs of 16 jumps. factor: wrong by so much."""
    requests = make_requests(replace(costs, spike_chance=0.0), runs, rng)
    return History(
        tuple(
            RunTimes(
                text=factor * requests.text[i],
                conditioner=factor * requests.conditioner[i],
                jumps=tuple((factor * requests.jumps[i, :16]).tolist()),
                decode=factor * requests.decode[i],
            )
            for i in range(runs)
        )
    )


def machine(kind: str, requests: Requests, rng: np.random.Generator) -> Machine:
    """One of ``MACHINES``; raises UsageError for others."""
    if kind not in MACHINES:
        raise UsageError(f"the machine is {kind!r}; give one of {', '.join(MACHINES)}")
    horizon = 4.0 * float(requests.arrivals[-1]) + 60.0
    return Machine(MACHINES[kind], horizon, rng)


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def simulate(
    place: Machine,
    requests: Requests,
    tables: Tables,
    forecaster: Forecaster,
    *,
    confidence: float,
    limits: Limits = NO_LIMITS,
) -> Runs:
    """Serve the requests one after the other; a budget counts from the moment its request is taken up.

    What comes back holds, for every request, also the finish of every other number of jumps from the same moment.
    """
    clock = _Clock()
    rows: list[tuple[float, ...]] = []
    overhead: list[float] = []
    jumps = requests.jumps.tolist()
    for i, (arrival, budget) in enumerate(zip(requests.arrivals.tolist(), requests.budgets.tolist(), strict=True)):
        start = clock.now = max(clock.now, arrival)
        forecaster.start_run()
        _spend(place, clock, forecaster, "text", float(requests.text[i]))
        _spend(place, clock, forecaster, "conditioner", float(requests.conditioner[i]))
        controller = Controller(
            tables, forecaster, deadline=start + budget, confidence=confidence, limits=limits, clock=clock, start=start
        )
        _run_jumps(place, clock, controller, jumps[i], overhead)
        controller.before_decode()
        _spend(place, clock, forecaster, "decode", float(requests.decode[i]))
        forecaster.end_run()
        first = controller.decisions[0]
        rows.append(
            (
                start - arrival,
                start,
                clock.now - start,
                len(controller.visited) - 1,
                controller.decisions[-1].value,
                controller.predicted or np.nan,
                first.predicted or np.nan,
                len(first.path) - 1,
            )
        )
    waited, starts, seconds, steps, values, predicted, first_predicted, first_steps = np.array(rows).T
    before = (requests.text + requests.conditioner)[:, None]
    work = before + np.cumsum(requests.jumps, axis=1) + requests.decode[:, None]
    return Runs(
        budgets=requests.budgets,
        waited=waited,
        seconds=seconds,
        steps=steps.astype(int),
        values=values,
        predicted=predicted,
        first_steps=first_steps.astype(int),
        first_predicted=first_predicted,
        finish=place.finish_all(starts, work) - starts[:, None],
        known=np.full(len(rows), GRID_INTERVALS),
        place=np.arange(len(rows)),
        overhead=np.array(overhead),
    )


def _spend(place: Machine, clock: _Clock, forecaster: Forecaster, stage: str, work: float) -> None:
    end = place.finish(clock.now, work)
    forecaster.observe(stage, end - clock.now)
    clock.now = end


def _run_jumps(
    place: Machine, clock: _Clock, controller: Controller, work: Sequence[float], overhead: list[float]
) -> None:
    done = 0
    while True:
        before = time.perf_counter()
        move = controller.next_move()
        overhead.append(time.perf_counter() - before)
        if move is None:
            return
        end = place.finish(clock.now, work[done])
        controller.ran(move, end - clock.now)
        clock.now, done = end, done + 1
