"""``python -m anyflow_rt.benchmarks.shapes.recipe STAGE``: one stage of the training."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from anyflow_rt.benchmarks.shapes.recipe.state import shipped_checkpoint


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The stage and its options."""
    parser = argparse.ArgumentParser(prog="python -m anyflow_rt.benchmarks.shapes.recipe", description=__doc__)
    stages = parser.add_subparsers(dest="stage", required=True)
    for name, seconds, purpose in (
        ("vae", 900.0, "train the video autoencoder"),
        ("vae_decoder", 450.0, "train the decoder on, with the encoder as it is"),
        ("teacher", 1200.0, "train transformer and text encoder by flow matching"),
        ("flow_map", 900.0, "train the forward flow map, from the teacher"),
        ("on_policy", 900.0, "train the flow map on its own videos, against teacher and critic"),
        ("causal", 900.0, "train a causal flow map, from the bidirectional one"),
    ):
        training = stages.add_parser(name, help=purpose)
        training.add_argument(
            "--seconds", type=float, default=seconds, help="training seconds in all (default: %(default)s)"
        )
        if name not in ("vae_decoder", "on_policy"):
            training.add_argument(
                "--initial", type=Path, help="checkpoint directory to begin with, such as the shipped one"
            )
    latents = stages.add_parser("latents", help="encode clips for the denoiser stages")
    latents.add_argument("--clips", type=int, default=8000, help="(default: %(default)s)")
    latents.add_argument("--seed", type=int, default=0, help="which set (default: %(default)s)")
    export = stages.add_parser("export", help="write the checkpoint in the diffusers layout, float16")
    export.add_argument("--out", type=Path, help="directory (default: where it ships with the package)")
    export.add_argument(
        "--denoiser",
        choices=("teacher", "flow_map", "on_policy", "causal"),
        help="whose denoiser (default: the newest bidirectional one)",
    )
    evaluate = stages.add_parser("evaluate", help="judge samples of held-out prompts")
    evaluate.add_argument("--checkpoint", type=Path, help="directory (default: the one that ships with the package)")
    evaluate.add_argument("--steps", default="1,2,4,8,16,32", help="step counts (default: %(default)s)")
    evaluate.add_argument("--prompts", type=int, default=256, help="how many (default: %(default)s)")
    evaluate.add_argument("--euler", action="store_true", help="plain Euler steps (r = t) instead of jumps")
    evaluate.add_argument("--report", type=Path, help="JSON file to write the scores to")
    picture = stages.add_parser("picture", help="a sheet of samples of held-out prompts")
    picture.add_argument("--checkpoint", type=Path, help="directory (default: the one that ships with the package)")
    picture.add_argument("--steps", type=int, default=8, help="(default: %(default)s)")
    picture.add_argument("--out", type=Path, default=Path("shapes_samples.png"), help="(default: %(default)s)")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the stage asked for."""
    options = parse()
    if options.stage in ("vae", "vae_decoder"):
        from anyflow_rt.benchmarks.shapes.recipe import vae

        if options.stage == "vae":
            vae.train(options.seconds, start=options.initial)
        else:
            vae.train(options.seconds, decoder_only=True)
    elif options.stage == "teacher":
        from anyflow_rt.benchmarks.shapes.recipe import teacher

        teacher.train(options.seconds, options.initial)
    elif options.stage == "flow_map":
        from anyflow_rt.benchmarks.shapes.recipe import flow_map

        flow_map.train(options.seconds, options.initial)
    elif options.stage == "on_policy":
        from anyflow_rt.benchmarks.shapes.recipe import on_policy

        on_policy.train(options.seconds)
    elif options.stage == "causal":
        from anyflow_rt.benchmarks.shapes.recipe import causal

        causal.train(options.seconds, options.initial)
    elif options.stage == "export" and options.denoiser == "causal":
        from anyflow_rt.benchmarks.shapes.recipe.export_shared import export_causal

        export_causal(options.out)
    elif options.stage == "latents":
        from anyflow_rt.benchmarks.shapes.recipe.latents import encode

        encode(options.clips, options.seed)
    elif options.stage == "export":
        from anyflow_rt.benchmarks.shapes.recipe.export import export

        export(options.out or shipped_checkpoint(), options.denoiser)
    elif options.stage == "picture":
        from anyflow_rt.benchmarks.shapes.recipe.picture import draw

        draw(options.checkpoint or shipped_checkpoint(), options.steps, options.out)
    else:
        from anyflow_rt.benchmarks.shapes.recipe.evaluate import evaluate

        steps = [int(number) for number in options.steps.split(",")]
        checkpoint = options.checkpoint or shipped_checkpoint()
        evaluate(checkpoint, steps, options.prompts, options.report, mean_velocity=not options.euler)


if __name__ == "__main__":
    main()
