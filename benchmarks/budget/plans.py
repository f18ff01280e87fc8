"""Are uneven plans better than even ones of as many jumps? Judged on the shapes world's held-out prompts.

For every number of jumps the planner's cheapest path on the 32-node grid and the most even one make the same videos
(prompt, seed), and the judge scores both: whether every attribute is right. The difference is paired, its interval
clustered by prompt and corrected for how many numbers of jumps are looked at. Beside it the rank correlation
(Spearman) of what plans cost, the sum of c over their jumps, and what share of their videos is right: a planner that
minimises the sum is worth as much as that correlation is negative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

import anyflow_rt
from anyflow_rt.benchmarks.measure import Conditions
from anyflow_rt.benchmarks.optional import optional_module
from anyflow_rt.benchmarks.report import Outcome
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts
from anyflow_rt.benchmarks.shapes.judge import judge
from anyflow_rt.benchmarks.statistics.comparisons import Scores, paired_difference
from anyflow_rt.budget import measured_quality
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling.planner import make_tables
from anyflow_rt.sampling.quality import Quality, even_path
from anyflow_rt.sampling.schedule import GRID_INTERVALS, grid

PROMPTS = 128
FIRST_SEED = 5000
JUMPS = (2, 3, 4, 5, 6, 8)
"""Numbers of jumps whose two plans are compared."""
EVEN_ONLY = (1, 12, 16, 32)
"""More even plans, for the correlation."""

Path = tuple[int, ...]


def run(conditions: Conditions) -> Outcome:
    """The shipped shapes checkpoint. Scores need no quiet machine: nothing is timed."""
    with anyflow_rt.load() as runtime:
        quality = measured_quality(runtime.bundle)
        plans = plans_to_compare(quality)
        conditions.say(f"{len(plans)} plans, {PROMPTS} held-out prompts each")
        scores = judge_plans(runtime, list(dict.fromkeys(plans.values())), PROMPTS)
    return describe(quality, plans, scores)


def plans_to_compare(quality: Quality) -> dict[str, Path]:
    """Name -> nodes from 32 to 0: "even N", "cheapest N". Where both are the same path both names have it."""
    tables = make_tables(quality)
    even = {f"even {jumps}": even_path(jumps) for jumps in sorted({*JUMPS, *EVEN_ONLY})}
    return even | {f"cheapest {jumps}": tables.path(GRID_INTERVALS, jumps) for jumps in JUMPS}


def judge_plans(runtime: Runtime, paths: Sequence[Path], prompts: int) -> dict[Path, Scores]:
    """1.0 where every attribute of a video is right, else 0.0, by path and (prompt, seed)."""
    times = grid(runtime.bundle.architecture.scheduler.shift)
    found: dict[Path, dict[tuple[str, int], float]] = {path: {} for path in paths}
    for number, (prompt, attributes) in enumerate(held_out_prompts(prompts)):
        sampler, seed = runtime.sampler(prompt), FIRST_SEED + number
        noise = sampler.noise(seed)
        for path in paths:
            latents = noise
            for start, end in pairwise(path):
                latents = sampler.jump(latents, times[start], times[end])
            found[path][prompt, seed] = float(judge(sampler.decode(latents)).passes(attributes))
    return dict(found)


def describe(quality: Quality, plans: Mapping[str, Path], scores: Mapping[Path, Scores]) -> Outcome:
    """Differences and the correlation, as lines."""
    notes = []
    for jumps in JUMPS:
        even, cheapest = plans[f"even {jumps}"], plans[f"cheapest {jumps}"]
        if even == cheapest:
            notes.append(f"{jumps} jumps: the cheapest plan is the even one")
            continue
        names = (f"even {jumps}", f"cheapest {jumps}")
        difference = paired_difference(scores[even], scores[cheapest], names, comparisons=len(JUMPS))
        nodes = " ".join(map(str, cheapest))
        notes.append(f"{jumps} jumps, {nodes} minus even: {difference.interval} ({difference.direction})")
    paths = list(scores)
    costs = [quality.cost(path) for path in paths]
    shares = [float(np.mean(list(scores[path].values()))) for path in paths]
    ranks = optional_module("scipy.stats", "a rank correlation").spearmanr(costs, shares)
    notes.append(f"rank correlation of cost and share right: {ranks.statistic:.2f} (n {len(paths)} plans)")
    means = [f"{name}: {float(np.mean(list(scores[path].values()))):.3f} right" for name, path in plans.items()]
    return Outcome("plans: uneven against even ones", (), notes=(*means, *notes))
