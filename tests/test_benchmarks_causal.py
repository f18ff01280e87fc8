"""The causal benchmarks: run on a random checkpoint's bundle, short ones, and what they make of what they measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle

import anyflow_rt
from anyflow_rt.benchmarks import suite
from anyflow_rt.benchmarks.causal import chunks, clips, common, deadlines, speed, streams
from anyflow_rt.benchmarks.measure import BusyMachineError, Conditions
from anyflow_rt.benchmarks.report import Outcome
from anyflow_rt.benchmarks.shapes.continuation import judge_continuation
from anyflow_rt.errors import ParityError
from anyflow_rt.result import StreamReport

NAME = "released_rule"
ONCE = Conditions(rounds=1, allow_busy=True)


@pytest.fixture
def on_random_bundle(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a benchmark's module on a random causal bundle, with other constants."""

    def run(module: Any, **constants: Any) -> Outcome:
        def load(precision: str = "fp32") -> anyflow_rt.Runtime:
            return anyflow_rt.load(random_bundle(NAME).path, engine="openvino", precision=precision)

        monkeypatch.setattr(common, "CAUSAL_CHECKPOINT", random_bundle(NAME).checkpoint)
        for name, value in {"load": load, **constants}.items():
            monkeypatch.setattr(module, name, value)
        return module.run(ONCE)

    return run


def test_chunks(on_random_bundle: Callable[..., Outcome]) -> None:
    outcome = on_random_bundle(chunks, EIGHT_CHUNKS=25, LONG=33, WARM_UPS=0)
    assert [sample.name for sample in outcome.samples[2:]] == [f"chunk {number} of 4" for number in (1, 2, 3, 4)]
    assert "passes of the writer at 3 chunks: 3 all anew, 2 incremental" in outcome.notes
    assert outcome.targets[0].bound > 1.0 and outcome.targets[1].bound == chunks.FLAT
    assert [target.name for target in outcome.targets[1:]] == ["chunk 4 of 4 / chunk 4 of 4"]
    assert outcome.notes[0].startswith("25 frames: same video as diffusers fp32")
    assert outcome.notes[-1] == "arithmetic says 1.000 of chunk 4 over the fourth"


def test_latents_that_differ_end_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [chunks.Run((1.0,), (1.0,), np.full((1, 1, 4), value)) for value in (1.0, 1.001)]
    with pytest.raises(ParityError, match=r"lead 1\.0e-03 apart"):
        chunks._same(runs[:1], runs[1:])


def test_speed(on_random_bundle: Callable[..., Outcome]) -> None:
    checkpoint = random_bundle(NAME).checkpoint
    outcome = on_random_bundle(
        speed, EIGHT_CHUNKS=17, WARM_UPS=0, CAUSAL_CHECKPOINT=checkpoint, precisions=lambda: ["fp32"]
    )
    assert [target.name[:9] for target in outcome.targets] == ["33 frames", "17 frames"]
    assert all("same video as diffusers fp32" in note for note in outcome.notes[:2])
    assert {sample.name.split(", ")[1] for sample in outcome.samples} == {
        *("anyflow-rt fp32", "diffusers fp32 eager", "diffusers bf16 eager")
    }


def test_streams(on_random_bundle: Callable[..., Outcome]) -> None:
    def peaks() -> dict:
        return {
            (side, frames): streams.Sample("", (1.0,), "MB")
            for side in streams.SIDES
            for frames in (streams.SHORT, streams.LONG)
        }

    outcome = on_random_bundle(streams, EIGHT_CHUNKS=33, WARM_UPS=0, _peaks=peaks)
    assert "same video as diffusers" in outcome.notes[0] and "same video as made at once" in outcome.notes[1]
    assert 0 < outcome.targets[0].value < 1
    assert [target.value for target in outcome.targets[1:]] == [1.0, 1.0]


