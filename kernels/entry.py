"""What a compiled kernel's entry takes, read from its PTX and held against what the launch would pass.

A cubin is launched by position: one argument too many or of the wrong width and the kernel reads other memory. The PTX
entry is the compiler's own word on the list, so every compilation is checked against it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from anyflow_rt.errors import EngineError

HIDDEN = 2
"""Pointers that Triton appends to every entry: global and profiling scratch. Unused, and passed as null."""

_WIDTHS = {"i1": 8, "i8": 8, "i16": 16, "i32": 32, "i64": 64, "fp32": 32}


@dataclass(frozen=True)
class Parameter:
    """An argument of a compiled kernel; ``type`` as Triton spells it: ``*bf16``, ``i32``."""

    name: str
    type: str

    @property
    def bits(self) -> int:
        """Width in the entry's parameter list."""
        return 64 if self.type.startswith("*") else _WIDTHS[self.type]


def entry_widths(ptx: str, name: str) -> list[tuple[int, bool]]:
    """(bits, is a pointer) of each parameter of the entry ``name``. Raises EngineError if there is no such entry."""
    found = re.search(rf"\.visible \.entry {re.escape(name)}\(([^)]*)\)", ptx)
    if found is None:
        raise EngineError(f"the PTX has no entry {name!r}")
    declared = re.findall(r"\.param\s+(?:\.align\s+\d+\s+)?\.[bufs](\d+)(\s+\.ptr)?", found.group(1))
    return [(int(bits), bool(pointer)) for bits, pointer in declared]


def check_entry(ptx: str, name: str, parameters: Sequence[Parameter]) -> None:
    """Raise EngineError unless the entry takes exactly ``parameters``, in order, and the hidden pointers after them."""
    expected = [(parameter.bits, parameter.type.startswith("*")) for parameter in parameters] + [(64, True)] * HIDDEN
    found = entry_widths(ptx, name)
    if found != expected:
        names = [parameter.name for parameter in parameters] + ["(hidden)"] * HIDDEN
        wanted = ", ".join(f"{label}: {bits}" for label, (bits, _) in zip(names, expected, strict=True))
        raise EngineError(
            f"the PTX entry {name!r} takes {len(found)} parameters of {[bits for bits, _ in found]} bits; "
            f"the launch passes {len(expected)} ({wanted})"
        )
