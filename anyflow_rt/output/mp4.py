"""H.264 in mp4, for every player: yuv420p, BT.709 limited range (and tagged so), index at the front.

Frames of odd height or width get their last row or column twice, because 4:2:0 chroma needs even sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from anyflow_rt.errors import OutputError
from anyflow_rt.output.container import ContainerWriter
from anyflow_rt.output.writer import VideoShape

BT709 = 1  # the code of BT.709 for matrix, primaries and transfer alike (ITU-T H.273)
LIMITED_RANGE = 1
PRESET = "veryfast"  # looks 10 frames ahead where the default looks 40: quicker, and less memory
PIXELS_WORTH_THREADS = 128 * 128  # a picture smaller than this is encoded before more threads have started


def constant_rate_factor(quality: float) -> float:
    """x264's crf for a quality from 0 to 100: 51 (worst) at 0, 16 at 70, 1 at 100.

    0 is left out: it means lossless, in a profile that few players know.
    """
    return 1.0 + (100.0 - quality) / 2.0


class Mp4Writer(ContainerWriter):
    """One mp4 a video. ``fps`` frames a second; ``quality`` from 0 to 100."""

    format: ClassVar[str] = "mp4"
    options: ClassVar[dict[str, str]] = {"movflags": "faststart"}
    encoder: ClassVar[dict[str, str]] = {"preset": PRESET}

    def __init__(self, paths: Sequence[Path], shape: VideoShape, fps: Fraction, quality: float) -> None:
        super().__init__(paths, shape, fps)
        self._quality = quality

    def _open(self) -> None:
        from av.codec import codecs_available
        from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

        if "libx264" not in codecs_available:
            raise OutputError("this installation of PyAV has no H.264 encoder: pip install --force-reinstall av")
        self._reformatter = VideoReformatter()
        self._colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
        super()._open()

    def _add_stream(self, container: Any) -> Any:
        height, width = self.shape.height, self.shape.width
        options = {**self.encoder, "crf": f"{constant_rate_factor(self._quality):g}"}
        stream = container.add_stream("libx264", rate=self._fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context = stream.codec_context
        context.thread_count = 1 if height * width < PIXELS_WORTH_THREADS else 0  # 0: as many as there are cores
        context.color_range = LIMITED_RANGE
        context.colorspace = context.color_primaries = context.color_trc = BT709
        return stream

    def _write(self, frames: np.ndarray, video: int) -> None:
        odd = (self.shape.height % 2, self.shape.width % 2)
        if any(odd):
            frames = np.pad(frames, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), mode="edge")
        for pixels in frames:
            rgb = self._av.VideoFrame.from_ndarray(pixels, format="rgb24")
            self._encode(self._reformatter.reformat(rgb, format="yuv420p", **self._colours), video)
