"""A launch as a value: kernel, arguments, constants, grid. The ops make one, then run it; ``aot`` compiles it instead.

Because both paths start from the same ``Launch``, what is compiled ahead of time is what would run. Tensors on the
``meta`` device are enough to compile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.grid import evaluate
from anyflow_rt.kernels.package import INTERPRETED

INTERPRETER = 0
"""The target of ``configuration`` tables when kernels are interpreted: small blocks, no tensor cores."""

LARGEST_GRID = (2**31 - 1, 65535, 65535)
"""Programs along each axis (CUDA C++ programming guide, compute capabilities)."""

Argument = Tensor | int | float | None
Constant = int | float | bool | str | None


@dataclass(frozen=True)
class Kernel:
    """A Triton function and its grid. ``op`` is the folder it lives in.

    Tensors read, numbers, tensors written, constants: arguments in this order are what TensorRT launches a kernel with.
    """

    op: str
    function: Any
    grid: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """One launch. ``arguments`` are in the kernel's order; None is an argument that the kernel compiles away.

    ``extents`` are sizes that the grid needs and the kernel does not.
    """

    kernel: Kernel
    arguments: Mapping[str, Argument]
    constants: Mapping[str, Constant]
    extents: Mapping[str, int] = field(default_factory=dict)
    warps: int = 4
    stages: int = 2

    @property
    def grid(self) -> tuple[int, ...]:
        """Programs along each axis."""
        values = {**self.arguments, **self.constants, **self.extents}
        return tuple(evaluate(formula, values) for formula in self.kernel.grid)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensor arguments."""
        return {name: value for name, value in self.arguments.items() if isinstance(value, Tensor)}

    def run(self) -> None:
        """Launch on the tensors' device and current stream; a grid without programs launches nothing.

        Inside ``recording`` it is noted down instead.

        Raises EngineError where the tensors are on a device that the kernels cannot run on, or on several.
        """
        noted = _RECORDING.get()
        if noted is not None:
            noted.launches.append(self)
            return
        device = self.device()
        grid = self.grid
        if 0 in grid:
            return
        check_grid(self.kernel.op, grid)
        options = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}
        with _on(device):
            if not any(launcher(self, device) for launcher in LAUNCHERS):
                self.kernel.function[grid](**self.arguments, **self.constants, **options)

    def device(self) -> torch.device:
        """Where it runs. Raises as ``run``."""
        wanted = "cpu" if INTERPRETED else "cuda"
        first: tuple[str, torch.device] | None = None
        for name, tensor in self.tensors.items():
            if tensor.device.type != wanted:
                why = "the kernels are interpreted" if INTERPRETED else "set TRITON_INTERPRET=1 to interpret on a CPU"
                raise EngineError(f"{name} is on {tensor.device}; accepted: {wanted} ({why})")
            first = first or (name, tensor.device)
            if tensor.device != first[1]:
                raise EngineError(f"{name} is on {tensor.device}, {first[0]} on {first[1]}; one device is needed")
        if first is None:
            raise EngineError(f"a launch of {self.kernel.op} has no tensors")
        return first[1]


def _on(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Makes the device of the tensors the current one, for whoever launches."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def check_grid(op: str, grid: tuple[int, ...]) -> None:
    """Raise EngineError where a GPU has no such grid."""
    if any(size > most for size, most in zip(grid, LARGEST_GRID, strict=False)):
        raise EngineError(f"{op} would be launched as {grid} programs; accepted: at most {LARGEST_GRID[: len(grid)]}")


LAUNCHERS: list[Callable[[Launch, torch.device], bool]] = []
"""Asked before Triton compiles a launch for the GPU: True if it was run in another way (``packed``)."""


@dataclass
class Recording:
    """What would have been launched on ``target``, in order."""

    target: int
    launches: list[Launch] = field(default_factory=list)


_RECORDING: ContextVar[Recording | None] = ContextVar("recording", default=None)


@contextlib.contextmanager
def recording(target: int) -> Iterator[Recording]:
    """Note down every launch of the block, planned for ``target``, and run none: tensors on ``meta`` will do."""
    token = _RECORDING.set(Recording(target))
    try:
        noted = _RECORDING.get()
        assert noted is not None
        yield noted
    finally:
        _RECORDING.reset(token)


def is_recording() -> bool:
    """Whether launches are noted down, not run."""
    return _RECORDING.get() is not None


def target_of(tensor: Tensor) -> int:
    """Compute capability of the tensor's GPU as one number (89 for 8.9), or ``INTERPRETER``."""
    noted = _RECORDING.get()
    if noted is not None:
        return noted.target
    if tensor.device.type != "cuda":
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def allocate(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised output. The one place where ops allocate, so that tests can put guards around it."""
    return torch.empty(shape, dtype=dtype, device=device)


def power_of_two(number: int) -> int:
    """The smallest power of two that is at least ``number``."""
    return 1 << max(number - 1, 0).bit_length()
