"""One typed ONNX graph -> one engine file, for one target."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from anyflow_rt.engines.targets import capability
from anyflow_rt.engines.tensorrt.interrupts import kept_interrupts
from anyflow_rt.engines.tensorrt.messages import make_logger, summary
from anyflow_rt.engines.tensorrt.network import ParsedNetwork
from anyflow_rt.engines.tensorrt.profiles import Profile
from anyflow_rt.engines.tensorrt.progress import Advance, make_monitor
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.errors import EngineError


@dataclass(frozen=True)
class CompiledEngine:
    """What a build made. ``peak_memory``: most that the process had had by then, bytes.

    weights, working: bytes that the engine will take of a GPU, at its largest shapes, as TensorRT tells them; None
    where it does not. ports: those of its inputs and outputs there.
    """

    path: Path
    attentions: int
    layers: int
    weights: int | None
    working: int | None
    ports: int
    seconds: float
    peak_memory: int

    @property
    def size(self) -> int:
        return self.path.stat().st_size


def compile_engine(
    trt: ModuleType,
    graph: Path,
    destination: Path,
    target: str,
    profiles: Sequence[Profile],
    settings: TensorRtSettings,
    *,
    plugins: int = 0,
    timing_cache: Path | None = None,
    advance: Advance = lambda done, total: None,
) -> CompiledEngine:
    """Build ``graph`` for ``target`` and write ``destination``, without ever holding the engine in memory.

    plugins: nodes of ``graph`` that are kernels of ours. timing_cache: a file of measured tactics, read and extended
    (enterprise: TensorRT for RTX measures nothing). Raises EngineError with everything TensorRT said, OSError where
    ``destination`` cannot be written; whatever ``advance`` or a signal's handler raises ends the build.
    """
    start = time.perf_counter()
    with kept_interrupts() as kept:
        logger = make_logger(trt)
        builder = trt.Builder(logger)
        parsed = ParsedNetwork(trt, builder, logger, graph)
        if parsed.plugins != plugins:
            raise EngineError(
                f"TensorRT {trt.__version__} took {parsed.plugins} of {plugins} kernels of {graph.name} for plugins; "
                "build without --triton-kernels, or with another version of the package"
            )
        config = builder.create_builder_config()
        configure(trt, config, target, settings)
        ports = _port_bytes(parsed.network, profiles[-1].largest)
        _add_profiles(builder, config, parsed.network, profiles)
        cache = _read_timing_cache(config, timing_cache)
        monitor = make_monitor(trt, advance, kept)
        config.progress_monitor = monitor
        with destination.open("wb") as file:
            writer = _writer(trt, file)
            built = builder.build_serialized_network_to_stream(parsed.network, config, writer)
    if (failed := monitor.interrupted or writer.failed) is not None:
        raise failed
    if not built or not destination.stat().st_size:
        raise EngineError(
            f"TensorRT {trt.__version__} cannot build {graph.name} for {target}: {summary(logger.errors)}; try another "
            "precision, size or version of the package"
        )
    if cache is not None and timing_cache is not None:
        timing_cache.write_bytes(memoryview(config.get_timing_cache().serialize()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return CompiledEngine(
        path=destination,
        attentions=parsed.attentions,
        layers=parsed.network.num_layers,
        weights=logger.memory.get("weights"),
        working=logger.memory.get("activation"),
        ports=ports,
        seconds=time.perf_counter() - start,
        peak_memory=peak,
    )


def configure(trt: ModuleType, config: Any, target: str, settings: TensorRtSettings) -> None:
    """Tell a builder's ``config`` what to build for, and how."""
    flags = {
        trt.BuilderFlag.WEIGHT_STREAMING: settings.weight_streaming,
        trt.BuilderFlag.REFIT: settings.refit,
        trt.BuilderFlag.STRIP_PLAN: settings.strip,
        # Other optimisations than REFIT's are left: with it TensorRT has to expect any weights.
        trt.BuilderFlag.REFIT_IDENTICAL: settings.strip and not settings.refit,
        trt.BuilderFlag.VERSION_COMPATIBLE: settings.version_compatible,
    }
    for flag, wanted in flags.items():
        if wanted:
            config.set_flag(flag)
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if hasattr(trt, "ComputeCapability"):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{capability(target)}"), 0)
    elif settings.hardware != "none":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, settings.hardware.upper())
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def _add_profiles(builder: Any, config: Any, network: Any, profiles: Sequence[Profile]) -> None:
    """One optimisation profile each. Where there is one size only, the network has no other either."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if len(profiles) == 1 and profiles[0].is_static:
        for tensor in inputs:
            tensor.shape = profiles[0].usual[tensor.name]
        return
    for each in profiles:
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            name = tensor.name
            profile.set_shape(name, each.smallest[name], each.usual[name], each.largest[name])
        config.add_optimization_profile(profile)


def _port_bytes(network: Any, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Of all inputs and outputs at those shapes, which the network has for the moment."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    open_shapes = {tensor.name: tensor.shape for tensor in inputs}
    for tensor in inputs:
        tensor.shape = shapes[tensor.name]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    found = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in (*inputs, *outputs))
    for tensor in inputs:
        tensor.shape = open_shapes[tensor.name]
    return found


def _read_timing_cache(config: Any, path: Path | None) -> Any:
    """The cache that the build uses; None without a file to keep it in."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=True)
    return cache


def _writer(trt: ModuleType, file: Any) -> Any:
    class Writer(trt.IStreamWriter):  # type: ignore[name-defined]
        failed: OSError | None = None

        def write(self, data: bytes) -> int:
            # An exception cannot pass through TensorRT; writing nothing ends the build.
            try:
                return file.write(data)
            except OSError as error:
                self.failed = error
                return 0

    writer = Writer.__new__(Writer)
    trt.IStreamWriter.__init__(writer)
    return writer
