"""NVML's figures are those of the GPU that CUDA uses, which is not always the machine's first."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from anyflow_rt.engines import gpu, nvml


class Driver:
    """The CUDA driver of a machine whose second GPU is the only one that is visible."""

    def cuInit(self, flags: int) -> int:
        return flags

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = 40 + index
        return 0

    def cuDeviceGetAttribute(self, number: Any, attribute: int, device: ctypes.c_int) -> int:
        number._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuDeviceGetPCIBusId(self, place: Any, size: int, device: ctypes.c_int) -> int:
        assert size == len(place)
        place.value = f"0000:{device.value}:00.0".encode()
        return 0


class Nvml:
    """Of the same machine, as far as finding a GPU goes."""

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> str:
        return f"the GPU at {place}"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(gpu, "open_driver", Driver)
    for asked in (gpu.present_target, gpu.present_bus_id):
        asked.cache_clear()
    yield
    for asked in (gpu.present_target, gpu.present_bus_id):
        asked.cache_clear()


def test_the_gpu_that_cuda_counts_first(driver: None) -> None:
    assert (gpu.present_target(), gpu.present_bus_id()) == ("sm_89", "0000:40:00.0")
    assert nvml.visible_gpu(Nvml()) == "the GPU at 0000:40:00.0"


def test_none_where_cuda_sees_none(driver: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Driver, "cuDeviceGet", lambda self, device, index: 101)
    assert gpu.present_bus_id() is None and nvml.visible_gpu(Nvml()) is None
