"""One encoded frame -> one mp4 fragment, whole as soon as it is made: FFmpeg's muxer writes one when it has the next.

The boxes are those of ISO/IEC 14496-12 (8.8, movie fragments) and the samples of 14496-15 (5.3: every NAL unit behind
its length); the header before them, ``ftyp`` and ``moov``, is FFmpeg's.
"""

from __future__ import annotations

import re
import struct

_START_CODE = re.compile(b"\0\0\1")
TRACK = 1
BASE_IS_MOOF = 0x020000
"""Of ``tfhd``: places are counted from the fragment's own beginning."""
OFFSET_DURATION_SIZE_FLAGS = 0x000701
"""Of ``trun``: what it says of its one sample."""
KEY_FRAME, OTHER_FRAME = 0x02000000, 0x01010000
"""Sample flags: depends on no other; depends on others, and is no place to begin."""
_HEADER = 8


def sample(annex_b: bytes) -> bytes:
    """NAL units between start codes, as encoders give them, -> each behind its length in four bytes."""
    # Zeros before a start code belong to it: no NAL unit ends in one.
    units = (unit.rstrip(b"\0") for unit in _START_CODE.split(annex_b))
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units if unit)


def fragment(number: int, begins: int, lasts: int, annex_b: bytes, *, key: bool) -> bytes:
    """``moof`` and ``mdat`` of one frame. number: from 1 on; begins, lasts: in units of the track's time base."""
    data = sample(annex_b)
    flags = KEY_FRAME if key else OTHER_FRAME

    def moof(offset: int) -> bytes:
        run = struct.pack(">IiIII", 1, offset, lasts, len(data), flags)
        track = (
            _full_box(b"tfhd", 0, BASE_IS_MOOF, struct.pack(">I", TRACK))
            + _full_box(b"tfdt", 1, 0, struct.pack(">Q", begins))
            + _full_box(b"trun", 0, OFFSET_DURATION_SIZE_FLAGS, run)
        )
        return _box(b"moof", _full_box(b"mfhd", 0, 0, struct.pack(">I", number)) + _box(b"traf", track))

    return moof(len(moof(0)) + _HEADER) + _box(b"mdat", data)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", _HEADER + len(content), kind) + content


def _full_box(kind: bytes, version: int, flags: int, content: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags) + content)
