"""All engines of a bundle for one target: graph after graph made typed and built, one component in memory at a time."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from anyflow_rt.engines.builders import BuildSource
from anyflow_rt.engines.kernel_nodes.sets import NONE
from anyflow_rt.engines.stages import engine_components
from anyflow_rt.engines.targets import capability
from anyflow_rt.engines.tensorrt.package import ENTERPRISE, PACKAGE_TARGETS, import_package
from anyflow_rt.engines.tensorrt.profiles import Profile, profiles
from anyflow_rt.engines.tensorrt.record import BuiltComponent, EngineFacts
from anyflow_rt.engines.typed.graph import write_typed_graph
from anyflow_rt.errors import EngineError, UsageError

Report = Callable[[str], object]

PRECISIONS = ("bf16", "fp16")
_TIMING_CACHE = "timing.cache"


def check_precision(target: str, precision: str) -> None:
    """Raise UsageError for a precision that TensorRT engines do not have, or the target does not."""
    if precision not in PRECISIONS:
        raise UsageError(f"TensorRT engines have no precision {precision!r}; choose from {', '.join(PRECISIONS)}")
    if precision == "bf16" and target == "sm_75":
        raise UsageError("sm_75 has no bf16; use --precision fp16")


def build_engines(
    engine: str,
    source: BuildSource,
    target: str,
    precision: str,
    folder: Path,
    report: Report = lambda line: None,
) -> dict[str, str]:
    """Write ``<component>.engine`` of every component that a run may need, and ``engine.json``, into ``folder``.

    ``engine``: the package, ``tensorrt`` or ``tensorrt_rtx``. Of ``source`` only the bundle's graphs are read. Gives
    the package versions that the files depend on. Raises UsageError for what this package or target does not have,
    MissingPackageError, and EngineError with what TensorRT said; the bundle's writer then leaves the bundle as it was.
    """
    check_precision(target, precision)
    if target not in PACKAGE_TARGETS[engine]:
        raise UsageError(f"{engine} has no {target}; it has {', '.join(PACKAGE_TARGETS[engine])}")
    trt = import_package(engine)
    from anyflow_rt.engines.tensorrt.compiler import compile_engine

    bundle, settings = source.bundle, source.tensorrt
    size = bundle.defaults.size if source.size is None else source.size
    plugins = None
    if settings.triton_kernels != NONE:
        from anyflow_rt.engines.tensorrt.plugins import register_plugins

        plugins = register_plugins(trt, capability(target))
    built: dict[str, BuiltComponent] = {}
    # On the bundle's disk: the temporary directory may be too small for a graph, and the estimate counts on this one.
    with tempfile.TemporaryDirectory(prefix=".graph-", dir=folder) as name:
        work = Path(name)
        for component in engine_components(bundle.architecture):
            start, what = time.perf_counter(), f"{component} for {target}"
            graph = write_typed_graph(
                component,
                bundle.component_path(component),
                work / f"{component}.onnx",
                precision,
                settings.cross_keys,
                settings.triton_kernels,
            )
            wanted = profiles(component, graph.path, bundle.architecture, size, settings)
            try:
                made = compile_engine(
                    trt,
                    graph.path,
                    folder / f"{component}.engine",
                    target,
                    wanted,
                    settings,
                    plugins=sum(graph.kernels.values()),
                    timing_cache=folder / _TIMING_CACHE if engine == ENTERPRISE else None,
                    advance=partial(source.progress, what),
                )
            except EngineError as error:
                # What went wrong in a function that TensorRT calls, it cannot say.
                failure = None if plugins is None else plugins.failure
                raise failure or error from None
            built[component] = BuiltComponent(
                precision=graph.precision,
                fused=graph.fused,
                decomposed=graph.decomposed,
                kernels=dict(graph.kernels),
                layers=made.layers,
                bytes=made.size,
                # An engine without its weights may tell none, and has them once it is loaded.
                weights=_weight_bytes(graph.path) if made.weights is None and settings.strip else made.weights,
                working=made.working,
                ports=made.ports,
                seconds=round(time.perf_counter() - start, 3),
                peak_memory=made.peak_memory,
                profiles=tuple(_plain(profile) for profile in wanted),
            )
            report(f"{what}: {made.size / 1e6:.1f} MB in {built[component].seconds:.1f} s")
            for file in work.iterdir():
                file.unlink()
            gc.collect()
    components = {name: asdict(component) for name, component in built.items()}
    EngineFacts(engine, trt.__version__, target, precision, asdict(settings), components).write(folder)
    return {engine: trt.__version__}


def _weight_bytes(graph: Path) -> int:
    """Of the weights beside a typed graph."""
    return sum(path.stat().st_size for path in graph.parent.glob(f"{graph.name}.data"))


def _plain(profile: Profile) -> dict[str, Any]:
    kinds = ("usual",) if profile.is_static else ("smallest", "usual", "largest")
    return {kind: {name: list(shape) for name, shape in getattr(profile, kind).items()} for kind in kinds}
