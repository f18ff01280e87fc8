"""Stage ``causal``: from the bidirectional flow map to one that makes a clip chunk by chunk, behind clean chunks.

The forward loss of stage ``flow_map`` on one chunk of each clip, those before it clean: half of a batch has r = t, so
flow matching under teacher forcing is part of it. All clips of a batch share the chunk; the first is drawn as often as
each of the others. Clean chunks get a little noise: at run time they are the model's own, which are a little wrong.
The text encoder stays as it is, so that both checkpoints share it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from anyflow_rt.benchmarks.shapes.recipe.causal_transformer import CAUSAL, causal_from, chunk_velocity, clip_layout
from anyflow_rt.benchmarks.shapes.recipe.export import denoiser_of, latest_denoiser, save_pipeline
from anyflow_rt.benchmarks.shapes.recipe.flow_map import forward_loss
from anyflow_rt.benchmarks.shapes.recipe.state import StageState, work_directory
from anyflow_rt.benchmarks.shapes.recipe.text import new_text_encoder
from anyflow_rt.benchmarks.shapes.recipe.training import Batch, Schedule, train_denoiser
from anyflow_rt.benchmarks.shapes.recipe.transformer import new_transformer
from anyflow_rt.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import AnyFlowFARTransformer3DModel
    from transformers import UMT5EncoderModel

STAGE = "causal"
SCHEDULE = Schedule(learning_rate=8e-4, warmup_steps=100, batch_size=32)
CONTEXT_NOISE = 0.15
"""Largest standard deviation of the noise on clean latents, whose own is 1; each clip's is uniform up to it."""


def chunk_loss(
    transformer: AnyFlowFARTransformer3DModel, text_encoder: UMT5EncoderModel, batch: Batch, index: int
) -> tuple[torch.Tensor, dict[str, float]]:
    """The forward loss of chunk ``index`` of every clip of a batch, and what to log of it."""
    start, stop = clip_layout().bounds(index)
    level = CONTEXT_NOISE * torch.rand(len(batch.latents), 1, 1, 1, 1)
    context = batch.latents + level * torch.randn_like(batch.latents)

    def predict(network: Any, latents: torch.Tensor, *arguments: Any) -> torch.Tensor:
        return chunk_velocity(network, index, context[-len(latents) :], latents, *arguments)

    chunk = replace(batch, latents=batch.latents[:, start:stop], noise=batch.noise[:, start:stop])
    loss, figures = forward_loss(transformer, text_encoder, chunk, predict)
    return loss, {"loss": figures["loss"], f"jump_loss_{index}": figures["jump_loss"]}


def train(seconds: float, start: Path | None = None) -> None:
    """Train, or go on training, for a budget of training seconds in all; `start` is the bidirectional checkpoint to
    begin with, by default the newest stage's."""
    torch.manual_seed(0)
    bidirectional, text_encoder = denoiser_of(start) if start else latest_denoiser()[:2]
    transformer = causal_from(bidirectional).train()
    text_encoder.requires_grad_(False)

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        index = int(torch.randint(len(CAUSAL.chunk_partition), ()))
        return chunk_loss(transformer, text_encoder, batch, index)

    train_denoiser(STAGE, seconds, SCHEDULE, transformer, text_encoder, loss_of)


def export(directory: Path) -> None:
    """Write the causal checkpoint, float16. Raises CheckpointError where it was never trained."""
    import diffusers

    saved = StageState(STAGE).load()
    if saved is None:
        raise CheckpointError(f"stage {STAGE!r} has no state in {work_directory()}: run it first")
    transformer, text_encoder = causal_from(new_transformer()), new_text_encoder()
    transformer.load_state_dict(saved["averaged_transformer"])
    text_encoder.load_state_dict(saved["averaged_text_encoder"])
    save_pipeline(diffusers.AnyFlowFARPipeline, transformer.eval(), text_encoder.eval(), STAGE, directory)
