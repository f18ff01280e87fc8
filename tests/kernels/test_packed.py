"""Kernels compiled elsewhere: found by what they were made of, handed their arguments in order, launched on a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.kernels import DEVICE, KERNEL, Memory, assert_close, tensors

from anyflow_rt.engines import triton_build
from anyflow_rt.kernels import aot
from anyflow_rt.kernels.aot import CompiledKernel, compile_launch, launch_key
from anyflow_rt.kernels.entry import Parameter
from anyflow_rt.kernels.flow_map_update.reference import flow_map_update_reference
from anyflow_rt.kernels.flow_map_update.triton import FLOW_MAP_UPDATE, flow_map_update, plan_flow_map_update
from anyflow_rt.kernels.launch import LAUNCHERS, Launch, is_recording, recording, target_of
from anyflow_rt.kernels.package import INTERPRETED
from anyflow_rt.kernels.packed import KernelPack, entry_arguments

SHAPE = (1, 2, 4, 4, 6)


def inputs(memory: Memory) -> tuple[torch.Tensor, ...]:
    return (
        memory.tensor(tensors(1, 12, 16, dtype=torch.bfloat16)),
        memory.tensor(tensors(*SHAPE, seed=1)),
        memory.tensor(torch.tensor([[0.0, 0.5]])),
    )


@pytest.fixture(autouse=True)
def source(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interpreted function has no digest of its source; any text will do for one."""
    if INTERPRETED:
        monkeypatch.setattr(FLOW_MAP_UPDATE.function, "cache_key", "source", raising=False)


def described(launch: Launch, target: int) -> CompiledKernel:
    """A kernel that says it was compiled of ``launch``; its code is none."""
    return replace(
        KERNEL,
        op=launch.kernel.op,
        target=target,
        key=launch_key(launch, target),
        grid=launch.kernel.grid,
        parameters=(Parameter("state", "*fp32"), Parameter("frames", "i32")),
    )


def test_the_builders_targets_are_those_of_the_kernels() -> None:
    assert tuple(f"sm_{target}" for target in aot.TARGETS) == triton_build.TARGETS


def test_launches_are_recorded_and_nothing_runs(memory: Memory) -> None:
    with recording(90) as noted:
        assert is_recording()
        updated, _ = flow_map_update(*inputs(memory))
    assert not is_recording()
    assert bool(updated.isnan().all()), "no kernel wrote it"
    (launch,) = noted.launches
    assert launch.grid == plan_flow_map_update(*inputs(memory), target=90).grid


def test_a_pack_finds_launches_by_what_they_are_made_of(memory: Memory, tmp_path: Path) -> None:
    launch = plan_flow_map_update(*inputs(memory), target=89)
    described(launch, 89).save(tmp_path)
    pack = KernelPack(tmp_path, 89)
    found = pack.find(plan_flow_map_update(*inputs(memory), target=89))
    assert found is not None and found.key == launch_key(launch, 89)
    tokens, state, interval = inputs(memory)
    others = [
        plan_flow_map_update(tokens.float(), state, interval, target=89),
        plan_flow_map_update(tokens, state, interval, cast=torch.float16, target=89),
        replace(launch, constants={**launch.constants, "BLOCK": 1}),
        replace(launch, warps=8),
    ]
    assert not any(pack.find(other) for other in others)
    assert KernelPack(tmp_path, 90).kernels == KernelPack(tmp_path / "none", 89).kernels == {}
    pack.install()
    assert len(LAUNCHERS) == 1
    pack.remove()
    assert LAUNCHERS == []


def test_arguments_are_in_the_entrys_order_with_null_pointers_behind(memory: Memory) -> None:
    launch = plan_flow_map_update(*inputs(memory), target=89)
    values = entry_arguments(described(launch, 89), launch.arguments)
    assert [value.value for value in values] == [launch.tensors["state"].data_ptr(), 2, 0, 0]


def test_a_launcher_is_asked_while_the_tensors_device_is_the_current_one(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    current: list[torch.device] = []
    asked: list[tuple[torch.device, list[torch.device]]] = []

    @contextlib.contextmanager
    def on(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.remove(device)

    def launcher(launch: Launch, device: torch.device) -> bool:
        asked.append((device, list(current)))
        return True

    arguments = inputs(memory)
    monkeypatch.setattr("anyflow_rt.kernels.launch._on", on)
    monkeypatch.setattr("anyflow_rt.kernels.launch.LAUNCHERS", [launcher])
    flow_map_update(*arguments)
    assert asked == [(arguments[0].device, [arguments[0].device])] and current == []


@pytest.mark.skipif(INTERPRETED, reason="launches a compiled kernel: pytest -m gpu")
def test_a_compiled_kernel_is_launched_from_its_folder(memory: Memory, tmp_path: Path) -> None:
    arguments = inputs(memory)
    assert arguments[0].device.type == DEVICE
    target = target_of(arguments[0])
    compile_launch(plan_flow_map_update(*arguments), target, tmp_path)
    pack = KernelPack(tmp_path, target)
    pack.install()
    try:
        updated, _ = flow_map_update(*arguments)
    finally:
        pack.remove()
    assert len(pack._loaded) == 1
    assert_close(updated, flow_map_update_reference(*arguments))
