"""The contract of every writer: frames as they come, one commit at the end, nothing left of a failure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.target import OutputFile, output_error


@dataclass(frozen=True)
class VideoShape:
    """What a writer is about to get: ``num_videos`` clips of ``num_frames`` frames, ``height`` x ``width`` pixels."""

    num_videos: int
    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.num_videos, self.num_frames, self.height, self.width) < 1:
            raise UsageError(f"there is nothing to write in {self}: every size must be at least 1")


class Sink(ABC):
    """What frames are written to. As a context manager: leaving it normally is ``close``, leaving it by an exception
    is ``abort``."""

    @abstractmethod
    def write(self, frames: np.ndarray, video: int = 0) -> None:
        """Append frames, uint8 RGB (T, height, width, 3), to one video."""

    @abstractmethod
    def close(self) -> tuple[Path, ...]:
        """Finish and put the files in place. Returns their paths."""

    @abstractmethod
    def abort(self) -> None:
        """Give up: remove what was written so far."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class VideoWriter(Sink):
    """Base of the writers. ``write`` takes the frames of each video in order; videos may alternate.

    Subclasses implement ``_open``, ``_write``, ``_finish`` and ``_release``, and write to
    ``self.files[i].temporary``. Any failure inside a call aborts: temporary files go, existing files stay as they
    were. Not thread-safe, but for ``give_up_waiting``.
    """

    def __init__(self, paths: Sequence[Path], shape: VideoShape) -> None:
        self.shape = shape
        self.files = [OutputFile(path) for path in paths]
        self._written = [0] * shape.num_videos
        self._state = "new"

    def prepare(self) -> None:
        """Create the temporary files and load what encoding needs. ``write`` does it where nobody did before."""
        if self._state != "new":
            return
        self._state = "open"
        with _Cleanup(self):
            for file in self.files:
                file.create()
            self._open()

    def write(self, frames: np.ndarray, video: int = 0) -> None:
        """Append frames, uint8 RGB (T, height, width, 3), to one video. The array is not kept."""
        self.prepare()
        if self._state != "open":
            raise OutputError(f"cannot write {self.files[0].path}: this writer is closed")
        with _Cleanup(self):
            self._check(frames, video)
            if len(frames):
                self._write(np.ascontiguousarray(frames), video)
            self._written[video] += len(frames)

    def close(self) -> tuple[Path, ...]:
        """Finish and put the files in place. Returns their paths. Raises ``OutputError`` where frames are missing."""
        self.prepare()
        if self._state == "open":
            with _Cleanup(self):
                for video, written in enumerate(self._written):
                    if written != self.shape.num_frames:
                        raise OutputError(f"video {video} got {written} of its {self.shape.num_frames} frames")
                self._finish()
                for file in self.files:
                    file.commit()
            self._state = "closed"
        elif self._state == "aborted":
            raise OutputError(f"nothing was written to {self.files[0].path}: writing it was given up")
        return tuple(file.path for file in self.files)

    def abort(self) -> None:
        """Give up: remove what was written so far. Does nothing to a writer that is closed."""
        if self._state in ("closed", "aborted"):
            return
        self._state = "aborted"
        try:
            self._release()
        finally:
            for file in self.files:
                file.discard()

    def give_up_waiting(self) -> None:
        """Called by another thread before it aborts: what waits for somebody to read is to wait no longer."""

    def _check(self, frames: np.ndarray, video: int) -> None:
        shape = self.shape
        if not 0 <= video < shape.num_videos:
            raise UsageError(f"there is no video {video}: the writer was opened for {shape.num_videos}")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (shape.height, shape.width, 3):
            expected = f"uint8 (frames, {shape.height}, {shape.width}, 3)"
            raise UsageError(f"frames to write must be {expected}, not {frames.dtype} {frames.shape}")
        if self._written[video] + len(frames) > shape.num_frames:
            raise UsageError(f"video {video} got more than the {shape.num_frames} frames the writer was opened for")

    def _open(self) -> None:
        """Open what the format needs; the temporary files are there, empty."""

    def _write(self, frames: np.ndarray, video: int) -> None:
        """Encode C-contiguous frames (T, H, W, 3), T at least 1."""
        raise NotImplementedError

    def _finish(self) -> None:
        """Complete the temporary files and close them."""

    def _release(self) -> None:
        """Close whatever is open after a failure. Must not raise for files that cannot be completed."""


class _Cleanup:
    """Abort the writer when its body fails, by Ctrl-C too; a failed system call becomes an ``OutputError``."""

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        self._writer.abort()
        if isinstance(error, OSError):
            raise output_error(self._writer.files[0].path, error) from error
