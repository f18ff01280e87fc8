"""What the past says of plans of several jumps: calm, and where bursts begin between runs or in their midst."""

import numpy as np
import pytest

from anyflow_rt.sampling.look_back import PastRun, look_back
from anyflow_rt.sampling.moments import ALL, STARTS, Moments

DECODE = 4.0
SECONDS = 0.01
SLOW = 20.0


def past(rng, *, runs=120, jumps=8, slow_runs=(), onsets=(), spikes=()):
    """Runs of noisy jumps. slow_runs: slow from their first jump to their end; onsets, spikes: (run, jump) from which a
    run is slow to its end, or which alone is. The run after a slow one begins slow too, and recovers."""
    found, level = [], SECONDS
    for run in range(runs):
        begins = dict(onsets).get(run, 0 if run in slow_runs else jumps + 1)
        after_slow = bool(found) and found[-1].decode > 5 * DECODE * SECONDS
        times, levels = [], []
        for jump in range(jumps):
            pace = SLOW if jump >= begins or (run, jump) in spikes or (after_slow and jump < 2) else 1.0
            levels.append(level)
            times.append(SECONDS * pace * float(np.exp(rng.normal(0.0, 0.03))))
            level = times[-1] if abs(np.log(times[-1] / level)) > 0.5 and (run, jump) not in spikes else level
        decode = DECODE * SECONDS * (SLOW if begins <= jumps else 1.0) * float(np.exp(rng.normal(0.0, 0.03)))
        found.append(PastRun(times, [*levels, level], decode))
    return found


def spread(runs, jumps, confidence=0.99, *, starting=False):
    return look_back(runs, DECODE, SECONDS).multiple(jumps, confidence, ALL, starting)


def test_on_a_calm_machine_it_is_the_quantile():
    runs = past(np.random.default_rng(0))
    moments = look_back(runs, DECODE, SECONDS)
    for jumps in (1, 4, 16):
        errors = moments.errors[ALL, jumps]
        plain = errors[int(np.ceil((len(errors) + 1) * 0.95)) - 1]
        assert moments.multiple(jumps, 0.95, ALL, False) == pytest.approx(plain, rel=0.02) and 1.0 < plain < 1.1
        assert moments.chance(jumps, np.array([plain]), ALL, False) == pytest.approx(0.95, abs=0.01)
    assert len(moments.errors[STARTS, 4]) == len(runs)


def chance(runs, jumps, multiple=1.3, *, starting=False):
    return look_back(runs, DECODE, SECONDS).chance(jumps, np.array([multiple]), ALL, starting)[0]


def test_a_burst_that_began_between_runs_makes_no_plan_worse_than_the_shortest():
    runs = past(np.random.default_rng(0), slow_runs=range(10, 120, 20))
    for starting in (False, True):
        assert chance(runs, 1, starting=starting) - chance(runs, 8, starting=starting) < 0.01
    assert chance(runs, 1, starting=True) < 0.97


def test_bursts_that_begin_within_runs_make_longer_plans_worse():
    runs = past(np.random.default_rng(0), onsets=[(run, 4) for run in range(5, 120, 10)])
    assert chance(runs, 1) - chance(runs, 8) > 0.05
    assert spread(runs, 8) > 3.0 and spread(runs, 8, confidence=0.5) < 1.1


def test_rare_long_jumps_count_as_often_as_they_happen():
    runs = past(np.random.default_rng(0), spikes=[(run, 3) for run in range(0, 120, 6)])
    assert spread(runs, 8) > 2.0, "one in forty-eight, in every sixth plan of eight"
    assert spread(runs, 1, confidence=0.9) < 1.2


def test_without_a_past_it_is_the_prior():
    moments = Moments(DECODE)
    assert moments.multiple(4, 0.95, ALL, True) == pytest.approx(1.18, abs=0.05)
    assert moments.multiple(4, 0.95, ALL, True, margin=1.25) == pytest.approx(
        1.25 * moments.multiple(4, 0.95, ALL, True)
    )
