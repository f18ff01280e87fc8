"""Vectors of the model's width that a join applies: one a frame, or one for all."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class FrameVectors:
    """modulation[b, f, row] + table[row]: what the time embedder says of a frame, and what a layer has learned.

    ``modulation`` (B, F, rows, D) float32, or (B, F, 1, D) where one vector serves every row of the table; ``table``
    (rows, D) float32.
    """

    modulation: Tensor
    table: Tensor


@dataclass(frozen=True)
class Gate:
    """Scales the branch: row ``row`` of ``vectors``."""

    vectors: FrameVectors
    row: int


@dataclass(frozen=True)
class Modulation:
    """normalised * (1 + scale) + shift, rows ``shift`` and ``scale`` of ``vectors``."""

    vectors: FrameVectors
    shift: int
    scale: int


@dataclass(frozen=True)
class Affine:
    """normalised * gain + bias, each (D,) float32."""

    gain: Tensor
    bias: Tensor
