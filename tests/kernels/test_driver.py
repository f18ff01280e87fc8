"""Which code a driver is given, and what is said where it takes none. The driver is a stand-in: none is at hand."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import pytest
from support.kernels import KERNEL

from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import driver
from anyflow_rt.kernels.driver import DriverError, LoadedKernel

PTX = "// code of another version"
COMPILED = replace(KERNEL, ptx=PTX, shared_bytes=4096)


class Driver:
    """Answers as cuda.h says; ``refused``: code -> error number of loading it."""

    def __init__(self, refused: dict[bytes, int]) -> None:
        self.refused = refused
        self.called: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.called.append((name, arguments))
            if name == "cuModuleLoadData":
                return self.refused.get(arguments[1], 0)
            if name == "cuGetErrorString":
                ctypes.cast(arguments[1], ctypes.POINTER(ctypes.c_char_p))[0] = b"no kernel image is available"
            if name == "cuDriverGetVersion":
                ctypes.cast(arguments[0], ctypes.POINTER(ctypes.c_int))[0] = 12020
            return 0

        return call

    def loaded(self) -> list[bytes]:
        return [arguments[1] for name, arguments in self.called if name == "cuModuleLoadData"]


def load(monkeypatch: pytest.MonkeyPatch, refused: dict[bytes, int]) -> Driver:
    stand_in = Driver(refused)
    monkeypatch.setattr(driver, "open_driver", lambda: stand_in)
    LoadedKernel(COMPILED, 0)
    return stand_in


TEXT = PTX.encode() + b"\0"


def test_the_cubin_is_what_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, {}).loaded() == [COMPILED.cubin]


@pytest.mark.parametrize("code", [200, 209, 218, 222])
def test_a_driver_that_cannot_run_the_cubin_gets_the_ptx(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = load(monkeypatch, {COMPILED.cubin: code})
    assert stand_in.loaded() == [COMPILED.cubin, TEXT]
    (attribute,) = [arguments for name, arguments in stand_in.called if name == "cuFuncSetAttribute"]
    assert attribute[2].value == 4096


def test_where_neither_loads_the_drivers_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    message = (
        "_kernel, compiled for sm_89, does not load: as cubin cuModuleLoadData failed with error 209 .no kernel image "
        r"is available.; as PTX 8\.0 cuModuleLoadData failed with error 222 .*; the driver is for CUDA 12\.2: update it"
    )
    with pytest.raises(EngineError, match=message):
        load(monkeypatch, {COMPILED.cubin: 209, TEXT: 222})


def test_other_failures_are_not_taken_for_old_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DriverError, match="cuModuleLoadData failed with error 2 ") as raised:
        load(monkeypatch, {COMPILED.cubin: 2})
    assert raised.value.code == 2
