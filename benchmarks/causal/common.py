"""What the causal benchmarks share: the bundle, its sizes, and the held-out scenes that runs go on from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import anyflow_rt
from anyflow_rt import parity
from anyflow_rt.benchmarks import peers
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.benchmarks.shapes.world import NUM_FRAMES, Attributes, frames_inside, render, sample_scene
from anyflow_rt.engines import registry
from anyflow_rt.engines.chunks import ChunkLayout, make_layout
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.errors import ParityError
from anyflow_rt.runtime import Runtime
from anyflow_rt.shipped import CAUSAL_CHECKPOINT

NAME = "shapes-causal"
STEPS = 4
EIGHT_CHUNKS = 57
"""Frames of a clip of eight chunks: 1, then seven of 2 latent frames."""
PROMPTS = 64
FIRST_SEED = 1000


def load(precision: str | None = None) -> Runtime:
    """The causal shapes checkpoint's bundle, built first where it is not there."""
    # Every run of eight chunks would say again that the checkpoint was trained with three.
    logging.getLogger("anyflow_rt.admission").setLevel(logging.ERROR)
    return anyflow_rt.load(NAME, precision=precision)


def gates(runtimes: Sequence[Runtime], lengths: Sequence[int]) -> Iterator[str]:
    """What to say of each runtime's videos of ``lengths`` frames beside diffusers'. Raises ParityError where they
    differ: nothing is measured of those."""
    peers.require_diffusers("a causal benchmark")
    reference = parity.Reference(CAUSAL_CHECKPOINT)
    prompt, seed = prompt_of(-1)
    for runtime in runtimes:
        for frames in lengths:
            case = parity.Case(prompts=(prompt,), steps=STEPS, size=sized(runtime, frames), seed=seed)
            found = parity.compare(reference, runtime, case)
            if not found.holds:
                raise ParityError(f"no speed is reported of frames that are not diffusers': {frames} frames, {found}")
            yield f"{frames} frames: same video as diffusers fp32, {found}"


def stream_gate(runtime: Runtime, frames: int) -> str:
    """What to say of streamed frames beside those of a whole call. Raises ParityError where they differ."""
    prompt, seed = prompt_of(-1)
    options: dict[str, Any] = {"steps": STEPS, "seed": seed, "num_frames": frames}
    wanted = runtime.generate(prompt, **options).frames
    with runtime.stream(prompt, **options) as chunks:
        made = np.concatenate([chunk.frames for chunk in chunks], axis=1)
    assert wanted is not None
    psnr = parity.peak_signal_to_noise(made.astype(np.float64) - wanted)
    if psnr < parity.PSNR_BOUND:
        raise ParityError(f"a stream's frames are not those of a whole call: {psnr:.1f} dB apart")
    return f"{frames} frames streamed: same video as made at once, {psnr:.1f} dB"


def precisions() -> list[str]:
    """fp32, and what a user gets where that is another."""
    return list(dict.fromkeys(("fp32", registry.default_precision(registry.default_engine())[0])))


def sized(runtime: Runtime, frames: int) -> VideoSize:
    """The bundle's size, of another length."""
    return replace(runtime.bundle.defaults.size, num_frames=frames)


def layout_of(runtime: Runtime, frames: int) -> ChunkLayout:
    """The chunks of a clip of ``frames``, none of them given."""
    architecture = runtime.bundle.architecture
    return make_layout(architecture, latent_size(architecture, sized(runtime, frames)))


def prompt_of(number: int) -> tuple[str, int]:
    """Prompt and seed of a round; negative numbers are warm-ups."""
    prompts = held_out_prompts(PROMPTS)
    return prompts[number % PROMPTS][0], FIRST_SEED + number


def held_out_scenes(
    count: int, seed: int = 0, num_frames: int = NUM_FRAMES
) -> list[tuple[str, Attributes, np.ndarray]]:
    """(prompt, attributes, frames (T, 64, 64, 3) uint8) of clips that no training saw. Of ``num_frames`` those in which
    the shape is all there: a long clip's may leave the picture."""
    generator = np.random.default_rng(seed)
    scenes = [
        (prompt, attributes, sample_scene(attributes, generator, num_frames))
        for prompt, attributes in held_out_prompts(count)
    ]
    return [
        (prompt, attributes, render(scene, range(frames_inside(scene, num_frames))))
        for prompt, attributes, scene in scenes
    ]
