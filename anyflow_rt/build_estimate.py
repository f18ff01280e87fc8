"""What a build will take, from the architecture alone: disk, memory, time. The figures behind it are in ``docs/``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from anyflow_rt.engines.architecture import Architecture, parameter_estimate
from anyflow_rt.engines.registry import is_tensorrt
from anyflow_rt.engines.targets import CPU
from anyflow_rt.engines.tensorrt.settings import PROMPT_LENGTHS

BASE_MEMORY = 3 << 29
"""PyTorch and the exporter, or TensorRT's compiler, without any weights."""
TENSORRT_BASE, TENSORRT_LENGTH = 96 << 20, 4 << 20
"""Bytes of a target's TensorRT engines beside their weights, and of each prompt length: the smallest checkpoint's
engines for sm_89 with the five usual lengths take 92 MB together."""
LAYER_SECONDS = 2.0
"""Of exporting a transformer layer, and again of compiling it for a GPU: more than its size is its number of nodes."""


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
    """disk and memory in bytes, memory without what is mapped from files; seconds on two cores. parameters: of each
    network."""

    parameters: dict[str, int]
    disk: int
    memory: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"up to {self.disk / 1e9:.2f} GB of disk, {self.memory / 1e9:.1f} GB of memory and about "
            f"{self.seconds:.0f} s"
        )


def estimate(
    architecture: Architecture,
    *,
    exports: bool,
    engines: Sequence[WantedEngine],
    prompt_lengths: Sequence[int] = PROMPT_LENGTHS,
) -> Estimate:
    """Of exporting all components, or none, and making ``engines``. A CPU's take nothing worth saying. prompt_lengths:
    of those of TensorRT."""
    parameters = parameter_estimate(architecture)
    layers = architecture.transformer.num_layers + architecture.text_encoder.num_layers
    disk = memory = 0
    seconds = 0.0
    if exports:
        float32 = {name: 4 * count for name, count in parameters.items()}
        # Decoder and encoder are each exported twice: for the first frame and for the following ones.
        disk = sum(float32.values()) + float32["vae"] + (50 << 20)
        if architecture.causal is not None:
            disk += float32["transformer"]  # denoiser and cache writer have the same blocks
        # Large weights are computed and written one at a time; the largest, all layers' keys and values of the prompt,
        # takes a quarter of its network in float32 while it is put together.
        memory = max(parameters.values()) + BASE_MEMORY
        seconds = 45 + LAYER_SECONDS * layers + disk / 100e6
    gpus = [each for each in engines if each.target != CPU]
    for each in gpus:
        # As among the graphs a causal checkpoint's blocks are there twice, but not among Triton's files.
        again = architecture.causal is not None and is_tensorrt(each.engine)
        twice = parameters["transformer"] if again else 0
        size = (sum(parameters.values()) + twice) * (4 if each.precision == "fp32" else 2)
        disk += size
        if is_tensorrt(each.engine):
            disk += TENSORRT_BASE + TENSORRT_LENGTH * len(prompt_lengths)
        seconds += 30 + LAYER_SECONDS * layers + size / 100e6
    if gpus:
        # The graph that an engine is made of, in its types, is there as long as the engine is being made.
        disk += 4 * max(parameters.values())
        memory = max(memory, 4 * max(parameters.values()) + BASE_MEMORY)
    return Estimate(parameters, disk, memory, seconds)
