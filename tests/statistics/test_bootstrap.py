"""Bootstrap intervals: by prompt, repeatable, as wide as they must be."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyflow_rt.benchmarks.statistics.bootstrap import Interval, bootstrap_mean
from anyflow_rt.errors import UsageError

SCORES = st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(0, 5)), min_size=1, max_size=30)


def clustered(generator: np.random.Generator, prompts: int = 40, seeds: int = 8) -> tuple[np.ndarray, list[str]]:
    """Scores whose mean is 0: prompts differ by 1, the seeds of one by 0.1."""
    values = generator.normal(0, 1, (prompts, 1)) + generator.normal(0, 0.1, (prompts, seeds))
    return values.ravel(), [f"prompt {number}" for number in range(prompts) for _ in range(seeds)]


@settings(max_examples=25, deadline=None)
@given(SCORES)
def test_the_interval_holds_the_extremes_of_clusters(scores: list[tuple[float, int]]) -> None:
    values, clusters = [value for value, _ in scores], [cluster for _, cluster in scores]
    found = bootstrap_mean(values, clusters, resamples=2000)
    means = [np.mean([v for v, c in scores if c == cluster]) for cluster in set(clusters)]
    margin = 1e-9 * max(1.0, *map(abs, values))
    assert found.estimate == pytest.approx(np.mean(values), abs=margin)
    assert min(means) - margin <= found.low <= found.high <= max(means) + margin
    assert (found.samples, found.clusters, found.resamples) == (len(values), len(set(clusters)), 2000)
    assert math.isfinite(found.low) and math.isfinite(found.high)


def test_the_same_seed_gives_the_same_interval() -> None:
    values, prompts = clustered(np.random.default_rng(0))
    assert bootstrap_mean(values, prompts, seed=3) == bootstrap_mean(values, prompts, seed=3)
    assert bootstrap_mean(values, prompts, seed=3) != bootstrap_mean(values, prompts, seed=4)


def test_clusters_widen_the_interval() -> None:
    values, prompts = clustered(np.random.default_rng(1))
    by_prompt = bootstrap_mean(values, prompts)
    by_video = bootstrap_mean(values, range(len(values)))
    assert by_prompt.high - by_prompt.low > 2 * (by_video.high - by_video.low)


def test_it_shifts_and_scales_with_the_values() -> None:
    values, prompts = clustered(np.random.default_rng(2))
    plain, moved = bootstrap_mean(values, prompts), bootstrap_mean(10 * values + 3, prompts)
    assert (moved.low, moved.high) == pytest.approx((10 * plain.low + 3, 10 * plain.high + 3))


def test_a_higher_confidence_is_wider() -> None:
    values, prompts = clustered(np.random.default_rng(3))
    narrow, wide = (bootstrap_mean(values, prompts, confidence=share) for share in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_the_interval_covers_as_often_as_it_says(method: str) -> None:
    """200 worlds at 90%: the share of them inside lies within four binomial deviations of what 40 prompts can give."""
    generator = np.random.default_rng(4)
    found = [bootstrap_mean(*clustered(generator), confidence=0.9, resamples=2000, method=method) for _ in range(200)]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    assert abs(covered - 0.9) <= 4 * math.sqrt(0.9 * 0.1 / 200)


def test_no_spread_is_a_point() -> None:
    found = bootstrap_mean([1.0] * 12, ["a", "b", "c"] * 4)
    assert (found.low, found.high, found.method) == (1.0, 1.0, "point")
    assert bootstrap_mean([1.0, 2.0], ["a", "a"]).method == "point", "one cluster says nothing about others"


def test_a_share_without_spread_is_not_certain() -> None:
    """Wilson's interval of 0 of 20 and of 20 of 20, by Newcombe (1998): 0 to 0.1611, at 95%."""
    found = bootstrap_mean([0.0] * 40, [number // 2 for number in range(40)], share=True)
    assert (found.low, found.high, found.method) == (0.0, pytest.approx(0.1611, abs=1e-4), "wilson")
    found = bootstrap_mean([1.0] * 20, range(20), share=True)
    assert (found.low, found.high) == (pytest.approx(0.8389, abs=1e-4), 1.0)
    assert bootstrap_mean([0.0, 1.0, 1.0], ["a", "b", "c"], share=True).method != "wilson"


def test_it_reads_well() -> None:
    assert str(Interval(0.91234, 0.9, 0.93, 0.95, 10, 10, 2000, "bca")) == "0.9123 [0.9, 0.93]"


@pytest.mark.parametrize(
    ("values", "clusters", "options", "message"),
    [
        ([], [], {}, "one or more"),
        ([1.0, 2.0], ["a"], {}, "2 values but 1 clusters"),
        ([1.0, math.nan], ["a", "b"], {}, "value 1 is nan"),
        ([1.0, math.inf], ["a", "b"], {}, "value 1 is inf"),
        ([1.0, 2.0], ["a", "b"], {"resamples": 1999}, "1999 resamples"),
        ([1.0, 2.0], ["a", "b"], {"confidence": 1.0}, "confidence 1.0"),
        ([1.0, 2.0], ["a", "b"], {"confidence": math.nan}, "confidence nan"),
        ([1.0, 2.0], ["a", "b"], {"method": "normal"}, "'normal'.*bca"),
    ],
)
def test_bad_input(values: list[float], clusters: list[str], options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bootstrap_mean(values, clusters, **options)
