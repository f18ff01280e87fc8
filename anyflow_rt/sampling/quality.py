"""What a plan is worth: value(plan) = g(sum of c(i -> j) over its jumps).

c(i -> j) is the error of one jump between nodes of the 32-grid, as calibrated. g turns a plan's sum into the metric.
It is fitted to the uniform plans that were measured: sorted by their sums, each counts the best metric of any plan
whose sum is at least as large (the upper envelope: a plan that has a lower sum and measured worse is worth what the
coarser one measured), and between two of them g is a straight line. So g never falls as the sum falls, and stays flat
where more steps did not measure better; planners then take the fewer. Below the smallest measured sum g is flat, above
the largest it goes on at the slope of the last piece.

Where no error of jumps was measured, c is the square of the interval: c(i -> j) = ((i - j) / 32)^2, whose sum over
the uniform plan of N jumps is 1/N. Where no metric was measured, g(x) = 1 / (1 + x / c(32 -> 0)), which with that c
is 1 - 1/(N + 1). ``note`` says which of the two were taken.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from anyflow_rt.sampling.calibration import Calibration, Edge
from anyflow_rt.sampling.schedule import GRID_INTERVALS

FEWEST_POINTS = 2
"""Measured uniform plans below which no g is fitted."""
FEWEST_EDGES_FOR_FIT = 8
"""Measured jumps below which those not measured only get the default's form, scaled."""


@dataclass(frozen=True)
class Quality:
    """``costs[i][j]`` is c(i -> j) for 32 >= i > j >= 0 (``nodes`` intervals in general); ``knots`` are g's
    (sum, value) with sums ascending, values never ascending. Values are of ``metric``, negated where lower is better.
    """

    costs: tuple[tuple[float, ...], ...]
    knots: tuple[tuple[float, float], ...]
    metric: str = "1 - 1/(N + 1)"
    note: str | None = None
    _sums: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_sums", [each for each, _ in self.knots])

    @property
    def nodes(self) -> int:
        """Intervals of the grid: the node of noise."""
        return len(self.costs) - 1

    @property
    def failure(self) -> float:
        """What a missed deadline is worth."""
        return failure_value([value for _, value in self.knots])

    def cost(self, path: Sequence[int]) -> float:
        """The sum of c over the jumps of a path of nodes."""
        return sum(self.costs[start][end] for start, end in pairwise(path))

    def value(self, cost: float) -> float:
        """g of a sum."""
        knots = self.knots
        right = bisect_left(self._sums, cost)
        if right == 0 or len(knots) == 1:
            return knots[0][1]
        (x0, y0), (x1, y1) = knots[right - 1 : right + 1] if right < len(knots) else knots[-2:]
        return y0 + (y1 - y0) * ((cost - x0) / (x1 - x0))


def failure_value(values: Sequence[float]) -> float:
    """What a missed request is worth: 0, or, where less is better and values are therefore negative, twice the worst
    of ``values``, so that a miss is never worth more than a video."""
    return min(0.0, 2.0 * min(values))


def even_next(node: int, jumps: int) -> int:
    """The first stop when ``node`` intervals are divided among ``jumps`` jumps as evenly as whole nodes allow."""
    return (2 * node * (jumps - 1) + jumps) // (2 * jumps)


def even_path(jumps: int, node: int = GRID_INTERVALS) -> tuple[int, ...]:
    """The nodes of the most even plan of ``jumps`` <= ``node`` jumps; exactly uniform where they divide ``node``."""
    path = [node]
    for left in range(jumps, 0, -1):
        path.append(even_next(path[-1], left))
    return tuple(path)


def default_quality(nodes: int = GRID_INTERVALS) -> Quality:
    """The defaults of the module's docstring: nothing was measured."""
    costs = _default_costs(nodes)
    note = "no quality was measured for this bundle: plans assume that more, evener steps are better"
    return Quality(costs, _default_knots(costs), note=note)


