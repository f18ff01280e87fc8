"""Checkpoint -> bundle: graphs, tokenizer, compiled engines, parity, latencies. What is there already is kept."""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path

from anyflow_rt.build_estimate import WantedEngine, estimate
from anyflow_rt.build_plan import BuildOptions, missing_components, plan_build
from anyflow_rt.components import Components
from anyflow_rt.engines import locations, registry
from anyflow_rt.engines.builders import BuildSource, Progress, builder_for, require_builder_packages
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.bundle_writer import BundleWriter
from anyflow_rt.engines.checkpoint import Checkpoint
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.engines.targets import CPU
from anyflow_rt.engines.tensorrt.record import differences, read_facts
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings
from anyflow_rt.engines.text_weights import INT8
from anyflow_rt.errors import BundleError, MissingPackageError, OutputError
from anyflow_rt.parity import Parity
from anyflow_rt.sampling.calibration import read_calibration, write_calibration
from anyflow_rt.tokenizer import reference_tokenizer

SMALL = 1 << 30
"""Bytes of weights above which bundles are tried only where asked for: the reference takes minutes and gigabytes."""
TRIED_SIZE = VideoSize(num_frames=17, height=192, width=192)
"""The most that bundles are tried at; a multiple of what patches of 1, 2, 3 or 4 demand."""
EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "transformers")
"""What a bundle's contents depend on; transformers makes its tokenizer."""

Report = Callable[[str], object]


@dataclass(frozen=True)
class BuildReport:
    """What a build did. ``changed``: whether the bundle is another than before. ``exported``, ``compiled``: seconds of
    each graph and each engine that was made."""

    path: Path
    bundle_id: str
    changed: bool
    exported: dict[str, float] = field(default_factory=dict)
    compiled: dict[str, float] = field(default_factory=dict)
    parity: tuple[Parity, ...] = ()
    seconds: float = 0.0


def build(
    options: BuildOptions,
    report: Report = lambda line: None,
    progress: Progress = lambda what, done, total: None,
) -> BuildReport:
    """Make, or complete, the bundle of a checkpoint. ``report`` gets a line for each thing as it begins, ``progress``
    the parts of an engine as they are made.

    Raises CheckpointError, BundleError, OutputError or ParityError, each naming the mend; the bundle that was there
    before is then untouched. MissingPackageError where the ``build`` extra is not installed.
    """
    start = time.perf_counter()
    plan = plan_build(options)
    for each in plan.wanted:
        if each.target != CPU:
            require_builder_packages(each.engine, each.target)
    checkpoint, engine, precision, defaults = plan.checkpoint, plan.engine, plan.precision, plan.defaults
    with BundleWriter(
        plan.path,
        checkpoint=plan.record,
        export_version=EXPORT_VERSION,
        architecture=checkpoint.architecture,
        defaults=defaults,
        packages={package: importlib.metadata.version(package) for package in _present(EXPORT_PACKAGES)},
        force=plan.force,
        elsewhere=plan.elsewhere,
    ) as writer:
        missing = missing_components(plan, writer.components)
        wanted = [each for each in plan.wanted if not writer.has_engine(*each.key)]
        if missing:
            require_packages("exporting a checkpoint's graphs")
        require_ready(wanted)
        lengths = options.tensorrt.prompt_lengths
        needs = estimate(checkpoint.architecture, exports=bool(missing), engines=wanted, prompt_lengths=lengths)
        writer.require_space(needs.disk)
        if missing or needs.seconds:
            report(f"this takes {needs}")
        if plan.existing is not None:
            tell_of_kept(Bundle(plan.path, plan.existing), plan.wanted, wanted, options.tensorrt, report)
        settled = plan.existing is not None and plan.existing.defaults == defaults
        changed = bool(missing) or not writer.has_tokenizer or not settled
        if not writer.has_tokenizer:
            with tempfile.TemporaryDirectory() as folder:
                writer.set_tokenizer(reference_tokenizer(checkpoint, Path(folder)))
        exported: dict[str, float] = {}
        for name in missing:
            report(f"exporting {name} ({len(exported) + 1} of {len(missing)})")
            exported[name] = _export(writer, checkpoint, name, plan.text_weights)
        source = BuildSource(checkpoint, writer.draft(), options.tensorrt, progress)
        compiled = make_engines(writer, source, wanted, report)
        changed = changed or bool(wanted)
        compiled_here = any(each.target == CPU for each in wanted)
        parity: tuple[Parity, ...] = ()
        size, small = _tried_size(defaults.size), checkpoint.weight_bytes < SMALL and not options.onnx_only
        exact = plan.text_weights != INT8
        if not exact and small:
            report("parity was not checked: the text encoder's weights are 8-bit integers, the reference's are not")
        if _wants(options.check_parity, exact and small and bool(exported or compiled_here)):
            parity = _check_parity(checkpoint, writer.draft(), engine, precision, size, report)
        bundle = writer.commit() if changed else Bundle.open(writer.path)
    _bring_calibration(checkpoint, bundle, report)
    if _wants(options.calibrate, small and compiled_here):
        _calibrate(bundle, engine, precision, size, report)
    elif changed and options.calibrate is None:
        why = (
            "nothing was compiled for this machine"
            if not compiled_here
            else f"the checkpoint is of {SMALL >> 30} GiB or more"
        )
        report(f"latencies were not measured, as {why}: before a budget, anyflow-rt calibrate --bundle {bundle.path}")
    return BuildReport(bundle.path, bundle.id, changed, exported, compiled, parity, time.perf_counter() - start)


