"""``bench kernels --tune``: attention's configurations timed on the GPU that is here, the fastest written down.

No GPU was at hand: the timing is unverified; which one is taken, and what is written, is tested.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from anyflow_rt.benchmarks.kernels.parity import parity_of, with_numbers
from anyflow_rt.errors import EngineError, UsageError
from anyflow_rt.kernels.aot import write_whole
from anyflow_rt.kernels.attention.config import MEASURED, AttentionConfig, candidates, read_measured
from anyflow_rt.kernels.attention.shapes import head_case
from anyflow_rt.kernels.package import triton
from anyflow_rt.kernels.video_shapes import Case

HEADS = (64, 128)
"""Largest head sizes of a row of ``config.TABLE``, each timed at that size."""

Time = Callable[[AttentionConfig], float]


def fastest(
    options: Iterable[AttentionConfig], seconds: Time, say: Callable[[str], None]
) -> tuple[AttentionConfig, float]:
    """That with the least ``seconds``, which raises a Triton error where one cannot run. EngineError if none can."""
    best: tuple[AttentionConfig, float] | None = None
    for each in options:
        try:
            found = seconds(each)
        except triton.TritonError as error:
            say(f"{each}: {type(error).__name__}")
            continue
        say(f"{each}: {1e3 * found:.4f} ms")
        if best is None or found < best[1]:
            best = each, found
    if best is None:
        raise EngineError("no configuration of attention runs on this GPU; see the lines above")
    return best


def tuned(target: int, rounds: int, say: Callable[[str], None]) -> dict[int, AttentionConfig]:
    """Largest head size -> fastest configuration. Raises ParityError where one computes something else."""
    found = {}
    for head_dim in HEADS:
        say(f"attention, heads of {head_dim}")
        found[head_dim], _ = fastest(candidates(target, head_dim), _timer(head_case(head_dim), rounds), say)
    return found


def _timer(case: Case, rounds: int) -> Time:
    from anyflow_rt.benchmarks.kernels.measure import seconds_of

    arguments = {name: with_numbers(value, seed, "cuda") for seed, (name, value) in enumerate(case.arguments.items())}

    def seconds(config: AttentionConfig) -> float:
        launch = case.plan(**arguments, config=config)
        launch.run()
        parity_of("attention", launch, arguments).require(f"{case.name}, {config}")
        return statistics.median(seconds_of(launch.run, rounds))

    return seconds


def measured_before(path: Path) -> dict[int, dict[int, AttentionConfig]]:
    """What ``path`` holds; nothing where it is not there yet. Raises UsageError where it cannot be read or written."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"--tune {path}: there is no folder {folder}; make it, or give another file")
    if path.is_dir():
        raise UsageError(f"--tune {path} is a folder; give a file in it, as {path / MEASURED}")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--tune {path}: nothing can be written into {folder}; give a file elsewhere")
    try:
        return read_measured(path) if path.exists() else {}
    except (OSError, ValueError) as error:
        raise UsageError(f"--tune {path} cannot be read ({error}); give another file, or remove this one") from error


def write_measured(path: Path, target: int, rows: dict[int, AttentionConfig]) -> None:
    """Put the rows of a target into ``path``, beside those of others. Raises UsageError as ``measured_before``."""
    held = measured_before(path) | {target: rows}
    told = {
        f"sm_{each}": {str(size): asdict(config) for size, config in sorted(by_size.items())}
        for each, by_size in held.items()
    }
    write_whole(path, (json.dumps(told, indent=1, sort_keys=True) + "\n").encode())
