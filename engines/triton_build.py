"""Builds the Triton engine for a GPU that need not be here: packed weights, and every kernel of a jump, compiled.

    engines/<target>/triton-<precision>-dynamic/
        <component>.safetensors     weights and signature of each component (``torch_pack``); a causal checkpoint's
                                    cache writer has its weights in the denoiser's
        kernels/<op>-sm_XX-<key>.*  cubin, PTX and launch metadata of each launch (``kernels.aot``)

The kernels are those of the bundle's default video. A run at another size launches some with other constants; those it
compiles itself, once, as Triton does. Which launches a jump makes is not written down anywhere: the denoiser runs on
tensors without storage, and its launches are recorded; of a causal checkpoint those of a chunk of every length, and of
the cache writer at both resolutions.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.builders import Builder, BuildSource, Report
from anyflow_rt.engines.bundle import Bundle
from anyflow_rt.engines.chunks import make_layout
from anyflow_rt.engines.export import component_names
from anyflow_rt.engines.geometry import PAD_KEYS, LatentSize, latent_size, token_grid
from anyflow_rt.engines.targets import capability

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from anyflow_rt.kernels.launch import Launch

TARGETS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
"""Those of ``kernels.aot``; a test compares them, since that one needs Triton."""

PROMPT_KEYS = 32 + PAD_KEYS
"""Of the recorded jump. Any number would do: kernels take it when they are launched."""


def build(source: BuildSource, target: str, precision: str, folder: Path, report: Report) -> dict[str, str]:
    """A ``Builder``'s. Raises EngineError where kernels cannot be compiled, MissingPackageError without Triton."""
    from anyflow_rt.engines.torch_pack import Packed, pack_component, pack_header

    checkpoint = source.checkpoint
    assert checkpoint is not None, "who plans a build refuses this engine without one"
    for name in component_names(checkpoint.architecture):
        report(f"packing {name}")
        packed = Packed(name, "fp32" if name == "time_embedder" else precision, checkpoint.architecture)
        if name == "cache_writer":
            pack_header(packed, folder / f"{name}.safetensors")
        else:
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
    """Those of the bundle's default video: ``jump_launches``, or ``chunk_launches`` of a causal checkpoint."""
    latent = latent_size(bundle.architecture, bundle.defaults.size)
    make = jump_launches if bundle.architecture.causal is None else chunk_launches
    return make(bundle.architecture, latent, target, precision)


def jump_launches(architecture: Architecture, latent: LatentSize, target: int, precision: str) -> list[Launch]:
    """The kernel launches of one jump of a ``latent`` video on ``target``, in order. Nothing is computed."""
    import torch

    from anyflow_rt.engines.torch_pack import DTYPES, Packed
    from anyflow_rt.engines.triton_modules import TritonDenoiser
    from anyflow_rt.kernels.launch import recording

    denoiser = TritonDenoiser(Packed("denoiser", precision, architecture).without_storage().module)
    with torch.device("meta"), torch.no_grad(), recording(target) as noted:
        length = math.prod(token_grid(architecture.transformer, latent))
        denoiser(**_frames(architecture, latent), **_prompt_and_places(architecture, length, DTYPES[precision]))
    return noted.launches


def chunk_launches(architecture: Architecture, latent: LatentSize, target: int, precision: str) -> list[Launch]:
    """The kernel launches of a jump of a chunk, of each length that a ``latent`` video of a causal checkpoint has, and
    of what writes such chunks into the cache. Nothing is computed."""
    import torch

    from anyflow_rt.engines.export.transformer_causal import CausalDenoiser
    from anyflow_rt.engines.torch_pack import DTYPES, Packed
    from anyflow_rt.engines.triton_caches import Caches
    from anyflow_rt.engines.triton_causal import TritonCacheWriter, TritonCausalDenoiser
    from anyflow_rt.engines.triton_modules import TritonDenoiser
    from anyflow_rt.kernels.launch import recording

    config, dtype, layout = architecture.transformer, DTYPES[precision], make_layout(architecture, latent)
    module = Packed("denoiser", precision, architecture).without_storage().module
    assert isinstance(module, CausalDenoiser)
    shared = TritonDenoiser(module.denoiser)
    denoiser, writer = TritonCausalDenoiser(shared), TritonCacheWriter(shared)
    shape = layout.cache_shape(1, layout.most_seen)
    lengths = {layout.partition[index]: index for index in range(len(layout))}
    with torch.device("meta"), torch.no_grad(), recording(target) as noted:
        ((key, value),) = Caches(dtype, torch.device("meta"), lambda: None).take(1, shape)
        cache = {"cache_key": key, "cache_value": value}
        for frames, index in lengths.items():
            given = _frames(architecture, replace(latent, frames=frames))
            places = _prompt_and_places(architecture, layout.tokens(index, far=False), dtype)
            denoiser(**given, **places, **cache, cache_counts=torch.empty(2, dtype=torch.int32))
            for far in (False, True):
                length = layout.tokens(index, far=far)
                if length and length <= layout.most_seen:
                    tokens = torch.empty(1, frames, length // frames, config.inner_dim)
                    places = _prompt_and_places(architecture, length, dtype)
                    writer(tokens=tokens, modulation=given["modulation"], **places, **cache, start=0)
    return noted.launches


def _frames(architecture: Architecture, latent: LatentSize) -> dict[str, Tensor]:
    """What a jump takes for its latent frames, on the device that is set."""
    import torch

    width = architecture.transformer.inner_dim
    return {
        "latents": torch.empty(1, latent.frames, latent.channels, latent.height, latent.width),
        "modulation": torch.empty(1, latent.frames, 6, width),
        "head_modulation": torch.empty(1, latent.frames, width),
        "interval": torch.empty(1, latent.frames),
    }


def _prompt_and_places(architecture: Architecture, length: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """What every pass through the blocks takes beside its ``length`` tokens."""
    import torch

    config = architecture.transformer
    keys = torch.empty(config.num_layers, 1, config.num_attention_heads, PROMPT_KEYS, config.attention_head_dim)
    keys, angles = keys.to(dtype), torch.empty(length, config.attention_head_dim // 2)
    bias = torch.empty(1, PROMPT_KEYS)
    return {
        "cross_key": keys,
        "cross_value": keys,
        "context_bias": bias,
        "rope_cos": angles,
        "rope_sin": angles,
    }


BUILDER = Builder(
    targets=TARGETS,
    precisions=("bf16", "fp32"),
    packages=("torch", "triton", "safetensors"),
    extra="triton",
    build=build,
)
