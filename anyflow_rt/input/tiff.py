"""TIFFs without the tags that say nothing about their pixels: FFmpeg, told to be strict, takes each for a fault.

Told not to be, it shows damaged pictures, and JPEG within TIFF wrong; so it stays strict, and the tags go.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from anyflow_rt.errors import UsageError
from anyflow_rt.input.exif import BYTE_ORDERS, orientation_turn

_ENTRY = 12
"""Bytes of a tag in the directory."""
_SUBFILE, _COMPRESSION, _SAMPLE_FORMAT, _DNG = 254, 259, 339, 50706
_JPEG = (6, 7)
# Of TIFF 6.0, those that say how pixels are stored.
_PIXELS = {*range(256, 260), 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, *range(322, 326), *range(529, 533)}


def is_tiff(head: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return head[:4] in BYTE_ORDERS


def plain_tiff(content: bytes, name: str) -> tuple[io.BytesIO, np.ndarray | None]:
    """The TIFF with the tags of its first picture that matter to its pixels alone, and the turn its orientation asks
    for (None where it has none). A damaged one, and a raw photograph (DNG), stay as they are.

    Raises UsageError for JPEG within TIFF.
    """
    turn, order = orientation_turn(content), BYTE_ORDERS[content[:4]]
    try:
        (directory,) = struct.unpack_from(f"{order}I", content, 4)
        (count,) = struct.unpack_from(f"{order}H", content, directory)
        begin = directory + 2
        entries = [content[begin + _ENTRY * i : begin + _ENTRY * (i + 1)] for i in range(count)]
        values = {struct.unpack_from(f"{order}H", entry)[0]: _values(content, entry, order) for entry in entries}
    except struct.error:
        return io.BytesIO(content), turn
    if _DNG in values:
        return io.BytesIO(content), turn
    if values.get(_COMPRESSION, (0,))[0] in _JPEG:
        raise UsageError(f"{name} is JPEG within TIFF, which is not read; convert it with another program")
    kept = [e for e in entries if _matters(tag := struct.unpack_from(f"{order}H", e)[0], values[tag])]
    last = content[begin + _ENTRY * count : begin + _ENTRY * count + 4]
    plain = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + last
    return io.BytesIO(content[:directory] + plain + content[directory + len(plain) :]), turn


def _matters(tag: int, values: tuple[int, ...]) -> bool:
    if tag == _SUBFILE:
        return bool(values[0] & 1)  # a smaller copy of what a raw photograph holds elsewhere
    if tag == _SAMPLE_FORMAT:
        return set(values) != {1}  # anything but whole numbers without a sign
    return tag in _PIXELS


def _values(content: bytes, entry: bytes, order: str) -> tuple[int, ...]:
    """Of a tag of 16 or 32 bits a value, else (0,). Raises struct.error where they are not there."""
    _, kind, count = struct.unpack_from(f"{order}HHI", entry)
    letter = {3: "H", 4: "I"}.get(kind)
    if letter is None or not count:
        return (0,)
    layout = f"{order}{min(count, 4)}{letter}"
    if struct.calcsize(f"{order}{letter}") * count <= 4:
        return struct.unpack_from(layout, entry, 8)
    return struct.unpack_from(layout, content, struct.unpack_from(f"{order}I", entry, 8)[0])
