"""Stage ``vae``: a small Wan VAE (4x in time, 8x in space, 16 channels), single images first.

Trained on clips from the start, the decoder leaves the first frame behind (it has no past to lean on) and colours
drift later on. So: 30% of the budget on images, 15% on five-frame clips mixed with images, 55% on clips of 5, 9 and 17
frames. The loss is L1 + 10 L2 + 1e-5 |z|^2 on pixels in [-1, 1], pixels at an edge counting five times: two thirds of
the squared error stay there otherwise, on 4% of the pixels. Latents get noise of up to a quarter of their spread, each
clip its own strength: a denoiser's latents are never exact, and the decoder should draw sharp shapes from them.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyflow_rt.benchmarks.shapes.recipe.parallel import average, average_gradients, join, processes, rank
from anyflow_rt.benchmarks.shapes.recipe.state import (
    TORCH_THREADS,
    Interruption,
    StageState,
    TrainingClock,
    cosine,
    shipped_checkpoint,
)
from anyflow_rt.benchmarks.shapes.world import NUM_FRAMES, render, sample_attributes, sample_scene

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLWan

ENCODER_STAGE, DECODER_STAGE = "vae", "vae_decoder"
VAE_CONFIG = {
    "base_dim": 24,
    "z_dim": 16,
    "dim_mult": [1, 2, 4],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True, True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_temporal": 4,
    "scale_factor_spatial": 8,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}
LEARNING_RATE = 1.2e-3
WARMUP_STEPS = 100
CONTINUED_LEARNING_RATE = 5e-4
"""Of a network that is trained already: at the first rate it forgets, and takes half the budget to be back."""
EMA_DECAY = 0.995
"""Of the averaged weights, which are the ones that are kept: batches are small, and steps noisy."""
POSTERIOR_SPREAD = 0.02
LATENT_NOISE = 0.25
"""Greatest strength of the noise on latents, relative to each channel's spread over the batch."""
ABSOLUTE_WEIGHT, SQUARED_WEIGHT, LATENT_WEIGHT = 1.0, 10.0, 1e-5
EDGE_WEIGHT, EDGE_CONTRAST = 4.0, 0.1
"""What a pixel whose 3x3 neighbourhood spans more than this contrast, in [-1, 1], counts on top of 1."""
IMAGES_UNTIL, SHORT_CLIPS_UNTIL = 0.30, 0.45
SAVE_EVERY, LOG_EVERY, MEASURE_EVERY = 60.0, 50, 120.0


def new_vae() -> AutoencoderKLWan:
    """A VAE with fresh weights. The posterior's spread is fixed: nothing here samples from it."""
    import torch
    from diffusers import AutoencoderKLWan

    vae = AutoencoderKLWan(**VAE_CONFIG)
    with torch.no_grad():
        vae.quant_conv.weight[16:].zero_()
        vae.quant_conv.bias[16:].fill_(2 * math.log(POSTERIOR_SPREAD))
    return vae


def load_vae() -> AutoencoderKLWan:
    """The VAE as far as it is trained, with the latent statistics in its config once stage ``latents`` measured them.

    Where no training state is left, it is the one that ships with the package.
    """
    from diffusers import AutoencoderKLWan

    statistics = StageState("latent_statistics").load()
    for stage in (DECODER_STAGE, ENCODER_STAGE):
        saved = StageState(stage).load()
        if saved is not None:
            vae = AutoencoderKLWan(**{**VAE_CONFIG, **(statistics or {})})
            vae.load_state_dict(saved["vae"])
            return vae.eval()
    return AutoencoderKLWan.from_pretrained(shipped_checkpoint() / "vae").eval()


