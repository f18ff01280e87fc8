"""The components of a checkpoint as graphs: which module, which inputs, which symbols. The one list of them all.

Symbols: B videos, F latent frames, k latent frames of one decoder call, S prompt tokens, P = S + 2 keys, L video
tokens, M cached tokens, N tokens of a frame, 2*h and 2*w the latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from anyflow_rt.engines import vae_cache
from anyflow_rt.engines.architecture import Architecture, TransformerConfig
from anyflow_rt.engines.export import text_encoder, transformer, transformer_causal, vae_decoder, vae_encoder
from anyflow_rt.engines.export.deferred import Deferred, Unseen
from anyflow_rt.engines.export.onnx import Axes, GraphInput, export_module, export_shape_free
from anyflow_rt.engines.geometry import PAD_KEYS
from anyflow_rt.engines.vae_cache import CacheShape
from anyflow_rt.engines.weights import Weights

_B, _F, _K, _S, _H, _W, _M = 2, 3, 2, 5, 4, 6, 11
"""Example sizes: none is 1, which the exporter would bake in, and none equals another of the same input."""


@dataclass(frozen=True)
class Graph:
    """One component ready to be exported; ``shape_free`` modules leave no size in their trace, and export faster."""

    module: nn.Module
    inputs: dict[str, GraphInput]
    outputs: dict[str, Axes]
    shape_free: bool = False


GraphBuilder = Callable[[Architecture, Weights], Graph]


@dataclass(frozen=True)
class Component:
    """``network`` is the folder its weights come from; ``graph`` builds the module and describes its ports."""

    network: str
    graph: GraphBuilder


def export_component(name: str, architecture: Architecture, weights: Weights, path: Path) -> None:
    """Write component ``name`` to ``path`` (ONNX, weights in ``<path>.data``), large weights one at a time."""
    with torch.no_grad():
        with Deferred() as deferred:
            graph = COMPONENTS[name].graph(architecture, Unseen(weights))
        export = export_shape_free if graph.shape_free else export_module
        export(graph.module, graph.inputs, graph.outputs, path, deferred)


def _text_encoder(architecture: Architecture, weights: Weights) -> Graph:
    tokens = torch.ones(_B, _S, dtype=torch.int64)
    return Graph(
        text_encoder.build(architecture.text_encoder, weights),
        {"input_ids": GraphInput(tokens, ("B", "S")), "attention_mask": GraphInput(tokens.clone(), ("B", "S"))},
        {"prompt_embeds": ("B", "S", architecture.text_encoder.d_model)},
    )


def _conditioner(architecture: Architecture, weights: Weights) -> Graph:
    config = architecture.transformer
    cross: Axes = (config.num_layers, "B", config.num_attention_heads, "P", config.attention_head_dim)
    return Graph(
        transformer.Conditioner(config, weights),
        {
            "prompt_embeds": GraphInput(torch.zeros(_B, _S, config.text_dim), ("B", "S", config.text_dim)),
            "pad_bias": GraphInput(torch.zeros(_B, PAD_KEYS), ("B", PAD_KEYS)),
        },
        {"cross_key": cross, "cross_value": cross, "context_bias": ("B", "P")},
    )


def _time_embedder(architecture: Architecture, weights: Weights) -> Graph:
    config = architecture.transformer
    return Graph(
        transformer.TimeEmbedder(config, weights),
        {name: GraphInput(torch.zeros(_B, _F), ("B", "F")) for name in ("t", "r")},
        {"modulation": ("B", "F", 6, config.inner_dim), "head_modulation": ("B", "F", config.inner_dim)},
    )


def _denoiser(architecture: Architecture, weights: Weights) -> Graph:
    config = architecture.transformer
    patch = config.patch_size[1]
    latents: Axes = ("B", "F", config.in_channels, f"{patch}*h", f"{patch}*w")
    axes: dict[str, Axes] = {
        "latents": latents,
        "modulation": ("B", "F", 6, config.inner_dim),
        "head_modulation": ("B", "F", config.inner_dim),
        "interval": ("B", "F"),
        **_prompt_and_places(config),
    }
    build: type[nn.Module] = transformer.Denoiser
    if architecture.causal is not None:
        axes |= _keys_and_values(config, "", "M")
        build = transformer_causal.CausalDenoiser
    sizes = {**_SIZES, f"{patch}*h": patch * _H, f"{patch}*w": patch * _W}
    return Graph(build(config, weights), _inputs(axes, sizes), {"z_r": latents})


def _cache_writer(architecture: Architecture, weights: Weights) -> Graph:
    config = architecture.transformer
    axes: dict[str, Axes] = {
        "tokens": ("B", "F", "N", config.inner_dim),
        "modulation": ("B", "F", 6, config.inner_dim),
        **_prompt_and_places(config),
        **_keys_and_values(config, "", "M"),
    }
    module = transformer_causal.CacheWriter(config, weights)
    return Graph(module, _inputs(axes, _SIZES), _keys_and_values(config, "next_", "L"))


def _tokens(name: str) -> GraphBuilder:
    def graph(architecture: Architecture, weights: Weights) -> Graph:
        config = architecture.transformer
        axes: dict[str, Axes] = {"latents": ("B", "F", config.in_channels, "H", "W")}
        outputs: dict[str, Axes] = {"tokens": ("B", "F", "N", config.inner_dim)}
        return Graph(
            transformer_causal.Tokens(weights, name), _inputs(axes, _SIZES | {"H": 8 * _H, "W": 8 * _W}), outputs
        )

    return graph


_SIZES = {"B": _B, "F": _F, "P": _S + PAD_KEYS, "L": _F * _H * _W, "M": _M, "N": _H * _W}


def _prompt_and_places(config: TransformerConfig) -> dict[str, Axes]:
    """What every pass through the blocks takes."""
    half = config.attention_head_dim // 2
    cross: Axes = (config.num_layers, "B", config.num_attention_heads, "P", config.attention_head_dim)
    return {
        "cross_key": cross,
        "cross_value": cross,
        "context_bias": ("B", "P"),
        "rope_cos": ("L", half),
        "rope_sin": ("L", half),
    }


def _keys_and_values(config: TransformerConfig, prefix: str, tokens: str) -> dict[str, Axes]:
    """Of self-attention, all blocks', as inputs or as outputs."""
    axes: Axes = (config.num_layers, "B", config.num_attention_heads, tokens, config.attention_head_dim)
    return {f"{prefix}cache_key": axes, f"{prefix}cache_value": axes}


