"""Input shapes that engines are built for: one optimisation profile for each prompt length, at the build's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import PAD_KEYS, VideoSize, latent_size, token_grid
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.symbols import resolve
from anyflow_rt.engines.tensorrt.chunk_shapes import largest_chunk, smallest_chunk, usual_chunk
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings

Shape = tuple[int, ...]
SMALLEST, USUAL, LARGEST = "smallest", "usual", "largest"

_OF_PROMPTS = ("text_encoder", "conditioner", "cache_writer", "denoiser")


@dataclass(frozen=True)
class Profile:
    """Shapes by input: the smallest, those that engines are quickest at, and the largest."""

    smallest: Mapping[str, Shape]
    usual: Mapping[str, Shape]
    largest: Mapping[str, Shape]

    @property
    def is_static(self) -> bool:
        return self.smallest == self.usual == self.largest


def profiles(
    component: str, graph: Path, architecture: Architecture, usual: VideoSize, settings: TensorRtSettings
) -> tuple[Profile, ...]:
    """The profiles of ``component``, whose typed graph is the ONNX file ``graph``, prompt lengths ascending."""
    inputs, _ = read_signature(graph)
    lengths = settings.prompt_lengths if settings.cross_keys == "collapsed" else settings.prompt_lengths[-1:]

    def shapes(end: str, length: int) -> dict[str, Shape]:
        batch = 1 if end == SMALLEST else settings.batch
        known = _known(component, architecture, sizes[end], end, settings, length, batch)
        found = resolve(inputs, {name: shape for name, shape in known.items() if name in inputs})
        return {name: tuple(_sized(name, axis) for axis in shape) for name, shape in found.items()}

    sizes = {SMALLEST: settings.smallest or usual, USUAL: usual, LARGEST: settings.largest or usual}
    return tuple(
        Profile(*(shapes(end, length) for end in sizes))
        for length in (lengths if component in _OF_PROMPTS else lengths[:1])
    )


def _sized(name: str, size: int | None) -> int:
    if size is None:
        raise ValueError(f"input {name} has a size that no profile fixes")
    return size


def _known(
    component: str,
    architecture: Architecture,
    size: VideoSize,
    end: str,
    settings: TensorRtSettings,
    length: int,
    batch: int,
) -> dict[str, Shape]:
    """Shapes that fix every symbol of the component's inputs. batch: prompts of the text's components, else videos."""
    transformer = architecture.transformer
    latent = latent_size(architecture, size)
    frame, pixels = (latent.channels, latent.height, latent.width), (size.height, size.width, 3)
    keys = length + PAD_KEYS if settings.cross_keys == "collapsed" else length
    layers, heads, head_size = transformer.num_layers, transformer.num_attention_heads, transformer.attention_head_dim
    cross: dict[str, Shape] = {"cross_key": (layers, batch, heads, keys, head_size)}
    grid, frames, written = token_grid(transformer, latent), latent.frames, 0
    if architecture.causal is not None:
        chunk = {SMALLEST: smallest_chunk, USUAL: usual_chunk, LARGEST: largest_chunk}[end](architecture, latent)
        frames, written = chunk.frames, chunk.tokens
        cross["cache_key"] = (layers, batch, heads, chunk.cached, head_size)
    latents: dict[str, Shape] = {"latents": (batch, frames, *frame)}
    known: dict[str, dict[str, Shape]] = {
        "text_encoder": {"input_ids": (batch, length)},
        "conditioner": {"prompt_embeds": (batch, length, transformer.text_dim)},
        # All videos of a call begin with the same frames, which become one latent frame a call.
        "vae_encoder_first": {"frames": (1, 1, *pixels)},
        "vae_encoder_next": {"frames": (1, architecture.vae.temporal_factor, *pixels)},
        # A run embeds each (t, r) once, for all frames; those that a whole video begins with have a time of their own.
        "time_embedder": {"t": (1, 2 if end == LARGEST and architecture.causal is None else 1)},
        "full_tokens": latents,
        "far_tokens": latents,
        "cache_writer": {
            **cross,
            "tokens": (batch, frames, written, transformer.inner_dim),
            "rope_cos": (frames * written, head_size // 2),
        },
        "denoiser": {**latents, **cross, "rope_cos": (frames * grid[1] * grid[2], head_size // 2)},
        # A latent frame a call: four frames of video at full size are work enough for a GPU.
        "vae_decoder_first": {"latents": (batch, 1, *frame)},
        "vae_decoder_next": {"latents": (batch, 1, *frame)},
    }
    return known[component]
