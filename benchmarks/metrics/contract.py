"""The contract of every metric: one video in, named numbers out; and, where a metric has one, a comparison of sets.

A metric scores a video from its frames, its prompt and, where it says so, a reference of the same prompt and seed.
What compares *sets* of videos (a distribution) works from ``features``: a few numbers that scoring a video yields on
the way and that are kept with its scores, so that an interrupted run goes on without its frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import AnyflowError, UsageError

FEWEST_FRAMES = 2


class PromptError(UsageError):
    """A metric cannot score videos of this ``prompt``. The message says why."""

    def __init__(self, prompt: str, reason: str) -> None:
        super().__init__(reason)
        self.prompt = prompt


@dataclass(frozen=True)
class ScoreKind:
    """A number that a metric gives: its name, its unit ("" for a plain number or a share), which way is better (None:
    neither, it only informs), and what it means, in a line. title: what people call it; share: a mean of it is one."""

    name: str
    unit: str
    higher_is_better: bool | None
    meaning: str
    title: str = ""
    share: bool = False


@dataclass(frozen=True, eq=False)
class Reference:
    """Videos of the same prompt and seed, at ``steps`` steps and at twice as many: uint8 (T, H, W, 3) each."""

    steps: int
    frames: np.ndarray
    doubled: np.ndarray


@dataclass(frozen=True, eq=False)
class Clip:
    """A video to score: frames uint8 (T, H, W, 3), what it was made from, and its reference where one is needed."""

    frames: np.ndarray
    prompt: str
    seed: int
    reference: Reference | None = None


@dataclass(frozen=True)
class Scores:
    """Of one video: every score by name, all finite, and the features that set scores are computed from."""

    values: Mapping[str, float]
    features: tuple[float, ...] = ()


@dataclass(frozen=True)
class SetItem:
    """One video of a set: what it was made from and the features of its ``Scores``."""

    prompt: str
    seed: int
    features: tuple[float, ...]


class Metric(ABC):
    """A way to score videos. ``scores[0]`` is the headline; ``set_scores`` is empty where sets are not compared."""

    name: str
    scores: tuple[ScoreKind, ...]
    set_scores: tuple[ScoreKind, ...] = ()
    needs_reference: bool = False
    at_once: bool = False
    """Whether it loads networks for every ``score_many``, so that a sweep gives it many videos at a time."""

    @property
    def headline(self) -> ScoreKind:
        """The score that stands for the metric in tables and curves."""
        return self.scores[0]

    @abstractmethod
    def check(self, prompts: Sequence[str]) -> None:
        """Say before any work what would fail later: a missing package or file, a prompt that cannot be scored.

        Raises MissingPackageError, CheckpointError, PromptError or UsageError.
        """

    def check_size(self, size: VideoSize) -> None:
        """Say before any work that videos of this size cannot be scored. Raises UsageError."""
        if size.num_frames < FEWEST_FRAMES:
            raise UsageError(
                f"metric {self.name}: videos of {size.num_frames} frame; use a bundle built for {FEWEST_FRAMES} or more"
            )

    def score(self, frames: np.ndarray, prompt: str, reference: Reference | None = None) -> Scores:
        """Score one video, uint8 (T, H, W, 3) with at least two frames.

        Raises UsageError for other arrays, for a missing reference and for references of another shape.
        """
        return self.score_many([Clip(frames, prompt, 0, reference)])[0]

    def score_many(self, clips: Sequence[Clip]) -> list[Scores]:
        """Scores of many videos, in their order; cheaper than one by one where a metric loads networks."""
        for clip in clips:
            self._guard(clip)
        found = self._score_many(clips)
        for scores in found:
            odd = [name for name, value in scores.values.items() if not math.isfinite(value)]
            if odd or set(scores.values) != {kind.name for kind in self.scores}:
                raise AnyflowError(f"metric {self.name} gave {dict(scores.values)}: a bug in it, please report it")
        return found

    def score_set(self, items: Sequence[SetItem]) -> dict[str, float]:
        """``set_scores`` of all videos at one step count; {} where the metric has none. Deterministic.

        Raises UsageError for no items, or features that are not this metric's.
        """
        if not self.set_scores:
            return {}
        if not items:
            raise UsageError(f"metric {self.name} compares sets of videos: give it at least one")
        return self._score_set(items)

    def _score_many(self, clips: Sequence[Clip]) -> list[Scores]:
        return [self._score(clip) for clip in clips]

    def _score(self, clip: Clip) -> Scores:
        """Score one checked clip; what most metrics write, beside ``check``."""
        raise NotImplementedError

    def _score_set(self, items: Sequence[SetItem]) -> dict[str, float]:
        """Compare a set that has at least one item; only for metrics with ``set_scores``."""
        raise NotImplementedError

    def _guard(self, clip: Clip) -> None:
        frames = clip.frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or len(frames) < FEWEST_FRAMES:
            raise UsageError(
                f"metric {self.name}: frames of {frames.dtype} {frames.shape}; give uint8 (T, H, W, 3), T of 2 or more"
            )
        if not self.needs_reference:
            return
        if clip.reference is None:
            raise UsageError(f"metric {self.name} compares with a reference video of the same prompt and seed: give it")
        for other in (clip.reference.frames, clip.reference.doubled):
            if other.shape != frames.shape or other.dtype != np.uint8:
                raise UsageError(
                    f"metric {self.name}: reference of {other.dtype} {other.shape} for frames of {frames.shape}; "
                    "make both at one size"
                )
