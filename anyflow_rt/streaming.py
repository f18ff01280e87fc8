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
from anyflow_rt.engines.cuda_streams import own_stream
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import Cancelled, UsageError
from anyflow_rt.generation import Between, Generation
from anyflow_rt.preview import whole_draft
from anyflow_rt.request import Request
from anyflow_rt.result import Result, StreamReport
from anyflow_rt.sampling.chunked import Chunk
from anyflow_rt.turn import Turn

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
    """Iterate over it once; work, and the runtime's turn, begin with the first chunk asked for. ``close``, from any
    thread, or leaving its context, or letting go of it, ends what is still being made before its next jump.
    ``result()`` tells of the whole once the last chunk is there."""

    def __init__(
        self,
        begin: Callable[[], Generation],
        request: Request,
        turn: Turn,
        started_at: float,
        *,
        causal: bool,
        fps: float,
    ) -> None:
        """begin: makes the call, once it is this stream's turn. fps: the rate that ``result`` says stalls at."""
        self._request, self._fps = request, fps
        self._run = _Run(begin, turn, started_at, causal=causal)
        self._chunks = self._run.chunks()
        self._reading = threading.RLock()

    @property
    def size(self) -> VideoSize:
        """Of each video."""
        return self._request.size

    @property
    def videos(self) -> int:
        """How many are streamed side by side."""
        return self._request.videos

    def __next__(self) -> StreamedChunk:
        with self._reading:
            return next(self._chunks)

    def close(self) -> None:
        """End it. A second call does nothing. A reader that waits for a chunk in another thread gets Cancelled."""
        self._run.stop.set()
        if threading.current_thread() in self._run.workers:
            return  # from a callback: the reader's next call ends it
        # A signal's handler may interrupt ``next`` in this very thread, which then ends it.
        with self._reading, suppress(ValueError):
            self._chunks.close()  # type: ignore[attr-defined]

    def result(self) -> Result:
        """Of the whole stream, without frames. Raises UsageError before the last chunk."""
        call, ready = self._run.call, tuple(self._run.ready)
        if call is None or sum(frames for _, frames in ready) < self.size.num_frames:
            raise UsageError("this stream has no result yet: read it to its last chunk first")
        seconds, frames = zip(*ready, strict=True)
        return call.streamed(StreamReport(seconds, frames, self._fps))

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


class _Run:
    """What a stream does. ``Stream`` holds it and not the other way round, so letting go of the stream ends it."""

    def __init__(self, begin: Callable[[], Generation], turn: Turn, started_at: float, *, causal: bool) -> None:
        self._begin, self._turn, self._started_at, self._causal = begin, turn, started_at, causal
        self.stop = threading.Event()
        self.workers: tuple[threading.Thread, ...] = ()
        self.call: Generation | None = None
        """Once it has begun."""
        self.ready: list[tuple[float, int]] = []
        """Of every chunk, the seconds until it was there and its frames."""

    def chunks(self) -> Iterator[StreamedChunk]:
        """The reader's side: takes the turn for as long as it is open."""
        with self._turn, self._begin() as call:
            self.call = call
            yield from self._handed_on(call)

    def _handed_on(self, call: Generation) -> Iterator[StreamedChunk]:
        """Starts both workers, hands on, and stops them where it is closed."""
        latents, frames = _Handover(self.stop), _Handover(self.stop)
        jobs = (("denoise", latents, self._denoised(call, latents)), ("decode", frames, self._decoded(call, latents)))
        self.workers = tuple(
            threading.Thread(
                target=_fill, args=(handover, work, call.engine, name), name=f"anyflow-rt-{name}", daemon=True
            )
            for name, handover, work in jobs
        )
        try:
            for worker in self.workers:
                worker.start()
            for chunk in frames:
                call.took()
                yield chunk
        finally:
            self.stop.set()
            for worker in self.workers:
                worker.join()

    def _denoised(self, call: Generation, latents: _Handover) -> Iterator[Chunk]:
        made: Made = call.chunks if self._causal else _whole(call)
        for chunk in made(latents.check):
            call.keep(chunk)
            yield chunk

    def _decoded(self, call: Generation, latents: _Handover) -> Iterator[StreamedChunk]:
        decoder = None
        for chunk in latents:
            begun = time.perf_counter()
            decoder = FrameDecoder(call.components) if decoder is None else decoder
            pieces = decoder.frames(chunk.latents)
            for piece in [np.concatenate(list(pieces), axis=1)] if self._causal else pieces:
                now = time.perf_counter()
                call.decoded(piece.shape[1], now - begun)
                steps = 0 if chunk.jumped is None else len(chunk.jumped.jumps)
                self.ready.append((now - self._started_at, piece.shape[1]))
                yield StreamedChunk(len(self.ready) - 1, piece, steps, now - self._started_at)
                begun = time.perf_counter()


def _fill(handover: _Handover, work: Iterator[Any], engine: str, name: str) -> None:
    """What a worker's thread does."""
    with own_stream(engine, name):
        handover.fill(work)


class _Handover:
    """A short queue from one thread to the next that ends with what the first one raises, or when all stops."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._queue: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(DEPTH)

    def check(self) -> None:
        """Raise Cancelled where the stream was closed."""
        if self._stop.is_set():
            raise Cancelled("the stream was closed")

    def fill(self, work: Iterator[Any]) -> None:
        """What the first thread does: hand on all that ``work`` makes, or its failure."""
        try:
            for item in work:
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