def decode_unclamped(vae: AutoencoderKLWan, latents: torch.Tensor) -> torch.Tensor:
    """``vae.decode`` without its final clamp, which passes no gradient for overshooting pixels."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    vae.clear_cache()
    hidden = vae.post_quant_conv(latents)
    chunks = []
    for index in range(hidden.shape[2]):
        vae._conv_idx = [0]
        chunks.append(
            vae.decoder(
                hidden[:, :, index : index + 1],
                feat_cache=vae._feat_map,
                feat_idx=vae._conv_idx,
                first_chunk=index == 0,
            )
        )
    vae.clear_cache()
    return unpatchify(torch.cat(chunks, 2), patch_size=2)


def draw_batch(generator: np.random.Generator, clips: int, frames: int) -> torch.Tensor:
    """Random clips cut out of random scenes: float32 (clips, 3, frames, 64, 64) in [-1, 1]."""
    import torch

    batch = []
    for _ in range(clips):
        scene = sample_scene(sample_attributes(generator), generator)
        first = int(generator.integers(NUM_FRAMES - frames + 1))
        batch.append(render(scene, range(first, first + frames)))
    pixels = torch.from_numpy(np.stack(batch)).permute(0, 4, 1, 2, 3).float()
    return pixels / 127.5 - 1


def disturb(latents: torch.Tensor) -> torch.Tensor:
    """Latents (B, C, F, h, w) with noise; its gradient keeps the encoder from outgrowing it."""
    import torch

    spread = latents.std(dim=(0, 2, 3, 4), keepdim=True)
    strength = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, 1)
    return latents + strength * spread * torch.randn_like(latents)


def pixel_weights(pixels: torch.Tensor) -> torch.Tensor:
    """What each pixel of (B, 3, T, H, W) in [-1, 1] counts: 1, and more at edges; (B, 1, T, H, W)."""
    import torch
    from torch.nn import functional

    flat = pixels.transpose(1, 2).flatten(0, 1)
    contrast = functional.max_pool2d(flat, 3, 1, 1) + functional.max_pool2d(-flat, 3, 1, 1)
    edge = (contrast.amax(1) > EDGE_CONTRAST).unflatten(0, (len(pixels), -1))[:, None]
    return 1.0 + EDGE_WEIGHT * edge.to(torch.float32)


def batch_shape(progress: float, generator: np.random.Generator) -> tuple[int, int]:
    """(clips, frames) of the next batch at this share of the budget."""
    if progress < IMAGES_UNTIL:
        return 16, 1
    if progress < SHORT_CLIPS_UNTIL:
        return (16, 1) if generator.random() < 0.3 else (4, 5)
    return [(4, 5), (2, 9), (2, 17), (2, 17)][int(generator.integers(4))]


def held_out_quality(vae: AutoencoderKLWan, clips: int = 24) -> dict[str, float]:
    """PSNR in dB of reconstructed 17-frame clips never trained on: whole clip, first frame, last frame."""
    import torch

    pixels = draw_batch(np.random.default_rng(10_000_019), clips, NUM_FRAMES)
    errors = []
    with torch.no_grad():
        for part in pixels.split(4):
            restored = vae.decode(vae.encode(part).latent_dist.mode()).sample
            errors.append(((restored - part) / 2).square().mean(dim=(1, 3, 4)))
    error = torch.cat(errors)

    def decibel(values: torch.Tensor) -> float:
        return float(-10 * torch.log10(values.mean()))

    return {"psnr": decibel(error), "psnr_first": decibel(error[:, 0]), "psnr_last": decibel(error[:, -1])}


def train(seconds: float, decoder_only: bool = False, start: Path | None = None) -> None:
    """Train, or go on training, for a budget of training seconds in all (see `TrainingClock`).

    ``decoder_only`` is a stage of its own: it starts from the trained VAE and leaves the encoder, and so every latent
    and every denoiser trained on them, as it is. ``start`` is a checkpoint directory whose VAE to begin with. Either
    way images are behind it, and all of the run is like the last part of the whole schedule.
    """
    import torch
    from diffusers import AutoencoderKLWan
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.set_num_threads(TORCH_THREADS if processes() == 1 else 1)
    torch.manual_seed(0)
    join()
    stage, interruption = StageState(DECODER_STAGE if decoder_only else ENCODER_STAGE), Interruption()
    peak_rate = CONTINUED_LEARNING_RATE if decoder_only or start else LEARNING_RATE
    if start is not None and not decoder_only:
        vae = AutoencoderKLWan.from_pretrained(start / "vae")
    else:
        vae = load_vae() if decoder_only else new_vae()
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    parameters = [parameter for parameter in vae.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=peak_rate, betas=(0.9, 0.98), weight_decay=0.0)
    averaged = AveragedModel(vae, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    clock, step = TrainingClock(seconds), 0
    saved = stage.load()
    if saved is not None:
        averaged.module.load_state_dict(saved["vae"])
        averaged.n_averaged.fill_(saved["step"])  # at 0 it would begin anew with the last weights
        vae.load_state_dict(saved["last_vae"])
        optimizer.load_state_dict(saved["optimizer"])
        clock, step = TrainingClock(seconds, saved["spent"]), saved["step"]
    # All processes draw batches of one shape, each its own clips.
    shapes, generator = np.random.default_rng(step + 1), np.random.default_rng([step + 1, rank()])
    last_save = last_measure = clock.spent
    losses: list[float] = []

    def save() -> None:
        stage.save(
            {
                "vae": averaged.module.state_dict(),
                "last_vae": vae.state_dict(),
                "optimizer": optimizer.state_dict(),
                "spent": clock.spent,
                "step": step,
            }
        )

    while True:
        progress = average(2.0 if interruption.asked else clock.progress)
        if progress >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * min(1.0, (step + 1) / WARMUP_STEPS) * cosine(progress)
        clips, frames = batch_shape(1.0 if decoder_only or start else progress, shapes)
        pixels = draw_batch(generator, max(1, clips // processes()), frames)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            latents = vae.encode(pixels).latent_dist.mode().float()
            restored = decode_unclamped(vae, disturb(latents)).float()
        error, weights = restored - pixels, pixel_weights(pixels)
        loss = ABSOLUTE_WEIGHT * (weights * error.abs()).mean() + SQUARED_WEIGHT * (weights * error.square()).mean()
        loss = loss + LATENT_WEIGHT * latents.square().mean()
        optimizer.zero_grad()
        loss.backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        averaged.update_parameters(vae)
        step += 1
        losses.append(float(loss.detach()))
        clock.tick()
        if step % LOG_EVERY == 0:
            mean = float(np.mean(losses))
            stage.log(step=step, spent=clock.spent, wall=time.time(), loss=mean, frames=pixels.shape[2])
            losses.clear()
        if clock.spent - last_save > SAVE_EVERY:
            save()
            last_save = clock.spent
            clock.skip()
        if clock.spent - last_measure > MEASURE_EVERY:
            stage.log(step=step, spent=clock.spent, **held_out_quality(averaged.module))
            last_measure = clock.spent
            clock.skip()
    save()
    if not interruption.asked:
        stage.log(step=step, spent=clock.spent, progress=clock.progress, **held_out_quality(averaged.module))
