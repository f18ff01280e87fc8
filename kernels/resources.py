"""What a compiled kernel takes of a GPU, read from its cubin: registers, spills, shared memory, kinds of instruction.

A gate against regressions and a hint at occupancy; no evidence of speed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from anyflow_rt.kernels.aot import CompiledKernel
from anyflow_rt.kernels.machines import MACHINES
from anyflow_rt.kernels.sass import GLOBAL_LOADS, GLOBAL_STORES, LOCAL, TENSOR_CORE, Listing, listing_of, usage_of

RESERVED_SHARED_BYTES = 1024
"""Of every block, taken by the system."""


@dataclass(frozen=True)
class Resources:
    """Of one kernel. ``spills``: instructions that move registers to or from local memory, ``spill_bytes``: what they
    move, a thread. ``accesses``: instructions that touch global memory, counted by bytes a thread. ``tensor_core``:
    matrix instructions."""

    registers: int
    stack_bytes: int
    spills: int
    spill_bytes: int
    static_shared_bytes: int
    shared_bytes: int
    blocks_per_multiprocessor: int
    occupancy: float
    instructions: int
    tensor_core: int
    accesses: dict[int, int]


def resources_of(kernel: CompiledKernel, listing: Listing | None = None) -> Resources:
    """Disassemble, unless ``listing`` is given, and count. Raises EngineError if Triton's tools fail."""
    listing = listing or listing_of(kernel.cubin)
    usage = usage_of(kernel.cubin)
    blocks = blocks_per_multiprocessor(kernel.target, kernel.warps, usage["REG"], kernel.shared_bytes)
    spills = listing.of(*LOCAL)
    accesses = Counter(each.width for each in listing.of(*GLOBAL_LOADS, *GLOBAL_STORES))
    return Resources(
        registers=usage["REG"],
        stack_bytes=usage["STACK"],
        spills=len(spills),
        spill_bytes=sum(each.width for each in spills),
        static_shared_bytes=usage["SHARED"],
        shared_bytes=kernel.shared_bytes,
        blocks_per_multiprocessor=blocks,
        occupancy=blocks * kernel.warps / MACHINES[kernel.target].warps,
        instructions=len(listing.instructions),
        tensor_core=len(listing.of(*TENSOR_CORE)),
        accesses=dict(sorted(accesses.items())),
    )


def blocks_per_multiprocessor(target: int, warps: int, registers: int, shared_bytes: int) -> int:
    """How many blocks fit: registers are given out in units of 256 a warp, shared memory with a reserve a block."""
    machine = MACHINES[target]
    if shared_bytes > machine.block_shared_bytes:
        return 0
    warp_registers = -(-registers * 32 // 256) * 256
    by_registers = machine.registers // (warp_registers * warps)
    by_shared = machine.shared_bytes // (shared_bytes + RESERVED_SHARED_BYTES)
    return min(by_registers, by_shared, machine.warps // warps, machine.blocks)
