"""Which way up a photograph is: the orientation tag of its EXIF block, in JPEG, PNG and WebP alike.

FFmpeg reads it too, but PyAV 18 cannot name the kind of side data that comes with it and fails on all of them.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

import numpy as np

HEAD = 1 << 18
"""Bytes in which the block is looked for; a JPEG's comes first, and is at most 64 KB long."""
MARKS = (b"Exif\0\0", b"eXIf", b"EXIF")
"""Before the block: in a JPEG's or a WebP's, a PNG's chunk, a WebP's chunk with its length between."""
BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
TAG = 0x0112
TURNS = {
    1: ((1, 0), (0, 1)),
    2: ((-1, 0), (0, 1)),
    3: ((-1, 0), (0, -1)),
    4: ((1, 0), (0, -1)),
    5: ((0, 1), (1, 0)),
    6: ((0, 1), (-1, 0)),
    7: ((0, -1), (-1, 0)),
    8: ((0, -1), (1, 0)),
}
"""Of each orientation: where stored x and stored y point when shown, as (right, down)."""


def read_turn(file: BinaryIO) -> np.ndarray | None:
    """The turn (2, 2) that the open file's tag asks for, None where it has none. The file is where it was, after."""
    place = file.tell()
    head = file.read(HEAD)
    file.seek(place)
    for mark in MARKS:
        found = head.find(mark)
        if found >= 0 and (turn := orientation_turn(head[found + len(mark) :])) is not None:
            return turn
    return None


def orientation_turn(block: bytes) -> np.ndarray | None:
    """The turn (2, 2) that a TIFF block which begins within the next few bytes asks for, None where it has none."""
    orientation = _orientation(block)
    return np.array(TURNS[orientation], float) if orientation in TURNS else None


def _orientation(block: bytes) -> int | None:
    """Of a TIFF block that begins within the next few bytes; None where it is damaged or says nothing."""
    start = min((at for order in BYTE_ORDERS if (at := block.find(order, 0, 16)) >= 0), default=None)
    if start is None:
        return None
    block = block[start:]
    order = BYTE_ORDERS[block[:4]]
    try:
        (directory,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, directory)
        for index in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", block, directory + 2 + 12 * index)
            if (tag, kind, count) == (TAG, 3, 1):
                return int(value)
    except struct.error:
        pass
    return None
