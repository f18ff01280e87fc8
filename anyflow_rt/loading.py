"""From what a user names to a ``Runtime``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from anyflow_rt.engines.bundle import Bundle, read_manifest
from anyflow_rt.engines.checkpoint_hash import content_hash
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.hub import CONFIG_PATTERNS
from anyflow_rt.engines.locations import default_bundle_path
from anyflow_rt.engines.manifest import bundle_id
from anyflow_rt.errors import BundleError
from anyflow_rt.runtime import Runtime

logger = logging.getLogger(__name__)

Report = Callable[[str], object]

SHAPES_CHECKPOINT = Path(__file__).parent / "data" / "shapes"
"""The checkpoint that ships with the package: 64x64 clips of moving shapes."""


def load(
    bundle: str | Path | None = None,
    *,
    engine: str | None = None,
    precision: str | None = None,
    prompt_cache: str | Path | None = None,
    residency: str | None = None,
) -> Runtime:
    """Open a bundle that ``anyflow-rt build`` made, ready to generate.

    bundle: its directory; None (default) is that of the shipped shapes checkpoint, built on first use. engine:
    ``openvino``, ``onnxruntime`` or, of a bundle built for this machine's GPU, ``tensorrt_rtx``, ``triton`` or
    ``tensorrt``; None (default) is the fastest here. precision: ``fp32``, ``bf16`` or ``fp16``; None (default) is bf16
    where engine and processor have it.
    prompt_cache: a directory where prompt embeddings are kept, so that a prompt that is in it needs no text encoder,
    which is then not opened; None (default) keeps none. residency: ``resident`` keeps all engines open, ``sequential``
    those of one stage at a time, ``streaming`` does so with TensorRT's weight streaming; None (default) is the first
    that fits the GPU's memory.

    Raises UsageError for a bundle that is no path and for an engine or precision of no known name, BundleError for a
    bundle that is missing, damaged or of another schema, MissingPackageError for an engine that is not installed,
    EngineError for a precision this processor does not have or a GPU that is not there; all say what to do.
    """
    runtime = open_runtime(bundle, engine=engine, precision=precision, prompt_cache=prompt_cache, residency=residency)
    try:
        runtime.wait()
    except BaseException:
        runtime.close()
        raise
    return runtime


def open_runtime(
    bundle: str | Path | None = None,
    *,
    engine: str | None = None,
    precision: str | None = None,
    specialize: bool = True,
    single_use: bool = False,
    prompt_cache: str | Path | None = None,
    residency: str | None = None,
    report: Report = logger.warning,
) -> Runtime:
    """``load`` without waiting: the engines go on opening in the background. ``specialize`` and ``single_use`` are
    ``Runtime``'s; ``report`` gets the lines of a build that comes first."""
    return Runtime(
        open_bundle(bundle, report),
        engine=engine,
        precision=precision,
        specialize=specialize,
        single_use=single_use,
        prompt_cache=prompt_cache,
        residency=residency,
    )


def open_bundle(bundle: str | Path | None = None, report: Report = logger.warning) -> Bundle:
    """The bundle that ``load`` opens, without an engine."""
    return Bundle.open(_shapes_bundle(report) if bundle is None else bundle)


def shapes_bundle_is_built() -> bool:
    """Whether ``open_bundle(None)`` opens what is there."""
    return _is_current(default_bundle_path(SHAPES_CHECKPOINT))


def _shapes_bundle(report: Report) -> Path:
    """Where the shapes checkpoint's bundle is, after making it where it is not there or of an earlier version."""
    path = default_bundle_path(SHAPES_CHECKPOINT)
    if not shapes_bundle_is_built():
        from anyflow_rt.build import build, require_packages
        from anyflow_rt.build_plan import BuildOptions

        require_packages("building the shapes checkpoint's bundle")
        report(f"building the bundle of the shapes checkpoint at {path} (once, about a minute)")
        build(BuildOptions(checkpoint=str(SHAPES_CHECKPOINT), check_parity=False), report)
    return path


def _is_current(path: Path) -> bool:
    """Whether the bundle was made by this version of the package, of the checkpoint it ships. Hashing it takes 10 ms.

    A bundle that cannot be read is for ``Bundle.open`` to complain of.
    """
    if not path.exists():
        return False
    try:
        manifest = read_manifest(path)
    except BundleError:
        return True
    return manifest.bundle_id == bundle_id(shapes_hash(), EXPORT_VERSION)


def shapes_hash() -> str:
    """``Checkpoint.content_hash`` of the shipped checkpoint, without the packages that ``load_checkpoint`` needs."""
    configs = (path for name in CONFIG_PATTERNS if (path := SHAPES_CHECKPOINT / name).is_file())
    return content_hash(SHAPES_CHECKPOINT, (*configs, *SHAPES_CHECKPOINT.glob("*/*.safetensors")))
