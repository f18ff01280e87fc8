"""Runs as they went, and what every other number of jumps would have taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.sampling.schedule import GRID_INTERVALS


@dataclass(frozen=True, eq=False)
class Runs:
    """Arrays over n requests, in order; seconds count from when a request is taken up.

    waited: in the queue before that. values: what the run's path is worth. predicted: the finish stated when the plan
    that was finally run was chosen; first_steps, first_predicted: of the very first decision. finish (n, 32): seconds
    that 1..32 jumps would have taken, ``known_finish`` makes it from recorded times; known: the jumps up to which that
    is exact. place: requests since the profile was as the case says it. overhead: seconds of decisions.
    """

    budgets: np.ndarray
    waited: np.ndarray
    seconds: np.ndarray
    steps: np.ndarray
    values: np.ndarray
    predicted: np.ndarray
    first_steps: np.ndarray
    first_predicted: np.ndarray
    finish: np.ndarray
    known: np.ndarray
    place: np.ndarray
    overhead: np.ndarray

    @property
    def met(self) -> np.ndarray:
        """Whether each budget was met."""
        return self.seconds <= self.budgets

    def __getitem__(self, part: slice) -> Runs:
        """Some of the requests; the overhead stays that of all."""
        cut = {name: value[part] for name, value in vars(self).items() if name != "overhead"}
        return Runs(**cut, overhead=self.overhead)


@dataclass(frozen=True)
class Record:
    """One real run. before: seconds of everything up to the first decision; jumps: of each; after: from the last jump
    to the end. seconds: of the whole; predicted, first_predicted: None where nothing was known yet."""

    budget: float
    waited: float
    seconds: float
    before: float
    jumps: tuple[float, ...]
    after: float
    value: float
    predicted: float | None
    first_steps: int
    first_predicted: float | None
    overhead: tuple[float, ...]


def collect(parts: Sequence[Sequence[Record]]) -> Runs:
    """Real runs as ``Runs``; each part began with the profile as the case says it. What other numbers of jumps would
    have taken is ``known_finish``'s estimate."""
    records = [each for part in parts for each in part]
    steps = np.array([len(each.jumps) for each in records])
    return Runs(
        budgets=np.array([each.budget for each in records]),
        waited=np.array([each.waited for each in records]),
        seconds=np.array([each.seconds for each in records]),
        steps=steps,
        values=np.array([each.value for each in records]),
        predicted=np.array([each.predicted for each in records], float),
        first_steps=np.array([each.first_steps for each in records]),
        first_predicted=np.array([each.first_predicted for each in records], float),
        finish=np.array([known_finish(each.before, each.jumps, each.after) for each in records]),
        known=steps,
        place=np.concatenate([np.arange(len(part)) for part in parts]),
        overhead=np.array([seconds for each in records for seconds in each.overhead]),
    )


def known_finish(before: float, jumps: Sequence[float], after: float) -> np.ndarray:
    """(32,) seconds of 1..32 jumps from one run's recorded times: text and conditioner, the jumps, decode and encode.

    Jumps beyond those that ran are taken for the mean of the run's. That is an estimate; a run's own number of jumps
    and fewer are exact.
    """
    times = np.full(GRID_INTERVALS, np.mean(jumps))
    times[: len(jumps)] = jumps
    return before + np.cumsum(times) + after
