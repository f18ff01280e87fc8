"""Stage ``latents``: clips of the training combinations, encoded once so that the denoiser stages need no VAE.

Each run with another ``--seed`` adds a set; the denoiser stages use every set there is. The first set also fixes the
latent statistics, which from then on belong to the VAE's config, unless the VAE has some already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from anyflow_rt.benchmarks.shapes.captions import TRAINING_ATTRIBUTES
from anyflow_rt.benchmarks.shapes.recipe.state import TORCH_THREADS, StageState, work_directory
from anyflow_rt.benchmarks.shapes.recipe.vae import VAE_CONFIG, load_vae
from anyflow_rt.benchmarks.shapes.world import render, sample_scene
from anyflow_rt.errors import CheckpointError

if TYPE_CHECKING:
    import torch

BATCH = 16


def encode(clips: int, seed: int) -> None:
    """Encode a set of random clips and store it: float16 (N, 5, 16, 8, 8) and the index of each clip's attributes."""
    import torch

    torch.set_num_threads(TORCH_THREADS)
    vae, generator = load_vae(), np.random.default_rng([seed, 77])
    chosen = generator.integers(len(TRAINING_ATTRIBUTES), size=clips)
    parts = []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for first in range(0, clips, BATCH):
            videos = [
                render(sample_scene(TRAINING_ATTRIBUTES[index], generator)) for index in chosen[first : first + BATCH]
            ]
            pixels = torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
            latents = vae.encode(pixels).latent_dist.mode().float()
            parts.append(latents.transpose(1, 2).half())
            if first % (BATCH * 32) == 0:
                print(f"{first} of {clips} clips", flush=True)
    encoded = torch.cat(parts)
    statistics = StageState("latent_statistics")
    if statistics.load() is None and vae.config.latents_std != VAE_CONFIG["latents_std"]:
        statistics.save({key: list(vae.config[key]) for key in ("latents_mean", "latents_std")})
    elif statistics.load() is None:
        values = encoded.float().transpose(1, 2)
        statistics.save(
            {
                "latents_mean": values.mean(dim=(0, 2, 3, 4)).tolist(),
                "latents_std": values.std(dim=(0, 2, 3, 4)).tolist(),
            }
        )
    StageState(f"latents-{seed}").save({"latents": encoded, "attributes": torch.from_numpy(chosen)})


def load_latents() -> tuple[torch.Tensor, torch.Tensor]:
    """Every set: normalised latents, float16 (N, 5, 16, 8, 8), and indices (N,) into ``TRAINING_ATTRIBUTES``.

    Raises CheckpointError where no set was encoded yet.
    """
    import torch

    statistics = StageState("latent_statistics").load()
    sets = [torch.load(path, weights_only=True) for path in sorted(work_directory().glob("latents-*.pt"))]
    if not sets or statistics is None:
        raise CheckpointError(f"stage 'latents' has no state in {work_directory()}: run it first")
    mean = torch.tensor(statistics["latents_mean"])[:, None, None]
    deviation = torch.tensor(statistics["latents_std"])[:, None, None]
    latents = torch.cat([((part["latents"].float() - mean) / deviation).half() for part in sets])
    return latents, torch.cat([part["attributes"] for part in sets])
