"""Does a checkpoint react to the mistakes a runtime could make?

A parity test against weights that hardly depend on ``r`` or on padding would pass with ``r`` ignored and the padding
wrong. ``reference_sensitivity`` perturbs the reference one cause at a time and measures how far its latents move.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

PROMPT = "a small red circle moves slowly left over the green"
FRAMES, SIDE = 9, 32

LEAST_SENSITIVITY = 1e-2
"""What every perturbation must move the final latents by, relative, for a parity test to mean anything."""


def load_reference(path: str | Path) -> Any:
    """The checkpoint as diffusers' own ``AnyFlowPipeline`` in float32, silent."""
    import diffusers

    pipeline = diffusers.AnyFlowPipeline.from_pretrained(str(path))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference_latents(pipeline: Any, noise: torch.Tensor, prompt: torch.Tensor, **arguments: Any) -> torch.Tensor:
    """Final latents (B, C, F, H, W) of two steps from ``noise`` (B, C, F, H, W) and prompt embeddings (B, S, E)."""
    options = {"num_inference_steps": 2, "height": SIDE, "width": SIDE, "num_frames": FRAMES, **arguments}
    return pipeline(prompt_embeds=prompt, latents=noise, output_type="latent", return_dict=False, **options)[0]


def reference_sensitivity(path: str | Path) -> dict[str, float]:
    """Relative change ||a - b|| / ||b|| of the reference's two-step latents under each perturbation.

    ``r``: 50 of 1000 time units later; ``gate_value``: a tenth more; ``shift``: a tenth more; ``deltatime_type``: the
    other one; ``frame_order``: frames reversed going in and back coming out, which only positions can notice;
    ``pad_count``: 256 prompt positions in place of 512; ``mean_velocity``: r = t.
    """
    pipeline = load_reference(path)
    transformer, scheduler = pipeline.transformer, pipeline.scheduler
    embedder = transformer.condition_embedder
    factor = pipeline.vae_scale_factor_spatial
    shape = (1, transformer.config.in_channels, (FRAMES - 1) // 4 + 1, SIDE // factor, SIDE // factor)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    prompt, shorter = (
        pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=False, max_sequence_length=length)[0]
        for length in (512, 256)
    )
    base = reference_latents(pipeline, noise, prompt)

    def moved(other: torch.Tensor) -> float:
        return float((other - base).norm() / base.norm())

    result = {
        "mean_velocity": moved(reference_latents(pipeline, noise, prompt, use_mean_velocity=False)),
        "pad_count": moved(reference_latents(pipeline, noise, shorter)),
        "frame_order": moved(reference_latents(pipeline, noise.flip(2), prompt).flip(2)),
    }

    later = 0.05 * scheduler.config.num_train_timesteps

    def postpone(_module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return arguments, {**named, "r_timestep": named["r_timestep"] + later}

    handle = transformer.register_forward_pre_hook(postpone, with_kwargs=True)
    result["r"] = moved(reference_latents(pipeline, noise, prompt))
    handle.remove()

    embedder.delta_emb_gate *= 1.1
    result["gate_value"] = moved(reference_latents(pipeline, noise, prompt))
    embedder.delta_emb_gate /= 1.1

    kind = embedder.deltatime_type
    embedder.deltatime_type = "t-r" if kind == "r" else "r"
    result["deltatime_type"] = moved(reference_latents(pipeline, noise, prompt))
    embedder.deltatime_type = kind

    pipeline.scheduler = type(scheduler).from_config(scheduler.config, shift=1.1 * scheduler.config.shift)
    result["shift"] = moved(reference_latents(pipeline, noise, prompt))
    return result