def _bring_calibration(checkpoint: Checkpoint, bundle: Bundle, report: Report) -> None:
    """A checkpoint may come with the quality that was measured of it; what was measured of this bundle is kept."""
    source = checkpoint.path / bundle.calibration_path.name
    if bundle.calibration_path.exists():
        return
    try:
        calibration = read_calibration(source, bundle.id)
    except BundleError as error:
        report(f"not taken over: {error}")
        return
    if calibration is not None:
        write_calibration(bundle.calibration_path, calibration)


def _export(writer: BundleWriter, checkpoint: Checkpoint, name: str, text_weights: str) -> float:
    """Export one component; seconds it took. The network's weights are let go before the next one's are read."""
    from anyflow_rt.engines.export.components import COMPONENTS, export_component

    start = time.perf_counter()
    with writer.component(name) as folder:
        weights = checkpoint.weights(COMPONENTS[name].network)
        export_component(name, checkpoint.architecture, weights, folder / f"{name}.onnx")
        if name == "text_encoder" and text_weights == INT8:
            from anyflow_rt.engines.export.int8 import quantise_weights

            quantise_weights(folder / f"{name}.onnx")
    gc.collect()
    return time.perf_counter() - start


def tell_of_kept(
    bundle: Bundle,
    asked: Sequence[WantedEngine],
    wanted: Sequence[WantedEngine],
    settings: TensorRtSettings,
    report: Report,
) -> None:
    """Say which of the engines that are ``asked`` for are there already, built with other settings than those now."""
    kept = {each.key for each in asked if each not in wanted}
    for engine in bundle.manifest.engines:
        if engine.key not in kept or not registry.is_tensorrt(engine.engine):
            continue
        facts = read_facts(bundle.engine_path(engine, "denoiser").parent)
        if others := differences(facts, asdict(settings)):
            report(
                f"{engine.target} {engine.engine} {engine.precision} is kept as it is there, built with "
                f"{', '.join(others)}; --force makes it again"
            )


def require_ready(wanted: Sequence[WantedEngine]) -> None:
    """Raise unless this machine can make ``wanted``: said before the export, which may take long."""
    for each in wanted:
        if each.target != CPU:
            builder_for(each.engine, each.target).ready(each.target)


def make_engines(
    writer: BundleWriter, source: BuildSource, wanted: Sequence[WantedEngine], report: Report
) -> dict[str, float]:
    """``wanted`` into the bundle, one after another; seconds of each. A CPU's has no files, it is only tried."""
    seconds: dict[str, float] = {}
    for each in wanted:
        start = time.perf_counter()
        report(f"compiling for {each}")
        target, engine, precision, profile = each.key
        packages: dict[str, str] = {}
        with writer.engine(target, engine, precision, packages, profile) as folder:
            if target == CPU:
                _compile(source.bundle, engine, precision)
            else:
                packages |= builder_for(engine, target).build(source, target, precision, folder, report)
        gc.collect()
        seconds[str(each)] = time.perf_counter() - start
        if target != CPU:
            report(f"compiled for {each} in {seconds[str(each)]:.1f} s")
    return seconds


def _compile(bundle: Bundle, engine: str, precision: str) -> None:
    """Compile every component once, so that the first run finds them in the machine's cache."""
    components = Components(
        bundle, engine, precision, locations.compiled_cache(bundle.id), specialize=bundle.defaults.size
    )
    try:
        components.wait()
    finally:
        components.close()


def _wants(asked: bool | None, usual: bool) -> bool:
    return usual if asked is None else asked


def _tried_size(default: VideoSize) -> VideoSize:
    """The default video, cut to what is made in seconds: a defect shows at any size, and latencies are extrapolated."""
    return VideoSize(*(min(asked, most) for asked, most in zip(astuple(default), astuple(TRIED_SIZE), strict=True)))


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


def _calibrate(bundle: Bundle, engine: str, precision: str, size: VideoSize, report: Report) -> None:
    """Measure latencies for a few seconds. A profile that cannot be written is said, and no reason to fail."""
    from anyflow_rt.calibrate import CalibrateOptions, calibrate

    other = None if size == bundle.defaults.size else size
    quick = CalibrateOptions(steps=(1, 2, 4, 8), rounds=3, openings=2, seconds=3.0, size=other)
    try:
        found = calibrate(bundle, quick, engine=engine, precision=precision, report=report)
    except OutputError as error:
        report(f"latencies were measured for nothing: {error}")
    else:
        report(f"latencies kept in {found.profile}")


def _present(packages: Sequence[str]) -> list[str]:
    return [package for package in packages if importlib.util.find_spec(package) is not None]


def require_packages(purpose: str) -> None:
    """Raise MissingPackageError, naming ``purpose``, unless everything is installed that exporting needs."""
    present = _present(EXPORT_PACKAGES)
    for package in EXPORT_PACKAGES:
        if package not in present:
            raise MissingPackageError(package, "build", purpose)
