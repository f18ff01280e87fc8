"""Engines for a bundle whose checkpoint is elsewhere: a small machine exports, one with the GPU builds.

anyflow-rt build --ckpt CHECKPOINT --out BUNDLE --onnx-only     # here
anyflow-rt build --bundle BUNDLE --target sm_90                 # there, with a copy of BUNDLE
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from anyflow_rt.build import BuildReport, make_engines, require_ready, tell_of_kept
from anyflow_rt.build_estimate import Estimate, WantedEngine, estimate
from anyflow_rt.build_plan import for_size, resolve_engines
from anyflow_rt.choice import SIZES
from anyflow_rt.engines import registry
from anyflow_rt.engines.builders import BuildSource, Progress, require_builder_packages
from anyflow_rt.engines.bundle import Bundle, read_manifest
from anyflow_rt.engines.bundle_survey import survey
from anyflow_rt.engines.bundle_writer import BundleWriter
from anyflow_rt.engines.export import component_names
from anyflow_rt.engines.geometry import VideoSize, latent_size
from anyflow_rt.engines.manifest import Defaults
from anyflow_rt.engines.mend import rebuild_command
from anyflow_rt.engines.paths import check_path
from anyflow_rt.engines.targets import CPU
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.text_weights import text_weights_of
from anyflow_rt.errors import BundleError, UsageError


@dataclass(frozen=True)
class EngineOptions:
    """Which engines to add to the bundle ``bundle``; targets, engine, precision and tensorrt as of ``BuildOptions``.
    force: also those that are there. num_frames, height, width: that they are made for; None is the bundle's own.
    """

    bundle: Path
    targets: Sequence[str]
    engine: str | None = None
    precision: str | None = None
    force: bool = False
    tensorrt: TensorRtSettings = field(default_factory=TensorRtSettings)
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Those that are given."""
        return {name: value for name in SIZES if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class EnginePlan:
    """The bundle that is there, the size and the engines that are asked for, those to be made, and what they take."""

    bundle: Bundle
    size: VideoSize
    asked: tuple[WantedEngine, ...]
    wanted: tuple[WantedEngine, ...]
    estimate: Estimate


def plan_engines(options: EngineOptions) -> EnginePlan:
    """Resolve ``options``; reads only. Raises UsageError and BundleError for what no build can do."""
    folder = check_path("the bundle", options.bundle, "give a directory made by  anyflow-rt build")
    bundle = Bundle(folder, read_manifest(folder))
    bundle.check_version()
    # An engine that is damaged is no reason not to make it again.
    found = survey(folder, bundle.id, force=False)
    lost = [name for name in component_names(bundle.architecture) if name not in found.components]
    if lost or found.tokenizer is None:
        Bundle.open(folder)
        raise BundleError(f"the bundle {folder} has no {', '.join(lost)}; {rebuild_command(folder)}")
    _, _, resolved = resolve_engines(options.targets, options.engine, options.precision, from_graphs=True)
    options.tensorrt.check_used({each.target: each.engine for each in resolved})
    text = text_weights_of(bundle.manifest.components)
    defaults = _defaults(bundle, options.sizes, resolved)
    asked = tuple(for_size(each, bundle.architecture, defaults, options.tensorrt, text) for each in resolved)
    wanted = tuple(each for each in asked if options.force or each.key not in found.engines)
    lengths = options.tensorrt.prompt_lengths
    needs = estimate(bundle.architecture, exports=False, engines=wanted, prompt_lengths=lengths)
    return EnginePlan(bundle, defaults.size, asked, wanted, needs)


def _defaults(bundle: Bundle, sizes: dict[str, int], engines: Sequence[WantedEngine]) -> Defaults:
    """The bundle's, with the size that engines are to be made for. Raises UsageError where the checkpoint cannot make
    it, or one of ``engines`` is made for no size."""
    if not sizes:
        return bundle.defaults
    if any(not registry.is_tensorrt(each.engine) for each in engines):
        others = ", ".join(str(each) for each in engines if not registry.is_tensorrt(each.engine))
        raise UsageError(f"engines for {others} take every size; leave out {', '.join(sizes)}, or that target")
    size = replace(bundle.defaults.size, **sizes)
    latent_size(bundle.architecture, size)
    return replace(bundle.defaults, **asdict(size))


def add_engines(
    options: EngineOptions,
    report: Callable[[str], object] = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> BuildReport:
    """Add engines, made of the bundle's graphs. ``report`` and ``progress`` as of ``build``.

    Raises what ``build`` raises; the bundle is then as it was.
    """
    start = time.perf_counter()
    plan = plan_engines(options)
    for each in plan.wanted:
        if each.target != CPU:
            require_builder_packages(each.engine, each.target)
    bundle, manifest = plan.bundle, plan.bundle.manifest
    tell_of_kept(bundle, plan.asked, plan.wanted, options.tensorrt, report)
    if not plan.wanted:
        return BuildReport(bundle.path, bundle.id, changed=False, seconds=time.perf_counter() - start)
    require_ready(plan.wanted)
    with BundleWriter(
        bundle.path,
        checkpoint=manifest.checkpoint,
        export_version=manifest.export_version,
        architecture=manifest.architecture,
        defaults=manifest.defaults,
        packages=manifest.packages,
        elsewhere="copy the bundle to a larger disk",
    ) as writer:
        writer.require_space(plan.estimate.disk)
        if plan.estimate.seconds:
            report(f"this takes {plan.estimate}")
        source = BuildSource(None, writer.draft(), options.tensorrt, progress, plan.size)
        compiled = make_engines(writer, source, plan.wanted, report)
        made = writer.commit()
    return BuildReport(made.path, made.id, changed=True, compiled=compiled, seconds=time.perf_counter() - start)
