"""Times, jumps and plans: plain floats, no arrays, no model.

A time is a noise level in [0, 1]: 1 is pure noise, 0 is data. A plan is the list of jumps t -> r that leads from one
to the other. Networks see times multiplied by the checkpoint's ``num_train_timesteps``; that is the caller's business.

The checkpoint's ``shift`` bends uniform times s towards noise: t = shift s / (1 + (shift - 1) s). Uniform plans are
those of diffusers' ``FlowMapEulerDiscreteScheduler``, bit for bit in float64.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anyflow_rt.errors import UsageError

MAX_STEPS = 1000
GRID_INTERVALS = 32


class Jump(NamedTuple):
    """One evaluation of the flow map: from time ``t`` to time ``r``, 0 <= r < t <= 1."""

    t: float
    r: float


@dataclass(frozen=True)
class Plan:
    """The jumps of one run, in order: each starts where the last ended, the first at 1, the last ends at 0.

    Validated on construction; ``UsageError`` names the jump that does not fit. Iterating, ``len`` and indexing give
    the jumps.
    """

    jumps: tuple[Jump, ...]

    def __post_init__(self) -> None:
        if not self.jumps:
            raise UsageError("a plan needs at least one jump, from 1 (noise) to 0 (data)")
        position = 1.0
        for index, (t, r) in enumerate(self.jumps):
            if t != position:
                where = f"where the one before ended ({position})" if index else "at 1 (noise)"
                raise UsageError(f"jump {index} of the plan starts at {t}: it must start {where}")
            if not 0.0 <= r < t:
                raise UsageError(f"jump {index} of the plan goes from {t} to {r}: it must go down, and not below 0")
            position = r
        if position != 0.0:
            raise UsageError(f"the plan ends at {position}: its last jump must go to 0 (data)")

    @classmethod
    def from_times(cls, times: Sequence[float]) -> Plan:
        """The plan that visits these times: strictly decreasing, first 1, last 0."""
        return cls(tuple(Jump(float(t), float(r)) for t, r in itertools.pairwise(times)))

    @property
    def times(self) -> tuple[float, ...]:
        """The ``len(plan) + 1`` times visited, from 1.0 to 0.0."""
        return (self.jumps[0].t, *(jump.r for jump in self.jumps))

    def __iter__(self) -> Iterator[Jump]:
        return iter(self.jumps)

    def __len__(self) -> int:
        return len(self.jumps)

    def __getitem__(self, index: int) -> Jump:
        return self.jumps[index]


def shift_time(s: float, shift: float) -> float:
    """The noise level t in [0, 1] of the uniform time s in [0, 1]. The order of operations is the reference's."""
    if shift == 1.0:
        return s
    return shift * s / (1.0 + (shift - 1.0) * s)


def uniform_plan(steps: int, shift: float) -> Plan:
    """``steps`` jumps, equally long before the shift. Raises ``UsageError`` for a step count out of range."""
    times = [shift_time(s, shift) for s in _linspace_down(check_steps(steps))]
    return Plan.from_times([*times, 0.0])


def grid(shift: float) -> tuple[float, ...]:
    """The 33 times planners choose from, ascending: node n is n/32, shifted. Node 32 is noise, node 0 is data.

    Uniform plans of 1, 2, 4, 8, 16 and 32 steps visit exactly these times.
    """
    return tuple(shift_time(node / GRID_INTERVALS, shift) for node in range(GRID_INTERVALS + 1))


def plan_of_nodes(nodes: Sequence[int], shift: float) -> Plan:
    """The plan that visits these nodes of ``grid(shift)``: strictly decreasing, first 32, last 0."""
    times = grid(shift)
    return Plan.from_times([times[node] for node in nodes])


def check_steps(steps: object, name: str = "steps") -> int:
    """The step count as an int. Raises ``UsageError`` unless it is an integer from 1 to 1000: no bool, no float."""
    try:
        value = None if isinstance(steps, bool) else operator.index(steps)  # type: ignore[arg-type]
    except TypeError:
        value = None
    if value is None or not 1 <= value <= MAX_STEPS:
        raise UsageError(f"{name} must be a whole number from 1 to {MAX_STEPS}, not {steps!r}")
    return value


def _linspace_down(steps: int) -> list[float]:
    """``torch.linspace(1, 0, steps + 1)[:-1]`` in float64, bit for bit.

    PyTorch counts up from the start in the first half and down from the end in the second, and its compiler fuses
    ``1 + step * index`` into one operation with one rounding. Here that operation is done in exact integers: a
    float64 is a ratio with a power of two below, and Python rounds the quotient of two integers correctly.
    """
    step = -1.0 / steps
    numerator, denominator = step.as_integer_ratio()
    halfway = (steps + 1) // 2
    first = [(denominator + numerator * index) / denominator for index in range(halfway)]
    return first + [-step * (steps - index) for index in range(halfway, steps)]
