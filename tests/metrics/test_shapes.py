"""The shapes metric: true clips are right, errors are in pixels, and what has nothing to measure gains nothing."""

from dataclasses import replace

import numpy as np
import pytest
from support.world_clips import frozen, moving_clips, noisy, random_frames, true_clips

from anyflow_rt.benchmarks.metrics.contract import SetItem
from anyflow_rt.benchmarks.metrics.shapes import POSITION_CAP, SPEED_CAP, Shapes
from anyflow_rt.benchmarks.metrics.shapes_features import FEATURES, true_features
from anyflow_rt.benchmarks.shapes.captions import captions, parse
from anyflow_rt.benchmarks.shapes.world import MOTIONS, SPEED_RANGE, Scene, render
from anyflow_rt.errors import UsageError


def scene_of(prompt: str, speed: float) -> Scene:
    """A shape in the middle of its path through the middle of the frame."""
    attributes = parse(prompt)
    step_x, step_y = MOTIONS[attributes.motion]
    return Scene(attributes, 32 - 8 * speed * step_x, 32 - 8 * speed * step_y, speed)


def test_true_clips_have_no_error() -> None:
    for prompt, _, frames in true_clips(40):
        found = Shapes().score(frames, prompt).values
        assert all(found[name] == 1.0 for name in found if name.endswith("right"))
        assert found["position_error"] < 0.2 and found["speed_error"] < 0.02 and found["steadiness"] > 0.99


def test_the_wrong_caption_is_wrong_in_what_it_names() -> None:
    for _, attributes, frames in true_clips(10):
        other = replace(attributes, colour="red" if attributes.colour != "red" else "blue")
        found = Shapes().score(frames, captions(other)[0]).values
        assert found["right"] == found["colour_right"] == 0.0 and found["shape_right"] == 1.0


@pytest.mark.parametrize("excess", [0.2, 0.5])
def test_speed_error_is_what_exceeds_the_range(excess: float) -> None:
    prompt = "a small red circle moving right on a black background"
    fast = Shapes().score(render(scene_of(prompt, SPEED_RANGE[1] + excess)), prompt).values
    slow = Shapes().score(render(scene_of(prompt, SPEED_RANGE[0] - excess)), prompt).values
    assert fast["speed_error"] == pytest.approx(excess, abs=0.02)
    assert slow["speed_error"] == pytest.approx(excess, abs=0.02)
    rms = excess * np.sqrt((17**2 - 1) / 12)
    assert fast["position_error"] == pytest.approx(rms, abs=0.2), "the distance from the nearest path that is allowed"


def test_a_frozen_clip_of_a_moving_caption_is_off_by_the_least_speed() -> None:
    for prompt, _, frames in moving_clips(5):
        found = Shapes().score(frozen(frames), prompt).values
        assert found["right"] == 0.0 and found["speed_error"] == pytest.approx(SPEED_RANGE[0], abs=0.01)


def test_jumping_about_is_an_error_of_place() -> None:
    prompt, _, frames = moving_clips(1)[0]
    shuffled = frames[np.random.default_rng(0).permutation(17)]
    found = Shapes().score(shuffled, prompt).values
    assert found["position_error"] > 2 and found["steadiness"] < 0.9


def test_steadiness_falls_with_flicker() -> None:
    for prompt, _, frames in true_clips(5):
        values = [Shapes().score(shown, prompt).values["steadiness"] for shown in (frames, noisy(frames, 8))]
        alternating = frames.copy()
        alternating[::2] = np.clip(alternating[::2] * 0.7, 0, 255).astype(np.uint8)
        values.append(Shapes().score(alternating, prompt).values["steadiness"])
        assert values[0] > values[1] and values[0] > values[2] and min(values) >= 0


def test_nothing_to_measure_gets_the_caps() -> None:
    for shown in (np.full((17, 64, 64, 3), 16, dtype=np.uint8),):
        found = Shapes().score(shown, "a small red circle moving right on a black background")
        assert found.values["position_error"] == POSITION_CAP
        assert found.values["speed_error"] == SPEED_CAP
        assert found.values["steadiness"] == found.values["right"] == 0.0
        assert len(found.features) == len(FEATURES) and found.features[0] > 0
    noise = Shapes().score(random_frames(), "a small red circle moving right on a black background").values
    assert noise["right"] == 0.0 and noise["steadiness"] < 0.5


def test_prompts_and_sizes_of_another_world_are_refused() -> None:
    with pytest.raises(UsageError, match="a red dog"):
        Shapes().check(["a small red circle moving right on a black background", "a red dog"])
    with pytest.raises(UsageError, match=r"17 frames of 64x64, not \(17, 32, 32\)"):
        Shapes().score(random_frames()[:, :32, :32], "a small red circle moving right on a black background")
    with pytest.raises(UsageError, match="15 a video"):
        Shapes().score_set([SetItem("a small red circle moving right on a black background", 0, (1.0, 2.0))])


def test_true_features_belong_to_prompt_and_seed() -> None:
    prompt = "a small red circle moving right on a black background"
    attributes = parse(prompt)
    assert true_features(attributes, prompt, 1) == true_features(attributes, prompt, 1)
    assert true_features(attributes, prompt, 1) != true_features(attributes, prompt, 2)
    middle = np.mean([true_features(attributes, prompt, seed) for seed in range(50)], axis=0)
    assert np.abs(middle[: FEATURES.index("misfit")]).max() < 0.1, "relative to the caption"
