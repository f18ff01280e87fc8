"""A call against what TensorRT engines were built for, before any work: a size, videos, prompts, given frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyflow_rt.engines.geometry import LatentSize
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.record import EngineFacts
from anyflow_rt.engines.tensorrt.settings import PROMPT_LENGTHS
from anyflow_rt.errors import UsageError


def check_call(
    facts: EngineFacts,
    file: Path,
    latent: LatentSize,
    *,
    videos: int,
    max_sequence_length: int,
    given: bool,
    tokens: int = 1,
) -> None:
    """Raise UsageError, with the mend, for a call that the engines beside ``file`` cannot make.

    given: whether it begins with a picture or a clip, whose encoder these engines do not have. tokens: of the longest
    prompt.
    """
    if given:
        raise UsageError(
            f"TensorRT engines have no encoder for a picture or a clip (image, video), and {facts.package} runs; leave "
            "them out, or run on the CPU (--engine openvino or onnxruntime)"
        )
    profile = facts.components["denoiser"]["profiles"][-1]
    smallest, largest = (profile.get(kind, profile["usual"])["latents"] for kind in ("smallest", "largest"))
    if not smallest[0] <= videos <= largest[0]:
        raise UsageError(
            f"{videos} videos at once were asked for and the engine takes {_range(smallest[0], largest[0])}; ask for "
            f"fewer, or {engine_mend(file, batch=videos)}"
        )
    wanted = (latent.frames, latent.channels, latent.height, latent.width)
    if not all(low <= size <= high for low, size, high in zip(smallest[1:], wanted, largest[1:], strict=True)):
        bounds = _size(largest) if smallest[1:] == largest[1:] else f"{_size(smallest)} to {_size(largest)}"
        raise UsageError(
            f"the engine {file.parent.name} takes latents of frames x height x width {bounds} and the size that was "
            f"asked for has {latent.frames}x{latent.height}x{latent.width}; ask for that size, or build for the other "
            "with --num-frames, --height and --width, or a range with --smallest and --largest"
        )
    keys = facts.settings["prompt_lengths"][-1]
    if tokens > keys:
        longer = [*facts.settings["prompt_lengths"], next((each for each in PROMPT_LENGTHS if each >= tokens), tokens)]
        raise UsageError(
            f"the longest prompt has {tokens} tokens and the engine {file.parent.name} takes up to {keys}; shorten it, "
            f"or {engine_mend(file, prompt_lengths=longer)}"
        )
    if facts.settings["cross_keys"] == "all" and max_sequence_length != keys:
        raise UsageError(
            f"the engine {file.parent.name} attends to all of {keys} keys, and max_sequence_length "
            f"{max_sequence_length} was asked for; ask for {keys}, or build without --cross-keys all"
        )


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _size(latents: Sequence[int]) -> str:
    return f"{latents[1]}x{latents[3]}x{latents[4]}"
