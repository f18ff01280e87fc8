"""Limits of one streaming multiprocessor of each target."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """Limits of one streaming multiprocessor (CUDA C++ programming guide, compute capabilities)."""

    registers: int
    shared_bytes: int
    block_shared_bytes: int
    warps: int
    blocks: int


MACHINES = {
    80: Machine(65536, 164 * 1024, 163 * 1024, 64, 32),
    86: Machine(65536, 100 * 1024, 99 * 1024, 48, 16),
    89: Machine(65536, 100 * 1024, 99 * 1024, 48, 24),
    90: Machine(65536, 228 * 1024, 227 * 1024, 64, 32),
    100: Machine(65536, 228 * 1024, 227 * 1024, 64, 32),
    120: Machine(65536, 100 * 1024, 99 * 1024, 48, 24),
}
