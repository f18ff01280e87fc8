"""A call before any work: options checked, its size held against checkpoint and memory, what it is given read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from anyflow_rt.encoding import FRAMES_PER_LATENT
from anyflow_rt.engines import registry
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.chunks import ChunkLayout, make_layout, partition
from anyflow_rt.engines.geometry import LatentSize, latent_size
from anyflow_rt.engines.manifest import EngineRecord
from anyflow_rt.errors import UsageError
from anyflow_rt.input.source import load_source
from anyflow_rt.prompt import PromptTokenizer
from anyflow_rt.request import Request, make_request
from anyflow_rt.working_memory import check_memory

logger = logging.getLogger(__name__)

IN_PLACE = "triton"
"""The engine whose caches are in its own memory, as large as a video asks for."""


def admit(
    bundle: Bundle,
    prompt: str | Sequence[str],
    *,
    engine: str,
    precision: str,
    output: str,
    record: EngineRecord | None = None,
    tokenizer: PromptTokenizer | None = None,
    **options: Any,
) -> Request:
    """The checked request of a call on ``bundle``. output: ``frames``, ``latents`` or ``file``. record: the manifest's
    engine that runs, where it has files of its own. tokenizer: the bundle's, where prompts are to be held against what
    that engine takes. Raises UsageError."""
    architecture = bundle.architecture
    request = make_request(prompt, default_size=bundle.defaults.size, shift=architecture.scheduler.shift, **options)
    latent = latent_size(architecture, request.size)
    if record is not None and registry.is_tensorrt(record.engine):
        _check_built(bundle, record, request, latent, tokenizer)
    if request.source is not None:
        given = load_source(request.source, request.size, bundle.defaults.fps, _most_given(architecture, latent))
        request = replace(request, context=given)
    if architecture.causal is not None:
        layout = _check_causal(bundle, request, latent)
        if record is not None and record.engine == IN_PLACE:
            _check_caches(bundle, record, request, layout)
    elif request.context is not None:
        logger.warning(
            "this checkpoint makes all frames at once: it holds the given ones as they are, and was trained for text "
            "alone; the causal (FAR) checkpoints continue pictures and clips: shapes-causal is shipped (--bundle "
            "shapes-causal)"
        )
    check_memory(architecture, request.size, request.videos, engine=engine, precision=precision, output=output)
    return request


def _most_given(architecture: Architecture, latent: LatentSize) -> int:
    """Frames of a clip with too many that a video begins with: all but its last chunk, of a bidirectional checkpoint
    all but its last latent frame."""
    chunks = () if architecture.causal is None else partition(architecture.causal, latent.frames)
    kept = sum(chunks[:-1]) or latent.frames - 1
    return max(0, (kept - 1) * FRAMES_PER_LATENT + 1)


def _check_built(
    bundle: Bundle, record: EngineRecord, request: Request, latent: LatentSize, tokenizer: PromptTokenizer | None
) -> None:
    """Refuse what the TensorRT engines of ``record`` were not built for."""
    from anyflow_rt.engines.tensorrt.limits import check_call
    from anyflow_rt.engines.tensorrt.record import read_facts

    file = bundle.engine_path(record, "denoiser")
    prompts = (*request.prompts, *(request.negative_prompts or ()))
    check_call(
        read_facts(file.parent),
        file,
        latent,
        videos=request.videos,
        max_sequence_length=request.max_sequence_length,
        given=request.source is not None,
        architecture=bundle.architecture,
        tokens=1 if tokenizer is None else tokenizer.longest(prompts, request.max_sequence_length),
        size=request.size,
    )


def _check_causal(bundle: Bundle, request: Request, latent: LatentSize) -> ChunkLayout:
    """Refuse what chunks cannot do, and say where they are more than the checkpoint was trained with; the chunks."""
    if request.budget is not None:
        raise UsageError(
            f"budget {request.budget.seconds:g} is planned over the jumps of a whole video, and a causal checkpoint "
            "makes it in chunks; give steps, or stream it with a deadline for each (--stream FILE --fps-deadline)"
        )
    if request.preview_after:
        raise UsageError(
            "preview shows drafts of a whole video, and a causal checkpoint makes it in chunks, each finished before "
            "the next; stream it instead (--stream)"
        )
    given = 0 if request.context is None else (len(request.context) - 1) // FRAMES_PER_LATENT + 1
    layout = make_layout(bundle.architecture, latent, given)
    trained = sum(layout.causal.chunk_partition)
    if latent.frames > trained:
        logger.warning(
            "%d latent frames are more than the %d this checkpoint was trained with; chunks go on by the same rule",
            *(latent.frames, trained),
        )
    return layout


def _check_caches(bundle: Bundle, record: EngineRecord, request: Request, layout: ChunkLayout) -> None:
    """Refuse what the GPU has no memory for; the prompt is not even read."""
    from anyflow_rt.engines.triton_caches import check_room

    prompts = 1 if request.negative_prompts is None else 2
    shape = layout.cache_shape(request.videos, layout.most_seen)
    check_room(bundle.engine_path(record, "denoiser"), prompts, shape, record.precision)
