"""Residual, branch and norm, joined in one pass. Statistics and sums are float32 whatever is stored.

    x' = x + gate[frame] * branch          gate: one vector a frame, or none; without a branch x' = x
    y  = LayerNorm(x') * (1 + scale[frame]) + shift[frame]     modulated
       = LayerNorm(x') * gain + bias                           affine
       (not computed)                                          none

The places of one block, with the six rows of ``modulation + scale_shift_table``:

    | join                        | branch           | gate          | norm                                          |
    | first norm1                 | none             | none          | modulated: rows 0 (shift), 1 (scale)          |
    | after self-attention        | its output       | row 2         | affine: norm2 (none without cross_attn_norm)  |
    | after cross-attention       | its output       | none          | modulated: rows 3 (shift), 4 (scale)          |
    | after the FFN               | its output       | row 5         | modulated: rows 0, 1 of the *next* block      |
    | after the last FFN          | its output       | row 5         | modulated: rows 0, 1 of the head              |

x, branch (B, F, N, D) -> x' (B, F, N, D) in x's dtype, y (B, F, N, D) in the branch's. Bytes: x and branch once in, x'
and y once out; the vectors once for every ``ROWS * TILES`` tokens. y is made from x' as it is stored, as in a pipeline
that writes it and reads it back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import launch as launching
from anyflow_rt.kernels.adaptive_norm.config import configuration
from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation
from anyflow_rt.kernels.checks import (
    FLOATS,
    check_choice,
    check_index,
    check_kind,
    check_number,
    check_tensor,
    check_whole,
)
from anyflow_rt.kernels.launch import Kernel, Launch, power_of_two, target_of
from anyflow_rt.kernels.numerics import round_to
from anyflow_rt.kernels.package import tl, triton

MAXIMUM_WIDTH = 8192


@triton.jit
def _frame_vector(modulation, table, frame, column, inside, ROW: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Row ROW of a frame's ROWS (or its only one) plus the table's, (BLOCK,)."""
    own = ROW if ROWS > 1 else 0
    learned = tl.load(table + ROW * WIDTH + column, mask=inside, other=0.0)
    return learned + tl.load(modulation + (frame * ROWS + own) * WIDTH + column, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["tokens"])
