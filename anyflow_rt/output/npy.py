"""Raw frames as a NumPy file: uint8 (T, H, W, 3), with a leading axis for several videos."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from anyflow_rt.output.writer import VideoShape, VideoWriter


class NpyWriter(VideoWriter):
    """Writes each frame to its final place in the file. The whole file's space is reserved at the start, so that a
    full disk is found out before the frames are made."""

    def __init__(self, paths: Sequence[Path], shape: VideoShape) -> None:
        super().__init__(paths, shape)
        self._stream: BinaryIO | None = None

    def _open(self) -> None:
        shape = self.shape
        dimensions: tuple[int, ...] = (shape.num_frames, shape.height, shape.width, 3)
        if shape.num_videos > 1:
            dimensions = (shape.num_videos, *dimensions)
        self._stream = open(self.files[0].temporary, "r+b")  # noqa: SIM115 - closed by _release
        header = {"descr": "|u1", "fortran_order": False, "shape": dimensions}
        np.lib.format.write_array_header_1_0(self._stream, header)
        self._start = self._stream.tell()
        self._stream.flush()
        self._frame_bytes = shape.height * shape.width * 3
        os.posix_fallocate(self._stream.fileno(), self._start, self._frame_bytes * shape.num_frames * shape.num_videos)

    def _write(self, frames: np.ndarray, video: int) -> None:
        assert self._stream is not None
        position = video * self.shape.num_frames + self._written[video]
        self._stream.seek(self._start + position * self._frame_bytes)
        self._stream.write(frames.data)

    def _finish(self) -> None:
        assert self._stream is not None
        self._stream.close()

    def _release(self) -> None:
        if self._stream is not None:
            # Closing writes what is buffered; where that fails too, the error that led here is the one to tell.
            with contextlib.suppress(OSError):
                self._stream.close()
