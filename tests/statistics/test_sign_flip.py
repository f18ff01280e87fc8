"""The sign-flip test: exact where it can be, SciPy's p-values, and no more false alarms than it says."""

import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from anyflow_rt.benchmarks.statistics.sign_flip import MOST_EXACT, sign_flip_p_value, smallest_p_value
from anyflow_rt.errors import UsageError


def scipy_p_value(values: np.ndarray, resamples: int) -> float:
    return permutation_test(
        (values,),
        lambda x, axis=-1: x.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    ).pvalue


@pytest.mark.parametrize("values", [[1, 2, 3, 4, -0.5], [1.0] * 7, [-1, 1, 1, 1, 1, 1, 0, 0, 0], [0.1, 0.2, -0.3]])
def test_it_is_exact_where_every_choice_can_be_tried(values: list[float]) -> None:
    assert sign_flip_p_value(values, range(len(values))) == pytest.approx(scipy_p_value(np.array(values), 10_000))


def test_beyond_that_it_draws() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, MOST_EXACT + 8)
    found = sign_flip_p_value(values, range(len(values)))
    assert found == sign_flip_p_value(values, range(len(values)))
    assert found == pytest.approx(scipy_p_value(values, 2000), abs=0.05)
    certain = sign_flip_p_value(np.ones(40), range(40), resamples=999)
    assert certain == 1 / 1000


def test_clusters_flip_together() -> None:
    assert sign_flip_p_value([1.0] * 12, ["a", "b", "c"] * 4) == smallest_p_value(3) == 0.25
    assert sign_flip_p_value([0.0, 0.0], ["a", "b"]) == 1.0
    assert sign_flip_p_value([5.0], ["a"]) == smallest_p_value(1) == 1.0
    with pytest.raises(UsageError, match="2 values but 1 clusters"):
        sign_flip_p_value([1.0, 2.0], ["a"])


def test_false_alarms_of_binary_scores_stay_at_their_rate() -> None:
    """64 prompts, scores of 0 or 1, one of 100 comparisons: at 99.95% a bootstrap gives twenty times the alarms."""
    generator, level, worlds = np.random.default_rng(2), 0.05 / 100, 2000
    alarms = 0
    for _ in range(worlds):
        changes = generator.choice([-1.0, 0.0, 1.0], 64, p=[0.1, 0.8, 0.1])
        alarms += sign_flip_p_value(changes, range(64), resamples=4000) <= level
    assert alarms <= worlds * level + 4 * math.sqrt(worlds * level)
