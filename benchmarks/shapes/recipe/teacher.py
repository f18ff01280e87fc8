"""Stage ``teacher``: the transformer and its text encoder by flow matching, the ordinary velocity at r = t.

z_t = (1 - t) x + t eps, loss ||u(z_t, t) - (eps - x)||^2, t the shifted sigmoid of a normal number. The embedder of the
end time r is kept at zero: the teacher is a flow map too, one that gives every jump the velocity at its start, and the
next stage begins with exactly that.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from anyflow_rt.benchmarks.shapes.recipe.export import denoiser_of
from anyflow_rt.benchmarks.shapes.recipe.text import encode_prompts, new_text_encoder
from anyflow_rt.benchmarks.shapes.recipe.training import Batch, Schedule, train_denoiser
from anyflow_rt.benchmarks.shapes.recipe.transformer import compiled_velocity, new_transformer, rotary_table, shifted

SCHEDULE = Schedule(learning_rate=1.5e-3, warmup_steps=200, batch_size=32)
CONTINUED_SCHEDULE = replace(SCHEDULE, learning_rate=1e-3)
"""Of a denoiser that is trained already."""


def train(seconds: float, start: Path | None = None) -> None:
    """Train, or go on training, for a budget of training seconds in all; `start` is a checkpoint to begin with."""
    torch.manual_seed(0)
    transformer, text_encoder = denoiser_of(start) if start else (new_transformer(), new_text_encoder())
    end_embedder = transformer.condition_embedder.delta_embedder.requires_grad_(False)
    for parameter in end_embedder.linear_2.parameters():
        parameter.zero_()
    rotary = rotary_table(transformer, 5, 4, 4)

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        time = shifted(torch.randn(len(batch.latents)).sigmoid())
        mix = time[:, None, None, None, None]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            prompt, pad_bias = encode_prompts(text_encoder, batch.token_ids, batch.mask)
            noisy = (1 - mix) * batch.latents + mix * batch.noise
            predicted = compiled_velocity()(transformer, noisy, time, time, prompt, pad_bias, rotary)
        loss = (predicted - (batch.noise - batch.latents)).square().mean()
        return loss, {"loss": float(loss.detach())}

    train_denoiser("teacher", seconds, CONTINUED_SCHEDULE if start else SCHEDULE, transformer, text_encoder, loss_of)
