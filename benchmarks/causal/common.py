"""What the causal benchmarks share: the bundle, its sizes, and the held-out scenes that runs go on from."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

import anyflow_rt
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.benchmarks.shapes.world import Attributes, render, sample_scene
from anyflow_rt.engines import registry
from anyflow_rt.engines.chunks import ChunkLayout, make_layout
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.runtime import Runtime

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


def held_out_scenes(count: int, seed: int = 0) -> list[tuple[str, Attributes, np.ndarray]]:
    """(prompt, attributes, frames (17, 64, 64, 3) uint8) of clips that no training saw."""
    generator = np.random.default_rng(seed)
    return [
        (prompt, attributes, render(sample_scene(attributes, generator)))
        for prompt, attributes in held_out_prompts(count)
    ]
