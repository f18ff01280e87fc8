"""The best plan that fits: pure, from numbers alone.

The cost of a plan is the sum of its jumps' costs, and its latency depends on how many jumps it has. So the cheapest
path from every node to 0 in exactly k jumps, found once by dynamic programming,

    cost(i, k) = min over j < i of c(i -> j) + cost(j, k - 1),        cost(i, 1) = c(i -> 0)

leaves a decision with one question: which k. It is the k of which most is expected: the chance that it is in time,
times the value g(cost so far + cost(i, k)) over that of a miss; the smallest such k where several are worth the same.
But the confidence comes first. A plan may be late as often as it leaves, and where even the shortest plan is late, in
bursts of other work, ``AS_THE_SHORTEST`` times as often more: what no plan escapes holds none back. Jumps already run
count with their cost, not with their time; one jump to 0 is always in the set, and is taken where nothing else may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from anyflow_rt.sampling.limits import NO_LIMITS, Limits
from anyflow_rt.sampling.quality import Quality, even_next
from anyflow_rt.sampling.schedule import GRID_INTERVALS

AS_THE_SHORTEST = 1.5
LEAST_CHANCE = 0.5
"""No plan but the shortest is taken that is more likely late than not."""
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

    ``predicted`` is the seconds from now to the finish at the asked confidence. ``fits`` is False where the shortest is
    taken and they are not there.
    """

    jumps: int
    path: tuple[int, ...]
    value: float
    predicted: float
    fits: bool


@dataclass(frozen=True)
class Tables:
    """Cheapest paths to 0, by node and number of jumps k. Index 0 of each inner tuple (no jump) is unused.

    ``costs[i][k]``: the path's cost. ``stops[i][k]``: its first stop.
    """

    quality: Quality
    non_uniform: bool
    costs: tuple[tuple[float, ...], ...]
    stops: tuple[tuple[int, ...], ...]
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
    return Tables(
        quality,
        non_uniform,
        costs=tuple(map(tuple, costs)),
        stops=tuple(map(tuple, stops)),
    )


@dataclass(frozen=True)
class Outlook:
    """When k = 0..node more jumps and all that follows are done.

    required[k]: seconds they stay within at ``confidence``, not descending. chances[k]: that they are done within
    ``remaining``, the seconds to the deadline (negative where it has passed), not ascending from k = 1 on.
    """

    required: Sequence[float]
    chances: Sequence[float]
    remaining: float
    confidence: float


def choose(tables: Tables, outlook: Outlook, position: Position, limits: Limits = NO_LIMITS) -> Choice:
    """The plan from here, of as many jumps as ``limits`` allow. ``position.node`` must be above 0."""
    node, spent = position.node, position.cost
    most = max(1, min(node, limits.max_steps - position.done))
    least = min(max(1, limits.min_steps - position.done), most)
    values = [tables.quality.value(spent + cost) for cost in tables.costs[node][: most + 1]]
    jumps = _best(values, tables.quality.failure, outlook, least, most)
    required = outlook.required[jumps]
    fits = jumps > least or required <= outlook.remaining
    return Choice(jumps, tables.path(node, jumps), values[jumps], required, fits)


def _best(values: Sequence[float], failure: float, outlook: Outlook, least: int, most: int) -> int:
    """Of least..most jumps the fewest of which most is expected."""
    chances = outlook.chances
    late = 1.0 - outlook.confidence + AS_THE_SHORTEST * (1.0 - chances[least])
    enough = max(1.0 - late, LEAST_CHANCE)
    allowed = [least, *(jumps for jumps in range(least + 1, most + 1) if chances[jumps] >= enough)]
    expected = {jumps: chances[jumps] * (values[jumps] - failure) for jumps in allowed}
    highest = max(expected.values())
    return next(jumps for jumps in allowed if expected[jumps] >= highest - ROUNDING * abs(highest))
