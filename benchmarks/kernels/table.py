"""The committed table of what compiled kernels take, and what is worse than it says: the gate against regressions.

``python -m anyflow_rt.kernels --case '1.3B|14B' --table benchmarks/kernels/resources.json`` writes it.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

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
    where = f"{line['op']}: {line['config']} on {line['target']}"
    known = committed().get(f"{line['op']}: {line['config']}", {}).get(line["target"])
    if known is None:
        return []
    most = {
        "spills": known["spills"],
        "stack_bytes": known["stack_bytes"],
        "registers": known["registers"] + MORE_REGISTERS,
        "shared_bytes": known["shared_bytes"],
        "moved_over_minimum": MORE_BYTES * known["moved_over_minimum"],
    }
    return [f"{where}: {name} {line[name]}, was {known[name]}" for name, limit in most.items() if line[name] > limit]
