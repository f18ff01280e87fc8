"""Single jumps of one video: the flow map itself, for whoever studies it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anyflow_rt.components import Components
from anyflow_rt.decoding import decode
from anyflow_rt.engines.arrays import to_host
from anyflow_rt.engines.geometry import LatentSize
from anyflow_rt.noise import initial_noise
from anyflow_rt.sampling.executor import Sampling, make_jump
from anyflow_rt.sampling.schedule import Jump


@dataclass(frozen=True)
class Sampler:
    """One prompt, encoded, at one size. Made by ``Runtime.sampler``; it ends with the runtime."""

    components: Components
    sampling: Sampling

    @property
    def size(self) -> LatentSize:
        """Of the latents."""
        return self.sampling.size

    def noise(self, seed: int) -> np.ndarray:
        """The starting noise of a seed: (1, F, C, h, w) float32."""
        size = self.size
        return initial_noise(seed, 1, size.channels, size.frames, size.height, size.width)

    def jump(self, latents: np.ndarray, t: float, r: float) -> np.ndarray:
        """Latents at time r from latents (1, F, C, h, w) at time t, 0 <= r < t <= 1, by one call of the denoiser."""
        return to_host(make_jump(self.components, self.sampling, Jump(t, r), latents))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Frames uint8 (T, H, W, 3) of latents (1, F, C, h, w) at time 0."""
        return np.concatenate(list(decode(self.components, latents)), axis=1)[0]
