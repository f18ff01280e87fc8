"""Machine code of a compiled kernel, as the disassembler of Triton lists it: instructions, and the loops they are in.

Loops are natural loops: a branch back to a block that every way to it leads through, and all that lies between. Code
that waits is often moved behind the end and branches back: that is no loop. What a forward branch skips counts as run.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.package import triton

GLOBAL_LOADS = ("LDG", "LDGSTS")
GLOBAL_STORES = ("STG",)
LOCAL = ("LDL", "STL")
TENSOR_CORE = ("HMMA", "HGMMA", "IMMA", "IGMMA", "QMMA", "QGMMA", "OMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA")

_LINE = re.compile(
    r"^\s*(?:(?P<label>\.L\w+):"
    r"|/\*(?P<address>[0-9a-f]{4,})\*/\s+(?P<guard>@!?U?P\w+\s+)?(?P<mnemonic>[A-Z][\w.]*)(?P<rest>.*))"
)
_TARGET = re.compile(r"\s*(?P<guard>!?U?P\w+)?[^(]*\((?P<label>\.L\w+)\)")
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}


@dataclass(frozen=True)
class Instruction:
    """``loops``: indices into ``Listing.loops`` of those it is in, outermost first."""

    mnemonic: str
    address: int
    loops: tuple[int, ...] = ()

    @property
    def base(self) -> str:
        """The operation without its modifiers."""
        return self.mnemonic.split(".")[0]

    @property
    def width(self) -> int:
        """Bytes a thread moves, of a memory access."""
        return next((_WIDTHS[part] for part in self.mnemonic.split(".") if part in _WIDTHS), 4)


@dataclass(frozen=True)
class Listing:
    """``loops``: address of the head of each, in the order of the code. Padding is left out."""

    instructions: tuple[Instruction, ...]
    loops: tuple[int, ...]

    def of(self, *bases: str) -> list[Instruction]:
        """The instructions whose operation is one of ``bases``."""
        return [instruction for instruction in self.instructions if instruction.base in bases]

    def executed(self, instructions: list[Instruction], trips: tuple[int, ...]) -> int:
        """How often a thread comes to any of ``instructions``, if each loop is gone through ``trips`` times."""
        return sum(times(instruction, trips) for instruction in instructions)


def times(instruction: Instruction, trips: tuple[int, ...]) -> int:
    """How often one is come to."""
    count = 1
    for loop in instruction.loops:
        count *= trips[loop]
    return count


def listing_of(cubin: bytes) -> Listing:
    """Disassemble. Raises EngineError if the tool fails."""
    return parse_listing(_tool(triton.knobs.nvidia.nvdisasm.path, "-c", cubin))


def parse_listing(text: str) -> Listing:
    """Read what ``nvdisasm -c`` prints of one kernel."""
    code: list[tuple[int, str]] = []
    starts: dict[str, int] = {}
    jumps: dict[int, tuple[str | None, bool]] = {}
    pending: list[str] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None or found["mnemonic"] == "NOP":
            continue
        if found["label"]:
            pending.append(found["label"])
            continue
        index, mnemonic = len(code), found["mnemonic"]
        starts.update(dict.fromkeys(pending, index))
        pending.clear()
        code.append((int(found["address"], 16), mnemonic))
        if mnemonic.split(".")[0] == "BRA":
            target = _TARGET.match(found["rest"])
            jumps[index] = (target["label"] if target else None, not (found["guard"] or (target and target["guard"])))
        elif mnemonic.split(".")[0] == "EXIT":
            jumps[index] = (None, not found["guard"])
    loops = natural_loops(*_blocks(len(code), starts, jumps)) if code else {}
    instructions = tuple(
        Instruction(mnemonic, address, tuple(n for n, body in enumerate(loops.values()) if index in body))
        for index, (address, mnemonic) in enumerate(code)
    )
    return Listing(instructions, tuple(code[head][0] for head in loops))


def _blocks(
    size: int, starts: dict[str, int], jumps: dict[int, tuple[str | None, bool]]
) -> tuple[dict[int, list[int]], dict[int, range]]:
    """First instruction of every block -> of those that may follow it, and -> its instructions."""
    leaders = sorted({0, *starts.values(), *(index + 1 for index in jumps)} - {size})
    following: dict[int, list[int]] = {}
    bodies = {}
    for first, end in zip(leaders, [*leaders[1:], size], strict=True):
        bodies[first] = range(first, end)
        label, always = jumps.get(end - 1, (None, False))
        following[first] = [starts[label]] if label in starts else []
        following[first] += [end] if end < size and not always else []
    return following, bodies


def natural_loops(following: dict[int, list[int]], bodies: dict[int, range]) -> dict[int, set[int]]:
    """Head -> all that is in its loop, in the order of the heads. The first block is where the code is entered."""
    before: dict[int, set[int]] = {block: set() for block in following}
    for block, targets in following.items():
        for target in targets:
            before[target].add(block)
    entry, reached = min(following), set[int]()
    stack = [entry]
    while stack:
        block = stack.pop()
        if block not in reached:
            reached.add(block)
            stack += following[block]
    dominators = {block: set(reached) for block in reached}
    dominators[entry] = {entry}
    changed = True
    while changed:
        changed = False
        for block in sorted(reached - {entry}):
            now = {block} | set.intersection(*(dominators[other] for other in before[block] & reached))
            changed |= now != dominators[block]
            dominators[block] = now
    loops: dict[int, set[int]] = {}
    for block in sorted(reached):
        for head in set(following[block]) & dominators[block]:
            inside, stack = {head}, [block]
            while stack:
                each = stack.pop()
                if each not in inside:
                    inside.add(each)
                    stack += before[each] & reached
            loops.setdefault(head, set()).update(index for each in inside for index in bodies[each])
    return dict(sorted(loops.items()))


def usage_of(cubin: bytes) -> dict[str, int]:
    """REG, STACK, SHARED, LOCAL ... as ``cuobjdump`` gives them. Raises EngineError if the tool fails."""
    text = _tool(triton.knobs.nvidia.cuobjdump.path, "-res-usage", cubin)
    figures = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED):(\d+)", text)}
    if figures.keys() != {"REG", "STACK", "SHARED"}:
        raise EngineError(f"cuobjdump said {text!r}; registers, stack and shared memory are needed")
    return figures


def _tool(path: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([path, option, file.name], capture_output=True, text=True)
    if done.returncode:
        raise EngineError(f"{path} failed: {done.stderr.strip()}")
    return done.stdout
