"""An analytic judge: it measures a clip, names what it sees, and says "unclear" where it sees nothing definite.

For every frame: the background is the median pixel; the shape's colour is the median of the pixels that differ from
it, edges left out; a pixel's coverage is its position on the line from one colour to the other. Coverage gives the
area (the size), the centroid (the motion, over time) and a drawing to compare with: the judge redraws each shape of
the world with that area at that place, and the one that overlaps best is the shape.

A clip whose frames disagree, whose drawing does not fit, whose edges are smeared or whose shape does not go straight at
one speed gets None for what cannot be told, and so fails whatever its prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    Attributes,
    signed_distance,
)
from anyflow_rt.errors import UsageError

ATTRIBUTE_NAMES = ("shape", "colour", "size", "background", "motion")

COLOUR_TOLERANCE = 50.0
"""Greatest RGB distance (of 255) to a name's colour. The nearest two names lie 90 (backgrounds), 121 (shapes) apart."""
SEEN_DISTANCE = 40.0
"""RGB distance from the background at which a pixel belongs to the shape."""
FAINT_COVERAGE = 0.1
"""Coverage below this is taken for noise."""
LEAST_OVERLAP = 0.85
"""Least mean overlap (intersection over union) of the clip with its redrawing."""
WIDEST_EDGE = 0.7
"""Greatest edge width in pixels, by `edge_width`: 0.17 as drawn, 0.56 after a Gaussian blur of one pixel."""
RADIUS_TOLERANCE = 0.2
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


def _nearest_colour(measured: np.ndarray, table: Mapping[str, tuple[int, int, int]]) -> str | None:
    """The name whose colour is nearest to every row of (T, 3), where one name is and all rows are within tolerance."""
    distances = np.linalg.norm(measured[:, None] - np.array(list(table.values()), dtype=np.float64), axis=-1)
    nearest = distances.argmin(axis=1)
    if (nearest != nearest[0]).any() or distances.min(axis=1).max() > COLOUR_TOLERANCE:
        return None
    return list(table)[nearest[0]]


def _interior(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask (H, W) whose four neighbours belong to it too."""
    padded = np.pad(mask, 1)
    neighbours = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & neighbours


def _shape_colour(frame: np.ndarray, background: np.ndarray) -> np.ndarray | None:
    """Median colour (3,) of the inside of what differs from the background, or None where that is nothing."""
    inside = _interior(np.linalg.norm(frame - background, axis=-1) > SEEN_DISTANCE)
    if not inside.any():
        return None
    colour = np.median(frame[inside], axis=0)
    return colour if np.linalg.norm(colour - background) > SEEN_DISTANCE else None


def _perimeter(shape: str, radius: float) -> float:
    """Length in pixels of the outline of a shape whose area is pi radius^2."""
    if shape == "circle":
        return 2 * math.pi * radius
    area = math.pi * radius**2
    return 4 * math.sqrt(area) if shape == "square" else 3 * math.sqrt(4 * area / math.sqrt(3))


def edge_width(coverage: np.ndarray, shape: str, radius: float) -> float:
    """Sum of c (1 - c) over the outline's length, in pixels: 1/6 for a ramp of one pixel, 0.56 sigma after a blur."""
    return float((coverage * (1 - coverage)).sum() / _perimeter(shape, radius))


def _redraw(shape: str, radii: np.ndarray, centres: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Coverage (T, H, W) of a shape with radii (T,) at centroids (T, 2)."""
    pixels_y, pixels_x = (np.arange(length, dtype=np.float32) + 0.5 for length in size)
    x = pixels_x[None, None, :] - centres[:, 0, None, None]
    y = pixels_y[None, :, None] - centres[:, 1, None, None]
    return np.clip(
        0.5 - signed_distance(shape, 1.0, x / radii[:, None, None], y / radii[:, None, None]) * radii[:, None, None],
        0,
        1,
    )


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


def judge(frames: np.ndarray) -> Verdict:
    """Measure a clip, uint8 (T, H, W, 3) with at least two frames. Raises UsageError for any other array."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise UsageError(f"frames of {frames.dtype} {frames.shape}: give uint8 (T, H, W, 3) with T of 2 or more")
    pixels = frames.astype(np.float32)
    backgrounds = np.median(pixels, axis=(1, 2))
    background = _nearest_colour(backgrounds, BACKGROUNDS)
    found = [_shape_colour(frame, around) for frame, around in zip(pixels, backgrounds, strict=True)]
    seen = [colour for colour in found if colour is not None]
    if len(seen) < len(found):
        return Verdict(None, None, None, background, None, math.nan, (math.nan, math.nan), 0.0, math.nan)
    colours = np.array(seen)
    colour = _nearest_colour(colours, COLOURS)

    along = (colours - backgrounds)[:, None, None, :]
    offset = pixels - backgrounds[:, None, None, :]
    coverage = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    coverage[coverage < FAINT_COVERAGE] = 0.0
    area = coverage.sum(axis=(1, 2))
    radii = np.sqrt(area / math.pi)
    height, width = frames.shape[1:3]
    centres = np.stack(
        [
            (coverage.sum(axis=1) * (np.arange(width) + 0.5)).sum(-1) / area,
            (coverage.sum(axis=2) * (np.arange(height) + 0.5)).sum(-1) / area,
        ],
        axis=1,
    )

    overlaps = {}
    for shape in SHAPES:
        drawn = _redraw(shape, radii, centres, (height, width))
        union = np.maximum(coverage, drawn).sum(axis=(1, 2))
        overlaps[shape] = float((np.minimum(coverage, drawn).sum(axis=(1, 2)) / union).mean())
    best = max(overlaps, key=overlaps.__getitem__)
    blur = float(np.mean([edge_width(c, best, r) for c, r in zip(coverage, radii, strict=True)]))
    definite = overlaps[best] >= LEAST_OVERLAP and blur <= WIDEST_EDGE

    radius = float(radii.mean())
    nearest = min(SIZES, key=lambda name: abs(math.log(radius / SIZES[name])))
    steady = np.abs(radii / radius - 1).max() <= RADIUS_TOLERANCE
    size = nearest if steady and abs(radius / SIZES[nearest] - 1) <= RADIUS_TOLERANCE else None

    times = np.arange(len(frames)) / (len(frames) - 1) - 0.5
    travel = (times[:, None] * (centres - centres.mean(axis=0))).sum(axis=0) / (times**2).sum()
    straight = centres.mean(axis=0) + times[:, None] * travel
    deviation = float(np.sqrt(((centres - straight) ** 2).sum(-1).mean()))
    return Verdict(
        shape=best if definite else None,
        colour=colour,
        size=size,
        background=background,
        motion=_name_motion(travel, deviation),
        radius=radius,
        travel=(float(travel[0]), float(travel[1])),
        overlap=overlaps[best],
        edge_width=blur,
    )
