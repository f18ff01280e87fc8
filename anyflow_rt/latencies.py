"""What a process knows of one bundle's times on one engine: measured before, by others, and by its own runs.

Every run is recorded, with or without a budget. The profile on disk (``sampling.latency_store``) is read when the
first budget asks for it, and written after runs are over: when the runtime closes, when the process ends, and about
once a minute in between, by a thread.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from anyflow_rt.sampling.callbacks import CallbackTimes
from anyflow_rt.sampling.latency import FirstCalls, RunTimes, Setting
from anyflow_rt.sampling.recorder import RunRecorder, StageObserver

if TYPE_CHECKING:
    from anyflow_rt.sampling.forecast import Forecaster
    from anyflow_rt.sampling.latency_store import LatencyStore

DEVICE = "cpu"
FLUSH_SECONDS = 60.0
MAX_FORECASTERS = 16


def profile_store(bundle_id: str, engine: str) -> LatencyStore:
    """The profile of a bundle on this machine. Each engine on each number of cores that a process may use has its own,
    which another version of the engine discards."""
    from anyflow_rt.sampling.latency_store import Identity, LatencyStore, this_machine

    version = str(importlib.import_module(engine).__version__)
    device = f"{DEVICE}-{len(os.sched_getaffinity(0))}-{engine}"
    return LatencyStore(Identity(bundle_id, device, this_machine(), ((engine, version),)))


class Latencies:
    """Of one runtime. One run at a time: ``begin`` it, tell what comes back of its stages, ``end`` it.

    opening: whether runs still wait for engines that are being opened; the first calls of such a run are kept apart.
    callbacks: what the functions that callers gave took.
    """

    def __init__(self, bundle_id: str, engine: str) -> None:
        self.opening = True
        self.callbacks = CallbackTimes()
        self._runs = _Runs(bundle_id, engine)
        self._recorders: dict[Setting, RunRecorder] = {}
        self._forecasters: dict[tuple[Setting, bool, bool], Forecaster] = {}
        self._flushed = time.monotonic()
        self._at_exit = weakref.finalize(self, self._runs.flush)

    def begin(self, setting: Setting, *, decode: bool, encode: bool) -> StageObserver:
        """A run begins that has, or has not, these stages."""
        observer = self._forecasters.get((setting, decode, encode)) or self._recorder(setting)
        observer.start_run(opening=self.opening)
        return observer

    def begin_forecast(self, setting: Setting, *, decode: bool, encode: bool) -> Forecaster:
        """The same of a run that plans; the first one of its kind reads the profile. Never raises for the profile."""
        key = (setting, decode, encode)
        if key not in self._forecasters:
            from anyflow_rt.sampling.forecast import Forecaster
            from anyflow_rt.sampling.latency_model import history_for

            history = history_for(self._runs.store().load(), setting).beginning(opening=self.opening)
            made = Forecaster(history, decode=decode, encode=encode, recorder=self._recorder(setting))
            self._forecasters[key] = made
            if len(self._forecasters) > MAX_FORECASTERS:
                del self._forecasters[next(iter(self._forecasters))]
        forecaster = self._forecasters[key]
        forecaster.start_run(opening=self.opening)
        return forecaster

    def end(self, setting: Setting, observer: StageObserver) -> None:
        """The run is over, also where it was cut short."""
        self._runs.add(setting, *observer.end_run())
        self.opening = False
        now = time.monotonic()
        if now - self._flushed > FLUSH_SECONDS:
            self._flushed = now
            threading.Thread(target=self._runs.flush, name="anyflow-rt-profile", daemon=True).start()

    def store(self) -> LatencyStore:
        """The profile on disk, with what waits to be written to it."""
        return self._runs.store()

    def close(self) -> None:
        """Write what was measured. A warning says where that cannot be."""
        self._at_exit()

    def abandon(self) -> None:
        """Write nothing more."""
        self._at_exit.detach()

    def _recorder(self, setting: Setting) -> RunRecorder:
        return self._recorders.setdefault(setting, RunRecorder())


class _Runs:
    """Runs on their way to the store, which is made when it is first needed: that is after the first result."""

    def __init__(self, bundle_id: str, engine: str) -> None:
        self._key = (bundle_id, engine)
        self._ended: deque[tuple[Setting, RunTimes, FirstCalls | None]] = deque()
        self._store: LatencyStore | None = None
        self._guard = threading.Lock()

    def add(self, setting: Setting, run: RunTimes, first: FirstCalls | None) -> None:
        if run != RunTimes() or first is not None:
            self._ended.append((setting, run, first))

    def store(self) -> LatencyStore:
        with self._guard:
            if self._store is None:
                self._store = profile_store(*self._key)
            while self._ended:
                self._store.add(*self._ended.popleft())
            return self._store

    def flush(self) -> None:
        if self._ended or self._store is not None:
            self.store().flush()
