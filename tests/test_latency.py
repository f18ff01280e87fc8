"""Profiles, forecasts from them, shapes never measured, and the file they are kept in."""

import itertools
import json
import logging
import multiprocessing
import os
import random
import threading
import time

import numpy as np
import pytest

from anyflow_rt.latencies import profile_store
from anyflow_rt.sampling import latency_store
from anyflow_rt.sampling.forecast import Forecaster
from anyflow_rt.sampling.latency import (
    MAX_JUMPS,
    MAX_RUNS,
    FirstCalls,
    History,
    Profile,
    RunTimes,
    Setting,
    quantile,
)
from anyflow_rt.sampling.latency_model import fit_seconds, history_for
from anyflow_rt.sampling.latency_store import Identity, LatencyStore
from anyflow_rt.sampling.ratio import SpeedRatio
from anyflow_rt.sampling.recorder import RunRecorder

SETTING = Setting("openvino", "fp32", 17, 64, 64)
RUN = RunTimes(text=0.001, conditioner=0.001, jumps=(0.01, 0.011, 0.012), decode=0.02)


def noisy_history(runs, spread, rng, common=0.0, jump=0.01, jumps=16):
    made = []
    for _ in range(runs):
        level = jump * np.exp(common * rng.normal())
        times = level * np.exp(rng.normal(0, spread, jumps))
        made.append(RunTimes(0.001, 0.001, tuple(times.tolist()), float(2 * level)))
    return History(tuple(made))


def test_quantiles_are_conformal():
    assert quantile([], 0.9) is None and quantile([3.0], 0.5) == 3.0
    assert quantile(list(range(1, 100)), 0.95) == 95 and quantile([1, 2, 3], 0.999) == 3


def test_histories_are_bounded():
    history = History()
    for _ in range(MAX_RUNS + 50):
        history = history.with_run(RunTimes(jumps=(0.01,) * 32), FirstCalls(jump=0.1))
    assert len(history.runs) <= MAX_RUNS and len(history.seconds("jump")) <= MAX_JUMPS and len(history.first) == 32
    assert history.typical("jump") == 0.01 and history.first_quantile("jump", 0.5) == 0.1
    assert history.quantile("decode", 0.5) is None


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_impossible_times(seconds):
    with pytest.raises(ValueError, match="cannot take"):
        RunTimes(jumps=(seconds,))
    with pytest.raises(ValueError, match="cannot take"):
        FirstCalls(jump=seconds)


def test_sums_of_independent_jumps_are_not_sums_of_quantiles():
    """Independent noise averages out over 16 jumps; noise that a whole run shares does not."""
    rng = np.random.default_rng(0)
    alone = Forecaster(noisy_history(120, 0.15, rng), recorder=RunRecorder(cold=()))
    shared = Forecaster(noisy_history(120, 0.02, rng, common=0.15), recorder=RunRecorder(cold=()))
    one, many = ([each.required(0.95)[k] / each.jump_seconds / (k + 2) for each in (alone, shared)] for k in (1, 32))
    assert many[0] < one[0] and many[0] < 1.1
    assert many[1] > one[1] and many[1] > 1.1


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("jumps", [1, 8, 32])
def test_the_stated_quantile_holds(confidence, jumps):
    """Of runs that come afterwards, stated before each."""
    rng = np.random.default_rng(jumps)
    forecaster = Forecaster(noisy_history(128, 0.1, rng, common=0.05), recorder=RunRecorder(cold=()))
    held = []
    for run in noisy_history(600, 0.1, rng, common=0.05, jumps=jumps).runs:
        forecaster.start_run()
        stated = forecaster.required(confidence)[jumps]
        for seconds in run.jumps:
            forecaster.observe("jump", seconds)
        forecaster.observe("decode", run.decode)
        forecaster.end_run()
        held.append(sum(run.jumps) + run.decode <= stated)
    assert confidence - 0.03 <= np.mean(held) <= min(1.0, confidence + 0.04)


def test_required_never_falls_with_jumps():
    forecaster = Forecaster(noisy_history(40, 0.3, np.random.default_rng(1), 0.3), encode=True)
    for confidence in (0.5, 0.9, 0.999):
        required = forecaster.required(confidence)
        assert len(required) == 33 and all(a <= b for a, b in itertools.pairwise(required))


def test_the_ratio_steers_at_once_and_ignores_noise():
    ratio = SpeedRatio(spread=0.05)
    generator = random.Random(0)
    for _ in range(100):
        ratio.observe(1.0 + generator.gauss(0, 0.05))
        assert 0.93 < ratio.value < 1.07
    ratio.observe(2.0)
    assert ratio.value > 1.6
    ratio.observe(2.0)
    assert ratio.value == pytest.approx(2.0, rel=0.1)
    ratio.observe(1.0), ratio.observe(1.0)
    assert ratio.value == pytest.approx(1.0, abs=0.05)
    ratio.observe(1e9)
    assert ratio.value < 17


