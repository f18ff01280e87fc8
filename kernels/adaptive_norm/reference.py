"""The joins of a transformer block in plain PyTorch, float32."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from anyflow_rt.kernels.adaptive_norm.vectors import Affine, FrameVectors, Gate, Modulation


def adaptive_norm_reference(
    residual: Tensor, branch: Tensor | None, gate: Gate | None, norm: Modulation | Affine | None, eps: float
) -> tuple[Tensor, Tensor | None]:
    """(residual + gate * branch, its normalised activations): shapes as ``adaptive_norm``.

    The sum is rounded to the residual's dtype before it is normalised, as in a pipeline that stores it between the two.
    """
    x = residual
    if branch is not None:
        scaled = branch.float() * (1 if gate is None else _rows(gate.vectors, gate.row))
        x = (residual.float() + scaled).to(residual.dtype)
    if norm is None:
        return x, None
    normalised = F.layer_norm(x.float(), x.shape[-1:], eps=eps)
    if isinstance(norm, Affine):
        return x, normalised * norm.gain + norm.bias
    return x, normalised * (1 + _rows(norm.vectors, norm.scale)) + _rows(norm.vectors, norm.shift)


def _rows(vectors: FrameVectors, row: int) -> Tensor:
    """One vector a frame, (B, F, 1, D)."""
    rows: Tensor = torch.as_tensor(vectors.modulation) + vectors.table
    return rows[:, :, row, None, :]
