"""Keys and values of finished chunks, for those that come after: written incrementally, kept in bounded memory.

After every chunk the reference computes the keys and values of all chunks anew. Most of them cannot have changed
(``engines.chunks`` says why): here the chunk that becomes compressed is computed, once for all, and those that are at
full resolution, which see it differently now; before anything is compressed, the newest chunk alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.conditioning import Conditioning
from anyflow_rt.engines.chunks import ChunkLayout
from anyflow_rt.sampling.executor import Sampling, modulation
from anyflow_rt.sampling.schedule import Jump

PORTS = ("cache_key", "cache_value")


@dataclass
class _Prompt:
    """The cache under one prompt's conditioning: (key, value) of each chunk, the compressed first."""

    conditioning: Conditioning
    parts: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    buffers: list[np.ndarray] = field(default_factory=list)


class ChunkCache:
    """Of one run: ``finish`` every chunk but the last in its order, and jump the next with ``inputs``.

    incremental: False computes everything anew after each chunk, as the reference does; the result is the same.
    """

    def __init__(
        self, components: Components, sampling: Sampling, layout: ChunkLayout, *, incremental: bool = True
    ) -> None:
        self._components, self._sampling, self._layout = components, sampling, layout
        self._incremental = incremental
        self._prompts = [_Prompt(each) for each in sampling.conditionings]
        self.finished = 0

    def finish(self, latents: np.ndarray) -> None:
        """The next chunk is finished. latents (N, F, C, h, w): of the video as far as it is finished, or beyond."""
        self.finished += 1
        chunks = self._layout.to_write(self.finished, incremental=self._incremental)
        for prompt in self._prompts:
            del prompt.parts[chunks.start :]
        for index in chunks:
            self._write(index, latents, far=index < self._layout.compressed(self.finished))

    def inputs(self) -> list[dict[str, np.ndarray]]:
        """What the denoiser takes for the next chunk, of each conditioning: keys and values (layers, N, heads, M, d),
        the reference's zero keys among them. Valid until ``finish`` is called again."""
        return [self._assembled(prompt, self._layout.padding(self.finished)) for prompt in self._prompts]

    def _write(self, index: int, latents: np.ndarray, *, far: bool) -> None:
        start, stop = self._layout.bounds(index)
        chunk = np.ascontiguousarray(latents[:, start:stop])
        tokens = self._components.get("far_tokens" if far else "full_tokens").infer(latents=chunk)["tokens"]
        clean = modulation(self._components, self._sampling, Jump(0.0, 0.0), chunk.shape[:2])["modulation"]
        rope_cos, rope_sin = self._layout.rope(index, far=far)
        shared = {"tokens": tokens, "modulation": clean, "rope_cos": rope_cos, "rope_sin": rope_sin}
        writer = self._components.get("cache_writer")
        for prompt in self._prompts:
            out = writer.infer(**shared, **vars(prompt.conditioning), **self._assembled(prompt, 0))
            prompt.parts.append((out["next_cache_key"], out["next_cache_value"]))

    def _assembled(self, prompt: _Prompt, padding: int) -> dict[str, np.ndarray]:
        """All parts in one piece, and ``padding`` zero tokens behind them."""
        tokens = sum(key.shape[3] for key, _ in prompt.parts) + padding
        shape = self._shape(tokens)
        if not prompt.buffers:
            dtype = self._components.get("denoiser").inputs[PORTS[0]].dtype
            prompt.buffers = [np.zeros(int(np.prod(self._shape(self._capacity()))), dtype) for _ in PORTS]
        found: dict[str, Any] = {}
        for port, buffer, parts in zip(PORTS, prompt.buffers, _columns(prompt.parts), strict=True):
            whole = buffer[: int(np.prod(shape))].reshape(shape)
            start = 0
            for part in parts:
                whole[:, :, :, start : start + part.shape[3]] = part
                start += part.shape[3]
            whole[:, :, :, start:] = 0
            found[port] = whole
        return found

    def _shape(self, tokens: int) -> tuple[int, ...]:
        config = self._sampling.architecture.transformer
        videos = self._prompts[0].conditioning.context_bias.shape[0]
        return config.num_layers, videos, config.num_attention_heads, tokens, config.attention_head_dim

    def _capacity(self) -> int:
        """The most tokens that any pass attends to."""
        layout = self._layout
        return max(layout.seen(index) + layout.padding(index) for index in range(len(layout)))


def _columns(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [key for key, _ in parts], [value for _, value in parts]
