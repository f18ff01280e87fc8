"""What the tests of every kernel share: tolerances, guarded buffers, and an interpreter that checks each access."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from anyflow_rt.kernels.aot import CompiledKernel
from anyflow_rt.kernels.entry import Parameter
from anyflow_rt.kernels.package import INTERPRETED

DEVICE = "cpu" if INTERPRETED else "cuda"

TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.float16: (2e-3, 2e-3), torch.bfloat16: (1.6e-2, 1.6e-2)}
"""(relative, absolute) by the type of an output, against the float32 reference of the same inputs: two units in the
last place of 16-bit outputs, whose inputs are of order one."""

INT8_ERROR = 2e-2
"""Of attention with 8-bit scores: root of the mean square error over that of the output. Measured: 1.1e-2."""

GUARD = 64
"""Bytes on each side of a buffer."""

PATTERN = 0xA5

KERNEL = CompiledKernel(
    op="flow_map_update",
    name="_kernel",
    target=89,
    key="0" * 64,
    grid=("cdiv(rows, BLOCK)",),
    parameters=(Parameter("tokens", "*bf16"), Parameter("rows", "i32")),
    constants={"BLOCK": 4, "bias": None},
    extents=("batch",),
    warps=4,
    shared_bytes=0,
    tensor_memory=0,
    ptx_version=80,
    compiler="none",
    cubin=b"\x7fELF",
    ptx=".visible .entry _kernel(\n.param .u64 .ptr .global .align 1 a,\n.param .u32 b,\n"
    ".param .u64 .ptr .global .align 1 c,\n.param .u64 .ptr .global .align 1 d\n)\n",
)
"""A compiled kernel without code, to be changed as a test wants it."""


def assert_close(found: Tensor, expected: Tensor, scale: float = 1.0) -> None:
    """Within the tolerance of ``found``'s dtype, ``scale`` times for sums of that many roundings."""
    relative, absolute = TOLERANCES[found.dtype]
    torch.testing.assert_close(
        found.float(), expected.float(), rtol=scale * relative, atol=scale * absolute, check_device=False
    )


class Memory:
    """Buffers between guards. ``tensor`` copies an input into one, ``allocate`` is an output full of NaN."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def tensor(self, values: Tensor) -> Tensor:
        """A dense copy of ``values`` between guards."""
        size = values.numel() * values.element_size()
        padded = -(-size // GUARD) * GUARD
        raw = torch.full((GUARD + padded + GUARD,), PATTERN, dtype=torch.uint8, device=DEVICE)
        self._buffers.append(raw[:GUARD])
        self._buffers.append(raw[GUARD + size :])
        inner = raw[GUARD : GUARD + size].view(values.dtype).view(values.shape)
        inner.copy_(values)
        return inner

    def allocate(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Stands in for ``launch.allocate``: an element that no kernel writes stays NaN."""
        if device.type == "meta":
            return torch.empty(shape, dtype=dtype, device=device)
        filler = torch.nan if dtype.is_floating_point else 0
        return self.tensor(torch.full(shape, filler, dtype=dtype, device=device))

    def check(self) -> None:
        """Every guard is as it was."""
        for guard in self._buffers:
            assert bool((guard == PATTERN).all()), "a kernel wrote outside its buffers"


def tensors(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(shape, generator=generator)).to(dtype)


def element_addresses(tensor: Tensor) -> np.ndarray:
    """Of every element, sorted; of a view with gaps (values in a packed projection) without what lies in the gaps."""
    addresses = np.array([tensor.data_ptr()], np.int64)
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        steps = np.arange(size, dtype=np.int64) * (stride * tensor.element_size())
        addresses = (addresses[:, None] + steps).ravel()
    return np.unique(addresses)


@contextmanager
def checked_accesses(allowed: list[Tensor]) -> Iterator[None]:
    """Under the interpreter: every address that a kernel loads or stores is that of an element of one of ``allowed``.

    Guards show only stray writes; this shows stray reads as well, also those whose value is thrown away.
    """
    if not INTERPRETED:
        yield
        return
    from triton.runtime import interpreter

    plain = interpreter._interpreter
    nowhere, known = np.zeros(1, np.int64), {}
    for size in {tensor.element_size() for tensor in allowed}:
        places = [element_addresses(tensor) for tensor in allowed if tensor.element_size() == size]
        known[size] = np.unique(np.concatenate([nowhere, *places]))

    def check(pointers: np.ndarray, mask: np.ndarray, size: int) -> None:
        asked = (
            np.asarray(pointers)[np.broadcast_to(np.asarray(mask, bool), np.shape(pointers))].ravel().astype(np.int64)
        )
        places = known.get(size, nowhere)
        inside = places[np.searchsorted(places, asked).clip(max=len(places) - 1)] == asked
        assert inside.all(), f"{(~inside).sum()} accesses that are of no tensor's element"

    class Checked:
        def __getattr__(self, name: str) -> object:
            return getattr(plain, name)

        def load(self, pointers: np.ndarray, mask: np.ndarray, other: np.ndarray, dtype: type) -> np.ndarray:
            check(pointers, mask, np.dtype(dtype).itemsize)
            return plain.load(pointers, mask, other, dtype)

        def store(self, pointers: np.ndarray, value: np.ndarray, mask: np.ndarray) -> None:
            check(pointers, mask, value.dtype.itemsize)
            plain.store(pointers, value, mask)

    interpreter._interpreter = Checked()
    try:
        yield
    finally:
        interpreter._interpreter = plain
