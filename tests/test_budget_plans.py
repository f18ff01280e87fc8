"""Uneven plans against even ones: which are compared, how they are judged, what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from support.bundles import random_bundle
from support.checkpoints import CONFIGURATIONS

import anyflow_rt
from anyflow_rt.benchmarks.budget.plans import EVEN_ONLY, JUMPS, describe, judge_plans, plans_to_compare
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts, parse
from anyflow_rt.benchmarks.shapes.world import render, sample_scene
from anyflow_rt.sampling.quality import Quality, default_quality, even_path

CONFIGURATION = next(name for name in CONFIGURATIONS if name != "base")


def leaning() -> Quality:
    """Jumps cost more the nearer they start to noise: uneven plans are cheaper."""
    costs = tuple(tuple((i - j) ** 2 * (1 + i) / 32**3 for j in range(i)) for i in range(33))
    return Quality(costs, default_quality().knots)


@dataclass(frozen=True)
class Truth:
    """A sampler whose videos are right after an even number of jumps, and empty otherwise."""

    prompt: str

    def noise(self, seed: int) -> np.ndarray:
        return np.zeros((1, 1), np.float32)

    def jump(self, latents: np.ndarray, t: float, r: float) -> np.ndarray:
        return latents + 1

    def decode(self, latents: np.ndarray) -> np.ndarray:
        frames = render(sample_scene(parse(self.prompt), np.random.default_rng(0)))
        return frames if int(latents.item()) % 2 == 0 else np.zeros_like(frames)


def test_both_plans_of_every_number_of_jumps_go_from_noise_to_data() -> None:
    plans = plans_to_compare(leaning())
    assert set(plans) == {f"even {n}" for n in (*JUMPS, *EVEN_ONLY)} | {f"cheapest {n}" for n in JUMPS}
    for name, path in plans.items():
        assert path[0] == 32 and path[-1] == 0 and len(path) - 1 == int(name.split()[1])
    assert all(leaning().cost(plans[f"cheapest {n}"]) <= leaning().cost(plans[f"even {n}"]) for n in JUMPS)
    assert plans["cheapest 4"] != even_path(4)


def test_every_plan_is_judged_on_the_same_videos() -> None:
    runtime = SimpleNamespace(
        sampler=Truth, bundle=SimpleNamespace(architecture=SimpleNamespace(scheduler=SimpleNamespace(shift=3.0)))
    )
    paths = [even_path(2), even_path(3)]
    scores = judge_plans(runtime, paths, 4)  # type: ignore[arg-type]
    assert [set(scores[path]) for path in paths] == [
        {(p, 5000 + i) for i, (p, _) in enumerate(held_out_prompts(4))}
    ] * 2
    assert [sum(scores[path].values()) for path in paths] == [4.0, 0.0]


def test_what_is_said() -> None:
    quality = leaning()
    plans = plans_to_compare(quality)
    pairs = [(f"prompt {index}", index) for index in range(40)]
    scores = {path: {pair: float(len(path) > 4 or pair[1] < 20) for pair in pairs} for path in plans.values()}
    scores[plans["cheapest 4"]] = dict.fromkeys(pairs, 0.0)
    notes = "\n".join(describe(quality, plans, scores).notes)
    assert "even 4: 1.000 right" in notes and "cheapest 4: 0.000 right" in notes
    assert "4 jumps, 32" in notes and "minus even: -1 [-1, -1] (down)" in notes
    assert "rank correlation of cost and share right: -0" in notes
    even = describe(
        default_quality(),
        plans_to_compare(default_quality()),
        dict.fromkeys(plans_to_compare(default_quality()).values(), scores[plans["even 4"]]),
    ).notes
    assert "4 jumps: the cheapest plan is the even one" in even


def test_a_sampler_decodes_what_a_run_shows() -> None:
    with anyflow_rt.load(random_bundle(CONFIGURATION).path, engine="onnxruntime") as runtime:
        result = runtime.generate("a fox", steps=1, seed=3)
        assert result.frames is not None
        sampler = runtime.sampler("a fox")
        np.testing.assert_array_equal(sampler.decode(sampler.jump(sampler.noise(3), 1.0, 0.0)), result.frames[0])
