"""Checkpoint -> bundle: graphs, tokenizer, compiled engines, parity. What is there already is kept."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

from anyflow_rt.components import Components
from anyflow_rt.defaults import default_video
from anyflow_rt.engines import geometry, locations, registry
from anyflow_rt.engines.architecture import parameter_estimate
from anyflow_rt.engines.bundle import Bundle, read_manifest
from anyflow_rt.engines.bundle_writer import GIVE_OUT, BundleWriter
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.export import COMPONENT_NAMES, EXPORT_VERSION
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.manifest import CheckpointRecord, Defaults, Manifest, bundle_id
from anyflow_rt.engines.paths import check_path
from anyflow_rt.errors import BundleError, MissingPackageError, UsageError
from anyflow_rt.parity import Parity
from anyflow_rt.tokenizer import reference_tokenizer

TARGETS = ("cpu",)
PLANNED_TARGETS = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "sm_121")
PARITY_LIMIT = 1 << 30
"""Bytes of weights above which parity is checked only where asked for: the reference takes minutes and gigabytes."""
PARITY_SIZE = VideoSize(num_frames=17, height=192, width=192)
"""The most that parity is checked at; a multiple of what patches of 1, 2, 3 or 4 demand."""
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "transformers")
"""What a bundle's contents depend on; transformers makes its tokenizer."""

OUTSIDE_THE_CACHE = (
    "set XDG_CACHE_HOME to another directory, or choose the place with  anyflow-rt build --out DIR  and use it with  "
    "anyflow-rt run --bundle DIR"
)
"""Where no place was given: ``run`` and ``load`` build too, and have no --out."""

Report = Callable[[str], object]


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
        check_path("the checkpoint", self.checkpoint, "give a directory or a hub id (owner/name)")
        if self.out is not None:
            check_path("out", self.out, "give the directory of the bundle, or leave it out for the user's cache")
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
    """What a build did. ``changed``: whether the bundle is another than before. ``exported``: seconds of each graph
    that was made."""

    path: Path
    bundle_id: str
    changed: bool
    exported: dict[str, float] = field(default_factory=dict)
    compiled: tuple[str, ...] = ()
    parity: tuple[Parity, ...] = ()
    seconds: float = 0.0


def build(options: BuildOptions, report: Report = lambda line: None) -> BuildReport:
    """Make, or complete, the bundle of a checkpoint. ``report`` gets a line for each thing as it begins.

    Raises CheckpointError, BundleError, OutputError or ParityError, each naming the mend; the bundle that was there
    before is then untouched. MissingPackageError where the ``build`` extra is not installed.
    """
    start = time.perf_counter()
    checkpoint = load_checkpoint(options.checkpoint, revision=options.revision)
    engine, precision = _engine(options)
    # A directory by its full path: the messages that say how to build the bundle again name it, wherever they appear.
    name = checkpoint.id if checkpoint.revision is not None else str(checkpoint.path)
    record = CheckpointRecord(name, checkpoint.revision, checkpoint.content_hash())
    existing = _existing(options, bundle_id(record.sha256, EXPORT_VERSION))
    defaults = _defaults(options, checkpoint, existing)
    with BundleWriter(
        bundle_path(options),
        checkpoint=record,
        export_version=EXPORT_VERSION,
        architecture=checkpoint.architecture,
        defaults=defaults,
        packages={package: importlib.metadata.version(package) for package in _present(EXPORT_PACKAGES)},
        # Without --out the place is this package's own cache: a bundle of what the checkpoint was before is no loss.
        force=options.force or (options.out is None and existing is None),
        elsewhere=OUTSIDE_THE_CACHE if options.out is None else GIVE_OUT,
    ) as writer:
        missing = [name for name in COMPONENT_NAMES if not writer.has_component(name)]
        if missing:
            require_packages("exporting a checkpoint's graphs")
            writer.require_space(_estimate(checkpoint).disk)
        changed = bool(missing) or not writer.has_tokenizer or existing is None or defaults != existing.defaults
        if not writer.has_tokenizer:
            with tempfile.TemporaryDirectory() as folder:
                writer.set_tokenizer(reference_tokenizer(checkpoint, Path(folder)))
        exported: dict[str, float] = {}
        for name in missing:
            report(f"exporting {name} ({len(exported) + 1} of {len(missing)})")
            exported[name] = _export(writer, checkpoint, name)
        wanted = [] if options.onnx_only else [p for p in (precision,) if not writer.has_engine("cpu", engine, p)]
        for each in wanted:
            report(f"compiling for cpu: {engine} {each}")
            with writer.engine("cpu", engine, each, packages={}):
                _compile(writer.draft(), engine, each)
        changed = changed or bool(wanted)
        parity: tuple[Parity, ...] = ()
        if _wants_parity(options, checkpoint, bool(exported or wanted)):
            size = _parity_size(defaults.size)
            parity = _check_parity(checkpoint, writer.draft(), engine, precision, size, report)
        bundle = writer.commit() if changed else Bundle.open(writer.path)
    compiled = tuple(f"cpu {engine} {each}" for each in wanted)
    return BuildReport(bundle.path, bundle.id, changed, exported, compiled, parity, time.perf_counter() - start)


