"""A video of the shapes world as a few numbers, relative to what its caption says: what its distribution is made of.

Each feature is a measured quantity less what the caption names, over the difference that matters to the judge, or over
about one standard deviation where the world leaves the quantity open (speed and place). So videos of different
captions can be pooled, and a model that draws every caption right but always at the same place shows.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import numpy as np

from anyflow_rt.benchmarks.shapes.judge import (
    COLOUR_TOLERANCE,
    LEAST_OVERLAP,
    RADIUS_TOLERANCE,
    STRAIGHTNESS,
    WIDEST_EDGE,
)
from anyflow_rt.benchmarks.shapes.measurement import Measurement, measure
from anyflow_rt.benchmarks.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    FRAME_SIZE,
    MOTIONS,
    SIZES,
    SPEED_RANGE,
    Attributes,
    render,
    sample_scene,
)

FEATURES = (
    "unseen",
    "background_red",
    "background_green",
    "background_blue",
    "colour_red",
    "colour_green",
    "colour_blue",
    "size",
    "misfit",
    "edge",
    "speed_along",
    "speed_across",
    "crooked",
    "place_x",
    "place_y",
)
UNSEEN = 4.0
"""Feature of a clip in which some frame shows no shape; the other features of the shape are then 0."""
SPEED_SCALE = 0.25
"""Pixels a frame: speeds of the world are uniform with a standard deviation of 0.23."""
PLACE_SCALE = 10.0
"""Pixels: the middle of a path varies by 5 to 13 (one standard deviation), by size and motion."""


def features(measurement: Measurement, attributes: Attributes) -> tuple[float, ...]:
    """``FEATURES`` of a measured clip, given what its caption says; all finite."""
    background = (measurement.backgrounds.mean(axis=0) - BACKGROUNDS[attributes.background]) / COLOUR_TOLERANCE
    track = measurement.track
    if track is None:
        return (UNSEEN, *map(float, background), *(0.0 for _ in FEATURES[4:]))
    colour = (track.colours.mean(axis=0) - COLOURS[attributes.colour]) / COLOUR_TOLERANCE
    along, across = _directions(attributes)
    named_speed = sum(SPEED_RANGE) / 2 if attributes.motion != "still" else 0.0
    misfit = 1 - float(track.overlaps[attributes.shape].mean())
    return (
        0.0,
        *map(float, background),
        *map(float, colour),
        math.log(float(track.radii.mean()) / SIZES[attributes.size]) / RADIUS_TOLERANCE,
        misfit / (1 - LEAST_OVERLAP),
        track.edge_width / WIDEST_EDGE,
        (float(track.velocity @ along) - named_speed) / SPEED_SCALE,
        float(track.velocity @ across) / SPEED_SCALE,
        track.deviation / STRAIGHTNESS,
        *((float(middle) - FRAME_SIZE / 2) / PLACE_SCALE for middle in track.centres.mean(axis=0)),
    )


@lru_cache(maxsize=8192)
def true_features(attributes: Attributes, prompt: str, seed: int) -> tuple[float, ...]:
    """``FEATURES`` of a clip that the world draws for a caption; the same for the same prompt and seed, always."""
    digest = hashlib.sha256(f"true|{seed}|{prompt}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return features(measure(render(sample_scene(attributes, generator))), attributes)


def _directions(attributes: Attributes) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors along the caption's motion and across it; x and y where it stands still."""
    step = MOTIONS[attributes.motion] if attributes.motion != "still" else (1, 0)
    return np.array(step, dtype=np.float64), np.array([-step[1], step[0]], dtype=np.float64)
