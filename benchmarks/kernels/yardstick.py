"""Somebody else's Triton kernels under the same microscope, from a file that the user gives.

The published attention tutorial is the usual one; it is not part of this package. The file defines

    def launches(target: int) -> dict[str, Launch]

with ``Kernel`` and ``Launch`` from ``anyflow_rt.kernels.launch``: name -> a Triton function, its arguments (tensors on
the ``meta`` device will do), its constants, warps and stages. For a target it has nothing for, it returns {}. It may
also define

    def work(name: str, launch: Launch) -> Work

with ``Work`` from ``anyflow_rt.kernels.work``; then bytes are counted too, with the trips of loops that ``work`` says.
The tutorial asks the driver for a GPU when it is imported: where there is none, copy its kernels into the file. Give
sizes and strides as constants: what is compiled in is known to be aligned, as Triton's own launcher finds out of
arguments when it runs; and take one of the configurations instead of the autotuner::

    def launches(target):
        q, k, v, o = (torch.empty(12 * 32768, 128, dtype=torch.float16, device="meta") for _ in range(4))
        kernel = Kernel("yardstick", _attn_fwd, ("cdiv(N_CTX, BLOCK_M)", "H"))
        return {"tutorial": Launch(kernel, {"desc_q": q, ...}, {"N_CTX": 32768, "BLOCK_M": 128, ...}, warps=8)}
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anyflow_rt.errors import AnyflowError, UsageError
from anyflow_rt.kernels.aot import compile_launch
from anyflow_rt.kernels.figures import Figures, counted
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.work import Work


class Yardstick:
    """A file of kernels. The user asked for it by name, so it is run; whatever it does wrong is a UsageError."""

    def __init__(self, file: Path) -> None:
        """Run ``file``. Raises UsageError where it is not there or defines no ``launches``."""
        spec = importlib.util.spec_from_file_location("anyflow_rt_yardstick", file) if file.is_file() else None
        if spec is None or spec.loader is None:
            raise UsageError(f"--yardstick {file} is no Python file; give one that defines launches(target)")
        self._file, self._module = file, importlib.util.module_from_spec(spec)
        self._call("the file", spec.loader.exec_module, self._module)
        if not callable(getattr(self._module, "launches", None)):
            raise UsageError(f"{file} has no function launches(target); see benchmarks/kernels/yardstick.py")

    def figures(self, targets: tuple[int, ...]) -> Iterator[Figures]:
        """Of every launch on every target. Raises UsageError, naming the function of the file that is to blame."""
        for target in targets:
            what = f"launches({target})"
            launches = self._call(what, self._module.launches, target)
            if not isinstance(launches, Mapping):
                raise UsageError(
                    f"{self._file}: {what} gave a {type(launches).__name__}; give a dict of Launch by name"
                )
            for name, launch in launches.items():
                if not isinstance(launch, Launch):
                    raise UsageError(f"{self._file}: {what}[{name!r}] is a {type(launch).__name__}; give a Launch")
                compiled = partial(compile_launch, launch, target, embeddable=False)
                kernel = self._call(f"compiling {name!r} for sm_{target}", compiled)
                yield counted(launch.kernel.op, name, kernel, self._work(name, launch))

    def _work(self, name: str, launch: Launch) -> Work | None:
        if not hasattr(self._module, "work"):
            return None
        what = f"work({name!r}, launch)"
        work = self._call(what, self._module.work, name, launch)
        if not isinstance(work, Work):
            raise UsageError(f"{self._file}: {what} gave a {type(work).__name__}; give a Work")
        return work

    def _call(self, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """What ``function`` gives; its errors in one sentence that says whose they are."""
        try:
            return function(*arguments)
        except AnyflowError:
            raise
        except Exception as error:
            raise UsageError(
                f"{self._file}: {what} failed with {type(error).__name__}: {error}; mend the file"
            ) from error
