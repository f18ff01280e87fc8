"""Kernels compiled elsewhere, launched here: a launch that a folder holds compiled is run from there.

Found by ``aot.launch_key``, which covers source, compiler version, types and constants: what was compiled of another
source, or for another video, is never run; Triton then compiles that launch itself. Not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.kernels.aot import CompiledKernel, launch_key, load_kernel
from anyflow_rt.kernels.checks import check_index
from anyflow_rt.kernels.driver import LoadedKernel
from anyflow_rt.kernels.entry import HIDDEN
from anyflow_rt.kernels.launch import LAUNCHERS, Argument, Launch

_NUMBERS: dict[str, Any] = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}


class KernelPack:
    """The compiled kernels of ``folder`` for one target, where launches look first from ``install`` to ``remove``."""

    def __init__(self, folder: Path, target: int) -> None:
        """Read every kernel. Raises EngineError for one that is damaged."""
        self.target = target
        kernels = (load_kernel(path) for path in sorted(folder.glob(f"*-sm_{target}-*.json")))
        self.kernels: dict[str, CompiledKernel] = {kernel.key: kernel for kernel in kernels}
        self._loaded: dict[tuple[str, int], LoadedKernel] = {}

    def find(self, launch: Launch) -> CompiledKernel | None:
        """The compiled form of ``launch``, if it is here."""
        return self.kernels.get(launch_key(launch, self.target))

    def install(self) -> None:
        """Let every later launch on a GPU look here before Triton compiles it."""
        LAUNCHERS.append(self._launch)

    def remove(self) -> None:
        """Undo ``install``."""
        LAUNCHERS.remove(self._launch)

    def _launch(self, launch: Launch, device: torch.device) -> bool:
        if device.type != "cuda":
            return False
        kernel = self.find(launch)
        if kernel is None:
            return False
        number = torch.cuda.current_device() if device.index is None else device.index
        loaded = self._loaded.get((kernel.key, number))
        if loaded is None:
            loaded = LoadedKernel(kernel, number)
            self._loaded[kernel.key, number] = loaded
        stream = torch.cuda.current_stream(device).cuda_stream
        loaded.launch(launch.grid, 32 * kernel.warps, stream, entry_arguments(kernel, launch.arguments))
        return True


def entry_arguments(kernel: CompiledKernel, arguments: Mapping[str, Argument]) -> list[ctypes._SimpleCData]:
    """``arguments`` as the kernel's entry takes them: addresses and numbers in its order, then null pointers."""
    values: list[ctypes._SimpleCData] = []
    for parameter in kernel.parameters:
        value = arguments[parameter.name]
        assert value is not None, f"{parameter.name} was compiled away"
        if isinstance(value, Tensor):
            values.append(ctypes.c_uint64(value.data_ptr()))
        else:
            if parameter.type == "i32":
                check_index(parameter.name, int(value))
            number: ctypes._SimpleCData = _NUMBERS[parameter.type](value)
            values.append(number)
    return values + [ctypes.c_uint64(0) for _ in range(HIDDEN)]
