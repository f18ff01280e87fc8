"""Motion: what moves scores high; frozen, blank and noise videos score low, each and on average."""

import numpy as np
import pytest
from support.world_clips import frozen, moving_clips, noisy, random_frames, true_clips

from anyflow_rt.benchmarks.metrics.motion import LARGEST_SIDE, Motion, principal_colour
from anyflow_rt.benchmarks.shapes.world import Attributes, Scene, render
from anyflow_rt.errors import UsageError


def explained(frames: np.ndarray) -> float:
    return Motion().score(frames, "").values["explained"]


def test_moving_shapes_score_high_and_frozen_ones_nothing() -> None:
    for _, _, frames in moving_clips(12):
        assert explained(frames) > 0.7
        assert explained(frozen(frames)) == 0.0


def test_nothing_wins_by_standing_still() -> None:
    """Frozen, static noise, flickering noise, a frozen video with flicker, and blank: all under a noisy moving clip."""
    _, _, frames = moving_clips(1, seed=3)[0]
    moving = explained(noisy(frames, 3))
    static = frozen(random_frames())
    blank = np.full_like(frames, 128)
    for shown in (frozen(frames), static, random_frames(), noisy(frozen(frames), 2), blank, noisy(static, 2)):
        assert explained(shown) < 0.15 < 0.5 < moving


def test_warp_error_alone_is_won_by_the_frozen_video() -> None:
    """Why it is not the headline."""
    _, _, frames = moving_clips(1)[0]
    moving, still = (Motion().score(shown, "").values for shown in (frames, frozen(frames)))
    assert still["warp_error"] < moving["warp_error"]
    assert still["explained"] < moving["explained"]


def test_magnitude_follows_the_speed() -> None:
    attributes, speeds = Attributes("circle", "red", "large", "black", "right"), (0.9, 1.3, 1.7)
    found = [Motion().score(render(Scene(attributes, 15.0, 32.0, speed)), "").values["magnitude"] for speed in speeds]
    assert found == sorted(found)
    assert all(0.7 * speed < magnitude < 1.1 * speed for speed, magnitude in zip(speeds, found, strict=True))


def test_a_shape_as_bright_as_its_background_is_seen() -> None:
    scene = Scene(Attributes("square", "green", "large", "gray", "left"), 45.0, 32.0, 1.2)
    assert explained(render(scene)) > 0.7


def test_the_principal_colour_is_where_colours_vary() -> None:
    frames = np.full((2, 8, 8, 3), 90.0, dtype=np.float32)
    frames[:, :4, :, 2] = 200
    assert np.abs(principal_colour(frames)) == pytest.approx([0, 0, 1], abs=1e-6)


def test_a_video_played_backwards_moves_as_much() -> None:
    for _, _, frames in moving_clips(3, seed=4):
        assert explained(frames[::-1]) == pytest.approx(explained(frames), abs=0.1)


def test_large_frames_are_averaged_down() -> None:
    _, _, frames = moving_clips(1, seed=5)[0]
    large = frames[:3].repeat(8, axis=1).repeat(8, axis=2)
    assert max(large.shape) > LARGEST_SIDE
    assert explained(large) > 0.5


def test_small_frames_are_refused() -> None:
    (_, _, frames) = true_clips(1)[0]
    with pytest.raises(UsageError, match="24x64: optical flow needs 32"):
        Motion().score(frames[:, :24], "")
