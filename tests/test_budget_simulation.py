"""The policy loop on the simulated machine, and the scores it is judged by."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from anyflow_rt.benchmarks.budget import __main__ as command
from anyflow_rt.benchmarks.budget import baselines, load, simulated, sweep, tables
from anyflow_rt.benchmarks.budget.runs import Record, Runs, collect, known_finish
from anyflow_rt.benchmarks.budget.score import (
    RISING,
    measured_curve,
    score_baselines,
    score_predictor,
    score_run,
    wilson,
)
from anyflow_rt.errors import UsageError
from anyflow_rt.sampling.calibration import Calibration, Edge, QualityPoint
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.planner import make_tables
from anyflow_rt.sampling.quality import default_quality, failure_value, fit_quality
from anyflow_rt.sampling.recorder import RunRecorder

COSTS = simulated.Costs()
TABLES = make_tables(default_quality())


def simulate(kind, confidence, count, *, factor=1.0, seed=1, arrivals="poisson", budgets="jumps"):
    rng = np.random.default_rng(seed)
    requests = simulated.make_requests(COSTS, count, rng, arrivals=arrivals, budgets=budgets)
    place = simulated.machine(kind, requests, rng)
    forecaster = Forecaster(simulated.profile(COSTS, rng, factor=factor), recorder=RunRecorder(cold=()))
    return simulated.simulate(place, requests, TABLES, forecaster, confidence=confidence)


@pytest.fixture(scope="module")
def contended():
    return simulate("contended", 0.99, 2500)


def test_calm():
    runs = simulate("calm", 0.99, 2000)
    for values in (None, runs.values):
        score = score_run(runs, RISING, values=values)
        assert score.met >= 0.99 and score.share >= 0.9 and score.share_missed_as_one_jump >= score.share
    assert score.hopeless < 0.02 * score.requests


def test_the_stated_quantile_holds():
    predictor = score_predictor(simulate("calm", 0.95, 2000), 0.95)
    assert 0.93 <= predictor.once.rate <= 0.99 and 0.93 <= predictor.adopted.rate <= 0.99


def test_contended(contended):
    score = score_run(contended, RISING, values=contended.values)
    assert score.met >= 0.97 and score.share >= 0.75
    others = score_baselines(contended, RISING)
    once = others[baselines.ONCE]
    assert 1 - once.share > 1.5 * (1 - score.share) and once.met < score.met
    assert others[baselines.BEST_FIXED].share < score.share
    assert others[baselines.ORACLE].share == pytest.approx(1.0) and others[baselines.ORACLE].met == 1.0


def test_choked():
    runs = simulate("choked", 0.99, 2500)
    score = score_run(runs, RISING, values=runs.values)
    assert score.met >= 0.97 and score.share >= 0.75
    assert score_baselines(runs, RISING)[baselines.BEST_FIXED].share < score.share


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_wrong_profile_is_made_up_for_within_twenty_runs(factor):
    met, possible = 0, 0
    for seed in range(5):
        runs = simulate("calm", 0.95, 60, factor=factor, seed=seed)[20:]
        hopeful = runs.finish[:, 0] <= runs.budgets
        met, possible = met + int(runs.met[hopeful].sum()), possible + int(hopeful.sum())
        assert np.mean(runs.steps[:20]) > 4, "not by giving up"
    assert met / possible >= 0.95


@pytest.mark.parametrize("arrivals", load.ARRIVALS)
def test_no_request_stalls_the_queue(arrivals):
    runs = simulate("contended", 0.95, 800, arrivals=arrivals, budgets="factor")
    assert np.isfinite(runs.seconds).all() and runs.seconds.max() < 5 * runs.budgets.max()
    assert score_run(runs, RISING).met >= 0.9


def test_the_same_seed_is_the_same_run():
    one, two = (simulate("contended", 0.95, 200) for _ in range(2))
    assert (one.seconds == two.seconds).all() and (one.steps == two.steps).all()


def test_what_ran_is_what_its_own_number_would_have_taken(contended):
    """The counterfactuals are those of the same machine: a run's own finish is among them."""
    own = baselines.seconds(contended, contended.steps)
    assert np.allclose(own, contended.seconds, rtol=1e-9, atol=1e-9)


