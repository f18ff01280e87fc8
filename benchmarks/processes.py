"""Commands in processes of their own: seconds from start to end, and peak memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.errors import AnyflowError

LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True)
class Ran:
    """seconds: from before the process starts until it has ended. peak: bytes of its largest resident set; anonymous:
    of that only what no file backs, sampled, 0 where the system does not say."""

    seconds: float
    peak: int
    output: str
    anonymous: int = 0


def run_command(command: Sequence[object]) -> Ran:
    """Run ``command``, words and paths, and wait for it. Raises AnyflowError with its last words where it fails.

    A launcher starts it: Linux counts what the parent held at the time of the fork towards the child's peak, and a
    benchmark with PyTorch in it holds a lot.
    """
    words = [str(word) for word in command]
    arguments = [sys.executable, "-I", "-S", str(LAUNCHER), *words]
    launched = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONSAFEPATH": "1"}
    )
    if launched.returncode != 0:
        last = " ".join(launched.stderr.split()[-60:])
        raise AnyflowError(f"{' '.join(words)} failed: {last}")
    measured = json.loads(launched.stderr.splitlines()[-1])
    return Ran(measured["seconds"], measured["peak"], launched.stdout, measured["anonymous"])


def own_command() -> list[str]:
    """The ``anyflow-rt`` command as a user calls it; the module where the script is not installed."""
    script = Path(sys.executable).with_name("anyflow-rt")
    return [str(script)] if script.exists() else [sys.executable, "-m", "anyflow_rt"]