def fit_quality(calibration: Calibration | None) -> Quality:
    """c and g of what was measured, defaults for the rest, ``note`` saying what was missing (None: nothing)."""
    if calibration is None:
        return default_quality()
    missing = []
    total = GRID_INTERVALS * (GRID_INTERVALS + 1) // 2
    if len(calibration.edges) < total:
        missing.append(f"the error of {total - len(calibration.edges)} of {total} jumps was not measured (estimated)")
    costs = _complete_costs(calibration.edges)
    points = [(point.steps, point.mean) for point in calibration.points if point.steps <= GRID_INTERVALS]
    if len(points) < FEWEST_POINTS:
        missing.append(f"quality was measured at {len(points)} step counts, {FEWEST_POINTS} are needed (default curve)")
        return Quality(costs, _default_knots(costs), note="; ".join(missing))
    sign = 1.0 if calibration.higher_is_better else -1.0
    measured = [(_path_cost(costs, steps), sign * mean) for steps, mean in points]
    return Quality(costs, envelope(measured), calibration.metric, "; ".join(missing) or None)


def envelope(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
    """Knots (sum ascending, value never ascending): every sum gets the best value of any sum at least as large."""
    best = -math.inf
    knots: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (-point[0], point[1])):
        best = max(best, value)
        if knots and knots[-1][0] == cost:
            knots.pop()
        knots.append((cost, best))
    return tuple(reversed(knots))


def _default_costs(nodes: int) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(((i - j) / nodes) ** 2 for j in range(i)) for i in range(nodes + 1))


def _default_knots(costs: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, float], ...]:
    whole = costs[-1][0] or 1.0
    nodes = len(costs) - 1
    sums = [_path_cost(costs, jumps) for jumps in range(1, nodes + 1)]
    return envelope([(cost, 1.0 / (1.0 + cost / whole)) for cost in sums])


def _path_cost(costs: tuple[tuple[float, ...], ...], jumps: int) -> float:
    return sum(costs[start][end] for start, end in pairwise(even_path(jumps, len(costs) - 1)))


def _complete_costs(edges: Sequence[Edge]) -> tuple[tuple[float, ...], ...]:
    """Measured errors, and for the jumps between them ones of the form scale * interval^p * (start/32)^q.

    With few edges, or where the fit is not finite, p = 2, q = 0 and the scale is the median's.
    """
    positive = [edge for edge in edges if edge.cost > 0]
    scale, power, lean = 1.0, 2.0, 0.0
    if positive:
        scale = statistics.median(edge.cost / ((edge.start - edge.end) / GRID_INTERVALS) ** 2 for edge in positive)
    if len(positive) >= FEWEST_EDGES_FOR_FIT:
        fitted = _fit_form(positive)
        # A power of 1 or less would make one long jump as good as many short ones: no estimate to plan with.
        if fitted is not None and fitted[1] > 1.0:
            scale, power, lean = fitted
    measured = {(edge.start, edge.end): edge.cost for edge in edges}
    return tuple(
        tuple(
            measured.get((i, j), scale * ((i - j) / GRID_INTERVALS) ** power * (i / GRID_INTERVALS) ** lean)
            for j in range(i)
        )
        for i in range(GRID_INTERVALS + 1)
    )


def _fit_form(edges: Sequence[Edge]) -> tuple[float, float, float] | None:
    """(scale, p, q) by least squares in logarithms; None where the measured jumps do not tell p and q apart."""
    import numpy as np

    rows = [
        (1.0, math.log((edge.start - edge.end) / GRID_INTERVALS), math.log(edge.start / GRID_INTERVALS))
        for edge in edges
    ]
    solution, _, rank, _ = np.linalg.lstsq(np.array(rows), np.log([edge.cost for edge in edges]), rcond=None)
    if rank < 3:
        return None
    return math.exp(solution[0]), float(solution[1]), float(solution[2])
