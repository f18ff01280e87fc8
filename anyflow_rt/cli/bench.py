"""``anyflow-rt bench``: quality and latency against steps, measured; what was measured, drawn and compared."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyflow_rt.cli.arguments import not_empty, whole_number
from anyflow_rt.cli.progress import Progress, say

HELP = "measure quality and latency against steps"
REPORT = Path("bench-report")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags and the parts ``diff``, ``budget`` and ``kernels``."""
    parser.add_argument("--bundle", type=not_empty, metavar="DIR", help="(default: the shapes checkpoint's)")
    parser.add_argument("--steps", type=step_counts, help="step counts (default 1,2,4,8,16,32)", metavar="N,N,...")
    parser.add_argument(
        "--prompts",
        type=not_empty,
        metavar="FILE",
        help="one prompt a line (default 'shapes': captions of that world)",
    )
    parser.add_argument("--num-prompts", type=whole_number, metavar="K", help="how many of them (default 64, or all)")
    parser.add_argument("--seeds", type=whole_number, metavar="M", help="videos of each prompt (default 1)")
    parser.add_argument("--metrics", type=names, metavar="NAMES", help="by comma (default shapes,fidelity,motion)")
    parser.add_argument("--compare", choices=("diffusers",), help="run the reference pipeline too, in turns")
    parser.add_argument("--rounds", type=whole_number, help="timed runs at each step count (default 20)")
    parser.add_argument("--jump-videos", type=whole_number, help="videos whose single jumps are measured (default 8)")
    parser.add_argument(
        "--euler", dest="mean_velocity", action="store_false", default=None, help="plain Euler steps (r = t)"
    )
    parser.add_argument("--engine", help="openvino, onnxruntime or triton (default: the fastest here)")
    parser.add_argument("--precision", help="fp32 or bf16 (default: bf16 where the processor has it)")
    parser.add_argument("--report", type=not_empty, metavar="DIR", help=f"where the report goes (default {REPORT})")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument(
        "--from", dest="source", type=not_empty, metavar="FILE", help="draw these results.json again, measure nothing"
    )
    parser.add_argument(
        "--series",
        action="append",
        type=series,
        default=[],
        metavar="NAME=FILE",
        help="with --from: draw the quality of another results.json beside it; may be given several times",
    )
    flags = {action.dest: (action.option_strings[0], action.default) for action in parser._actions}
    parser.set_defaults(flags=flags)
    _add_parts(parser)


def _add_parts(parser: argparse.ArgumentParser) -> None:
    from anyflow_rt.benchmarks.budget import arguments as budget
    from anyflow_rt.benchmarks.kernels import arguments as kernels

    parts = parser.add_subparsers(dest="part", metavar="{diff,budget,kernels}")
    diff = parts.add_parser("diff", help="compare two results; exit code 1 where the second is worse")
    diff.add_argument("before", type=not_empty, metavar="A.json")
    diff.add_argument("after", type=not_empty, metavar="B.json")
    budgets = parts.add_parser("budget", help=budget.HELP, description=budget.HELP)
    budget.add_arguments(budgets)
    kernel_part = parts.add_parser("kernels", help=kernels.HELP, description=kernels.HELP)
    kernels.add_arguments(kernel_part)
    known = {action.dest for action in parser._actions}
    for part in (diff, budgets, kernel_part):
        part.add_argument("--json", action="store_true", help="one line of JSON on stdout")
        part.add_argument("--debug", action="store_true", help="show tracebacks of errors")
        for action in part._actions:
            # What both have would be undone by the part's default; ``main`` adds the last two to every verb.
            if action.dest in known | {"json", "debug"}:
                action.default = argparse.SUPPRESS
        part.set_defaults(takes=frozenset(action.dest for action in part._actions))


PASSED_ON = ("steps", "seeds", "compare", "rounds", "jump_videos", "mean_velocity", "engine", "precision", "resume")


REDRAWN_WITH = frozenset({"source", "series", "report"})


def execute(options: argparse.Namespace) -> dict[str, Any] | list[dict[str, Any]]:
    """Run the part asked for, report on stderr, and return the values of ``--json``."""
    if options.part is not None:
        _refuse_others(options, options.takes, f"bench {options.part}")
        parts: dict[str, Callable[[argparse.Namespace], dict[str, Any] | list[dict[str, Any]]]] = {
            "diff": _diff,
            "budget": _budget,
            "kernels": _kernels,
        }
        return parts[options.part](options)
    if options.source is not None or options.series:
        _refuse_others(options, REDRAWN_WITH, "--from" if options.source is not None else "--series")
        return _redraw(options)
    return _sweep(options)


