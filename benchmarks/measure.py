"""Measuring side by side, on a machine that others may use too.

What is compared runs in one process, alternating, in an order that rotates, on the same inputs within a round and on
others in the next. Reported are the median, the extremes and n; a ratio is taken round by round, then its median.
Each reading begins after a garbage collection and a short sleep, in which worker threads of the library that ran
before stop spinning.
"""

from __future__ import annotations

import gc
import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from anyflow_rt.errors import AnyflowError, MissingPackageError, UsageError

BUSY_CORES = 0.3
"""Cores that other processes may use before a time means nothing."""
WATCH_SECONDS = 1.0
FEWEST_ROUNDS = 5
SETTLE_SECONDS = 0.05

_Answer = TypeVar("_Answer")


class BusyMachineError(AnyflowError):
    """Other processes use too much of the machine for a time to mean anything."""


@dataclass(frozen=True)
class Sample:
    """One thing measured several times, in the order of the rounds. ``unit``: s, x, MB, GFLOP/s or none."""

    name: str
    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        scale, unit = (1e3, "ms") if self.unit == "s" and self.median < 1 else (1.0, self.unit)
        median, low, high = (f"{scale * value:.4g}" for value in (self.median, min(self.values), max(self.values)))
        return f"{median} {unit} ({low} to {high}, n {len(self.values)})"


def ratios(name: str, over: Sample, under: Sample) -> Sample:
    """``over`` / ``under``, round by round. Raises ValueError where they were not measured in the same rounds."""
    pairs = zip(over.values, under.values, strict=True)
    return Sample(name, tuple(upper / lower for upper, lower in pairs), "x")


def fastest(samples: Sequence[Sample]) -> Sample:
    """The one of the lowest median."""
    return min(samples, key=lambda sample: sample.median)


def interleave(contenders: Mapping[str, Callable[[int], _Answer]], rounds: int) -> dict[str, list[_Answer]]:
    """What every contender answers in every round; each is called with the round's number."""
    names = list(contenders)
    answers: dict[str, list[_Answer]] = {name: [] for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            gc.collect()
            time.sleep(SETTLE_SECONDS)
            answers[name].append(contenders[name](number))
    return answers


def alternate(contenders: Mapping[str, Callable[[int], object]], rounds: int) -> dict[str, Sample]:
    """Seconds of every contender in every round. They must be warm: the first call counts like the others."""

    def timed(contender: Callable[[int], object], number: int) -> float:
        start = time.perf_counter()
        contender(number)
        return time.perf_counter() - start

    seconds = interleave({name: partial(timed, contender) for name, contender in contenders.items()}, rounds)
    return {name: Sample(name, tuple(values)) for name, values in seconds.items()}


@dataclass(frozen=True)
class Conditions:
    """How to measure. ``say`` gets a line of progress or of a result that comes before the others."""

    rounds: int = FEWEST_ROUNDS
    allow_busy: bool = False
    say: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        fewest = 1 if self.allow_busy else FEWEST_ROUNDS
        if self.rounds < fewest:
            raise UsageError(f"{self.rounds} repetitions say nothing; give --repetitions of at least {fewest}")

    def quiet(self) -> Watch:
        """Look at the machine for a second and go on watching it.

        Raises BusyMachineError where others use more than ``BUSY_CORES``, unless ``allow_busy``.
        """
        watch = Watch()
        before = _seconds_by_process()
        time.sleep(WATCH_SECONDS)
        self._refuse_if_busy("use", watch.other_cores(), before)
        return Watch()

    def still_quiet(self, watch: Watch) -> float:
        """Cores that others used since ``watch`` began. Raises as ``quiet``."""
        cores = watch.other_cores()
        self._refuse_if_busy("used, during the measurement,", cores, {})
        return cores

    def _refuse_if_busy(self, verb: str, cores: float, before: Mapping[int, float]) -> None:
        if cores > BUSY_CORES and not self.allow_busy:
            raise BusyMachineError(
                f"other processes {verb} {cores:.2f} of a core{_busiest(before)}, and more than {BUSY_CORES} makes "
                "times meaningless; stop or pause them, or pass --allow-busy for figures that are marked as not valid"
            )


class Watch:
    """The processor time that others use from now on: all of the machine's, less that of this process and of the
    children it has waited for."""

    def __init__(self) -> None:
        self._start = (time.perf_counter(), _machine_seconds(), _own_seconds())

    def other_cores(self) -> float:
        """Average number of cores since the start."""
        clock, machine, own = self._start
        others = (_machine_seconds() - machine) - (_own_seconds() - own)
        return max(0.0, others / (time.perf_counter() - clock))


def _machine_seconds() -> float:
    spent = _psutil().cpu_times()
    return sum(getattr(spent, kind, 0.0) for kind in ("user", "nice", "system", "irq", "softirq"))


def _own_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _seconds_by_process() -> dict[int, float]:
    found = {}
    for process in _psutil().process_iter(["cpu_times"]):
        spent = process.info["cpu_times"]
        if spent is not None:
            found[process.pid] = spent.user + spent.system
    return found


def _busiest(before: Mapping[int, float]) -> str:
    """The processes that have used most since ``before``, as part of a sentence."""
    after = _seconds_by_process() if before else {}
    used = {pid: after[pid] - before.get(pid, 0.0) for pid in after if pid != os.getpid()}
    names = []
    for pid in sorted(used, key=lambda pid: -used[pid])[:3]:
        if used[pid] > 0.05 and _psutil().pid_exists(pid):
            names.append(f"{_psutil().Process(pid).name()} {pid}")
    return f" ({', '.join(names)})" if names else ""


def _psutil():
    try:
        import psutil
    except ImportError as error:
        raise MissingPackageError("psutil", "bench", "measuring") from error
    return psutil
