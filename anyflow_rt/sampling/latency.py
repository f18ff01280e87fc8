"""What a run's stages took, setting by setting: bounded histories, first calls kept apart.

A profile belongs to one bundle on one device (``latency_store`` keeps it) and holds one ``History`` per ``Setting``.
The times of whole runs are kept, in order, because how jumps follow each other is what predictions of several jumps
are made of (``forecast``).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

STAGES = ("text", "conditioner", "jump", "decode", "encode")
MAX_RUNS, MAX_JUMPS = 256, 2048
"""Of one history; the oldest runs go first."""
MAX_FIRST_CALLS = 32
TYPICAL_JUMPS = 256
"""The newest jumps whose median is the typical one: old enough to be steady, new enough to follow a changed machine."""


@dataclass(frozen=True, order=True)
class Setting:
    """What the times of a run depend on. frames, height, width of the video in pixels; batch: videos of one call;
    guided: two denoiser calls a jump."""

    engine: str
    precision: str
    frames: int
    height: int
    width: int
    batch: int = 1
    guided: bool = False

    @property
    def tokens(self) -> float:
        """Of one video, in units of 16 x 16 pixels x 4 frames: proportional to what a denoiser attends to."""
        return ((self.frames - 1) / 4 + 1) * self.height * self.width / 256


@dataclass(frozen=True)
class RunTimes:
    """Seconds of one run's stages; None where a stage did not run, or where its time says nothing of later ones.

    In a history they are warm times: the first call of a stage in a process counts as None (of jumps: is left out).
    """

    text: float | None = None
    conditioner: float | None = None
    jumps: tuple[float, ...] = ()
    decode: float | None = None
    encode: float | None = None

    def __post_init__(self) -> None:
        _check(self.text, self.conditioner, *self.jumps, self.decode, self.encode)


@dataclass(frozen=True)
class FirstCalls:
    """Seconds of the first call of each stage in one process; None where the stage did not run.

    opening: whether waiting for engines to open was part of them.
    """

    text: float | None = None
    conditioner: float | None = None
    jump: float | None = None
    decode: float | None = None
    encode: float | None = None
    opening: bool = False

    def __post_init__(self) -> None:
        _check(self.text, self.conditioner, self.jump, self.decode, self.encode)


@dataclass(frozen=True)
class History:
    """The last runs of one setting, oldest first, and the last first calls. ``interpolated``: made up from other
    settings by ``latency_model``, never stored."""

    runs: tuple[RunTimes, ...] = ()
    first: tuple[FirstCalls, ...] = ()
    interpolated: bool = False

    def with_run(self, run: RunTimes | None, first: FirstCalls | None = None) -> History:
        """The history one run later, bounded."""
        runs = (*self.runs, run) if run is not None else self.runs
        firsts = (*self.first, first) if first is not None else self.first
        return History(bounded(runs), firsts[-MAX_FIRST_CALLS:])

    def beginning(self, *, opening: bool) -> History:
        """The same for a process whose first calls do, or do not, wait for engines: only first calls of that kind
        where there are any."""
        alike = tuple(each for each in self.first if each.opening == opening)
        return replace(self, first=alike or self.first)

    def seconds(self, stage: str) -> list[float]:
        """Warm times of ``text``, ``conditioner``, ``jump``, ``decode`` or ``encode``, oldest first."""
        if stage == "jump":
            return [seconds for run in self.runs for seconds in run.jumps]
        return [seconds for run in self.runs if (seconds := getattr(run, stage)) is not None]

    def typical(self, stage: str) -> float | None:
        """The median of the newest warm times; None where there are none."""
        seconds = self.seconds(stage)[-TYPICAL_JUMPS:]
        return statistics.median(seconds) if seconds else None

    def quantile(self, stage: str, confidence: float) -> float | None:
        """Seconds that a warm call stays within at ``confidence``; None where there are no samples."""
        return quantile(self.seconds(stage), confidence)

    def first_quantile(self, stage: str, confidence: float) -> float | None:
        """The same of a process's first call."""
        return quantile([s for each in self.first if (s := getattr(each, stage)) is not None], confidence)


@dataclass(frozen=True)
class Profile:
    """Histories by setting, the one used last at the end."""

    histories: Mapping[Setting, History] = field(default_factory=dict)

    def history(self, setting: Setting) -> History:
        """Of exactly this setting; empty where it never ran."""
        return self.histories.get(setting, History())

    def with_run(self, setting: Setting, run: RunTimes | None, first: FirstCalls | None = None) -> Profile:
        """The profile one run later."""
        others = {each: history for each, history in self.histories.items() if each != setting}
        return Profile({**others, setting: self.history(setting).with_run(run, first)})


def quantile(samples: Sequence[float], confidence: float) -> float | None:
    """The smallest sample that at least ``confidence`` of (n + 1) are not above: the conformal rank
    ceil((n + 1) confidence), the largest sample where there are too few for that. None of none."""
    if not samples:
        return None
    rank = math.ceil((len(samples) + 1) * confidence)
    return sorted(samples)[min(rank, len(samples)) - 1]


def bounded(runs: Sequence[RunTimes], most_jumps: int = MAX_JUMPS) -> tuple[RunTimes, ...]:
    """The newest runs that are at most ``MAX_RUNS`` and hold at most ``most_jumps`` jumps; always the newest one."""
    kept: list[RunTimes] = []
    jumps = 0
    for run in reversed(runs[-MAX_RUNS:]):
        jumps += len(run.jumps)
        if kept and jumps > most_jumps:
            break
        kept.append(run)
    return tuple(reversed(kept))


def _check(*times: float | None) -> None:
    for seconds in times:
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 0):
            raise ValueError(f"a stage cannot take {seconds!r} seconds")
