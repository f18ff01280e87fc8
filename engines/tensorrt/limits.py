"""A call against what TensorRT engines were built for, before any work: a size, videos, prompts, given frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import LatentSize
from anyflow_rt.engines.stages import ENCODE
from anyflow_rt.engines.tensorrt.chunk_shapes import largest_chunk
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
    architecture: Architecture | None = None,
    tokens: int = 1,
) -> None:
    """Raise UsageError, with the mend, for a call that the engines beside ``file`` cannot make.

    given: whether it begins with a picture or a clip. architecture: a causal checkpoint's, whose engines take every
    video that is not longer than the one they are built for. tokens: of the longest prompt.
    """
    if given and any(name not in facts.components for name in ENCODE):
        raise UsageError(
            f"the engine {file.parent.name} was built without the encoder of pictures and clips (image, video); leave "
            f"them out, run on the CPU (--engine openvino or onnxruntime), or {engine_mend(file)}"
        )
    profile = facts.components["denoiser"]["profiles"][-1]
    smallest, largest = (list(profile.get(kind, profile["usual"])["latents"]) for kind in ("smallest", "largest"))
    if not smallest[0] <= videos <= largest[0]:
        raise UsageError(
            f"{videos} videos at once were asked for and the engine takes {_range(smallest[0], largest[0])}; ask for "
            f"fewer, or {engine_mend(file, batch=videos)}"
        )
    wanted = (latent.frames, latent.channels, latent.height, latent.width)
    causal = architecture is not None and architecture.causal is not None
    longest_chunk = largest[1]
    if causal:
        smallest[1], largest[1] = 1, latent.frames
    if not all(low <= size <= high for low, size, high in zip(smallest[1:], wanted, largest[1:], strict=True)):
        bounds = _size(largest) if smallest[1:] == largest[1:] else f"{_size(smallest)} to {_size(largest)}"
        raise UsageError(
            f"the engine {file.parent.name} takes latents of frames x height x width {bounds} and the size that was "
            f"asked for has {latent.frames}x{latent.height}x{latent.width}; ask for that size, or build for the other "
            "with --num-frames, --height and --width, or a range with --smallest and --largest"
        )
    if architecture is not None and causal:
        _check_chunks(architecture, file, latent, longest_chunk, profile["largest"]["cache_key"][3])
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


def _check_chunks(architecture: Architecture, file: Path, latent: LatentSize, longest: int, remembered: int) -> None:
    """Refuse videos that have chunks of more latent frames than the ``longest`` that was built for, or that attend to
    more than the ``remembered`` tokens: in a range of sizes either may come first."""
    needed = largest_chunk(architecture, latent)
    if needed.frames > longest:
        raise UsageError(
            f"the engine {file.parent.name} makes chunks of up to {longest} latent frames and a video of "
            f"{latent.frames} has chunks of {needed.frames}; ask for fewer frames, or build for more (--num-frames, or "
            "a range with --smallest and --largest)"
        )
    if needed.cached > remembered:
        raise UsageError(
            f"the engine {file.parent.name} remembers up to {remembered} tokens of earlier chunks and a video of "
            f"{latent.frames} latent frames may need {needed.cached}; ask for fewer frames, or build for more "
            "(--num-frames)"
        )


def _range(least: int, most: int) -> str:
    return str(most) if least == most else f"{least} to {most}"


def _size(latents: Sequence[int]) -> str:
    return f"{latents[1]}x{latents[3]}x{latents[4]}"
