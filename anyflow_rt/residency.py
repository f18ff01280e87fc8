"""How many of a bundle's engines are open at a time: as asked, else as many as the GPU has memory for."""

from __future__ import annotations

from anyflow_rt.choice import Choice
from anyflow_rt.engines import registry
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.engine import RESIDENCIES, RESIDENT, SEQUENTIAL, STREAMING
from anyflow_rt.errors import UsageError


def decide_residency(bundle: Bundle, chosen: Choice, asked: str | None, *, single_use: bool, prompts: int = 1) -> str:
    """One of ``RESIDENCIES`` for ``bundle`` on the ``chosen`` engine; ``asked`` None is for this to choose.

    single_use: one call is all there will be; nothing is gained by keeping an engine after its stage. prompts: that a
    video is guided by.
    Raises UsageError for a name that is none, and for ``streaming`` where no weights can be streamed; for TensorRT's
    EngineError where they cannot run here, or the GPU has too little memory, before any of them is opened.
    """
    if asked is not None and asked not in RESIDENCIES:
        raise UsageError(f"unknown residency {asked!r}; choose from {', '.join(RESIDENCIES)}")
    if asked == STREAMING and not registry.is_tensorrt(chosen.engine):
        raise UsageError(f"residency {STREAMING} is for TensorRT engines, and {chosen.engine} runs; take {SEQUENTIAL}")
    usual = SEQUENTIAL if single_use else RESIDENT
    if chosen.record is None or not registry.is_tensorrt(chosen.engine):
        return usual if asked is None else asked
    from anyflow_rt.engines.tensorrt.requirements import require_runnable
    from anyflow_rt.engines.tensorrt.residency import fitting_residency

    file = bundle.engine_path(chosen.record, "denoiser")
    require_runnable(chosen.engine, file)
    return fitting_residency(file, asked, usual, prompts)
