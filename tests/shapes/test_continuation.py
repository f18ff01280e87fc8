"""The judge of continued clips: true continuations pass, and each attribute that changes in between fails alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from anyflow_rt.benchmarks.shapes.captions import HELD_OUT_ATTRIBUTES
from anyflow_rt.benchmarks.shapes.continuation import Continuation, judge_continuation
from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES
from anyflow_rt.benchmarks.shapes.world import Attributes, Scene, render, sample_scene
from anyflow_rt.errors import UsageError

GIVEN = (1, 9)
MOVING = Attributes("square", "red", "small", "gray", "right")
SCENE = Scene(MOVING, 16.0, 32.0, 1.2)


def judged(given: int, frames: np.ndarray) -> Continuation:
    return judge_continuation(frames[:given], frames[given:])


def changed(given: int, other: Scene) -> np.ndarray:
    """``SCENE`` for as many frames as given, then the other."""
    return np.concatenate([render(SCENE, range(given)), render(other, range(given, 17))])


@pytest.mark.parametrize("given", GIVEN)
def test_true_continuations_pass(given: int) -> None:
    generator = np.random.default_rng(given)
    for attributes in HELD_OUT_ATTRIBUTES:
        found = judged(given, render(sample_scene(attributes, generator)))
        assert found.passes(attributes), (attributes, found)
        assert found.distance < 0.5


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(
    ("name", "value"),
    [("shape", "circle"), ("shape", "triangle"), ("colour", "purple"), ("size", "large"), ("background", "brown")],
)
def test_what_changes_fails_alone(given: int, name: str, value: str) -> None:
    found = judged(given, changed(given, replace(SCENE, attributes=replace(MOVING, **{name: value}))))
    assert found.right(MOVING) == {each: each != name for each in ATTRIBUTE_NAMES}


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("it stops", Scene(replace(MOVING, motion="still"), 16.0 + 1.2 * 8, 32.0, 0.0)),
        ("it goes back", Scene(replace(MOVING, motion="left"), 16.0 + 1.2 * 16, 32.0, 1.2)),
        ("it turns", Scene(replace(MOVING, motion="down"), 16.0 + 1.2 * 8, 32.0 - 1.2 * 8, 1.2)),
        ("it jumps", replace(SCENE, start_y=38.0)),
    ],
)
def test_motion_that_does_not_go_on_fails(given: int, what: str, other: Scene) -> None:
    found = judged(given, changed(given, other))
    assert not found.right(MOVING)["motion"], what


def test_another_speed_is_another_motion_where_the_speed_was_given() -> None:
    slow = Scene(MOVING, 16.0 + 0.6 * 8, 32.0, 0.6)
    assert not judged(9, changed(9, slow)).right(MOVING)["motion"]
    still = Attributes("circle", "blue", "large", "white", "still")
    assert judged(1, render(Scene(still, 30.0, 30.0, 0.0))).passes(still)


def test_nothing_made_is_nothing_kept() -> None:
    blank = np.full((8, 64, 64, 3), 128, np.uint8)
    found = judge_continuation(render(SCENE, range(9)), blank)
    assert found.right(MOVING) == {name: name == "background" for name in ATTRIBUTE_NAMES}
    noise = np.random.default_rng(0).integers(0, 256, blank.shape, dtype=np.uint8)
    right = judge_continuation(render(SCENE, range(9)), noise).right(MOVING)
    assert not right["shape"] and not right["motion"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (render(SCENE, range(1)).astype(float), "give uint8"),
        (render(SCENE, range(1))[:0], "give uint8"),
        (np.zeros((2, 32, 32, 3), np.uint8), "give uint8"),
        (np.zeros((2, 64, 64, 3), np.uint8), "show no shape"),
    ],
)
def test_given_frames_that_cannot_be_judged(given: np.ndarray, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        judge_continuation(given, render(SCENE, range(1, 17)))
