"""The judge of continued clips: does what was made go on as what was given, and as the prompt says?

The made frames alone show shape, colour, size and background, so that no given frame vouches for them. Motion is
judged where both meet: several given frames move in a straight line, and the made ones must stay on it; a single one
says where the shape is, and the made ones must set out from there in the prompt's direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES, STRAIGHTNESS, verdict
from anyflow_rt.benchmarks.shapes.measurement import Track, check_frames, measure
from anyflow_rt.benchmarks.shapes.world import SPEED_RANGE, Attributes
from anyflow_rt.errors import UsageError

GREATEST_START = 2 * SPEED_RANGE[1]
"""Pixels from a single given frame's centre to where the made frames' motion comes from: two frames of the fastest."""


@dataclass(frozen=True)
class Continuation:
    """What the made frames show, by the names of the world (None: unclear), and how far they leave the given path.

    distance: pixels, root mean square, from the uniform motion of several given frames; of a single one, from its
    centre to where the made frames' motion comes from. nan where nothing was seen.
    """

    shape: str | None
    colour: str | None
    size: str | None
    background: str | None
    motion: str | None
    distance: float

    def right(self, attributes: Attributes) -> dict[str, bool]:
        """For each attribute, whether it was kept."""
        return {name: getattr(self, name) == getattr(attributes, name) for name in ATTRIBUTE_NAMES}

    def passes(self, attributes: Attributes) -> bool:
        """Whether every attribute was kept."""
        return all(self.right(attributes).values())


def judge_continuation(given: np.ndarray, made: np.ndarray) -> Continuation:
    """Judge the frames that follow given ones, all uint8: given (g, H, W, 3), made (m, H, W, 3) with m of 2 or more.

    Raises UsageError for other arrays, and where the given frames show no shape.
    """
    check_frames(made)
    if given.dtype != np.uint8 or given.shape[1:] != made.shape[1:] or not len(given):
        raise UsageError(f"given frames of {given.dtype} {given.shape}: give uint8 {(1, *made.shape[1:])} or more")
    # A clip has at least two frames; one frame twice is measured like once.
    before = measure(given if len(given) > 1 else np.repeat(given, 2, axis=0)).track
    if before is None:
        raise UsageError("the given frames show no shape; give a clip of the shapes world")
    seen = measure(made)
    found = verdict(seen)
    motion, distance = None, math.nan
    if seen.track is not None:
        distance = _distance(before, seen.track, len(given))
        whole = verdict(measure(np.concatenate([given, made])))
        motion = whole.motion if distance <= (GREATEST_START if len(given) == 1 else STRAIGHTNESS) else None
    return Continuation(found.shape, found.colour, found.size, found.background, motion, distance)


def _distance(before: Track, after: Track, given: int) -> float:
    if given == 1:
        first = after.path[0] - after.velocity
        return float(np.linalg.norm(first - before.centres[0]))
    steps = np.arange(1, len(after.centres) + 1)[:, None]
    wanted = before.path[-1] + steps * before.velocity
    return float(np.sqrt(((after.centres - wanted) ** 2).sum(-1).mean()))
