"""The planner against brute force, its limits, and what its loop does when times change."""

import itertools
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyflow_rt.errors import UsageError
from anyflow_rt.sampling import controller as loop
from anyflow_rt.sampling.controller import Controller, Move
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.latency import History, RunTimes
from anyflow_rt.sampling.limits import NO_LIMITS, Limits, check_budget, check_confidence
from anyflow_rt.sampling.planner import AS_THE_SHORTEST, Outlook, Position, choose, make_tables
from anyflow_rt.sampling.quality import Quality, default_quality, envelope, even_path
from anyflow_rt.sampling.recorder import RunRecorder
from anyflow_rt.sampling.schedule import plan_of_nodes, uniform_plan


@st.composite
def qualities(draw):
    """Small grids with any costs and any monotone value, ties and flat parts included."""
    nodes = draw(st.integers(1, 6))
    cost = st.integers(0, 6).map(float)
    costs = tuple(tuple(draw(cost) for _ in range(node)) for node in range(nodes + 1))
    points = draw(st.lists(st.tuples(st.integers(0, 30).map(float), st.integers(-3, 3).map(float)), min_size=1))
    return Quality(costs, envelope(points))


def certain(required, remaining, confidence=0.95):
    """An outlook in which plans take just what they require."""
    return Outlook(required, [float(seconds <= remaining) for seconds in required], remaining, confidence)


def brute_force(quality, outlook, position, limits):
    """Every path: the most that is expected of one that may be taken, then the fewest jumps. (expected, jumps)."""
    most = max(1, min(position.node, limits.max_steps - position.done))
    least = min(max(1, limits.min_steps - position.done), most)
    late = 1 - outlook.confidence + AS_THE_SHORTEST * (1 - outlook.chances[least])
    found = []
    for jumps in range(least, most + 1):
        chance = outlook.chances[jumps]
        if jumps > least and (chance < 0.5 or 1 - chance > late):
            continue
        for inner in itertools.combinations(range(position.node - 1, 0, -1), jumps - 1):
            value = quality.value(position.cost + quality.cost((position.node, *inner, 0)))
            found.append((chance * (value - quality.failure), jumps))
    highest = max(expected for expected, _ in found)
    return highest, min(jumps for expected, jumps in found if expected >= highest - 1e-9)


@settings(max_examples=250, deadline=None)
@given(
    qualities(),
    st.data(),
    st.lists(st.floats(0.01, 2.0), min_size=7, max_size=7),
    st.lists(st.integers(0, 16).map(lambda each: each / 16), min_size=7, max_size=7),
    st.sampled_from([0.5, 0.9, 0.99]),
    st.floats(-1.0, 10.0),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(0, 4),
)
def test_brute_force_agrees(quality, data, gaps, chances, confidence, remaining, done, least, more):
    node = data.draw(st.integers(1, quality.nodes))
    outlook = Outlook(list(itertools.accumulate(gaps)), sorted(chances, reverse=True), remaining, confidence)
    position, limits = Position(node, done, float(done)), Limits(least, least + more)
    choice = choose(make_tables(quality), outlook, position, limits)
    expected, jumps = brute_force(quality, outlook, position, limits)
    assert choice.jumps == jumps
    assert outlook.chances[jumps] * (choice.value - quality.failure) == pytest.approx(expected, abs=1e-8)
    assert choice.path[0] == node and choice.path[-1] == 0 and len(choice.path) == choice.jumps + 1
    assert all(start > end for start, end in itertools.pairwise(choice.path))
    assert quality.value(position.cost + quality.cost(choice.path)) == pytest.approx(choice.value)
    assert choice.predicted == outlook.required[jumps]


@given(st.floats(-1, 40), st.integers(1, 32))
def test_more_time_is_never_worse(remaining, node):
    tables = make_tables(default_quality())
    required = [float(jumps) for jumps in range(33)]
    position = Position(node, 0, 0.0)
    less, more = (choose(tables, certain(required, remaining + extra), position) for extra in (0.0, 3.0))
    assert more.value >= less.value and more.jumps >= less.jumps


