"""What a build is asked to do, what of it is there already, and what the rest will take. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from anyflow_rt.build_estimate import Estimate, WantedEngine, estimate
from anyflow_rt.defaults import default_video
from anyflow_rt.engines import builders, geometry, locations, registry
from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.bundle import read_manifest
from anyflow_rt.engines.bundle_survey import GIVE_OUT, survey
from anyflow_rt.engines.checkpoint import Checkpoint, load_checkpoint
from anyflow_rt.engines.export import EXPORT_VERSION, component_names
from anyflow_rt.engines.manifest import CheckpointRecord, ComponentRecord, Defaults, Manifest, bundle_id
from anyflow_rt.engines.paths import check_path
from anyflow_rt.engines.targets import CPU, parse_targets
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.text_weights import INT8, check_text_weights, text_weights_of
from anyflow_rt.errors import BundleError, CheckpointError, UsageError
from anyflow_rt.shipped import SHIPPED, shipped

OUTSIDE_THE_CACHE = (
    "set XDG_CACHE_HOME to another directory, or choose the place with  anyflow-rt build --out DIR  and use it with  "
    "anyflow-rt run --bundle DIR"
)
"""Where no place was given: ``run`` and ``load`` build too, and have no --out."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build. checkpoint: a directory, a hub id, or the name of a shipped one. Sizes are those a bundle makes
    where a run does not say; they limit nothing on a CPU.

    check_parity, calibrate None: for checkpoints under 1 GB. text_weights: of the text encoder, ``stored`` or ``int8``;
    None: as in the bundle that is there, else ``stored``.
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
    text_weights: str | None = None
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
        check_text_weights(self.text_weights)
        if self.text_weights == INT8 and self.check_parity:
            raise UsageError(
                "check_parity (--check-parity) holds a bundle to the reference's own weights, and text_weights int8 "
                "changes them; leave one of them out"
            )
        for name in ("engine", "precision"):
            # Parity is checked on an engine, also where none is compiled for the bundle.
            if self.onnx_only and not self.check_parity and getattr(self, name) is not None:
                raise UsageError(
                    f"{name} {getattr(self, name)!r} contradicts onnx_only (--onnx-only), which compiles for none; "
                    "leave one of them out"
                )


@dataclass(frozen=True)
class BuildPlan:
    """A build before it begins: its options, resolved.

    engine, precision: of the CPU, on which parity is checked. wanted: what is to be made, unless it is there.
    existing: the manifest of the same checkpoint's bundle, where it is there and may be kept. text_weights: of the text
    encoder, once all is done. force: whether what is
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
    text_weights: str
    force: bool
    elsewhere: str


@dataclass(frozen=True)
class Preview:
    """What a build would do. components, engines: those it would make. settings: whether tokenizer or default size
    would change. estimate: what that takes."""

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
    checkpoint = _load(options)
    engine, precision, wanted = resolve_engines(options.targets, options.engine, options.precision)
    wanted = () if options.onnx_only else wanted
    options.tensorrt.check_used({each.target: each.engine for each in wanted})
    # A directory by its full path: the messages that say how to build the bundle again name it, wherever they appear.
    name = checkpoint.id if checkpoint.revision is not None else str(checkpoint.path)
    record = CheckpointRecord(name, checkpoint.revision, checkpoint.content_hash())
    existing = _existing(options, bundle_id(record.sha256, EXPORT_VERSION))
    defaults = _defaults(options, checkpoint, existing)
    text_weights = options.text_weights or text_weights_of(existing.components if existing else ())
    return BuildPlan(
        checkpoint=checkpoint,
        path=bundle_path(options),
        record=record,
        engine=engine,
        precision=precision,
        wanted=tuple(
            for_size(each, checkpoint.architecture, defaults, options.tensorrt, text_weights) for each in wanted
        ),
        existing=existing,
        defaults=defaults,
        text_weights=text_weights,
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
    missing = missing_components(plan, found.components)
    return Preview(
        path=plan.path,
        components=missing,
        engines=tuple(str(each) for each in engines),
        settings=found.tokenizer is None or plan.existing is None or plan.defaults != plan.existing.defaults,
        estimate=estimate(
            plan.checkpoint.architecture,
            exports=bool(missing),
            engines=engines,
            prompt_lengths=options.tensorrt.prompt_lengths,
        ),
    )


def missing_components(plan: BuildPlan, present: Mapping[str, ComponentRecord]) -> tuple[str, ...]:
    """What of ``present`` is to be exported, or exported again since the text encoder's weights are to be others."""
    names = component_names(plan.checkpoint.architecture)
    other = {"text_encoder"} if text_weights_of(present.values()) != plan.text_weights else set()
    return tuple(name for name in names if name not in present or name in other)


