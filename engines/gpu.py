"""The NVIDIA GPU of this machine, asked of its driver: no torch, no CUDA toolkit, a few milliseconds."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.driver import open_driver

_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h."""


@functools.cache
def driver_version() -> str | None:
    """``580.95.05`` and the like, as the loaded kernel module says it; None where there is none to ask."""
    try:
        words = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word.count(".") >= 1 and word.replace(".", "").isdigit()), None)


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
