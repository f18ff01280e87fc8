"""``anyflow-rt bench kernels``: figures of compiled code, floors, or times, as lines and as JSON."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyflow_rt.benchmarks.kernels.arguments import ALL, JUMP, ROUNDS, TUNING_ROUNDS
from anyflow_rt.errors import EngineError, UsageError

if TYPE_CHECKING:
    from anyflow_rt.benchmarks.kernels.gpus import Gpu
    from anyflow_rt.benchmarks.kernels.measure import Timing
    from anyflow_rt.benchmarks.kernels.steps import Step

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
    if options.static and options.op == JUMP:
        raise UsageError("--op jump is timed or given a floor, not compiled: leave out --static")
    if options.static:
        return _static(options, say)
    if options.tune:
        return _tuned(options, say)
    return _roofline(options, say) if options.roofline else _measured(options, say)


def _static(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.table import regressions
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
    worse = []
    for figures in selected_figures(options.target, options.op, options.case, cache):
        line = figures.to_dict()
        worse += regressions(line)
        say(static_line(figures))
        found.append(line)
    if worse:
        raise EngineError(f"worse than the committed table: {'; '.join(worse)}")
    return found


def _roofline(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    """Of whole jumps at the shapes that ``--case`` names; of single launches where ops or cases are named."""
    from anyflow_rt.benchmarks.kernels.gpus import GPUS
    from anyflow_rt.benchmarks.kernels.steps import jump_steps, launch_step
    from anyflow_rt.benchmarks.kernels.text import launch_lines, roofline_lines
    from anyflow_rt.kernels.aot import targets_of
    from anyflow_rt.kernels.cases import selected_cases
    from anyflow_rt.kernels.video_shapes import LARGE, SMALL

    wanted = None if options.target == "all" else targets_of(options.target)
    gpus = [gpu for gpu in GPUS if wanted is None or gpu.target in wanted]
    shapes = [shape for shape in (SMALL, LARGE) if re.search(options.case, shape.name)]
    found = []
    if options.op in (ALL, JUMP) and shapes:
        for gpu in gpus:
            for shape in shapes:
                steps = jump_steps(shape)
                for line in roofline_lines(gpu, shape.name, steps):
                    say(line)
                found.append(_jump_floor(gpu, shape.name, steps))
        return found
    steps = [launch_step(op, case) for op, case in selected_cases(options.op, options.case)]
    for gpu in gpus:
        for line in launch_lines(gpu, steps):
            say(line)
        found += [
            {"target": f"sm_{gpu.target}", "gpu": asdict(gpu), **asdict(step), "floor_seconds": step.floor(gpu)}
            for step in steps
        ]
    return found


def _jump_floor(gpu: Gpu, name: str, steps: list[Step]) -> dict[str, Any]:
    from anyflow_rt.benchmarks.kernels.steps import SHARES, predicted

    return {
        "target": f"sm_{gpu.target}",
        "gpu": asdict(gpu),
        "config": name,
        "jump_floor_seconds": sum(step.floor(gpu) for step in steps),
        "jump_predicted_seconds": predicted(steps, gpu),
        "assumed_shares": SHARES[gpu.target],
        "steps": [{**asdict(step), "floor_seconds": step.floor(gpu)} for step in steps],
    }


def _tuned(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.gpus import ceiling_line
    from anyflow_rt.benchmarks.kernels.measure import require_gpu
    from anyflow_rt.benchmarks.kernels.tune import tuned, write_measured

    name, gpu = require_gpu()
    say(ceiling_line(gpu, name))
    rows = tuned(gpu.target, TUNING_ROUNDS if options.rounds is None else options.rounds, say)
    write_measured(Path(options.tune), gpu.target, rows)
    say(f"written to {options.tune}; kernels/attention/measured.json is what is read")
    return [
        {"gpu": name, "target": f"sm_{gpu.target}", "heads": size, **asdict(config)} for size, config in rows.items()
    ]


def _measured(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.gpus import ceiling_line
    from anyflow_rt.benchmarks.kernels.measure import jump_timings, require_gpu, timings
    from anyflow_rt.kernels.cases import selected_cases

    name, gpu = require_gpu()
    say(ceiling_line(gpu, name))
    rounds = ROUNDS if options.rounds is None else options.rounds
    found = []

    def take(measured: Iterable[Timing]) -> None:
        for timing in measured:
            say(str(timing))
            found.append({"gpu": name, "figures_of": gpu.name, "target": f"sm_{gpu.target}", **timing.to_dict()})

    if options.op != JUMP:
        take(timings(selected_cases(options.op, options.case), gpu, rounds))
    if options.op in (ALL, JUMP):
        take(jump_timings(options.case, gpu, rounds, say))
    return found
