"""Builds the Triton engine for a GPU that need not be here: packed weights, and every kernel of a jump, compiled.

    engines/<target>/triton-<precision>-dynamic/
        <component>.safetensors     weights and signature of each component that a run opens (``torch_pack``)
        kernels/<op>-sm_XX-<key>.*  cubin, PTX and launch metadata of each launch (``kernels.aot``)

The kernels are those of the bundle's default video. A run at another size launches some with other constants; those it
compiles itself, once, as Triton does. Which launches a jump makes is not written down anywhere: the denoiser runs on
tensors without storage, and its launches are recorded.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.builders import Builder, BuildSource, Report
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.export import COMPONENT_NAMES
from anyflow_rt.engines.geometry import PAD_KEYS, LatentSize, latent_size, token_grid
from anyflow_rt.engines.targets import capability

if TYPE_CHECKING:
    from anyflow_rt.kernels.launch import Launch

RUN_COMPONENTS = tuple(name for name in COMPONENT_NAMES if not name.startswith("vae_encoder"))
"""Nothing that a verb runs encodes video yet."""
TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Those of ``kernels.aot``; a test compares them, since that one needs Triton."""

PROMPT_KEYS = 32 + PAD_KEYS
"""Of the recorded jump. Any number would do: kernels take it when they are launched."""


def build(source: BuildSource, target: str, precision: str, folder: Path, report: Report) -> dict[str, str]:
    """A ``Builder``'s. Raises EngineError where kernels cannot be compiled, MissingPackageError without Triton."""
    from anyflow_rt.engines.torch_pack import Packed, pack_component

    checkpoint = source.checkpoint
    assert checkpoint is not None, "who plans a build refuses this engine without one"
    for name in RUN_COMPONENTS:
        report(f"packing {name}")
        packed = Packed(name, "fp32" if name == "time_embedder" else precision, checkpoint.architecture)
        pack_component(packed, checkpoint, folder / f"{name}.safetensors")
    count = compile_kernels(source, target, precision, folder)
    report(f"compiled {count} kernels for {target}")
    return {name: importlib.metadata.version(name) for name in ("torch", "triton")}


def compile_kernels(source: BuildSource, target: str, precision: str, folder: Path) -> int:
    """Every launch of a jump, those that are alike once, into ``folder/kernels``; how many there are."""
    number = capability(target)
    return compile_launches(recorded_launches(source.bundle, number, precision), number, folder)


def compile_launches(launches: Iterable[Launch], target: int, folder: Path) -> int:
    """Those that are alike once, into ``folder/kernels``; how many there are."""
    from anyflow_rt.engines.triton import KERNELS
    from anyflow_rt.kernels.aot import compile_launch, launch_key

    different: dict[str, Launch] = {}
    for launch in launches:
        different.setdefault(launch_key(launch, target), launch)
    for launch in different.values():
        compile_launch(launch, target, folder / KERNELS)
    return len(different)


def recorded_launches(bundle: Bundle, target: int, precision: str) -> list[Launch]:
    """``jump_launches`` of the bundle's default video."""
    latent = latent_size(bundle.architecture, bundle.defaults.size)
    return jump_launches(bundle.architecture, latent, target, precision)


def jump_launches(architecture: Architecture, latent: LatentSize, target: int, precision: str) -> list[Launch]:
    """The kernel launches of one jump of a ``latent`` video on ``target``, in order. Nothing is computed."""
    import torch

    from anyflow_rt.engines.torch_pack import DTYPES, Packed
    from anyflow_rt.engines.triton_modules import TritonDenoiser
    from anyflow_rt.kernels.launch import recording

    config = architecture.transformer
    denoiser = TritonDenoiser(Packed("denoiser", precision, architecture).without_storage().module)
    state = (1, latent.frames, latent.channels, latent.height, latent.width)
    cross = (config.num_layers, 1, config.num_attention_heads, PROMPT_KEYS, config.attention_head_dim)
    with torch.device("meta"), torch.no_grad(), recording(target) as noted:
        keys = torch.empty(cross, dtype=DTYPES[precision])
        angles = torch.empty(math.prod(token_grid(config, latent)), config.attention_head_dim // 2)
        denoiser(
            latents=torch.empty(state),
            modulation=torch.empty(1, latent.frames, 6, config.inner_dim),
            head_modulation=torch.empty(1, latent.frames, config.inner_dim),
            interval=torch.empty(1, latent.frames),
            cross_key=keys,
            cross_value=keys,
            context_bias=torch.empty(1, PROMPT_KEYS),
            rope_cos=angles,
            rope_sin=angles,
        )
    return noted.launches


BUILDER = Builder(
    targets=TARGETS,
    precisions=("bf16", "fp32"),
    packages=("torch", "triton", "safetensors"),
    extra="triton",
    build=build,
)
