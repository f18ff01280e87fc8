"""What every memory of finished chunks has in common: which are written after each, what a pass of the writer takes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.engines.chunks import ChunkLayout
from anyflow_rt.sampling.executor import Sampling, modulation
from anyflow_rt.sampling.schedule import Jump

PORTS = ("cache_key", "cache_value")


class ChunkMemory(ABC):
    """Of one run: ``finish`` every chunk but the last in its order, and jump the next with ``inputs``.

    incremental: False computes everything anew after each chunk, as the reference does; the result is the same.
    """

    def __init__(
        self, components: Components, sampling: Sampling, layout: ChunkLayout, *, incremental: bool = True
    ) -> None:
        self._components, self._sampling, self._layout = components, sampling, layout
        self._incremental = incremental
        self._modulations: dict[tuple[int, ...], np.ndarray] = {}
        self.finished = 0

    def finish(self, latents: np.ndarray) -> None:
        """The next chunk is finished. latents (N, F, C, h, w): of the video as far as it is finished, or beyond."""
        self.finished += 1
        for index in self._layout.to_write(self.finished, incremental=self._incremental):
            far = index < self._layout.compressed(self.finished)
            self._write(index, self._pass_inputs(index, latents, far=far), far=far)

    @abstractmethod
    def inputs(self) -> list[dict[str, Any]]:
        """What the denoiser takes for the next chunk, of each conditioning: keys and values of those before it, and the
        reference's zero keys. Valid until ``finish`` is called again."""

    @abstractmethod
    def _write(self, index: int, shared: dict[str, Any], *, far: bool) -> None:
        """Compute a chunk's keys and values, and drop those of all from it on. shared: inputs of the writer, beside
        those of each conditioning and its cache."""

    def _pass_inputs(self, index: int, latents: np.ndarray, *, far: bool) -> dict[str, Any]:
        start, stop = self._layout.bounds(index)
        chunk = np.ascontiguousarray(latents[:, start:stop])
        tokens = self._components.get("far_tokens" if far else "full_tokens").infer(latents=chunk)["tokens"]
        rope_cos, rope_sin = self._layout.rope(index, far=far)
        clean = self._clean(chunk.shape[:2])
        return {"tokens": tokens, "modulation": clean, "rope_cos": rope_cos, "rope_sin": rope_sin}

    def _clean(self, batch_frames: tuple[int, ...]) -> np.ndarray:
        """The modulation at t = r = 0, (N, f, 6, D): the same after every chunk of f frames."""
        found = self._modulations.get(batch_frames)
        if found is None:
            found = modulation(self._components, self._sampling, Jump(0.0, 0.0), batch_frames)["modulation"]
            self._modulations[batch_frames] = found
        return found
