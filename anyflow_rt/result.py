"""What a run gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from anyflow_rt.errors import UsageError


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of each stage. ``decode`` and ``encode`` overlap where a file is written."""

    load: float
    text: float
    conditioner: float
    jumps: tuple[float, ...]
    decode: float
    encode: float
    total: float


@dataclass(frozen=True, eq=False)
class Result:
    """frames uint8 (N, T, H, W, 3) or None where they went to a file or were not asked for; latents float32
    (N, F, C, h, w), normalised as the denoiser sees them; plan: the (t, r) of every jump."""

    frames: np.ndarray | None = field(repr=False)
    latents: np.ndarray = field(repr=False)
    plan: tuple[tuple[float, float], ...]
    seconds: Seconds
    seed: int | tuple[int, ...]
    size: tuple[int, int, int]
    fps: float
    engine: str
    precision: str
    paths: tuple[Path, ...] = ()
    budget: Any = None
    decisions: tuple[Any, ...] = field(default=())

    def save(self, path: str | Path, *, fps: float | None = None, quality: float | None = None) -> tuple[Path, ...]:
        """Write the frames to ``path`` (.mp4, .gif, .png contact sheet or .npy) and return the files written.

        Raises UsageError where the run kept no frames, OutputError where the file cannot be written.
        """
        from anyflow_rt.video import save_video

        if self.frames is None:
            raise UsageError("this result holds no frames; call generate with output='frames'")
        return save_video(path, self.frames, fps=fps, usual_fps=self.fps, quality=quality)
