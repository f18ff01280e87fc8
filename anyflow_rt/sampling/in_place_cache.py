"""Keys and values of finished chunks on an engine that reads and writes them where they are, in one piece of memory.

A chunk's place is behind all that it attends to. The chunk that becomes compressed takes less room than it had, and all
after it are computed again anyway (``ChunkLayout.to_write``): each is written to its new place, over what was there, in
its order. Nothing is moved, put together or allocated while a video is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines.chunks import ChunkLayout
from anyflow_rt.sampling.chunk_cache import PORTS
from anyflow_rt.sampling.executor import Sampling, modulation
from anyflow_rt.sampling.schedule import Jump

if TYPE_CHECKING:
    from anyflow_rt.engines.triton import TritonEngine


class InPlaceCache:
    """As ``chunk_cache.ChunkCache``, whose contract it has, on a ``denoiser`` whose caches are its own."""

    def __init__(
        self,
        components: Components,
        sampling: Sampling,
        layout: ChunkLayout,
        denoiser: TritonEngine,
        videos: int,
        *,
        incremental: bool = True,
    ) -> None:
        self._components, self._sampling, self._layout = components, sampling, layout
        self._incremental = incremental
        config = sampling.architecture.transformer
        shape = config.num_layers, videos, config.num_attention_heads, layout.most_seen, config.attention_head_dim
        self._caches = denoiser.new_caches(len(sampling.conditionings), shape)
        self.finished = 0

    def finish(self, latents: np.ndarray) -> None:
        """The next chunk is finished. latents (N, F, C, h, w): of the video as far as it is finished, or beyond."""
        self.finished += 1
        for index in self._layout.to_write(self.finished, incremental=self._incremental):
            self._write(index, latents, far=index < self._layout.compressed(self.finished))

    def inputs(self) -> list[dict[str, Any]]:
        """What the denoiser takes for the next chunk, of each conditioning: all of the cache, and what of it counts."""
        counts = self._counts(self._layout.seen(self.finished), self._layout.padding(self.finished))
        return [dict(zip(PORTS, cache, strict=True)) | counts for cache in self._caches]

    def _write(self, index: int, latents: np.ndarray, *, far: bool) -> None:
        start, stop = self._layout.bounds(index)
        chunk = np.ascontiguousarray(latents[:, start:stop])
        rope_cos, rope_sin = self._layout.rope(index, far=far)
        clean = modulation(self._components, self._sampling, Jump(0.0, 0.0), chunk.shape[:2])
        shared = {
            "tokens": self._components.get("far_tokens" if far else "full_tokens").infer(latents=chunk)["tokens"],
            "modulation": clean["modulation"],
            "rope_cos": rope_cos,
            "rope_sin": rope_sin,
            **self._counts(self._layout.seen(index, self.finished), 0),
        }
        writer = self._components.get("cache_writer")
        for conditioning, cache in zip(self._sampling.conditionings, self._caches, strict=True):
            writer.infer(**shared, **vars(conditioning), **dict(zip(PORTS, cache, strict=True)))

    @staticmethod
    def _counts(tokens: int, zero_keys: int) -> dict[str, np.ndarray]:
        return {"cache_counts": np.array([tokens, zero_keys], np.int32)}
