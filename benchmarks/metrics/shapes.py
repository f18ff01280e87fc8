"""Videos of the shapes world, whose captions have exact answers.

What a caption leaves open (where the shape starts, how fast it goes) is no error, so a video is held against the
*nearest* thing that the world could have drawn:

- ``position_error``: distance in pixels, root mean square over frames, of the shape's centre from uniform motion in the
  caption's direction at a speed of the world, the start free.
- ``speed_error``: length in pixels a frame of the difference between the measured velocity and the nearest velocity in
  the caption's direction at a speed of the world.
- ``steadiness``: how much of the clip's departure from its background is explained by one shape of one size and colour
  in uniform motion, drawn as measured: 1 - |clip - drawing|^2 / |drawing - background|^2, at least 0.

A clip in which some frame shows no shape gets the caps of both errors and steadiness 0: a blank video must not gain by
having nothing to measure. Larger errors are cut to the caps.

As a set, videos are compared with true clips of the same captions: see ``distribution`` and ``shapes_features``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, PromptError, ScoreKind, Scores, SetItem
from anyflow_rt.benchmarks.metrics.distribution import distribution_test
from anyflow_rt.benchmarks.metrics.shapes_features import FEATURES, features, true_features
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.shapes.captions import parse
from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES, verdict
from anyflow_rt.benchmarks.shapes.measurement import Track, measure, redraw
from anyflow_rt.benchmarks.shapes.world import FRAME_SIZE, MOTIONS, NUM_FRAMES, SPEED_RANGE, Attributes
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError

POSITION_CAP = FRAME_SIZE / 2
SPEED_CAP = 2 * SPEED_RANGE[1]


class Shapes(Metric):
    """The judge: every attribute right; errors of place and speed; steadiness; a distribution distance."""

    name = "shapes"
    scores = (
        ScoreKind(
            "right",
            "",
            True,
            "1 where the video shows every attribute of its caption, else 0",
            "every attribute right",
            share=True,
        ),
        *(
            ScoreKind(f"{name}_right", "", True, f"1 where the {name} is right, else 0", f"{name} right", share=True)
            for name in ATTRIBUTE_NAMES
        ),
        ScoreKind(
            "position_error",
            "px",
            False,
            "distance from the nearest path the caption allows, at most 32",
            "position error",
        ),
        ScoreKind(
            "speed_error",
            "px/frame",
            False,
            "distance from the nearest velocity the caption allows, capped",
            "speed error",
        ),
        ScoreKind(
            "steadiness",
            "",
            True,
            "share of the video explained by one shape in uniform motion",
            "steadiness",
            share=True,
        ),
    )
    set_scores = (
        ScoreKind("distance", "", False, "energy distance to true clips of the same captions", "distance"),
        ScoreKind("chance_distance", "", None, "its median where labels are shuffled within captions", "by chance"),
        ScoreKind("p_value", "", None, "of the permutation test that both are one distribution", "p-value"),
    )

    def check(self, prompts: Sequence[str]) -> None:
        """Raises PromptError for a prompt outside the world's grammar, MissingPackageError without SciPy."""
        optional_module("scipy.spatial", "the shapes metric")
        for prompt in prompts:
            try:
                _attributes(prompt)
            except UsageError as error:
                raise PromptError(prompt, str(error)) from error

    def check_size(self, size: VideoSize) -> None:
        """Raises UsageError for any but the world's."""
        if (size.num_frames, size.height, size.width) != (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE):
            raise UsageError(
                f"metric shapes: clips of this world are {NUM_FRAMES} frames of {FRAME_SIZE}x{FRAME_SIZE}, and the "
                f"bundle makes {size.num_frames} of {size.height}x{size.width}; leave it out with --metrics "
                "fidelity,motion"
            )

    def _score(self, clip: Clip) -> Scores:
        if clip.frames.shape[:3] != (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE):
            raise UsageError(
                f"metric shapes: clips of this world are {NUM_FRAMES} frames of {FRAME_SIZE}x{FRAME_SIZE}, "
                f"not {clip.frames.shape[:3]}"
            )
        attributes = _attributes(clip.prompt)
        measurement = measure(clip.frames)
        right = verdict(measurement).right(attributes)
        values = {"right": float(all(right.values()))}
        values |= {f"{name}_right": float(right[name]) for name in ATTRIBUTE_NAMES}
        track = measurement.track
        if track is None:
            values |= {"position_error": POSITION_CAP, "speed_error": SPEED_CAP, "steadiness": 0.0}
        else:
            position, speed = path_errors(track, attributes)
            steady = steadiness(clip.frames, track, measurement.backgrounds)
            values |= {"position_error": position, "speed_error": speed, "steadiness": steady}
        return Scores(values, features(measurement, attributes))

    def _score_set(self, items: Sequence[SetItem]) -> dict[str, float]:
        generated = np.array([item.features for item in items])
        if generated.shape[1:] != (len(FEATURES),):
            raise UsageError(f"features of shape {generated.shape}: the shapes metric has {len(FEATURES)} a video")
        captions = [item.prompt for item in items]
        true = np.array([true_features(_attributes(item.prompt), item.prompt, item.seed) for item in items])
        found = distribution_test(generated, captions, true, captions)
        return {"distance": found.distance, "chance_distance": found.chance, "p_value": found.p_value}


def path_errors(track: Track, attributes: Attributes) -> tuple[float, float]:
    """(position_error in pixels, speed_error in pixels a frame), each at most its cap."""
    direction = np.array(MOTIONS[attributes.motion], dtype=np.float64)
    allowed = direction * np.clip(track.velocity @ direction, *SPEED_RANGE)
    times = np.arange(len(track.centres)) - (len(track.centres) - 1) / 2
    path = track.centres.mean(axis=0) + times[:, None] * allowed
    position = float(np.sqrt(((track.centres - path) ** 2).sum(-1).mean()))
    speed = float(np.linalg.norm(track.velocity - allowed))
    return min(position, POSITION_CAP), min(speed, SPEED_CAP)


def steadiness(frames: np.ndarray, track: Track, backgrounds: np.ndarray) -> float:
    """Share (0 to 1) of a clip explained by one shape in uniform motion; backgrounds (T, 3)."""
    radii = np.full(len(frames), track.radii.mean())
    coverage = redraw(track.shape, radii, track.path, frames.shape[1:3])[..., None]
    background, colour = backgrounds.mean(axis=0), track.colours.mean(axis=0)
    drawn = background + coverage * (colour - background)
    missed = float(((frames - drawn) ** 2).sum())
    return max(0.0, 1 - missed / float(((drawn - background) ** 2).sum()))


@lru_cache(maxsize=4096)
def _attributes(prompt: str) -> Attributes:
    return parse(prompt)
