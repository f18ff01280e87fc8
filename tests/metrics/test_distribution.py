"""The distribution distance: true against true is rejected at the nominal rate and no more; collapse is found."""

import math

import numpy as np
import pytest
from scipy import stats

from anyflow_rt.benchmarks.metrics.contract import SetItem
from anyflow_rt.benchmarks.metrics.distribution import distribution_test
from anyflow_rt.benchmarks.metrics.shapes import Shapes
from anyflow_rt.benchmarks.metrics.shapes_features import features, true_features
from anyflow_rt.benchmarks.shapes.captions import held_out_prompts, parse
from anyflow_rt.benchmarks.shapes.judge import judge
from anyflow_rt.benchmarks.shapes.measurement import measure
from anyflow_rt.benchmarks.shapes.world import MOTIONS, Scene, render
from anyflow_rt.errors import UsageError

CAPTIONS = [number // 2 for number in range(32)]
"""16 captions of two seeds each."""


def world(generator: np.random.Generator, shift: float = 0.0, spread: float = 1.0, between: float = 0.1) -> np.ndarray:
    """Features (32, 3): neighbouring captions lie ``between`` apart, the seeds of one by about 1."""
    return between * np.array(CAPTIONS)[:, None] + shift + spread * generator.normal(size=(32, 3))


def within_binomial_bounds(p_values: list[float]) -> None:
    """The share below each level lies within four deviations of the level, and the whole looks uniform."""
    count = len(p_values)
    for level in (0.01, 0.05, 0.1, 0.25, 0.5, 0.9):
        share = np.mean(np.array(p_values) <= level)
        assert abs(share - level) <= 4 * math.sqrt(level * (1 - level) / count), (level, share)
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("between", [0.1, 10.0])
def test_true_against_true_is_rejected_at_the_nominal_rate(between: float) -> None:
    generator = np.random.default_rng(0)
    p_values = []
    for seed in range(400):
        one, other = (world(generator, between=between) for _ in range(2))
        p_values.append(distribution_test(one, CAPTIONS, other, CAPTIONS, permutations=199, seed=seed).p_value)
    within_binomial_bounds(p_values)


def test_rendered_clips_against_rendered_clips_too() -> None:
    """The features of drawn and measured clips: 24 captions, and for each of 300 seeds a fresh division of 12 clips."""
    pool = {p: [true_features(a, p, seed) for seed in range(12)] for p, a in held_out_prompts(24)}
    generator = np.random.default_rng(1)
    p_values = []
    for seed in range(300):
        drawn = {prompt: generator.permutation(12)[:2] for prompt in pool}
        one, other = (np.array([pool[prompt][places[side]] for prompt, places in drawn.items()]) for side in (0, 1))
        p_values.append(distribution_test(one, list(pool), other, list(pool), permutations=199, seed=seed).p_value)
    within_binomial_bounds(p_values)


@pytest.mark.parametrize(("shift", "spread"), [(1.0, 1.0), (0.0, 0.2), (0.0, 2.5)])
def test_other_distributions_are_found(shift: float, spread: float) -> None:
    generator = np.random.default_rng(2)
    found = distribution_test(world(generator, shift, spread), CAPTIONS, world(generator), CAPTIONS)
    assert found.p_value <= 0.01 and found.distance > found.chance


def test_a_model_that_draws_every_caption_right_but_always_alike_is_found() -> None:
    """Always through the middle and at one speed: the judge has nothing to say against any single clip."""
    shapes, items = Shapes(), []
    for prompt, attributes in held_out_prompts(60):
        speed = 1.3 if attributes.motion != "still" else 0.0
        step_x, step_y = MOTIONS[attributes.motion]
        frames = render(Scene(attributes, 32 - 8 * speed * step_x, 32 - 8 * speed * step_y, speed))
        assert judge(frames).passes(parse(prompt))
        items.append(SetItem(prompt, 0, features(measure(frames), attributes)))
    found = shapes.score_set(items)
    assert found["p_value"] <= 0.01 and found["distance"] > 2 * found["chance_distance"]


def test_the_distance_is_the_energy_distance() -> None:
    """In one dimension SciPy has it, as the root of half of ours."""
    generator = np.random.default_rng(3)
    one, other = generator.normal(0, 1, (20, 1)), generator.normal(1, 1, (30, 1))
    found = distribution_test(one, ["a"] * 20, other, ["a"] * 30)
    assert found.distance == pytest.approx(stats.energy_distance(one[:, 0], other[:, 0]) ** 2)
    assert (found.generated, found.true) == (20, 30)


def test_labels_stay_within_their_caption() -> None:
    """One video a caption and side, both alike: no shuffle changes anything, so the p-value is 1."""
    generator = np.random.default_rng(4)
    same = generator.normal(size=(8, 2))
    found = distribution_test(same, range(8), same, range(8))
    assert found.p_value == 1.0 and found.distance == pytest.approx(0, abs=1e-12)


def test_order_does_not_matter_and_the_seed_decides() -> None:
    generator = np.random.default_rng(5)
    one, other = world(generator), world(generator)
    found = distribution_test(one, CAPTIONS, other, CAPTIONS, seed=1)
    assert found == distribution_test(one, CAPTIONS, other, CAPTIONS, seed=1)
    backwards = distribution_test(one[::-1], CAPTIONS[::-1], other, CAPTIONS, seed=1)
    assert backwards.distance == pytest.approx(found.distance)
    assert distribution_test(other, CAPTIONS, one, CAPTIONS).distance == pytest.approx(found.distance)


@pytest.mark.parametrize(
    ("generated", "captions", "options", "message"),
    [
        (np.zeros((0, 3)), [], {}, "n >= 1"),
        (np.zeros((2, 3)), ["a"], {}, "with 1 captions"),
        (np.zeros((2, 2)), ["a", "b"], {}, "2 features against 3"),
        (np.full((2, 3), np.nan), ["a", "b"], {}, "not all finite"),
        (np.zeros((2, 3)), ["a", "c"], {}, "caption 'b' is on one side only"),
        (np.zeros((2, 3)), ["a", "b"], {"permutations": 0}, "0 permutations"),
    ],
)
def test_bad_input(generated: np.ndarray, captions: list[str], options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        distribution_test(generated, captions, np.ones((2, 3)), ["a", "b"], **options)
