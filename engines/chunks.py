"""Chunks of a causal (FAR) video: how its frames are parted, and what a chunk sees of those before it. Without torch.

While chunk k is in work, the ``full_chunk_limit - 1`` chunks before it are seen at full resolution and all earlier
ones compressed. Every chunk attends to all that is before it, so a compressed chunk's keys and values depend on
compressed chunks alone: once computed they stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anyflow_rt.engines.architecture import Architecture, CausalConfig
from anyflow_rt.engines.geometry import LatentSize, rope_tables, token_grid
from anyflow_rt.errors import UsageError

ATTENTION_BLOCK = 128
"""The reference pads a chunk's queries to whole blocks of as many, and its keys by as many zeros, which every query
then attends to: keys of logit 0 and value 0. Checkpoints were distilled and measured with them, so they belong to the
model."""


def partition(causal: CausalConfig, frames: int, context: int = 0) -> tuple[int, ...]:
    """Latent frames of each chunk of a video of ``frames``, the first ``context`` of which are given.

    The checkpoint's own partition where it fits. Else by its rule: the first chunk is as long as the checkpoint's
    first, all others as its longest, the last takes what is left. A context always ends with a chunk, since the
    reference leaves what is left of a chunk in which it ends at zero.
    """
    whole = causal.chunk_partition if frames == sum(causal.chunk_partition) else _parts(causal, frames)
    if context in np.cumsum((0, *whole)):
        return whole
    return (*_parts(causal, context), *_even(frames - context, _longest(causal)))


def _longest(causal: CausalConfig) -> int:
    return max(causal.chunk_partition[1:] or causal.chunk_partition)


def _parts(causal: CausalConfig, frames: int) -> tuple[int, ...]:
    first = min(causal.chunk_partition[0], frames)
    return (first, *_even(frames - first, _longest(causal)))


def _even(frames: int, each: int) -> tuple[int, ...]:
    rest = frames % each
    return (each,) * (frames // each) + ((rest,) if rest else ())


@dataclass(frozen=True)
class ChunkLayout:
    """The chunks of one video on its token grids.

    partition: latent frames of each chunk. context: latent frames that are given; they fill the first chunks.
    """

    architecture: Architecture
    latent: LatentSize
    partition: tuple[int, ...]
    context: int = 0

    @property
    def causal(self) -> CausalConfig:
        assert self.architecture.causal is not None
        return self.architecture.causal

    @property
    def context_chunks(self) -> int:
        """Chunks that are given."""
        return next(index for index in range(len(self) + 1) if self.bounds(index)[0] >= self.context)

    def __len__(self) -> int:
        return len(self.partition)

    def bounds(self, index: int) -> tuple[int, int]:
        """First latent frame of a chunk, and the one after its last."""
        start = sum(self.partition[:index])
        return start, start + sum(self.partition[index : index + 1])

    def compressed(self, finished: int) -> int:
        """How many of the first ``finished`` chunks the one after them sees compressed."""
        return max(0, finished - (self.causal.full_chunk_limit - 1))

    @property
    def longest(self) -> int:
        """The last of the longest chunks."""
        return max(range(len(self)), key=lambda index: (self.partition[index], index))

    def frames(self, index: int) -> int:
        """Frames of video that a chunk decodes to: four a latent frame, but one of the first."""
        factor = self.architecture.vae.temporal_factor
        return factor * self.partition[index] - (factor - 1 if index == 0 else 0)

    def to_write(self, finished: int, *, incremental: bool = True) -> range:
        """The chunks whose keys and values are computed when the first ``finished`` chunks are finished.

        All where not incremental. Else the one that becomes compressed and those at full resolution, which see it
        differently now; where none does, the newest.
        """
        compressed = self.compressed(finished)
        start = compressed - 1 if compressed > self.compressed(finished - 1) else finished - 1
        return range(start if incremental else 0, finished)

    def tokens(self, index: int, *, far: bool) -> int:
        """Of one chunk, at full resolution or compressed."""
        _, height, width = self._far_grid if far else self._grid
        return self.partition[index] * height * width

    def padding(self, index: int) -> int:
        """Zero keys that the queries of a chunk attend to beside all others: see ``ATTENTION_BLOCK``."""
        return -self.tokens(index, far=False) % ATTENTION_BLOCK

    def seen(self, index: int, finished: int | None = None) -> int:
        """Cached tokens that chunk ``index`` attends to, without the zero keys; finished: once so many chunks are, some
        of them after it perhaps, when its own keys and values are computed again."""
        compressed = self.compressed(index if finished is None else finished)
        return sum(self.tokens(chunk, far=chunk < compressed) for chunk in range(index))

    @property
    def most_seen(self) -> int:
        """Cached tokens of the chunk that attends to the most."""
        return max(self.seen(index) for index in range(len(self)))

    def cache_shape(self, videos: int, tokens: int) -> tuple[int, int, int, int, int]:
        """(layers, B, heads, tokens, d): of the keys of as many tokens, and of their values."""
        config = self.architecture.transformer
        return config.num_layers, videos, config.num_attention_heads, tokens, config.attention_head_dim

    def rope(self, index: int, *, far: bool) -> tuple[np.ndarray, np.ndarray]:
        """cos and sin (L, d / 2) of the places of a chunk's tokens."""
        grid = self._far_grid if far else self._grid
        pool = self._pool if far else 1
        start, stop = (frame * grid[1] * grid[2] for frame in self.bounds(index))
        cos, sin = rope_tables(self.architecture.transformer, grid, pool)
        return cos[start:stop], sin[start:stop]

    @property
    def _grid(self) -> tuple[int, int, int]:
        return token_grid(self.architecture.transformer, self.latent)

    @property
    def _far_grid(self) -> tuple[int, int, int]:
        patch = self.causal.compressed_patch_size
        return self.latent.frames, self.latent.height // patch[1], self.latent.width // patch[2]

    @property
    def _pool(self) -> int:
        return self.causal.compressed_patch_size[1] // self.architecture.transformer.patch_size[1]


