"""The contract every engine obeys: named arrays in, named arrays out.

A backend is a subclass with four hooks: ``_load``, ``_describe``, ``_infer`` and ``_release``. Everything a caller can
get wrong (a name, an element type, a shape, a call after ``close``) is refused here, with the value, so that all
backends refuse alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import numpy as np

from anyflow_rt.engines.mend import mend_of
from anyflow_rt.errors import EngineError

RESIDENT, SEQUENTIAL, STREAMING = RESIDENCIES = ("resident", "sequential", "streaming")
"""How many engines of a bundle are open: all from the first call on; those of one stage at a time, which takes a fifth
off the peak memory, costs the first call nothing that could be measured, and opens them again for each later one; or so
and, where an engine was built for it, with weights that come to the GPU as they are used."""


@dataclass(frozen=True)
class TensorSpec:
    """Shape and element type of one input or output.

    A dimension is an ``int`` where the graph fixes it, a name where the graph is symbolic (equal names are equal
    sizes within one call), ``None`` where nothing is known. ``dtype`` is the numpy element type; bfloat16, which numpy
    lacks, travels as its bits in uint16 (all zeros are zero; ``bfloat16_to_float32`` reads them).
    """

    shape: tuple[int | str | None, ...]
    dtype: np.dtype

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype.name} ({sizes})"


@dataclass(frozen=True)
class EngineOptions:
    """How a component is to be executed.

    precision: ``fp32`` or ``bf16``. cache_dir: where compiled forms may be kept between processes, None for nowhere;
    one directory a bundle. threads: worker threads of one call, None for the engine's own choice.
    compute_type: shell patterns of the float32 inputs and outputs that only pass from one component to another
    (caches, keys and values); at bf16 an engine may take and give them as bfloat16 and spare the conversions.
    usual_shapes: (input, shape) of the calls to be quickest at, None for a size that changes between them; all other
    shapes still work. model_hash: of the model's files where it is known, so that compiled forms of equal models are
    shared; without it their size and time tell them apart. residency: one of ``RESIDENCIES``, for
    engines that share memory with the others of their bundle. shapes_return: whether shapes that were met may be met
    again, so that what was made for them is worth keeping; not where one video is all there will be.
    """

    precision: str = "fp32"
    cache_dir: Path | None = None
    threads: int | None = None
    compute_type: tuple[str, ...] = ()
    usual_shapes: tuple[tuple[str, tuple[int | None, ...]], ...] = ()
    model_hash: str | None = None
    residency: str = RESIDENT
    shapes_return: bool = True

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise EngineError(f"threads is {self.threads}; give at least 1, or leave it out for the engine's choice")


def bfloat16_to_float32(bits: np.ndarray) -> np.ndarray:
    """The float32 values of bfloat16 bits held in uint16: the upper halves of the same numbers. Exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Engine(ABC):
    """One component in executable form.

    Use it as a context manager, or call ``close``. One thread at a time may call ``infer``; different engines may
    run on different threads.

    Buffers: an input is read during the call and never kept or written, so an output of one call, of this engine or
    another, may be an input of the next. An output belongs to the caller for as long as the caller refers to it or
    to a view of it: a backend that hands out its own memory reuses it only once nothing refers to it any more. No
    caller has to copy.

    Caches in place are the one exception: what a causal denoiser's ``new_caches`` gives is read where it is by that
    denoiser, which may keep it, and written by the cache writer of the same bundle.
    """

    name: ClassVar[str]

    def __init__(self, model_path: str | Path, options: EngineOptions | None = None) -> None:
        self.model_path = Path(model_path)
        self.options = options or EngineOptions()
        self._open = False
        if not self.model_path.is_file():
            raise EngineError(f"no model at {self.model_path}; {mend_of(self.model_path)}")
        self._load()
        self._open = True
        self.inputs, self.outputs = self._describe()

    @abstractmethod
    def _load(self) -> None:
        """Read ``self.model_path`` and make it ready to run. Raises EngineError or MissingPackageError."""

    @abstractmethod
    def _describe(self) -> tuple[dict[str, TensorSpec], dict[str, TensorSpec]]:
        """Inputs and outputs, in the graph's order. Called once, after ``_load``."""

    @abstractmethod
    def _infer(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Run once. ``arrays`` holds every input, checked, in the order of ``self.inputs``."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of everything ``_load`` made. Called once."""

    def infer(self, **arrays: Any) -> dict[str, Any]:
        """Run once and return every output by name. Raises EngineError where ``arrays`` do not fit ``inputs``."""
        if not self._open:
            raise EngineError(f"{self._label} was called after close(); open the engine again")
        self._check(arrays)
        return self._infer({name: arrays[name] for name in self.inputs})

    def shrink(self) -> None:  # noqa: B027 - a hook: most backends keep nothing
        """Give back the memory that is kept for the next call, which takes it anew. Does nothing where none is kept."""

    def new_caches(self, prompts: int, shape: tuple[int, ...]) -> list[tuple[Any, Any]] | None:
        """A hook of causal denoisers: where keys and values of finished chunks are to be, for each of ``prompts``.

        None, unless a backend says otherwise: caches are inputs and outputs as all others. Else a key and a value of
        ``shape`` (layers, B, heads, capacity, d) or a little more capacity, not zeroed. These very arrays, and no
        copies, then are the inputs ``cache_key`` and ``cache_value`` of denoiser and cache writer. ``cache_counts``
        (2,) int32 beside them says how many of their first tokens count, and how many zero keys the denoiser adds. The
        writer has no outputs: it writes a chunk's behind those tokens. What an earlier call gave is the same memory, or
        gone. Raises EngineError where there is too little memory.
        """
        return None

    def close(self) -> None:
        """Release the engine's memory. A second call does nothing; outputs already handed out stay valid."""
        if self._open:
            self._open = False
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_compute_type(self, name: str) -> bool:
        """Whether ``options.compute_type`` names this input or output."""
        return any(fnmatch(name, pattern) for pattern in self.options.compute_type)

    def _is_retyped(self, name: str, spec: TensorSpec) -> bool:
        """Whether an input or output of the graph is taken and given as bfloat16 in place of float32."""
        return self.options.precision == "bf16" and spec.dtype == np.float32 and self._in_compute_type(name)

    def _retyped(self, specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
        """The graph's ``specs``, those that are retyped with bfloat16 as its bits."""
        bits = np.dtype(np.uint16)
        return {n: replace(spec, dtype=bits) if self._is_retyped(n, spec) else spec for n, spec in specs.items()}

    @property
    def _label(self) -> str:
        return f"{self.name} engine of {self.model_path.name}"

    def _check(self, arrays: Mapping[str, Any]) -> None:
        missing = [name for name in self.inputs if name not in arrays]
        unknown = [name for name in arrays if name not in self.inputs]
        if missing or unknown:
            faults = [f"missing: {', '.join(missing)}"] if missing else []
            faults += [f"unknown: {', '.join(unknown)}"] if unknown else []
            raise EngineError(f"{self._label}: {'; '.join(faults)}; its inputs are {', '.join(self.inputs)}")
        sizes: dict[str, tuple[int, str]] = {}
        for name, spec in self.inputs.items():
            self._check_one(name, spec, arrays[name], sizes)

    def _check_one(self, name: str, spec: TensorSpec, array: Any, sizes: dict[str, tuple[int, str]]) -> None:
        """Refuse ``array`` unless it fits ``spec`` and the sizes that earlier inputs gave to symbolic dimensions."""
        where = f"{self._label}: input {name}"
        if not hasattr(array, "dtype") or not hasattr(array, "shape"):
            raise EngineError(f"{where} is a {type(array).__name__}; an array of {spec} is needed")
        dtype = str(array.dtype).removeprefix("torch.")
        dtype = "uint16" if dtype == "bfloat16" else dtype  # its bits, as a TensorSpec says them
        if dtype != spec.dtype.name:
            raise EngineError(f"{where} is {dtype}; {spec.dtype.name} is needed")
        shape = tuple(array.shape)
        if len(shape) != len(spec.shape):
            raise EngineError(f"{where} has {len(shape)} dimensions {shape}; {len(spec.shape)} are needed: {spec}")
        for axis, (size, wanted) in enumerate(zip(shape, spec.shape, strict=True)):
            if isinstance(wanted, int) and size != wanted:
                raise EngineError(f"{where} has size {size} on axis {axis}; {wanted} is needed: {spec}")
            if isinstance(wanted, str):
                first, giver = sizes.setdefault(wanted, (size, name))
                if size != first:
                    raise EngineError(f"{where} has size {size} on axis {axis} ({wanted}); {giver} has {first}: {spec}")