def test_machines_work():
    rng = np.random.default_rng(0)
    machine = simulated.Machine(simulated.USUAL_BURSTS, 100.0, rng)
    starts, work = rng.uniform(0, 90, 50), rng.uniform(0, 5, (50, 3))
    every = machine.finish_all(starts, work)
    for i, j in np.ndindex(every.shape):
        assert machine.finish(starts[i], work[i, j]) == pytest.approx(every[i, j])
        halfway = machine.finish(starts[i], work[i, j] / 2)
        assert machine.finish(halfway, work[i, j] / 2) == pytest.approx(every[i, j])
    assert (every >= starts[:, None] + work - 1e-9).all()
    with pytest.raises(UsageError, match="busy"):
        simulated.machine("busy", None, rng)


def test_load():
    rng = np.random.default_rng(0)
    for kind in load.ARRIVALS:
        times = load.arrivals(kind, 4000, 0.5, rng)
        assert len(times) == 4000 and (np.diff(times) >= 0).all() and times[-1] / 4000 == pytest.approx(0.5, rel=0.15)
    every = load.budgets("jumps", 1000, 2.0, 0.1, rng)
    assert every.min() >= 2.0 and every.max() <= 5.1
    assert load.budgets("factor", 1000, 2.0, 0.1, rng).max() <= 8.0
    with pytest.raises(UsageError, match="steady"):
        load.arrivals("steady", 1, 1.0, rng)
    with pytest.raises(UsageError, match="none"):
        load.budgets("none", 1, 1.0, 1.0, rng)


def _runs(seconds, budgets, steps, finish):
    count = len(seconds)
    return Runs(
        budgets=np.array(budgets), waited=np.zeros(count), seconds=np.array(seconds), steps=np.array(steps),
        values=np.zeros(count), predicted=np.full(count, np.nan), first_steps=np.array(steps),
        first_predicted=np.array(seconds) + 1, finish=np.array(finish), known=np.array(steps),
        place=np.arange(count), overhead=np.zeros(count),
    )  # fmt: skip


def test_scores_by_hand():
    finish = [np.arange(1.0, 33.0)] * 3
    runs = _runs([2.0, 4.0, 5.0], [2.5, 3.5, 0.5], [2, 4, 5], finish)
    score = score_run(runs, RISING)
    assert score.hopeless == 1 and score.met == 0.5 and score.requests == 3
    best = [RISING[1] - 0.5, RISING[2] - 0.5]
    assert score.share_missed_as_one_jump == pytest.approx((RISING[1] - 0.5) / sum(best))
    assert score.share == pytest.approx((RISING[1] - 0.5 - 0.5) / sum(best))
    assert score.quality == pytest.approx(RISING[1] / 2) and score.overshoot["max"] == pytest.approx(4.0 / 3.5 - 1)
    assert score.steps == {2: 1, 4: 1, 5: 1} and score.missed == 1 and score.estimated == 0
    assert score_baselines(runs, RISING)[baselines.fixed_name(5)].estimated == 2, "two requests made fewer jumps"
    predictor = score_predictor(runs, 0.95)
    assert predictor.once.rate == 1.0 and predictor.once.interval == wilson(3, 3)
    assert predictor.adopted.trials == 0 and math.isnan(predictor.adopted.rate)


def test_a_miss_is_worth_less_than_any_video_also_where_less_is_better():
    """Values of such metrics are negative: a failure worth 0 would be the best of all, and missing the best policy."""
    curve = -np.linspace(9.0, 3.0, 32)
    assert failure_value(curve) == -18.0 < curve.min() and failure_value(RISING) == 0.0
    finish = [np.arange(1.0, 33.0)] * 4
    runs = _runs([2.0] * 4, [2.5, 3.5, 4.5, 2.2], [2] * 4, finish)
    scores = score_baselines(runs, curve)
    assert scores[baselines.BEST_FIXED].steps == {2: 4} and scores[baselines.BEST_FIXED].met == 1.0
    assert scores[baselines.fixed_name(32)].share < 0 < scores[baselines.BEST_FIXED].share
    assert scores[baselines.fixed_name(32)].quality == -18.0


