"""How far a TensorRT build has come: its nested phases as one number of finished parts of the outermost."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from anyflow_rt.engines.tensorrt.interrupts import Kept

Advance = Callable[[int, int], object]
"""Takes the finished steps of the whole build, and how many there are."""


def make_monitor(trt: ModuleType, advance: Advance, kept: Kept) -> Any:
    """An ``IProgressMonitor`` that reports the outermost phase. What ``advance`` raises cancels the build, and is kept
    in ``interrupted``, since it cannot pass through TensorRT. So does a signal, as soon as ``kept`` has one."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted: BaseException | None = None
            self._outermost: tuple[str, int] | None = None
            self._done = 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None and self._outermost is None:
                self._outermost = (phase, steps)

        def step_complete(self, phase: str, step: int) -> bool:
            if self._outermost is not None and phase == self._outermost[0]:
                self._tell(step + 1, self._outermost[1])
            return self.interrupted is None and kept.error is None

        def phase_finish(self, phase: str) -> None:
            if self._outermost is not None and phase == self._outermost[0]:
                steps = self._outermost[1]
                # TensorRT for RTX does not always report the last step of a phase, only its end.
                if self.interrupted is None and self._done == steps - 1:
                    self._tell(steps, steps)
                self._outermost = None

        def _tell(self, done: int, steps: int) -> None:
            self._done = done
            try:
                advance(done, steps)
            except BaseException as error:  # noqa: BLE001 - raised again by whoever asked for the build
                self.interrupted = error

    return Monitor()
