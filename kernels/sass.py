"""Machine code of a compiled kernel, as the disassembler of Triton lists it: instructions, and the loops they are in.

A loop is what a backward branch spans. Branches that skip forward do not matter here: what they skip counts as run.
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
    r"^\s*(?:(?P<label>\.L\w+):|/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?(?P<mnemonic>[A-Z][\w.]*)(?P<rest>.*))"
)
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
    """``loops``: (first, last) address of each, in the order of the code. Padding after the end is left out."""

    instructions: tuple[Instruction, ...]
    loops: tuple[tuple[int, int], ...]

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
    plain: list[tuple[int, str, str]] = []
    labels: dict[str, int] = {}
    pending: list[str] = []
    for line in text.splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        if found["label"]:
            pending.append(found["label"])
            continue
        address = int(found["address"], 16)
        labels.update(dict.fromkeys(pending, address))
        pending.clear()
        if found["mnemonic"] != "NOP":
            plain.append((address, found["mnemonic"], found["rest"]))
    loops = _loops(plain, labels)
    instructions = tuple(
        Instruction(mnemonic, address, tuple(n for n, (first, last) in enumerate(loops) if first <= address <= last))
        for address, mnemonic, _ in plain
    )
    return Listing(instructions, loops)


def _loops(plain: list[tuple[int, str, str]], labels: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """Spans of backward branches, one a head. A branch to itself ends the code: the processor never gets there."""
    spans: dict[int, int] = {}
    for address, mnemonic, rest in plain:
        target = re.search(r"\((\.L\w+)\)", rest) if mnemonic.split(".")[0] == "BRA" else None
        head = labels.get(target[1]) if target else None
        if head is not None and head < address:
            spans[head] = max(address, spans.get(head, address))
    return tuple(sorted(spans.items(), key=lambda span: (span[0], -span[1])))


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