def test_every_fixed_number_is_a_baseline_and_some_are_shown():
    names = score_baselines(_runs([2.0], [2.5], [2], [np.arange(1.0, 33.0)]), RISING)
    assert {baselines.fixed_name(steps) for steps in range(1, 33)} < set(names)
    shown = baselines.shown(names)
    assert "N = 5" not in shown and {"N = 4", baselines.ONCE, baselines.ORACLE, baselines.BEST_FIXED} < set(shown)


def test_recovery_counts_from_where_the_profile_was_wrong():
    """Several times over, and everything after the first twenty."""
    one = Record(3.0, 0.0, 2.0, 0.5, (0.5, 0.5), 0.5, 0.7, None, 3, 2.5, (1e-5,) * 3)
    late = replace(one, seconds=4.0, jumps=(0.5, 2.5))
    outcome = sweep.score_case(sweep.Case("calm", 0.95), collect([[late] * 20 + [one] * 10] * 3), default_quality())
    assert (outcome.first_met.trials, outcome.first_met.rate) == (60, 0.0)
    assert (outcome.then_met.trials, outcome.then_met.rate, outcome.then_met.interval) == (30, 1.0, wilson(30, 30))


def test_wilson():
    assert wilson(0, 0) == (0.0, 1.0) and wilson(95, 100) == pytest.approx((0.8882, 0.9785), abs=1e-4)


def test_a_recorded_run_tells_the_others():
    finish = known_finish(1.0, [2.0, 4.0], 10.0)
    assert finish[:4].tolist() == [13.0, 17.0, 20.0, 23.0] and len(finish) == 32


def test_the_measured_curve_is_the_planners():
    assert measured_curve(default_quality())[[0, 1, 3, 31]] == pytest.approx([0.5, 2 / 3, 0.8, 32 / 33])


def test_real_runs_are_scored_like_simulated_ones():
    made = [Record(3.0, 0.0, 2.0, 0.5, (0.5, 0.5), 0.5, 0.7, None, 3, 2.5, (1e-5,) * 3) for _ in range(2)]
    runs = collect([made])
    assert runs.finish[0, :3].tolist() == [1.5, 2.0, 2.5] and runs.steps.tolist() == [2, 2] and runs.met.all()
    outcome = sweep.score_case(sweep.Case("calm", 0.95), runs, default_quality())
    assert outcome.rising[baselines.ORACLE].estimated == 2 and "estimate" in tables.table([outcome])
    assert outcome.rising[baselines.ORACLE].steps == {4: 2} and math.isnan(outcome.predictor.adopted.rate)


@pytest.mark.parametrize("non_uniform", [True, False])
def test_a_flat_measured_curve(non_uniform):
    means = {1: 0.2, 2: 0.5, 4: 0.7, 8: 0.8, 16: 0.85, 32: 0.84}
    edges = tuple(Edge(i, j, ((i - j) / 32) ** 1.5) for i in range(1, 33) for j in range(i))
    points = tuple(QualityPoint(n, mean, mean, mean, 9) for n, mean in means.items())
    quality = fit_quality(Calibration("b", "score", True, points, edges))
    case = sweep.Case("calm", 0.99)
    outcome = sweep.run_case(case, quality, requests=600, non_uniform=non_uniform)
    score = outcome.measured[sweep.ADAPTIVE]
    assert score.met >= 0.985 and score.share >= 0.9
    assert max(score.steps) <= 24, "32 measured no better than 16"
    assert outcome.rising[sweep.ADAPTIVE].share >= 0.85
    said = tables.table([outcome])
    for what in ("adaptive", "p50", "p95", "max", "by number of steps", "late", "quality", "interval", "later: "):
        assert what in said
    assert json.loads(json.dumps(tables.as_json([outcome])))


def test_the_sweep_is_a_command(capsys, monkeypatch):
    monkeypatch.setattr(command, "CASES", sweep.CASES[:1])
    assert command.main(["--requests", "50", "--json"]) == 0
    done = capsys.readouterr()
    assert len(json.loads(done.out)) == 1 and "no quality was measured" in done.err
    for wrong in (["--requests", "0"], ["--seed", "-1"]):
        with pytest.raises(SystemExit) as stopped:
            command.main(wrong)
        assert stopped.value.code == 2


def test_a_wrong_calibration_ends_the_sweep_in_one_line(capsys, tmp_path):
    (tmp_path / "calibration.json").write_text("{")
    assert command.main(["--calibration", str(tmp_path / "calibration.json")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
