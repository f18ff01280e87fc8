"""Encoding beside decoding: a writer in a thread of its own, behind a short queue."""

from __future__ import annotations

import queue
import threading
from pathlib import Path

import numpy as np

from anyflow_rt.errors import OutputError
from anyflow_rt.output.writer import Sink, VideoWriter

DEPTH = 4  # chunks of frames waiting; beyond that the decoder waits, so memory stays bounded
PATIENCE = 0.1  # seconds between looks at whether the worker is still there


class BackgroundWriter(Sink):
    """Same use as the writer it wraps. The thread starts at once and loads the encoder while others work.

    A failure in the thread is raised by the next ``write`` or by ``close``. Frames are copied, so the caller may use
    its buffer again. After the last frame, ``close`` waits for the encoder and puts the files in place.
    """

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer
        self._queue: queue.Queue[tuple[np.ndarray, int] | None] = queue.Queue(DEPTH)
        self._failure: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="anyflow-rt-writer", daemon=True)
        self._thread.start()

    def write(self, frames: np.ndarray, video: int = 0) -> None:
        """Queue frames, uint8 RGB (T, height, width, 3), of one video."""
        self._put((np.array(frames, order="C"), video))
        if not self._thread.is_alive():
            raise self._failure or OutputError("frames came after the writer was closed")

    def close(self) -> tuple[Path, ...]:
        """Wait until everything is encoded, put the files in place, return their paths."""
        try:
            self._put(None)
            self._thread.join()
            if self._failure is not None:
                raise self._failure
            return self._writer.close()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Stop after the chunk in work and remove what was written."""
        self._stopping.set()
        self._writer.give_up_waiting()
        self._thread.join()
        self._writer.abort()

    def _put(self, item: tuple[np.ndarray, int] | None) -> None:
        while self._thread.is_alive():
            try:
                self._queue.put(item, timeout=PATIENCE)
            except queue.Full:
                continue
            return

    def _work(self) -> None:
        try:
            self._writer.prepare()
            while not self._stopping.is_set():
                try:
                    item = self._queue.get(timeout=PATIENCE)
                except queue.Empty:
                    continue
                if item is None:
                    return
                self._writer.write(*item)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, whatever it is
            self._failure = error
