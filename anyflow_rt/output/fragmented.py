"""mp4 while it is made: every frame is a fragment of its own, written as it comes, to a file or to standard output.

FFmpeg's muxer writes a fragment when it meets the next one, and PyAV has no call that makes it: the file is one frame
behind. What was written plays, also where the rest never comes: nothing is put aside for the end, nothing is removed.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.mp4 import Mp4Writer
from anyflow_rt.output.target import OutputFile, output_error, output_extension
from anyflow_rt.output.writer import VideoShape

STANDARD_OUTPUT = "-"
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
    """Standard output as PyAV wants it: something to write to, in one direction. Where nobody reads it, a write
    waits until ``given_up`` is set."""

    def __init__(self) -> None:
        self.given_up = threading.Event()

    def write(self, data: bytes) -> int:
        """All of ``data``, past Python's own buffer: what a closed pipe leaves in there fails again at the end."""
        rest, descriptor = memoryview(data), sys.stdout.fileno()
        while rest:
            if select.select([], [descriptor], [], PATIENCE)[1]:
                # So little fits wherever anything does, and so this never waits.
                rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]
            elif self.given_up.is_set():
                raise OSError(errno.ECANCELED, "nobody reads it, and waiting was given up")
        return len(data)


class FragmentedMp4Writer(Mp4Writer):
    """One video to ``target``: a path, or ``-`` for standard output."""

    options: ClassVar[dict[str, str]] = {
        "movflags": "frag_every_frame+empty_moov+default_base_moof",
        "flush_packets": "1",
    }
    encoder: ClassVar[dict[str, str]] = {**Mp4Writer.encoder, "tune": "zerolatency"}

    def __init__(self, target: str | os.PathLike, shape: VideoShape, fps: Fraction, quality: float) -> None:
        super().__init__([Path(target)], shape, fps, quality)
        self.files = [_LiveFile(Path(target))]
        self._pipe = _Pipe()

    def give_up_waiting(self) -> None:
        """See ``VideoWriter``."""
        self._pipe.given_up.set()

    def _destination(self, file: OutputFile) -> Any:
        return self._pipe if os.fspath(file.path) == STANDARD_OUTPUT else super()._destination(file)
