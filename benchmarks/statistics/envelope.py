"""The upper envelope of quality(N): more steps are not always better, but nobody has to use them all.

``reachable`` is the best mean at N steps or fewer, a running maximum: what a user with room for N steps can have. It
takes the luckiest of noisy means and so lies high by some noise. ``monotone`` is the least-squares fit that never falls
(isotonic regression, pool adjacent violators, weighted by n): it averages over dips instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.statistics.bootstrap import finite
from anyflow_rt.errors import UsageError


@dataclass(frozen=True)
class Envelope:
    """Of the points (steps, measured), fewest steps first: ``reachable``, ``monotone``, and at which step count each
    ``reachable`` was measured. "Best" is lowest where higher is not better."""

    steps: tuple[int, ...]
    measured: tuple[float, ...]
    reachable: tuple[float, ...]
    best_steps: tuple[int, ...]
    monotone: tuple[float, ...]


def envelope(
    steps: Sequence[int],
    means: Sequence[float],
    weights: Sequence[float] | None = None,
    *,
    higher_is_better: bool = True,
) -> Envelope:
    """The envelope of ``means`` at ``steps``, in any order; weights: how much each counts in the fit (its n).

    Raises UsageError for no points, lengths that differ, a step count twice, or weights that are not positive.
    """
    values = finite(means)
    shares = np.ones(len(values)) if weights is None else finite(weights)
    if not len(steps) == len(values) == len(shares):
        raise UsageError(f"{len(steps)} step counts, {len(values)} means, {len(shares)} weights: give as many of each")
    if len(set(steps)) < len(steps):
        raise UsageError(f"step counts {sorted(steps)}: give each once")
    if (shares <= 0).any():
        raise UsageError(f"weights {shares.tolist()}: give positive ones")
    order = np.argsort(steps)
    values, shares = values[order], shares[order]
    numbers = [int(steps[place]) for place in order]
    signed = values if higher_is_better else -values
    best = [int(np.argmax(signed[: place + 1])) for place in range(len(values))]
    fit = optional_module("scipy.optimize", "the monotone fit").isotonic_regression(
        values, weights=shares, increasing=higher_is_better
    )
    return Envelope(
        steps=tuple(numbers),
        measured=tuple(values.tolist()),
        reachable=tuple(float(values[place]) for place in best),
        best_steps=tuple(numbers[place] for place in best),
        monotone=tuple(fit.x.tolist()),
    )
