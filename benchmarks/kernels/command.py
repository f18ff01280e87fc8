"""``anyflow-rt bench kernels``: figures of compiled code, floors, or times, as lines and as JSON."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyflow_rt.benchmarks.kernels.arguments import ALL, FEWEST_ROUNDS, JUMP, ROUNDS, TUNING_ROUNDS
from anyflow_rt.errors import EngineError, UsageError

if TYPE_CHECKING:
    from anyflow_rt.benchmarks.kernels.gpus import Gpu
    from anyflow_rt.benchmarks.kernels.measure import Timing
    from anyflow_rt.benchmarks.kernels.steps import Step
    from anyflow_rt.kernels.video_shapes import Case, VideoShape

Say = Callable[[str], None]


def execute(options: argparse.Namespace, say: Say) -> list[dict[str, Any]]:
    """Do the part asked for; ``say`` gets the lines. Returns the list that ``--json`` prints.

    Raises UsageError, MissingPackageError without Triton, EngineError where times are asked for without a GPU,
    ParityError where a kernel's results are wrong on the GPU.
    """
    asked = _asked(options)
    if options.static:
        return _static(options, asked, say)
    if options.tune:
        return _tuned(options, say)
    return _roofline(asked, say) if options.roofline else _measured(options, asked, say)


@dataclass(frozen=True)
class _Asked:
    """What the flags name, found before anything is said: ``cases`` by op, videos of whole ``jumps``, ``targets``."""

    cases: list[tuple[str, Case]]
    jumps: tuple[VideoShape, ...]
    targets: tuple[int, ...]
    everything: bool


def _asked(options: argparse.Namespace) -> _Asked:
    """Raises UsageError for whatever the flags cannot mean."""
    from anyflow_rt.kernels.aot import TARGETS, targets_of
    from anyflow_rt.kernels.cases import selected_cases
    from anyflow_rt.kernels.video_shapes import VIDEO_SHAPES

    if options.yardstick and not options.static:
        raise UsageError("--yardstick is compiled, not run: it goes with --static")
    if options.rounds is not None and options.rounds < FEWEST_ROUNDS:
        raise UsageError(f"--rounds is {options.rounds}; give at least {FEWEST_ROUNDS}")
    try:
        re.compile(options.case)
    except re.error as error:
        raise UsageError(f"--case {options.case!r} is no regular expression: {error}") from error
    names = [name.strip() for name in options.op.split(",")]
    ops = [name for name in names if name != JUMP]
    if options.static and JUMP in names:
        raise UsageError(f"--op {options.op}: a jump is timed or given a floor, not compiled: leave out --static")
    jumps: tuple[VideoShape, ...] = ()
    if JUMP in names or ALL in names:
        jumps = tuple(shape for shape in VIDEO_SHAPES if re.search(options.case, shape.name))
    if not ops and not jumps:
        known = ", ".join(shape.name for shape in VIDEO_SHAPES)
        raise UsageError(f"no jump's video has a name that holds {options.case!r}; there are {known}")
    cases = selected_cases(",".join(ops), options.case) if ops else []
    targets = TARGETS if options.target == ALL else targets_of(options.target)
    return _Asked(cases, jumps, targets, ALL in names)


def _static(options: argparse.Namespace, asked: _Asked, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.table import regressions, unknown
    from anyflow_rt.benchmarks.kernels.text import STATIC_HEADER, static_line
    from anyflow_rt.benchmarks.kernels.yardstick import Yardstick
    from anyflow_rt.kernels.figures import selected_figures

    cache = None if options.cache is None else _cache_folder(options.cache)
    yardstick = Yardstick(Path(options.yardstick)) if options.yardstick else None
    found, worse = [], []
    say(STATIC_HEADER)
    for figures in yardstick.figures(asked.targets) if yardstick else ():
        say(static_line(figures))
        found.append({**figures.to_dict(), "yardstick": True})
    for figures in selected_figures(options.target, options.op, options.case, cache):
        line = figures.to_dict()
        worse += [*unknown(line), *regressions(line)]
        say(static_line(figures))
        found.append(line)
    if worse:
        raise EngineError(f"worse than the committed table: {'; '.join(worse)}")
    return found


def _cache_folder(name: str) -> Path:
    """The folder of ``--cache``, made where it is not there."""
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--cache {name} cannot be made ({error}); give a folder that can be written to") from error
    return Path(name)


def _roofline(asked: _Asked, say: Say) -> list[dict[str, Any]]:
    """Of whole jumps; of single launches where ops or cases are named."""
    from anyflow_rt.benchmarks.kernels.gpus import GPUS
    from anyflow_rt.benchmarks.kernels.steps import jump_steps, launch_step
    from anyflow_rt.benchmarks.kernels.text import launch_lines, roofline_lines

    gpus = [gpu for gpu in GPUS if gpu.target in asked.targets]
    found = []
    for gpu in gpus:
        for shape in asked.jumps:
            steps = jump_steps(shape)
            for line in roofline_lines(gpu, shape.name, steps):
                say(line)
            found.append(_jump_floor(gpu, shape.name, steps))
    if asked.everything and asked.jumps:
        return found
    steps = [launch_step(op, case) for op, case in asked.cases]
    for gpu in gpus if steps else ():
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
    from anyflow_rt.benchmarks.kernels.tune import measured_before, tuned, write_measured

    measured_before(Path(options.tune))  # what cannot be written is said before minutes are spent
    name, gpu = require_gpu()
    say(ceiling_line(gpu, name))
    rows = tuned(gpu.target, TUNING_ROUNDS if options.rounds is None else options.rounds, say)
    write_measured(Path(options.tune), gpu.target, rows)
    say(f"written to {options.tune}; kernels/attention/measured.json is what is read")
    return [
        {"gpu": name, "target": f"sm_{gpu.target}", "heads": size, **asdict(config)} for size, config in rows.items()
    ]


def _measured(options: argparse.Namespace, asked: _Asked, say: Say) -> list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels.gpus import ceiling_line
    from anyflow_rt.benchmarks.kernels.measure import jump_timings, require_gpu, timings

    name, gpu = require_gpu()
    say(ceiling_line(gpu, name))
    rounds = ROUNDS if options.rounds is None else options.rounds
    found = []

    def take(measured: Iterable[Timing]) -> None:
        for timing in measured:
            say(str(timing))
            found.append({"gpu": name, "figures_of": gpu.name, "target": f"sm_{gpu.target}", **timing.to_dict()})

    take(timings(asked.cases, gpu, rounds))
    take(jump_timings(asked.jumps, gpu, rounds, say))
    return found
