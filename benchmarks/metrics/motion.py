"""Motion: how much of what changes from frame to frame is things moving. A frozen video has none and scores 0.

The warp error of a video (Lai et al. 2018, "Learning blind video temporal consistency") is small when each frame is
the next one, moved back along the optical flow. By itself it is won by a video in which nothing moves. So it is set
against the error of assuming that nothing moved, which is a frozen video's 0 as well:

    still = mean |V_t - V_{t+1}|^2              warp = mean |V_t - W(V_{t+1})|^2
    explained = sum over consistent pixels of (still - warp) / (sum over all pixels of still + floor)

Pixels whose forward and backward flow disagree (Ruder et al. 2016: |w + w'|^2 > 0.01 (|w|^2 + |w'|^2) + 0.5), which are
those that appear, vanish, or flicker, count as not explained. ``floor`` is a flicker of two levels of 255: less than
that is no motion. Moving shapes score 0.7 to 0.97; frozen videos 0; noise, static or not, below 0.15. A prompt that
asks for something still gets 0 when it is drawn well: compare step counts on the same prompts, not prompts. Whether
something moves the *right* way is not asked.

Flow is scikit-image's TV-L1 (``optical_flow_tvl1``), in both directions, for at most ``MOST_PAIRS`` pairs of
neighbouring frames, evenly spread; large frames are averaged down first. (Lucas-Kanade in a window goes astray on long
straight edges and flat insides, which is what shapes are made of.) TV-L1 shrinks flow a little, so the magnitude reads
some 10% to 20% low. It looks at one channel: the colours' first principal component over the clip,
because a green shape on gray, say, has next to no contrast in luma.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, ScoreKind, Scores
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.errors import UsageError

MOST_PAIRS = 6
LARGEST_SIDE = 128
SMALLEST_SIDE = 32
FLOW = {"attachment": 30, "num_warp": 4, "num_iter": 5}
"""Twice the usual weight of the data, because edges here are clean, and half the iterations, which suffice for that."""
FLICKER_FLOOR = 4.0
"""Squared levels of 255."""
FASTEST_SHARE = 0.05
"""Share of the pixels, the fastest, whose speed is a video's magnitude; flat regions have no flow to speak of."""
PURPOSE = "the motion metric"


class Motion(Metric):
    """Explained change, with the flow-warp error and the magnitude that it is made of."""

    name = "motion"
    scores = (
        ScoreKind("explained", "", True, "share of the change between frames that motion explains; 0 if frozen"),
        ScoreKind("warp_error", "levels", None, "root mean square of frame less warped next frame, of 255"),
        ScoreKind("magnitude", "px/frame", None, "speed of the fastest 5% of pixels"),
    )

    def check(self, prompts: Sequence[str]) -> None:
        """Raises MissingPackageError without scikit-image. Any prompt will do."""
        optional_module("skimage.registration", PURPOSE)

    def _score(self, clip: Clip) -> Scores:
        frames = _reduced(clip.frames)
        firsts = np.unique(np.linspace(0, len(frames) - 2, MOST_PAIRS).round().astype(int))
        axis = principal_colour(frames)
        explained = still = warped = magnitude = 0.0
        for first in firsts:
            pair = _pair(frames[first], frames[first + 1], axis)
            explained, still, warped, magnitude = (
                total + part for total, part in zip((explained, still, warped, magnitude), pair, strict=True)
            )
        count = len(firsts)
        return Scores(
            {
                "explained": float(np.clip(explained / (still + FLICKER_FLOOR * count), 0.0, 1.0)),
                "warp_error": float(np.sqrt(warped / count)),
                "magnitude": magnitude / count,
            }
        )


def principal_colour(frames: np.ndarray) -> np.ndarray:
    """Unit vector (3,) along which the colours of (T, H, W, 3) vary most; its sign has no meaning."""
    pixels = frames.reshape(-1, 3).astype(np.float64)
    _, axes = np.linalg.eigh(np.cov(pixels, rowvar=False))
    return axes[:, -1].astype(np.float32)


def _pair(frame: np.ndarray, following: np.ndarray, axis: np.ndarray) -> tuple[float, float, float, float]:
    """Of two frames, float32 (H, W, 3): explained, still and warp error (squared levels), magnitude (pixels)."""
    still = ((frame - following) ** 2).mean(axis=-1)
    if not still.any():
        return 0.0, 0.0, 0.0, 0.0
    flow_of = partial(optional_module("skimage.registration", PURPOSE).optical_flow_tvl1, **FLOW)
    warp = optional_module("skimage.transform", PURPOSE).warp
    channels = [image @ axis / 255 for image in (frame, following)]
    forward, backward = flow_of(*channels), flow_of(*channels[::-1])
    places = np.indices(still.shape, dtype=np.float32) + forward

    def moved_back(image: np.ndarray) -> np.ndarray:
        return warp(image, places, order=1, mode="edge", preserve_range=True)

    back = np.stack([moved_back(part) for part in backward])
    lengths = (forward**2).sum(axis=0) + (back**2).sum(axis=0)
    consistent = ((forward + back) ** 2).sum(axis=0) <= 0.01 * lengths + 0.5
    warped = np.mean([(frame[..., c] - moved_back(following[..., c])) ** 2 for c in range(3)], axis=0)
    speeds = np.sort(np.hypot(*forward), axis=None)
    fastest = speeds[-max(1, round(FASTEST_SHARE * speeds.size)) :]
    explained = float((consistent * (still - warped)).mean())
    return explained, float(still.mean()), float(warped.mean()), float(fastest.mean())


def _reduced(frames: np.ndarray) -> np.ndarray:
    """Frames as float32, averaged over squares until no side exceeds ``LARGEST_SIDE``. Raises UsageError if tiny."""
    height, width = frames.shape[1:3]
    if min(height, width) < SMALLEST_SIDE:
        raise UsageError(f"motion of frames of {height}x{width}: optical flow needs {SMALLEST_SIDE} pixels a side")
    factor = -(-max(height, width) // LARGEST_SIDE)
    if factor == 1:
        return frames.astype(np.float32)
    reduce = optional_module("skimage.transform", PURPOSE).downscale_local_mean
    return reduce(frames, (1, factor, factor, 1)).astype(np.float32)
