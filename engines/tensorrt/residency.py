"""What a run takes of a GPU, from what its engines' builds told, before any of them is opened.

Each engine takes its weights, the memory it works in, and its inputs and outputs. Components run one after another, so
that all that are open work in the same memory, but for those that run beside the others. A stage is what is open
together where not all are: reading the prompt, encoding what the video begins with, jumping, decoding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyflow_rt.engines.engine import RESIDENCIES, RESIDENT, SEQUENTIAL, STREAMING
from anyflow_rt.engines.stages import runs_beside, stages_of
from anyflow_rt.engines.tensorrt.mending import engine_mend
from anyflow_rt.engines.tensorrt.record import EngineFacts, read_facts
from anyflow_rt.errors import EngineError, UsageError

RESERVE = 1 << 29
"""Bytes that CUDA and the libraries take for themselves. Assumed: no GPU was there to measure it."""


PROMPTS_OWN = {
    "denoiser": ("cross_key", "cross_value", "cache_key", "cache_value"),
    "cache_writer": ("cache_key", "cache_value"),
}
"""Inputs that each prompt a video is guided by has memory of its own for. Denoiser and cache writer read the same
caches; the writer's count for the chunks at full resolution, kept beside them as they were written and no larger."""

_HALF = 2
"""Bytes of one of their numbers."""


def fitting_residency(path: Path, asked: str | None, usual: str, prompts: int = 1) -> str:
    """The residency of the engines beside the file ``path``: as asked, else the first that fits, from ``usual`` on.
    prompts: that a video is guided by.

    Raises EngineError, with what each stage needs and the mend, where the GPU has too little memory, or PyTorch cannot
    use it; UsageError for ``streaming`` without weights that can be streamed. Asks PyTorch for the GPU's memory: not
    yet run on a GPU.
    """
    from anyflow_rt.engines.tensorrt.memory import free_memory

    free, total = free_memory()
    facts = read_facts(path.parent)
    return choose_residency(facts, path, free=free, total=total, asked=asked, usual=usual, prompts=prompts)


def choose_residency(
    facts: EngineFacts, path: Path, *, free: int, total: int, asked: str | None, usual: str, prompts: int = 1
) -> str:
    """``fitting_residency`` for ``free`` of ``total`` bytes."""
    streams = bool(facts.settings.get("weight_streaming"))
    if asked == STREAMING and not streams:
        raise UsageError(
            f"{path.parent} was built without weight streaming; leave out --residency {STREAMING}, or "
            f"{engine_mend(path, weight_streaming=True)}"
        )
    usual_ones = [each for each in RESIDENCIES[RESIDENCIES.index(usual) :] if each != STREAMING or streams]
    candidates = usual_ones if asked is None else [asked]
    for residency in candidates:
        if needed(facts, residency, prompts) + RESERVE <= free:
            return residency
    needs = {name: stage_needs(facts, names, prompts=prompts) for name, names in stages_of(facts.components).items()}
    stages = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in needs.items())
    mends = [f"take --residency {SEQUENTIAL}"] if asked == RESIDENT else []
    mends += ["leave out --guidance-scale"] if prompts > 1 else []
    mends += [] if streams else [engine_mend(path, weight_streaming=True)]
    most = needed(facts, candidates[-1], prompts)
    raise EngineError(
        f"{path.parent.name} needs {most / 1e9:.1f} GB of the GPU at once ({stages}) and it has "
        f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free; close other programs on it, build for a smaller size"
        f"{''.join(f', or {mend}' for mend in mends)}"
    )


def needed(facts: EngineFacts, residency: str, prompts: int = 1) -> int:
    """Bytes at the peak of a run, whose videos are guided by so many prompts each."""
    if residency == RESIDENT:
        return stage_needs(facts, list(facts.components), prompts=prompts)
    stages = stages_of(facts.components).values()
    return max(stage_needs(facts, names, streams=residency == STREAMING, prompts=prompts) for names in stages)


def stage_needs(facts: EngineFacts, names: Sequence[str], *, streams: bool = False, prompts: int = 1) -> int:
    """Bytes of the components ``names`` at once. streams: their weights come as they are used. prompts: of a video."""
    parts = [facts.components[name] for name in names]
    weights = 0 if streams else sum(_weights(part) for part in parts)
    beside = [name for name in names if runs_beside(name, facts.components)]
    working = _working(facts, [name for name in names if name not in beside]) + _working(facts, beside)
    ports = sum(part.get("ports") or 0 for part in parts)
    return weights + working + ports + sum(_of_a_prompt(facts, names) for _ in range(1, prompts))


def _of_a_prompt(facts: EngineFacts, names: Sequence[str]) -> int:
    """Bytes that the components ``names`` hold of each prompt, at the largest shapes."""
    total = 0
    for name in PROMPTS_OWN.keys() & set(names):
        profile = facts.components[name]["profiles"][-1]
        shapes = profile.get("largest", profile["usual"])
        total += sum(_HALF * math.prod(shapes[port]) for port in PROMPTS_OWN[name] if port in shapes)
    return total


def expected_working(facts: EngineFacts, component: str, residency: str) -> int:
    """Bytes of working memory that the engines which are open together with ``component`` will share."""
    stages = stages_of(facts.components).values()
    names = list(facts.components) if residency == RESIDENT else next(each for each in stages if component in each)
    beside = runs_beside(component, facts.components)
    return _working(facts, [name for name in names if runs_beside(name, facts.components) == beside])


def _weights(part: dict[str, Any]) -> int:
    """As TensorRT told, else the engine's file, which holds little else."""
    return int(part.get("weights") or part["bytes"])


def _working(facts: EngineFacts, names: Sequence[str]) -> int:
    return max((int(facts.components[name].get("working") or 0) for name in names), default=0)
