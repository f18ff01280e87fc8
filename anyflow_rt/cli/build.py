"""``anyflow-rt build``: a checkpoint to a bundle."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyflow_rt.cli.arguments import not_empty, whole_number
from anyflow_rt.cli.progress import ProgressOfParts, say
from anyflow_rt.cli.tensorrt_arguments import add_tensorrt_arguments, tensorrt_settings
from anyflow_rt.errors import UsageError

if TYPE_CHECKING:
    from anyflow_rt.build import BuildReport
    from anyflow_rt.build_plan import Preview

HELP = "make a bundle of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--ckpt",
        type=not_empty,
        metavar="DIR|HUB_ID",
        help="a diffusers checkpoint, or a shipped one: shapes (default), shapes-causal",
    )
    parser.add_argument(
        "--bundle",
        type=not_empty,
        metavar="DIR",
        help="in place of --ckpt: add engines to this bundle, of the graphs that --onnx-only made elsewhere",
    )
    parser.add_argument("--revision", type=not_empty, help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--out", type=not_empty, metavar="DIR", help="where the bundle goes (default: the user's cache)"
    )
    parser.add_argument(
        "--target", default="cpu", help="what it will run on, several by comma: cpu (default), sm_80, sm_89 ..."
    )
    parser.add_argument(
        "--engine",
        help="openvino, onnxruntime; for a GPU tensorrt_rtx, triton, tensorrt (default: the first that fits)",
    )
    parser.add_argument("--precision", help="fp32, bf16 or fp16 (default: bf16 where the target has it)")
    parser.add_argument(
        "--height", type=whole_number, help="pixels of a run that does not say; with --bundle of the engines"
    )
    parser.add_argument("--width", type=whole_number, help="pixels, likewise")
    parser.add_argument("--num-frames", type=whole_number, help="frames, likewise")
    parser.add_argument(
        "--text-weights",
        help="of the text encoder: stored (default), or int8: half the memory, 0.4%% off",
    )
    parser.add_argument("--onnx-only", action="store_true", help="export the graphs and stop")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    parser.add_argument("--force", action="store_true", help="make everything again, replacing what is there")
    parser.add_argument(
        "--check-parity",
        action=argparse.BooleanOptionalAction,
        help="compare with diffusers at the end (default: for checkpoints under 1 GB)",
    )
    parser.add_argument(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        help="measure latencies at the end, for budgets (default: for checkpoints under 1 GB)",
    )
    add_tensorrt_arguments(parser)


def execute(options: argparse.Namespace) -> dict[str, Any]:
    """Build, report on stderr, and return the values of ``--json``."""
    if options.bundle is not None:
        return _add_engines(options)
    from anyflow_rt.build import build
    from anyflow_rt.build_plan import BuildOptions, preview
    from anyflow_rt.engines.targets import parse_targets

    wanted = BuildOptions(
        checkpoint="shapes" if options.ckpt is None else options.ckpt,
        out=None if options.out is None else Path(options.out),
        revision=options.revision,
        targets=parse_targets(options.target),
        engine=options.engine,
        precision=options.precision,
        height=options.height,
        width=options.width,
        num_frames=options.num_frames,
        onnx_only=options.onnx_only,
        force=options.force,
        check_parity=options.check_parity,
        calibrate=options.calibrate,
        text_weights=options.text_weights,
        tensorrt=tensorrt_settings(options),
    )
    if options.dry_run:
        found = preview(wanted)
        say(_forecast(found))
        return {
            "bundle": str(found.path),
            "changes": found.changes,
            "components": list(found.components),
            "engines": list(found.engines),
            "estimate": asdict(found.estimate),
        }
    with ProgressOfParts() as parts:
        done = build(wanted, parts.say, parts.update)
    return _answer(done)


CHECKPOINT_ONLY = (
    "ckpt",
    "revision",
    "out",
    "onnx_only",
    "text_weights",
    "check_parity",
    "calibrate",
)
"""Flags that mean nothing where there is only a bundle."""


def _add_engines(options: argparse.Namespace) -> dict[str, Any]:
    """The same for ``--bundle``."""
    from anyflow_rt.build_engines import EngineOptions, add_engines, plan_engines
    from anyflow_rt.engines.targets import parse_targets

    for name in CHECKPOINT_ONLY:
        if getattr(options, name):
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is about a checkpoint and --bundle takes none; leave one of them out")
    wanted = EngineOptions(
        Path(options.bundle),
        parse_targets(options.target),
        options.engine,
        options.precision,
        options.force,
        tensorrt_settings(options),
        options.num_frames,
        options.height,
        options.width,
    )
    if options.dry_run:
        plan = plan_engines(wanted)
        names = [str(each) for each in plan.wanted]
        cost = f"would take {plan.estimate}, for {', '.join(names)}" if names else "has them all"
        say(f"{plan.bundle.path} {cost}; nothing was made")
        return {
            "bundle": str(plan.bundle.path),
            "changes": bool(names),
            "components": [],
            "engines": names,
            "estimate": asdict(plan.estimate),
        }
    with ProgressOfParts() as parts:
        done = add_engines(wanted, parts.say, parts.update)
    return _answer(done)


def _answer(done: BuildReport) -> dict[str, Any]:
    if done.changed:
        say(f"built {done.path} in {done.seconds:.1f} s")
    else:
        say(f"{done.path}: nothing has changed; nothing to do ({done.seconds:.1f} s)")
    return {
        "bundle": str(done.path),
        "bundle_id": done.bundle_id,
        "changed": done.changed,
        "exported": done.exported,
        "compiled": list(done.compiled),
        "compile_seconds": done.compiled,
        "parity": [_plain(asdict(parity)) for parity in done.parity],
        "seconds": done.seconds,
    }


def _forecast(found: Preview) -> str:
    if not found.changes:
        return f"{found.path}: nothing to do; nothing was made"
    parts = [*found.components, *found.engines, *(["its settings"] if found.settings else [])]
    cost = f"would take {found.estimate}" if found.estimate.seconds else "would take little"
    return f"{found.path} {cost}, for {', '.join(parts)}; nothing was made"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity, the PSNR of frames without a difference: null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
