"""``anyflow-rt bench kernels``: figures of compiled code, floors, or times, as lines and as JSON."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anyflow_rt.benchmarks.kernels.arguments import ROUNDS
from anyflow_rt.errors import UsageError

Say = Callable[[str], None]


def execute(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    """Do the part asked for; ``say`` gets the lines. Returns the list that ``--json`` prints.

    Raises UsageError, MissingPackageError without Triton, EngineError where times are asked for without a GPU,
    ParityError where a kernel's results are wrong on the GPU.
    """
    if options.yardstick and not options.static:
        raise UsageError("--yardstick is compiled, not run: it goes with --static")
    try:
        re.compile(options.case)
    except re.error as error:
        raise UsageError(f"--case {options.case!r} is no regular expression: {error}") from error
    if options.static:
        return _static(options, say)
    return _roofline(options, say) if options.roofline else _measured(options, say)


def _static(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.text import STATIC_HEADER, static_line
    from anyflow_rt.benchmarks.kernels.yardstick import yardstick_figures
    from anyflow_rt.kernels.aot import TARGETS, targets_of
    from anyflow_rt.kernels.figures import selected_figures

    targets = TARGETS if options.target == "all" else targets_of(options.target)
    found = []
    say(STATIC_HEADER)
    if options.yardstick:
        for figures in yardstick_figures(Path(options.yardstick), targets):
            say(static_line(figures))
            found.append({**figures.to_dict(), "yardstick": True})
    cache = None if options.cache is None else Path(options.cache)
    for figures in selected_figures(options.target, options.op, options.case, cache):
        say(static_line(figures))
        found.append(figures.to_dict())
    return found


def _roofline(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.gpus import GPUS
    from anyflow_rt.benchmarks.kernels.steps import SHARES, jump_steps, predicted
    from anyflow_rt.benchmarks.kernels.text import roofline_lines
    from anyflow_rt.kernels.aot import targets_of
    from anyflow_rt.kernels.video_shapes import LARGE, SMALL

    wanted = None if options.target == "all" else targets_of(options.target)
    found = []
    for gpu in (gpu for gpu in GPUS if wanted is None or gpu.target in wanted):
        for shape in (SMALL, LARGE):
            steps = jump_steps(shape)
            for line in roofline_lines(gpu, shape.name, steps):
                say(line)
            found.append(
                {
                    "target": f"sm_{gpu.target}",
                    "gpu": asdict(gpu),
                    "config": shape.name,
                    "jump_floor_seconds": sum(step.floor(gpu) for step in steps),
                    "jump_predicted_seconds": predicted(steps, gpu),
                    "assumed_shares": SHARES[gpu.target],
                    "steps": [{**asdict(step), "floor_seconds": step.floor(gpu)} for step in steps],
                }
            )
    return found


def _measured(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.gpus import ceiling_line
    from anyflow_rt.benchmarks.kernels.measure import require_gpu, timings
    from anyflow_rt.kernels.cases import cases_of, ops_of

    gpu = require_gpu()
    say(ceiling_line(gpu))
    cases = [(op, case) for op in ops_of(options.op) for case in cases_of(op) if re.search(options.case, case.name)]
    found = []
    for timing in timings(cases, gpu, ROUNDS if options.rounds is None else options.rounds):
        say(str(timing))
        found.append({"gpu": gpu.name, "target": f"sm_{gpu.target}", **timing.to_dict()})
    return found
