"""A machine whose stages take what a test says: the engines run, the clock is the test's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from anyflow_rt import generation
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.latencies import profile_store
from anyflow_rt.sampling import executor
from anyflow_rt.sampling.latency import FirstCalls, RunTimes, Setting

JUMP, DECODE = 0.01, 0.02


class Machine:
    """``time.perf_counter`` stands still but for ``jump_seconds(n)`` of the n-th jump since then, and for decoding.

    jumps: how many were made.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.jumps, self.decode_seconds = 1000.0, 0, DECODE
        self.jump_seconds: Callable[[int], float] = lambda n: JUMP
        self._make_jump, self._decode = executor.make_jump, generation.decode
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(executor, "make_jump", self._jump)
        monkeypatch.setattr(generation, "decode", self._chunks)

    def _jump(self, *arguments: Any) -> Any:
        landed = self._make_jump(*arguments)
        self.now += self.jump_seconds(self.jumps)
        self.jumps += 1
        return landed

    def _chunks(self, *arguments: Any) -> Iterator[Any]:
        chunks = list(self._decode(*arguments))
        self.now += self.decode_seconds
        yield from chunks


def write_profile(bundle: Path, setting: Setting, *, runs: int = 20, factor: float = 1.0) -> Path:
    """What calibrating the steady machine leaves; times ``factor``. The profile's file."""
    store = profile_store(Bundle.open(bundle).id, setting.engine)
    for _ in range(runs):
        store.add(setting, RunTimes(0.0, 0.0, (factor * JUMP,) * 16, factor * DECODE, 0.0))
    store.add(setting, RunTimes(), FirstCalls(0.0, 0.0, factor * JUMP, factor * DECODE, 0.0))
    store.save()
    return store.path
