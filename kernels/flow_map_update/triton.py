"""The flow-map update: unpatchify the velocity, step, write the new state. One launch, the last of a jump.

    z_r[b, f, c, y p + i, x p + j] = z_t[...] - interval[b, f] * u[b, (f, y, x), (i, j, c)]

    tokens   (B, L, p p C), L = F h w      read once; not at all for frames whose interval is 0
    state    (B, F, C, h p, w p) float32   read once, written once, and once more if it is also wanted in another dtype

A program takes ``BLOCK`` neighbouring tokens of one row. They are one run of memory on the tokens' side; on the state's
side they are p C lines of BLOCK p pixels. The tile is turned in between, so that both sides move 16 bytes a thread.
Frames whose interval is 0 keep every bit of z_t, whatever the tokens hold.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.checks import FLOATS, check_choice, check_index, check_shape, check_tensor
from anyflow_rt.kernels.flow_map_update.config import configuration
from anyflow_rt.kernels.launch import Kernel, Launch, power_of_two, target_of
from anyflow_rt.kernels.numerics import round_to
from anyflow_rt.kernels.package import tl, triton

PATCHES = (1, 2, 4)


@triton.jit(do_not_specialize=["frames", "rows", "column_groups"])
def _flow_map_update_kernel(
    tokens,
    unconditional,
    guidance_scale,
    state,
    interval,
    frames,
    rows,
    column_groups,
    updated,
    updated_cast,
    CHANNELS: tl.constexpr,
    PADDED_CHANNELS: tl.constexpr,
    PATCH: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    # The width is a product with a constant, so that the compiler knows how far lines are aligned.
    columns = column_groups * GROUP
    row = tl.program_id(0).to(tl.int64)
    frame = row // rows
    first = tl.program_id(1) * BLOCK
    step = tl.load(interval + frame)
    moves = step != 0

    feature = tl.arange(0, PATCH * PATCH * PADDED_CHANNELS)
    token = first + tl.arange(0, BLOCK)
    wanted = (token < tl.where(moves, columns, 0))[:, None]
    if PADDED_CHANNELS != CHANNELS:
        wanted = wanted & (feature % PADDED_CHANNELS < CHANNELS)[None, :]
        feature = feature // PADDED_CHANNELS * CHANNELS + feature % PADDED_CHANNELS
    offset = (row * columns + token)[:, None] * (PATCH * PATCH * CHANNELS) + feature[None, :]
    velocity = tl.load(tokens + offset, mask=wanted, other=0.0).to(tl.float32)
    if unconditional is not None:
        base = tl.load(unconditional + offset, mask=wanted, other=0.0).to(tl.float32)
        velocity = base + tl.load(guidance_scale + frame // frames) * (velocity - base)

    velocity = tl.reshape(velocity, (BLOCK, PATCH, PATCH, PADDED_CHANNELS))
    velocity = tl.reshape(tl.permute(velocity, (3, 1, 0, 2)), (PADDED_CHANNELS * PATCH, BLOCK * PATCH))
    line = tl.arange(0, PADDED_CHANNELS * PATCH)
    channel = line // PATCH
    pixel = first * PATCH + tl.arange(0, BLOCK * PATCH)
    width = columns * PATCH
    height_offset = (row % rows) * PATCH + line % PATCH
    target = ((frame * CHANNELS + channel) * (rows * PATCH) + height_offset)[:, None] * width + pixel[None, :]
    inside = (channel < CHANNELS)[:, None] & (pixel < width)[None, :]
    before = tl.load(state + target, mask=inside, other=0.0)
    after = tl.where(moves, before - step * velocity, before)
    tl.store(updated + target, after, mask=inside)
    if updated_cast is not None:
        tl.store(updated_cast + target, round_to(after, updated_cast.dtype.element_ty), mask=inside)


FLOW_MAP_UPDATE = Kernel(
    "flow_map_update", _flow_map_update_kernel, ("batch * frames * rows", "cdiv(column_groups * GROUP, BLOCK)")
)


def flow_map_update(
    tokens: Tensor,
    state: Tensor,
    interval: Tensor,
    *,
    unconditional: Tensor | None = None,
    guidance_scale: Tensor | None = None,
    cast: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """z_r (B, F, C, H, W) float32, and the same in ``cast`` where that is given.

    ``tokens`` (B, L, p p C) of any float type, ``state`` (B, F, C, H, W) float32, ``interval`` t - r as (B, F) float32.
    Guidance: ``unconditional`` tokens of the same shape and type, ``guidance_scale`` (B,) float32.
    Raises EngineError, naming the argument, for whatever does not fit.
    """
    plan = plan_flow_map_update(
        tokens, state, interval, unconditional=unconditional, guidance_scale=guidance_scale, cast=cast
    )
    plan.run()
    updated, updated_cast = plan.arguments["updated"], plan.arguments["updated_cast"]
    assert isinstance(updated, Tensor) and not isinstance(updated_cast, int | float)
    return updated, updated_cast


def plan_flow_map_update(
    tokens: Tensor,
    state: Tensor,
    interval: Tensor,
    *,
    unconditional: Tensor | None = None,
    guidance_scale: Tensor | None = None,
    cast: torch.dtype | None = None,
    target: int | None = None,
) -> Launch:
    """The launch of ``flow_map_update``, outputs allocated. ``target`` is that of the tensors' device unless given."""
    check_tensor("state", state, ("B", "F", "C", "H", "W"), (torch.float32,))
    batch, frames, channels, height, width = state.shape
    check_tensor("tokens", tokens, (batch, "L", "p p C"), FLOATS)
    patch = math.isqrt(tokens.shape[2] // channels) if channels else 1
    if channels == 0 or patch * patch * channels != tokens.shape[2]:
        raise EngineError(f"tokens have {tokens.shape[2]} features; accepted: p * p * {channels}, state's channels")
    check_choice("patch, from the features of tokens,", patch, PATCHES)
    if height % patch or width % patch:
        raise EngineError(f"state has height {height} and width {width}; accepted: multiples of the patch, {patch}")
    rows, columns = height // patch, width // patch
    check_shape("tokens", tokens, (batch, frames * rows * columns, tokens.shape[2]))
    check_tensor("interval", interval, (batch, frames), (torch.float32,))
    if (unconditional is None) != (guidance_scale is None):
        given, missing = ("unconditional", "guidance_scale")[:: 1 if guidance_scale is None else -1]
        raise EngineError(f"{given} is given and {missing} is None; guidance needs both")
    if unconditional is not None and guidance_scale is not None:
        check_tensor("unconditional", unconditional, tuple(tokens.shape), (tokens.dtype,))
        check_tensor("guidance_scale", guidance_scale, (batch,), (torch.float32,))
    if cast is not None:
        check_choice("cast", cast, FLOATS)

    padded = power_of_two(channels)
    config = configuration(target_of(state) if target is None else target, columns, patch * patch * padded)
    check_index("the width of state, padded to a block,", width + patch * config.block)
    group = math.gcd(columns, 8) if columns else 1
    shape = tuple(state.shape)
    return Launch(
        FLOW_MAP_UPDATE,
        {
            "tokens": tokens,
            "unconditional": unconditional,
            "guidance_scale": guidance_scale,
            "state": state,
            "interval": interval,
            "updated": launching.allocate(shape, torch.float32, state.device),
            "updated_cast": None if cast is None else launching.allocate(shape, cast, state.device),
            "frames": frames,
            "rows": rows,
            "column_groups": columns // group,
        },
        {
            "CHANNELS": channels,
            "PADDED_CHANNELS": padded,
            "PATCH": patch,
            "GROUP": group,
            "BLOCK": config.block,
        },
        extents={"batch": batch},
        warps=config.warps,
    )
