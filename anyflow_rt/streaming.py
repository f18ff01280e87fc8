"""A video while it is made: chunk k is decoded while chunk k + 1 is denoised, and handed on as soon as it is there.

Denoiser, decoder and reader are joined by queues of one, so whoever is slow holds up the others, and memory stays
bounded: a slow reader stops the denoiser. A bidirectional checkpoint has all its latents at once; its stream begins
when they are there, and its chunks are the decoder's.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np

from anyflow_rt.decoding import FrameDecoder
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import Cancelled
from anyflow_rt.generation import Between, Generation
from anyflow_rt.preview import whole_draft
from anyflow_rt.result import Result, StreamReport
from anyflow_rt.sampling.chunked import Chunk

DEPTH = 1
"""Of each queue."""
PATIENCE = 0.05
"""Seconds between looks at whether the stream was closed."""


@dataclass(frozen=True, eq=False)
class StreamedChunk:
    """frames uint8 (N, T, H, W, 3). steps: jumps, 0 of what was given. ready: seconds from the call to the frames."""

    index: int
    frames: np.ndarray = field(repr=False)
    steps: int
    ready: float


class Stream(Iterator[StreamedChunk]):
    """Iterate over it once. ``close``, or leaving its context, or letting go of it, ends what is still being made
    before its next jump. ``result()`` tells of the whole once the last chunk is there."""

    def __init__(self, call: Generation, started_at: float, *, causal: bool, fps: float) -> None:
        """fps: the rate that ``result`` says stalls at."""
        self._call, self._fps = call, fps
        self._ready: list[tuple[float, int]] = []
        made = call.chunks if causal else _whole(call)
        self._chunks = _run(call, made, started_at, self._ready, causal=causal)

    @property
    def size(self) -> VideoSize:
        """Of each video."""
        return self._call.request.size

    @property
    def videos(self) -> int:
        """How many are streamed side by side."""
        return self._call.request.videos

    def __next__(self) -> StreamedChunk:
        return next(self._chunks)

    def close(self) -> None:
        """End it. A second call does nothing."""
        self._chunks.close()  # type: ignore[attr-defined]

    def result(self) -> Result:
        """Of the whole stream, without frames. To be asked for after the last chunk."""
        ready, frames = zip(*self._ready, strict=True)
        return self._call.streamed(StreamReport(ready, frames, self._fps))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


Made = Callable[[Between], Iterator[Chunk]]
"""Makes chunks; calls what it is given between jumps."""


def _whole(call: Generation) -> Made:
    def made(between: Between) -> Iterator[Chunk]:
        yield Chunk(0, call.denoise(whole_draft, between), call.jumped, 0.0)

    return made


def _run(
    call: Generation, made: Made, started_at: float, ready: list[tuple[float, int]], *, causal: bool
) -> Iterator[StreamedChunk]:
    """The reader's side: starts both workers, hands on, and stops them where it is closed. ``ready`` gets, of every
    chunk, the seconds until it was there and its frames."""
    stop = threading.Event()
    latents, frames = _Handover(stop), _Handover(stop)

    def denoise() -> Iterator[Chunk]:
        for chunk in made(latents.check):
            call.keep(chunk)
            yield chunk

    def decode() -> Iterator[StreamedChunk]:
        decoder = None
        for chunk in latents:
            begun = time.perf_counter()
            decoder = FrameDecoder(call.components) if decoder is None else decoder
            pieces = decoder.frames(chunk.latents)
            for piece in [np.concatenate(list(pieces), axis=1)] if causal else pieces:
                now = time.perf_counter()
                call.decoded(piece.shape[1], now - begun)
                steps = 0 if chunk.jumped is None else len(chunk.jumped.jumps)
                ready.append((now - started_at, piece.shape[1]))
                yield StreamedChunk(len(ready) - 1, piece, steps, now - started_at)
                begun = time.perf_counter()

    workers = [
        threading.Thread(target=handover.fill, args=(work,), name=f"anyflow-rt-{work.__name__}", daemon=True)
        for handover, work in ((latents, denoise), (frames, decode))
    ]
    with call:
        try:
            for worker in workers:
                worker.start()
            yield from frames
        finally:
            stop.set()
            for worker in workers:
                worker.join()


class _Handover:
    """A short queue from one thread to the next that ends with what the first one raises, or when all stops."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(DEPTH)

    def check(self) -> None:
        """Raise Cancelled where the stream was closed."""
        if self._stop.is_set():
            raise Cancelled("the stream was closed")

    def fill(self, work: Callable[[], Iterator[Any]]) -> None:
        """What the first thread does: hand on all that ``work`` makes, or its failure."""
        try:
            for item in work():
                self._put(item, None)
            self._put(None, StopIteration())
        except BaseException as error:  # noqa: BLE001 - handed to the reader's thread, whatever it is
            with suppress(Cancelled):
                self._put(None, error)

    def __iter__(self) -> Iterator[Any]:
        while True:
            item, error = self._get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item

    def _put(self, item: Any, error: BaseException | None) -> None:
        while True:
            self.check()
            with suppress(queue.Full):
                return self._queue.put((item, error), timeout=PATIENCE)

    def _get(self) -> tuple[Any, BaseException | None]:
        while True:
            self.check()
            with suppress(queue.Empty):
                return self._queue.get(timeout=PATIENCE)
