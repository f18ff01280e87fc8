"""Animated GIF that loops for ever. Each call of ``write`` gets a palette of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.output.palette import COLOURS, quantise
from anyflow_rt.output.writer import VideoShape, VideoWriter

OPAQUE = 255


class GifWriter(VideoWriter):
    """One gif a video. GIF counts time in hundredths of a second: frames last 6 or 7 of them at 16 a second."""

    def __init__(self, paths: Sequence[Path], shape: VideoShape, fps: Fraction) -> None:
        super().__init__(paths, shape)
        self._fps = fps
        self._containers: list[Any] = []
        self._streams: list[Any] = []

    def _open(self) -> None:
        import av

        self._av = av
        for file in self.files:
            container = av.open(str(file.temporary), "w", format="gif", options={"loop": "0"})
            self._containers.append(container)
            stream = container.add_stream("gif", rate=self._fps)
            stream.width, stream.height, stream.pix_fmt = self.shape.width, self.shape.height, "pal8"
            self._streams.append(stream)

    def _write(self, frames: np.ndarray, video: int) -> None:
        indices, colours = quantise(frames)
        palette = np.full((COLOURS, 4), OPAQUE, dtype=np.uint8)
        palette[:, 1:] = colours  # alpha, red, green, blue
        for picture in indices:
            pair: Any = (picture, palette)  # what PyAV takes for pal8; its annotation says one array
            self._encode(self._av.VideoFrame.from_ndarray(pair, format="pal8"), video)

    def _encode(self, frame: Any, video: int) -> None:
        for packet in self._streams[video].encode(frame):
            self._containers[video].mux(packet)

    def _finish(self) -> None:
        for video, container in enumerate(self._containers):
            self._encode(None, video)
            container.close()

    def _release(self) -> None:
        for container in self._containers:
            # Closing writes what is buffered; where that fails too, the error that led here is the one to tell.
            with contextlib.suppress(OSError, self._av.FFmpegError):
                container.close()