def test_what_no_plan_escapes_holds_none_back():
    """A burst that one run in fifty begins in: a little more is risked for a longer plan, but not much."""
    tables = make_tables(default_quality())
    calm, bursts = [1.0, *[0.999] * 4, *[0.97] * 28], [1.0, 0.98, *[0.965] * 7, *[0.8] * 24]
    assert choose(tables, Outlook([0.0] * 33, calm, 1.0, 0.99), Position()).jumps == 4
    assert choose(tables, Outlook([0.0] * 33, bursts, 1.0, 0.99), Position()).jumps == 8
    assert choose(tables, Outlook([0.0] * 33, [0.4] * 33, 1.0, 0.99), Position()).jumps == 1


@pytest.mark.parametrize("non_uniform", [True, False])
def test_the_default_takes_uniform_plans(non_uniform):
    tables = make_tables(default_quality(), non_uniform=non_uniform)
    for steps in (1, 2, 4, 8, 16, 32):
        choice = choose(tables, certain([float(k) for k in range(33)], steps + 0.5), Position())
        assert choice.path == even_path(steps) and choice.value == pytest.approx(1 - 1 / (steps + 1))
        assert plan_of_nodes(choice.path, 5.0) == uniform_plan(steps, 5.0)


def test_any_length_is_there_and_even_paths_are_even():
    for node in range(1, 33):
        for jumps in range(1, node + 1):
            path = even_path(jumps, node)
            steps = [start - end for start, end in itertools.pairwise(path)]
            assert path[-1] == 0 and len(steps) == jumps and max(steps) - min(steps) <= 1


def test_more_steps_are_not_taken_where_they_are_not_better():
    """g is flat from 4 jumps on: with time for 32, 4 are enough."""
    quality = Quality(default_quality().costs, ((1 / 4, 0.9), (1 / 2, 0.7), (1.0, 0.5)))
    assert choose(make_tables(quality), certain([0.0] * 33, 1.0), Position()).jumps == 4


def test_limits_hold():
    tables, required = make_tables(default_quality()), [float(k) for k in range(33)]
    assert choose(tables, certain(required, 0.0), Position(), Limits(min_steps=3)).jumps == 3
    assert choose(tables, certain(required, 99.0), Position(), Limits(max_steps=5)).jumps == 5
    late = choose(tables, certain(required, -1.0), Position(16, 3, 0.1))
    assert late.path == (16, 0) and not late.fits
    assert choose(tables, certain(required, 99.0), Position(16, 5, 0.1), Limits(max_steps=5)).jumps == 1


@pytest.mark.parametrize("value", [0, 0.0, -1, math.nan, math.inf, -math.inf, "2", None, True, [1], 1j, 10**400])
def test_bad_budgets_and_confidences_are_named(value):
    for check, name in ((check_budget, "budget"), (check_confidence, "confidence")):
        with pytest.raises(UsageError, match=name) as error:
            check(value)
        assert repr(value) in str(error.value)
    with pytest.raises(UsageError, match="confidence is 1"):
        check_confidence(1)


def test_good_budgets():
    import numpy as np

    assert check_budget(2) == 2.0 and check_budget(np.float32(0.5)) == 0.5 and check_confidence(0.99) == 0.99


