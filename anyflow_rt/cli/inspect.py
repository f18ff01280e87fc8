"""``anyflow-rt inspect``: what a bundle holds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from anyflow_rt.cli.arguments import not_empty

if TYPE_CHECKING:
    from anyflow_rt.engines.bundle import Bundle
    from anyflow_rt.engines.manifest import EngineRecord

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
    engines = [(engine, _parts(bundle, engine)) for engine in manifest.engines]
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
            {
                "target": e.target,
                "engine": e.engine,
                "precision": e.precision,
                "profile": e.profile,
                "components": parts,
            }
            for e, parts in engines
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
    for engine, parts in engines:
        lines.append(f"engine      {engine.target} {engine.engine} {engine.precision} ({engine.profile})")
        lines += [f"            {name:<18} {_described(values)}" for name, values in parts.items()]
    if options.verify:
        lines.append("verified    every file has its hash")
    print("\n".join(lines))
    return answer


def _parts(bundle: Bundle, engine: EngineRecord) -> dict[str, dict[str, Any]]:
    """What TensorRT's engines say of their components; nothing of the others."""
    from anyflow_rt.engines.tensorrt.record import RECORD, read_facts

    found = [bundle.path / file.path for file in engine.files if file.path.endswith(f"/{RECORD}")]
    return read_facts(found[0].parent).components if found else {}


def _megabytes(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e6:.1f} MB"


def _described(values: dict[str, Any]) -> str:
    kernels = sum(values.get("kernels", {}).values())
    ours = f"   {kernels} Triton kernels" if kernels else ""
    return (
        f"{values['bytes'] / 1e6:9.2f} MB   {values['precision']}   {values['layers']} layers   attention: "
        f"{values['fused']} fused, {values['decomposed']} not{ours}   on the GPU {_megabytes(values['weights'])} of "
        f"weights, {_megabytes(values['working'])} to work in, {_megabytes(values['ports'])} in and out   built in "
        f"{values['seconds']:.1f} s with {values['peak_memory'] / 1e9:.1f} GB"
    )
