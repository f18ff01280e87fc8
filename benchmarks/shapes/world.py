"""The closed world of shapes: every clip is drawn from a handful of numbers, so every question about it has an answer.

A clip is 17 frames of 64x64 RGB. One anti-aliased shape of one colour stands or moves at constant speed over one flat
background. The attributes (shape, colour, size, background, motion) are what a caption names; where the shape starts
and how fast it goes are continuous and named by no caption, so a prompt has many right videos.

Coordinates are pixels, x to the right and y down, the centre of the top-left pixel at (0.5, 0.5).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.errors import UsageError

FRAME_SIZE = 64
NUM_FRAMES = 17

SHAPES = ("circle", "square", "triangle")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 40, 40),
    "green": (40, 180, 70),
    "blue": (50, 90, 245),
    "yellow": (245, 210, 40),
    "purple": (165, 60, 215),
    "cyan": (40, 210, 225),
}
SIZES: dict[str, float] = {"small": 9.0, "large": 13.0}
"""Name -> radius in pixels of the disc whose area the shape has, whatever the shape."""
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (16, 16, 16),
    "white": (238, 238, 238),
    "gray": (128, 128, 128),
    "brown": (96, 56, 24),
}
MOTIONS: dict[str, tuple[int, int]] = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "still": (0, 0),
}
SPEED_RANGE = (0.9, 1.6)
"""Pixels a frame of a moving shape: at least 14 pixels in a clip, so that moving and still cannot be mistaken."""
EDGE_MARGIN = 1.0
"""Pixels kept between a shape and the border in every frame."""
ROUNDING = 1e-6
"""Pixels by which a shape may seem beyond that, the way of a long clip being all the room there is."""


@dataclass(frozen=True)
class Attributes:
    """What a caption says about a clip: one name of each table above."""

    shape: str
    colour: str
    size: str
    background: str
    motion: str

    def __post_init__(self) -> None:
        tables = {
            "shape": SHAPES,
            "colour": COLOURS,
            "size": SIZES,
            "background": BACKGROUNDS,
            "motion": MOTIONS,
        }
        for name, table in tables.items():
            if getattr(self, name) not in table:
                raise UsageError(f"{name} {getattr(self, name)!r} is not of this world: use one of {', '.join(table)}")


ALL_ATTRIBUTES = tuple(Attributes(*names) for names in itertools.product(SHAPES, COLOURS, SIZES, BACKGROUNDS, MOTIONS))


@dataclass(frozen=True)
class Scene:
    """Attributes and the continuous rest: where the centre is in frame 0 (pixels), and the speed (pixels a frame)."""

    attributes: Attributes
    start_x: float
    start_y: float
    speed: float

    def centre(self, frame: int) -> tuple[float, float]:
        """The shape's centre (x, y) in pixels in a frame."""
        step_x, step_y = MOTIONS[self.attributes.motion]
        return self.start_x + step_x * self.speed * frame, self.start_y + step_y * self.speed * frame


def half_extent(shape: str, radius: float) -> tuple[float, float, float]:
    """How far a shape reaches from its centre: (sideways, up, down) in pixels; the shape's area is pi radius^2.

    The centre is the centroid, which of a triangle (equilateral, standing on a side) lies a third above that side.
    """
    if shape == "circle":
        return radius, radius, radius
    if shape == "square":
        half = radius * math.sqrt(math.pi) / 2
        return half, half, half
    side = radius * math.sqrt(math.pi * 4 / math.sqrt(3))
    height = side * math.sqrt(3) / 2
    return side / 2, height * 2 / 3, height / 3


def sample_scene(attributes: Attributes, generator: np.random.Generator, num_frames: int = NUM_FRAMES) -> Scene:
    """A scene of these attributes: speed and start uniform over what keeps the shape inside every frame.

    Where ``num_frames`` are too many for that, at any speed of this world, the slowest takes the longest way.
    """
    (low_x, high_x), (low_y, high_y) = _room(attributes)
    step_x, step_y = MOTIONS[attributes.motion]
    way = abs(step_x) * (high_x - low_x) + abs(step_y) * (high_y - low_y)
    slowest, fastest = SPEED_RANGE
    fastest = max(slowest, min(fastest, way / (num_frames - 1)))
    speed = float(generator.uniform(slowest, fastest)) if way else 0.0
    travel = min(speed * (num_frames - 1), way)
    start_x = generator.uniform(low_x + travel * (step_x < 0), high_x - travel * (step_x > 0))
    start_y = generator.uniform(low_y + travel * (step_y < 0), high_y - travel * (step_y > 0))
    return Scene(attributes, float(start_x), float(start_y), speed)


def frames_inside(scene: Scene, most: int) -> int:
    """How many of a scene's first ``most`` frames show all of its shape, before it reaches the border."""
    rooms = _room(scene.attributes)

    def inside(frame: int) -> bool:
        return all(
            low - ROUNDING <= at <= high + ROUNDING for at, (low, high) in zip(scene.centre(frame), rooms, strict=True)
        )

    return next((frame for frame in range(most) if not inside(frame)), most)


def _room(attributes: Attributes) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the centre of a shape may be, x and y, (least, greatest)."""
    sideways, above, below = half_extent(attributes.shape, SIZES[attributes.size])
    return (
        (sideways + EDGE_MARGIN, FRAME_SIZE - sideways - EDGE_MARGIN),
        (above + EDGE_MARGIN, FRAME_SIZE - below - EDGE_MARGIN),
    )


def sample_attributes(generator: np.random.Generator) -> Attributes:
    """Attributes drawn uniformly from the whole world, held-out combinations included."""
    return ALL_ATTRIBUTES[int(generator.integers(len(ALL_ATTRIBUTES)))]


def signed_distance(shape: str, radius: float, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance in pixels from points (x, y), relative to the centre, to the outline; negative inside.

    Exact inside and along sides; near an outer corner the greatest of the half-plane distances, which keeps corners
    sharp.
    """
    if shape == "circle":
        return np.hypot(x, y) - radius
    sideways, _, below = half_extent(shape, radius)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - sideways
    slanted = np.abs(x) * (math.sqrt(3) / 2) - y / 2
    return np.maximum(slanted, y) - below


def render(scene: Scene, frames: Sequence[int] = range(NUM_FRAMES)) -> np.ndarray:
    """Draw frames of a scene: uint8 (T, 64, 64, 3). Coverage falls linearly over the one pixel around the outline."""
    attributes = scene.attributes
    centres = np.array([scene.centre(frame) for frame in frames], dtype=np.float32)
    pixels = np.arange(FRAME_SIZE, dtype=np.float32) + 0.5
    x = pixels[None, None, :] - centres[:, 0, None, None]
    y = pixels[None, :, None] - centres[:, 1, None, None]
    x, y = np.broadcast_arrays(x, y)
    coverage = np.clip(0.5 - signed_distance(attributes.shape, SIZES[attributes.size], x, y), 0.0, 1.0)[..., None]
    background = np.array(BACKGROUNDS[attributes.background], dtype=np.float32)
    colour = np.array(COLOURS[attributes.colour], dtype=np.float32)
    return np.rint(background + coverage * (colour - background)).astype(np.uint8)