@pytest.mark.parametrize("limits", [(0, 4), (5, 4), (1, 0), (33, 40), (1, 2.5), ("1", 4), (1, 4, (0,)), (True, 2)])
def test_bad_limits(limits):
    with pytest.raises(UsageError):
        Limits(*limits)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def run(budget, jump_seconds, *, limits=NO_LIMITS, history=None, confidence=0.95, decode=0.02):
    """A run whose n-th jump takes ``jump_seconds(n)``, profiled at 10 ms; preview and final decodes take ``decode``."""
    history = History((RunTimes(jumps=(0.01,) * 16, decode=0.02),) * 20) if history is None else history
    clock, forecaster = Clock(), Forecaster(history, recorder=RunRecorder(cold=()))
    forecaster.start_run()
    controller = Controller(
        make_tables(default_quality()),
        forecaster,
        deadline=clock.now + budget,
        confidence=confidence,
        limits=limits,
        clock=clock,
    )
    moves = []
    while (move := controller.next_move()) is not None:
        seconds = jump_seconds(len(moves))
        clock.now += seconds + (decode if move.preview else 0.0)
        controller.ran(move, seconds)
        moves.append(move)
    controller.before_decode()
    return controller, moves, clock.now + decode - controller.start


def test_a_steady_machine_keeps_its_plan():
    controller, moves, seconds = run(0.115, lambda n: 0.01)
    assert len(moves) == 9 and seconds == pytest.approx(0.11)
    assert {each.why for each in controller.decisions} == {loop.FIRST, loop.KEPT, loop.DECODE}
    assert controller.predicted <= 0.115 and seconds <= controller.predicted
    assert controller.visited == make_tables(default_quality()).path(32, 9)


def test_a_slower_machine_takes_longer_jumps_and_a_faster_one_shorter():
    slow, moves, seconds = run(0.3, lambda n: 0.01 if n < 4 else 0.04)
    assert loop.FEWER in {each.why for each in slow.decisions} and seconds <= 0.3
    assert moves[0].start - moves[0].end < moves[-1].start - moves[-1].end
    fast, moves, _ = run(0.1, lambda n: 0.004)
    assert loop.MORE in {each.why for each in fast.decisions} and len(moves) > 8
    assert fast.decisions[-1].ratio < 0.6


def test_a_budget_that_is_too_small_gets_one_jump_and_says_so():
    controller, moves, _ = run(0.005, lambda n: 0.01)
    assert moves == [Move(32, 0)]
    assert controller.decisions[0].why == loop.TOO_LATE and not controller.decisions[0].fits


def test_nothing_measured():
    controller, moves, _ = run(0.2, lambda n: 0.01, history=History())
    assert moves[0] == Move(32, 24) and controller.decisions[0].predicted is None
    assert controller.decisions[0].why == loop.UNMEASURED and controller.decisions[1].why == loop.FIRST


def test_previews_are_planned_for_and_change_nothing_else():
    limits = Limits(preview_after=(2,))
    controller, moves, seconds = run(0.2, lambda n: 0.01, limits=limits)
    previews = [index for index, move in enumerate(moves) if move.preview]
    assert previews == [2] and moves[2] == Move(moves[1].end, 0, True) and moves[3].start == moves[1].end
    assert seconds <= 0.2 and len(controller.visited) - 1 == len(moves) - 1
    without, _, _ = run(0.2, lambda n: 0.01)
    assert len(without.visited) - len(controller.visited) == 3, "a preview costs one jump and a decoding"


def test_a_preview_that_would_cost_the_deadline_is_dropped():
    controller, moves, seconds = run(0.06, lambda n: 0.01, limits=Limits(preview_after=(1,), min_steps=2))
    assert not any(move.preview for move in moves) and seconds <= 0.06
    assert loop.DROPPED in {each.why for each in controller.decisions}


def test_decisions_are_quick():
    """Of processor time, as the machine may be busy; ``bench budget`` measures what passes on the clock."""
    history = History((RunTimes(jumps=(0.01,) * 16, decode=0.02),) * 60)
    forecaster, tables = Forecaster(history, recorder=RunRecorder(cold=())), make_tables(default_quality())
    taken = []
    for _ in range(300):
        controller = Controller(tables, forecaster, deadline=time.perf_counter() + 1.0, confidence=0.95)
        before = time.thread_time()
        controller.next_move()
        taken.append(time.thread_time() - before)
    assert sorted(taken)[int(0.99 * len(taken))] < 1e-3
