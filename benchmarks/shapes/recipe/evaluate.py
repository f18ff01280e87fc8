"""Stage ``evaluate``: samples of held-out prompts, judged; and the VAE's reconstruction of held-out clips.

`sample` computes what diffusers' ``AnyFlowPipeline`` computes for one generator a video, with the prompt's padding
collapsed; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.benchmarks.shapes.judge import ATTRIBUTE_NAMES, judge
from anyflow_rt.benchmarks.shapes.recipe.state import TORCH_THREADS
from anyflow_rt.benchmarks.shapes.recipe.text import encode_prompts
from anyflow_rt.benchmarks.shapes.recipe.transformer import rotary_table, velocity
from anyflow_rt.benchmarks.shapes.recipe.vae import held_out_quality
from anyflow_rt.benchmarks.shapes.world import FRAME_SIZE, NUM_FRAMES
from anyflow_rt.benchmarks.statistics.wilson import wilson

if TYPE_CHECKING:
    import torch
    from diffusers import AnyFlowPipeline

BATCH = 16
FIRST_SEED = 1000


def sample(
    pipeline: AnyFlowPipeline, prompts: Sequence[str], seeds: Sequence[int], steps: int, mean_velocity: bool = True
) -> torch.Tensor:
    """Final latents (B, F, C, H, W), float32, normalised as the transformer sees them."""
    import torch

    shape = (16, (NUM_FRAMES - 1) // 4 + 1, FRAME_SIZE // 8, FRAME_SIZE // 8)
    noise = torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
    latents = noise.transpose(1, 2)
    tokens = pipeline.tokenizer(list(prompts), padding=True, return_tensors="pt")
    rotary = rotary_table(pipeline.transformer, shape[1], shape[2] // 2, shape[3] // 2)
    pipeline.scheduler.set_timesteps(steps)
    nodes = pipeline.scheduler.sigmas.float()
    with torch.no_grad():
        prompt, bias = encode_prompts(pipeline.text_encoder, tokens.input_ids, tokens.attention_mask)
        for start, end in pairwise(nodes):
            times = start.expand(len(latents)), (end if mean_velocity else start).expand(len(latents))
            jump = velocity(pipeline.transformer, latents, *times, prompt, bias, rotary)
            latents = latents - (start - end) * jump
    return latents


def decode(pipeline: AnyFlowPipeline, latents: torch.Tensor) -> np.ndarray:
    """Videos of latents (B, F, C, H, W): uint8 (B, T, H, W, 3)."""
    import torch

    config = pipeline.vae.config
    mean = torch.tensor(config.latents_mean)[:, None, None]
    deviation = torch.tensor(config.latents_std)[:, None, None]
    with torch.no_grad():
        frames = pipeline.vae.decode((latents * deviation + mean).transpose(1, 2)).sample
    return ((frames / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 4, 1).numpy()


def score(pipeline: AnyFlowPipeline, count: int, steps: int, mean_velocity: bool = True) -> dict[str, object]:
    """Share of held-out prompts, seed 1000 + index, whose video shows every attribute, and each of them."""
    pairs = held_out_prompts(count)
    right = dict.fromkeys((*ATTRIBUTE_NAMES, "every"), 0)
    for first in range(0, count, BATCH):
        part = pairs[first : first + BATCH]
        seeds = range(FIRST_SEED + first, FIRST_SEED + first + len(part))
        latents = sample(pipeline, [prompt for prompt, _ in part], seeds, steps, mean_velocity)
        for video, (_, attributes) in zip(decode(pipeline, latents), part, strict=True):
            found = judge(video).right(attributes)
            for name in ATTRIBUTE_NAMES:
                right[name] += found[name]
            right["every"] += all(found.values())
    low, high = wilson(right["every"], count)
    shares = {name: round(value / count, 4) for name, value in right.items()}
    return {
        "steps": steps,
        "mean_velocity": mean_velocity,
        "prompts": count,
        **shares,
        "low": round(low, 4),
        "high": round(high, 4),
    }


def evaluate(checkpoint: Path, steps: Sequence[int], count: int, report: Path | None, mean_velocity: bool) -> None:
    """Judge a checkpoint directory at every step count, print the scores and write them to a JSON report."""
    import torch
    from diffusers import AnyFlowPipeline

    torch.set_num_threads(TORCH_THREADS)
    pipeline = AnyFlowPipeline.from_pretrained(checkpoint)
    results: dict[str, object] = {"vae": {k: round(v, 2) for k, v in held_out_quality(pipeline.vae, clips=64).items()}}
    print(json.dumps(results), flush=True)
    scores = []
    for number in steps:
        scores.append(score(pipeline, count, number, mean_velocity))
        print(json.dumps(scores[-1]), flush=True)
    if report is not None:
        report.write_text(json.dumps({**results, "samples": scores}, indent=1) + "\n")
