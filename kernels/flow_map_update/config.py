"""How the flow-map update is cut into programs. A stated heuristic, until a GPU has measured better."""

from __future__ import annotations

from dataclasses import dataclass

from anyflow_rt.kernels.launch import INTERPRETER, power_of_two

ELEMENTS = 4096
"""Of a program's tile: 16 a thread at eight warps, so that each thread has four 16-byte accesses under way a tensor."""


@dataclass(frozen=True)
class FlowMapUpdateConfig:
    """``block``: tokens of one row that a program takes. ``warps``: of 32 threads."""

    block: int
    warps: int


def configuration(target: int, columns: int, features: int) -> FlowMapUpdateConfig:
    """For ``columns`` tokens a row, ``features`` (padded) numbers a token.

    A row is cut into equal blocks of at most ``ELEMENTS``; a program never takes more tokens than the row has.
    """
    if target == INTERPRETER:
        return FlowMapUpdateConfig(block=min(4, power_of_two(columns)), warps=1)
    block = min(max(ELEMENTS // features, 1), power_of_two(columns))
    return FlowMapUpdateConfig(block=block, warps=min(8, max(1, block * features // 512)))