def make_layout(architecture: Architecture, latent: LatentSize, context: int = 0) -> ChunkLayout:
    """The chunks of a video. Raises UsageError where one that is further back would have no compressed token."""
    assert architecture.causal is not None
    layout = ChunkLayout(architecture, latent, partition(architecture.causal, latent.frames, context), context)
    patch, pixels = architecture.causal.compressed_patch_size[1], architecture.vae.scale_factor_spatial
    for name in ("height", "width"):
        size = getattr(latent, name)
        if layout.compressed(len(layout) - 1) and size < patch:
            raise UsageError(
                f"{name} {size * pixels} is less than one compressed patch of this causal checkpoint, "
                f"{patch * pixels} pixels; make a larger or a shorter video"
            )
    return layout


def flops(layout: ChunkLayout, index: int, *, far: bool = False, seen: int | None = None) -> float:
    """Floating-point operations of one pass of a chunk through the blocks; a jump's, or of the cache writer, for which
    ``seen`` says how many tokens it attends to beside its own. Cross-attention to the prompt is left out: it is
    small."""
    config = layout.architecture.transformer
    tokens, width = layout.tokens(index, far=far), config.inner_dim
    past = layout.seen(index) + layout.padding(index) if seen is None else seen
    linear = 2 * tokens * (6 * width * width + 2 * width * config.ffn_dim)
    return float(config.num_layers * (linear + 4 * tokens * (past + tokens) * width))


def cache_flops(layout: ChunkLayout, *, incremental: bool = True) -> list[float]:
    """Of what is written after each chunk but the last."""
    found = []
    for finished in range(1, len(layout)):
        compressed, total, seen = layout.compressed(finished), 0.0, 0
        for index in range(finished):
            far = index < compressed
            if index in layout.to_write(finished, incremental=incremental):
                total += flops(layout, index, far=far, seen=seen)
            seen += layout.tokens(index, far=far)
        found.append(total)
    return found
