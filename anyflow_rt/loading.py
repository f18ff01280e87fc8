"""From what a user names to a ``Runtime``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from anyflow_rt.choice import USUAL_CALL, Call
from anyflow_rt.engines.bundle import Bundle, read_manifest
from anyflow_rt.engines.export import EXPORT_VERSION
from anyflow_rt.engines.locations import default_bundle_path
from anyflow_rt.engines.manifest import bundle_id
from anyflow_rt.errors import BundleError, UsageError
from anyflow_rt.runtime import Runtime
from anyflow_rt.shipped import SHAPES_CHECKPOINT, shipped, shipped_hash

logger = logging.getLogger(__name__)

Report = Callable[[str], object]


def load(
    bundle: str | Path | None = None,
    *,
    engine: str | None = None,
    precision: str | None = None,
    prompt_cache: str | Path | None = None,
    residency: str | None = None,
    num_frames: int | None = None,
    height: int | None = None,
    width: int | None = None,
    num_videos: int = 1,
) -> Runtime:
    """Open a bundle that ``anyflow-rt build`` made, ready to generate.

    bundle: its directory; None (default) is that of the shipped shapes checkpoint, built on first use, as is
    ``shapes-causal``, the causal one's. engine: ``openvino``, ``onnxruntime`` or, of a bundle built for this machine's
    GPU, ``tensorrt_rtx``, ``triton`` or ``tensorrt``; None (default) is the fastest here. precision: ``fp32``,
    ``bf16`` or ``fp16``; None (default) is bf16 where engine and processor have it.
    prompt_cache: a directory where prompt embeddings are kept, so that a prompt that is in it needs no text encoder,
    which is then not opened; None (default) keeps none. residency: ``resident`` keeps all engines open, ``sequential``
    those of one stage at a time, ``streaming`` does so with TensorRT's weight streaming; None (default) is the first
    that fits the GPU's memory. num_frames, height, width: of the videos that calls will ask for, None (default) for the
    bundle's own; num_videos: of one call, all prompts together, 1 by default. Of several engines that the bundle has
    for the GPU, one is taken that is built for them; each call says its own all the same.

    Raises UsageError for a bundle that is no path, for an engine or precision of no known name and for a size that the
    checkpoint cannot make, BundleError for a bundle that is missing, damaged or of another schema, MissingPackageError
    for an engine that is not installed, EngineError for a precision this processor does not have or a GPU that is not
    there; all say what to do.
    """
    if isinstance(num_videos, bool) or not isinstance(num_videos, int) or num_videos < 1:
        raise UsageError(f"num_videos is {num_videos!r}; give a whole number of at least 1")
    sized = (num_frames, height, width) != (None, None, None)
    runtime = open_runtime(
        bundle,
        engine=engine,
        precision=precision,
        specialize=not sized and num_videos == 1,
        prompt_cache=prompt_cache,
        residency=residency,
        meant_for=Call(num_frames, height, width, num_videos),
    )
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
    one_call: bool = False,
    prompt_cache: str | Path | None = None,
    residency: str | None = None,
    meant_for: Call = USUAL_CALL,
    report: Report = logger.warning,
) -> Runtime:
    """``load`` without waiting: the engines go on opening in the background. ``specialize``, ``single_use``,
    ``one_call`` and ``meant_for`` are ``Runtime``'s; ``report`` gets the lines of a build that comes first."""
    return Runtime(
        open_bundle(bundle, report),
        engine=engine,
        precision=precision,
        specialize=specialize,
        single_use=single_use,
        one_call=one_call,
        prompt_cache=prompt_cache,
        residency=residency,
        meant_for=meant_for,
    )


def open_bundle(bundle: str | Path | None = None, report: Report = logger.warning) -> Bundle:
    """The bundle that ``load`` opens, without an engine."""
    checkpoint = _shipped(bundle)
    return Bundle.open(bundle if checkpoint is None else _shipped_bundle(checkpoint, report))  # type: ignore[arg-type]


def is_built(bundle: str | Path | None) -> bool:
    """Whether ``open_bundle`` has nothing to build first."""
    checkpoint = _shipped(bundle)
    return checkpoint is None or _is_current(checkpoint)


def _shipped(bundle: str | Path | None) -> Path | None:
    """The shipped checkpoint whose bundle is meant; None where a directory is."""
    return SHAPES_CHECKPOINT if bundle is None else shipped(bundle)


def _shipped_bundle(checkpoint: Path, report: Report) -> Path:
    """Where its bundle is, after making it where it is not there or of an earlier version."""
    path = default_bundle_path(checkpoint)
    if not _is_current(checkpoint):
        from anyflow_rt.build import build, require_packages
        from anyflow_rt.build_plan import BuildOptions

        kind = "shapes" if checkpoint == SHAPES_CHECKPOINT else "causal shapes"
        require_packages(f"building the {kind} checkpoint's bundle")
        report(f"building the bundle of the {kind} checkpoint at {path} (once, about a minute)")
        build(BuildOptions(checkpoint=str(checkpoint), check_parity=False), report)
    return path


def _is_current(checkpoint: Path) -> bool:
    """Whether a shipped checkpoint's bundle was made of it by this version of the package. Hashing it takes 10 ms.

    A bundle that cannot be read is for ``Bundle.open`` to complain of.
    """
    path = default_bundle_path(checkpoint)
    if not path.exists():
        return False
    try:
        manifest = read_manifest(path)
    except BundleError:
        return True
    return manifest.bundle_id == bundle_id(shipped_hash(checkpoint), EXPORT_VERSION)
