"""``anyflow-rt run``: a prompt to a video file."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyflow_rt.cli.arguments import not_empty, number, whole_number
from anyflow_rt.cli.clock import process_seconds
from anyflow_rt.cli.progress import Progress, say
from anyflow_rt.errors import UsageError

if TYPE_CHECKING:
    from anyflow_rt.result import BudgetReport, Result, StreamReport
    from anyflow_rt.runtime import Runtime
    from anyflow_rt.sampling.controller import Decision

HELP = "make a video from a prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags. Those left out take the library's own defaults."""
    parser.add_argument("--prompt", required=True, action="append", help="what to show; may be given several times")
    parser.add_argument(
        "--bundle",
        type=not_empty,
        metavar="DIR",
        help="a bundle made by build, or a shipped checkpoint's: shapes (default), shapes-causal",
    )
    parser.add_argument("--output", type=not_empty, metavar="FILE", help=".mp4 (default out.mp4), .gif, .png, .npy")
    parser.add_argument(
        "--stream",
        type=not_empty,
        metavar="FILE",
        help="in place of --output: an .mp4 that grows as frames are made, or - for standard output",
    )
    parser.add_argument(
        "--steps", type=whole_number, help="jumps of the sampler: 1, 2, 4 ... (default 4; with --budget the most)"
    )
    parser.add_argument(
        "--budget", type=number, metavar="SECONDS", help="as many jumps as keep it, from the start to the finished file"
    )
    parser.add_argument(
        "--confidence", type=number, help="probability that the budget is kept, between 0 and 1 (default 0.95)"
    )
    parser.add_argument(
        "--strict-budget",
        action="store_true",
        default=None,
        help="exit with code 3, before any work, where the budget cannot be met (default: the fewest jumps)",
    )
    parser.add_argument("--min-steps", type=whole_number, help="fewest jumps that a budget may lead to (default 1)")
    parser.add_argument("--max-steps", type=whole_number, help="most jumps that a budget may lead to (default 32)")
    parser.add_argument(
        "--preview",
        action="store_true",
        default=None,
        help="write drafts beside the output after 1, 4 and 16 jumps: out-preview-01.mp4 ...",
    )
    parser.add_argument(
        "--fps-deadline",
        action="store_true",
        default=None,
        help="with --stream: as many jumps for each chunk as let it be there when it is to be played",
    )
    parser.add_argument("--seed", type=whole_number, help="of the initial noise (default 0)")
    parser.add_argument("--height", type=whole_number, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=whole_number, help="pixels, a multiple of 16")
    parser.add_argument("--num-frames", type=whole_number, help="4n + 1")
    parser.add_argument("--num-videos", type=whole_number, help="videos of each prompt")
    parser.add_argument("--image", type=not_empty, metavar="FILE", help="a picture that the video begins with")
    parser.add_argument("--video", type=not_empty, metavar="FILE", help="a clip that the video continues")
    parser.add_argument("--fit", help="how they come to the video's size: cover (default), contain or stretch")
    parser.add_argument("--negative-prompt", help="what to avoid; used with --guidance-scale above 1")
    parser.add_argument("--guidance-scale", type=number, help="1 (default) is none; above 1 costs twice the time")
    parser.add_argument(
        "--max-sequence-length", type=whole_number, help="prompt tokens the denoiser attends to (default 512)"
    )
    parser.add_argument(
        "--euler", dest="mean_velocity", action="store_false", default=None, help="plain Euler steps (r = t)"
    )
    parser.add_argument("--fps", type=number, help="frames a second of an mp4 or gif (default: the bundle's)")
    parser.add_argument("--quality", type=number, help="0 to 100, of an mp4 (default 70)")
    parser.add_argument("--engine", help="openvino, onnxruntime, tensorrt_rtx, triton, tensorrt (default: the fastest)")
    parser.add_argument("--precision", help="fp32 or bf16 (default: bf16 where the processor has it)")
    parser.add_argument(
        "--prompt-cache",
        type=not_empty,
        metavar="DIR",
        help="keep prompt embeddings there; a prompt that is in it needs no text encoder",
    )
    parser.add_argument(
        "--residency", help="engines open at a time: resident, sequential or streaming (default: what fits the GPU)"
    )


