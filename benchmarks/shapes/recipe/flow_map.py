"""Stage ``flow_map``: from velocities to jumps of any length, starting from the teacher (the forward flow map).

The mean velocity u from t to r satisfies u = v - (t - r) du/dt along the path (arXiv 2605.13724). With D the central
difference of u along the velocity v = eps - x,

    D = [u(z + h v, t + h, r) - u(z - h v, t - h, r)] / 2h,    target = v - (t - r) D,    h = 0.005,

the loss is w(t) ||u(z, t, r) - target||^2, w proportional to t (1 - t)^0.5. Of a batch, half has r = t (plain flow
matching), a quarter r = 0, a quarter any r < t. Samples with r != t are re-weighted to the mean loss of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from anyflow_rt.benchmarks.shapes.recipe.export import denoiser_of, latest_denoiser
from anyflow_rt.benchmarks.shapes.recipe.text import encode_prompts
from anyflow_rt.benchmarks.shapes.recipe.training import Batch, Schedule, train_denoiser
from anyflow_rt.benchmarks.shapes.recipe.transformer import compiled_velocity, rotary_table, shifted

if TYPE_CHECKING:
    from transformers import UMT5EncoderModel

SCHEDULE = Schedule(learning_rate=8e-4, warmup_steps=100, batch_size=32)
HALF_STEP = 0.005
EQUAL_SHARE, TO_ZERO_SHARE = 0.5, 0.25


def draw_times(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs (t, r) with t >= r, both (size,): first those with r = t, then those with r = 0, then the rest."""
    pairs = torch.rand(2, size)
    start, end = pairs.amax(0), pairs.amin(0)
    equal = int(size * EQUAL_SHARE)
    end[:equal] = start[:equal]
    end[equal : equal + int(size * TO_ZERO_SHARE)] = 0.0
    return shifted(start), shifted(end)


def time_weight(time: torch.Tensor) -> torch.Tensor:
    """t (1 - t)^0.5, scaled to mean 1 over the shifted grid."""
    grid = shifted(torch.linspace(0, 1, 1001))
    return time * (1 - time).sqrt() / (grid * (1 - grid).sqrt()).mean()


def forward_loss(
    transformer: torch.nn.Module,
    text_encoder: UMT5EncoderModel,
    batch: Batch,
    predict: Callable[..., torch.Tensor] | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of one batch at random times, and what to log of it.

    predict: in place of ``velocity``, with its arguments but the last; where it is given fewer clips they are the
    batch's second half.
    """
    predict = predict or partial(compiled_velocity(), rotary=rotary_table(transformer, 5, 4, 4))
    start, end = draw_times(len(batch.latents))
    jumps = slice(int(len(start) * EQUAL_SHARE), None)
    mix = start[:, None, None, None, None]
    along = batch.noise - batch.latents
    noisy = (1 - mix) * batch.latents + mix * batch.noise
    target = along.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prompt, pad_bias = encode_prompts(text_encoder, batch.token_ids, batch.mask)
        predicted = predict(transformer, noisy, start, end, prompt, pad_bias)
    with torch.no_grad():
        # In float32: the difference of two nearly equal values is divided by 0.01.
        sides = [
            predict(
                transformer,
                noisy[jumps] + step * along[jumps],
                start[jumps] + step,
                end[jumps],
                prompt[jumps].float(),
                pad_bias[jumps].float(),
            )
            for step in (HALF_STEP, -HALF_STEP)
        ]
        interval = (start - end)[jumps, None, None, None, None]
        target[jumps] -= interval * (sides[0] - sides[1]) / (2 * HALF_STEP)
    losses = (predicted - target).square().mean(dim=(1, 2, 3, 4))
    plain, jumped = losses[: jumps.start], losses[jumps]
    level = plain.detach().mean()
    balanced = jumped * (level / (jumped.detach() + 1e-5))
    loss = (torch.cat([plain, balanced]) * time_weight(start)).mean()
    return loss, {"loss": float(level), "jump_loss": float(jumped.detach().mean())}


def train(seconds: float, start: Path | None = None) -> None:
    """Train, or go on training, for a budget of training seconds in all; `start` is a checkpoint to begin with."""
    torch.manual_seed(0)
    transformer, text_encoder = denoiser_of(start) if start else latest_denoiser("teacher")[:2]
    transformer.train()
    text_encoder.train()
    train_denoiser(
        "flow_map", seconds, SCHEDULE, transformer, text_encoder, partial(forward_loss, transformer, text_encoder)
    )
