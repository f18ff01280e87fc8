"""Measuring a clip of the shapes world: colours, place, size and outline of its shape in every frame.

For every frame: the background is the median pixel; the shape's colour is the median of the pixels that differ from
it, edges left out; a pixel's coverage is its position on the line from one colour to the other. Coverage gives the
area, the centroid and a drawing to compare with: each shape of the world, redrawn with that area at that place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.shapes.world import SHAPES, signed_distance
from anyflow_rt.errors import UsageError

SEEN_DISTANCE = 40.0
"""RGB distance from the background at which a pixel belongs to the shape."""
FAINT_COVERAGE = 0.1
"""Coverage below this is taken for noise."""


@dataclass(frozen=True, eq=False)
class Track:
    """One shape through T frames. colours (T, 3) of 255, radii (T,) of the disc of equal area and centres (T, 2), x and
    y, in pixels; overlaps: name of a shape -> (T,), intersection over union of every frame with its redrawing as that
    shape; edge_width in pixels, averaged over frames."""

    colours: np.ndarray
    radii: np.ndarray
    centres: np.ndarray
    overlaps: Mapping[str, np.ndarray]
    edge_width: float

    @property
    def shape(self) -> str:
        """The shape that overlaps best, averaged over frames."""
        return max(self.overlaps, key=lambda name: float(self.overlaps[name].mean()))

    @property
    def overlap(self) -> float:
        """Its overlap, averaged over frames."""
        return float(self.overlaps[self.shape].mean())

    @property
    def agreement(self) -> float:
        """The share of frames in which it is the one that overlaps best."""
        best = np.max(list(self.overlaps.values()), axis=0)
        return float((self.overlaps[self.shape] == best).mean())

    @property
    def velocity(self) -> np.ndarray:
        """Pixels a frame (x, y): the slope of the centroids over time, by least squares."""
        times = self._times
        return (times[:, None] * (self.centres - self.centres.mean(axis=0))).sum(axis=0) / (times**2).sum()

    @property
    def path(self) -> np.ndarray:
        """Centres (T, 2) of the uniform motion in a straight line that fits best."""
        return self.centres.mean(axis=0) + self._times[:, None] * self.velocity

    @property
    def deviation(self) -> float:
        """Distance in pixels, root mean square over frames, of the centroids from ``path``."""
        return float(np.sqrt(((self.centres - self.path) ** 2).sum(-1).mean()))

    @property
    def _times(self) -> np.ndarray:
        return np.arange(len(self.centres)) - (len(self.centres) - 1) / 2


@dataclass(frozen=True, eq=False)
class Measurement:
    """backgrounds (T, 3) of 255; track: None where some frame shows nothing that stands out from its background."""

    backgrounds: np.ndarray
    track: Track | None


def check_frames(frames: np.ndarray) -> None:
    """Raises UsageError for anything but uint8 (T, H, W, 3) of at least two frames."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < 2:
        raise UsageError(f"frames of {frames.dtype} {frames.shape}: give uint8 (T, H, W, 3) with T of 2 or more")


def measure(frames: np.ndarray) -> Measurement:
    """Measure a clip, uint8 (T, H, W, 3) with at least two frames. Raises UsageError for any other array."""
    check_frames(frames)
    pixels = frames.astype(np.float32)
    backgrounds = np.median(pixels, axis=(1, 2))
    found = [_shape_colour(frame, around) for frame, around in zip(pixels, backgrounds, strict=True)]
    seen = [colour for colour in found if colour is not None]
    if len(seen) < len(found):
        return Measurement(backgrounds, None)
    colours = np.array(seen)

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
    overlaps = {shape: _overlap(coverage, redraw(shape, radii, centres, (height, width))) for shape in SHAPES}
    best = max(overlaps, key=lambda name: float(overlaps[name].mean()))
    edge = float(np.mean([edge_width(c, best, r) for c, r in zip(coverage, radii, strict=True)]))
    return Measurement(backgrounds, Track(colours, radii, centres, overlaps, edge))


def redraw(shape: str, radii: np.ndarray, centres: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Coverage (T, H, W) of a shape with radii (T,) at centroids (T, 2), in frames of ``size`` (H, W)."""
    pixels_y, pixels_x = (np.arange(length, dtype=np.float32) + 0.5 for length in size)
    x = pixels_x[None, None, :] - centres[:, 0, None, None]
    y = pixels_y[None, :, None] - centres[:, 1, None, None]
    distance = signed_distance(shape, 1.0, x / radii[:, None, None], y / radii[:, None, None])
    return np.clip(0.5 - distance * radii[:, None, None], 0, 1)


def edge_width(coverage: np.ndarray, shape: str, radius: float) -> float:
    """Sum of c (1 - c) over the outline's length, in pixels: 1/6 for a ramp of one pixel, 0.56 sigma after a blur."""
    return float((coverage * (1 - coverage)).sum() / _perimeter(shape, radius))


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


def _overlap(coverage: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Intersection over union (T,) of (T, H, W) and (T, H, W)."""
    union = np.maximum(coverage, drawn).sum(axis=(1, 2))
    return np.minimum(coverage, drawn).sum(axis=(1, 2)) / union
