"""Sizes that cannot fit are refused before any work, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.bundles import random_bundle

import anyflow_rt
from anyflow_rt import memory
from anyflow_rt.engines.architecture import (
    Architecture,
    SchedulerConfig,
    TextEncoderConfig,
    TransformerConfig,
    VaeConfig,
)
from anyflow_rt.engines.geometry import VideoSize
from anyflow_rt.errors import UsageError
from anyflow_rt.memory import available_memory
from anyflow_rt.working_memory import check_memory, working_memory

WAN = Architecture(
    "AnyFlowPipeline",
    TransformerConfig(num_attention_heads=12, num_layers=30, ffn_dim=8960),
    VaeConfig(latents_mean=(0.0,) * 16, latents_std=(1.0,) * 16),
    TextEncoderConfig(vocab_size=10, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64),
    SchedulerConfig(shift=5.0),
)
OPENVINO = {"engine": "openvino", "precision": "fp32"}
USUAL = VideoSize(81, 480, 832)


def test_what_a_machine_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = available_memory()
    assert here is None or 0 <= here < 1 << 50
    monkeypatch.setattr(memory, "_machine", lambda: iter([10**9]))
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([]))
    assert available_memory() == 10**9
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([3 * 10**9, 10**6]))
    assert available_memory() == 10**6
    monkeypatch.setattr(memory, "_machine", lambda: iter([]))
    monkeypatch.setattr(memory, "_control_groups", lambda: iter([]))
    assert available_memory() is None


def test_a_control_groups_limit(tmp_path: Path) -> None:
    """Limit less use, but for the file cache that the system gives up first; "max" is no limit."""
    names = ("memory.max", "memory.current", "inactive_file")
    for limit, left in (("1000", [500]), ("max", []), (str(1 << 62), [])):
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("700\n")
        (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 200\n")
        assert list(memory._left(tmp_path, *names)) == left
    assert list(memory._left(tmp_path / "none", *names)) == []


def test_estimates_grow_with_what_they_are_of() -> None:
    usual = working_memory(WAN, USUAL, 1, **OPENVINO, output="file")
    assert 2e9 < usual < 40e9
    assert working_memory(WAN, USUAL, 2, **OPENVINO, output="file") > 1.8 * usual
    assert working_memory(WAN, USUAL, 1, **OPENVINO, output="frames") > usual + 81 * 480 * 832 * 3
    assert working_memory(WAN, USUAL, 1, **OPENVINO, output="latents") < usual
    longer = working_memory(WAN, VideoSize(161, 480, 832), 1, **OPENVINO, output="file")
    assert longer < 1.2 * usual, "the decoder is streamed"
    # ONNX Runtime writes out the scores of every head: 12 x 32,760^2 float32.
    scores = working_memory(WAN, USUAL, 1, engine="onnxruntime", precision="fp32", output="latents")
    assert scores > 12 * 32760**2 * 4


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyflow_rt.working_memory.available_memory", lambda: 64 * 10**9)
    check_memory(WAN, USUAL, 1, **OPENVINO, output="frames")
    with pytest.raises(UsageError, match=r"^1 video of 4001 frames, height 16384, width 832 needs at least \d+\.\d GB"):
        check_memory(WAN, VideoSize(4001, 16384, 832), 1, **OPENVINO, output="file")
    with pytest.raises(UsageError, match=r"^4096 videos .* and 64\.0 GB is available; make smaller, shorter or fewer"):
        check_memory(WAN, USUAL, 4096, **OPENVINO, output="file")
    monkeypatch.setattr("anyflow_rt.working_memory.available_memory", lambda: None)
    check_memory(WAN, VideoSize(4001, 16384, 832), 1, **OPENVINO, output="frames")


def test_a_run_is_refused_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyflow_rt.working_memory.available_memory", lambda: 10**5)
    with anyflow_rt.load(random_bundle("base").path, engine="onnxruntime", precision="fp32") as runtime:
        for call in (
            lambda **size: runtime.generate("a circle", **size),
            lambda **size: runtime.generate_to_file(tmp_path / "out.mp4", "a circle", **size),
        ):
            with pytest.raises(UsageError, match=r"height 96, width 64 needs at least .* available"):
                call(height=96, width=64, num_frames=17)
    assert not list(tmp_path.iterdir())
