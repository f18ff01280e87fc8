"""From the start of a process to an mp4 on disk: ours against diffusers.

"Cold" is the process: the files it reads were read before, so they are in the system's file cache on both sides, and
our compiled models are in their place, as after ``anyflow-rt build``.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.measure import Conditions, Sample, interleave, ratios
from anyflow_rt.benchmarks.processes import Ran, own_command, run_command
from anyflow_rt.benchmarks.report import Outcome, Target
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.loading import SHAPES_CHECKPOINT

STEPS = 4
SIZE, FPS = ("17", "64", "64"), "8"
SECONDS, TIMES_FASTER = 1.5, 5.0
SCRIPT = Path(__file__).with_name("diffusers_script.py")


def run(conditions: Conditions) -> Outcome:
    """``anyflow-rt run`` and a diffusers script, alternating, another prompt and seed in every round."""
    peers.require_diffusers("the cold start benchmark")
    with tempfile.TemporaryDirectory(prefix="anyflow-rt-bench-") as folder:
        contenders = {"anyflow-rt run": our_run(Path(folder)), "diffusers script": diffusers_run(Path(folder))}
        for contender in contenders.values():
            contender(-1)
        watch = conditions.quiet()
        runs = interleave(contenders, conditions.rounds)
        others = conditions.still_quiet(watch)
    ours, theirs = (Sample(name, tuple(ran.seconds for ran in found)) for name, found in runs.items())
    faster = ratios(f"{theirs.name} / {ours.name}", theirs, ours)
    return Outcome(
        "cold start: process start to mp4 on disk, shapes checkpoint, 4 steps",
        (ours, theirs),
        (faster,),
        (
            Target("anyflow-rt run", ours.median, SECONDS, at_least=False, unit="s"),
            Target("faster than the diffusers script", faster.median, TIMES_FASTER, at_least=True),
        ),
        other_cores=others,
    )


def our_run(folder: Path) -> Callable[[int], Ran]:
    """One ``anyflow-rt run`` of the shapes bundle into ``folder``."""

    def call(number: int) -> Ran:
        prompt, seed = _input(number)
        options = ["--prompt", prompt, "--seed", seed, "--steps", str(STEPS), "--output", folder / "ours.mp4"]
        return _checked(run_command([*own_command(), "run", *options]), folder / "ours.mp4")

    return call


def diffusers_run(folder: Path) -> Callable[[int], Ran]:
    """The same with diffusers, float32 and eager."""

    def call(number: int) -> Ran:
        prompt, seed = _input(number)
        arguments = [SHAPES_CHECKPOINT, prompt, seed, str(STEPS), *SIZE, FPS, folder / "theirs.mp4"]
        return _checked(run_command([sys.executable, SCRIPT, *arguments]), folder / "theirs.mp4")

    return call


def _input(number: int) -> tuple[str, str]:
    prompts = held_out_prompts(64)
    return prompts[number % len(prompts)][0], str(2000 + number)


def _checked(ran: Ran, video: Path) -> Ran:
    """``ran``, once its video is known to be whole; the file goes, so that the next run makes its own."""
    import av

    with av.open(str(video)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames == int(SIZE[0]), f"{video} has {frames} frames"
    video.unlink()
    return ran
