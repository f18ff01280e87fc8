"""mp4 while it is made: every frame is a fragment of its own, written as it comes, to a file or to standard output.

FFmpeg's muxer writes a fragment when it meets the next one, and PyAV has no call that makes it: the file is one frame
behind. What was written plays, also where the rest never comes: nothing is put aside for the end, nothing is removed.
"""

from __future__ import annotations

import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from anyflow_rt.errors import OutputError, UsageError
from anyflow_rt.output.mp4 import Mp4Writer
from anyflow_rt.output.target import OutputFile, output_error, output_extension
from anyflow_rt.output.writer import VideoShape

STANDARD_OUTPUT = "-"


def check_stream_target(target: str | os.PathLike) -> None:
    """Raise UsageError unless ``target`` ends in .mp4 or is ``-``, OutputError where it is a terminal, or a file that
    cannot be written."""
    if os.fspath(target) == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise OutputError("standard output is a terminal, and a video is no text; pipe it into a player or a file")
        return
    if output_extension(target) != ".mp4":
        raise UsageError(f"stream {os.fspath(target)!r} must end in .mp4, or be - for standard output")
    existed = os.path.exists(target)
    _LiveFile(Path(target)).create()
    if not existed:
        os.unlink(target)


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
    """Standard output as PyAV wants it: something to write to, in one direction."""

    def write(self, data: bytes) -> int:
        """All of ``data``, past Python's own buffer: what a closed pipe leaves in there fails again at the end."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(sys.stdout.fileno(), rest) :]
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

    def _destination(self, file: OutputFile) -> Any:
        return _Pipe() if os.fspath(file.path) == STANDARD_OUTPUT else super()._destination(file)
