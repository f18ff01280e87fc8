"""Clips of the shapes world, and videos that are none, for the tests of metrics."""

from __future__ import annotations

import numpy as np

from anyflow_rt.benchmarks.shapes.captions import captions, held_out_prompts
from anyflow_rt.benchmarks.shapes.world import ALL_ATTRIBUTES, Attributes, render, sample_scene

SHAPE = (17, 64, 64, 3)


def true_clips(count: int, seed: int = 0) -> list[tuple[str, Attributes, np.ndarray]]:
    """(prompt, attributes, frames) of held-out captions."""
    generator = np.random.default_rng(seed)
    return [(prompt, found, render(sample_scene(found, generator))) for prompt, found in held_out_prompts(count)]


def moving_clips(count: int, seed: int = 0) -> list[tuple[str, Attributes, np.ndarray]]:
    """The same of shapes that move, whatever the split."""
    generator = np.random.default_rng(seed)
    moving = [attributes for attributes in ALL_ATTRIBUTES if attributes.motion != "still"]
    chosen = [moving[int(place)] for place in generator.integers(len(moving), size=count)]
    return [(captions(found)[0], found, render(sample_scene(found, generator))) for found in chosen]


def noisy(frames: np.ndarray, deviation: float, seed: int = 0) -> np.ndarray:
    """Gaussian noise of a deviation in levels, fresh in every frame."""
    noise = np.random.default_rng(seed).normal(0, deviation, frames.shape)
    return np.clip(np.rint(frames + noise), 0, 255).astype(np.uint8)


def random_frames(seed: int = 0) -> np.ndarray:
    """Noise that is new in every frame."""
    return np.random.default_rng(seed).integers(0, 256, SHAPE, dtype=np.uint8)


def frozen(frames: np.ndarray) -> np.ndarray:
    """The first frame, repeated."""
    return np.repeat(frames[:1], len(frames), axis=0)
