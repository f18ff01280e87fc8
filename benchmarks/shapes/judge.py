"""An analytic judge: it measures a clip, names what it sees, and says "unclear" where it sees nothing definite.

A clip whose frames disagree, whose drawing does not fit, whose edges are smeared or whose shape does not go straight at
one speed gets None for what cannot be told, and so fails whatever its prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.shapes.measurement import Measurement, measure
from anyflow_rt.benchmarks.shapes.world import BACKGROUNDS, COLOURS, MOTIONS, SIZES, Attributes

ATTRIBUTE_NAMES = ("shape", "colour", "size", "background", "motion")

COLOUR_TOLERANCE = 50.0
"""Greatest RGB distance (of 255) to a name's colour. The nearest two names lie 90 (backgrounds), 121 (shapes) apart."""
LEAST_OVERLAP = 0.85
"""Least mean overlap (intersection over union) of the clip with its redrawing."""
LEAST_AGREEMENT = 0.8
"""Least share of frames in which the clip's shape fits best: what turns into another shape is neither."""
WIDEST_EDGE = 0.7
"""Greatest edge width in pixels, by `edge_width`: 0.17 as drawn, 0.56 after a Gaussian blur of one pixel."""
RADIUS_TOLERANCE = 0.15
"""Greatest relative distance of the radius from a size's, and of a frame's radius from the clip's."""
STILL_TRAVEL = 4.0
"""Greatest travel in pixels over the clip, along an axis, that counts as none. A moving shape travels 14 or more."""
LEAST_TRAVEL = 10.0
STRAIGHTNESS = 1.5
"""Greatest distance in pixels, root mean square, of the centroids from uniform motion in a straight line."""


@dataclass(frozen=True)
class Verdict:
    """What the judge sees (None: unclear) and the measurements behind it.

    radius, travel (x, y over the clip) and edge_width are in pixels, averaged over frames; nan where nothing was seen.
    """

    shape: str | None
    colour: str | None
    size: str | None
    background: str | None
    motion: str | None
    radius: float
    travel: tuple[float, float]
    overlap: float
    edge_width: float

    def right(self, attributes: Attributes) -> dict[str, bool]:
        """For each attribute, whether the clip shows it."""
        return {name: getattr(self, name) == getattr(attributes, name) for name in ATTRIBUTE_NAMES}

    def passes(self, attributes: Attributes) -> bool:
        """Whether the clip shows every attribute."""
        return all(self.right(attributes).values())


def judge(frames: np.ndarray) -> Verdict:
    """Judge a clip, uint8 (T, H, W, 3) with at least two frames. Raises UsageError for any other array."""
    return verdict(measure(frames))


def verdict(measurement: Measurement) -> Verdict:
    """Names for what was measured."""
    background = _nearest_colour(measurement.backgrounds, BACKGROUNDS)
    track = measurement.track
    if track is None:
        return Verdict(None, None, None, background, None, math.nan, (math.nan, math.nan), 0.0, math.nan)
    fits = track.overlap >= LEAST_OVERLAP and track.agreement >= LEAST_AGREEMENT
    travel = track.velocity * (len(track.centres) - 1)
    return Verdict(
        shape=track.shape if fits and track.edge_width <= WIDEST_EDGE else None,
        colour=_nearest_colour(track.colours, COLOURS),
        size=_name_size(track.radii),
        background=background,
        motion=_name_motion(travel, track.deviation),
        radius=float(track.radii.mean()),
        travel=(float(travel[0]), float(travel[1])),
        overlap=track.overlap,
        edge_width=track.edge_width,
    )


def _nearest_colour(measured: np.ndarray, table: Mapping[str, tuple[int, int, int]]) -> str | None:
    """The name whose colour is nearest to every row of (T, 3), where one name is and all rows are within tolerance."""
    distances = np.linalg.norm(measured[:, None] - np.array(list(table.values()), dtype=np.float64), axis=-1)
    nearest = distances.argmin(axis=1)
    if (nearest != nearest[0]).any() or distances.min(axis=1).max() > COLOUR_TOLERANCE:
        return None
    return list(table)[nearest[0]]


def _name_size(radii: np.ndarray) -> str | None:
    """The size of radii (T,) in pixels, or None where they differ too much from it or from each other."""
    radius = float(radii.mean())
    nearest = min(SIZES, key=lambda name: abs(math.log(radius / SIZES[name])))
    steady = np.abs(radii / radius - 1).max() <= RADIUS_TOLERANCE
    return nearest if steady and abs(radius / SIZES[nearest] - 1) <= RADIUS_TOLERANCE else None


def _name_motion(travel: np.ndarray, deviation: float) -> str | None:
    """The motion of a travel (x, y) in pixels, or None where it is crooked, slanted, or neither long nor short."""
    if deviation > STRAIGHTNESS:
        return None
    moves = np.abs(travel) >= LEAST_TRAVEL
    rests = np.abs(travel) <= STILL_TRAVEL
    if not (moves | rests).all():
        return None
    direction = tuple(int(step) for step in np.sign(travel) * moves)
    return next((name for name, steps in MOTIONS.items() if steps == direction), None)
