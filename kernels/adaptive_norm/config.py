"""How a join is cut into programs. A stated heuristic, until a GPU has measured better."""

from __future__ import annotations

from dataclasses import dataclass

from anyflow_rt.kernels.launch import INTERPRETER, power_of_two

LANE_VALUES = 8
"""Values of one row that a thread holds: one 16-byte access of a 16-bit type. More, and the three modulation vectors,
which stay in registers for all of a program's tokens, would crowd out the rows."""

MAXIMUM_WARPS = 16

PROGRAM_TOKENS = {True: 64, False: 96}
"""Tokens of one frame that a program takes, with a branch and without. Gate, shift and scale are read once a program:
up to 24 bytes a value, next to 8 for each token; without a branch 16, next to 4. So they stay below 5% of the traffic,
and they are in the L2 cache. More tokens would be fewer programs than a large GPU holds at once."""


@dataclass(frozen=True)
class AdaptiveNormConfig:
    """``rows``: tokens in flight at once. ``tiles``: how often a program repeats that. ``warps``: of 32 threads."""

    rows: int
    tiles: int
    warps: int


def configuration(target: int, width: int, tokens: int, branch: bool = True) -> AdaptiveNormConfig:
    """For tokens of ``width`` values, ``tokens`` to a frame.

    Wide rows get a program's threads to themselves; of narrow ones several are in flight, so that a warp is never idle.
    """
    if target == INTERPRETER:
        return AdaptiveNormConfig(rows=2, tiles=2, warps=1)
    block = power_of_two(width)
    rows = max(1, 1024 // block)
    warps = min(MAXIMUM_WARPS, max(1, rows * block // (32 * LANE_VALUES)))
    tiles = max(1, min(PROGRAM_TOKENS[branch], power_of_two(tokens)) // rows)
    return AdaptiveNormConfig(rows, tiles, warps)