def _inputs(axes: Mapping[str, Axes], sizes: Mapping[str, int]) -> dict[str, GraphInput]:
    return {name: GraphInput(_zeros(value, sizes), value) for name, value in axes.items()}


def _vae_decoder(first: bool) -> GraphBuilder:
    def graph(architecture: Architecture, weights: Weights) -> Graph:
        vae = architecture.vae
        caches = _cache_axes(vae_cache.decoder_caches(vae))
        frames: Axes = ("B", 1 if first else f"{vae.temporal_factor}*k", "H", "W", 3)
        latents: Axes = ("B", 1 if first else "k", vae.z_dim, "h", "w")
        sizes = {"B": _B, "k": _K, "h": _H, "w": _W}
        axes = {"latents": latents} if first else {"latents": latents, **caches}
        build = vae_decoder.build_first if first else vae_decoder.build_next
        return Graph(build(vae, weights), _inputs(axes, sizes), {"frames": frames, **_next(caches)}, shape_free=True)

    return graph


def _vae_encoder(first: bool) -> GraphBuilder:
    def graph(architecture: Architecture, weights: Weights) -> Graph:
        vae = architecture.vae
        caches = _cache_axes(vae_cache.encoder_caches(vae))
        height, width = f"{vae.spatial_factor}*h", f"{vae.spatial_factor}*w"
        frames: Axes = ("B", 1 if first else f"{vae.temporal_factor}*k", height, width, 3)
        latents: Axes = ("B", 1 if first else "k", vae.z_dim, "h", "w")
        sizes = {"B": _B, "k": _K, "h": _H, "w": _W}
        example = _zeros(frames, sizes).to(torch.uint8)
        inputs = {"frames": GraphInput(example, frames)}
        if not first:
            inputs |= _inputs(caches, sizes)
        build = vae_encoder.build_first if first else vae_encoder.build_next
        return Graph(build(vae, weights), inputs, {"latents": latents, **_next(caches)}, shape_free=True)

    return graph


def _cache_axes(shapes: tuple[CacheShape, ...]) -> dict[str, Axes]:
    return {
        f"cache_{index}": ("B", cache.frames, _times(cache.scale, "h"), _times(cache.scale, "w"), cache.channels)
        for index, cache in enumerate(shapes)
    }


def _next(caches: dict[str, Axes]) -> dict[str, Axes]:
    """The caches as outputs: ONNX gives each name to one value, so ``cache_0`` comes out as ``next_cache_0``."""
    return {f"next_{name}": axes for name, axes in caches.items()}


def _times(factor: int, symbol: str) -> str:
    return symbol if factor == 1 else f"{factor}*{symbol}"


def _zeros(axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """An example of ``axes``; a symbol ``n*s`` that ``sizes`` does not name is n times the size of s."""

    def size(axis: str | int) -> int:
        if isinstance(axis, int):
            return axis
        if axis in sizes:
            return sizes[axis]
        factor, _, symbol = axis.partition("*")
        return int(factor) * sizes[symbol]

    return torch.zeros([size(axis) for axis in axes])


COMPONENTS: dict[str, Component] = {
    "text_encoder": Component("text_encoder", _text_encoder),
    "conditioner": Component("transformer", _conditioner),
    "time_embedder": Component("transformer", _time_embedder),
    "denoiser": Component("transformer", _denoiser),
    "vae_decoder_first": Component("vae", _vae_decoder(first=True)),
    "vae_decoder_next": Component("vae", _vae_decoder(first=False)),
    "vae_encoder_first": Component("vae", _vae_encoder(first=True)),
    "vae_encoder_next": Component("vae", _vae_encoder(first=False)),
    "full_tokens": Component("transformer", _tokens("patch_embedding")),
    "far_tokens": Component("transformer", _tokens("far_patch_embedding")),
    "cache_writer": Component("transformer", _cache_writer),
}
