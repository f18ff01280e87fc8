"""The NVIDIA GPU of this machine, asked of its driver: no torch, no CUDA toolkit, a few milliseconds."""

from __future__ import annotations

import ctypes
import functools

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.driver import open_driver

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@functools.cache
def present_target() -> str | None:
    """``sm_89`` and the like of the first visible GPU; None without one, or without a driver that can use it."""
    try:
        driver = open_driver()
    except EngineError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for number, attribute in ((major, _CAPABILITY_MAJOR), (minor, _CAPABILITY_MINOR)):
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
    return f"sm_{major.value}{minor.value}"
