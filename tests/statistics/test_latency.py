"""Quantiles, the cost of a step, and ratios of interleaved series."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyflow_rt.benchmarks.statistics.latency import fit_cost, ratio, summarize
from anyflow_rt.errors import UsageError


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
def test_quantiles_are_ordered(seconds: list[float]) -> None:
    found = summarize(seconds)
    assert min(seconds) <= found.p50 <= found.p95 <= found.max == max(seconds)
    assert found.n == len(seconds)


def test_quantiles() -> None:
    found = summarize([0.1 * number for number in range(101)])
    assert (found.p50, found.p95, found.max, found.n) == pytest.approx((5.0, 9.5, 10.0, 101))


@given(st.floats(0, 10), st.floats(0.001, 10))
def test_an_exact_line_is_found(fixed: float, per_step: float) -> None:
    found = fit_cost({steps: [fixed + per_step * steps] * 3 for steps in (32, 1, 4)})
    assert (found.fixed, found.per_step) == pytest.approx((fixed, per_step), abs=1e-9)
    assert [steps for steps, _ in found.residuals] == [1, 4, 32]
    assert found.worst_share < 1e-6
    assert found.at(8) == pytest.approx(fixed + 8 * per_step)


def test_residuals_say_where_the_line_does_not_fit() -> None:
    found = fit_cost({1: [2.0], 2: [3.0, 3.0, 99.0], 3: [5.0]})
    assert (found.fixed, found.per_step) == pytest.approx((1 / 3, 1.5))
    assert dict(found.residuals) == pytest.approx({1: 1 / 6, 2: -1 / 3, 3: 1 / 6})
    assert found.worst_share == pytest.approx((1 / 3) / (10 / 3))


def test_a_ratio_is_taken_round_by_round() -> None:
    generator = np.random.default_rng(0)
    slowness = generator.lognormal(0, 1, 30)
    under = slowness * generator.lognormal(0, 0.05, 30)
    found = ratio((2.5 * slowness).tolist(), under.tolist())
    assert found.low < 2.5 < found.high and found.high - found.low < 0.25
    assert found == ratio((2.5 * slowness).tolist(), under.tolist())
    assert (found.clusters, found.method) == (30, "percentile")
    assert ratio([2.0, 4.0], [1.0, 2.0]).method == "point"


@pytest.mark.parametrize(
    ("over", "under", "message"),
    [
        ([1.0, 2.0], [1.0], "2 and 1 times"),
        ([], [], "one or more"),
        ([1.0], [0.0], "0 seconds"),
        ([1.0], [-1.0], "-1.0 seconds"),
        ([math.nan], [1.0], "nan"),
    ],
)
def test_bad_ratios(over: list[float], under: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ratio(over, under)


def test_bad_times() -> None:
    for seconds in ([], [-1.0], [math.inf]):
        with pytest.raises(UsageError):
            summarize(seconds)
    with pytest.raises(UsageError, match="two step counts"):
        fit_cost({4: [1.0, 2.0]})
    with pytest.raises(UsageError, match="1999"):
        ratio([1.0, 3.0], [1.0, 1.0], resamples=1999)
