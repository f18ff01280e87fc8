"""``python -m anyflow_rt.benchmarks.shapes.recipe STAGE``: one stage of the training."""

from __future__ import annotations

import argparse
from pathlib import Path


def main() -> None:
    """Read the stage and its options, and run it."""
    parser = argparse.ArgumentParser(prog="python -m anyflow_rt.benchmarks.shapes.recipe", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    vae = stages.add_parser("vae", help="train the video autoencoder")
    vae.add_argument("--seconds", type=float, default=900.0, help="training seconds in all (default: %(default)s)")
    export_options = stages.add_parser("export", help="write the checkpoint in the diffusers layout, float16")
    export_options.add_argument("--out", type=Path, help="directory (default: the one that ships with the package)")
    export_options.add_argument("--denoiser", choices=("teacher", "flow_map"), help="whose denoiser (default: the newest)")
    options = parser.parse_args()
    if options.stage == "vae":
        from anyflow_rt.benchmarks.shapes.recipe.vae import train

        train(options.seconds)
    if options.stage == "export":
        from anyflow_rt.benchmarks.shapes.recipe.export import export, shipped_checkpoint

        export(options.out or shipped_checkpoint(), options.denoiser)


if __name__ == "__main__":
    main()
