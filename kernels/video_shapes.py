"""The videos and models whose launches are compiled, counted and budgeted ahead of time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class VideoShape:
    """A model's widths, and one video's latent frames and tokens. ``text``: prompt positions, padding keys included."""

    name: str
    heads: int
    head_dim: int
    ffn: int
    layers: int
    frames: int
    rows: int
    columns: int
    text: int
    channels: int = 16
    patch: int = 2

    @property
    def width(self) -> int:
        """Of a token."""
        return self.heads * self.head_dim

    @property
    def tokens(self) -> int:
        """Of a frame."""
        return self.rows * self.columns

    @property
    def length(self) -> int:
        """Tokens of the video."""
        return self.frames * self.tokens

    @property
    def state(self) -> tuple[int, int, int, int, int]:
        """Shape of the latents of one video."""
        return (1, self.frames, self.channels, self.rows * self.patch, self.columns * self.patch)


SMALL = VideoShape("1.3B 480x832x81", 12, 128, 8960, 30, 21, 30, 52, 128 + 2)
LARGE = VideoShape("14B 480x832x81", 40, 128, 13824, 40, 21, 30, 52, 128 + 2)
SHIPPED = VideoShape("shapes 64x64x17", 5, 32, 640, 6, 5, 4, 4, 20 + 2)
VIDEO_SHAPES = (SMALL, LARGE, SHIPPED)

CAUSAL_CHUNK_FRAMES = 3
"""Latent frames of most chunks of the released causal checkpoints."""


def described(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without storage."""
    return torch.empty(shape, dtype=dtype, device="meta")


@dataclass(frozen=True)
class Case:
    """One launch of an op at one shape: ``plan(**arguments, target=...)`` makes it."""

    name: str
    plan: Any
    arguments: dict[str, Any]
