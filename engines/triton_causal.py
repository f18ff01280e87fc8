"""A causal (FAR) checkpoint's chunk over this package's kernels: attention to a cache, and what writes the cache.

The cache is one piece for all blocks (layers, B, heads, capacity, d), allocated once and used where it is. A chunk that
is denoised attends to its first tokens, to its own, and to the reference's zero keys (``engines.chunks``), which are a
count: in one launch, and nothing is put together for it. A chunk that is finished has its keys and values written
behind those it attends to, block after block, and attends to both there.

    kernel launches of a jump: as ``triton_modules`` has them
    of a pass of the writer:   7 N - 5; the first norm, the blocks, and of the last its queries and keys alone
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from anyflow_rt.engines.export.transformer import SelfAttention
from anyflow_rt.engines.triton_modules import Rope, TritonBlock, TritonDenoiser, aligned, queries_keys_values
from anyflow_rt.kernels.library import OPERATORS
from anyflow_rt.kernels.qk_norm_rope.triton import packed_value, qk_norm_rope_into


@dataclass(frozen=True)
class Cached:
    """Attention of a chunk in work: key, value (B, heads, capacity, d) and counts (2,) as of ``attention.checks.Past``,
    then its own."""

    key: Tensor
    value: Tensor
    counts: Tensor

    def __call__(self, layer: SelfAttention, packed: Tensor, rope: Rope) -> Tensor:
        own = queries_keys_values(layer, packed, rope)
        attended: Tensor = OPERATORS["cached_attention"](*own, self.key, self.value, self.counts)
        return attended


@dataclass(frozen=True)
class Written:
    """Attention of a finished chunk: its keys and values go into ``key`` and ``value`` (B, heads, capacity, d) from
    token ``start`` on, and it attends to all that is there then."""

    key: Tensor
    value: Tensor
    start: int

    def __call__(self, layer: SelfAttention, packed: Tensor, rope: Rope) -> Tensor:
        query, end = self.write(layer, packed, rope), self.start + packed.shape[1]
        attended: Tensor = OPERATORS["attention"](query, self.key[:, :, :end], self.value[:, :, :end])
        return attended

    def write(self, layer: SelfAttention, packed: Tensor, rope: Rope) -> Tensor:
        """Keys and values of a packed projection (B, L, 3 D), into their place; the query."""
        gains = layer.query_gain, layer.key_gain
        query = qk_norm_rope_into(
            packed, *gains, *rope, self.key, self.start, heads=layer.heads, pairs="halves", eps=layer.eps
        )
        self.value[:, :, self.start : self.start + packed.shape[1]].copy_(packed_value(packed, layer.heads))
        return query


class TritonCausalDenoiser(nn.Module):
    """One jump of one chunk, as ``transformer_causal.CausalDenoiser``, over a cache that may be fuller or emptier."""

    def __init__(self, denoiser: TritonDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, cache_key: Tensor, cache_value: Tensor, cache_counts: Tensor, **inputs: Tensor) -> Tensor:
        """cache_key, cache_value (layers, B, heads, capacity, d) in the compute type; cache_counts (2,) int32: tokens
        in the cache, zero keys. inputs: ``TritonDenoiser``'s. z_r of the chunk."""
        caches = zip(cache_key, cache_value, strict=True)
        return self.denoiser(**inputs, own=[Cached(key, value, cache_counts) for key, value in caches])


class TritonCacheWriter(nn.Module):
    """A finished chunk into the cache, as ``transformer_causal.CacheWriter`` has its keys and values; over the blocks
    of the denoiser, which are the same."""

    def __init__(self, denoiser: TritonDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        tokens: Tensor,
        modulation: Tensor,
        cross_key: Tensor,
        cross_value: Tensor,
        context_bias: Tensor,
        rope_cos: Tensor,
        rope_sin: Tensor,
        cache_key: Tensor,
        cache_value: Tensor,
        start: int,
    ) -> None:
        """tokens (B, F, N, D). Writes tokens ``start`` to ``start + F N`` of cache_key and cache_value (layers, B,
        heads, capacity, d), which are in the compute type, and reads those before them."""
        blocks = [_typed(block) for block in self.denoiser.blocks]
        rope = rope_cos, rope_sin
        x = tokens.to(self.denoiser.dtype)
        y = OPERATORS["adaptive_norm"](x, modulation, blocks[0].scale_shift_table, 0, 1, eps=self.denoiser.eps)
        for index, block in enumerate(blocks):
            written = Written(cache_key[index], cache_value[index], start)
            if index == len(blocks) - 1:
                # Of the last block nothing but its keys and values is used.
                written.write(block.own, block.own.qkv(y.flatten(1, 2)), rope)
                return
            cross = (aligned(cross_key[index]), aligned(cross_value[index]), context_bias)
            next_norm = modulation, blocks[index + 1].scale_shift_table
            x, y = block(x, y, modulation, next_norm, cross, rope, written)


def _typed(block: nn.Module) -> TritonBlock:
    """Each of them counts: a block's caches are found by its index."""
    assert isinstance(block, TritonBlock)
    return block
