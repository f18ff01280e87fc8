"""``anyflow-rt build``: a checkpoint to a bundle."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HELP = "make a bundle of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("--ckpt", metavar="DIR|HUB_ID", help="a diffusers checkpoint (default: the shipped shapes one)")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the bundle goes (default: the user's cache)")
    parser.add_argument("--target", default="cpu", help="what it will run on, several by comma (default cpu)")
    parser.add_argument("--engine", help="openvino or onnxruntime (default: the fastest here)")
    parser.add_argument("--precision", help="fp32 or bf16 (default: bf16 where the processor has it)")
    parser.add_argument("--height", type=int, help="pixels of a run that does not say")
    parser.add_argument("--width", type=int, help="pixels of a run that does not say")
    parser.add_argument("--num-frames", type=int, help="frames of a run that does not say")
    parser.add_argument("--onnx-only", action="store_true", help="export the graphs and stop")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, and stop")
    parser.add_argument("--force", action="store_true", help="make everything again, replacing what is there")
    parser.add_argument(
        "--check-parity",
        action=argparse.BooleanOptionalAction,
        help="compare with diffusers at the end (default: for checkpoints under 1 GB)",
    )


def execute(options: argparse.Namespace) -> dict[str, Any]:
    """Build, report on stderr, and return the values of ``--json``."""
    from anyflow_rt.build import BuildOptions, build, bundle_path, estimate
    from anyflow_rt.engines.checkpoint import load_checkpoint
    from anyflow_rt.loading import SHAPES_CHECKPOINT

    wanted = BuildOptions(
        checkpoint=options.ckpt or str(SHAPES_CHECKPOINT),
        out=options.out,
        revision=options.revision,
        targets=tuple(options.target.split(",")),
        engine=options.engine,
        precision=options.precision,
        height=options.height,
        width=options.width,
        num_frames=options.num_frames,
        onnx_only=options.onnx_only,
        force=options.force,
        check_parity=options.check_parity,
    )
    if options.dry_run:
        needs = estimate(load_checkpoint(wanted.checkpoint, revision=wanted.revision))
        _say(
            f"{bundle_path(wanted)} would take {needs.disk / 1e9:.2f} GB of disk, {needs.memory / 1e9:.1f} GB of "
            f"memory and about {needs.seconds:.0f} s"
        )
        return {"bundle": str(bundle_path(wanted)), "estimate": asdict(needs)}
    done = build(wanted, _say)
    if done.changed:
        _say(f"built {done.path} in {done.seconds:.1f} s")
    else:
        _say(f"{done.path}: nothing has changed; nothing to do ({done.seconds:.1f} s)")
    return {
        "bundle": str(done.path),
        "bundle_id": done.bundle_id,
        "changed": done.changed,
        "exported": done.exported,
        "compiled": list(done.compiled),
        "parity": [asdict(parity) for parity in done.parity],
        "seconds": done.seconds,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
