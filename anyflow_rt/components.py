"""The engines of one bundle, opened in the background in the order a run needs them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from anyflow_rt.engines import registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.engine import Engine
from anyflow_rt.errors import UsageError

RUN_ORDER = (
    "text_encoder",
    "conditioner",
    "time_embedder",
    "denoiser",
    "vae_decoder_first",
    "vae_decoder_next",
)

COMPUTE_TYPE_PORTS = ("*cache_*", "cross_key", "cross_value")
"""Inputs and outputs that only ever go from one engine call to another: they keep the engine's own type."""

_OPENERS = 2
"""Threads that open engines: reading a compiled model is mostly one thread's work."""


class Components:
    """Opens the components of ``bundle`` on ``engine``; ``get`` waits for one of them.

    The time embedder always runs in float32: its input reaches 1000, which bf16 rounds to multiples of 4.
    """

    def __init__(self, bundle: Bundle, engine: str, precision: str, cache_dir: Path | None) -> None:
        self.seconds_waited = 0.0
        self._closed = False
        self._pool = ThreadPoolExecutor(_OPENERS, thread_name_prefix="anyflow-open")
        self._futures: dict[str, Future[Engine]] = {
            name: self._pool.submit(
                registry.open_engine,
                engine,
                bundle.component_path(name),
                precision="fp32" if name == "time_embedder" else precision,
                cache_dir=cache_dir,
                compute_type=COMPUTE_TYPE_PORTS,
            )
            for name in RUN_ORDER
        }

    def get(self, name: str) -> Engine:
        """The open engine of one component. Raises what opening it raised, UsageError after ``close``."""
        self.check_open()
        start = time.perf_counter()
        engine = self._futures[name].result()
        self.seconds_waited += time.perf_counter() - start
        return engine

    def check_open(self) -> None:
        """Raise UsageError after ``close``."""
        if self._closed:
            raise UsageError("this runtime is closed; open the bundle again with anyflow_rt.load")

    def wait(self) -> None:
        """Wait until all are open."""
        for name in RUN_ORDER:
            self.get(name)

    def close(self) -> None:
        """Release every engine; those not yet open are not opened. A second call does nothing."""
        self._closed = True
        for future in self._futures.values():
            future.cancel()
        self._pool.shutdown(wait=True)
        for future in self._futures.values():
            if not future.cancelled() and future.exception() is None:
                future.result().close()
