"""What a launch has to move and to compute, and what its source asks memory for: the yardstick of compiled code.

Two counts of bytes for each tensor. *Once*: every byte that is needed, one time; no kernel can do with less. *Asked*:
what the programs of the launch ask for, masks respected: a vector that every program reads counts once a program.
Caches may answer part of that. *Lanes* is the same with every lane of every block awake, masks or not, which is what
machine code shows: it tells whether the compiler asks for more than the source does.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from torch import Tensor

from anyflow_rt.kernels.launch import Launch


@dataclass(frozen=True)
class Stream:
    """One tensor's bytes. ``lanes`` are a program's; 0 where threads share one address and no count can be expected.

    ``inner``: in the loop over keys of an op that reads far more than it writes.
    """

    name: str
    once: int
    asked: int
    lanes: int = 0
    stored: bool = False
    inner: bool = False


@dataclass(frozen=True)
class Work:
    """``elements``: that the op makes; per-element figures are of them. ``matrix_operations``: multiplications and
    additions of 16-bit matrix products, ``int8_operations`` of 8-bit ones. ``operations``: of everything else, in
    float32, roughly. ``trips``: of the loops, where stores cannot tell (``traffic``)."""

    streams: tuple[Stream, ...]
    elements: int
    matrix_operations: int = 0
    int8_operations: int = 0
    operations: int = 0
    trips: tuple[int, ...] = ()

    @property
    def once(self) -> int:
        """The least bytes that the op can move."""
        return sum(stream.once for stream in self.streams)

    @property
    def asked(self) -> int:
        """The bytes that its programs ask for."""
        return sum(stream.asked for stream in self.streams)


def work_of(launch: Launch) -> Work:
    """The work of a launch of any op."""
    found: Work = importlib.import_module(f"anyflow_rt.kernels.{launch.kernel.op}.work").work(launch)
    return found


def stored_bytes(tensor: Tensor) -> int:
    """Of its elements, whatever its strides."""
    return tensor.numel() * tensor.element_size()


def whole(name: str, tensor: Tensor, lanes: int, *, stored: bool = False) -> Stream:
    """A tensor whose elements are all touched once; ``lanes`` in elements."""
    size = stored_bytes(tensor)
    return Stream(name, size, size, lanes * tensor.element_size(), stored)


def constants_of(launch: Launch) -> dict[str, int]:
    """The compiled-in sizes."""
    return {name: value for name, value in launch.constants.items() if isinstance(value, int)}


def programs_of(launch: Launch) -> int:
    """How many programs the launch has."""
    count = 1
    for axis in launch.grid:
        count *= axis
    return count
