"""Whether others used the machine while something was timed, kept in the journal: a resumed run did not see it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from anyflow_rt.benchmarks.measure import BUSY_CORES, Watch
from anyflow_rt.benchmarks.sweep.journal import FAULT
from anyflow_rt.benchmarks.sweep.tally import Tally

SHORTEST_WATCH = 1.0
"""Seconds: the system counts processor time too coarsely to judge less."""


@contextmanager
def watched(tally: Tally, what: str) -> Iterator[None]:
    """Note as a fault where other processes use more than ``BUSY_CORES`` meanwhile, also where it is interrupted."""
    watch, start = Watch(), time.perf_counter()
    try:
        yield
    finally:
        others = watch.other_cores()
        if others > BUSY_CORES and time.perf_counter() - start >= SHORTEST_WATCH:
            note_faults(tally, [f"other processes used {others:.1f} of a core while {what} was measured"])


def note_faults(tally: Tally, faults: Sequence[str]) -> None:
    """Keep in the journal why times measured until now mean nothing."""
    for fault in faults:
        if (fault,) not in tally.journal.get(FAULT):
            tally.journal.add(FAULT, (fault,), None)


def faults(tally: Tally) -> tuple[str, ...]:
    """Every fault noted, also before an interrupt."""
    return tuple(fault for (fault,) in tally.journal.get(FAULT))
