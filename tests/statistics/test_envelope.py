"""The envelope never falls, touches what was measured, and works in both directions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyflow_rt.benchmarks.statistics.envelope import envelope
from anyflow_rt.errors import UsageError

POINTS = st.dictionaries(st.integers(1, 64), st.floats(-100, 100), min_size=1, max_size=12)


def test_a_dip_is_bridged() -> None:
    found = envelope([8, 1, 4, 2], [0.9, 0.2, 0.6, 0.8])
    assert found.steps == (1, 2, 4, 8)
    assert found.measured == (0.2, 0.8, 0.6, 0.9)
    assert found.reachable == (0.2, 0.8, 0.8, 0.9)
    assert found.best_steps == (1, 2, 2, 8)
    assert found.monotone == pytest.approx((0.2, 0.7, 0.7, 0.9))


def test_weights_count_in_the_fit() -> None:
    assert envelope([1, 2], [1.0, 0.0], [3, 1]).monotone == pytest.approx((0.75, 0.75))


@given(POINTS, st.booleans())
def test_properties(points: dict[int, float], higher_is_better: bool) -> None:
    found = envelope(list(points), list(points.values()), higher_is_better=higher_is_better)
    sign = 1 if higher_is_better else -1
    assert (np.diff(sign * np.array(found.reachable)) >= 0).all()
    assert (np.diff(sign * np.array(found.monotone)) >= -1e-9).all()
    assert (sign * (np.array(found.reachable) - np.array(found.measured)) >= 0).all()
    assert all(points[steps] == value for steps, value in zip(found.best_steps, found.reachable, strict=True))
    assert all(best <= steps for best, steps in zip(found.best_steps, found.steps, strict=True))
    assert np.mean(found.monotone) == pytest.approx(np.mean(found.measured), abs=1e-6)


@pytest.mark.parametrize(
    ("steps", "values", "weights", "message"),
    [
        ([], [], None, "one or more"),
        ([1, 2], [1.0], None, "2 step counts, 1 means"),
        ([1, 1], [1.0, 2.0], None, "each once"),
        ([1, 2], [1.0, float("nan")], None, "nan"),
        ([1, 2], [1.0, 2.0], [1.0, 0.0], "positive"),
    ],
)
def test_bad_input(steps: list[int], values: list[float], weights: list[float] | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        envelope(steps, values, weights)