def _adaptive_norm_kernel(
    residual,
    branch,
    gate_modulation,
    gate_table,
    norm_modulation,
    norm_table,
    gain,
    bias,
    tokens,
    joined,
    normalised,
    WIDTH: tl.constexpr,
    EPS: tl.constexpr,
    GATE_ROW: tl.constexpr,
    GATE_ROWS: tl.constexpr,
    SHIFT_ROW: tl.constexpr,
    SCALE_ROW: tl.constexpr,
    NORM_ROWS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    frame = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < WIDTH
    if gate_modulation is not None:
        gate = _frame_vector(gate_modulation, gate_table, frame, column, inside, GATE_ROW, GATE_ROWS, WIDTH)
    if norm_modulation is not None:
        factor = 1 + _frame_vector(norm_modulation, norm_table, frame, column, inside, SCALE_ROW, NORM_ROWS, WIDTH)
        offset = _frame_vector(norm_modulation, norm_table, frame, column, inside, SHIFT_ROW, NORM_ROWS, WIDTH)
    elif gain is not None:
        factor = tl.load(gain + column, mask=inside, other=0.0)
        offset = tl.load(bias + column, mask=inside, other=0.0)

    for tile in range(TILES):
        token = (tl.program_id(0) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        wanted = (token < tokens)[:, None] & inside[None, :]
        place = (frame * tokens + token)[:, None] * WIDTH + column[None, :]
        x = tl.load(residual + place, mask=wanted, other=0.0).to(tl.float32)
        if branch is not None:
            added = tl.load(branch + place, mask=wanted, other=0.0).to(tl.float32)
            if gate_modulation is not None:
                added = added * gate[None, :]
            stored = round_to(x + added, joined.dtype.element_ty)
            tl.store(joined + place, stored, mask=wanted)
            x = stored.to(tl.float32)
        if normalised is not None:
            mean = tl.sum(x, axis=1) / WIDTH
            centred = tl.where(inside[None, :], x - mean[:, None], 0.0)
            deviation = tl.sqrt(tl.sum(centred * centred, axis=1) / WIDTH + EPS)
            y = centred * (1 / deviation)[:, None] * factor[None, :] + offset[None, :]
            tl.store(normalised + place, round_to(y, normalised.dtype.element_ty), mask=wanted)


ADAPTIVE_NORM = Kernel("adaptive_norm", _adaptive_norm_kernel, ("cdiv(tokens, ROWS * TILES)", "batch * frames"))


def adaptive_norm(
    residual: Tensor,
    branch: Tensor | None = None,
    *,
    gate: Gate | None = None,
    norm: Modulation | Affine | None = None,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """(x', y): the new residual, and its normalised activations, None without a ``norm``.

    ``residual``, ``branch`` (B, F, N, D) of any float types; y is of ``dtype``, unless given the branch's, else the
    residual's. Without a branch x' *is* ``residual``. Raises EngineError, naming the argument, for what does not fit.
    """
    plan = plan_adaptive_norm(residual, branch, gate=gate, norm=norm, eps=eps, dtype=dtype)
    plan.run()
    joined, normalised = plan.arguments["joined"], plan.arguments["normalised"]
    assert not isinstance(joined, int | float) and not isinstance(normalised, int | float)
    return (residual if joined is None else joined), normalised


def plan_adaptive_norm(
    residual: Tensor,
    branch: Tensor | None = None,
    *,
    gate: Gate | None = None,
    norm: Modulation | Affine | None = None,
    eps: float = 1e-6,
    dtype: torch.dtype | None = None,
    target: int | None = None,
) -> Launch:
    """The launch of ``adaptive_norm``, outputs allocated. ``target`` is that of the tensors' device unless given."""
    check_tensor("residual", residual, ("B", "F", "N", "D"), FLOATS)
    batch, frames, tokens, width = residual.shape
    if not 0 < width <= MAXIMUM_WIDTH:
        raise EngineError(f"residual has width {width}; accepted: 1 to {MAXIMUM_WIDTH}")
    check_number("eps", eps, least=0)
    if gate is not None:
        check_kind("gate", gate, Gate)
    if norm is not None:
        check_kind("norm", norm, Modulation, Affine)
    if branch is not None:
        check_tensor("branch", branch, tuple(residual.shape), FLOATS)
    elif gate is not None:
        raise EngineError("gate is given and branch is None; a gate scales a branch")
    elif norm is None:
        raise EngineError("branch and norm are both None; there is nothing to join")
    modulation = norm if isinstance(norm, Modulation) else None
    affine = norm if isinstance(norm, Affine) else None
    if gate is not None:
        _check_vectors("gate", gate.vectors, residual, row=gate.row)
    if modulation is not None:
        _check_vectors("norm", modulation.vectors, residual, shift=modulation.shift, scale=modulation.scale)
    if affine is not None:
        check_tensor("norm.gain", affine.gain, (width,), (torch.float32,))
        check_tensor("norm.bias", affine.bias, (width,), (torch.float32,))
    if dtype is not None:
        check_choice("dtype", dtype, FLOATS)
    wanted = dtype or (residual.dtype if branch is None else branch.dtype)
    shape, device = tuple(residual.shape), residual.device
    number = target_of(residual) if target is None else target
    config = configuration(number, width, tokens, branch is not None)
    check_index("the number of tokens of a frame of residual, padded to a block,", tokens + config.rows * config.tiles)
    return Launch(
        ADAPTIVE_NORM,
        {
            "residual": residual,
            "branch": branch,
            "gate_modulation": gate.vectors.modulation if gate else None,
            "gate_table": gate.vectors.table if gate else None,
            "norm_modulation": modulation.vectors.modulation if modulation else None,
            "norm_table": modulation.vectors.table if modulation else None,
            "gain": affine.gain if affine else None,
            "bias": affine.bias if affine else None,
            "joined": None if branch is None else launching.allocate(shape, residual.dtype, device),
            "normalised": None if norm is None else launching.allocate(shape, wanted, device),
            "tokens": tokens,
        },
        {
            "WIDTH": width,
            "EPS": float(eps),
            "GATE_ROW": gate.row if gate else 0,
            "GATE_ROWS": gate.vectors.modulation.shape[2] if gate else 0,
            "SHIFT_ROW": modulation.shift if modulation else 0,
            "SCALE_ROW": modulation.scale if modulation else 0,
            "NORM_ROWS": modulation.vectors.modulation.shape[2] if modulation else 0,
            "ROWS": config.rows,
            "TILES": config.tiles,
            "BLOCK": power_of_two(width),
        },
        extents={"batch": batch, "frames": frames},
        warps=config.warps,
    )


def _check_vectors(name: str, vectors: FrameVectors, residual: Tensor, **rows: int) -> None:
    check_kind(f"{name}.vectors", vectors, FrameVectors)
    batch, frames, _, width = residual.shape
    check_tensor(f"{name}.vectors.table", vectors.table, ("rows", width), (torch.float32,))
    count = vectors.table.shape[0]
    modulation = vectors.modulation
    given = 1 if isinstance(modulation, Tensor) and modulation.ndim == 4 and modulation.shape[2] == 1 else count
    check_tensor(f"{name}.vectors.modulation", modulation, (batch, frames, given, width), (torch.float32,))
    for part, row in rows.items():
        check_whole(f"{name}.{part}, a row of its table,", row, 0, count - 1)
