"""Clips are drawn where the scene says, stay inside the frame, and have the area their size promises."""

import math

import numpy as np
import pytest

from anyflow_rt.benchmarks.shapes.world import (
    ALL_ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    EDGE_MARGIN,
    FRAME_SIZE,
    NUM_FRAMES,
    SHAPES,
    SIZES,
    SPEED_RANGE,
    Attributes,
    Scene,
    frames_inside,
    half_extent,
    render,
    sample_scene,
)
from anyflow_rt.errors import UsageError


def coverage(scene: Scene) -> np.ndarray:
    """Share (T, H, W) of the shape's colour in every pixel."""
    names = scene.attributes
    background = np.array(BACKGROUNDS[names.background], dtype=np.float64)
    along = np.array(COLOURS[names.colour]) - background
    return ((render(scene) - background) @ along) / (along @ along)


def test_every_combination_stays_inside_every_frame() -> None:
    generator = np.random.default_rng(0)
    for attributes in ALL_ATTRIBUTES:
        sideways, above, below = half_extent(attributes.shape, SIZES[attributes.size])
        for _ in range(5):
            scene = sample_scene(attributes, generator)
            for frame in (0, NUM_FRAMES - 1):
                x, y = scene.centre(frame)
                assert sideways + EDGE_MARGIN - 1e-9 <= x <= FRAME_SIZE - sideways - EDGE_MARGIN + 1e-9
                assert above + EDGE_MARGIN - 1e-9 <= y <= FRAME_SIZE - below - EDGE_MARGIN + 1e-9


def test_long_clips_stay_inside_as_long_as_they_can() -> None:
    generator = np.random.default_rng(0)
    left = 0
    for attributes in ALL_ATTRIBUTES[::7]:
        scene = sample_scene(attributes, generator, 57)
        inside = frames_inside(scene, 57)
        left += inside < 57
        assert inside == 57 if attributes.motion == "still" else inside >= 30
        assert not scene.speed or SPEED_RANGE[0] <= scene.speed <= SPEED_RANGE[1]
    assert left
    scene = Scene(Attributes("square", "red", "small", "black", "left"), 20.0, 30.0, 1.0)
    edge = half_extent("square", SIZES["small"])[0] + EDGE_MARGIN
    assert frames_inside(scene, 57) == math.floor(20.0 - edge) + 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES)
def test_area_and_centroid(shape: str, size: str) -> None:
    scene = Scene(Attributes(shape, "red", size, "black", "right"), 20.3, 31.8, 1.25)
    share = coverage(scene)
    area = share.sum(axis=(1, 2))
    assert np.allclose(area, math.pi * SIZES[size] ** 2, rtol=0.03)
    centres = np.arange(FRAME_SIZE) + 0.5
    x = (share.sum(axis=1) * centres).sum(-1) / area
    y = (share.sum(axis=2) * centres).sum(-1) / area
    assert np.allclose(x, 20.3 + 1.25 * np.arange(NUM_FRAMES), atol=0.15)
    assert np.allclose(y, 31.8, atol=0.15)


def test_frames_can_be_drawn_alone() -> None:
    scene = Scene(Attributes("triangle", "cyan", "large", "gray", "up"), 30.0, 45.0, 1.0)
    assert (render(scene, range(5, 9)) == render(scene)[5:9]).all()


def test_speed_belongs_to_moving_shapes() -> None:
    generator = np.random.default_rng(1)
    for attributes in ALL_ATTRIBUTES[:200]:
        speed = sample_scene(attributes, generator).speed
        assert speed == 0 if attributes.motion == "still" else SPEED_RANGE[0] <= speed <= SPEED_RANGE[1]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match=r"colour 'pink'.*red"):
        Attributes("circle", "pink", "small", "black", "left")