def test_deadlines(on_random_bundle: Callable[..., Outcome]) -> None:
    outcome = on_random_bundle(deadlines, EIGHT_CHUNKS=25, FRAMES=57, LEARNING=1, STREAMS=1, CALM=1, CONTENDED=1)
    kinds = ("deadlines", "four steps", "one step")
    assert "same video as diffusers" in outcome.notes[0] and "same video as made at once" in outcome.notes[1]
    assert "played at" in outcome.notes[2] and "planned at confidence 0.99" in outcome.notes[3]
    assert [note.split(":")[0] for note in outcome.notes[4:11]] == [
        *(f"{machine}, {kind}" for machine in ("calm", "contended") for kind in kinds),
        f"contended, {deadlines.ALL_CORES}",
    ]
    fixed = [sample for sample in outcome.samples if "deadlines" not in sample.name]
    assert [{*sample.values} for sample in fixed] == [{4}, {1}, {4}, {1}, {4}]
    bitten = outcome.targets[1]
    assert ("contention did not bite" in outcome.notes[-1]) == (not bitten.met) and bitten.bound == 5.0


def test_what_a_player_met() -> None:
    report = StreamReport(ready=(1.0, 3.0, 6.5, 6.6), frames=(1, 4, 4, 4), fps=2.0)
    result = SimpleNamespace(stream=report, chunks=[SimpleNamespace(steps=steps) for steps in (4, 4, 2, 1)])
    found = deadlines._played([result, result])  # type: ignore[list-item]
    assert (found.chunks, found.stalls, found.waited, found.share) == (6, 2, 2.0, pytest.approx(1 / 3))
    assert str(found).startswith("2 of 6 chunks late (33.33%") and "2.75 steps a chunk" in str(found)


def test_the_highest_rate_that_is_kept() -> None:
    """Four frames every 0.5 s, but once after 1.5 s."""
    ready, at = [1.0], 1.0
    for number in range(40):
        at += 1.5 if number == 20 else 0.5
        ready.append(at)
    report = StreamReport(ready=tuple(ready), frames=(1, *[4] * 40), fps=1.0)
    result = SimpleNamespace(stream=report, chunks=[])
    rate = deadlines.kept_rate([result])  # type: ignore[list-item]
    assert not any(replace(report, fps=rate).stalls[1:]) and any(replace(report, fps=1.02 * rate).stalls[1:])
    never = SimpleNamespace(stream=replace(report, ready=(0.0, 99.0, *[200.0] * 39)), chunks=[])
    with pytest.raises(BusyMachineError, match="a frame a second"):
        deadlines.kept_rate([never])  # type: ignore[list-item]


def test_the_scenes_are_what_they_are_judged_as() -> None:
    scenes = common.held_out_scenes(8)
    assert all(np.array_equal(a[2], b[2]) for a, b in zip(scenes, common.held_out_scenes(8), strict=True))
    for _, attributes, frames in scenes:
        assert judge_continuation(frames[:9], frames[9:]).passes(attributes)
    for _, attributes, frames in common.held_out_scenes(8, num_frames=57):
        assert judge_continuation(frames[:9], frames[9:]).passes(attributes)
    right = [dict.fromkeys(clips.ATTRIBUTE_NAMES, True), {name: name != "size" for name in clips.ATTRIBUTE_NAMES}]
    assert clips._told(right).startswith("1 of 2 keep all (50.0%") and "size 50.0%" in clips._told(right)


def test_a_group_stands_for_its_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["speed", "chunks", "streams", "deadlines", "clips"]
    assert suite.GROUPS["causal"] == tuple(f"causal-{name}" for name in names)
    ran: list[str] = []

    def found(place: str) -> Any:
        return SimpleNamespace(run=lambda conditions: ran.append(place) or Outcome(place, ()))

    monkeypatch.setattr(suite.importlib, "import_module", found)
    suite.run_benchmarks(["causal", "memory"], ONCE)
    assert [place.rsplit(".", 1)[1] for place in ran] == [*names, "memory"]