def bundle_path(options: BuildOptions) -> Path:
    """Where the bundle goes: as asked, or its place in the user's cache."""
    return Path(options.out) if options.out is not None else locations.default_bundle_path(options.source)


def resolve_engines(
    targets: Sequence[str], asked: str | None, asked_precision: str | None, *, from_graphs: bool = False
) -> tuple[str, str, tuple[WantedEngine, ...]]:
    """Engine and precision of the CPU, and every engine to be made.

    An engine that is asked for is made for the targets of its kind, CPU or GPU; the other targets get their usual one.
    from_graphs: there is no checkpoint, so that engines which are made of its weights are refused.
    """
    targets = parse_targets(targets)
    for_gpu = asked in builders.GPU_ENGINES
    if asked is not None and not for_gpu:
        registry.check_engine_name(asked)
    if asked is not None and not any((target != CPU) == for_gpu for target in targets):
        kind = "a GPU: give --target sm_89, say" if for_gpu else "a CPU: give --target cpu"
        raise UsageError(f"the {asked} engine is for {kind}; the targets are {', '.join(targets)}")
    engine = registry.default_engine() if asked is None or for_gpu else asked
    usual = registry.default_precision(engine)[0]
    precision = usual if asked_precision is None or CPU not in targets else asked_precision
    registry.check_precision(engine, precision)
    wanted = []
    for target in targets:
        if target == CPU:
            wanted.append(WantedEngine(target, engine, precision))
            continue
        name = asked if asked is not None and for_gpu else builders.default_builder(target, from_graphs=from_graphs)
        builder = builders.builder_for(name, target, asked_precision)
        if from_graphs and not builder.from_graphs:
            raise UsageError(
                f"the {name} engine is made of the checkpoint's weights, which a bundle does not hold; give --ckpt "
                "and --out, or another --engine"
            )
        wanted.append(WantedEngine(target, name, asked_precision or builder.usual_precision(target)))
    return engine, precision, tuple(wanted)


def for_size(
    wanted: WantedEngine,
    architecture: Architecture,
    defaults: Defaults,
    settings: TensorRtSettings,
    text_weights: str,
) -> WantedEngine:
    """The engine under the name of the sizes that it is made for, and of what its text encoder is made of. Raises
    UsageError for sizes that the checkpoint cannot make, or that the bundle's own is not within."""
    if wanted.target == CPU:
        return wanted
    if registry.is_tensorrt(wanted.engine):
        settings.check_size(architecture, defaults.size)
    builder = builders.builder_for(wanted.engine, wanted.target)
    builder.check(wanted.target, settings)
    name = builder.profile(defaults.size, settings)
    return replace(wanted, profile=f"{name}-{INT8}_text" if builder.from_graphs and text_weights == INT8 else name)


def _load(options: BuildOptions) -> Checkpoint:
    name = Path(options.source)
    if len(name.parts) == 1 and not name.expanduser().exists():
        raise CheckpointError(
            f"there is no directory {options.source!r}, it has not the form of a hub id (owner/name), and the shipped "
            f"checkpoints are {', '.join(SHIPPED)}; check the path"
        )
    return load_checkpoint(options.source, revision=options.revision)


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
