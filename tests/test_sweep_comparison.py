"""Our runs beside diffusers': each way of it is timed only where its frames are the reference's."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.bundles import random_bundle
from support.checkpoints import CONFIGURATIONS
from support.sweeps import silent_tally

import anyflow_rt
from anyflow_rt.benchmarks import ceiling, measure, peers
from anyflow_rt.benchmarks.sweep.comparison import compare
from anyflow_rt.benchmarks.sweep.journal import NAME, Journal
from anyflow_rt.benchmarks.sweep.options import SweepOptions
from anyflow_rt.benchmarks.sweep.tally import Tally
from anyflow_rt.benchmarks.sweep.watching import faults, watched
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import MissingPackageError

CONFIGURATION = next(name for name in CONFIGURATIONS if name != "base")


@pytest.fixture
def tally(tmp_path: Path) -> Iterator[Tally]:
    with Journal(tmp_path / NAME, {}, resume=False) as journal:
        yield silent_tally(journal)


def test_a_way_of_diffusers_that_makes_other_videos_is_not_timed(
    tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers in float32, and the same inverted under another name."""
    calls = []

    def pipelines(checkpoint: Path, *, steps: int, size: VideoSize) -> dict[str, peers.Generate]:
        plain = peers.pipeline(checkpoint, "fp32", steps=steps, size=size)

        def inverted(prompt: str, seed: int) -> np.ndarray:
            calls.append(seed)
            return 1 - plain(prompt, seed)

        return {"plain": plain, "inverted": inverted}

    monkeypatch.setattr(peers, "variants", lambda: {"plain": ("fp32", False), "inverted": ("bf16", False)})
    monkeypatch.setattr(peers, "pipelines", pipelines)
    options = SweepOptions(None, tmp_path, ("a fox", "an owl"), ("motion",), steps=(1, 2), rounds=5)
    bundle = random_bundle(CONFIGURATION).path
    with anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32") as runtime:
        verdict, samples = compare(options, runtime, tally)
    assert verdict.holds
    assert [detail.split(":")[0] for detail in verdict.details] == ["anyflow-rt fp32", "plain", "inverted"]
    assert [detail.endswith("so it is left out") for detail in verdict.details] == [False, False, True]
    (timed,) = samples
    assert (timed.peer, timed.steps, len(timed.ours), len(timed.theirs)) == ("plain", 2, 5, 5)
    assert calls == [options.first_seed]


def test_others_at_work_are_noted_unless_the_time_is_too_short_to_say(
    tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_machine_seconds", iter((0.0, 1.0, 1.0, 2.5)).__next__)
    monkeypatch.setattr(measure, "_own_seconds", lambda: 0.0)
    clock = iter((0.0, 0.0, 0.5, 0.5, 10.0, 10.0, 12.0, 12.0))
    monkeypatch.setattr(measure.time, "perf_counter", clock.__next__)
    with watched(tally, "latency"):
        pass
    assert faults(tally) == ()
    with pytest.raises(KeyboardInterrupt), watched(tally, "latency"):
        raise KeyboardInterrupt
    assert faults(tally) == ("other processes used 0.8 of a core while latency was measured",)


def test_the_ceiling_needs_one_of_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise MissingPackageError("openvino", None, "the ceiling")

    monkeypatch.setattr(ceiling, "SHAPES", ((8, 8, 8),))
    monkeypatch.setattr(ceiling, "_openvino", absent)
    assert [sample.name for sample in ceiling.measure("fp32").samples] == ["torch fp32 matmul 8x8x8"]
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackageError, match="pip install 'anyflow-rt"):
        ceiling.measure("fp32")
