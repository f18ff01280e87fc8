"""Drafts on the way: what they show, where they go, and that the result is the same with and without them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.bundles import random_bundle
from support.machine import DECODE, JUMP, Machine, write_profile

import anyflow_rt
from anyflow_rt.decoding import decode
from anyflow_rt.errors import Cancelled, OutputError
from anyflow_rt.preview import Preview, draft_path
from anyflow_rt.runtime import Runtime
from anyflow_rt.sampling import controller
from anyflow_rt.sampling.latency import Setting
from anyflow_rt.sampling.schedule import Plan, uniform_plan

SIZE: dict[str, Any] = {"height": 32, "width": 48, "num_frames": 5, "max_sequence_length": 32}
PROMPT = "a red circle"


@pytest.fixture
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runtime]:
    monkeypatch.setenv("ANYFLOW_RT_STATE", str(tmp_path_factory.mktemp("state")))
    bundle = random_bundle("base").path
    write_profile(bundle, Setting("onnxruntime", "fp32", 5, 32, 48))
    with anyflow_rt.load(bundle, engine="onnxruntime", precision="fp32") as opened:
        yield opened


def jumped(runtime: Runtime, times: tuple[float, ...], seed: int) -> np.ndarray:
    """The latents at the end of these times, jump by jump."""
    sampler = runtime.sampler(PROMPT, height=32, width=48, num_frames=5, max_sequence_length=32)
    latents = sampler.noise(seed)
    for t, r in Plan.from_times(times):
        latents = sampler.jump(latents, t, r)
    return latents


def test_a_draft_is_a_jump_to_the_end_and_changes_nothing(runtime: Runtime) -> None:
    plain = runtime.generate(PROMPT, steps=8, seed=5, **SIZE)
    drafted = runtime.generate(PROMPT, steps=8, seed=5, preview=True, **SIZE)
    assert np.array_equal(plain.latents, drafted.latents) and np.array_equal(plain.frames, drafted.frames)
    assert drafted.plan == plain.plan and len(drafted.seconds.jumps) == 8 and plain.previews == ()
    assert [each.steps for each in drafted.previews] == [1, 4]
    assert 0 < drafted.previews[0].seconds < drafted.previews[1].seconds < drafted.seconds.total
    times = uniform_plan(8, 5.0).times
    for each in drafted.previews:
        latents = jumped(runtime, (*times[: each.steps + 1], 0.0), 5)
        assert each.frames is not None
        assert np.array_equal(each.frames, np.concatenate(list(decode(runtime._components, latents)), axis=1))


def test_a_draft_that_would_be_the_result_is_not_made(runtime: Runtime) -> None:
    for steps, shown in ((1, []), (2, []), (3, [1]), (5, [1]), (6, [1, 4])):
        result = runtime.generate(PROMPT, steps=steps, preview=True, **SIZE)
        assert [each.steps for each in result.previews] == shown
    result = runtime.generate(PROMPT, steps=5, preview=True, preview_after=[3, 2, 2], **SIZE)
    assert [each.steps for each in result.previews] == [2, 3]


def test_drafts_for_a_function_come_at_once(runtime: Runtime, tmp_path: Path) -> None:
    order: list[Any] = []

    def show(each: Preview) -> None:
        assert each.frames is not None and each.paths == ()
        order.append(each.steps)

    for call in (runtime.generate, lambda *a, **k: runtime.generate_to_file(tmp_path / "out.npy", *a, **k)):
        order.clear()
        result = call(PROMPT, steps=4, preview=show, on_step=lambda step: order.append(f"{step.index + 1}"), **SIZE)
        assert order == ["1", 1, "2", "3", "4"] and result.previews == ()
    assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]


def test_draft_files_lie_beside_the_file(runtime: Runtime, tmp_path: Path) -> None:
    options = {**SIZE, "steps": 6, "seed": 2}
    result = runtime.generate_to_file(tmp_path / "out.npy", PROMPT, preview=True, **options)
    assert [each.paths for each in result.previews] == [(draft_path(tmp_path / "out.npy", n),) for n in (1, 4)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out-preview-01.npy", "out-preview-04.npy", "out.npy"]
    kept = runtime.generate(PROMPT, preview=True, **options)
    assert np.array_equal(np.load(tmp_path / "out.npy"), kept.frames[0])
    for each in kept.previews:
        assert np.array_equal(np.load(draft_path(tmp_path / "out.npy", each.steps)), each.frames[0])
    several = runtime.generate_to_file(tmp_path / "two.mp4", PROMPT, preview=True, num_videos=2, **options)
    assert [path.name for path in several.previews[0].paths] == ["two-preview-01-0.mp4", "two-preview-01-1.mp4"]


def test_where_a_draft_cannot_go_is_known_before_any_work(runtime: Runtime, tmp_path: Path) -> None:
    (tmp_path / "out-preview-04.npy").mkdir()
    with pytest.raises(OutputError, match=r"out-preview-04\.npy"):
        runtime.generate_to_file(tmp_path / "out.npy", PROMPT, steps=8, preview=True, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["out-preview-04.npy"]


@pytest.mark.parametrize("where", ["on_step", "preview"])
def test_a_cancelled_run_leaves_whole_drafts_and_nothing_else(runtime: Runtime, tmp_path: Path, where: str) -> None:
    def stop(told: Any) -> None:
        if where == "preview" or told.index == 2:
            raise Cancelled("that is enough")

    path = tmp_path / "out.npy"
    options = {"on_step": stop, "preview": True} if where == "on_step" else {"preview": stop}
    with pytest.raises(Cancelled, match="enough"):
        runtime.generate_to_file(path, PROMPT, steps=8, **options, **SIZE)
    left = ["out-preview-01.npy"] if where == "on_step" else []
    assert [each.name for each in tmp_path.iterdir()] == left
    assert runtime.generate(PROMPT, steps=1, **SIZE).frames is not None


def test_drafts_are_planned_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost jumps of the result, never the deadline; where there is no time for them, there are none."""
    machine = Machine(monkeypatch)
    runtime.generate(PROMPT, steps=1, **SIZE)
    plain = runtime.generate(PROMPT, budget=0.25, **SIZE)
    drafted = runtime.generate(PROMPT, budget=0.25, preview=True, **SIZE)
    assert drafted.budget is not None and drafted.budget.met
    assert [each.steps for each in drafted.previews] == [1, 4]
    cost = 2 * (JUMP + DECODE) / JUMP
    assert len(plain.plan) - cost - 1 <= len(drafted.plan) <= len(plain.plan) - cost + 1
    assert [decision.why for decision in drafted.decisions].count(controller.PREVIEW) == 2
    same = runtime.generate(PROMPT, budget=9.0, steps=len(drafted.plan), **SIZE)
    assert same.plan == drafted.plan and np.array_equal(same.latents, drafted.latents)
    short = runtime.generate(PROMPT, budget=0.06, min_steps=2, preview=True, **SIZE)
    assert short.budget is not None and short.budget.met and short.previews == ()
    assert machine.jumps > 0


