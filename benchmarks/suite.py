"""The benchmarks by name, and running some of them."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.benchmarks.report import Outcome, results
from anyflow_rt.errors import OutputError, UsageError

BENCHMARKS = {
    "speed": "anyflow_rt.benchmarks.speed",
    "denoiser": "anyflow_rt.benchmarks.denoiser",
    "cold-start": "anyflow_rt.benchmarks.cold_start",
    "memory": "anyflow_rt.benchmarks.memory",
    "export": "anyflow_rt.benchmarks.export",
    "gpu-build": "anyflow_rt.benchmarks.gpu_build",
    "text-encoder-build": "anyflow_rt.benchmarks.text_encoder_build",
    "plans": "anyflow_rt.benchmarks.budget.plans",
    "causal-speed": "anyflow_rt.benchmarks.causal.speed",
    "causal-chunks": "anyflow_rt.benchmarks.causal.chunks",
    "causal-streams": "anyflow_rt.benchmarks.causal.streams",
    "causal-deadlines": "anyflow_rt.benchmarks.causal.deadlines",
    "causal-clips": "anyflow_rt.benchmarks.causal.clips",
}
"""name -> module with ``run(conditions) -> Outcome``."""
DEFAULT = ("speed", "denoiser", "cold-start", "memory")
"""All but those that take minutes: three of them gigabytes of disk, another times nothing."""
GROUPS = {"causal": tuple(name for name in BENCHMARKS if name.startswith("causal-"))}
"""name -> those that it stands for."""


def run_benchmarks(names: Sequence[str], conditions: Conditions) -> dict[str, Any]:
    """Run benchmarks one after the other, each reported as it ends; the content of a results file.

    Raises UsageError for an unknown name; BusyMachineError, ParityError and what else a benchmark raises.
    """
    wanted = [each for name in names or DEFAULT for each in GROUPS.get(name, (name,))]
    for name in wanted:
        if name not in BENCHMARKS:
            raise UsageError(f"unknown benchmark {name!r}; the benchmarks are {', '.join((*BENCHMARKS, *GROUPS))}")
    outcomes: list[Outcome] = []
    for name in wanted:
        conditions.say(f"--- {name}")
        outcomes.append(importlib.import_module(BENCHMARKS[name]).run(conditions))
        for line in outcomes[-1].lines():
            conditions.say(line)
    return results(outcomes)


def write_results(found: dict[str, Any], path: Path) -> None:
    """Write a results file, in place of one that is there. Raises OutputError where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; give another --out") from error
