"""Value of plans: the fit, its defaults, and what a calibration file may not hold."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyflow_rt.errors import BundleError, OutputError
from anyflow_rt.sampling.calibration import Calibration, Edge, QualityPoint, read_calibration, write_calibration
from anyflow_rt.sampling.quality import Quality, default_quality, envelope, even_path, fit_quality

ALL_EDGES = tuple(Edge(i, j, ((i - j) / 32) ** 1.5) for i in range(1, 33) for j in range(i))


def calibration(means, edges=ALL_EDGES, higher=True):
    points = tuple(QualityPoint(steps, mean, mean - 1, mean + 1, 100) for steps, mean in means.items())
    return Calibration("abc", "score", higher, points, edges)


def uniform_value(quality, steps):
    return quality.value(quality.cost(even_path(steps)))


def test_defaults():
    quality = default_quality()
    assert uniform_value(quality, 4) == pytest.approx(0.8) and "no quality was measured" in quality.note
    assert fit_quality(None) == quality


def test_measured_plans_are_worth_what_they_measured():
    means = {1: 0.2, 2: 0.5, 4: 0.7, 8: 0.8, 16: 0.85, 32: 0.86}
    quality = fit_quality(calibration(means))
    assert quality.note is None and quality.metric == "score"
    for steps, mean in means.items():
        assert uniform_value(quality, steps) == pytest.approx(mean)
    assert 0.7 < uniform_value(quality, 6) < 0.8


def test_more_steps_that_measured_worse_are_worth_the_best_before():
    quality = fit_quality(calibration({1: 0.2, 2: 0.5, 4: 0.9, 8: 0.7, 16: 0.8, 32: 0.6}))
    assert [round(uniform_value(quality, n), 6) for n in (4, 8, 16, 32)] == [0.9] * 4


def test_lower_is_better():
    quality = fit_quality(calibration({1: 9.0, 4: 3.0, 32: 1.0}, higher=False))
    assert uniform_value(quality, 1) == -9.0 and uniform_value(quality, 32) == -1.0


def test_gaps_are_estimated_and_said():
    some = tuple(edge for edge in ALL_EDGES if edge.start % 4 == 0 and edge.end % 4 == 0)
    quality = fit_quality(calibration({1: 0.1, 4: 0.5}, some))
    assert quality.costs[31][3] == pytest.approx((28 / 32) ** 1.5) and "jumps was not measured" in quality.note
    one = fit_quality(calibration({4: 0.5}, (Edge(32, 0, 2.0),)))
    assert one.costs[16][0] == pytest.approx(0.5) and "at 1 step counts" in one.note
    assert uniform_value(one, 4) == pytest.approx(0.8)
    assert fit_quality(calibration({}, ())).costs == default_quality().costs


def test_a_miss_is_worth_less_than_any_video_also_where_less_is_better():
    assert fit_quality(calibration({1: 9.0, 4: 3.0, 32: 1.0}, higher=False)).failure == -18.0
    assert fit_quality(calibration({1: 0.2, 4: 0.5})).failure == 0.0 == default_quality().failure


@given(st.lists(st.tuples(st.integers(0, 20).map(float), st.floats(-5, 5)), min_size=1, max_size=8), st.data())
def test_the_value_never_falls_as_the_cost_falls(points, data):
    quality = Quality(((), (1.0,)), envelope(points))
    low, high = sorted(data.draw(st.tuples(st.floats(-1, 25), st.floats(-1, 25))))
    assert quality.value(low) >= quality.value(high) - 1e-9


def test_the_file_round_trips(tmp_path):
    path, made = tmp_path / "calibration.json", calibration({1: 0.1, 2: 0.2})
    assert read_calibration(path, "abc") is None
    write_calibration(path, made)
    assert read_calibration(path, "abc") == made and list(tmp_path.iterdir()) == [path]
    first = json.loads(path.read_text())["edges"][0]
    assert first == {"from": 1, "to": 0, "cost": pytest.approx(1 / 32**1.5)}
    with pytest.raises(OutputError, match="cannot write"):
        write_calibration(tmp_path / "none" / "calibration.json", made)


def _point(**change):
    return {"steps": 2, "mean": 1.0, "low": 0.0, "high": 2.0, "n": 3} | change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"schema": True}, "schema is True"),
        ({"bundle_id": "xyz"}, "'xyz'"),
        ({"more": 1}, "unknown keys ['more']"),
        ({"edges": {}}, "edges is not a list"),
        ({"edges": [{"from": 4, "to": 4, "cost": 1.0}]}, "edges[0].to is 4"),
        ({"edges": [{"from": 33, "to": 4, "cost": 1.0}]}, "edges[0].from is 33"),
        ({"edges": [{"from": 4, "to": 0, "cost": -1.0}]}, "below 0"),
        ({"edges": [{"from": 4, "to": 0, "cost": math.nan}]}, "nan"),
        ({"edges": [{"from": 4, "to": 0}]}, "lacks ['cost']"),
        ({"edges": [{"from": 4, "to": 0, "cost": 1}] * 2}, "twice"),
        ({"quality": {"metric": "m", "higher_is_better": 1, "points": []}}, "higher_is_better is 1"),
        ({"quality": {"metric": 3, "higher_is_better": True, "points": []}}, "metric is 3"),
        ({"quality": {"metric": "m", "higher_is_better": True, "points": [_point(steps=0)]}}, "steps is 0"),
        ({"quality": {"metric": "m", "higher_is_better": True, "points": [_point(mean="x")]}}, "mean is 'x'"),
        ({"quality": {"metric": "m", "higher_is_better": True, "points": [_point(), _point()]}}, "twice"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, says):
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(calibration({1: 0.1}).as_json() | change))
    with pytest.raises(BundleError) as error:
        read_calibration(path, "abc")
    message = str(error.value)
    assert says in message and str(path) in message and "anyflow-rt bench" in message and "\n" not in message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff", '{"schema": 1}', "[" * 100_000])
def test_a_damaged_file_is_refused(tmp_path, text):
    path = tmp_path / "calibration.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="anyflow-rt bench"):
        read_calibration(path, "abc")