def test_first_calls_are_kept_apart():
    history = History((RunTimes(0.001, 0.001, (0.01,) * 16, 0.02),) * 10, (FirstCalls(0.1, 0.1, 0.5, 0.3),) * 10)
    cold, warm = Forecaster(history), Forecaster(history, recorder=RunRecorder(cold=()))
    assert cold.required(0.9)[4] - warm.required(0.9)[4] == pytest.approx(0.49 + 0.28, rel=0.01)
    assert cold.smallest_budget(0.9) - warm.smallest_budget(0.9) == pytest.approx(0.49 + 0.28 + 0.198, rel=0.01)
    cold.start_run()
    for stage, seconds in (("text", 0.1), ("conditioner", 0.1), ("jump", 0.5), ("jump", 0.01), ("decode", 0.3)):
        cold.observe(stage, seconds)
    times, first = cold.end_run()
    assert times == RunTimes(jumps=(0.01,)) and first == FirstCalls(0.1, 0.1, 0.5, 0.3)
    assert cold.required(0.9)[4] == pytest.approx(warm.required(0.9)[4], rel=0.15)


def test_nothing_known():
    forecaster = Forecaster(History())
    assert not forecaster.measured and forecaster.required(0.9) is None and forecaster.smallest_budget(0.9) is None
    forecaster.start_run()
    forecaster.observe("jump", 0.5)
    forecaster.observe("jump", 0.01)
    assert forecaster.jump_seconds == pytest.approx(0.01), "the first call said nothing of the next"


def test_fits_of_tokens():
    exact = [(1.0, tokens, 0.1 + 0.02 * tokens + 0.003 * tokens**2) for tokens in (4.0, 16.0, 64.0, 256.0)]
    assert fit_seconds(exact) == pytest.approx((0.1, 0.02, 0.003), rel=1e-4)
    assert fit_seconds([(1.0, 10.0, 0.5)]) == pytest.approx((0, 0.05, 0))
    assert fit_seconds([(1.0, 10.0, 0.5), (4.0, 10.0, 1.1)]) == pytest.approx((0.3, 0.02, 0))
    assert min(fit_seconds([(1.0, 10.0, 0.5), (1.0, 20.0, 3.0), (1.0, 30.0, 2.0)])) >= 0


def test_shapes_never_measured_are_interpolated_and_marked():
    profile = Profile()
    for size in (64, 128):
        run = RunTimes(0.001, 0.001, (1e-4 * size**2 / 256,) * 4, 2e-4 * size**2 / 256)
        profile = profile.with_run(Setting("openvino", "fp32", 17, size, size), run)
    found = history_for(profile, Setting("openvino", "fp32", 17, 96, 96))
    assert found.interpolated and found.typical("jump") == pytest.approx(1e-4 * 36, rel=1e-3)
    guided = history_for(profile, Setting("openvino", "fp32", 17, 96, 96, guided=True))
    assert guided.typical("jump") == pytest.approx(2e-4 * 36, rel=1e-3)
    assert guided.typical("decode") == pytest.approx(found.typical("decode"))
    assert history_for(profile, Setting("onnxruntime", "fp32", 17, 96, 96)) == History()
    opened = profile.with_run(Setting("openvino", "fp32", 17, 64, 64), None, FirstCalls(jump=0.7, decode=0.4))
    opened = opened.with_run(Setting("openvino", "fp32", 17, 32, 32), None, FirstCalls(jump=0.1))
    first = history_for(opened, Setting("openvino", "fp32", 17, 80, 80)).first
    assert first == (FirstCalls(jump=0.7, decode=0.4),), "of the nearest size that was measured"
    own = Setting("openvino", "fp32", 17, 64, 64)
    assert history_for(profile, own) == profile.history(own)
    forecaster = Forecaster(found)
    assert forecaster.interpolated and forecaster.required(0.9)[4] > 4 * 1e-4 * 36


# The file.


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def identity(**change):
    return Identity(**({"bundle_id": "b1", "device": "cpu", "machine": "m", "versions": (("openvino", "1"),)} | change))


def filled(**change):
    store = LatencyStore(identity(**change))
    store.add(SETTING, RUN, FirstCalls(jump=0.5))
    assert store.flush()
    return store


def test_a_profile_survives_the_process(state):
    store = filled()
    assert store.path == state / "latency" / "b1" / "cpu.json"
    history = LatencyStore(identity()).load().history(SETTING)
    assert history == History((RUN,), (FirstCalls(jump=0.5),))
    assert {path.name for path in store.path.parent.iterdir()} <= {"cpu.json", "cpu.json.lock"}


