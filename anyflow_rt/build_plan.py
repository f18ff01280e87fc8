"""What a build is asked to do, what of it is there already, and what the rest will take. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anyflow_rt.defaults import default_video
from anyflow_rt.engines import builders, geometry, locations, registry
from anyflow_rt.engines.architecture import parameter_estimate
from anyflow_rt.engines.bundle import read_manifest
from anyflow_rt.engines.bundle_survey import GIVE_OUT, survey
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.export import EXPORT_VERSION, component_names
from anyflow_rt.engines.manifest import CheckpointRecord, Defaults, Manifest, bundle_id
from anyflow_rt.engines.paths import check_path
from anyflow_rt.engines.targets import CPU, parse_targets
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.errors import BundleError, UsageError
from anyflow_rt.shipped import shipped

OUTSIDE_THE_CACHE = (
    "set XDG_CACHE_HOME to another directory, or choose the place with  anyflow-rt build --out DIR  and use it with  "
    "anyflow-rt run --bundle DIR"
)
"""Where no place was given: ``run`` and ``load`` build too, and have no --out."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build. checkpoint: a directory, a hub id, or the name of a shipped one. Sizes are those a bundle makes
    where a run does not say; they limit nothing on a CPU.

    check_parity, calibrate None: for checkpoints under 1 GB.
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
    calibrate: bool | None = None
    tensorrt: TensorRtSettings = field(default_factory=TensorRtSettings)

    @property
    def source(self) -> str:
        """The checkpoint: a shipped one by its directory, others as given."""
        directory = shipped(self.checkpoint)
        return self.checkpoint if directory is None else str(directory)

    def __post_init__(self) -> None:
        check_path("the checkpoint", self.checkpoint, "give a directory or a hub id (owner/name)")
        if self.out is not None:
            check_path("out", self.out, "give the directory of the bundle, or leave it out for the user's cache")
        parse_targets(self.targets)
        for name in ("engine", "precision"):
            # Parity is checked on an engine, also where none is compiled for the bundle.
            if self.onnx_only and not self.check_parity and getattr(self, name) is not None:
                raise UsageError(
                    f"{name} {getattr(self, name)!r} contradicts onnx_only (--onnx-only), which compiles for none; "
                    "leave one of them out"
                )


@dataclass(frozen=True)
class WantedEngine:
    """One engine to be made. ``profile``: the sizes it takes, as the manifest says it."""

    target: str
    engine: str
    precision: str
    profile: str = "dynamic"

    @property
    def key(self) -> tuple[str, str, str, str]:
        """As in the manifest."""
        return self.target, self.engine, self.precision, self.profile

    def __str__(self) -> str:
        return f"{self.target} {self.engine} {self.precision}"


@dataclass(frozen=True)
class Estimate:
    """What a build will take, from the configuration alone. disk and memory in bytes, seconds on two cores."""

    parameters: dict[str, int]
    disk: int
    memory: int
    seconds: float


@dataclass(frozen=True)
class BuildPlan:
    """A build before it begins: its options, resolved.

    engine, precision: of the CPU, on which parity is checked. wanted: what is to be made, unless it is there.
    existing: the manifest of the same checkpoint's bundle, where it is there and may be kept. force: whether what is
    there may be replaced. elsewhere: how to give another place, for messages.
    """

    checkpoint: Checkpoint
    path: Path
    record: CheckpointRecord
    engine: str
    precision: str
    wanted: tuple[WantedEngine, ...]
    existing: Manifest | None
    defaults: Defaults
    force: bool
    elsewhere: str


@dataclass(frozen=True)
class Preview:
    """What a build would do. components, engines: those it would make. settings: whether tokenizer or default size
    would change. estimate: of all components, and the disk of the engines."""

    path: Path
    components: tuple[str, ...]
    engines: tuple[str, ...]
    settings: bool
    estimate: Estimate

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.components or self.engines or self.settings)


def plan_build(options: BuildOptions) -> BuildPlan:
    """Resolve ``options``. Raises UsageError or CheckpointError for what no build can do."""
    checkpoint = load_checkpoint(options.source, revision=options.revision)
    engine, precision, wanted = _engines(options)
    gpus = [each.target for each in wanted if each.target != CPU]
    if checkpoint.architecture.causal is not None and gpus:
        raise UsageError(
            f"no engine for {', '.join(gpus)} takes the caches of a causal (FAR) checkpoint yet; build it with  "
            "--target cpu"
        )
    # A directory by its full path: the messages that say how to build the bundle again name it, wherever they appear.
    name = checkpoint.id if checkpoint.revision is not None else str(checkpoint.path)
    record = CheckpointRecord(name, checkpoint.revision, checkpoint.content_hash())
    existing = _existing(options, bundle_id(record.sha256, EXPORT_VERSION))
    defaults = _defaults(options, checkpoint, existing)
    return BuildPlan(
        checkpoint=checkpoint,
        path=bundle_path(options),
        record=record,
        engine=engine,
        precision=precision,
        wanted=tuple(_for_size(each, defaults, options.tensorrt) for each in wanted),
        existing=existing,
        defaults=defaults,
        # Without --out the place is this package's own cache: a bundle of what the checkpoint was before is no loss.
        force=options.force or (options.out is None and existing is None),
        elsewhere=OUTSIDE_THE_CACHE if options.out is None else GIVE_OUT,
    )


