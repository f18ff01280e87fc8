"""Writing in the background: it overlaps, it is bounded, and its failures arrive."""

import threading
import time

import numpy as np
import pytest

from anyflow_rt.errors import OutputError
from anyflow_rt.video import BackgroundWriter


class SlowWriter:
    """Stands in for a writer: takes its time, or fails."""

    def __init__(self, seconds=0.0, failure=None):
        self.seconds, self.failure, self.seen, self.threads, self.state = seconds, failure, [], set(), "open"

    def prepare(self):
        self.threads.add(threading.get_ident())

    def write(self, frames, video=0):
        time.sleep(self.seconds)
        if self.failure:
            raise self.failure
        self.seen.append(int(frames[0, 0, 0, 0]))

    def close(self):
        self.state = "closed"
        return ()

    def give_up_waiting(self):
        self.state = "given up"

    def abort(self):
        self.state = "aborted"


def test_background_writing_overlaps_and_copies():
    inner = SlowWriter(0.02)
    buffer = np.zeros((1, 1, 1, 3), dtype=np.uint8)
    start = time.perf_counter()
    with BackgroundWriter(inner) as writer:
        for index in range(4):
            buffer[:] = index
            writer.write(buffer)
        queued = time.perf_counter() - start
    assert inner.seen == [0, 1, 2, 3] and inner.state == "closed"
    assert inner.threads.isdisjoint({threading.get_ident()})
    assert queued < 0.07 <= time.perf_counter() - start


def test_background_queue_is_bounded():
    inner = SlowWriter(0.01)
    with BackgroundWriter(inner) as writer:
        for index in range(30):
            writer.write(np.full((1, 1, 1, 3), index, dtype=np.uint8))
            assert index - len(inner.seen) <= 6


def test_background_failures_reach_the_caller():
    failure = ZeroDivisionError("in the worker")
    for count in (1, 100):  # found by close, or by a later write
        inner = SlowWriter(0.001, failure)
        with pytest.raises(ZeroDivisionError, match="in the worker"), BackgroundWriter(inner) as writer:
            for _ in range(count):
                writer.write(np.zeros((1, 1, 1, 3), dtype=np.uint8))
        assert inner.state == "aborted"


def test_background_abort_is_quick():
    inner = SlowWriter(0.05)
    writer = BackgroundWriter(inner)
    for _ in range(5):
        writer.write(np.zeros((1, 1, 1, 3), dtype=np.uint8))
    start = time.perf_counter()
    writer.abort()
    assert time.perf_counter() - start < 0.2 and inner.state == "aborted" and len(inner.seen) < 5
    with pytest.raises(OutputError, match="closed"):
        writer.write(np.zeros((1, 1, 1, 3), dtype=np.uint8))