def test_where_state_is_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("ANYFLOW_RT_STATE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert latency_store.state_root() == tmp_path / "anyflow-rt"
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert latency_store.state_root().parts[-3:] == (".local", "state", "anyflow-rt")
    assert str(os.cpu_count() and len(os.sched_getaffinity(0))) in latency_store.this_machine()


@pytest.mark.parametrize(
    "change", [{"machine": "other"}, {"versions": (("openvino", "2"),)}], ids=["machine", "versions"]
)
def test_a_changed_machine_discards_it_and_says_so_once(state, caplog, change):
    filled()
    with caplog.at_level(logging.WARNING):
        store = LatencyStore(identity(**change))
        assert store.load() == Profile() and store.load() == Profile()
        store.add(SETTING, RUN)
        store.flush()
    assert len(caplog.records) == 1 and "discarded" in caplog.text
    assert len(LatencyStore(identity(**change)).load().history(SETTING).runs) == 1


def _damaged(text, **change):
    value = json.loads(text)
    value.update(change)
    return json.dumps(value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "\x00" * 100,
        lambda text: "[" * 100_000,
        lambda text: text.replace("0.011", "NaN"),
        lambda text: text.replace("0.011", "-1"),
        lambda text: text.replace("0.011", '"x"'),
        lambda text: text.replace("0.011", "1" + "0" * 400),
        lambda text: text.replace('"frames":17', '"frames":"17"'),
        lambda text: text.replace('"engine"', '"motor"'),
        lambda text: _damaged(text, profiles=[{}]),
        lambda text: _damaged(text, profiles=3),
    ],
)
def test_a_damaged_file_is_rebuilt_with_one_warning(state, caplog, damage):
    store = filled()
    store.path.write_text(damage(store.path.read_text()))
    with caplog.at_level(logging.WARNING):
        again = LatencyStore(identity())
        assert again.load() == Profile()
        again.add(SETTING, RUN)
        assert again.flush()
    assert len(caplog.records) == 1 and "damaged" in caplog.text and "\n" not in caplog.records[0].message
    assert LatencyStore(identity()).load().history(SETTING).runs == (RUN,)


def test_a_directory_that_cannot_be_written_is_one_warning(tmp_path, monkeypatch, caplog):
    (tmp_path / "state").write_text("a file, not a directory")
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path / "state"))
    store = LatencyStore(identity())
    with caplog.at_level(logging.WARNING):
        assert store.load() == Profile()
        for _ in range(3):
            store.add(SETTING, RUN)
            assert not store.flush()
    (record,) = caplog.records
    assert "runs go on)" in record.message and "ANYFLOW_RT_STATE" in record.message


def test_a_run_is_counted_once_however_it_is_read(state, monkeypatch):
    """Also by who reads between the moment the file is replaced and the moment its runs no longer wait."""
    store, found = LatencyStore(identity()), []
    replace = os.replace

    def read_then(*paths):
        replace(*paths)
        reader = threading.Thread(target=lambda: found.append(len(store.load().history(SETTING).runs)))
        reader.start()
        reader.join(0.05)

    monkeypatch.setattr(os, "replace", read_then)
    store.add(SETTING, RUN)
    assert store.flush()
    while not found:
        time.sleep(0.01)
    assert found == [1]


def test_what_a_killed_process_left_is_swept(state):
    store = filled()
    stray = store.path.parent / f".{store.path.name}.abc123"
    stray.write_text("half a pro")
    store.add(SETTING, RUN)
    assert store.flush() and not stray.exists()
    assert {path.name for path in store.path.parent.iterdir()} == {"cpu.json", "cpu.json.lock"}


def test_processes_on_other_cores_keep_profiles_of_their_own(state, monkeypatch):
    stores = []
    for cores in (1, 2):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        stores.append(profile_store("b1", "onnxruntime"))
        stores[-1].add(SETTING, RUN)
        assert stores[-1].flush()
    assert stores[0].path != stores[1].path
    assert all(len(store.load().history(SETTING).runs) == 1 for store in stores)


def test_a_held_lock_is_waited_for_no_longer_than_said(state, caplog, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(latency_store, "LOCK_SECONDS", 0.05)
    store = filled()
    store.add(SETTING, RUN)
    with FileLock(f"{store.path}.lock"):
        assert not store.flush()
    assert store.flush(), "what was not written is written later"
    assert len(LatencyStore(identity()).load().history(SETTING).runs) == 2


def test_it_is_bounded(state):
    store = LatencyStore(identity())
    for width in range(16, 16 * 30, 16):
        store.add(Setting("openvino", "fp32", 17, 64, width), RUN)
    for _ in range(100):
        store.add(SETTING, RunTimes(jumps=(0.123456789,) * 32))
    assert store.flush()
    profile = LatencyStore(identity()).load()
    assert len(profile.histories) == latency_store.MAX_SETTINGS
    assert len(profile.history(SETTING).seconds("jump")) <= latency_store.STORED_JUMPS
    assert store.path.stat().st_size < 100_000


def _write(count):
    store = LatencyStore(identity())
    for _ in range(count):
        store.add(SETTING, RUN)
        assert store.flush()


def test_several_processes_lose_nothing(state):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_write, args=(10,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(LatencyStore(identity()).load().history(SETTING).runs) == 30
