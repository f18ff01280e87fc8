"""What one ``bench`` run measured: every raw sample, and what is needed to judge it. The content of results.json.

A field without a default must be in the file. docs/results.md describes the file for people; ``file`` reads it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from anyflow_rt.errors import AnyflowError
from anyflow_rt.sampling.schedule import MAX_STEPS

SCHEMA = 1
SHIPPED = "shipped"
"""The series of the bundle that is measured; others (a teacher, say) are drawn beside it."""
TOTAL, JUMP = "total", "jump"
"""Stages with a meaning here: end to end, and one denoiser call. Others are named by the runner."""
UNKNOWN = "unknown"
SHORTEST = 1e-9
"""Seconds of a run that another can be divided by."""


class ResultsError(AnyflowError):
    """A results file that is missing, damaged or of another schema, or values that cannot be one."""


@dataclass(frozen=True)
class GpuDevice:
    """One GPU of the machine. memory: bytes."""

    name: str
    memory: int | None = None
    driver: str = UNKNOWN


@dataclass(frozen=True)
class Machine:
    """Where it ran. cores: those the process may use; memory: bytes; None and "unknown" where that is not known."""

    processor: str = UNKNOWN
    cores: int | None = None
    instructions: tuple[str, ...] = ()
    memory: int | None = None
    system: str = UNKNOWN
    gpus: tuple[GpuDevice, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What was run. size: frames, height, width; warm_up, timed and cached are sentences for people.

    mean_velocity: jumps; False for Euler steps. reference_steps: of the videos that fidelity is likeness to. rounds:
    timed runs at every step count. seeds: videos of each prompt; no two videos share a seed, and first_seed is the
    lowest. prompts: where they come from. None and "unknown" in files that were written before these were kept.
    """

    size: tuple[int, ...] = ()
    fps: float | None = None
    batch: int = 1
    engine: str = UNKNOWN
    precision: str = UNKNOWN
    warm_up: str = UNKNOWN
    timed: str = UNKNOWN
    cached: str = UNKNOWN
    mean_velocity: bool | None = None
    reference_steps: int | None = None
    rounds: int | None = None
    seeds: int | None = None
    first_seed: int | None = None
    prompts: str = UNKNOWN

    def __post_init__(self) -> None:
        if self.size and (len(self.size) != 3 or min(self.size) < 1):
            raise ResultsError(f"a size is frames, height, width, each at least 1, not {list(self.size)}")

    @property
    def frames(self) -> int | None:
        """Frames of one video."""
        return self.size[0] if self.size else None


@dataclass(frozen=True)
class LatencySamples:
    """Seconds of one stage in runs of ``steps`` steps, in the order measured. Stage "jump" has steps samples a run."""

    steps: int
    stage: str
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_steps(self.steps)
        _require_samples(f"{self.stage} at {self.steps} steps", self.seconds, least=0.0)


@dataclass(frozen=True)
class Metric:
    """One measure of a video, or of a set of videos. higher_is_better: None where neither way is; fidelity: likeness to
    a many-step run at the same seed, which is not quality; primary: drawn, not only listed; title: what people call it;
    share: from 0 to 1, shown in percent."""

    name: str
    unit: str = ""
    higher_is_better: bool | None = True
    fidelity: bool = False
    primary: bool = True
    description: str = ""
    title: str = ""
    share: bool = False


@dataclass(frozen=True)
class Score:
    """What one metric says of the video of one prompt and seed. series: whose video, see ``SHIPPED``."""

    metric: str
    prompt: str
    seed: int
    steps: int
    score: float
    series: str = SHIPPED

    def __post_init__(self) -> None:
        _require_steps(self.steps)
        if not math.isfinite(self.score):
            raise ResultsError(
                f"{self.metric} of {self.prompt!r}, seed {self.seed}, {self.steps} steps is {self.score}; "
                "a score must be a finite number, so mend the metric or bound it"
            )


@dataclass(frozen=True)
class SetScore:
    """What one metric says of all videos of a series at one step count, such as their distance from true clips."""

    metric: str
    steps: int
    score: float
    videos: int
    series: str = SHIPPED

    def __post_init__(self) -> None:
        _require_steps(self.steps)
        if not math.isfinite(self.score):
            raise ResultsError(f"{self.metric} at {self.steps} steps is {self.score}; a score must be a finite number")


@dataclass(frozen=True)
class Features:
    """The numbers of one video that a metric computes its set scores from."""

    metric: str
    prompt: str
    seed: int
    steps: int
    values: tuple[float, ...]
    series: str = SHIPPED


@dataclass(frozen=True)
class Rate:
    """Matrix products of one library and shape, in GFLOP/s, each call."""

    name: str
    gigaflops: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_samples(self.name, self.gigaflops, least=0.0)


