"""What a compiled kernel takes of a GPU, read from its cubin: registers, spills, shared memory, kinds of instruction.

A gate against regressions and a hint at occupancy; no evidence of speed. The disassembler comes with Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.aot import CompiledKernel
from anyflow_rt.kernels.package import triton


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

RESERVED_SHARED_BYTES = 1024
"""Of every block, taken by the system."""

_TENSOR_CORE = ("HMMA", "HGMMA", "IMMA", "IGMMA", "QMMA", "QGMMA", "OMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA")


@dataclass(frozen=True)
class Resources:
    """Of one kernel. ``spills``: instructions that move registers to or from local memory. ``accesses``: instructions
    that touch global memory, counted by bytes a thread. ``tensor_core``: matrix instructions."""

    registers: int
    stack_bytes: int
    spills: int
    static_shared_bytes: int
    shared_bytes: int
    blocks_per_multiprocessor: int
    occupancy: float
    instructions: int
    tensor_core: int
    accesses: dict[int, int]


def resources_of(kernel: CompiledKernel) -> Resources:
    """Disassemble and count. Raises EngineError if the tools that come with Triton fail."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.cubin)
        file.flush()
        usage = _tool(triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name)
        listing = _tool(triton.knobs.nvidia.nvdisasm.path, "-c", file.name)
    figures = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", usage)}
    if figures.keys() != {"REG", "STACK", "SHARED"}:
        raise EngineError(f"cuobjdump said {usage!r} of {kernel.stem}; registers, stack and shared memory are needed")
    mnemonics = Counter(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", listing, re.MULTILINE))
    blocks = blocks_per_multiprocessor(kernel.target, kernel.warps, figures["REG"], kernel.shared_bytes)
    return Resources(
        registers=figures["REG"],
        stack_bytes=figures["STACK"],
        spills=_count(mnemonics, "STL", "LDL"),
        static_shared_bytes=figures["SHARED"],
        shared_bytes=kernel.shared_bytes,
        blocks_per_multiprocessor=blocks,
        occupancy=blocks * kernel.warps / MACHINES[kernel.target].warps,
        instructions=sum(mnemonics.values()) - mnemonics["NOP"],
        tensor_core=_count(mnemonics, *_TENSOR_CORE),
        accesses=_global_accesses(mnemonics),
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


def _global_accesses(mnemonics: Counter[str]) -> dict[int, int]:
    found: Counter[int] = Counter()
    for mnemonic, count in mnemonics.items():
        parts = mnemonic.split(".")
        if parts[0] not in ("LDG", "STG", "LDGSTS"):
            continue
        widths = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
        found[next((widths[part] for part in parts if part in widths), 4)] += count
    return dict(sorted(found.items()))


def _count(mnemonics: Counter[str], *bases: str) -> int:
    return sum(count for mnemonic, count in mnemonics.items() if mnemonic.split(".")[0] in bases)


def _tool(path: str, *arguments: str) -> str:
    done = subprocess.run([path, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{path} failed: {done.stderr.strip()}")
    return done.stdout
