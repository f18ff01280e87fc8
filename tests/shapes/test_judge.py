"""The judge finds what was drawn, finds the one thing that is wrong, and is not fooled by videos that are none."""

from dataclasses import replace

import numpy as np
import pytest

from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES, judge
from anyflow_rt.benchmarks.shapes.world import (
    ALL_ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    Attributes,
    render,
    sample_attributes,
    sample_scene,
)
from anyflow_rt.errors import UsageError

TABLES = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "background": BACKGROUNDS, "motion": MOTIONS}
MOVING = [attributes for attributes in ALL_ATTRIBUTES if attributes.motion != "still"]


def blurred(frames: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of every frame, borders repeated."""
    reach = int(3 * sigma + 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    result = frames.astype(np.float64)
    for axis in (1, 2):
        widths = [(0, 0)] * 4
        widths[axis] = (reach, reach)
        padded = np.pad(result, widths, mode="edge")
        length = result.shape[axis]
        result = sum(
            weight * np.take(padded, np.arange(shift, shift + length), axis=axis) for shift, weight in enumerate(kernel)
        )
    return np.rint(result).astype(np.uint8)


def test_drawn_clips_are_right() -> None:
    generator = np.random.default_rng(1)
    passed = [judge(render(sample_scene(attributes, generator))).passes(attributes) for attributes in ALL_ATTRIBUTES]
    assert np.mean(passed) >= 0.99


def test_one_wrong_attribute_is_found() -> None:
    generator = np.random.default_rng(2)
    found = []
    for _ in range(300):
        truth = sample_attributes(generator)
        name = ATTRIBUTE_NAMES[int(generator.integers(len(ATTRIBUTE_NAMES)))]
        others = [value for value in TABLES[name] if value != getattr(truth, name)]
        claimed: Attributes = replace(truth, **{name: others[int(generator.integers(len(others)))]})
        right = judge(render(sample_scene(truth, generator))).right(claimed)
        found.append(not right[name] and all(right[other] for other in ATTRIBUTE_NAMES if other != name))
    assert np.mean(found) >= 0.99


def moving_clips(seed: int, count: int = 40) -> list[tuple[Attributes, np.ndarray]]:
    generator = np.random.default_rng(seed)
    chosen = [MOVING[int(index)] for index in generator.integers(len(MOVING), size=count)]
    return [(attributes, render(sample_scene(attributes, generator))) for attributes in chosen]


def test_frozen_videos_fail() -> None:
    for attributes, frames in moving_clips(3):
        assert not judge(np.repeat(frames[:1], len(frames), axis=0)).passes(attributes)


def test_videos_that_freeze_half_way_fail() -> None:
    for attributes, frames in moving_clips(4):
        stopped = frames.copy()
        stopped[3:] = frames[2]
        assert not judge(stopped).passes(attributes)


def test_reversed_and_shuffled_videos_fail() -> None:
    generator = np.random.default_rng(5)
    for attributes, frames in moving_clips(5):
        assert not judge(frames[::-1]).passes(attributes)
        assert not judge(frames[generator.permutation(len(frames))]).passes(attributes)


def test_noise_fails() -> None:
    generator = np.random.default_rng(6)
    for attributes in ALL_ATTRIBUTES[::24]:
        static = generator.integers(0, 256, size=(1, 64, 64, 3), dtype=np.uint8).repeat(17, axis=0)
        flicker = generator.integers(0, 256, size=(17, 64, 64, 3), dtype=np.uint8)
        assert not judge(static).passes(attributes)
        assert not judge(flicker).passes(attributes)


def test_empty_videos_fail() -> None:
    for colour in BACKGROUNDS.values():
        frames = np.broadcast_to(np.array(colour, dtype=np.uint8), (17, 64, 64, 3))
        verdict = judge(frames)
        assert verdict.shape is None and verdict.colour is None and verdict.motion is None


def test_blurred_videos_fail() -> None:
    for attributes, frames in moving_clips(7):
        assert not judge(blurred(frames, 2.0)).passes(attributes)


def test_the_mean_of_many_right_clips_fails() -> None:
    generator = np.random.default_rng(8)
    for attributes in ALL_ATTRIBUTES[::24]:
        clips = [render(sample_scene(attributes, generator)).astype(np.float64) for _ in range(16)]
        assert not judge(np.rint(np.mean(clips, axis=0)).astype(np.uint8)).passes(attributes)


def test_two_clips_cut_together_fail() -> None:
    generator = np.random.default_rng(9)
    for attributes, frames in moving_clips(9):
        other = replace(attributes, colour="red" if attributes.colour != "red" else "green")
        cut = np.concatenate([frames[:9], render(sample_scene(other, generator))[9:]])
        assert not judge(cut).passes(attributes)


def test_a_slightly_noisy_clip_still_passes() -> None:
    generator = np.random.default_rng(10)
    for attributes, frames in moving_clips(10):
        noisy = np.clip(frames + generator.normal(0, 5, frames.shape), 0, 255).astype(np.uint8)
        assert judge(noisy).passes(attributes)


@pytest.mark.parametrize(
    "frames",
    [np.zeros((17, 64, 64, 3)), np.zeros((64, 64, 3), dtype=np.uint8), np.zeros((1, 64, 64, 3), dtype=np.uint8)],
)
def test_other_arrays_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(UsageError, match="uint8"):
        judge(frames)
