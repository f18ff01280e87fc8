"""The CUDA driver through ctypes: compiled kernels loaded and launched, without a compiler. Not yet run on a GPU.

Signatures are those of cuda.h; every call returns 0 or an error number, which becomes an EngineError.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from anyflow_rt.errors import EngineError

LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_MAX_DYNAMIC_SHARED_BYTES = 8
"""CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""


def open_driver() -> ctypes.CDLL:
    """The driver's library. Raises EngineError where there is none."""
    for name in LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise EngineError("this machine has no NVIDIA driver (libcuda); install one, or run on the CPU")


class LoadedKernel:
    """One kernel of a cubin, in the context of one GPU; it stays loaded as long as the process."""

    def __init__(self, cubin: bytes, name: str, device: int, shared_bytes: int) -> None:
        """Load ``name`` for the GPU number ``device``, with up to ``shared_bytes`` of dynamic shared memory a block."""
        self._driver = open_driver()
        self._device, self._shared_bytes = device, shared_bytes
        self._ensure_context()
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuModuleLoadData", ctypes.byref(module), cubin)
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        self._call("cuFuncSetAttribute", function, ctypes.c_int(_MAX_DYNAMIC_SHARED_BYTES), ctypes.c_int(shared_bytes))
        self._function = function

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
            raise EngineError(f"{name} failed with error {code} ({(text.value or b'unknown').decode()})")
