"""Which queries a program takes and how far it reads keys, where attention is causal from chunk to chunk.

Queries of a chunk see the prefix, every earlier chunk and their own, whole. So a block of queries that does not
straddle two chunks has one last key, and attention over it is a loop with another bound: nothing is masked away.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def chunk_blocks(chunks: Sequence[int], prefix: int, block: int) -> list[tuple[int, int, int]]:
    """(first query, end of queries, end of keys) of every block, those with the most keys first.

    ``chunks``: queries of each chunk, in order; the keys are ``prefix`` cached ones, then one for every query.
    """
    blocks, start = [], 0
    for chunk in chunks:
        end = start + chunk
        blocks += [(first, min(first + block, end), prefix + end) for first in range(start, end, block)]
        start = end
    return sorted(blocks, key=lambda bounds: -bounds[2])


@functools.cache
def block_table(chunks: tuple[int, ...], prefix: int, block: int, device: torch.device) -> Tensor:
    """``chunk_blocks`` as (blocks, 3) int32 on ``device``.

    Kept, as a video's chunks repeat from jump to jump, and never let go: a CUDA graph that was captured reads the
    address it had then, for as long as it is replayed. A table is some hundred bytes.
    """
    blocks = chunk_blocks(chunks, prefix, block)
    return torch.tensor(blocks, dtype=torch.int32).reshape(-1, 3).to(device)
