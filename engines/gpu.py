"""The NVIDIA GPU of this machine, asked of its driver: no torch, no CUDA toolkit, a few milliseconds."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels.driver import open_driver

_BUS_ID_BYTES = 32
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


@functools.cache
def present_bus_id() -> str | None:
    """Where the first visible GPU is on the PCI bus, ``0000:65:00.0`` and the like: what CUDA_VISIBLE_DEVICES changes
    and other interfaces of the driver do not look at. None as of ``present_target``."""
    if present_target() is None:
        return None
    driver, device, place = open_driver(), ctypes.c_int(), ctypes.create_string_buffer(_BUS_ID_BYTES)
    if driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetPCIBusId(place, _BUS_ID_BYTES, device):
        return None
    return place.value.decode("ascii")
