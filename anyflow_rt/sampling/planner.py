"""The best plan that fits: pure, from numbers alone.

The cost of a plan is the sum of its jumps' costs, and its latency depends on how many jumps it has. So the cheapest
path from every node to 0 in exactly k jumps, found once by dynamic programming,

    cost(i, k) = min over j < i of c(i -> j) + cost(j, k - 1),        cost(i, 1) = c(i -> 0)

leaves a decision with one question: which k. It is the k whose predicted finish fits and whose value
g(cost so far + cost(i, k)) is best, the smallest such k where several are worth the same. Jumps already run count
with their cost, not with their time; one jump to 0 is always in the set, and is taken where nothing fits.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from anyflow_rt.sampling.limits import NO_LIMITS, Limits
from anyflow_rt.sampling.quality import Quality, even_next
from anyflow_rt.sampling.schedule import GRID_INTERVALS

ROUNDING = 1e-9
"""Relative difference of two sums of the same costs in another order, generously."""


@dataclass(frozen=True)
class Position:
    """Where a run is: its node, the jumps already run and the sum of their costs."""

    node: int = GRID_INTERVALS
    done: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """``jumps`` more jumps over ``path`` (from the current node to 0), the whole run then worth ``value``.

    ``predicted`` is the seconds from now to the finish at the asked confidence; ``fits`` says whether they were there.
    """

    jumps: int
    path: tuple[int, ...]
    value: float
    predicted: float
    fits: bool


@dataclass(frozen=True)
class Tables:
    """Cheapest paths to 0, by node and number of jumps k. Index 0 of each inner tuple (no jump) is unused.

    ``costs[i][k]``: the path's cost. ``stops[i][k]``: its first stop. ``lowest[i][k]``: the lowest cost among
    1..k jumps.
    """

    quality: Quality
    non_uniform: bool
    costs: tuple[tuple[float, ...], ...]
    stops: tuple[tuple[int, ...], ...]
    lowest: tuple[tuple[float, ...], ...]
    _paths: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    def path(self, node: int, jumps: int) -> tuple[int, ...]:
        """The nodes of the cheapest path of ``jumps`` jumps from ``node`` to 0, both included."""
        found = self._paths.get((node, jumps))
        if found is None:
            path = [node]
            for left in range(jumps, 0, -1):
                path.append(self.stops[path[-1]][left])
            found = self._paths[node, jumps] = tuple(path)
        return found


def make_tables(quality: Quality, *, non_uniform: bool = True) -> Tables:
    """What every decision looks up; once per calibration (milliseconds).

    non_uniform: paths may be any; otherwise only the most even division of what is left into k jumps, which on the
    way from noise is the uniform plan (exactly, where k divides 32).
    """
    costs: list[list[float]] = [[0.0]]
    stops: list[list[int]] = [[0]]
    for node in range(1, quality.nodes + 1):
        jump = quality.costs[node]
        costs.append([0.0, jump[0]])
        stops.append([0, 0])
        for jumps in range(2, node + 1):
            ends = range(jumps - 1, node) if non_uniform else (even_next(node, jumps),)
            cost, end = min((jump[end] + costs[end][jumps - 1], end) for end in ends)
            costs[node].append(cost)
            stops[node].append(end)
    lowest = [[0.0, *accumulate(row[1:], min)] for row in costs]
    return Tables(
        quality,
        non_uniform,
        costs=tuple(map(tuple, costs)),
        stops=tuple(map(tuple, stops)),
        lowest=tuple(map(tuple, lowest)),
    )


def choose(
    tables: Tables, required: Sequence[float], remaining: float, position: Position, limits: Limits = NO_LIMITS
) -> Choice:
    """The plan from here. ``required[k]``, k = 0..node: predicted seconds for k more jumps and all that follows, at
    the asked confidence, not descending. ``remaining``: seconds to the deadline; negative where it has passed.

    The fewest jumps that ``limits`` allow are taken where no allowed number fits. ``position.node`` must be above 0.
    """
    node, spent = position.node, position.cost
    most = max(1, min(node, limits.max_steps - position.done))
    least = min(max(1, limits.min_steps - position.done), most)
    fitting = bisect_right(required, remaining, 0, most + 1) - 1
    fits = fitting >= least
    jumps = _best(tables, node, spent, least, fitting) if fits else least
    value = tables.quality.value(spent + tables.costs[node][jumps])
    return Choice(jumps, tables.path(node, jumps), value, required[jumps], fits)


def _best(tables: Tables, node: int, spent: float, least: int, most: int) -> int:
    """Of least..most jumps the fewest that are worth as much as the cheapest path."""
    if least == 1:
        lowest = tables.lowest[node]
        enough = _worth_as_much(tables, spent, lowest[most])
        # ``lowest`` never ascends: search it from its end, where it ascends.
        return bisect_left(range(1, most + 1), True, key=lambda jumps: lowest[jumps] <= enough) + 1
    costs = tables.costs[node]
    enough = _worth_as_much(tables, spent, min(costs[least : most + 1]))
    return next(jumps for jumps in range(least, most + 1) if costs[jumps] <= enough)


def _worth_as_much(tables: Tables, spent: float, cost: float) -> float:
    total = spent + cost
    return max(tables.quality.same_value_up_to(total) * (1.0 + ROUNDING) - spent, cost)
