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
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from anyflow_rt.errors import UsageError
from anyflow_rt.kernels.aot import compile_launch
from anyflow_rt.kernels.figures import Figures, counted
from anyflow_rt.kernels.launch import Launch
from anyflow_rt.kernels.package import triton


def yardstick_figures(file: Path, targets: tuple[int, ...]) -> Iterator[Figures]:
    """Figures of every launch of the file. Raises UsageError where the file is not there or is not as it should be."""
    module = _load(file)
    for target in targets:
        for name, launch in module.launches(target).items():
            if not isinstance(launch, Launch):
                raise UsageError(f"{file}: launches({target})[{name!r}] is a {type(launch).__name__}; give a Launch")
            try:
                kernel = compile_launch(launch, target, embeddable=False)
            except triton.CompilationError as error:
                raise UsageError(f"{file}: {name!r} does not compile for sm_{target}: {error}") from error
            work = module.work(name, launch) if hasattr(module, "work") else None
            yield counted(launch.kernel.op, name, kernel, work)


def _load(file: Path) -> ModuleType:
    """Run the file: the user asked for it by name."""
    spec = importlib.util.spec_from_file_location("anyflow_rt_yardstick", file) if file.is_file() else None
    if spec is None or spec.loader is None:
        raise UsageError(f"--yardstick {file} is no Python file; give one that defines launches(target)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(getattr(module, "launches", None)):
        raise UsageError(f"{file} has no function launches(target); see benchmarks/kernels/yardstick.py")
    return module
