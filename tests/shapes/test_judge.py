"""The judge finds what was drawn, finds the one thing that is wrong, and is not fooled by videos that are none."""

from dataclasses import replace

import numpy as np
import pytest

from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES, judge
from anyflow_rt.benchmarks.shapes.measurement import redraw
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


@pytest.mark.parametrize("name", ATTRIBUTE_NAMES)
def test_one_wrong_attribute_is_found(name: str) -> None:
    """One attribute of the clip is changed; the judge, who hears the unchanged ones, says which."""
    generator = np.random.default_rng(ATTRIBUTE_NAMES.index(name))
    found = []
    for _ in range(200):
        claimed = sample_attributes(generator)
        others = [value for value in TABLES[name] if value != getattr(claimed, name)]
        shown: Attributes = replace(claimed, **{name: others[int(generator.integers(len(others)))]})
        right = judge(render(sample_scene(shown, generator))).right(claimed)
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


def test_wrong_motions_fail() -> None:
    """Aslant, there and back, sideways instead of up, and so slowly that it neither moves nor stands."""
    for attributes, frames in moving_clips(11, count=20):
        along = np.array(MOTIONS[attributes.motion], dtype=np.float64)
        colour, around = COLOURS[attributes.colour], BACKGROUNDS[attributes.background]
        times = np.arange(len(frames))[:, None]
        there_and_back = np.minimum(times, times[::-1])
        aslant = along + along[::-1]
        for velocity, course in ((aslant, times), (along, there_and_back), (along * 0.4, times), (along[::-1], times)):
            centres = 32.0 + 1.2 * velocity * (course - course.mean())
            radii = np.full(len(frames), SIZES[attributes.size])
            coverage = redraw(attributes.shape, radii, centres, frames.shape[1:3])[..., None]
            drawn = np.rint(around + coverage * (np.array(colour, dtype=np.float64) - around)).astype(np.uint8)
            verdict = judge(drawn)
            assert verdict.motion != attributes.motion
            assert verdict.shape == attributes.shape and verdict.colour == attributes.colour


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


def test_two_shapes_at_once_fail() -> None:
    """The same again, 26 pixels beside its path."""
    for attributes, frames in moving_clips(12):
        other = np.roll(frames, 26, axis=1 if attributes.motion in ("left", "right") else 2)
        background = np.array(BACKGROUNDS[attributes.background], dtype=np.uint8)
        both = np.where((frames != background).any(axis=-1, keepdims=True), frames, other)
        assert not judge(both).passes(attributes)


def test_a_shape_that_changes_on_its_way_fails() -> None:
    """Its size, its colour, its form or the background: half of the frames are another clip on the same path."""
    generator = np.random.default_rng(13)
    for attributes, _ in moving_clips(13, count=20):
        scene = sample_scene(replace(attributes, size="large"), generator)
        for name in ("shape", "colour", "size", "background"):
            value = next(value for value in TABLES[name] if value != getattr(scene.attributes, name))
            changed = render(replace(scene, attributes=replace(scene.attributes, **{name: value})))
            mixed = np.where((np.arange(len(changed)) % 2 == 0)[:, None, None, None], render(scene), changed)
            assert not judge(mixed).passes(scene.attributes), name


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
