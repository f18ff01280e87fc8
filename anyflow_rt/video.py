"""Videos to files: ``.mp4`` (H.264), ``.gif``, ``.png`` (a contact sheet), ``.npy`` (the frames themselves).

    check_output("out.mp4")                                   # before any expensive work
    with BackgroundWriter(open_writer("out.mp4", VideoShape(1, 81, 480, 832))) as writer:
        for frames in decoder:                                # uint8 (T, H, W, 3)
            writer.write(frames)

Files never hold more than a few frames in memory, and appear in one step when they are complete.
"""

from __future__ import annotations

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np

from anyflow_rt.errors import UsageError
from anyflow_rt.output.background import BackgroundWriter
from anyflow_rt.output.target import check_apart, check_output, output_extension, output_paths
from anyflow_rt.output.writer import VideoShape, VideoWriter

__all__ = [
    "BackgroundWriter",
    "VideoShape",
    "VideoWriter",
    "check_apart",
    "check_output",
    "open_writer",
    "output_paths",
    "save_video",
]

DEFAULT_FPS = 16
DEFAULT_QUALITY = 70
FASTEST = {".mp4": 240, ".gif": 50}  # browsers slow a gif down whose frames last less than 0.02 s


def open_writer(
    path: str | os.PathLike,
    shape: VideoShape,
    *,
    fps: float | None = None,
    usual_fps: float = DEFAULT_FPS,
    quality: float | None = None,
) -> VideoWriter:
    """The writer that the path's extension names. Nothing is created before its first call.

    ``fps`` is the rate of an mp4 or gif (``usual_fps`` where not given), ``quality``, 0 to 100, that of an mp4 (70
    where not given); both are refused for formats that have none. Several videos are written as ``output_paths``
    says. Raises ``UsageError`` for an unknown extension and values out of range.
    """
    extension = output_extension(path)
    paths = output_paths(path, shape.num_videos)
    if extension != ".mp4" and quality is not None:
        raise UsageError(f"quality {quality} does not apply to {extension} files: leave it out, or write an .mp4")
    if extension not in FASTEST and fps is not None:
        raise UsageError(f"fps {fps} does not apply to {extension} files: leave it out, or write an .mp4 or .gif")
    rate = usual_fps if fps is None else fps
    if extension == ".mp4":
        from anyflow_rt.output.mp4 import Mp4Writer

        return Mp4Writer(paths, shape, _frame_rate(rate, extension), _checked_quality(quality))
    if extension == ".gif":
        from anyflow_rt.output.gif import GifWriter

        return GifWriter(paths, shape, _frame_rate(rate, extension))
    if extension == ".png":
        from anyflow_rt.output.sheet import SheetWriter

        return SheetWriter(paths, shape)
    from anyflow_rt.output.npy import NpyWriter

    return NpyWriter(paths, shape)


def open_stream(
    target: str | os.PathLike,
    shape: VideoShape,
    *,
    fps: float | None = None,
    usual_fps: float = DEFAULT_FPS,
    quality: float | None = None,
) -> VideoWriter:
    """The writer of a fragmented mp4 whose frames are in ``target`` (a path, ``-`` for standard output) at once.

    The options are ``open_writer``'s. Raises ``UsageError`` for values out of range.
    """
    from anyflow_rt.output.fragmented import FragmentedMp4Writer

    rate = _frame_rate(usual_fps if fps is None else fps, ".mp4")
    return FragmentedMp4Writer(target, shape, rate, _checked_quality(quality))


def save_video(
    path: str | os.PathLike,
    frames: np.ndarray,
    *,
    fps: float | None = None,
    usual_fps: float = DEFAULT_FPS,
    quality: float | None = None,
) -> tuple[Path, ...]:
    """Write finished frames, uint8 (T, H, W, 3) or (N, T, H, W, 3). Returns the files written. The options are
    ``open_writer``'s."""
    videos = frames[None] if frames.ndim == 4 else frames
    if videos.ndim != 5 or videos.shape[-1] != 3:
        raise UsageError(f"frames to save must have shape (T, H, W, 3) or (N, T, H, W, 3), not {frames.shape}")
    count, length, height, width, _ = videos.shape
    check_output(path, count)
    shape = VideoShape(count, length, height, width)
    writer = open_writer(path, shape, fps=fps, usual_fps=usual_fps, quality=quality)
    with writer:
        for index, video in enumerate(videos):
            writer.write(video, index)
    return writer.close()


def _frame_rate(fps: float, extension: str) -> Fraction:
    limit = FASTEST[extension]
    if (
        isinstance(fps, bool)
        or not isinstance(fps, (int, float, Fraction))
        or not (math.isfinite(fps) and 0.1 <= fps <= limit)
    ):
        raise UsageError(f"fps must be a number from 0.1 to {limit} for {extension} files, not {fps!r}")
    return Fraction(fps).limit_denominator(1001)


def _checked_quality(quality: float | None) -> float:
    if quality is None:
        return DEFAULT_QUALITY
    if isinstance(quality, bool) or not isinstance(quality, (int, float)) or not 0 <= quality <= 100:
        raise UsageError(f"quality must be a number from 0 (small) to 100 (best), not {quality!r}")
    return quality
