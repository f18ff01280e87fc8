"""The causal (FAR) transformer of this world, begun from the bidirectional one, and its forward pass for training.

A clip's five latent frames are three chunks of 1, 2 and 2. While the last is denoised the first is seen compressed: a
training batch is one chunk at a random time behind clean chunks (teacher forcing), in one sequence. The clean ones are
at t = r = 0, see chunks before them and themselves, and never the noisy one, as the runtime's cache writer has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from anyflow_rt.benchmarks.shapes.recipe.transformer import (
    TRANSFORMER_CONFIG,
    compiled,
    frames_of,
    run_blocks,
    time_embedding,
    tokens_of,
)
from anyflow_rt.engines.architecture import (
    Architecture,
    CausalConfig,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.chunks import ChunkLayout, make_layout
from anyflow_rt.engines.geometry import LatentSize

if TYPE_CHECKING:
    import torch
    from diffusers import AnyFlowFARTransformer3DModel

CAUSAL = CausalConfig(chunk_partition=(1, 2, 2), full_chunk_limit=2, compressed_patch_size=(1, 4, 4))
LATENT_FRAMES, LATENT_SIDE = 5, 8


def causal_from(bidirectional: torch.nn.Module) -> AnyFlowFARTransformer3DModel:
    """A causal transformer with the weights of a bidirectional one; a compressed patch begins as the mean of the four
    patches it covers."""
    import torch
    from diffusers import AnyFlowFARTransformer3DModel

    transformer = AnyFlowFARTransformer3DModel(
        **TRANSFORMER_CONFIG,
        chunk_partition=CAUSAL.chunk_partition,
        full_chunk_limit=CAUSAL.full_chunk_limit,
        compressed_patch_size=CAUSAL.compressed_patch_size,
    )
    weights = dict(bidirectional.state_dict())
    times = CAUSAL.compressed_patch_size[1] // 2
    weights["far_patch_embedding.weight"] = torch.tile(weights["patch_embedding.weight"], (1, 1, 1, times, times)) / (
        times * times
    )
    weights["far_patch_embedding.bias"] = weights["patch_embedding.bias"]
    transformer.load_state_dict(weights)
    return transformer


@cache
def clip_layout() -> ChunkLayout:
    """The chunks of a clip."""
    transformer = TransformerConfig(**TRANSFORMER_CONFIG)  # type: ignore[arg-type]
    text = TextEncoderConfig(vocab_size=1, d_model=transformer.text_dim, d_kv=1, d_ff=1, num_layers=1, num_heads=1)
    architecture = Architecture("AnyFlowFARPipeline", transformer, VaeConfig(), text, SchedulerConfig(), CAUSAL)
    size = LatentSize(LATENT_FRAMES, transformer.in_channels, LATENT_SIDE, LATENT_SIDE)
    return make_layout(architecture, size)


def chunk_velocity(
    transformer: AnyFlowFARTransformer3DModel,
    index: int,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    prompt: torch.Tensor,
    pad_bias: torch.Tensor,
) -> torch.Tensor:
    """Mean velocity (B, f, C, H, W) of chunk ``index`` from time ``start`` to time ``end``, both (B,) in [0, 1].

    noisy (B, f, C, H, W): the chunk. clean (B, F, C, H, W): the clip, of which the chunks before it are used. prompt,
    pad_bias: as for `transformer.velocity`.
    """
    layout = clip_layout()
    compressed = layout.bounds(layout.compressed(index))[0]
    begin = layout.bounds(index)[0]
    behind = clean[:, :compressed], clean[:, compressed:begin]
    return _compiled()(transformer, *behind, noisy, start, end, prompt, pad_bias, *_places(index))


def _velocity(
    transformer: AnyFlowFARTransformer3DModel,
    far: torch.Tensor,
    full: torch.Tensor,
    noisy: torch.Tensor,
    start: torch.Tensor,
    end: torch.Tensor,
    prompt: torch.Tensor,
    pad_bias: torch.Tensor,
    rotary: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """`chunk_velocity` with the clean frames already parted into those seen compressed and those seen in full."""
    import torch

    parts = [
        tokens_of(transformer.far_patch_embedding, far),
        tokens_of(transformer.patch_embedding, full),
        tokens_of(transformer.patch_embedding, noisy),
    ]
    hidden = torch.cat([part for part in parts if part.shape[1]], dim=1)
    times = time_embedding(transformer, start, end)[:, None]
    still = torch.zeros_like(start)
    embedding = torch.cat(
        [
            time_embedding(transformer, still, still)[:, None].expand(-1, hidden.shape[1] - parts[-1].shape[1], -1),
            times.expand(-1, parts[-1].shape[1], -1),
        ],
        dim=1,
    )
    hidden = run_blocks(transformer, hidden, embedding, prompt, pad_bias, rotary, mask)
    own = hidden[:, hidden.shape[1] - parts[-1].shape[1] :]
    return frames_of(transformer, own, times, *noisy.shape[-2:])


@cache
def _compiled() -> Callable[..., torch.Tensor]:
    return compiled(_velocity)


@cache
def _places(index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary table (2, T, head_dim / 2) of a chunk behind those before it, and the mask (T, T + Z) of who sees whom.

    The Z zero keys are the reference's padding (``engines.chunks.ATTENTION_BLOCK``), which only the chunk itself sees.
    """
    import torch

    layout = clip_layout()
    far = [chunk < layout.compressed(index) for chunk in range(index + 1)]
    tables = [layout.rope(chunk, far=far[chunk]) for chunk in range(index + 1)]
    rotary = torch.stack([torch.cat([torch.from_numpy(table[part].copy()) for table in tables]) for part in (0, 1)])
    counts = torch.tensor([layout.tokens(chunk, far=far[chunk]) for chunk in range(index + 1)])
    chunks = torch.arange(index + 1).repeat_interleave(counts)
    padding = torch.full((layout.padding(index),), index)
    visible = chunks[:, None] >= torch.cat([chunks, padding])[None, :]
    return rotary, torch.zeros(visible.shape).masked_fill(~visible, -torch.inf)
