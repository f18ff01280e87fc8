"""The error of single jumps: from node i of the grid to node j at once, against a fine rollout of the same noise.

A rollout of 128 jumps, four to each interval of the 32-node grid, gives the latents z_i at every node. The jump error
is |jump(z_i, i -> j) - z_j| / |z_j|. It says how far one call is from many, of one network; not how good a video is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from anyflow_rt.runtime import Runtime
from anyflow_rt.sampler import Sampler
from anyflow_rt.sampling.schedule import GRID_INTERVALS, grid, shift_time

JUMPS_A_NODE = 4

Edges = dict[tuple[int, int], float]


def measure_jumps(runtime: Runtime, prompt: str, seed: int, nodes: Sequence[int] | None = None) -> Edges:
    """(from, to) -> error, of every jump between two of ``nodes`` (0 to 32; all where None), for one video."""
    shift = runtime.bundle.architecture.scheduler.shift
    wanted = sorted(range(GRID_INTERVALS + 1) if nodes is None else set(nodes), reverse=True)
    sampler, times = runtime.sampler(prompt), grid(shift)
    truth = _rollout(sampler, seed, shift)
    found: Edges = {}
    for place, start in enumerate(wanted):
        for end in wanted[place + 1 :]:
            landed = sampler.jump(truth[start], times[start], times[end])
            found[start, end] = float(np.linalg.norm(landed - truth[end]) / np.linalg.norm(truth[end]))
    return found


def _rollout(sampler: Sampler, seed: int, shift: float) -> Mapping[int, np.ndarray]:
    """Latents at every node."""
    fine = GRID_INTERVALS * JUMPS_A_NODE
    latents = sampler.noise(seed)
    found = {GRID_INTERVALS: latents}
    for index, following in pairwise(range(fine, -1, -1)):
        latents = sampler.jump(latents, shift_time(index / fine, shift), shift_time(following / fine, shift))
        if following % JUMPS_A_NODE == 0:
            found[following // JUMPS_A_NODE] = latents
    return found


def mean_errors(measured: Sequence[Edges]) -> Edges:
    """Of several videos, the mean error of every jump that each has. Raises ValueError for none."""
    if not measured:
        raise ValueError("no jump was measured")
    shared = set.intersection(*(set(each) for each in measured))
    return {edge: math.fsum(each[edge] for each in measured) / len(measured) for edge in sorted(shared, reverse=True)}
