"""Bytes that compiled code moves: its loads and stores, counted in the machine code, times the trips of their loops.

Machine code does not say how often a loop is gone through, and need not keep the source's loops: it may unroll them.
So trips are derived from something that no compiler repeats or leaves out:

- where an op stores all that it makes inside a loop, from its stores: trips are what makes them cover the outputs. They
  have to come out whole, or there is an error;
- where it does not (attention), from the lengths: full blocks of keys, and the one that is left. Loads ahead of the
  loop are the head start of its pipeline, which its last trips do without: they are not counted twice.

Machine code does not show masks either: it is counted with every lane awake, and so is the source. Their quotient is
``repeated``: 1 where the compiler asks for what the source asks for, less where it leaves out what masks hide from
every thread, or what a thread has read already. Bytes moved are the source's, masks respected (``work``; tests compare
them with what the interpreter sees), times that quotient where it is more than 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.sass import GLOBAL_LOADS, GLOBAL_STORES, Instruction, Listing, times
from anyflow_rt.kernels.work import Work

NARROW = 4
"""Bytes a thread of accesses that may be one address for many threads: they are left out of the comparison."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one launch. ``once``: the least there is. ``moved``: what is asked of memory and its caches.

    ``trips``: of each loop of the machine code. ``repeated``: what the compiler asks for over what the source does.
    """

    once: int
    moved: float
    repeated: float
    trips: tuple[int, ...]

    @property
    def ratio(self) -> float:
        """Moved over least."""
        return self.moved / self.once


def traffic_of(listing: Listing, work: Work, warps: int) -> Traffic:
    """Raises EngineError where the code's stores cannot cover the outputs in whole trips."""
    threads = 32 * warps
    if work.trips:
        trips = _known_trips(listing, work.trips)
        counted = [each for each in listing.of(*GLOBAL_LOADS) if each.loops]
        expected = sum(stream.lanes for stream in work.streams if stream.inner)
    else:
        trips = _trips_by_stores(listing, work, threads)
        counted = listing.of(*GLOBAL_LOADS, *GLOBAL_STORES)
        expected = sum(stream.lanes for stream in work.streams)
    seen = threads * sum(each.width * times(each, trips) for each in counted if each.width > NARROW)
    repeated = seen / expected
    return Traffic(work.once, max(1.0, repeated) * work.asked, repeated, trips)


def _trips_by_stores(listing: Listing, work: Work, threads: int) -> tuple[int, ...]:
    stores = listing.of(*GLOBAL_STORES)
    used = {loop for each in stores for loop in each.loops}
    if not used:
        return (1,) * len(listing.loops)
    if len(used) > 1:
        raise EngineError(f"the kernel stores in {len(used)} loops; one is what can be counted")
    outside = threads * sum(each.width for each in stores if not each.loops)
    inside = threads * sum(each.width for each in stores if each.loops)
    wanted = sum(stream.lanes for stream in work.streams if stream.stored) - outside
    if wanted % inside:
        raise EngineError(f"{wanted} bytes are to be stored by a loop that stores {inside} a trip")
    return tuple(wanted // inside if loop in used else 1 for loop in range(len(listing.loops)))


def _known_trips(listing: Listing, trips: tuple[int, ...]) -> tuple[int, ...]:
    """The source's loops in order, given to the code's loops that load; others are gone through once."""
    loading = sorted({loop for each in listing.of(*GLOBAL_LOADS) for loop in each.loops})
    if len(loading) != len(trips):
        raise EngineError(f"the kernel loads in {len(loading)} loops; its source has {len(trips)}")
    known = dict(zip(loading, trips, strict=True))
    return tuple(known.get(loop, 1) for loop in range(len(listing.loops)))


def vector_share(instructions: list[Instruction], trips: tuple[int, ...], width: int = 16) -> float:
    """Share of the bytes that go in accesses of at least ``width`` bytes a thread."""
    moved = [(each.width, each.width * times(each, trips)) for each in instructions]
    total = sum(count for _, count in moved)
    return sum(count for wide, count in moved if wide >= width) / total if total else 1.0
