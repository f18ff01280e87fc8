"""One picture in the video's size: turned upright, then covering it, within it, or stretched to it."""

from __future__ import annotations

import struct
from typing import Any, TypeVar

import numpy as np

from anyflow_rt.errors import UsageError

FITS = ("cover", "contain", "stretch")
"""``cover`` fills the video and cuts what is beyond it, ``contain`` shows all with black beside it, ``stretch`` keeps
neither proportions nor anything out."""

LONGEST_SIDE = 1 << 16
"""Pixels of a picture that is scaled: FFmpeg scales none that is longer."""

DISPLAY_MATRIX = "DISPLAYMATRIX"

Number = TypeVar("Number", int, float)


def fit_frame(
    frame: Any, height: int, width: int, fit: str, turn: np.ndarray | None = None, aspect: float = 1.0
) -> np.ndarray:
    """An ``av.VideoFrame`` of any size and pixel format -> uint8 RGB (height, width, 3).

    turn (2, 2): where its x (first row) and y are shown, as right and down; None is what its display matrix says.
    aspect: how much wider than high its stored pixels are shown.
    Raises UsageError for a picture so narrow that covering the video would need millions of pixels.
    """
    turn = _display_turn(frame) if turn is None else turn
    sideways = abs(turn[0, 1]) > abs(turn[0, 0])
    inner_height, inner_width = _inner(*_swap(frame.height, frame.width * aspect, sideways), height, width, fit)
    if max(inner_height, inner_width) > LONGEST_SIDE:
        raise UsageError(
            f"a picture of {frame.width}x{frame.height} pixels is too narrow to {fit} a video of {width}x{height}; cut "
            "it first, or give fit contain or stretch"
        )
    scaled_height, scaled_width = _swap(inner_height, inner_width, sideways)
    scaled = frame.reformat(width=scaled_width, height=scaled_height, format="rgb24", interpolation="BICUBIC")
    pixels = _turned(scaled.to_ndarray(), turn)
    return _placed(pixels, height, width)


def _swap(height: Number, width: Number, sideways: bool) -> tuple[Number, Number]:
    return (width, height) if sideways else (height, width)


def _inner(from_height: float, from_width: float, height: int, width: int, fit: str) -> tuple[int, int]:
    """The size a picture is scaled to before it is cut or surrounded."""
    if fit == "stretch":
        return height, width
    scales = height / from_height, width / from_width
    scale = max(scales) if fit == "cover" else min(scales)
    inner = round(from_height * scale), round(from_width * scale)
    return (max(inner[0], 1), max(inner[1], 1)) if fit == "contain" else (max(inner[0], height), max(inner[1], width))


def _placed(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of what is too large, black around what is too small."""
    top, left = (max(0, pixels.shape[axis] - size) // 2 for axis, size in ((0, height), (1, width)))
    cut = pixels[top : top + height, left : left + width]
    above, before = (height - cut.shape[0]) // 2, (width - cut.shape[1]) // 2
    placed = np.zeros((height, width, 3), np.uint8)
    placed[above : above + cut.shape[0], before : before + cut.shape[1]] = cut
    return placed


def _display_turn(frame: Any) -> np.ndarray:
    """Of the display matrix, the identity where there is none."""
    try:
        found = frame.side_data.get(DISPLAY_MATRIX)
    except ValueError:
        return np.eye(2)  # PyAV knows no name for an EXIF block; one that turned the picture was read before
    if found is None:
        return np.eye(2)
    values = struct.unpack("<9i", bytes(found)[:36])
    return np.array([[values[0], values[1]], [values[3], values[4]]], float) / (1 << 16)


def _turned(pixels: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Turned or mirrored by whole quarters; a matrix in between is rounded to them."""
    if abs(turn[0, 1]) > abs(turn[0, 0]):
        # Stored x is shown as y: the picture is transposed first, and its new axes may run backwards.
        pixels = pixels.transpose(1, 0, 2)
        flips = turn[0, 1] < 0, turn[1, 0] < 0
    else:
        flips = turn[1, 1] < 0, turn[0, 0] < 0
    return pixels[:: -1 if flips[0] else 1, :: -1 if flips[1] else 1]
