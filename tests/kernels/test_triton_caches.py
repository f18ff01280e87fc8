"""The memory of a causal denoiser's caches: kept from run to run, and refused in words where there is too little."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from anyflow_rt.engines import triton_caches
from anyflow_rt.engines.triton_caches import Caches, cache_bytes, check_room
from anyflow_rt.errors import EngineError
from anyflow_rt.kernels import package

RELEASED = 30, 1, 12, 14432, 128
"""A cache of the released 1.3B at 480x832x81."""


def test_caches_are_kept_for_a_run_of_the_same_shape() -> None:
    replaced: list[int] = []
    caches = Caches(torch.float32, torch.device("cpu"), lambda: replaced.append(1))
    first = caches.take(2, (3, 1, 2, 5, 4))
    assert [tuple(key.shape) for key, _ in first] == [(3, 1, 2, 8, 4)] * 2
    again = caches.take(1, (3, 1, 2, 8, 4))
    assert again[0][0] is first[0][0] and len(replaced) == 1
    assert caches.take(1, (3, 1, 2, 9, 4))[0][0].shape[3] == 16 and len(replaced) == 2


def test_caches_that_the_gpu_has_no_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced: list[int] = []
    caches, empty = Caches(torch.bfloat16, torch.device("cpu"), lambda: replaced.append(1)), torch.empty
    caches.take(1, (3, 1, 2, 8, 4))

    def full(*arguments: Any, **options: Any) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.27 GiB.\n More")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(EngineError, match=r"take 5\.3 GB .* no room for them \(CUDA out .*--guidance-scale 1"):
        caches.take(2, RELEASED)
    assert not caches._taken and len(replaced) == 3
    monkeypatch.setattr(torch, "empty", empty)
    assert len(caches.take(2, (3, 1, 2, 8, 4))) == 2


def test_caches_are_held_against_what_the_gpu_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the denoiser's weights, which its file has."""
    file, total = tmp_path / "denoiser.safetensors", 24 * 10**9
    file.write_bytes(bytes(1000))
    needed = cache_bytes(1, RELEASED, torch.bfloat16)
    monkeypatch.setattr(triton_caches, "gpu_memory", lambda: (needed + 1000, total))
    check_room(file, 1, RELEASED, "bf16")
    with pytest.raises(EngineError, match=r"take 5\.3 GB .* beside the denoiser 2\.7 of 24\.0 .*--guidance-scale 1"):
        check_room(file, 2, RELEASED, "bf16")
    with pytest.raises(EngineError, match=r"take 5\.3 GB .*\(--num-frames\), .* --width\) or fewer at once, or"):
        check_room(file, 1, RELEASED, "fp32")
    monkeypatch.setattr(triton_caches, "gpu_memory", lambda: (needed + 999, total))
    with pytest.raises(EngineError, match="take 2"):
        check_room(file, 1, RELEASED, "bf16")


def test_memory_of_a_gpu_is_what_is_free_and_what_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 24))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 3)
    monkeypatch.setattr(package, "INTERPRETED", True)
    assert triton_caches.gpu_memory() is None
    monkeypatch.setattr(package, "INTERPRETED", False)
    assert triton_caches.gpu_memory() == (8, 24)
