"""``python -m anyflow_rt.benchmarks.shapes.recipe STAGE``: one stage of the training."""

from __future__ import annotations

import argparse


def main() -> None:
    """Read the stage and its options, and run it."""
    parser = argparse.ArgumentParser(prog="python -m anyflow_rt.benchmarks.shapes.recipe", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    vae = stages.add_parser("vae", help="train the video autoencoder")
    vae.add_argument("--seconds", type=float, default=1800.0, help="training seconds in all (default: %(default)s)")
    options = parser.parse_args()
    if options.stage == "vae":
        from anyflow_rt.benchmarks.shapes.recipe.vae import train

        train(options.seconds)


if __name__ == "__main__":
    main()
