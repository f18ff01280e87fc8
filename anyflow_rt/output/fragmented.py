"""mp4 while it is made: every frame is a fragment of its own, written as it comes, to a file or to standard output.

What was written plays, also where the rest never comes: nothing is put aside for the end, nothing is removed.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.fragments import fragment
from anyflow_rt.output.mp4 import Mp4Writer
from anyflow_rt.output.target import STANDARD_OUTPUT, OutputFile, output_error, output_extension
from anyflow_rt.output.writer import VideoShape

PATIENCE = 0.1
"""Seconds between looks at whether writing was given up."""


def check_stream_target(target: str | os.PathLike) -> None:
    """Raise UsageError unless ``target`` ends in .mp4 or is ``-``, OutputError where that is closed or a terminal, and
    for what is no regular file or cannot be written."""
    if os.fspath(target) == STANDARD_OUTPUT:
        _check_standard_output()
        return
    if output_extension(target) != ".mp4":
        raise UsageError(f"stream {os.fspath(target)!r} must end in .mp4, or be - for standard output")
    existed = os.path.exists(target)
    if existed and not os.path.isfile(target):
        # Opening a named pipe waits for its reader, and closing it again sends that reader away.
        raise OutputError(f"cannot write {target}: it is not a regular file; name another, or give - and redirect that")
    _LiveFile(Path(target)).create()
    if not existed:
        os.unlink(target)


def _check_standard_output() -> None:
    try:
        os.fstat(sys.stdout.fileno())
    except (AttributeError, OSError, ValueError):
        raise OutputError("standard output is closed, or no file; pipe it into a player or a file") from None
    if sys.stdout.isatty():
        raise OutputError("standard output is a terminal, and a video is no text; pipe it into a player or a file")


class _LiveFile(OutputFile):
    """A file that is written in place, and kept as far as it came."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.temporary = Path(path)

    def create(self) -> None:
        """Make sure that it can be written. Raises OutputError."""
        if os.fspath(self.path) == STANDARD_OUTPUT:
            return
        try:
            with open(self.path, "ab"):
                pass
        except OSError as error:
            raise output_error(self.path, error) from error

    def commit(self) -> None:
        """Nothing: it is where it belongs."""

    def discard(self) -> None:
        """Nothing: what was written plays."""


class _Pipe:
    """Standard output. Where nobody reads it, a write waits until ``given_up`` is set."""

    def __init__(self) -> None:
        self.given_up = threading.Event()

    def write(self, data: bytes) -> None:
        """All of ``data``, past Python's own buffer: what a closed pipe leaves in there fails again at the end."""
        rest, descriptor = memoryview(data), sys.stdout.fileno()
        while rest:
            if select.select([], [descriptor], [], PATIENCE)[1]:
                # So little fits wherever anything does, and so this never waits.
                rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
            elif self.given_up.is_set():
                raise OSError(errno.ECANCELED, "nobody reads it, and waiting was given up")

    def close(self) -> None:
        """Nothing: it is not ours."""


class _GrowingFile:
    """A file to which whole pieces are added: where one does not fit, the file ends with the one before it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._whole = 0

    def write(self, data: bytes) -> None:
        """All of ``data``, at once."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.truncate(self._whole)
            raise
        self._whole += len(data)

    def close(self) -> None:
        """A second call does nothing."""
        self._file.close()


class FragmentedMp4Writer(Mp4Writer):
    """One video to ``target``: a path, or ``-`` for standard output. Every frame is there when ``write`` returns."""

    options: ClassVar[dict[str, str]] = {"movflags": "empty_moov+default_base_moof"}
    encoder: ClassVar[dict[str, str]] = {**Mp4Writer.encoder, "tune": "zerolatency"}
    """No frame is kept back, so each is shown when it is decoded: there are no B-frames."""

    def __init__(self, target: str | os.PathLike, shape: VideoShape, fps: Fraction, quality: float) -> None:
        super().__init__([Path(target)], shape, fps, quality)
        self.files = [_LiveFile(Path(target))]
        self._header = io.BytesIO()
        self._pipe = _Pipe()
        self._live: _Pipe | _GrowingFile = self._pipe
        self._fragments = 0

    def give_up_waiting(self) -> None:
        """See ``VideoWriter``."""
        self._pipe.given_up.set()

    def _open(self) -> None:
        super()._open()
        if os.fspath(self.files[0].path) != STANDARD_OUTPUT:
            self._live = _GrowingFile(self.files[0].path)
        self._containers[0].start_encoding()

    def _destination(self, file: OutputFile) -> Any:
        # FFmpeg writes the header alone; what it adds when it is closed is dropped: an index of none of the fragments.
        return self._header

    def _encode(self, frame: Any, video: int) -> None:
        with self._encoder_errors(video):
            packets = self._streams[video].encode(frame)
        lasts = round(1 / (self._fps * self._streams[video].time_base))
        for packet in packets:
            begins = self._fragments * lasts
            head = b"" if self._fragments else self._header.getvalue()
            self._fragments += 1
            self._live.write(head + fragment(self._fragments, begins, lasts, bytes(packet), key=packet.is_keyframe))

    def _finish(self) -> None:
        super()._finish()
        self._live.close()

    def _release(self) -> None:
        super()._release()
        self._live.close()
