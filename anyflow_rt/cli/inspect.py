"""``anyflow-rt inspect``: what a bundle holds."""

from __future__ import annotations

import argparse
from typing import Any

from anyflow_rt.cli.arguments import not_empty

HELP = "show what a bundle holds, and check it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("bundle", type=not_empty, metavar="BUNDLE", help="a directory made by build")
    parser.add_argument("--verify", action="store_true", help="read every file and compare its hash")


def execute(options: argparse.Namespace) -> dict[str, Any]:
    """Describe on stdout (with ``--json`` on stderr), and return the values of ``--json``."""
    from anyflow_rt.engines.bundle import Bundle

    bundle = Bundle.open(options.bundle)
    if options.verify:
        bundle.verify()
    manifest = bundle.manifest
    transformer, size = manifest.architecture.transformer, manifest.defaults
    answer = {
        "bundle": str(bundle.path),
        "bundle_id": bundle.id,
        "checkpoint": {"id": manifest.checkpoint.id, "sha256": manifest.checkpoint.sha256},
        "architecture": manifest.architecture.to_dict(),
        "default_size": [size.num_frames, size.height, size.width],
        "components": {
            part.name: {"bytes": sum(file.size for file in part.files), "seconds": part.seconds}
            for part in manifest.components
        },
        "engines": [
            {"target": e.target, "engine": e.engine, "precision": e.precision, "profile": e.profile}
            for e in manifest.engines
        ],
        "packages": dict(manifest.packages),
        "verified": bool(options.verify),
    }
    lines = [
        f"{bundle.path}  ({bundle.id[:12]})",
        f"checkpoint  {manifest.checkpoint.id}  ({manifest.architecture.pipeline})",
        f"denoiser    {transformer.num_layers} layers, {transformer.num_attention_heads} heads x "
        f"{transformer.attention_head_dim}, shift {manifest.architecture.scheduler.shift:g}",
        f"video       {size.num_frames} frames of {size.width}x{size.height} where not said otherwise",
    ]
    for part in manifest.components:
        megabytes = sum(file.size for file in part.files) / 1e6
        lines.append(f"component   {part.name:<18} {megabytes:9.2f} MB   exported in {part.seconds:.1f} s")
    for engine in manifest.engines:
        lines.append(f"engine      {engine.target} {engine.engine} {engine.precision} ({engine.profile})")
    if options.verify:
        lines.append("verified    every file has its hash")
    print("\n".join(lines))
    return answer
