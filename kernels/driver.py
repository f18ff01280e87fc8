"""The CUDA driver through ctypes: compiled kernels loaded and launched, without a compiler. Not yet run on a GPU.

Signatures are those of cuda.h; every call returns 0 or an error number, which becomes an EngineError.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from anyflow_rt.errors import EngineError

if TYPE_CHECKING:
    from anyflow_rt.kernels.aot import CompiledKernel

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_MAX_DYNAMIC_SHARED_BYTES = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
_WRONG_DEVICE_CODE = (200, 209, 218, 222)
"""INVALID_IMAGE, NO_BINARY_FOR_GPU, INVALID_PTX, UNSUPPORTED_PTX_VERSION: code that this driver or GPU cannot run."""


def open_driver() -> ctypes.CDLL:
    """The driver's library. Raises EngineError where there is none."""
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineError("this machine has no NVIDIA driver (libcuda); install one, or run on the CPU")


class DriverError(EngineError):
    """A call to the driver failed; ``code`` is its error number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class LoadedKernel:
    """One compiled kernel in the context of one GPU; it stays loaded as long as the process."""

    def __init__(self, kernel: CompiledKernel, device: int) -> None:
        """Load ``kernel`` for the GPU number ``device``: its cubin or, where that does not load, its PTX.

        Raises EngineError, with the driver's version and the mend, where neither loads.
        """
        self._driver = open_driver()
        self._device, self._shared_bytes = device, kernel.shared_bytes
        self._ensure_context()
        module, function = self._load(kernel), ctypes.c_void_p()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, kernel.name.encode())
        self._call(
            "cuFuncSetAttribute", function, ctypes.c_int(_MAX_DYNAMIC_SHARED_BYTES), ctypes.c_int(kernel.shared_bytes)
        )
        self._function = function

    def _load(self, kernel: CompiledKernel) -> ctypes.c_void_p:
        """The module of the cubin; else that of the PTX, which the driver compiles."""
        module = ctypes.c_void_p()
        try:
            self._call("cuModuleLoadData", ctypes.byref(module), kernel.cubin)
        except DriverError as of_cubin:
            if of_cubin.code not in _WRONG_DEVICE_CODE:
                raise
            try:
                self._call("cuModuleLoadData", ctypes.byref(module), kernel.ptx.encode() + b"\0")
            except DriverError as of_ptx:
                raise EngineError(
                    f"{kernel.name}, compiled for sm_{kernel.target}, does not load: as cubin {of_cubin}; as PTX "
                    f"{kernel.ptx_version / 10} {of_ptx}; the driver is for CUDA {self.version}: update it, or build "
                    "the bundle for this machine's GPU"
                ) from of_ptx
        return module

    @property
    def version(self) -> str:
        """The CUDA version that the driver is for, ``12.4``."""
        number = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(number))
        return f"{number.value // 1000}.{number.value % 1000 // 10}"

    def launch(self, grid: Sequence[int], threads: int, stream: int, arguments: Sequence[ctypes._SimpleCData]) -> None:
        """Run it once: ``grid`` of up to three sizes, ``threads`` a block, ``arguments`` in the entry's order."""
        self._ensure_context()
        sizes = [*grid, 1, 1][:3]
        pointers = (ctypes.c_void_p * len(arguments))(*(ctypes.addressof(argument) for argument in arguments))
        numbers = [ctypes.c_uint(number) for number in (*sizes, threads, 1, 1, self._shared_bytes)]
        self._call("cuLaunchKernel", self._function, *numbers, ctypes.c_void_p(stream), pointers, None)

    def _ensure_context(self) -> None:
        """A thread that torch has not used yet has no context: give it the device's primary one, torch's own."""
        context = ctypes.c_void_p()
        self._call("cuCtxGetCurrent", ctypes.byref(context))
        if not context.value:
            device = ctypes.c_int()
            self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(self._device))
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
            self._call("cuCtxSetCurrent", context)

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._driver, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(code), ctypes.byref(text))
            message = f"{name} failed with error {code} ({(text.value or b'unknown').decode()})"
            raise DriverError(message, code)
