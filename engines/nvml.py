"""What NVIDIA's driver says of the GPU: through nvidia-ml-py (``pynvml``), where it is installed, and only when asked.

Names and constants are tested against that package; on a GPU this module has not been run: unverified.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyflow_rt.engines.gpu import present_bus_id

DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-ctrl", "/dev/nvmap")
"""What NVIDIA's driver makes on Linux: on its own, under WSL, on Jetson."""

EVENT_REASONS = {
    "gpu idle": "nvmlClocksEventReasonGpuIdle",
    "applications clocks setting": "nvmlClocksEventReasonApplicationsClocksSetting",
    "software power cap": "nvmlClocksEventReasonSwPowerCap",
    "hardware slowdown": "nvmlClocksEventReasonHwSlowdown",
    "sync boost": "nvmlClocksEventReasonSyncBoost",
    "software thermal slowdown": "nvmlClocksEventReasonSwThermalSlowdown",
    "hardware thermal slowdown": "nvmlClocksEventReasonHwThermalSlowdown",
    "hardware power brake slowdown": "nvmlClocksEventReasonHwPowerBrakeSlowdown",
    "display clock setting": "nvmlClocksEventReasonDisplayClockSetting",
}
"""Our name of a clock-event reason -> the constant of nvidia-ml-py that is its bit."""
SLOWDOWNS = (
    "hardware slowdown",
    "software thermal slowdown",
    "hardware thermal slowdown",
    "hardware power brake slowdown",
)
"""Reasons that make a measurement invalid: too hot, or too little power. A power cap is how a GPU is meant to run."""


@dataclass(frozen=True)
class GpuFigures:
    """Of one run. memory_used, memory_total: bytes, of all processes, at its end. joules: of the whole GPU during it.
    watts, watts_limit, megahertz (of the multiprocessors), celsius: at its end. events: why clocks were lowered at
    its end, of ``EVENT_REASONS``. None: this GPU does not say."""

    name: str
    driver: str
    memory_used: int | None
    memory_total: int | None
    joules: float | None
    watts: float | None
    watts_limit: float | None
    megahertz: int | None
    celsius: int | None
    events: tuple[str, ...]


def event_names(bits: int) -> tuple[str, ...]:
    """The clock-event reasons that are set in the driver's bit mask. Needs nvidia-ml-py."""
    import pynvml

    return tuple(name for name, constant in EVENT_REASONS.items() if bits & getattr(pynvml, constant))


def visible_gpu(nvml: Any) -> Any:
    """NVML's handle of the GPU that CUDA counts first, by its place on the bus: NVML itself counts all that the machine
    has, whatever CUDA_VISIBLE_DEVICES says. None where CUDA sees none. Raises NVMLError."""
    place = present_bus_id()
    return None if place is None else nvml.nvmlDeviceGetHandleByPciBusId(place)


class GpuMeter:
    """CUDA's first visible GPU from now on: ``read`` gives the figures since then, None where nobody can be asked."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._nvml = self._stack.enter_context(open_nvml())
        self._handle = None if self._nvml is None else self._ask(lambda: visible_gpu(self._nvml))
        self._before = None if self._handle is None else self._joules()

    def read(self) -> GpuFigures | None:
        """Until now."""
        return None if self._handle is None else self._read()

    def close(self) -> None:
        """Let go of the driver; a second call does nothing."""
        self._handle = None
        self._stack.close()

    def _read(self) -> GpuFigures:
        nvml, after = self._nvml, self._joules()
        memory = self._of(nvml.nvmlDeviceGetMemoryInfo)
        power, limit = self._of(nvml.nvmlDeviceGetPowerUsage), self._of(nvml.nvmlDeviceGetEnforcedPowerLimit)
        return GpuFigures(
            name=str(self._of(nvml.nvmlDeviceGetName)),
            driver=str(self._ask(nvml.nvmlSystemGetDriverVersion)),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            joules=None if after is None or self._before is None else after - self._before,
            watts=None if power is None else power / 1000,
            watts_limit=None if limit is None else limit / 1000,
            megahertz=self._of(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            celsius=self._of(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            events=event_names(int(self._of(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0)),
        )

    def _joules(self) -> float | None:
        """Energy since the driver was loaded; GPUs count it from Volta on."""
        millijoules = self._of(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1000

    def _of(self, query: Callable[..., Any], *arguments: Any) -> Any:
        return None if self._handle is None else self._ask(lambda: query(self._handle, *arguments))

    def _ask(self, query: Callable[[], Any]) -> Any:
        """What the driver answers; None for what this GPU does not have, or the driver fails at."""
        try:
            return query()
        except self._nvml.NVMLError:
            return None


@contextlib.contextmanager
def open_nvml() -> Iterator[Any]:
    """The pynvml module between init and shutdown, or None where it, a GPU or the driver is not there."""
    if sys.platform == "linux" and not any(Path(each).exists() for each in DEVICES):
        yield None  # the driver's library is not even looked for
        return
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None  # no driver, none loaded, none that we may ask
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