def bundle_path(options: BuildOptions) -> Path:
    """Where the bundle goes: as asked, or its place in the user's cache."""
    return Path(options.out) if options.out is not None else locations.default_bundle_path(options.checkpoint)


def estimate(options: BuildOptions) -> Estimate:
    """What ``build`` with these options would take where nothing is there yet. Refuses what ``build`` refuses."""
    checkpoint = load_checkpoint(options.checkpoint, revision=options.revision)
    _engine(options)
    _defaults(options, checkpoint, None)
    return _estimate(checkpoint)


def _estimate(checkpoint: Checkpoint) -> Estimate:
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
    engine = registry.default_engine() if options.engine is None else options.engine
    registry.check_engine_name(engine)
    precision = registry.default_precision(engine)[0] if options.precision is None else options.precision
    registry.check_precision(engine, precision)
    return engine, precision


def _existing(options: BuildOptions, wanted_id: str) -> Manifest | None:
    """The manifest of the same checkpoint's bundle, where it is there already and may be kept."""
    try:
        manifest = read_manifest(bundle_path(options))
    except BundleError:
        return None  # none, or not a readable one: BundleWriter knows which, and says so
    return manifest if manifest.bundle_id == wanted_id and not options.force else None


def _defaults(options: BuildOptions, checkpoint: Checkpoint, existing: Manifest | None) -> Defaults:
    """The video of a run that does not say: as asked now, as an earlier build was asked, as the checkpoint says."""
    defaults = default_video(checkpoint) if existing is None else existing.defaults
    given = {name: getattr(options, name) for name in ("num_frames", "height", "width")}
    defaults = replace(defaults, **{name: value for name, value in given.items() if value is not None})
    geometry.latent_size(checkpoint.architecture, defaults.size)
    return defaults


def _export(writer: BundleWriter, checkpoint: Checkpoint, name: str) -> float:
    """Export one component; seconds it took. The network's weights are let go before the next one's are read."""
    from anyflow_rt.engines.export.components import COMPONENTS, export_component

    start = time.perf_counter()
    with writer.component(name) as folder:
        weights = checkpoint.weights(COMPONENTS[name].network)
        export_component(name, checkpoint.architecture, weights, folder / f"{name}.onnx")
    gc.collect()
    return time.perf_counter() - start


def _compile(bundle: Bundle, engine: str, precision: str) -> None:
    """Compile every component once, so that the first run finds them in the machine's cache."""
    components = Components(
        bundle, engine, precision, locations.compiled_cache(bundle.id), specialize=bundle.defaults.size
    )
    try:
        components.wait()
    finally:
        components.close()


def _wants_parity(options: BuildOptions, checkpoint: Checkpoint, made: bool) -> bool:
    """As asked; else where something was made that can be run, and the checkpoint is small."""
    if options.check_parity is not None:
        return options.check_parity
    return made and not options.onnx_only and checkpoint.weight_bytes < PARITY_LIMIT


def _parity_size(default: VideoSize) -> VideoSize:
    """The default video, cut to what the reference makes in seconds: a defect shows at any size."""
    return VideoSize(*(min(asked, most) for asked, most in zip(astuple(default), astuple(PARITY_SIZE), strict=True)))


def _check_parity(
    checkpoint: Checkpoint, bundle: Bundle, engine: str, precision: str, size: VideoSize, report: Report
) -> tuple[Parity, ...]:
    from anyflow_rt.parity import check
    from anyflow_rt.runtime import Runtime

    found: list[Parity] = []
    for each in dict.fromkeys(("fp32", precision)):
        report(f"comparing {engine} {each} with diffusers")
        with Runtime(bundle, engine=engine, precision=each, specialize=size) as runtime:
            found += check(checkpoint.path, [runtime], size)
        report(f"parity {found[-1]}")
    return tuple(found)


def _present(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is not None]


def require_packages(purpose: str) -> None:
    """Raise MissingPackageError, naming ``purpose``, unless everything is installed that exporting needs."""
    present = _present(EXPORT_PACKAGES)
    for package in EXPORT_PACKAGES:
        if package not in present:
            raise MissingPackageError(package, "build", purpose)
