"""What a benchmark found: samples, ratios, targets met or not; as lines and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from anyflow_rt.benchmarks.measure import BUSY_CORES, Sample
from anyflow_rt.benchmarks.results.decoding import encode
from anyflow_rt.benchmarks.results.machine import describe_machine, package_versions, project_commit


@dataclass(frozen=True)
class Target:
    """A figure that was set beforehand. ``at_least``: whether more is better."""

    name: str
    value: float
    bound: float
    at_least: bool
    unit: str = "x"

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "NOT MET"
        return f"{self.name}: {self.value:.4g} {self.unit}, target {side} {self.bound:.4g} {self.unit}: {verdict}"


@dataclass(frozen=True)
class Outcome:
    """One benchmark. ``other_cores``: what other processes used meanwhile, None where it does not matter."""

    name: str
    samples: tuple[Sample, ...]
    ratios: tuple[Sample, ...] = ()
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    other_cores: float | None = None

    @property
    def valid(self) -> bool:
        """Whether the machine was quiet enough for the figures to mean something."""
        return self.other_cores is None or self.other_cores <= BUSY_CORES

    def lines(self) -> list[str]:
        """For a person to read."""
        busy = (
            "" if self.valid else f"  BUSY: others used {self.other_cores:.2f} of a core; these figures are not valid"
        )
        found = [f"{self.name}{busy}", *_table(self.samples), *_table(self.ratios)]
        found += [f"  {target}{'' if self.valid else ' (not valid)'}" for target in self.targets]
        return found + [f"  {note}" for note in self.notes]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: every single value, so that others can judge the spread."""
        return {
            "name": self.name,
            "valid": self.valid,
            "other_cores": self.other_cores,
            "samples": [_sample(sample) for sample in self.samples],
            "ratios": [_sample(sample) for sample in self.ratios],
            "targets": [{**vars(target), "met": target.met} for target in self.targets],
            "notes": list(self.notes),
        }


def results(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The content of a results file."""
    return {
        "schema": 1,
        "machine": encode(describe_machine()),
        "versions": package_versions(),
        "commit": project_commit(),
        "benchmarks": [outcome.to_dict() for outcome in outcomes],
    }


def _table(samples: Sequence[Sample]) -> list[str]:
    width = max((len(sample.name) for sample in samples), default=0)
    return [f"  {sample.name:<{width}}  {sample}" for sample in samples]


def _sample(sample: Sample) -> dict[str, Any]:
    return {"name": sample.name, "unit": sample.unit, "median": sample.median, "values": list(sample.values)}
