"""What the formats written through PyAV have in common: a container and a stream a video."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

from anyflow_rt.errors import OutputError
from anyflow_rt.output.target import OutputFile
from anyflow_rt.output.writer import VideoShape, VideoWriter


class ContainerWriter(VideoWriter):
    """Base of the mp4 and gif writers. Subclasses name the container's ``format`` and its ``options``, add the stream
    and hand frames to ``_encode``. PyAV is imported when the first file is opened, not before."""

    format: ClassVar[str]
    options: ClassVar[dict[str, str]]

    def __init__(self, paths: Sequence[Path], shape: VideoShape, fps: Fraction) -> None:
        super().__init__(paths, shape)
        self._fps = fps
        self._containers: list[Any] = []
        self._streams: list[Any] = []

    def _add_stream(self, container: Any) -> Any:
        """The container's video stream, ready to encode."""
        raise NotImplementedError

    def _open(self) -> None:
        import av

        self._av = av
        for file in self.files:
            # The temporary file's name ends in .tmp, so the format has to be named.
            container = av.open(self._destination(file), "w", format=self.format, options=self.options)
            self._containers.append(container)
            self._streams.append(self._add_stream(container))

    def _destination(self, file: OutputFile) -> Any:
        """What PyAV opens to write a file."""
        return str(file.temporary)

    def _encode(self, frame: Any, video: int) -> None:
        """Encode and write one ``av.VideoFrame``; None flushes the encoder."""
        with self._encoder_errors(video):
            for packet in self._streams[video].encode(frame):
                self._containers[video].mux(packet)

    def _finish(self) -> None:
        for video, container in enumerate(self._containers):
            self._encode(None, video)
            with self._encoder_errors(video):
                container.close()

    def _release(self) -> None:
        for container in self._containers:
            # Closing writes what is left; where that fails too, the error that led here is the one to tell.
            with contextlib.suppress(OSError, self._av.FFmpegError):
                container.close()

    @contextlib.contextmanager
    def _encoder_errors(self, video: int):
        """FFmpeg's own errors as ``OutputError``. Failed system calls pass: the base writer knows their mend."""
        try:
            yield
        except self._av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise OutputError(f"cannot encode {self.files[video].path}: {error}; try another format") from error
