"""Streams and the order of their events, on stand-ins for PyTorch's: no GPU is needed, and none is used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import pytest
import torch

from anyflow_rt.engines import cuda_streams
from anyflow_rt.engines.cuda_graphs import ShapeGraphs
from anyflow_rt.engines.cuda_streams import POOL, WORKERS, new_stream, own_stream, worker_streams
from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import package

USUAL = 0
CPU = torch.device("cpu")


class _Stream:
    def __init__(self, cuda: _Cuda, handle: int) -> None:
        self._cuda, self.cuda_stream = cuda, handle

    def record_event(self) -> int:
        event = next(self._cuda.events)
        self._cuda.said.append(f"{self._cuda.name(self)} records {event}")
        return event

    def wait_event(self, event: int) -> None:
        self._cuda.said.append(f"{self._cuda.name(self)} waits for {event}")

    def wait_stream(self, other: _Stream) -> None:
        self.wait_event(other.record_event())


class _Cuda:
    """What ``torch.cuda`` gives: streams in turn of a pool, as PyTorch's; who waits for whom is written down."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.captured_on: list[int] = []
        self.events = count(1)
        self.usual = _Stream(self, USUAL)
        self._current, self._given = self.usual, count()

    def name(self, stream: _Stream) -> str:
        return "usual" if stream is self.usual else "own"

    def Stream(self, device: Any) -> _Stream:
        return _Stream(self, 1000 + next(self._given) % POOL)

    def current_stream(self, device: Any) -> _Stream:
        return self._current

    @contextlib.contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        before, self._current = self._current, stream
        yield
        self._current = before

    @contextlib.contextmanager
    def graph(self, graph: Any, *, stream: _Stream, capture_error_mode: str) -> Iterator[None]:
        self.captured_on.append(stream.cuda_stream)
        with self.stream(stream):
            yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> _Cuda:
    found = _Cuda()
    for name in ("Stream", "current_stream", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, getattr(found, name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "default_stream", lambda: found.usual)
    monkeypatch.setattr(package, "INTERPRETED", False)
    monkeypatch.setattr(cuda_streams, "_HELD", WeakValueDictionary())
    monkeypatch.setattr(cuda_streams, "_WORKERS", {})
    return found


def test_work_comes_behind_what_was_asked_before_and_ahead_of_what_is_asked_after(cuda: _Cuda) -> None:
    with own_stream("triton", "denoise"):
        assert cuda.current_stream(0) is worker_streams(0)["denoise"]
        cuda.said.append("work")
    wanted = ["usual records 1", "own waits for 1", "work", "own records 2", "usual waits for 2"]
    assert cuda.said == wanted
    assert cuda.current_stream(0) is cuda.usual


def test_what_comes_after_work_that_failed_waits_for_it_too(cuda: _Cuda) -> None:
    with pytest.raises(EngineError, match="no"), own_stream("triton", "decode"):
        raise EngineError("no")
    assert cuda.said[-2:] == ["own records 2", "usual waits for 2"]


def test_a_cpus_engine_has_no_stream(cuda: _Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_stream("onnxruntime", "denoise"):
        assert cuda.current_stream(0) is cuda.usual
    monkeypatch.setattr(package, "INTERPRETED", True)
    with own_stream("triton", "denoise"):
        assert cuda.current_stream(0) is cuda.usual
    assert not cuda.said


class _Value:
    """Stands for a tensor that a function gives."""

    def __init__(self) -> None:
        self.used_on: Any = None

    def record_stream(self, stream: _Stream) -> None:
        self.used_on = stream


def test_graphs_are_captured_where_nobody_else_works(cuda: _Cuda) -> None:
    """However many: PyTorch's pool has come round by then."""
    workers = {stream.cuda_stream for stream in worker_streams(0).values()}
    ran_on: list[int] = []

    def function(x: torch.Tensor) -> Any:
        ran_on.append(cuda.current_stream(0).cuda_stream)
        return _Value()

    graphs, others = ShapeGraphs(function, CPU), ShapeGraphs(function, CPU)
    with own_stream("triton", "denoise"):
        for size in range(POOL + 8):
            cuda.Stream(0)
            value: Any = graphs({"x": torch.zeros(size)})
            assert value.used_on is worker_streams(0)["denoise"]
    (captured,) = set(cuda.captured_on)
    assert set(ran_on) == {captured} and captured not in workers | {USUAL}
    others({"x": torch.zeros(1)})
    assert cuda.captured_on[-1] not in workers | {captured}


def test_no_stream_is_given_twice_while_it_is_held(cuda: _Cuda) -> None:
    workers = worker_streams(0)
    assert worker_streams(0) is workers and set(workers) == set(WORKERS)
    held = [new_stream(0) for _ in range(POOL - len(WORKERS))]
    handles = {stream.cuda_stream for stream in (*held, *workers.values())}
    assert len(handles) == POOL
    with pytest.raises(EngineError, match=r"all 32 CUDA streams that PyTorch has are held .*; close runtimes"):
        new_stream(0)
    freed = held.pop().cuda_stream
    assert new_stream(0).cuda_stream == freed
