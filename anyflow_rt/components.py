"""The engines of one bundle, opened in the background in the order a run needs them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from anyflow_rt.engines import registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.engine import RESIDENT, Engine
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.manifest import EngineRecord
from anyflow_rt.engines.stages import ENCODE, run_stages
from anyflow_rt.errors import UsageError
from anyflow_rt.usual_shapes import usual_shapes

COMPUTE_TYPE_PORTS = ("*cache_*", "cross_key", "cross_value")
"""Inputs and outputs that only ever go from one engine call to another: they keep the engine's own type."""

_OPENERS = 2
"""Threads that open engines: reading a compiled model is mostly one thread's work."""


class Components:
    """Opens the components of ``bundle`` on ``engine``; ``get`` waits for one of them.

    The time embedder always runs in float32: its input reaches 1000, which bf16 rounds to multiples of 4.

    specialize: the size of the videos that engines are made for and run quickest at; each that meets another shape
    becomes two. None: they are made for any size. residency: one of ``RESIDENCIES``. record: the manifest's engine
    whose files are opened; None: the graphs are. on_demand: components that are opened only if ``get`` asks for them.
    one_call: whether one call is all there will be. shared: as of ``share_cores``, from the beginning.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: str,
        precision: str,
        cache_dir: Path | None,
        *,
        specialize: VideoSize | None = None,
        residency: str = RESIDENT,
        record: EngineRecord | None = None,
        on_demand: Collection[str] = (),
        one_call: bool = False,
        shared: bool = False,
    ) -> None:
        self.seconds_waited = 0.0
        self.closed = False
        self._residency, self._sequential = residency, residency != RESIDENT
        cores = len(os.sched_getaffinity(0))
        self._shared, self._half = shared and cores > 1, cores // 2
        self._on_demand = frozenset((*ENCODE, *on_demand))
        self._one_call = one_call
        self._bundle, self._engine, self._precision, self._cache_dir = bundle, engine, precision, cache_dir
        self._record = record
        self._shapes = {} if specialize is None else usual_shapes(bundle.architecture, specialize)
        self.stages = run_stages(bundle.architecture)
        self._pool = ThreadPoolExecutor(_OPENERS, thread_name_prefix="anyflow-open")
        self._futures: dict[str, Future[Engine]] = {}
        for stage in self.stages[:1] if self._sequential else self.stages:
            self._begin_usual(stage)

    def get(self, name: str) -> Engine:
        """The open engine of one component, opened now where not every run has a use for it (as for the encoder's).

        Raises what opening it raised, UsageError after ``close``.
        """
        self.check_open()
        if name not in self._futures:
            if self._sequential and name in self.stages[0]:
                self._close(other for stage in self.stages[1:] for other in stage)  # another call begins
            self._begin((name,))
        start = time.perf_counter()
        engine = self._futures[name].result()
        self.seconds_waited += time.perf_counter() - start
        return engine

    def check_open(self) -> None:
        """Raise UsageError after ``close``."""
        if self.closed:
            raise UsageError("this runtime is closed; open the bundle again with anyflow_rt.load")

    @property
    def jumping(self) -> tuple[str, ...]:
        """The components of the stage of jumps."""
        return next(stage for stage in self.stages if stage[-1] == "denoiser")

    def share_cores(self, shared: bool) -> None:
        """Whether each engine after the prompt's takes half of a CPU's cores from now on, or all of them, as at first.

        An engine splits every layer among its threads and waits for all of them, so where other work has one of the
        cores every layer waits for the thread there. Measured with streams on two cores, where denoiser and decoder
        work at the same time, milliseconds a chunk of four steps: calm 46 with all cores, 49 with half; beside other
        work on one core 165 and 80, on both 77 and 82. What has to be in time takes half. Engines that are open with
        another share are opened again.
        """
        if shared == self._shared or not self._half or registry.for_gpu(self._engine):
            return
        self._shared = shared
        opened = [name for stage in self.stages[1:] for name in stage if name in self._futures]
        self._close(opened)
        self._begin(opened)

    def finish_stage(self, last: str) -> None:
        """The stage that ends with the component ``last`` is over; unless all stay open, so are its engines."""
        if not self._sequential:
            return
        index = next(index for index, stage in enumerate(self.stages) if stage[-1] == last)
        self._close(self.stages[index])
        for stage in self.stages[index + 1 :][:1]:
            self._begin_usual(stage)

    def wait(self) -> None:
        """Wait until all that are being opened are open."""
        for name in list(self._futures):
            self.get(name)

    def close(self, *, wait: bool = True) -> None:
        """Release every engine; those not yet open are not opened. A second call does nothing.

        wait: for those that are just being opened; otherwise they are released as soon as they are.
        """
        self.closed = True
        self._pool.shutdown(wait=wait, cancel_futures=True)
        for future in self._futures.values():
            future.add_done_callback(_release)

    def _close(self, names: Iterable[str]) -> None:
        """Release those of ``names`` that are open; ``get`` opens them again."""
        for name in names:
            if name in self._futures:
                self.get(name).close()
                del self._futures[name]

    def _begin_usual(self, stage: Sequence[str]) -> None:
        """Begin what a stage uses in every call."""
        self._begin([name for name in stage if name not in self._on_demand])

    def _begin(self, stage: Sequence[str]) -> None:
        for name in stage:
            if name in self._futures:
                continue
            self._futures[name] = self._pool.submit(
                registry.open_engine,
                self._engine,
                self._bundle.component_path(name)
                if self._record is None
                else self._bundle.engine_path(self._record, name),
                precision="fp32" if name == "time_embedder" else self._precision,
                cache_dir=self._cache_dir,
                compute_type=COMPUTE_TYPE_PORTS,
                usual_shapes=self._shapes.get(name, ()),
                model_hash=self._bundle.component_hash(name),
                residency=self._residency,
                shapes_return=not self._one_call,
                threads=self._half if self._shared and name not in self.stages[0] else None,
            )


def _release(opened: Future[Engine]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
