"""A contact sheet: evenly spaced frames of a clip as one PNG.

The PNG is written with zlib alone: a few lines, and no need to load a video library for one picture.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from anyflow_rt.output.writer import VideoShape, VideoWriter

MOST_FRAMES = 16  # of a single clip: 4 x 4
MOST_COLUMNS = 8  # of each of several clips
GAP = 2  # pixels of white between pictures


class SheetWriter(VideoWriter):
    """One clip: up to 16 frames, row by row, in a grid as square as may be. Several clips: a row of up to 8 frames
    each. Holds those frames only. A clip of one frame is that frame."""

    def __init__(self, paths: Sequence[Path], shape: VideoShape) -> None:
        super().__init__(paths, shape)
        single = shape.num_videos == 1
        count = min(shape.num_frames, MOST_FRAMES if single else MOST_COLUMNS)
        self._columns = math.ceil(math.sqrt(count)) if single else count
        self._picked = evenly_spaced(shape.num_frames, count)
        self._rows = math.ceil(count / self._columns) * shape.num_videos

    def _open(self) -> None:
        height = self._rows * (self.shape.height + GAP) - GAP
        width = self._columns * (self.shape.width + GAP) - GAP
        self._sheet = np.full((height, width, 3), 255, dtype=np.uint8)

    def _write(self, frames: np.ndarray, video: int) -> None:
        first = self._written[video]
        for place, index in enumerate(self._picked):
            if first <= index < first + len(frames):
                row, column = divmod(place, self._columns)
                top = (row + video * self._rows // self.shape.num_videos) * (self.shape.height + GAP)
                left = column * (self.shape.width + GAP)
                self._sheet[top : top + self.shape.height, left : left + self.shape.width] = frames[index - first]

    def _finish(self) -> None:
        self.files[0].temporary.write_bytes(png_bytes(self._sheet))


def evenly_spaced(length: int, count: int) -> list[int]:
    """``count`` different indices of a sequence, the first and the last included where there are two or more."""
    if count == 1:
        return [0]
    return [round(place * (length - 1) / (count - 1)) for place in range(count)]


def png_bytes(pixels: np.ndarray) -> bytes:
    """An RGB PNG (ISO/IEC 15948) of uint8 (H, W, 3), 8 bits a channel.

    Rows are stored as differences to the row above (filter 2), which packs smooth pictures well.
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, width * 3)
    filtered = np.empty((height, 1 + width * 3), dtype=np.uint8)
    filtered[:, 0] = 2
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
