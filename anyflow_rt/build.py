"""Checkpoint -> bundle: graphs, tokenizer, compiled engines, parity. What is there already is kept."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from anyflow_rt.components import Components
from anyflow_rt.defaults import default_video
from anyflow_rt.engines import geometry, locations, registry
from anyflow_rt.engines.architecture import parameter_estimate
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.bundle_writer import BundleWriter
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.export import COMPONENT_NAMES, EXPORT_VERSION
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.manifest import CheckpointRecord
from anyflow_rt.errors import MissingPackageError, UsageError
from anyflow_rt.parity import Parity

TARGETS = ("cpu",)
PLANNED_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121")
PARITY_LIMIT = 1 << 30
"""Bytes of weights above which parity is checked only where asked for: the reference takes minutes and gigabytes."""
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript")

Report = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """What to build. Sizes are those a bundle makes where a run does not say; they limit nothing on a CPU.

    check_parity None: for checkpoints under 1 GB.
    """

    checkpoint: str
    out: Path | None = None
    revision: str | None = None
    targets: Sequence[str] = ("cpu",)
    engine: str | None = None
    precision: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    onnx_only: bool = False
    force: bool = False
    check_parity: bool | None = None

    def __post_init__(self) -> None:
        for target in self.targets:
            if target in PLANNED_TARGETS:
                raise UsageError(f"target {target!r} is not supported by this version yet; it builds for {TARGETS[0]}")
            if target not in TARGETS:
                known = ", ".join((*TARGETS, *PLANNED_TARGETS))
                raise UsageError(f"unknown target {target!r}; the targets are {known}")


@dataclass(frozen=True)
class Estimate:
    """What a build will take, from the configuration alone. disk and memory in bytes, seconds on two cores."""

    parameters: dict[str, int]
    disk: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class BuildReport:
    """What a build did. ``exported`` is empty and ``parity`` unchecked where nothing had changed."""

    path: Path
    bundle_id: str
    exported: dict[str, float] = field(default_factory=dict)
    compiled: tuple[str, ...] = ()
    parity: tuple[Parity, ...] = ()
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether anything was made."""
        return bool(self.exported or self.compiled)


def build(options: BuildOptions, report: Report = lambda line: None) -> BuildReport:
    """Make, or complete, the bundle of a checkpoint. ``report`` gets a line for each thing as it begins.

    Raises CheckpointError, BundleError, OutputError or ParityError, each naming the mend; the bundle that was there
    before is then untouched. MissingPackageError where the ``build`` extra is not installed.
    """
    start = time.perf_counter()
    checkpoint = load_checkpoint(options.checkpoint, revision=options.revision)
    engine, precision = _engine(options)
    defaults = default_video(checkpoint, options.height, options.width, options.num_frames)
    geometry.latent_size(checkpoint.architecture, defaults.size)
    with BundleWriter(
        bundle_path(options),
        checkpoint=CheckpointRecord(checkpoint.id, checkpoint.revision, checkpoint.content_hash()),
        export_version=EXPORT_VERSION,
        architecture=checkpoint.architecture,
        defaults=defaults,
        packages={package: importlib.metadata.version(package) for package in _present(EXPORT_PACKAGES)},
        force=options.force,
    ) as writer:
        missing = [name for name in COMPONENT_NAMES if not writer.has_component(name)]
        if missing:
            _require(EXPORT_PACKAGES, "exporting a checkpoint's graphs")
            writer.require_space(estimate(checkpoint).disk)
        exported = {name: _export(writer, checkpoint, name, report) for name in missing}
        writer.set_tokenizer(checkpoint.tokenizer_file)
        wanted = [] if options.onnx_only else [p for p in (precision,) if not writer.has_engine("cpu", engine, p)]
        for each in wanted:
            report(f"compiling for cpu: {engine} {each}")
            with writer.engine("cpu", engine, each, packages={}):
                _compile(writer.draft(), engine, each)
        parity: tuple[Parity, ...] = ()
        if (exported or wanted) and _wants_parity(options, checkpoint):
            parity = _check_parity(checkpoint, writer.draft(), engine, precision, defaults.size, report)
        bundle = writer.commit() if exported or wanted else Bundle.open(writer.path)
    compiled = tuple(f"cpu {engine} {each}" for each in wanted)
    return BuildReport(bundle.path, bundle.id, exported, compiled, parity, time.perf_counter() - start)


def bundle_path(options: BuildOptions) -> Path:
    """Where the bundle goes: as asked, or its place in the user's cache."""
    return options.out if options.out is not None else locations.default_bundle_path(options.checkpoint)


def estimate(checkpoint: Checkpoint) -> Estimate:
    """Disk, memory and time of a whole build. The figures behind it are in ``docs/benchmarks.md``."""
    parameters = parameter_estimate(checkpoint.architecture)
    float32 = {name: 4 * count for name, count in parameters.items()}
    # Decoder and encoder are each exported twice: for the first frame and for the following ones.
    disk = sum(float32.values()) + float32["vae"] + (50 << 20)
    # One network at a time, in float32, beside PyTorch and the exporter themselves.
    memory = max(float32.values()) + (3 << 29)
    layers = checkpoint.architecture.transformer.num_layers + checkpoint.architecture.text_encoder.num_layers
    return Estimate(parameters, disk, memory, 45 + 2.0 * layers + disk / 100e6)


def _engine(options: BuildOptions) -> tuple[str, str]:
    engine = options.engine or registry.default_engine()
    registry.check_engine_name(engine)
    precision = options.precision or registry.default_precision(engine)[0]
    registry.check_precision(engine, precision)
    return engine, precision


def _export(writer: BundleWriter, checkpoint: Checkpoint, name: str, report: Report) -> float:
    """Export one component; seconds it took. The network's weights are let go before the next one's are read."""
    from anyflow_rt.engines.export.components import COMPONENTS, export_component

    start = time.perf_counter()
    report(f"exporting {name}")
    with writer.component(name) as folder:
        weights = checkpoint.weights(COMPONENTS[name].network)
        export_component(name, checkpoint.architecture, weights, folder / f"{name}.onnx")
    gc.collect()
    return time.perf_counter() - start


def _compile(bundle: Bundle, engine: str, precision: str) -> None:
    """Compile every component once, so that the first run finds them in the machine's cache."""
    components = Components(bundle, engine, precision, locations.compiled_cache(bundle.id))
    try:
        components.wait()
    finally:
        components.close()


def _wants_parity(options: BuildOptions, checkpoint: Checkpoint) -> bool:
    if options.check_parity is not None or options.onnx_only:
        return bool(options.check_parity)
    return checkpoint.weight_bytes < PARITY_LIMIT


def _check_parity(
    checkpoint: Checkpoint, bundle: Bundle, engine: str, precision: str, size: VideoSize, report: Report
) -> tuple[Parity, ...]:
    from anyflow_rt.parity import check
    from anyflow_rt.runtime import Runtime

    found: list[Parity] = []
    for each in dict.fromkeys(("fp32", precision)):
        report(f"comparing {engine} {each} with diffusers")
        with Runtime(bundle, engine=engine, precision=each) as runtime:
            found += check(checkpoint.path, [runtime], size)
        report(f"parity {found[-1]}")
    return tuple(found)


def _present(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is not None]


def _require(packages: Sequence[str], purpose: str) -> None:
    for package in packages:
        if package not in _present(packages):
            raise MissingPackageError(package, "build", purpose)
