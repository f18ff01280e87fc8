"""What the stages share: where training state lives, a clock that pausing cannot fool, and checkpoints.

Training state stays out of the source tree, in ``$ANYFLOW_RT_WORK`` or ``~/.cache/anyflow-rt/shapes-training``. A stage
that is stopped (SIGTERM, a crash) goes on from its last checkpoint when the same command is given again.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.shapes.recipe.parallel import rank

TORCH_THREADS = int(os.environ.get("ANYFLOW_RT_TRAIN_THREADS", "2"))
"""Threads of the stages. Where all cores are busy, one thread is quicker than two that wait for each other."""
CLOCK_CORES = 2
LONGEST_ITERATION = 20.0
"""Seconds an iteration may count for: what a longer one lost, it lost to a pause."""


def work_directory() -> Path:
    """The directory of the training state, made if missing."""
    configured = os.environ.get("ANYFLOW_RT_WORK")
    directory = Path(configured) if configured else Path.home() / ".cache" / "anyflow-rt" / "shapes-training"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def shipped_checkpoint() -> Path:
    """The directory of the checkpoint that ships with the package."""
    return Path(str(files("anyflow_rt") / "data" / "shapes"))


class TrainingClock:
    """Training seconds spent: half the CPU seconds of this process, so seconds of a machine of two idle cores.

    Learning-rate schedules run over these seconds. Time during which the process is stopped (SIGSTOP) or waits for a
    core that another process holds does not count, so neither shortens the schedule. (Waiting OpenMP threads would
    count while they spin: start the stages with ``OMP_WAIT_POLICY=PASSIVE`` on a machine that does other work.)
    """

    def __init__(self, budget: float, spent: float = 0.0) -> None:
        self.budget = budget
        self.spent = spent
        self._last = time.process_time()

    def tick(self) -> float:
        """Count one iteration; returns its seconds."""
        now = time.process_time()
        seconds = min((now - self._last) / CLOCK_CORES, LONGEST_ITERATION)
        self._last = now
        self.spent += seconds
        return seconds

    def skip(self) -> None:
        """Leave what was done since the last tick (saving, measuring) uncounted."""
        self._last = time.process_time()

    @property
    def progress(self) -> float:
        """Share of the budget spent, 0 to 1."""
        return min(self.spent / self.budget, 1.0)


def cosine(progress: float) -> float:
    """Learning-rate factor: 1 at the start, 0 at the end of the budget."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


class Interruption:
    """True after SIGTERM or SIGINT: a loop looks at it between steps, saves and leaves."""

    def __init__(self) -> None:
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, signum: int, frame: object) -> None:
        self.asked = True


class StageState:
    """The checkpoint file and the log of one stage.

    The checkpoint is written whole beside its place and then moved there, so that a crash leaves the one before.
    """

    def __init__(self, stage: str) -> None:
        self.path = work_directory() / f"{stage}.pt"
        self.log_path = work_directory() / f"{stage}.jsonl"

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, or None where the stage has not begun. Tensors and plain values only."""
        import torch

        if not self.path.exists():
            return None
        return torch.load(self.path, map_location="cpu", weights_only=True)

    def save(self, contents: dict[str, Any]) -> None:
        """Replace the checkpoint atomically; the first of several processes does."""
        import torch

        if rank() != 0:
            return
        temporary = self.path.with_suffix(".partial")
        torch.save(contents, temporary)
        os.replace(temporary, self.path)

    def log(self, **record: float | int | str) -> None:
        """Append one JSON line to the stage's log and print it; the first of several processes does."""
        if rank() != 0:
            return
        line = json.dumps(
            {key: round(value, 6) if isinstance(value, float) else value for key, value in record.items()}
        )
        with self.log_path.open("a") as log:
            log.write(line + "\n")
        print(line, flush=True)