def test_slow_callbacks_are_planned_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost jumps, not the deadline, and are no part of what the machine is said to take."""
    machine = Machine(monkeypatch)

    def wait(told: Any) -> None:
        machine.now += 0.3

    for _ in range(2):
        stepped = runtime.generate(PROMPT, budget=3.0, on_step=wait, **SIZE)
        assert stepped.budget is not None and stepped.budget.met and len(stepped.plan) == 9
    shown = runtime.generate(PROMPT, budget=1.0, preview=wait, **SIZE)
    assert shown.budget is not None and shown.budget.met
    plain = runtime.generate(PROMPT, budget=0.2, **SIZE)
    assert plain.budget is not None and plain.budget.met and len(plain.plan) > 12
    history = runtime.latencies.store().load().history(Setting("onnxruntime", "fp32", 5, 32, 48))
    assert max(history.seconds("jump")) < 2 * JUMP


def test_the_first_decoding_may_be_a_drafts(runtime: Runtime) -> None:
    """The decoder is then warm for the result, and is not recorded as a first call again."""
    runtime.generate(PROMPT, steps=3, preview=True, **SIZE)
    runtime.generate(PROMPT, steps=3, preview=True, **SIZE)
    history = runtime.latencies.store().load().history(Setting("onnxruntime", "fp32", 5, 32, 48))
    (_, first) = history.first
    assert first.decode is not None
    assert len(history.seconds("decode")) == 20 + 2
