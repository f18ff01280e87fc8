"""What a sweep measures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from anyflow_rt.errors import UsageError
from anyflow_rt.sampling.schedule import check_steps

PEERS = ("diffusers",)
FEWEST_ROUNDS = 5


@dataclass(frozen=True)
class SweepOptions:
    """Prompts times seeds at every number of steps; ``metrics`` by name; ``compare``: a peer or None.

    reference_steps: of the videos that fidelity is measured to; as many again are made of twice as many steps.
    rounds: timed runs at every number of steps. jump_videos: videos whose single jumps are measured, 0 for none.
    """

    bundle: Path | None
    report: Path
    prompts: tuple[str, ...]
    metrics: tuple[str, ...]
    steps: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    seeds: int = 1
    first_seed: int = 1000
    compare: str | None = None
    engine: str | None = None
    precision: str | None = None
    mean_velocity: bool = True
    series: str = "shipped"
    reference_steps: int = 32
    rounds: int = 20
    jump_videos: int = 8
    resume: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError naming the option, its value and the mend."""
        if not self.steps:
            raise UsageError("no step count is given; give --steps such as 1,2,4,8")
        for steps in self.steps:
            check_steps(steps)
        if len(set(self.steps)) < len(self.steps):
            raise UsageError(f"a step count is given twice in {','.join(map(str, self.steps))}; give each once")
        if not self.prompts:
            raise UsageError("no prompt is given; give a file with --prompts")
        for name, least in (("seeds", 1), ("rounds", FEWEST_ROUNDS), ("jump_videos", 0)):
            if getattr(self, name) < least:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is {getattr(self, name)}; give a whole number of at least {least}")
        if self.compare is not None and self.compare not in PEERS:
            raise UsageError(f"--compare {self.compare!r} is unknown; the peers are {', '.join(PEERS)}")
        if self.compare is not None and not self.mean_velocity:
            raise UsageError("--compare with --euler: the comparison is of jumps; leave out one of them")

    def identity(self, bundle_id: str, engine: str, precision: str) -> dict[str, Any]:
        """What makes two runs one sweep: everything but the place of the report."""
        given = asdict(self) | {"engine": engine, "precision": precision}
        left_out = ("bundle", "report", "resume")
        return {"bundle_id": bundle_id} | {name: value for name, value in given.items() if name not in left_out}

    def videos(self) -> list[tuple[str, int]]:
        """(prompt, seed) of every video, the same at every number of steps. No two videos share a seed: one starting
        noise for all prompts would make their errors alike, and every score that of this one noise."""
        prompts = self.prompts * self.seeds
        return [(prompt, self.first_seed + number) for number, prompt in enumerate(prompts)]