@dataclass(frozen=True)
class Ceiling:
    """The machine's matrix product rates at the engine's precision, and the useful GFLOP of one jump, if known."""

    precision: str
    rates: tuple[Rate, ...]
    jump_gigaflop: float | None = None


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak: of a process (resident set), and of the GPU (all processes) where there is one. process: which
    process that was, a few words for people."""

    peak_resident: int | None = None
    peak_device: int | None = None
    process: str = UNKNOWN


@dataclass(frozen=True)
class GpuReadings:
    """What the driver said of the GPU while it was measured. Lists are samples in the order taken.

    used: bytes; clocks: SM clock in MHz; energy: joules over the whole block, None where the GPU does not count them;
    events: names of the clock-event reasons that were set at any time.
    """

    device: str
    used: tuple[int, ...]
    clocks: tuple[int, ...]
    events: tuple[str, ...] = ()
    energy: float | None = None


@dataclass(frozen=True)
class Parity:
    """Whether both sides of a comparison make the same videos. Without that no speed of theirs is shown."""

    holds: bool
    details: tuple[str, ...] = ()


@dataclass(frozen=True)
class PeerSamples:
    """End-to-end seconds of our runs and of a peer's, interleaved: entry i of both is of one prompt and seed."""

    peer: str
    steps: int
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    def __post_init__(self) -> None:
        _require_steps(self.steps)
        for seconds in (self.ours, self.theirs):
            _require_samples(f"{self.peer} at {self.steps} steps", seconds, least=SHORTEST)
        if len(self.ours) != len(self.theirs):
            raise ResultsError(
                f"{self.peer} at {self.steps} steps: {len(self.ours)} of our runs and {len(self.theirs)} of the "
                "peer's; they are compared pair by pair, so both are needed of every round"
            )


@dataclass(frozen=True)
class JumpError:
    """Errors of the single jump from one node to another (in 32nds), each of one prompt and seed, relative to the
    latents' size."""

    start: int = field(metadata={"key": "from"})
    end: int = field(metadata={"key": "to"})
    errors: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.end < self.start:
            raise ResultsError(f"a jump from node {self.start} to node {self.end} does not go towards 0")
        _require_samples(f"the jump from {self.start} to {self.end}", self.errors, least=0.0)


@dataclass(frozen=True)
class Results:
    """One run of ``bench``. invalid_reasons: why its times mean nothing, empty for a good run. headline: the metric
    that the charts show large; the first that is not a fidelity where none is named."""

    machine: Machine
    versions: Mapping[str, str]
    commit: str
    bundle_id: str
    latency: tuple[LatencySamples, ...]
    quality: tuple[Score, ...]
    created: str = UNKNOWN
    settings: Settings = Settings()
    metrics: tuple[Metric, ...] = ()
    headline: str | None = None
    set_scores: tuple[SetScore, ...] = ()
    features: tuple[Features, ...] = ()
    ceiling: Ceiling | None = None
    memory: Memory = Memory()
    gpu: GpuReadings | None = None
    peers: tuple[PeerSamples, ...] = ()
    parity: Parity | None = None
    jump_errors: tuple[JumpError, ...] = ()
    notes: tuple[str, ...] = ()
    invalid_reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require_unique("latency", ((each.steps, each.stage) for each in self.latency))
        _require_unique(
            "quality", ((each.series, each.metric, each.prompt, each.seed, each.steps) for each in self.quality)
        )
        _require_unique("set_scores", ((each.series, each.metric, each.steps) for each in self.set_scores))
        _require_unique("peers", ((each.peer, each.steps) for each in self.peers))
        _require_unique("metrics", (each.name for each in self.metrics))
        if self.headline is not None and self.headline not in self.metric_names:
            raise ResultsError(f"the headline {self.headline!r} is none of the metrics {', '.join(self.metric_names)}")

    @property
    def valid(self) -> bool:
        """Whether the times of this run mean anything."""
        return not self.invalid_reasons

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Every metric that was described or that has a score, in the order they come."""
        described = (each.name for each in self.metrics)
        scored = (each.metric for each in self.quality)
        return tuple(dict.fromkeys([*described, *scored, *(each.metric for each in self.set_scores)]))

    def metric(self, name: str) -> Metric:
        """The description of a metric; a plain one where the file has none."""
        return next((each for each in self.metrics if each.name == name), Metric(name))


def _require_steps(steps: int) -> None:
    if not 1 <= steps <= MAX_STEPS:
        raise ResultsError(f"a run has 1 to {MAX_STEPS} steps, not {steps}")


def _require_samples(what: str, samples: Iterable[float], least: float) -> None:
    for sample in samples:
        if not (math.isfinite(sample) and sample >= least):
            raise ResultsError(
                f"{what} has the sample {sample}; every sample must be a finite number from {least:g} on"
            )


def _require_unique(what: str, keys: Iterable[object]) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise ResultsError(f"{what} has two entries of {key}; put their samples together, or leave one out")
        seen.add(key)
