"""The quality of a sweep: metrics that load networks get many videos at a time; an interrupt costs one such batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from support.sweeps import silent_tally

from anyflow_rt.benchmarks.metrics.contract import Clip, Metric, ScoreKind, Scores
from anyflow_rt.benchmarks.sweep.journal import NAME, Journal
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.quality import BATCH, measure_quality

PROMPTS = tuple(f"prompt {number}" for number in range(BATCH + 3))


class Level(Metric):
    """The grey level of a video; remembers how many were given at a time."""

    scores = (ScoreKind("level", "", True, "mean of all values"),)

    def __init__(self, name: str, at_once: bool, fails_at: int = 0) -> None:
        self.name, self.at_once, self.fails_at = name, at_once, fails_at
        self.given: list[int] = []

    def check(self, prompts: Sequence[str]) -> None: ...

    def _score_many(self, clips: Sequence[Clip]) -> list[Scores]:
        self.given.append(len(clips))
        if len(self.given) == self.fails_at:
            raise KeyboardInterrupt
        return [Scores({"level": float(clip.frames.mean())}) for clip in clips]


def frames(prompt: str, seed: int, steps: int) -> np.ndarray:
    return np.full((2, 4, 4, 3), seed % 100 + steps, np.uint8)


def test_many_at_once_and_on_after_an_interrupt(tmp_path: Path) -> None:
    options = SweepOptions(None, tmp_path, PROMPTS, ("one", "many"), steps=(1, 2))

    def measure(many: Level, resume: bool) -> dict[tuple[str, str, int, int], float]:
        with Journal(tmp_path / NAME, {}, resume=resume) as journal:
            singly = Level("one", at_once=False)
            scores, _, _ = measure_quality(options, [singly, many], frames, silent_tally(journal))
        return {(each.metric, each.prompt, each.seed, each.steps): each.score for each in scores}

    stopped = Level("many", at_once=True, fails_at=3)
    with pytest.raises(KeyboardInterrupt):
        measure(stopped, resume=False)
    assert stopped.given == [BATCH, 3, BATCH]
    on = Level("many", at_once=True)
    found = measure(on, resume=True)
    assert on.given == [BATCH, 3]
    assert found == {
        (f"{metric}.level", prompt, seed, steps): seed % 100 + steps
        for metric in ("one", "many")
        for prompt, seed in options.videos()
        for steps in (1, 2)
    }
