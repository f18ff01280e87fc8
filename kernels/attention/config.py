"""How attention is cut into programs: block sizes, warps and pipeline stages by target. Heuristics, until measured.

What ``anyflow-rt bench kernels --tune`` has measured on a GPU of a target is in ``measured.json`` and goes before them.

The reasons: a block of 128 queries reads each key for 128 rows, which makes the matrix units the limit, not memory;
eight warps hold its 128 x d sums in 64 registers a thread at d = 128; the block of keys is the largest that spills no
register, where instructions before sm_90 take keys and values from registers too; the stages fit the target's shared
memory (99 KB on sm_86, 89 and 120, 163 KB on sm_80, 227 KB on sm_90 and 100).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.launch import INTERPRETER, power_of_two
from anyflow_rt.kernels.machines import MACHINES

MINIMUM_DOT = 16
"""Matrix instructions take blocks of at least 16."""

MINIMUM_INT8_DOT = 32
"""Those of 8-bit integers add 32 products at a time."""


@dataclass(frozen=True)
class AttentionConfig:
    """``queries`` and ``keys`` of a block; ``warps`` of 32 threads; ``stages`` of keys under way."""

    queries: int
    keys: int
    warps: int
    stages: int


_SMALL_SHARED_MEMORY = {
    64: AttentionConfig(128, 64, 8, 3),
    128: AttentionConfig(128, 32, 8, 3),
    256: AttentionConfig(64, 32, 8, 1),
}

_LARGE_SHARED_MEMORY = {
    64: AttentionConfig(128, 64, 8, 3),
    128: AttentionConfig(128, 64, 8, 3),
    256: AttentionConfig(64, 64, 8, 2),
}

TABLE: dict[int, dict[int, AttentionConfig]] = {
    80: {**_SMALL_SHARED_MEMORY, 128: AttentionConfig(128, 64, 8, 2)},
    86: _SMALL_SHARED_MEMORY,
    89: _SMALL_SHARED_MEMORY,
    90: _LARGE_SHARED_MEMORY,
    100: _LARGE_SHARED_MEMORY,
    120: _SMALL_SHARED_MEMORY,
}
"""Target -> largest head size -> configuration, for 16-bit types."""

CACHED: dict[int, dict[int, AttentionConfig]] = {80: {128: _SMALL_SHARED_MEMORY[128]}}
"""Instead of a row of ``TABLE`` where keys come from a cache too: with twice the loops it would spill registers."""

SINGLE = AttentionConfig(32, 32, 8, 1)
"""For float32, which has no matrix instructions here: exact rather than fast. Four warps would spill."""


MEASURED = "measured.json"
"""Beside this file: ``sm_90`` -> largest head size -> configuration. Empty: no GPU has measured one."""


@functools.cache
def measured() -> dict[int, dict[int, AttentionConfig]]:
    """What ``MEASURED`` holds. Raises EngineError where it cannot be read."""
    path = Path(__file__).with_name(MEASURED)
    try:
        return read_measured(path)
    except (OSError, ValueError) as error:
        mend = f"remove it, write it again with  bench kernels --tune {path}"
        raise EngineError(f"{path} cannot be read ({error}); {mend}") from error


def read_measured(path: Path) -> dict[int, dict[int, AttentionConfig]]:
    """Target -> largest head size -> configuration, of a file such as ``MEASURED``. Raises OSError or ValueError."""
    try:
        return {
            int(target.removeprefix("sm_")): {int(size): AttentionConfig(**row) for size, row in rows.items()}
            for target, rows in json.loads(path.read_text(encoding="utf-8")).items()
        }
    except (TypeError, AttributeError) as error:
        raise ValueError(f"it holds no configurations by target and head size: {error}") from error


def candidates(target: int, head_dim: int) -> list[AttentionConfig]:
    """What is worth measuring for 16-bit heads: blocks for which matrix units, not memory, are the limit, as many
    stages as the target's shared memory has room for. Some spill; a measurement shows what that costs."""
    room = MACHINES[target].block_shared_bytes // (2 * power_of_two(head_dim))
    return [
        AttentionConfig(queries, keys, warps, stages)
        for queries, keys, warps, stages in itertools.product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3, 4))
        if queries + 2 * stages * keys <= room
    ]


def configuration(target: int, head_dim: int, element_bytes: int, *, cached: bool = False) -> AttentionConfig:
    """For heads of ``head_dim`` values of ``element_bytes``; cached: over a cache too. A target without a row takes the
    next older one's."""
    if target == INTERPRETER:
        return AttentionConfig(16, 16, 1, 1)
    if element_bytes == 4:
        return SINGLE
    older = max(known for known in TABLE if known <= max(target, min(TABLE)))
    row = TABLE[older] | measured().get(target, {}) | (CACHED.get(older, {}) if cached else {})
    return row[min(size for size in row if size >= head_dim)]


def split_head(head_dim: int, smallest: int = MINIMUM_DOT) -> tuple[int, int]:
    """Powers of two (main, tail), none below ``smallest``, that cover a head: 128 -> (128, 0), 80 -> (64, 16), 96 ->
    (64, 32).

    Blocks are powers of two. Two of them waste less than one where the head is well below the next power: the rest is
    padded with zeros, which change no product.
    """
    whole = max(smallest, power_of_two(head_dim))
    main = whole // 2
    tail = max(smallest, power_of_two(head_dim - main)) if head_dim > main >= smallest else 0
    return (main, tail) if tail and main + tail < whole else (whole, 0)


def stride_unit(*tensors: Tensor) -> int:
    """The most elements, up to 16 bytes of the smallest type, that divide every stride but those of the last axes.

    Kernels take strides divided by it and multiply them again, so that the compiler knows how far rows are aligned.
    """
    strides = (stride for tensor in tensors for stride in tensor.stride()[:-1])
    return math.gcd(16 // min(tensor.element_size() for tensor in tensors), *strides)
