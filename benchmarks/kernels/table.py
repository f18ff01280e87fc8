"""The committed table of what compiled kernels take, and what is worse than it says: the gate against regressions.

``python -m anyflow_rt.kernels --case '1.3B|14B' --table benchmarks/kernels/resources.json`` writes it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

COVERED = "B "
"""Cases whose name holds this are in the table: those of the 1.3B and the 14B video."""

WIDE = 16
"""Bytes of the widest access of a thread that every target has."""

MORE_BYTES = 1.001
MORE_REGISTERS = 8
"""What may change without a word: counts of bytes by rounding, registers by a patch release of the compiler."""


@functools.cache
def committed() -> dict[str, dict[str, dict[str, Any]]]:
    """``op: case`` -> target -> figures."""
    read: dict[str, dict[str, dict[str, Any]]] = json.loads(
        Path(__file__).with_name("resources.json").read_text(encoding="utf-8")
    )
    return read


def regressions(line: dict[str, Any]) -> list[str]:
    """What is worse in ``line`` (``Figures.to_dict``) than in the table, in words; spills are, whatever it says."""
    where = _where(line)
    known = _known(line)
    if known is None:
        return []
    most = {
        "spills": known["spills"],
        "stack_bytes": known["stack_bytes"],
        "registers": known["registers"] + MORE_REGISTERS,
        "shared_bytes": known["shared_bytes"],
        "moved_over_minimum": MORE_BYTES * known["moved_over_minimum"],
    }
    worse = [f"{where}: {name} {line[name]}, was {known[name]}" for name, limit in most.items() if line[name] > limit]
    narrow, before = _narrow(line), _narrow(known)
    if narrow > before:
        worse.append(f"{where}: {narrow} accesses of less than {WIDE} bytes a thread, were {before}")
    if line["tensor_core"] < known["tensor_core"]:
        worse.append(f"{where}: {line['tensor_core']} matrix instructions, were {known['tensor_core']}")
    return worse


def unknown(line: dict[str, Any]) -> list[str]:
    """In words, that the table should have ``line`` and has not."""
    if COVERED not in line["config"] or _known(line) is not None:
        return []
    mend = (
        "write it again with  python -m anyflow_rt.kernels --case '1.3B|14B' --table benchmarks/kernels/resources.json"
    )
    return [f"{_where(line)}: not in the table; {mend}"]


def _where(line: dict[str, Any]) -> str:
    return f"{line['op']}: {line['config']} on {line['target']}"


def _known(line: dict[str, Any]) -> dict[str, Any] | None:
    return committed().get(f"{line['op']}: {line['config']}", {}).get(line["target"])


def _narrow(figures: dict[str, Any]) -> int:
    """Instructions that touch global memory with fewer than ``WIDE`` bytes a thread."""
    return sum(count for size, count in figures["accesses"].items() if int(size) < WIDE)