PASSED_ON = (
    "steps",
    "budget",
    "confidence",
    "strict_budget",
    "min_steps",
    "max_steps",
    "preview",
    "seed",
    "height",
    "width",
    "num_frames",
    "num_videos",
    "fps_deadline",
    "image",
    "video",
    "fit",
    "negative_prompt",
    "guidance_scale",
    "max_sequence_length",
    "mean_velocity",
    "fps",
    "quality",
)

PACE = ("steps", "budget", "confidence", "strict_budget", "min_steps", "max_steps")
"""What can be checked before there is a bundle."""

SIZE_OPTIONS = {"height", "width", "num_frames", "num_videos"}


def execute(options: argparse.Namespace) -> dict[str, Any]:
    """Run, report on stderr, and return the values of ``--json``."""
    started_at = time.perf_counter() - process_seconds()
    from anyflow_rt.choice import Call
    from anyflow_rt.loading import open_runtime
    from anyflow_rt.request import check_pace

    _check_stream(options)
    given = {name: getattr(options, name) for name in PASSED_ON if getattr(options, name) is not None}
    prompt = options.prompt[0] if len(options.prompt) == 1 else options.prompt
    check_pace(**{name: given[name] for name in PACE if name in given})
    if options.strict_budget:
        from anyflow_rt.strict import refuse_unmeetable

        chosen = {"engine": options.engine, "precision": options.precision}
        refuse_unmeetable(options.bundle, prompt, **chosen, started_at=started_at, **given)
    # Not load(): the engines go on opening while the prompt is read.
    with open_runtime(
        options.bundle,
        engine=options.engine,
        precision=options.precision,
        specialize=len(options.prompt) == 1 and not given.keys() & SIZE_OPTIONS,
        # Drafts and streams need the decoder while the denoiser is still at work.
        single_use=not (options.preview or options.stream),
        one_call=True,
        prompt_cache=options.prompt_cache,
        residency=options.residency,
        meant_for=Call(
            options.num_frames,
            options.height,
            options.width,
            videos=len(options.prompt) * (1 if options.num_videos is None else options.num_videos),
            prompts=2 if (options.guidance_scale or 0) > 1 else 1,
            in_time=options.fps_deadline,
        ),
        report=say,
    ) as runtime:
        loaded = process_seconds()
        write: Callable[..., Result] = runtime.generate_to_file
        if options.stream is not None:
            write = partial(_stream_to_file, runtime)
        with Progress("step") as progress:
            result = write(
                options.stream or options.output or "out.mp4",
                prompt,
                started_at=started_at,
                on_step=lambda step: progress.update(
                    step.chunk * step.steps + step.index + 1, step.chunks * step.steps
                ),
                **given,
            )
    seconds = asdict(result.seconds)
    seconds["load"] += loaded
    for path in result.paths:
        say(_summary(path, result, seconds))
    drafts = [f"{path}: draft after {each.steps} jumps" for each in result.previews for path in each.paths]
    for line in (*drafts, *_budget_lines(result), *_stream_lines(result.stream)):
        say(line)
    files = [str(path) for path in result.paths]
    answer: dict[str, Any] = {
        "output": files[0] if len(files) == 1 else files,
        "engine": result.engine,
        "precision": result.precision,
        "steps": _steps(result),
        "seed": result.seed,
        "size": list(result.size),
        "plan": [list(jump) for jump in result.plan],
        "seconds": seconds,
        "budget": None if result.budget is None else _budget(result.budget, result.decisions),
    }
    if options.preview:
        answer["previews"] = [
            {"steps": each.steps, "seconds": each.seconds, "output": [str(path) for path in each.paths]}
            for each in result.previews
        ]
    if result.chunks:
        answer["chunks"] = [asdict(chunk) for chunk in result.chunks]
    if result.gpu is not None:
        answer["gpu"] = asdict(result.gpu)
    if result.stream is not None:
        answer["stream"] = _stream(result.stream)
    return answer


def _steps(result: Result) -> int:
    """Jumps of the video, or of each of its chunks."""
    return max((chunk.steps for chunk in result.chunks), default=len(result.plan))


