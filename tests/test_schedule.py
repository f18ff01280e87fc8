"""Schedules against diffusers, bit for bit, and the plan's own rules."""

import dataclasses
import itertools
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyflow_rt.errors import UsageError
from anyflow_rt.sampling.schedule import Jump, Plan, check_steps, grid, shift_time, uniform_plan


@pytest.mark.parametrize("shift", [1.0, 0.5, 1.7, 3.0, 5.0, 7.3, 12.0])
def test_uniform_plans_equal_diffusers_bit_for_bit(shift):
    pytest.importorskip("diffusers")
    from diffusers import FlowMapEulerDiscreteScheduler

    scheduler = FlowMapEulerDiscreteScheduler(shift=shift)
    for steps in [*range(1, 101), 128, 333, 500, 997, 1000]:
        scheduler.set_timesteps(steps)
        sigmas = scheduler.sigmas.tolist()
        plan = uniform_plan(steps, shift)
        assert list(plan.times) == sigmas, (steps, shift)
        assert [t * 1000 for t, _ in plan] == scheduler.timesteps.tolist()


def test_one_step_goes_all_the_way():
    assert tuple(uniform_plan(1, 5.0)) == ((1.0, 0.0),)


@pytest.mark.parametrize("shift", [1.0, 5.0, 3.3])
def test_the_grid_holds_every_dyadic_plan(shift):
    nodes = grid(shift)
    assert len(nodes) == 33 and nodes[0] == 0.0 and nodes[32] == 1.0
    assert all(low < high for low, high in itertools.pairwise(nodes))
    for steps in (1, 2, 4, 8, 16, 32):
        assert uniform_plan(steps, shift).times == nodes[:: -32 // steps]


def test_released_checkpoints_times():
    assert uniform_plan(4, 5.0).times == pytest.approx((1, 0.9375, 0.8333333, 0.625, 0))


@given(st.floats(0, 1), st.floats(0.01, 100))
def test_shift_stays_in_range_and_inverts(s, shift):
    t = shift_time(s, shift)
    assert 0 <= t <= 1 + 1e-12
    assert math.isclose(shift_time(t, 1 / shift), s, rel_tol=1e-9, abs_tol=1e-12)


@given(st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), unique=True, max_size=20))
def test_any_decreasing_times_make_a_plan(inner):
    times = (1.0, *sorted(inner, reverse=True), 0.0)
    plan = Plan.from_times(times)
    assert plan.times == times and len(plan) == len(times) - 1
    assert plan[-1] == Jump(times[-2], 0.0) and list(plan) == list(plan.jumps)
    assert json.loads(json.dumps(plan.jumps)) == [list(jump) for jump in plan]


@pytest.mark.parametrize(
    ("times", "value"),
    [
        ([], "at least one"),
        ([1.0], "at least one"),
        ([0.9, 0.0], "0.9"),
        ([1.0, 0.5], "0.5"),
        ([1.0, 0.5, 0.5, 0.0], "0.5"),
        ([1.0, 0.5, 0.6, 0.0], "0.6"),
        ([1.0, -0.1, 0.0], "-0.1"),
        ([1.0, math.nan, 0.0], "nan"),
        ([math.inf, 0.0], "inf"),
    ],
)
def test_wrong_plans_are_refused(times, value):
    with pytest.raises(UsageError, match=value):
        Plan.from_times(times)


def test_jumps_must_join():
    with pytest.raises(UsageError, match=r"jump 1 .* 0\.4"):
        Plan((Jump(1.0, 0.5), Jump(0.4, 0.0)))


def test_plans_are_immutable():
    plan = uniform_plan(2, 5.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.jumps = ()
    with pytest.raises(AttributeError):
        plan[0].t = 0.5


@pytest.mark.parametrize("steps", [0, -1, 1001, 10**30, True, False, 4.0, 2.5, math.nan, "4", None, [4]])
def test_bad_step_counts_are_named(steps):
    with pytest.raises(UsageError) as error:
        uniform_plan(steps, 5.0)
    assert repr(steps) in str(error.value) and "1 to 1000" in str(error.value)


def test_good_step_counts():
    import numpy as np

    assert check_steps(np.int64(4)) == 4 and type(check_steps(np.int64(4))) is int
    assert len(uniform_plan(1000, 5.0)) == 1000