def _refuse_others(options: argparse.Namespace, takes: frozenset[str], what: str) -> None:
    from anyflow_rt.errors import UsageError

    for name, (flag, default) in options.flags.items():
        if name not in takes and getattr(options, name, default) != default:
            raise UsageError(f"{flag} does nothing with {what}; leave it out")


def step_counts(text: str) -> tuple[int, ...]:
    """1,2,4 as numbers; their range is the library's business."""
    return tuple(whole_number(part) for part in text.split(","))


def names(text: str) -> tuple[str, ...]:
    """Names by comma."""
    return tuple(part.strip() for part in text.split(","))


def series(text: str) -> tuple[str, str]:
    """(NAME, FILE) of NAME=FILE."""
    name, equals, file = text.partition("=")
    if not (name and equals and file):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE; give one such as teacher=teacher/results.json")
    return name, file


def _sweep(options: argparse.Namespace) -> dict[str, Any]:
    from anyflow_rt.benchmarks.results.figures import figures
    from anyflow_rt.benchmarks.results.text import summary_lines
    from anyflow_rt.benchmarks.sweep.options import SweepOptions
    from anyflow_rt.benchmarks.sweep.prompts import SHAPES, read_prompts
    from anyflow_rt.benchmarks.sweep.sweep import run_sweep

    given = {name: getattr(options, name) for name in PASSED_ON if getattr(options, name) is not None}
    prompts = options.prompts or SHAPES
    wanted = SweepOptions(
        bundle=None if options.bundle is None else Path(options.bundle),
        report=REPORT if options.report is None else Path(options.report),
        prompts=read_prompts(prompts, options.num_prompts),
        prompt_source=prompts,
        metrics=options.metrics or ("shapes", "fidelity", "motion"),
        **given,
    )
    done = run_sweep(wanted, say, Progress)
    for line in summary_lines(done.summary):
        say(line)
    say(f"report: {wanted.report / 'index.html'}")
    answer = {"report": str(wanted.report), "valid": done.results.valid, "calibrated": done.calibrated}
    return answer | figures(done.summary)


def _redraw(options: argparse.Namespace) -> dict[str, Any]:
    from anyflow_rt.benchmarks.pages.report import redraw_report, write_report
    from anyflow_rt.benchmarks.results.figures import figures
    from anyflow_rt.benchmarks.results.file import read_results
    from anyflow_rt.benchmarks.results.series import with_series
    from anyflow_rt.benchmarks.results.text import summary_lines
    from anyflow_rt.errors import UsageError

    if options.source is None:
        raise UsageError("--series draws beside other results; say which with --from FILE")
    if not options.series:
        summary = redraw_report(options.source, options.report)
    elif options.report is None:
        raise UsageError("--series makes a report of several results; say where it goes with --report DIR")
    else:
        others = {name: read_results(file) for name, file in options.series}
        summary = write_report(with_series(read_results(options.source), others), options.report)
    for line in summary_lines(summary):
        say(line)
    source = Path(options.source)
    report = options.report or (source if source.is_dir() else source.parent)
    return {"report": str(report), "valid": summary.results.valid} | figures(summary)


def _diff(options: argparse.Namespace) -> dict[str, Any]:
    from anyflow_rt.benchmarks.results.difference import compare_results
    from anyflow_rt.benchmarks.results.file import read_results

    found = compare_results(read_results(options.before), read_results(options.after))
    for line in found.lines():
        say(line)
    return {**found.to_dict(), "exit_code": found.exit_code}


def _budget(options: argparse.Namespace) -> dict[str, Any]:
    from anyflow_rt.benchmarks.budget import command

    shown: dict[str, Progress] = {}

    def progress(what: str, done: int, total: int) -> None:
        shown.setdefault(what, Progress(what)).update(done, total)

    try:
        return command.execute(options, say, progress)
    finally:
        for each in shown.values():
            each.close()


def _kernels(options: argparse.Namespace) -> dict[str, Any] | list[dict[str, Any]]:
    from anyflow_rt.benchmarks.kernels import command

    return command.execute(options, say)
