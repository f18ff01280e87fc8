"""The flow-map update equals its reference, frame by frame, and leaves alone what it must."""

from __future__ import annotations

import pytest
import torch
from support.kernels import DEVICE, Memory, assert_close, tensors
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.flow_map_update.reference import flow_map_update_reference
from anyflow_rt.kernels.flow_map_update.triton import flow_map_update

SHAPES = [(1, 1, 16, 2, 2), (2, 2, 16, 4, 10), (1, 2, 5, 4, 14), (1, 3, 3, 2, 34)]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def case(
    memory: Memory, shape: tuple[int, ...], dtype: torch.dtype, patch: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    batch, frames, channels, height, width = shape
    length = frames * (height // patch) * (width // patch)
    interval = torch.linspace(0, 1, batch * frames, device=DEVICE).view(batch, frames)
    return (
        memory.tensor(tensors(batch, length, patch * patch * channels, dtype=dtype, seed=seed)),
        memory.tensor(tensors(*shape, seed=seed + 1)),
        memory.tensor(interval),
    )


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(memory: Memory, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tokens, state, interval = case(memory, shape, dtype)
    updated, cast = flow_map_update(tokens, state, interval)
    assert cast is None
    assert_close(updated, flow_map_update_reference(tokens, state, interval))


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches(memory: Memory, patch: int) -> None:
    tokens, state, interval = case(memory, (1, 2, 3, 8, 12), torch.float32, patch)
    updated, _ = flow_map_update(tokens, state, interval)
    assert_close(updated, flow_map_update_reference(tokens, state, interval))


@pytest.mark.parametrize("dtype", FLOATS)
def test_guidance_and_the_next_jumps_dtype(memory: Memory, dtype: torch.dtype) -> None:
    shape = (2, 2, 4, 4, 6)
    tokens, state, interval = case(memory, shape, dtype)
    unconditional, _, _ = case(memory, shape, dtype, seed=7)
    scale = memory.tensor(torch.tensor([1.0, 4.5]))
    updated, cast = flow_map_update(
        tokens, state, interval, unconditional=unconditional, guidance_scale=scale, cast=dtype
    )
    assert_close(updated, flow_map_update_reference(tokens, state, interval, unconditional, scale), scale=4)
    assert cast is not None and cast.dtype == dtype
    assert torch.equal(cast, updated.to(dtype))


def test_frames_without_an_interval_keep_every_bit(memory: Memory) -> None:
    """Negative zeros, infinities and NaN with a payload included, and whatever the tokens hold."""
    tokens, state, interval = case(memory, (2, 3, 4, 4, 6), torch.bfloat16)
    tokens.fill_(torch.nan)
    interval.zero_()
    state.view(-1)[:4] = torch.tensor([-0.0, torch.inf, 1e-45, -torch.inf])
    state.view(torch.int32).view(-1)[4] = 0x7FC01234
    updated, _ = flow_map_update(tokens, state, interval)
    assert torch.equal(updated.view(torch.int32), state.view(torch.int32))


def test_only_frames_with_an_interval_move(memory: Memory) -> None:
    tokens, state, interval = case(memory, (1, 3, 4, 4, 6), torch.float32)
    interval.copy_(torch.tensor([[0.0, 0.5, 0.0]]))
    updated, _ = flow_map_update(tokens, state, interval)
    same = (updated == state).flatten(2).all(-1)
    assert same.tolist() == [[True, False, True]]


def test_two_intervals_are_their_sum_under_a_constant_velocity(memory: Memory) -> None:
    tokens, state, interval = case(memory, (1, 2, 4, 4, 6), torch.float32)
    halfway, _ = flow_map_update(tokens, state, interval)
    twice, _ = flow_map_update(tokens, halfway, 2 * interval)
    once, _ = flow_map_update(tokens, state, 3 * interval)
    assert_close(twice, once)


@pytest.mark.parametrize("shape", [(0, 2, 4, 4, 4), (2, 0, 4, 4, 4), (1, 1, 4, 0, 4), (1, 1, 4, 4, 0)])
def test_empty(memory: Memory, shape: tuple[int, ...]) -> None:
    tokens, state, interval = case(memory, shape, torch.bfloat16)
    updated, cast = flow_map_update(tokens, state, interval, cast=torch.bfloat16)
    assert updated.shape == shape and cast is not None and cast.shape == shape


def refusals() -> dict[str, tuple[dict[str, object], str]]:
    good = {
        "tokens": torch.zeros(2, 6, 16, device=DEVICE),
        "state": torch.zeros(2, 1, 4, 4, 6, device=DEVICE),
        "interval": torch.zeros(2, 1, device=DEVICE),
    }
    one = torch.zeros(2, 6, 16, device=DEVICE)
    return {
        "dtype": (good | {"tokens": one.double()}, "tokens is float64; accepted: float32, bfloat16, float16"),
        "state dtype": (good | {"state": good["state"].half()}, "state is float16; accepted: float32"),
        "no tensor": (good | {"interval": 0.5}, "interval is a float; a torch.Tensor is needed"),
        "frames": (good | {"interval": torch.zeros(2, 3)}, r"interval has shape \(2, 3\); accepted: \(2, 1\)"),
        "length": (good | {"tokens": one[:, :5].clone()}, r"tokens has shape \(2, 5, 16\); accepted: \(2, 6, 16\)"),
        "features": (good | {"tokens": one[..., :15].clone()}, "tokens have 15 features; accepted: p \\* p \\* 4"),
        "patch": (good | {"tokens": torch.zeros(2, 6, 36)}, "patch, .* is 3; accepted: 1, 2, 4"),
        "height": (good | {"state": torch.zeros(2, 1, 4, 5, 6)}, "height 5 and width 6; accepted: multiples of the"),
        "strides": (good | {"tokens": one.mT.contiguous().mT}, r"tokens has strides .*: pass tokens.contiguous\(\)"),
        "address": (
            good | {"state": torch.zeros(2 * 96 + 1, device=DEVICE)[1:].view(2, 1, 4, 4, 6)},
            r"state begins 4 bytes past a multiple of 16; .* pass state.clone\(\)",
        ),
        "guidance": (good | {"unconditional": one}, "unconditional is given and guidance_scale is None"),
        "scale": (good | {"guidance_scale": one}, "guidance_scale is given and unconditional is None"),
        "cast": (good | {"cast": torch.int8}, "cast is torch.int8; accepted: torch.float32"),
    }


@pytest.mark.parametrize("name", refusals())
def test_refusals(name: str) -> None:
    arguments, message = refusals()[name]
    with pytest.raises(EngineError, match=message):
        flow_map_update(**arguments)


def test_the_device_is_checked() -> None:
    arguments = {name: value.to("meta") for name, value in refusals()["cast"][0].items() if isinstance(value, Tensor)}
    with pytest.raises(EngineError, match=r"tokens is on meta; accepted: (cpu|cuda)"):
        flow_map_update(**arguments)