def preview(options: BuildOptions) -> Preview:
    """What ``build`` with these options would do. Refuses what ``build`` refuses, and changes nothing."""
    plan = plan_build(options)
    wanted = bundle_id(plan.record.sha256, EXPORT_VERSION)
    found = survey(plan.path, wanted, force=plan.force, elsewhere=plan.elsewhere)
    engines = [each for each in plan.wanted if each.key not in found.engines]
    whole = estimate(plan.checkpoint)
    names = component_names(plan.checkpoint.architecture)
    return Preview(
        path=plan.path,
        components=tuple(name for name in names if name not in found.components),
        engines=tuple(str(each) for each in engines),
        settings=found.tokenizer is None or plan.existing is None or plan.defaults != plan.existing.defaults,
        estimate=replace(whole, disk=whole.disk + engine_bytes(plan.checkpoint, engines)),
    )


def bundle_path(options: BuildOptions) -> Path:
    """Where the bundle goes: as asked, or its place in the user's cache."""
    return Path(options.out) if options.out is not None else locations.default_bundle_path(options.source)


def estimate(checkpoint: Checkpoint) -> Estimate:
    """Disk, memory and time of a whole build. The figures behind it are in ``docs/benchmarks.md``."""
    parameters = parameter_estimate(checkpoint.architecture)
    float32 = {name: 4 * count for name, count in parameters.items()}
    # Decoder and encoder are each exported twice: for the first frame and for the following ones.
    disk = sum(float32.values()) + float32["vae"] + (50 << 20)
    if checkpoint.architecture.causal is not None:
        disk += float32["transformer"]  # denoiser and cache writer have the same blocks
    # One network at a time, in float32, beside PyTorch and the exporter themselves.
    memory = max(float32.values()) + (3 << 29)
    layers = checkpoint.architecture.transformer.num_layers + checkpoint.architecture.text_encoder.num_layers
    return Estimate(parameters, disk, memory, 45 + 2.0 * layers + disk / 100e6)


def engine_bytes(checkpoint: Checkpoint, engines: Sequence[WantedEngine]) -> int:
    """Disk that engines take beside the components: a GPU's hold all weights again, those of a CPU hold none."""
    parameters = sum(parameter_estimate(checkpoint.architecture).values())
    return sum(parameters * (4 if each.precision == "fp32" else 2) for each in engines if each.target != CPU)


def _engines(options: BuildOptions) -> tuple[str, str, tuple[WantedEngine, ...]]:
    """Engine and precision of the CPU, and every engine to be made.

    An engine that is asked for is made for the targets of its kind, CPU or GPU; the other targets get their usual one.
    """
    targets = parse_targets(options.targets)
    asked = options.engine
    for_gpu = asked in builders.GPU_ENGINES
    if asked is not None and not for_gpu:
        registry.check_engine_name(asked)
    if asked is not None and not any((target != CPU) == for_gpu for target in targets):
        kind = "a GPU: give --target sm_89, say" if for_gpu else "a CPU: give --target cpu"
        raise UsageError(f"the {asked} engine is for {kind}; the targets are {', '.join(targets)}")
    engine = registry.default_engine() if asked is None or for_gpu else asked
    usual = registry.default_precision(engine)[0]
    precision = usual if options.precision is None or CPU not in targets else options.precision
    registry.check_precision(engine, precision)
    wanted = []
    for target in targets:
        if target == CPU:
            wanted.append(WantedEngine(target, engine, precision))
            continue
        name = asked if asked is not None and for_gpu else builders.default_builder(target)
        builder = builders.builder_for(name, target, options.precision)
        wanted.append(WantedEngine(target, name, options.precision or builder.usual_precision(target)))
    return engine, precision, () if options.onnx_only else tuple(wanted)


def _for_size(wanted: WantedEngine, defaults: Defaults, settings: TensorRtSettings) -> WantedEngine:
    """The engine under the name of the sizes that it is made for."""
    if wanted.target == CPU:
        return wanted
    builder = builders.builder_for(wanted.engine, wanted.target)
    return replace(wanted, profile=builder.profile(defaults.size, settings))


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