def _stream(report: StreamReport) -> dict[str, Any]:
    told = ("first_frame", "jitter", "stalls", "stall_ratio")
    return {**asdict(report), **{name: getattr(report, name) for name in told}}


def _stream_lines(report: StreamReport | None) -> list[str]:
    """When the first frame was there, how evenly the others came, and whether a player would have waited."""
    if report is None:
        return []
    chunks, late = len(report.ready), sum(stall > 0 for stall in report.stalls[1:])
    told = f"first frame after {report.first_frame:.2f} s, {chunks} chunk{'s' * (chunks != 1)}"
    if chunks == 1:
        return [told]
    return [
        f"{told}, jitter {report.jitter:.3f} s; played at {report.fps:g} frames a second {late} of the {chunks - 1} "
        "after the first come late"
    ]


def _stream_to_file(runtime: Runtime, target: str, prompt: Any, **options: Any) -> Result:
    """``Runtime.stream_to_file``; Ctrl-C says what is left of it."""
    streamed: list[int] = []
    try:
        return runtime.stream_to_file(target, prompt, on_chunk=lambda chunk: streamed.append(chunk.index), **options)
    except KeyboardInterrupt as error:
        place = "standard output" if target == "-" else target
        kept = f"what was streamed to {place} until then plays" if streamed else "nothing was streamed yet"
        raise KeyboardInterrupt(f"{kept}; give the command again for all of it") from error


def _check_stream(options: argparse.Namespace) -> None:
    """Raise UsageError for flags that contradict each other."""
    if options.stream is None:
        if options.fps_deadline:
            raise UsageError("--fps-deadline is about frames that are played while they are made; give --stream too")
        return
    if options.output is not None:
        raise UsageError(f"--stream {options.stream} and --output {options.output} are both given; leave one out")
    if options.preview:
        raise UsageError("--preview writes drafts of a whole video, and a stream has none; leave it out")
    if options.stream == "-" and options.json:
        raise UsageError("--stream - and --json both write to standard output; stream to a file, or leave out --json")


def _budget(report: BudgetReport, decisions: Sequence[Decision]) -> dict[str, Any]:
    return {**asdict(report), "decisions": [asdict(each) for each in decisions]}


def _budget_lines(result: Result) -> list[str]:
    """Whether the budget was kept, the plan that was begun, each change of it and why, and what had to be assumed."""
    report = result.budget
    if report is None:
        return []
    from anyflow_rt.sampling.controller import is_change

    stated = "not predicted" if report.predicted is None else f"predicted {report.predicted:.2f} s"
    outcome = "met" if report.met else f"missed by {report.taken - report.seconds:.2f} s"
    lines = [
        f"budget {report.seconds:g} s: {outcome} ({report.taken:.2f} s, {stated} at confidence {report.confidence:g}); "
        f"{report.planned_steps} steps planned, {len(result.plan)} run"
    ]
    changes = [each for each in result.decisions if is_change(each)]
    # Once nothing fits any more, every decision says so; a person wants to know it once.
    news = [each for before, each in zip([None, *changes], changes, strict=False) if not _repeats(before, each)]
    lines += [f"at {each.at:.2f} s: {each.why}" for each in news]
    return [*lines, *(f"note: {note}" for note in report.notes)]


def _repeats(before: Decision | None, decision: Decision) -> bool:
    return before is not None and before.why == decision.why and not decision.fits


def _summary(path: Path, result: Result, seconds: dict[str, Any]) -> str:
    frames, height, width = result.size
    jumps, steps = sum(seconds["jumps"]), _steps(result)
    encode = "" if result.stream is not None else f", encode {seconds['encode']:.2f}"  # a stream's is beside the rest
    return (
        f"{path}: {frames} frames of {width}x{height}, {steps} step{'s' * (steps != 1)}, "
        f"{result.engine} {result.precision}, {seconds['total']:.2f} s "
        f"(load {seconds['load']:.2f}, text {seconds['text'] + seconds['conditioner']:.2f}, "
        f"jumps {jumps:.2f}, decode {seconds['decode']:.2f}{encode})"
    )
