"""What the manifest's name of an engine says it was built for: sizes, videos, kernels, GPUs, 8-bit text."""

from __future__ import annotations

import math
import re
from dataclasses import astuple, dataclass, replace

from anyflow_rt.engines.geometry import VideoSize

_SIZE = re.compile(r"(\d+)x(\d+)x(\d+)")
_BATCH = re.compile(r"batch(\d+)")
_LEAST_AMPERE = 80
_AMPERE_PLUS = "ampere_plus"


@dataclass(frozen=True)
class ProfileName:
    """sizes: the only one, or smallest to largest; none where the name says none, as of engines that take every size.
    marks: the words after them."""

    sizes: tuple[VideoSize, ...]
    marks: tuple[str, ...]

    @property
    def batch(self) -> int:
        """The most videos of a call."""
        return next((int(found[1]) for mark in self.marks if (found := _BATCH.fullmatch(mark))), 1)

    @property
    def largest(self) -> int:
        """Pixels of the largest call; 0 where the name says no size."""
        return self.batch * math.prod(astuple(self.sizes[-1])) if self.sizes else 0

    def takes(self, size: VideoSize, videos: int, *, causal: bool = False) -> bool:
        """Whether a call of ``videos`` videos of ``size`` is within what the engine is built for; a ``causal``
        checkpoint's takes every video that is not longer than the longest."""
        if not self.sizes:
            return True
        smallest, largest = self.sizes[0], self.sizes[-1]
        if causal:
            smallest = replace(smallest, num_frames=1)
        bounds = zip(astuple(smallest), astuple(size), astuple(largest), strict=True)
        return videos <= self.batch and all(least <= asked <= most for least, asked, most in bounds)

    def runs_on(self, target: str, present: str | None) -> bool:
        """Whether an engine that is built for ``target`` runs on the GPU ``present``."""
        return target == present or (_AMPERE_PLUS in self.marks and covers(_AMPERE_PLUS, present))


def covers(hardware: str, present: str | None) -> bool:
    """Whether engines of that hardware level run on the GPU ``present``, whatever their own target is."""
    return hardware == _AMPERE_PLUS and present is not None and int(present.removeprefix("sm_")) >= _LEAST_AMPERE


def read_profile_name(name: str) -> ProfileName:
    """The parts of a name, of ``TensorRtSettings.profile_name`` or of other engines."""
    parts = name.split("-")
    found = [match for part in parts if (match := _SIZE.fullmatch(part))]
    sizes = tuple(VideoSize(*(int(number) for number in match.groups())) for match in found)
    return ProfileName(sizes, tuple(part for part in parts if not _SIZE.fullmatch(part)))
