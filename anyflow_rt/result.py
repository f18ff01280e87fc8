"""What a run gives back."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anyflow_rt.errors import UsageError
from anyflow_rt.preview import Preview

if TYPE_CHECKING:
    from anyflow_rt.engines.nvml import GpuFigures
    from anyflow_rt.sampling.controller import Decision


@dataclass(frozen=True)
class Seconds:
    """Wall-clock seconds of each stage. ``decode`` and ``encode`` overlap where a file is written.

    total: from the call, or from ``started_at`` where that was given; previews and ``on_step`` are in no stage.
    """

    load: float
    text: float
    conditioner: float
    jumps: tuple[float, ...]
    decode: float
    encode: float
    total: float


@dataclass(frozen=True)
class BudgetReport:
    """How a run kept its budget. Seconds count as the budget does: from the call, or from ``started_at``.

    seconds, confidence: as asked. taken: until the frames, or the finished file, were there; met: within the budget.
    predicted: the finish stated, at that confidence, when the plan that was finally run was chosen; None where no jump
    had been measured. planned_steps: of the first plan. smallest: the smallest budget that would have done, as known
    at the start. preparing: seconds, within the budget, that reading the profile and making forecasts and tables took;
    a first run's are the most. planning: seconds of each decision. notes: what the plan had to assume, for people.
    """

    seconds: float
    confidence: float
    met: bool
    taken: float
    predicted: float | None
    planned_steps: int
    smallest: float | None
    preparing: float
    planning: tuple[float, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ChunkReport:
    """One chunk of a causal checkpoint's video. frames: latent ones. steps, seconds: its jumps, none where it was
    given. cache_seconds: until the chunks before it could be attended to.

    due, predicted: of a chunk with a deadline, seconds from the call at which it was to be denoised and decoded, and at
    which it was predicted to be denoised when its plan was chosen; planned_steps: of its first plan.
    """

    frames: int
    steps: int
    seconds: float
    cache_seconds: float
    due: float | None = None
    predicted: float | None = None
    planned_steps: int | None = None


def playing_lead(frames: Sequence[int], fps: float) -> float:
    """Seconds a player waits after the first frame: what the longest chunk lasts, since the first is short."""
    return max(frames) / fps


@dataclass(frozen=True)
class StreamReport:
    """How a stream kept up. ready: seconds from the call until the frames of each chunk were there, frames: how many.

    fps: the rate they would be played at, from ``lead`` seconds after the first chunk was there.
    """

    ready: tuple[float, ...]
    frames: tuple[int, ...]
    fps: float

    @property
    def first_frame(self) -> float:
        """Seconds to the first frame."""
        return self.ready[0]

    @property
    def lead(self) -> float:
        """Seconds from the first frame to the start of playing."""
        return playing_lead(self.frames, self.fps)

    @property
    def jitter(self) -> float:
        """Standard deviation of the seconds between chunks."""
        return statistics.pstdev(b - a for a, b in pairwise(self.ready)) if len(self.ready) > 1 else 0.0

    @property
    def stalls(self) -> tuple[float, ...]:
        """Seconds a player would have waited before each chunk; a wait moves all that comes after it."""
        found, clock = [], self.ready[0] + self.lead
        for arrived, frames in zip(self.ready, self.frames, strict=True):
            found.append(max(0.0, arrived - clock))
            clock = max(clock, arrived) + frames / self.fps
        return tuple(found)

    @property
    def stall_ratio(self) -> float:
        """Share of the chunks after the first that a player would have waited for."""
        return sum(stall > 0 for stall in self.stalls[1:]) / max(1, len(self.ready) - 1)


@dataclass(frozen=True, eq=False)
class Result:
    """frames uint8 (N, T, H, W, 3) or None where they went to a file or were not asked for; latents float32
    (N, F, C, h, w), normalised as the denoiser sees them; plan: the (t, r) of every jump that ran.

    budget, decisions: of a run with a budget; every decision with its reason, in order. previews: the drafts that were
    kept (``preview=True``). chunks: of a causal checkpoint; ``plan`` then holds the jumps of one after another.
    stream: of a run that was streamed. gpu: what the driver said of the GPU that ran it, where nvidia-ml-py is there.
    """

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
    budget: BudgetReport | None = None
    decisions: tuple[Decision, ...] = field(default=(), repr=False)
    previews: tuple[Preview, ...] = ()
    chunks: tuple[ChunkReport, ...] = ()
    stream: StreamReport | None = None
    gpu: GpuFigures | None = None

    def save(self, path: str | Path, *, fps: float | None = None, quality: float | None = None) -> tuple[Path, ...]:
        """Write the frames to ``path`` (.mp4, .gif, .png contact sheet or .npy) and return the files written.

        Raises UsageError where the run kept no frames, OutputError where the file cannot be written.
        """
        from anyflow_rt.video import save_video

        if self.frames is None:
            raise UsageError("this result holds no frames; call generate with output='frames'")
        return save_video(path, self.frames, fps=fps, usual_fps=self.fps, quality=quality)
