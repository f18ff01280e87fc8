"""Input shapes that engines are built for: one optimisation profile for each prompt length, at the build's sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from anyflow_rt.engines.architecture import Architecture
from anyflow_rt.engines.geometry import PAD_KEYS, VideoSize, latent_size, token_grid
from anyflow_rt.engines.onnx_signature import read_signature
from anyflow_rt.engines.symbols import resolve
from anyflow_rt.engines.tensorrt.settings import TensorRtSettings

Shape = tuple[int, ...]

RUN_COMPONENTS = (
    "text_encoder",
    "conditioner",
    "time_embedder",
    "denoiser",
    "vae_decoder_first",
    "vae_decoder_next",
)
"""What a run needs, in its order."""

_OF_PROMPTS = ("text_encoder", "conditioner", "denoiser")


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

    def shapes(size: VideoSize, length: int, batch: int) -> dict[str, Shape]:
        known = _known(component, architecture, size, settings, length, batch)
        found = resolve(inputs, {name: shape for name, shape in known.items() if name in inputs})
        return {name: tuple(_sized(name, axis) for axis in shape) for name, shape in found.items()}

    smallest, largest, most = settings.smallest or usual, settings.largest or usual, settings.batch
    return tuple(
        Profile(shapes(smallest, length, 1), shapes(usual, length, most), shapes(largest, length, most))
        for length in (lengths if component in _OF_PROMPTS else lengths[:1])
    )


def _sized(name: str, size: int | None) -> int:
    if size is None:
        raise ValueError(f"input {name} has a size that no profile fixes")
    return size


def _known(
    component: str, architecture: Architecture, size: VideoSize, settings: TensorRtSettings, length: int, batch: int
) -> dict[str, Shape]:
    """Shapes that fix every symbol of the component's inputs. batch: prompts of the text's components, else videos."""
    transformer = architecture.transformer
    latent = latent_size(architecture, size)
    tokens = math.prod(token_grid(transformer, latent))
    frame = (latent.channels, latent.height, latent.width)
    keys = length + PAD_KEYS if settings.cross_keys == "collapsed" else length
    heads, head_size = transformer.num_attention_heads, transformer.attention_head_dim
    known: dict[str, dict[str, Shape]] = {
        "text_encoder": {"input_ids": (batch, length)},
        "conditioner": {"prompt_embeds": (batch, length, transformer.text_dim)},
        # A run embeds each (t, r) once, for all frames.
        "time_embedder": {"t": (1, 1)},
        "denoiser": {
            "latents": (batch, latent.frames, *frame),
            "cross_key": (transformer.num_layers, batch, heads, keys, head_size),
            "rope_cos": (tokens, head_size // 2),
        },
        # A latent frame a call: four frames of video at full size are work enough for a GPU.
        "vae_decoder_first": {"latents": (batch, 1, *frame)},
        "vae_decoder_next": {"latents": (batch, 1, *frame)},
    }
    return known[component]
