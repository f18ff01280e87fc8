"""Are two sets of videos drawn from one distribution, given their captions? Energy distance with a permutation test.

Energy distance (Szekely and Rizzo 2013) between samples X and Y of feature vectors:

    E = 2 mean|x - y| - mean|x - x'| - mean|y - y'|

which is never negative and, in the limit, 0 only for equal distributions. On finite samples it lies above 0 even then,
so the median over relabelled samples is reported beside it.

The p-value is a permutation's: labels (generated, true) are shuffled among the videos of one caption only, because
videos of different captions are not exchangeable, and p = (1 + shuffles that reach E) / (1 + shuffles) (Phipson and
Smyth 2010). Features must not depend on the labels; then true against true is rejected at the nominal rate exactly.
They should be relative to what the caption says: differences between captions hide those between the two sides.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.errors import UsageError

PERMUTATIONS = 999
BATCH_NUMBERS = 8_000_000
"""Numbers held at once for the shuffles: 64 MB."""
ROUNDING = 1e-9
"""Relative difference below which a shuffle's distance counts as equal."""


@dataclass(frozen=True)
class DistributionTest:
    """distance: E, in units of the features; chance: its median over shuffles; p_value in (0, 1]."""

    distance: float
    chance: float
    p_value: float
    permutations: int
    generated: int
    true: int


def distribution_test(
    generated: np.ndarray,
    generated_captions: Sequence[Hashable],
    true: np.ndarray,
    true_captions: Sequence[Hashable],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> DistributionTest:
    """Compare features (n, d) and (m, d) with their captions (n,) and (m,).

    Raises UsageError for empty or mismatched arrays, numbers that are not finite, a caption that only one side has, or
    no permutations.
    """
    _check(generated, generated_captions, true, true_captions, permutations)
    captions = [*generated_captions, *true_captions]
    places = {caption: place for place, caption in enumerate(dict.fromkeys(captions))}
    stratum = np.array([places[caption] for caption in captions])
    order = np.argsort(stratum, kind="stable")
    features = np.concatenate([generated, true]).astype(np.float64)[order]
    weights = np.repeat([1 / len(generated), -1 / len(true)], [len(generated), len(true)])[order]
    distances = optional_module("scipy.spatial.distance", "the distribution distance").cdist(features, features)

    def energy(weights: np.ndarray) -> np.ndarray:
        return -((weights @ distances) * weights).sum(axis=-1)

    observed = float(energy(weights[None])[0])
    generator = np.random.default_rng(seed)
    shuffled = []
    batch = max(1, BATCH_NUMBERS // len(weights))
    for first in range(0, permutations, batch):
        keys = stratum[order] + generator.random((min(batch, permutations - first), len(weights)))
        shuffled.append(energy(weights[np.argsort(keys, axis=1)]))
    found = np.concatenate(shuffled)
    reached = int((found >= observed * (1 - ROUNDING)).sum())
    return DistributionTest(
        distance=max(0.0, observed),
        chance=max(0.0, float(np.median(found))),
        p_value=(1 + reached) / (1 + permutations),
        permutations=permutations,
        generated=len(generated),
        true=len(true),
    )


def _check(
    generated: np.ndarray,
    generated_captions: Sequence[Hashable],
    true: np.ndarray,
    true_captions: Sequence[Hashable],
    permutations: int,
) -> None:
    for name, features, captions in (("generated", generated, generated_captions), ("true", true, true_captions)):
        if features.ndim != 2 or not features.size or len(features) != len(captions):
            raise UsageError(f"{name} features {features.shape} with {len(captions)} captions: give (n, d) with n >= 1")
        if not np.isfinite(features).all():
            raise UsageError(f"{name} features are not all finite numbers")
    if generated.shape[1] != true.shape[1]:
        raise UsageError(f"{generated.shape[1]} features against {true.shape[1]}: measure both sides alike")
    odd = set(generated_captions) ^ set(true_captions)
    if odd:
        raise UsageError(
            f"caption {sorted(map(str, odd))[0]!r} is on one side only: compare videos of the same captions"
        )
    if permutations < 1:
        raise UsageError(f"{permutations} permutations: ask for at least one")
