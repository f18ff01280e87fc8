"""Targets: what engines are made for. ``cpu``, or a GPU by its compute capability (``sm_89``)."""

from __future__ import annotations

from collections.abc import Sequence

from anyflow_rt.errors import UsageError

CPU = "cpu"
GPU_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121")
TARGETS = (CPU, *GPU_TARGETS)


def parse_targets(names: str | Sequence[str]) -> tuple[str, ...]:
    """``sm_89, sm_90`` -> (``sm_89``, ``sm_90``), each once, in the order given; also of names already apart.

    Raises UsageError for a name that is none, and for none at all; the message lists those there are.
    """
    wanted = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    for name in wanted:
        if name not in TARGETS:
            raise UsageError(f"unknown target {name!r}; the targets are {', '.join(TARGETS)}")
    if not wanted:
        raise UsageError(f"no target is given; the targets are {', '.join(TARGETS)}")
    return tuple(dict.fromkeys(wanted))


def capability(target: str) -> int:
    """The compute capability of a GPU target as one number: ``sm_89`` -> 89. Raises UsageError for any other name."""
    if target not in GPU_TARGETS:
        raise UsageError(f"{target!r} is no GPU; the GPU targets are {', '.join(GPU_TARGETS)}")
    return int(target.removeprefix("sm_"))
