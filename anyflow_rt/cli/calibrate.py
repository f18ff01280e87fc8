"""``anyflow-rt calibrate``: this machine's latencies, for budgets."""

from __future__ import annotations

import argparse
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from anyflow_rt.cli.arguments import not_empty, number, whole_number
from anyflow_rt.cli.bench import step_counts
from anyflow_rt.cli.progress import say

if TYPE_CHECKING:
    from anyflow_rt.calibrate import Calibrated

HELP = "measure what a bundle's stages take on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags. Those left out take the library's own defaults."""
    parser.add_argument(
        "--bundle", type=not_empty, metavar="DIR", help="a bundle made by build (default: the shapes checkpoint's)"
    )
    parser.add_argument(
        "--steps", type=step_counts, metavar="N,N,...", help="step counts of the runs of a round (default 1,2,4,8,16)"
    )
    parser.add_argument("--rounds", type=whole_number, help="at most so many (default 8)")
    parser.add_argument("--seconds", type=number, help="no round begins later (default 60)")
    parser.add_argument("--openings", type=whole_number, help="runs that open their engines first (default 3)")
    parser.add_argument("--height", type=whole_number, help="pixels (default: the bundle's)")
    parser.add_argument("--width", type=whole_number, help="pixels (default: the bundle's)")
    parser.add_argument("--num-frames", type=whole_number, help="4n + 1 (default: the bundle's)")
    parser.add_argument("--engine", help="openvino, onnxruntime or triton (default: the fastest here)")
    parser.add_argument("--precision", help="fp32 or bf16 (default: bf16 where the processor has it)")


MEASURING = ("steps", "rounds", "seconds", "openings")
SIZES = ("num_frames", "height", "width")


def execute(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, report on stderr, and return the values of ``--json``."""
    from anyflow_rt.calibrate import CalibrateOptions, calibrate
    from anyflow_rt.loading import open_bundle

    given = {name: getattr(options, name) for name in MEASURING if getattr(options, name) is not None}
    sizes = {name: getattr(options, name) for name in SIZES if getattr(options, name) is not None}
    wanted = CalibrateOptions(**given)
    bundle = open_bundle(options.bundle, say)
    if sizes:
        wanted = replace(wanted, size=replace(bundle.defaults.size, **sizes))
    found = calibrate(bundle, wanted, engine=options.engine, precision=options.precision, report=say)
    for line in lines(found):
        say(line)
    return {
        "profile": str(found.profile),
        "setting": asdict(found.setting),
        "stages": [asdict(stage) for stage in found.stages],
        "budgets": [{"steps": steps, "seconds": seconds} for steps, seconds in found.budgets],
        "seconds": found.seconds,
    }


def lines(found: Calibrated) -> list[str]:
    """What was found, for people."""
    text = [f"{'stage':<12}{'median ms':>10}{'p95 ms':>9}{'first ms':>10}{'calls':>7}"]
    for each in found.stages:
        median, high, first = (_milliseconds(value) for value in (each.median, each.high, each.first))
        text.append(f"{each.stage:<12}{median:>10}{high:>9}{first:>10}{each.runs:>7}")
    kept = ", ".join(f"{steps} in {seconds:.2f} s" for steps, seconds in found.budgets)
    return [*text, f"steps that a warm run makes at confidence 0.95: {kept}", f"profile: {found.profile}"]


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"
