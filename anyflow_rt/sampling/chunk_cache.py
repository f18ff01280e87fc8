"""Keys and values of finished chunks, for those that come after: written incrementally, kept in bounded memory.

After every chunk the reference computes the keys and values of all chunks anew. Most of them cannot have changed
(``engines.chunks`` says why): here the chunk that becomes compressed is computed, once for all, and those that are at
full resolution, which see it differently now; before anything is compressed, the newest chunk alone.

The keys and values of compressed chunks are kept once, at the head of every row of the piece that the engines read.
Where an engine on a GPU leaves what it writes there, the piece is there too, and is read where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.conditioning import Conditioning
from anyflow_rt.engines.arrays import copied, zeros_beside
from anyflow_rt.engines.chunks import ChunkLayout
from anyflow_rt.sampling.chunk_memory import PORTS, ChunkMemory
from anyflow_rt.sampling.executor import Sampling


@dataclass
class _Part:
    """What was written of one chunk: (key, value), (layers, N, heads, L, d) each, numpy's or a GPU's."""

    arrays: tuple[Any, Any]
    far: bool

    @property
    def tokens(self) -> int:
        return self.arrays[0].shape[3]


@dataclass
class _Prompt:
    """The cache under one prompt's conditioning.

    buffers: a key's and a value's, flat, of room for the most that is attended to; laid out for ``laid`` tokens a row.
    kept: compressed chunks that are there alone, ``kept_tokens`` in the head of every row. parts: of those after them.
    """

    conditioning: Conditioning
    parts: list[_Part] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    laid: int = 0
    kept: int = 0
    kept_tokens: int = 0

    def forget(self, start: int) -> None:
        """Drop what is known of the chunks from ``start`` on."""
        if start < self.kept:
            self.kept = self.kept_tokens = start = 0
            self.parts.clear()
        del self.parts[start - self.kept :]

    def keep(self) -> None:
        """The compressed parts are in the buffers now, which are laid out: there they stay."""
        while self.parts and self.parts[0].far:
            self.kept += 1
            self.kept_tokens += self.parts.pop(0).tokens


class ChunkCache(ChunkMemory):
    """In arrays of ours, beside what the engine writes."""

    def __init__(
        self, components: Components, sampling: Sampling, layout: ChunkLayout, *, incremental: bool = True
    ) -> None:
        super().__init__(components, sampling, layout, incremental=incremental)
        self._prompts = [_Prompt(each) for each in sampling.conditionings]

    def inputs(self) -> list[dict[str, Any]]:
        """Keys and values (layers, N, heads, M, d), the zero keys among them: see ``ChunkMemory``."""
        return [self._assembled(prompt, self._layout.padding(self.finished)) for prompt in self._prompts]

    def _write(self, index: int, shared: dict[str, Any], *, far: bool) -> None:
        writer = self._components.get("cache_writer")
        for prompt in self._prompts:
            prompt.forget(index)
            out = writer.infer(**shared, **vars(prompt.conditioning), **self._assembled(prompt, 0))
            prompt.parts.append(_Part((out["next_cache_key"], out["next_cache_value"]), far))

    def _assembled(self, prompt: _Prompt, padding: int) -> dict[str, Any]:
        """All parts in one piece, and ``padding`` zero tokens behind them."""
        tokens = prompt.kept_tokens + sum(part.tokens for part in prompt.parts) + padding
        shape = self._shape(tokens)
        if not prompt.kept and not prompt.parts:
            nothing = np.zeros(shape, self._components.get("denoiser").inputs[PORTS[0]].dtype)
            nothing.flags.writeable = False  # a GPU's engine may keep what cannot change
            return dict.fromkeys(PORTS, nothing)
        if not prompt.buffers:
            size = int(np.prod(self._shape(self._capacity())))
            prompt.buffers = [zeros_beside(array, size) for array in prompt.parts[0].arrays]
        found: dict[str, Any] = {}
        for number, (port, buffer) in enumerate(zip(PORTS, prompt.buffers, strict=True)):
            _lay_out(buffer, shape, prompt.laid, prompt.kept_tokens)
            whole = buffer[: int(np.prod(shape))].reshape(shape)
            start = prompt.kept_tokens
            for part in prompt.parts:
                whole[:, :, :, start : start + part.tokens] = part.arrays[number]
                start += part.tokens
            whole[:, :, :, start:] = 0
            found[port] = whole
        prompt.laid = tokens
        prompt.keep()
        return found

    def _shape(self, tokens: int) -> tuple[int, ...]:
        return self._layout.cache_shape(self._sampling.videos, tokens)

    def _capacity(self) -> int:
        """The most tokens that any pass attends to."""
        layout = self._layout
        return max(layout.seen(index) + layout.padding(index) for index in range(len(layout)))


def _lay_out(buffer: Any, shape: tuple[int, ...], before: int, kept: int) -> None:
    """Move the first ``kept`` tokens of every row, from rows of ``before`` tokens to those of ``shape``.

    In place, a layer at a time: where rows move up the last goes first, else the first, so none is overwritten unread.
    """
    layers, after, width = shape[0], shape[3], shape[4]
    if before == after or not kept:
        return
    rows = shape[1] * shape[2]
    for layer in reversed(range(layers)) if after > before else range(layers):
        old, new = (
            buffer[layer * rows * tokens * width : (layer + 1) * rows * tokens * width].reshape(rows, tokens * width)
            for tokens in (before, after)
        )
        new[:, : kept * width] = copied(old[:, : kept * width])
