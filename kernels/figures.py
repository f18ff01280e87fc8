"""Everything that is known of one case on one target without a GPU: resources, instruction mix, bytes moved."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anyflow_rt.kernels.aot import TARGETS, CompiledKernel, compile_launch, targets_of
from anyflow_rt.kernels.cases import DTYPE, selected_cases
from anyflow_rt.kernels.resources import Resources, resources_of
from anyflow_rt.kernels.sass import GLOBAL_LOADS, GLOBAL_STORES, TENSOR_CORE, listing_of
from anyflow_rt.kernels.traffic import Traffic, traffic_of, vector_share
from anyflow_rt.kernels.video_shapes import Case
from anyflow_rt.kernels.work import Work, work_of


@dataclass(frozen=True)
class Figures:
    """``tensor_core_share``: of the instructions a thread executes. ``wide_share``: of the bytes of global memory that
    go in accesses of 16 bytes a thread or more. Without ``work``, which only our own ops have, every loop counts as
    gone through once."""

    op: str
    case: str
    kernel: CompiledKernel
    resources: Resources
    work: Work | None
    traffic: Traffic | None
    tensor_core_share: float
    wide_share: float

    def to_dict(self) -> dict[str, Any]:
        """One flat line, JSON-able: what ``bench kernels --static --json`` gives of it."""
        return {
            "op": self.op,
            "target": f"sm_{self.kernel.target}",
            "config": self.case,
            "constants": {name: value for name, value in self.kernel.constants.items() if value is not None},
            "warps": self.kernel.warps,
            **dataclasses.asdict(self.resources),
            "tensor_core_share": round(self.tensor_core_share, 4),
            "wide_share": round(self.wide_share, 4),
            **self._moved(),
            "file": self.kernel.stem,
        }

    def _moved(self) -> dict[str, Any]:
        if self.work is None or self.traffic is None:
            return {}
        return {
            "trips": list(self.traffic.trips),
            "bytes_minimum": self.traffic.once,
            "bytes_moved": round(self.traffic.moved),
            "moved_over_minimum": round(self.traffic.ratio, 4),
            "moved_over_source": round(self.traffic.repeated, 4),
            "bytes_per_element": round(self.traffic.moved / self.work.elements, 3),
            "minimum_per_element": round(self.traffic.once / self.work.elements, 3),
        }


def figures_of(op: str, case: Case, target: int, cache: Path | None = None) -> Figures:
    """Compile, or take from ``cache``, and count. Raises EngineError as ``compile_launch`` and ``traffic_of`` do."""
    launch = case.plan(**case.arguments, target=target)
    return counted(op, case.name, compile_launch(launch, target, cache), work_of(launch))


def counted(op: str, case: str, kernel: CompiledKernel, work: Work | None) -> Figures:
    """The figures of a compiled kernel. Raises EngineError as ``traffic_of``."""
    listing = listing_of(kernel.cubin)
    traffic = None if work is None else traffic_of(listing, work, kernel.warps)
    trips = (1,) * len(listing.loops) if traffic is None else traffic.trips
    executed = listing.executed(list(listing.instructions), trips)
    return Figures(
        op,
        case,
        kernel,
        resources_of(kernel, listing),
        work,
        traffic,
        listing.executed(listing.of(*TENSOR_CORE), trips) / executed,
        vector_share(listing.of(*GLOBAL_LOADS, *GLOBAL_STORES), trips),
    )


def selected_figures(
    target: str, op: str, pattern: str, cache: Path | None = None, dtype: str = DTYPE
) -> Iterator[Figures]:
    """Figures of every case whose name holds the regular expression ``pattern``. ``target``, ``op``: names by comma, or
    ``all``; ``dtype``: that of activations. Raises UsageError for names that are not there, and where none is left."""
    targets = TARGETS if target == "all" else targets_of(target)
    for name, case in selected_cases(op, pattern, dtype):
        for number in targets:
            yield figures_of(name, case, number, cache)
