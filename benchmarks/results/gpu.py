"""What NVIDIA's driver says of a GPU while it is measured: memory, energy, clocks, and why clocks were lowered.

Through nvidia-ml-py (``pynvml``), imported only here and only when asked. Names and constants are tested against that
package; on a GPU this module has not been run: unverified.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from anyflow_rt.benchmarks.results.values import UNKNOWN, GpuDevice, GpuReadings
from anyflow_rt.engines.nvml import SLOWDOWNS, event_names, open_nvml, visible_gpu

INTERVAL_SECONDS = 0.1


def invalid_reasons(readings: GpuReadings | None) -> tuple[str, ...]:
    """Why times measured meanwhile mean nothing, for ``Results.invalid_reasons``; empty where they do."""
    events = readings.events if readings is not None else ()
    return tuple(f"the GPU was slowed down during the run: {name}" for name in SLOWDOWNS if name in events)


def describe_gpus() -> tuple[GpuDevice, ...]:
    """The NVIDIA GPUs of this machine; none where nvidia-ml-py or the driver is not there, or cannot be asked."""
    with open_nvml() as nvml:
        if nvml is None:
            return ()
        try:
            driver = str(nvml.nvmlSystemGetDriverVersion())
            handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
            return tuple(
                GpuDevice(str(nvml.nvmlDeviceGetName(handle)), int(nvml.nvmlDeviceGetMemoryInfo(handle).total), driver)
                for handle in handles
            )
        except nvml.NVMLError:
            return ()  # a machine is described as far as it says; GpuWatch names the fault


class GpuWatch:
    """A context manager that samples one GPU in a thread, every tenth of a second, until it is left.

    ``readings`` then holds what was seen, or None where there is no GPU to ask; ``fault`` is what the driver failed at,
    in a sentence, or None. ``uuid`` chooses the GPU; otherwise it is the first that CUDA sees. Memory in use is that of
    all processes.
    """

    def __init__(self, uuid: str | None = None) -> None:
        self.readings: GpuReadings | None = None
        self.fault: str | None = None
        self._uuid = uuid
        self._stack = contextlib.ExitStack()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._used: list[int] = []
        self._clocks: list[int] = []
        self._bits = 0

    def __enter__(self) -> Self:
        nvml = self._stack.enter_context(open_nvml())
        if nvml is None:
            return self
        try:
            if nvml.nvmlDeviceGetCount() == 0:
                return self
            by_uuid = nvml.nvmlDeviceGetHandleByUUID
            self._handle = visible_gpu(nvml) if self._uuid is None else by_uuid(self._uuid)
            if self._handle is None:
                return self
        except nvml.NVMLError as error:
            self._note(error)
            return self
        self._nvml = nvml
        self._energy = self._joules()
        self._sample()
        self._thread = threading.Thread(target=self._run, name="gpu-watch", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._thread is None:
                return
            self._stop.set()
            self._thread.join()
            self._sample()
            after = self._joules()
            self.readings = GpuReadings(
                device=str(self._ask(self._nvml.nvmlDeviceGetName) or UNKNOWN),
                used=tuple(self._used),
                clocks=tuple(self._clocks),
                events=event_names(self._bits),
                energy=None if self._energy is None or after is None else after - self._energy,
            )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._sample()

    def _sample(self) -> None:
        nvml = self._nvml
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo)
        clock = self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM)
        self._used += [] if memory is None else [int(memory.used)]
        self._clocks += [] if clock is None else [int(clock)]
        self._bits |= int(self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0)

    def _joules(self) -> float | None:
        """Energy since the driver was loaded; GPUs count it from Volta on."""
        millijoules = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1000

    def _ask(self, query: Callable[..., Any], *arguments: Any) -> Any:
        """What the driver answers, None where this GPU does not have it."""
        try:
            return query(self._handle, *arguments)
        except self._nvml.NVMLError_NotSupported:
            return None
        except self._nvml.NVMLError as error:
            self._note(error)
            return None

    def _note(self, error: Exception) -> None:
        """Keep the first fault; a measurement goes on without what the driver would have said."""
        self.fault = self.fault or f"the GPU was not watched throughout: its driver says: {error}"
