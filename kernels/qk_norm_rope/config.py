"""How the normalisation of queries and keys is cut into programs. A heuristic, until a GPU has measured better."""

from __future__ import annotations

from dataclasses import dataclass

from anyflow_rt.kernels.launch import INTERPRETER

LANE_VALUES = 16
"""Values of one row that a thread holds: one 16-byte access of a 16-bit type to each half of the pairs."""

MAXIMUM_WARPS = 16

PROGRAM_TOKENS = 16
"""Tokens that a program takes one after the other. The gains, 4 bytes a value of both rows, are read once a program and
then stay in registers: next to 2 bytes read and 2 written a token they are 6% of the traffic, all of it from L2."""


@dataclass(frozen=True)
class QkNormRopeConfig:
    """``tokens`` of a program; ``warps`` of 32 threads."""

    tokens: int
    warps: int


def configuration(target: int, padded_width: int, length: int) -> QkNormRopeConfig:
    """For rows of ``padded_width`` values (heads and head size each padded), ``length`` of them."""
    if target == INTERPRETER:
        return QkNormRopeConfig(tokens=2, warps=1)
    warps = min(MAXIMUM_WARPS, max(1, padded_width // (32 * LANE_VALUES)))
    return QkNormRopeConfig(tokens=max(1, min(PROGRAM_TOKENS, length)), warps=warps)
