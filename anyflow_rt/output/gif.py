"""Animated GIF that loops for ever. Each call of ``write`` gets a palette of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from anyflow_rt.output.container import ContainerWriter
from anyflow_rt.output.palette import COLOURS, quantise

OPAQUE = 255


class GifWriter(ContainerWriter):
    """One gif a video. GIF counts time in hundredths of a second: frames last 6 or 7 of them at 16 a second."""

    format: ClassVar[str] = "gif"
    options: ClassVar[dict[str, str]] = {"loop": "0"}

    def _add_stream(self, container: Any) -> Any:
        stream = container.add_stream("gif", rate=self._fps)
        stream.width, stream.height, stream.pix_fmt = self.shape.width, self.shape.height, "pal8"
        return stream

    def _write(self, frames: np.ndarray, video: int) -> None:
        indices, colours = quantise(frames)
        palette = np.full((COLOURS, 4), OPAQUE, dtype=np.uint8)
        palette[:, 1:] = colours  # alpha, red, green, blue
        for picture in indices:
            pair: Any = (picture, palette)  # what PyAV takes for pal8; its annotation says one array
            self._encode(self._av.VideoFrame.from_ndarray(pair, format="pal8"), video)
