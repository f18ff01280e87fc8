"""Keys and values of finished chunks on an engine that reads and writes them where they are, in one piece of memory.

A chunk's place is behind all that it attends to. The chunk that becomes compressed takes less room than it had, and all
after it are computed again anyway (``ChunkLayout.to_write``): each is written to its new place, over what was there, in
its order. Of the cache nothing is moved, put together or allocated while a video is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines.chunks import ChunkLayout
from anyflow_rt.sampling.chunk_memory import PORTS, ChunkMemory
from anyflow_rt.sampling.executor import Sampling


class InPlaceCache(ChunkMemory):
    """caches: key and value (layers, N, heads, capacity, d) of each conditioning, as the denoiser's ``new_caches`` gave
    them, of room for ``layout.most_seen`` tokens."""

    def __init__(
        self,
        components: Components,
        sampling: Sampling,
        layout: ChunkLayout,
        caches: Sequence[tuple[Any, Any]],
        *,
        incremental: bool = True,
    ) -> None:
        super().__init__(components, sampling, layout, incremental=incremental)
        self._caches = [dict(zip(PORTS, cache, strict=True)) for cache in caches]

    def inputs(self) -> list[dict[str, Any]]:
        """All of the cache, and how much of it counts: see ``ChunkMemory``."""
        counts = _counts(self._layout.seen(self.finished), self._layout.padding(self.finished))
        return [cache | counts for cache in self._caches]

    def _write(self, index: int, shared: dict[str, Any], *, far: bool) -> None:
        shared |= _counts(self._layout.seen(index, self.finished), 0)
        writer = self._components.get("cache_writer")
        for conditioning, cache in zip(self._sampling.conditionings, self._caches, strict=True):
            writer.infer(**shared, **vars(conditioning), **cache)


def _counts(tokens: int, zero_keys: int) -> dict[str, np.ndarray]:
    return {"cache_counts": np.array([tokens, zero_keys], np.int32)}
