"""Stage ``on_policy``: the flow map learns from its own videos, by distribution matching (arXiv 2605.13724, stage 2).

A rollout of N steps, N from {2, 4, 8, 16, 32}, is three jumps through its grid, 1 -> t_k -> t_(k+1) -> 0, with the
gradient through all three. Its video x is renoised to tau; teacher and critic each go back to 0 in one Euler step,
and the difference of where they arrive is the direction in which x is too likely:

    G = (x_critic - x_teacher) / mean |x - x_teacher|,    loss = ||x - stop(x - G)||^2.

The critic is trained by plain flow matching on the rollouts, one step for each of the generator's; the forward loss of
stage ``flow_map`` is trained along, which keeps every jump honest that no rollout makes.
"""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch.nn import functional

from anyflow_rt.benchmarks.shapes.recipe.export import latest_denoiser
from anyflow_rt.benchmarks.shapes.recipe.flow_map import forward_loss
from anyflow_rt.benchmarks.shapes.recipe.parallel import average_gradients
from anyflow_rt.benchmarks.shapes.recipe.text import encode_prompts
from anyflow_rt.benchmarks.shapes.recipe.training import Batch, Schedule, train_denoiser
from anyflow_rt.benchmarks.shapes.recipe.transformer import compiled_velocity, rotary_table, shifted

SCHEDULE = Schedule(learning_rate=1e-4, warmup_steps=50, batch_size=16, betas=(0.0, 0.99))
CRITIC_LEARNING_RATE = 2e-4
STEP_COUNTS = (2, 4, 8, 16, 32)
MATCHING_WEIGHT = 1.0
RENOISE_RANGE = (0.02, 0.98)


class Conditioned:
    """A denoiser with the prompts of one batch already encoded: the velocity of latents from a time to a time."""

    def __init__(self, transformer: torch.nn.Module, text_encoder: torch.nn.Module, batch: Batch) -> None:
        self._transformer = transformer
        self._prompt, self._bias = encode_prompts(text_encoder, batch.token_ids, batch.mask)
        self._rotary = rotary_table(transformer, 5, 4, 4)

    def __call__(self, latents: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        return compiled_velocity()(self._transformer, latents, start, end, self._prompt, self._bias, self._rotary)


def rollout(generator: Conditioned, noise: torch.Tensor) -> torch.Tensor:
    """Videos (B, F, C, H, W) of ``noise`` by the three jumps of one step of an N-step plan, N and the step random.

    All videos of a batch share them: a jump of no length, which the first and the last step bring, is left out.
    """
    steps = STEP_COUNTS[int(torch.randint(len(STEP_COUNTS), ()))]
    index = int(torch.randint(steps, ()))
    nodes = [shifted(torch.tensor(node)) for node in (1.0, 1 - index / steps, 1 - (index + 1) / steps, 0.0)]
    latents = noise
    for start, end in pairwise(nodes):
        if start > end:
            times = start.repeat(len(noise)), end.repeat(len(noise))
            latents = latents - (start - end) * generator(latents, *times)
    return latents


def matching_loss(
    videos: torch.Tensor, teacher: Conditioned, critic: Conditioned, noise: torch.Tensor, time: torch.Tensor
) -> torch.Tensor:
    """Distribution matching of ``videos``, renoised with ``noise`` to ``time`` (B,)."""
    scale = time[:, None, None, None, None]
    with torch.no_grad():
        noisy = (1 - scale) * videos + scale * noise
        real = noisy - scale * teacher(noisy, time, time)
        fake = noisy - scale * critic(noisy, time, time)
        normalizer = (videos - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-3)
        target = videos - (fake - real) / normalizer
    return functional.mse_loss(videos, target)


def renoising_times(size: int) -> torch.Tensor:
    """(size,) shifted times, the ends left out: there either nothing is hidden or nothing is left."""
    low, high = RENOISE_RANGE
    return shifted(low + (high - low) * torch.rand(size))


def train(seconds: float) -> None:
    """Train, or go on training, for a budget of training seconds in all, from stages ``flow_map`` and ``teacher``."""
    torch.manual_seed(0)
    transformer, text_encoder, _ = latest_denoiser("flow_map")
    teacher_network, teacher_text, _ = latest_denoiser("teacher")
    for network in (teacher_network, teacher_text):
        network.requires_grad_(False)
    critic_network = copy.deepcopy(teacher_network).requires_grad_(True)
    optimizer = torch.optim.AdamW(
        critic_network.parameters(), lr=CRITIC_LEARNING_RATE, betas=SCHEDULE.betas, weight_decay=0.0
    )

    def train_critic(critic: Conditioned, videos: torch.Tensor) -> float:
        noise, time = torch.randn_like(videos), shifted(torch.randn(len(videos)).sigmoid())
        mix = time[:, None, None, None, None]
        predicted = critic((1 - mix) * videos + mix * noise, time, time)
        loss = (predicted - (noise - videos)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(list(critic_network.parameters()))
        torch.nn.utils.clip_grad_norm_(critic_network.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        noise, time = torch.randn_like(batch.noise), renoising_times(len(batch.latents))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            generator = Conditioned(transformer, text_encoder, batch)
            teacher = Conditioned(teacher_network, teacher_text, batch)
            videos = rollout(generator, batch.noise)
            matching = matching_loss(videos, teacher, Conditioned(critic_network, teacher_text, batch), noise, time)
            critic_loss = train_critic(Conditioned(critic_network, teacher_text, batch), videos.detach())
        forward, figures = forward_loss(transformer, text_encoder, batch)
        loss = MATCHING_WEIGHT * matching + forward
        return loss, {"matching": float(matching.detach()), "critic": critic_loss, **figures}

    train_denoiser(
        "on_policy",
        seconds,
        SCHEDULE,
        transformer.train(),
        text_encoder.train(),
        loss_of,
        also_saved={"critic": critic_network, "critic_optimizer": optimizer},
    )
