"""8-bit scores: how queries and keys are rounded, and how far attention with them is from its float32 reference."""

from __future__ import annotations

import pytest
import torch
from support.kernels import DEVICE, INT8_ERROR, Memory, tensors
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.attention.int8 import ERROR, attention_int8
from anyflow_rt.kernels.attention.quantise import plan_quantise
from anyflow_rt.kernels.attention.reference import attention_reference

CASES = [
    ((2, 2, 17, 33, 32), torch.float32),
    ((1, 2, 40, 70, 64), torch.bfloat16),
    ((1, 1, 5, 40, 80), torch.float16),
    ((1, 1, 3, 20, 144), torch.float32),
    ((1, 1, 18, 18, 128), torch.bfloat16),
    ((1, 1, 3, 9, 36), torch.float16),
]
"""(B, heads, Lq, Lk, d), dtype."""


def inputs(memory: Memory, shape: tuple[int, ...], dtype: torch.dtype, common: float = 0.0) -> list[Tensor]:
    """``common``: how large features are that all keys of a head share."""
    batch, heads, query_length, key_length, head_dim = shape
    lengths = (query_length, key_length, key_length)
    query, key, value = (
        tensors(batch, heads, length, head_dim, dtype=dtype, seed=number) for number, length in enumerate(lengths)
    )
    key = (key + common * tensors(batch, heads, 1, head_dim, seed=7)).to(dtype)
    return [memory.tensor(x) for x in (query, key, value)]


def relative_error(found: Tensor, expected: Tensor) -> float:
    difference = found.float() - expected
    return float(difference.square().mean().sqrt() / expected.square().mean().sqrt())


@pytest.mark.parametrize(("shape", "dtype"), CASES)
@pytest.mark.parametrize("common", [0.0, 4.0])
def test_equals_the_reference_within_its_stated_error(
    memory: Memory, shape: tuple[int, ...], dtype: torch.dtype, common: float
) -> None:
    query, key, value = inputs(memory, shape, dtype, common)
    output = attention_int8(query, key, value)
    assert output.dtype == dtype and ERROR == INT8_ERROR
    assert relative_error(output, attention_reference(query, key, value)) <= INT8_ERROR


def test_with_a_bias_and_from_chunk_to_chunk(memory: Memory) -> None:
    query, key, value = inputs(memory, (1, 2, 21, 30, 32), torch.float32)
    bias = memory.tensor(tensors(1, 30, seed=9))
    expected = attention_reference(query, key, value, bias, chunks=(4, 17), scale=0.2)
    assert relative_error(attention_int8(query, key, value, bias, chunks=(4, 17), scale=0.2), expected) <= INT8_ERROR


@pytest.mark.parametrize("shared", [True, False])
def test_rounding_is_to_the_nearest_of_255_steps(memory: Memory, shared: bool) -> None:
    x = memory.tensor(tensors(2, 3, 21, 36, seed=3))
    x[:, :, 5] = 0
    mean = memory.tensor(x.mean(dim=2)) if shared else None
    launch = plan_quantise(x, mean, 8, shared)
    launch.run()
    values, scales = launch.tensors["values"], launch.tensors["scales"]
    assert scales.shape == ((2, 3, 3) if shared else (2, 3, 21)) and int(values.abs().max()) == 127
    steps = scales.repeat_interleave(8, dim=2)[:, :, :21, None] if shared else scales[..., None]
    centred = x if mean is None else x - mean[:, :, None]
    assert bool(((values * steps - centred).abs() <= 0.5001 * steps).all())
    assert shared or not values[:, :, 5].any()


@pytest.mark.parametrize("shape", [(0, 2, 3, 3, 32), (1, 2, 0, 3, 32), (1, 2, 3, 0, 32)])
def test_empty(memory: Memory, shape: tuple[int, ...]) -> None:
    output = attention_int8(*inputs(memory, shape, torch.bfloat16))
    assert output.shape == (shape[0], shape[2], 64) and bool((output == 0).all())


def test_refusals() -> None:
    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, device=DEVICE)

    good = [zeros(1, 1, 4, 32) for _ in range(3)]
    for place, name in enumerate(("query", "key", "value")):
        with pytest.raises(EngineError, match=f"{name} is a NoneType; a torch.Tensor is needed"):
            attention_int8(*(None if number == place else x for number, x in enumerate(good)))
        message = "query is on" if place == 0 else f"{name} is on meta"
        with pytest.raises(EngineError, match=f"^(key is on .*, query on meta|{message})"):
            attention_int8(*(x.to("meta") if number == place else x for number, x in enumerate(good)))
    with pytest.raises(EngineError, match="query is on meta; accepted: c"):
        attention_int8(*(x.to("meta") for x in good))
    with pytest.raises(EngineError, match="scale is 'x'; accepted: a finite number"):
        attention_int8(*good, scale="x")
    with pytest.raises(EngineError, match="query has head size 16; accepted by 8-bit attention: 32 to 256"):
        attention_int8(*(zeros(1, 1, 4, 16) for _ in range(3)))
    with pytest.raises(EngineError, match=r"key has shape \(1, 2, 4, 32\); accepted: \(1, 1, Lk, 32\)"):
        attention_int8(zeros(1, 1, 4, 32), zeros(1, 2, 4, 32), zeros(1, 1, 4, 32))
    with pytest.raises(EngineError, match="query is int32; accepted: float32, bfloat16, float16"):
        attention_int8(zeros(1, 1, 4, 32).int(), zeros(1, 1, 4, 32), zeros(1, 1, 4, 32))
