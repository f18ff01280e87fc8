"""Queries and keys equal their reference; rotation changes directions, not lengths."""

from __future__ import annotations

import pytest
import torch
from support.kernels import DEVICE, Memory, assert_close, tensors
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.qk_norm_rope.reference import norm_rope_reference
from anyflow_rt.kernels.qk_norm_rope.triton import PAIRS, qk_norm_rope, qk_norm_rope_into, query_norm

CASES = [
    ((1, 1, 1, 2), torch.float32),
    ((2, 5, 3, 16), torch.float32),
    ((1, 4, 5, 32), torch.bfloat16),
    ((2, 3, 2, 20), torch.float16),
]
"""(B, L, heads, d), dtype."""

EPS = 1e-6


def inputs(memory: Memory, shape: tuple[int, int, int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    batch, length, heads, head_dim = shape
    width = heads * head_dim
    angles = tensors(length, head_dim // 2, seed=3, scale=3)
    return {
        "packed": memory.tensor(tensors(batch, length, 3 * width, dtype=dtype)),
        "query_gain": memory.tensor(1 + 0.3 * tensors(width, seed=1)),
        "key_gain": memory.tensor(1 + 0.3 * tensors(width, seed=2)),
        "rope_cos": memory.tensor(angles.cos()),
        "rope_sin": memory.tensor(angles.sin()),
    }


@pytest.mark.parametrize(("shape", "dtype"), CASES)
@pytest.mark.parametrize("pairs", PAIRS)
def test_equals_the_reference(memory: Memory, shape: tuple[int, int, int, int], dtype: torch.dtype, pairs: str) -> None:
    given = inputs(memory, shape, dtype)
    query, key, value = qk_norm_rope(**given, heads=shape[2], pairs=pairs, eps=EPS)
    packed = given["packed"].chunk(3, dim=-1)
    rope = given["rope_cos"], given["rope_sin"]
    for found, source, gain in ((query, packed[0], "query_gain"), (key, packed[1], "key_gain")):
        assert found.dtype == dtype and found.is_contiguous()
        assert_close(found, norm_rope_reference(source, given[gain], shape[2], EPS, rope, pairs), scale=2)
    assert torch.equal(value, packed[2].unflatten(-1, (shape[2], -1)).transpose(1, 2))
    assert value.data_ptr() == packed[2].data_ptr(), "the value is not copied"


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_the_query_of_cross_attention(memory: Memory, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    batch, length, heads, head_dim = shape
    x = memory.tensor(tensors(batch, length, heads * head_dim, dtype=dtype))
    gain = memory.tensor(tensors(heads * head_dim, seed=1))
    query = query_norm(x, gain, heads=heads, eps=EPS)
    assert_close(query, norm_rope_reference(x, gain, heads, EPS, None, "halves"), scale=4)


@pytest.mark.parametrize("pairs", PAIRS)
def test_rotation_preserves_norms_and_relative_angles(memory: Memory, pairs: str) -> None:
    """|q| is that of no rotation, and q . k of two tokens depends on the difference of their angles alone."""
    shape = (1, 4, 2, 16)
    given = inputs(memory, shape, torch.float32)
    turned, _, _ = qk_norm_rope(**given, heads=2, pairs=pairs)
    plain = query_norm(given["packed"].chunk(3, -1)[0].contiguous(), given["query_gain"], heads=2)
    assert_close(turned.norm(dim=-1), plain.norm(dim=-1))

    same = inputs(memory, shape, torch.float32)
    same["packed"].copy_(same["packed"][:, :1].expand(-1, 4, -1))
    angles = torch.arange(4.0, device=DEVICE)[:, None] * torch.linspace(0.1, 1, 8, device=DEVICE)
    same["rope_cos"].copy_(angles.cos())
    same["rope_sin"].copy_(angles.sin())
    query, key, _ = qk_norm_rope(**same, heads=2, pairs=pairs)
    products = (query @ key.mT)[0, 0]
    for offset in (-1, 0, 1, 2):
        assert_close(products.diagonal(offset), products.diagonal(offset)[:1].expand(4 - abs(offset)), scale=10)


def test_both_orders_of_pairs_are_one_permutation(memory: Memory) -> None:
    """Weights permuted as the exported graphs permute them give the same products q . k."""
    given = inputs(memory, (1, 3, 2, 8), torch.float32)
    within = torch.cat([torch.arange(0, 8, 2), torch.arange(1, 8, 2)])
    order = (8 * torch.arange(2)[:, None] + within).flatten().to(DEVICE)
    moved = dict(given)
    packed = given["packed"].clone()
    for part in (0, 1):
        packed[..., 16 * part : 16 * part + 16] = given["packed"][..., 16 * part + order]
    moved |= {"packed": packed, "query_gain": given["query_gain"][order], "key_gain": given["key_gain"][order]}
    query, key, _ = qk_norm_rope(**given, heads=2, pairs="interleaved")
    query_2, key_2, _ = qk_norm_rope(**moved, heads=2, pairs="halves")
    assert_close(query @ key.mT, query_2 @ key_2.mT, scale=10)


@pytest.mark.parametrize("shape", [(0, 3, 2, 8), (2, 0, 2, 8)])
def test_empty(memory: Memory, shape: tuple[int, int, int, int]) -> None:
    query, key, value = qk_norm_rope(**inputs(memory, shape, torch.bfloat16), heads=2, pairs="halves")
    assert query.shape == key.shape == value.shape == (shape[0], 2, shape[1], 8)


def refusals() -> dict[str, tuple[dict[str, object], str]]:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, device=DEVICE)

    good: dict[str, object] = {
        "packed": zeros(2, 4, 48),
        "query_gain": zeros(16),
        "key_gain": zeros(16),
        "rope_cos": zeros(4, 4),
        "rope_sin": zeros(4, 4),
        "heads": 2,
        "pairs": "halves",
    }
    return {
        "pairs": (good | {"pairs": "quarters"}, "pairs is 'quarters'; accepted: 'interleaved', 'halves'"),
        "dtype": (good | {"packed": zeros(2, 4, 48).int()}, "packed is int32; accepted: float32, bfloat16, float16"),
        "heads": (good | {"heads": 3}, r"packed has 48 features, heads is 3; accepted: 3 \* heads \* d"),
        "no heads": (good | {"heads": 0}, "heads is 0; accepted: whole numbers from 1 to 8192"),
        "text": (good | {"heads": "2"}, "heads is '2'; accepted: whole numbers from 1 to 8192"),
        "eps": (good | {"eps": float("inf")}, "eps is inf; accepted: a finite number of at least 0"),
        "width": (good | {"packed": zeros(1, 1, 3 * 8194)}, "packed has width 8194 .*; accepted: 1 to 8192"),
        "no gain": (good | {"key_gain": None}, "key_gain is a NoneType; a torch.Tensor is needed"),
        "odd": (good | {"heads": 16}, "the head size is 1, .*; accepted: even ones"),
        "gain": (good | {"key_gain": zeros(8)}, r"key_gain has shape \(8,\); accepted: \(16\)"),
        "gain dtype": (good | {"query_gain": zeros(16).half()}, "query_gain is float16; accepted: float32"),
        "angles": (good | {"rope_sin": zeros(3, 4)}, r"rope_sin has shape \(3, 4\); accepted: \(4, 4\)"),
        "no angles": (good | {"rope_cos": None}, "rope_cos is None; key_gain and both tables go together"),
        "strides": (good | {"packed": zeros(2, 48, 4).mT}, r"packed has strides .*: pass packed.contiguous\(\)"),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusals(name: str) -> None:
    arguments, message = refusals()[name]
    with pytest.raises(EngineError, match=message):
        qk_norm_rope(**arguments)


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_keys_go_into_a_cache(memory: Memory, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Behind what is there, which stays, as all before and after them."""
    batch, length, heads, head_dim = shape
    given = inputs(memory, shape, dtype)
    query, key, _ = qk_norm_rope(**given, heads=heads, pairs="halves", eps=EPS)
    cache = memory.tensor(tensors(batch, heads, length + 7, head_dim, dtype=dtype, seed=9))
    before = cache.clone()
    found = qk_norm_rope_into(**given, keys=cache, start=4, heads=heads, pairs="halves", eps=EPS)
    assert torch.equal(found, query) and torch.equal(cache[:, :, 4 : 4 + length], key)
    before[:, :, 4 : 4 + length] = key
    assert torch.equal(cache, before)


def test_a_cache_without_room(memory: Memory) -> None:
    given = inputs(memory, (1, 4, 2, 16), torch.float32)
    for keys, start, message in (
        (torch.zeros(1, 2, 8, 16), 5, "start is 5; accepted: whole numbers from 0 to 4"),
        (torch.zeros(1, 3, 8, 16), 0, r"keys has shape \(1, 3, 8, 16\); accepted: \(1, 2, capacity, 16\)"),
        (torch.zeros(1, 2, 8, 16).half(), 0, "keys is float16; accepted: float32"),
    ):
        with pytest.raises(EngineError, match=message):
            qk_norm_rope_into(**given, keys=keys.to(DEVICE), start=start, heads=2, pairs="halves")
