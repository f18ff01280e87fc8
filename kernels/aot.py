"""Kernels compiled for a GPU that is not here: launch -> cubin, PTX and all that is needed to launch them.

Nothing here needs a GPU or its driver. The same source, constants and options give the same bytes on any machine: line
tables, which hold paths, are left out. The cubin is what the target runs; the PTX is of a pinned, old version, so that
a driver older than the compiler can still translate it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyflow_rt.errors import EngineError, OutputError, UsageError
from anyflow_rt.kernels.checks import ALIGNMENT, LARGEST_INDEX
from anyflow_rt.kernels.entry import Parameter, check_entry
from anyflow_rt.kernels.launch import Constant, Launch
from anyflow_rt.kernels.package import INTERPRETED, triton

PTX_VERSIONS = {80: 80, 86: 80, 89: 80, 90: 83, 100: 86, 120: 87}
"""Target -> PTX version, times ten. 8.0 is that of CUDA 12.0; later targets need 8.6 and 8.7 to exist at all, and 8.3
on sm_90 is the oldest that is known to compile every kernel here."""

TARGETS = tuple(PTX_VERSIONS)

SCHEMA = 2

_TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
    torch.int8: "i8",
}


@dataclass(frozen=True)
class CompiledKernel:
    """A kernel for one target. ``parameters`` are in the order of the entry; ``HIDDEN`` null pointers follow them.

    ``grid``: formulas over parameters, ``constants`` and ``extents``. A program has ``warps`` * 32 threads and
    ``shared_bytes`` of dynamic shared memory.
    """

    op: str
    name: str
    target: int
    key: str
    grid: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    constants: dict[str, Constant]
    extents: tuple[str, ...]
    warps: int
    shared_bytes: int
    tensor_memory: int
    ptx_version: int
    compiler: str
    cubin: bytes
    ptx: str

    @property
    def metadata(self) -> dict[str, Any]:
        """All but the code, JSON-able, with the code's digests."""
        values = dataclasses.asdict(self)
        cubin, ptx = values.pop("cubin"), values.pop("ptx")
        digests = {"cubin_sha256": _digest(cubin), "ptx_sha256": _digest(ptx.encode())}
        told = {"schema": SCHEMA, **values, "grid": list(self.grid), "extents": list(self.extents), **digests}
        return {**told, "sha256": _values_digest(told)}

    @property
    def stem(self) -> str:
        """Name of its files."""
        return f"{self.op}-sm_{self.target}-{self.key[:16]}"

    def save(self, folder: Path) -> None:
        """Write ``<stem>.cubin``, ``.ptx`` and, last, ``.json``. Raises OutputError where that cannot be."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{self.stem}.cubin", self.cubin)
            write_whole(folder / f"{self.stem}.ptx", self.ptx.encode())
            told = json.dumps(self.metadata, indent=1, sort_keys=True)
            write_whole(folder / f"{self.stem}.json", told.encode() + b"\n")
        except OSError as error:
            raise OutputError(
                f"{folder} cannot take a compiled kernel ({error}); free some of it or give another folder"
            ) from error


def load_kernel(path: Path) -> CompiledKernel:
    """Read what ``save`` wrote, from its ``.json``. Raises EngineError where a file is missing or was changed."""
    try:
        values = dict(json.loads(path.read_text(encoding="utf-8")))
        cubin = path.with_suffix(".cubin").read_bytes()
        ptx = path.with_suffix(".ptx").read_bytes()
    except (OSError, ValueError, TypeError) as error:
        raise EngineError(f"{path} cannot be read as a compiled kernel ({error}); compile it again") from error
    if values.get("schema") != SCHEMA:
        raise EngineError(f"{path} is of another schema than {SCHEMA}; compile it again")
    if values.pop("sha256", None) != _values_digest(values):
        raise EngineError(f"{path} has changed since it was compiled; compile it again")
    del values["schema"]
    if (values.pop("cubin_sha256"), values.pop("ptx_sha256")) != (_digest(cubin), _digest(ptx)):
        raise EngineError(f"{path.with_suffix('.cubin')} or its PTX has changed since it was compiled; do it again")
    values["parameters"] = tuple(Parameter(**parameter) for parameter in values["parameters"])
    values["grid"], values["extents"] = tuple(values["grid"]), tuple(values["extents"])
    return CompiledKernel(**values, cubin=cubin, ptx=ptx.decode())


def compile_launch(
    launch: Launch, target: int, cache: Path | None = None, *, embeddable: bool = True
) -> CompiledKernel:
    """``launch`` for ``target``, from ``cache`` if it is there, and put there if it is not.

    Raises UsageError for a target that is not in ``TARGETS``; EngineError if kernels are interpreted, if the compiled
    kernel needs memory that a launch does not give it, or if its entry takes other arguments than the launch passes.
    Neither is asked of a kernel that is only looked at (not ``embeddable``).
    """
    if target not in PTX_VERSIONS:
        accepted = ", ".join(f"sm_{known}" for known in TARGETS)
        raise UsageError(f"no kernels for target sm_{target}; the targets are {accepted}")
    if INTERPRETED:
        raise EngineError("kernels are interpreted; unset TRITON_INTERPRET to compile them")
    types, constants = _signature(launch)
    options = _options(launch, target)
    function = launch.kernel.function
    pointers = [name for name, kind in types.items() if kind.startswith("*")]
    key = launch_key(launch, target)
    stored = cache / f"{launch.kernel.op}-sm_{target}-{key[:16]}.json" if cache else None
    if stored and stored.exists():
        # A damaged entry is made again: what is written below replaces its files.
        with contextlib.suppress(EngineError):
            return load_kernel(stored)

    source = triton.compiler.ASTSource(
        function,
        {name: types.get(name, "constexpr") for name in function.arg_names},
        {(function.arg_names.index(name),): value for name, value in constants.items()},
        {(function.arg_names.index(name),): [["tt.divisibility", ALIGNMENT]] for name in pointers},
    )
    with _reproducible():
        gpu = triton.backends.compiler.GPUTarget("cuda", target, 32)
        compiled = triton.compile(source, target=gpu, options=options)
    made = compiled.metadata
    needs_more = made.global_scratch_size or made.profile_scratch_size or made.num_ctas != 1 or made.tensordesc_meta
    if embeddable and needs_more:
        raise EngineError(
            f"{function.__name__} for sm_{target} needs scratch memory ({made.global_scratch_size} bytes), clusters "
            f"({made.num_ctas}) or tensor descriptors; accepted: none of them"
        )
    parameters = tuple(Parameter(name, kind) for name, kind in types.items())
    if embeddable:
        check_entry(compiled.asm["ptx"], made.name, parameters)
    kernel = CompiledKernel(
        op=launch.kernel.op,
        name=made.name,
        target=target,
        key=key,
        grid=launch.kernel.grid,
        parameters=parameters,
        constants=constants,
        extents=tuple(launch.extents),
        warps=made.num_warps,
        shared_bytes=made.shared,
        tensor_memory=made.tmem_size,
        ptx_version=PTX_VERSIONS[target],
        compiler=f"triton {triton.__version__}",
        cubin=compiled.asm["cubin"],
        ptx=compiled.asm["ptx"],
    )
    if cache:
        kernel.save(cache)
    return kernel


def launch_key(launch: Launch, target: int) -> str:
    """What tells a compiled launch from others: source, compiler, target, types, constants, options, grid."""
    types, constants = _signature(launch)
    function, options = launch.kernel.function, _options(launch, target)
    identity = [SCHEMA, triton.__version__, function.cache_key, target, types, constants, options, launch.kernel.grid]
    return _digest(json.dumps(identity, sort_keys=True, default=str).encode())


def _options(launch: Launch, target: int) -> dict[str, Any]:
    return {
        "num_warps": launch.warps,
        "num_stages": launch.stages,
        "ptx_version": PTX_VERSIONS[target],
        "enable_fp_fusion": True,
    }


def _signature(launch: Launch) -> tuple[dict[str, str], dict[str, Constant]]:
    """Types of the arguments that are passed, and values of those that are compiled in, each in the kernel's order."""
    types: dict[str, str] = {}
    constants: dict[str, Constant] = {}
    for name in launch.kernel.function.arg_names:
        value = launch.constants[name] if name in launch.constants else launch.arguments[name]
        if name in launch.constants or value is None:
            assert not isinstance(value, Tensor)
            constants[name] = value
        elif isinstance(value, Tensor):
            types[name] = "*" + _TYPES[value.dtype]
        else:
            types[name] = number_type(value)
    return types, constants


def number_type(value: object) -> str:
    """Of a number that is passed, as Triton spells it: whole ones in 32 bits where they fit."""
    if isinstance(value, int):
        return "i32" if value <= LARGEST_INDEX else "i64"
    return "fp32"


@contextlib.contextmanager
def _reproducible() -> Iterator[None]:
    """No line tables, and no cache but ours."""
    with (
        tempfile.TemporaryDirectory(prefix="anyflow-rt-triton-") as folder,
        triton.knobs.compilation.scope(),
        triton.knobs.cache.scope(),
    ):
        triton.knobs.cache.dir = folder
        triton.knobs.compilation.disable_line_info = True
        yield


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _values_digest(values: Mapping[str, Any]) -> str:
    return _digest(json.dumps(values, sort_keys=True).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Whole or not at all: other processes may be reading it. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)


def targets_of(names: str) -> tuple[int, ...]:
    """``sm_80,sm_90`` -> (80, 90). Raises UsageError for anything that is no target."""
    known: Mapping[str, int] = {f"sm_{target}": target for target in TARGETS}
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UsageError(f"unknown target {name!r}; the targets are {', '.join(known)}")
    return tuple(known[name] for name in wanted)
